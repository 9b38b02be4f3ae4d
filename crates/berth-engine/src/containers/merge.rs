//! An image's configuration below a container's own.

use std::collections::BTreeSet;

use berth_api::container::{ContainerConfig, HealthConfig};
use berth_api::json::List;

/// Fills in what `own` leaves open from `image`, by Docker's rules.
pub(crate) fn below(own: &mut ContainerConfig, image: &ContainerConfig) {
    inherit_text(&mut own.user, &image.user);
    inherit_text(&mut own.working_dir, &image.working_dir);
    inherit_text(&mut own.stop_signal, &image.stop_signal);
    for (port, value) in &*image.exposed_ports {
        own.exposed_ports.entry(port.clone()).or_insert(*value);
    }
    for (volume, value) in &*image.volumes {
        own.volumes.entry(volume.clone()).or_insert(*value);
    }
    for (label, value) in &*image.labels {
        own.labels.entry(label.clone()).or_insert_with(|| value.clone());
    }
    inherit_env(&mut own.env, &image.env);
    inherit_command(own, image);
    match (&mut own.healthcheck, &image.healthcheck) {
        (None, Some(image)) => own.healthcheck = Some(image.clone()),
        (Some(own), Some(image)) => inherit_healthcheck(own, image),
        (_, None) => {}
    }
    if own.on_build.is_null() {
        own.on_build = image.on_build.clone();
    }
    if own.shell.is_empty() {
        own.shell = image.shell.clone();
    }
}

fn inherit_text(own: &mut String, image: &str) {
    if own.is_empty() {
        image.clone_into(own);
    }
}

fn inherit_env(own: &mut List<String>, image: &List<String>) {
    let known: BTreeSet<String> = own.iter().map(|pair| key(pair).to_owned()).collect();
    for pair in &**image {
        if !known.contains(key(pair)) {
            own.push(pair.clone());
        }
    }
}

fn key(pair: &str) -> &str {
    pair.split_once('=').map_or(pair, |(key, _)| key)
}

/// An entrypoint of one's own drops the image's command; `--entrypoint ""` comes as `[""]` and drops
/// both.
fn inherit_command(own: &mut ContainerConfig, image: &ContainerConfig) {
    if own.entrypoint.is_empty() {
        if own.cmd.is_empty() {
            own.cmd = image.cmd.clone();
            own.args_escaped = image.args_escaped;
        }
        if own.entrypoint.is_null() {
            own.entrypoint = image.entrypoint.clone();
        }
    } else if own.entrypoint.iter().all(String::is_empty) && own.entrypoint.len() == 1 {
        own.entrypoint = berth_api::StrSlice::default();
    }
}

fn inherit_healthcheck(own: &mut HealthConfig, image: &HealthConfig) {
    if own.test.is_empty() {
        own.test = image.test.clone();
    }
    let times = [
        (&mut own.interval, image.interval),
        (&mut own.timeout, image.timeout),
        (&mut own.start_period, image.start_period),
        (&mut own.start_interval, image.start_interval),
        (&mut own.retries, image.retries),
    ];
    for (own, image) in times {
        if *own == 0 {
            *own = image;
        }
    }
}

/// The program and its arguments.
pub(crate) fn command(config: &ContainerConfig) -> Option<(String, Vec<String>)> {
    let mut words = config.entrypoint.iter().chain(config.cmd.iter()).cloned();
    let path = words.next()?;
    Some((path, words.collect()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_api::json::StrSlice;

    fn words(words: &[&str]) -> StrSlice {
        StrSlice::from(words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn commands() {
        type Words = Option<&'static [&'static str]>;
        #[rustfmt::skip]
        let table: &[(Words, Words, &[&str])] = &[
            // own entrypoint  own command     what runs
            (None,             None,           &["e", "c"]),
            (None,             Some(&["x"]),   &["e", "x"]),
            (Some(&["y"]),     None,           &["y"]),
            (Some(&["y"]),     Some(&["x"]),   &["y", "x"]),
            (Some(&[""]),      Some(&["x"]),   &["x"]),
            (Some(&[""]),      None,           &[]),
        ];
        let image = ContainerConfig {
            entrypoint: words(&["e"]),
            cmd: words(&["c"]),
            ..ContainerConfig::default()
        };
        for (entrypoint, cmd, expected) in table {
            let mut own = ContainerConfig {
                entrypoint: entrypoint.map(words).unwrap_or_default(),
                cmd: cmd.map(words).unwrap_or_default(),
                ..ContainerConfig::default()
            };
            below(&mut own, &image);
            let got: Vec<String> = command(&own)
                .map(|(path, args)| std::iter::once(path).chain(args).collect())
                .unwrap_or_default();
            assert_eq!(got, *expected, "{entrypoint:?} {cmd:?}");
        }
    }

    #[test]
    fn the_image_s_environment_follows_the_container_s_own() {
        let list =
            |pairs: &[&str]| List::from(pairs.iter().map(|p| (*p).to_owned()).collect::<Vec<_>>());
        let image = ContainerConfig { env: list(&["PATH=/bin", "A=image"]), ..Default::default() };
        let mut own = ContainerConfig { env: list(&["A=own", "B"]), ..Default::default() };
        below(&mut own, &image);
        assert_eq!(own.env, list(&["A=own", "B", "PATH=/bin"]));
    }
}

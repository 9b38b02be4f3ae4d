//! The environment of a container's processes.

use berth_api::container::ContainerConfig;

const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Docker's own variables with the container's over them.
pub(super) fn of_container(
    config: &ContainerConfig,
    hostname: &str,
    links: &[String],
) -> Vec<String> {
    let mut env = vec![PATH.to_owned(), format!("HOSTNAME={hostname}")];
    if config.tty {
        env.push("TERM=xterm".to_owned());
    }
    env.extend_from_slice(links);
    merge(env, &config.env)
}

/// `over` replaces by name or appends; a name without `=` takes the variable away.
pub(crate) fn merge(mut env: Vec<String>, over: &[String]) -> Vec<String> {
    for var in over {
        let name = name_of(var);
        let at = env.iter().position(|old| name_of(old) == name);
        match (at, var.contains('=')) {
            (Some(at), true) => env[at].clone_from(var),
            (None, true) => env.push(var.clone()),
            (Some(at), false) => drop(env.remove(at)),
            (None, false) => {}
        }
    }
    env
}

/// Sets `HOME` where it is missing or empty, as runtimes do.
pub(crate) fn set_home(env: &mut Vec<String>, home: &str) {
    if env.iter().any(|var| var.strip_prefix("HOME=").is_some_and(|value| !value.is_empty())) {
        return;
    }
    env.retain(|var| name_of(var) != "HOME");
    env.push(format!("HOME={home}"));
}

fn name_of(var: &str) -> &str {
    var.split_once('=').map_or(var, |(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(list: &[&str]) -> Vec<String> {
        list.iter().map(|item| (*item).to_owned()).collect()
    }

    #[test]
    fn variables_are_replaced_appended_and_removed() {
        #[rustfmt::skip]
        let table: &[(&[&str], &[&str])] = &[
            (&[],                       &["A=1", "B=2"]),
            (&["A=9", "C=3"],           &["A=9", "B=2", "C=3"]),
            (&["A"],                    &["B=2"]),
            (&["NOPE", "B="],           &["A=1", "B="]),
            (&["A=x=y"],                &["A=x=y", "B=2"]),
            (&["C=1", "C=2"],           &["A=1", "B=2", "C=2"]),
        ];
        for (over, expected) in table {
            assert_eq!(merge(strings(&["A=1", "B=2"]), &strings(over)), strings(expected));
        }
    }

    #[test]
    fn home_comes_from_the_user_unless_it_is_set() {
        for (env, expected) in
            [("A=1", "HOME=/root"), ("HOME=/x", "HOME=/x"), ("HOME=", "HOME=/root")]
        {
            let mut env = strings(&[env]);
            set_home(&mut env, "/root");
            assert_eq!(env.last().unwrap(), expected);
        }
    }
}

//! The words after `cargo xtask vm run`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::USAGE;
use super::setup::{Cgroup, Disk, Setup, Terminal};

const MOST_BOOTS: u32 = 100;

pub(super) fn parse(args: &[String]) -> Result<Setup> {
    let end = args.iter().position(|word| word == "--").unwrap_or(args.len());
    let mut setup = flags(&args[..end])?;
    setup.command = args.get(end + 1..).unwrap_or_default().to_vec();
    if setup.command.is_empty() {
        bail!("vm run needs -- and a command\n{USAGE}");
    }
    Ok(setup)
}

pub(super) fn shell(args: &[String]) -> Result<Setup> {
    let mut setup = flags(args)?;
    if !args.iter().any(|word| word == "--limit") {
        // Somebody sits before it.
        setup.limit = Duration::from_hours(12);
    }
    setup.terminal = Some(Terminal::of_this_process()?);
    setup.command = vec!["bash".to_owned(), "-i".to_owned()];
    Ok(setup)
}

fn flags(args: &[String]) -> Result<Setup> {
    let mut setup = Setup::new()?;
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let value = args.next().with_context(|| format!("{arg} needs a value\n{USAGE}"))?;
        match arg.as_str() {
            "--disk" => setup.disks.push(disk(value)?),
            "--record" => setup.disks.push(recorded(value)?),
            "--limit" => setup.limit = Duration::from_secs(value.parse().context("--limit")?),
            "--boots" => setup.boots = boots(value)?,
            "--memory" => setup.memory_mib = value.parse().context("--memory")?,
            "--cgroup" => setup.cgroup = cgroup(value)?,
            "--kernel" => setup.kernel = Some(absolute(value)?),
            "--share" => setup.share = Some(absolute(value)?),
            "--console" => setup.console = Some(PathBuf::from(value)),
            "--env" => {
                let (name, value) = value.split_once('=').context("--env takes NAME=VALUE")?;
                setup.env.push((name.to_owned(), value.to_owned()));
            }
            _ => bail!("{arg} is unknown\n{USAGE}"),
        }
    }
    if setup.boots > 1 && setup.disks.iter().any(|disk| matches!(disk, Disk::Recorded { .. })) {
        bail!("a disk that is recorded has one boot: --record and --boots exclude each other");
    }
    Ok(setup)
}

fn boots(value: &str) -> Result<u32> {
    let boots = value.parse().ok().filter(|boots| (1..=MOST_BOOTS).contains(boots));
    boots.with_context(|| format!("--boots takes 1 to {MOST_BOOTS}, not {value:?}"))
}

fn cgroup(value: &str) -> Result<Cgroup> {
    match value {
        "v1" => Ok(Cgroup::V1),
        "v2" => Ok(Cgroup::V2),
        _ => bail!("--cgroup takes v1 or v2, not {value:?}"),
    }
}

/// A size, or else the name of a file.
fn disk(value: &str) -> Result<Disk> {
    match size(value) {
        Some(bytes) => Ok(Disk::Empty { bytes }),
        None => Ok(Disk::File(absolute(value)?)),
    }
}

fn recorded(value: &str) -> Result<Disk> {
    let parts = value.split_once('=').and_then(|(bytes, log)| Some((size(bytes)?, log)));
    let (bytes, log) = parts.with_context(|| format!("--record takes SIZE=LOG, not {value:?}"))?;
    Ok(Disk::Recorded { bytes, log: std::path::absolute(log)? })
}

fn size(value: &str) -> Option<u64> {
    let unit = match value.chars().last()? {
        'M' => 1 << 20,
        'G' => 1 << 30,
        _ => return None,
    };
    value[..value.len() - 1].parse::<u64>().ok()?.checked_mul(unit)
}

fn absolute(value: &str) -> Result<PathBuf> {
    Path::new(value).canonicalize().with_context(|| format!("cannot find {value}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_told_from_files() {
        #[rustfmt::skip]
        let table = [
            ("2G",      Some(2 << 30)),
            ("512M",    Some(512 << 20)),
            ("G",       None),
            ("1.5G",    None),
            ("disk",    None),
            ("/x/2G",   None),
            ("",        None),
        ];
        for (value, bytes) in table {
            assert_eq!(size(value), bytes, "{value:?}");
        }
    }

    #[test]
    fn the_command_stands_behind_two_dashes() {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let setup = parse(&words(
            "--limit 5 --boots 3 --kernel /bin/../bin --env A=b=c --disk 1G -- sh -c x --limit",
        ))
        .unwrap();
        assert_eq!(setup.boots, 3);
        assert_eq!(setup.limit, Duration::from_secs(5));
        assert_eq!(setup.command, words("sh -c x --limit"));
        assert_eq!(setup.kernel, Some(Path::new("/bin").canonicalize().unwrap()));
        assert_eq!(setup.env, [("A".to_owned(), "b=c".to_owned())]);
        assert_eq!(setup.disks, [Disk::Empty { bytes: 1 << 30 }]);
        for wrong in [
            "--limit 5",
            "--limit",
            "--",
            "--cgroup v3 -- true",
            "--kernel /no/such -- true",
            "--record 9 -- true",
            "--boots 0 -- true",
            "--boots 101 -- true",
            "--boots 2 --record 1G=log -- true",
        ] {
            assert!(parse(&words(wrong)).is_err(), "{wrong}");
        }
    }
}

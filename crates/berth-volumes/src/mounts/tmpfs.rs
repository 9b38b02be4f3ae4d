//! The options of memory mounts.

use berth_api::container::TmpfsOptions;

use super::MountError;
use super::error::Cause;

const DEFAULTS: [&str; 4] = ["noexec", "nosuid", "nodev", "rprivate"];
/// The `key=value` options that tmpfs takes.
const DATA: [&str; 7] = ["size", "mode", "uid", "gid", "nr_inodes", "nr_blocks", "mpol"];

/// The mount options of one entry of `HostConfig.Tmpfs` (`--tmpfs /t:OPTIONS`): Docker's defaults
/// and then the given ones; of those that contradict each other the later wins.
pub fn tmpfs_flag_options(options: &str) -> Result<Vec<String>, MountError> {
    let mut all: Vec<&str> = DEFAULTS.to_vec();
    if !options.is_empty() {
        all.extend(options.split(','));
    }
    merge(&all)
}

/// The mount options of `--mount type=tmpfs`.
pub(super) fn mount_options(
    options: Option<&TmpfsOptions>,
    read_only: bool,
) -> Result<Vec<String>, Cause> {
    let mut given: Vec<String> = DEFAULTS.iter().map(|&word| word.to_owned()).collect();
    if read_only {
        given.push("ro".to_owned());
    }
    if let Some(options) = options {
        if options.mode != 0 {
            given.push(format!("mode={:o}", options.mode));
        }
        if options.size_bytes != 0 {
            given.push(format!("size={}", size(options.size_bytes)));
        }
        for option in &options.options {
            match option.as_slice() {
                [flag] if flag == "exec" || flag == "noexec" => given.push(flag.clone()),
                other => return Err(Cause::TmpfsOption { option: other.join("=") }),
            }
        }
    }
    let all: Vec<&str> = given.iter().map(String::as_str).collect();
    merge(&all).or(Err(Cause::UnknownType))
}

/// With the largest unit that divides it.
fn size(bytes: i64) -> String {
    let units = [(1 << 30, "g"), (1 << 20, "m"), (1 << 10, "k")];
    match units.into_iter().find(|(unit, _)| bytes % unit == 0) {
        Some((unit, letter)) => format!("{}{letter}", bytes / unit),
        None => bytes.to_string(),
    }
}

fn merge(options: &[&str]) -> Result<Vec<String>, MountError> {
    let mut seen: Vec<&str> = Vec::new();
    let mut kept = Vec::new();
    for &option in options.iter().rev() {
        if option == "defaults" {
            continue;
        }
        let class = match flag_class(option) {
            Some(class) => class,
            None => data_class(option)?,
        };
        if !seen.contains(&class) {
            seen.push(class);
            kept.push(option.to_owned());
        }
    }
    kept.reverse();
    Ok(kept)
}

/// Flags of one class contradict each other.
fn flag_class(option: &str) -> Option<&'static str> {
    Some(match option {
        "ro" | "rw" => "ro",
        "suid" | "nosuid" => "nosuid",
        "dev" | "nodev" => "nodev",
        "exec" | "noexec" => "noexec",
        "sync" | "async" => "sync",
        "dirsync" => "dirsync",
        "mand" | "nomand" => "mand",
        "atime" | "noatime" => "noatime",
        "diratime" | "nodiratime" => "nodiratime",
        "relatime" | "norelatime" => "relatime",
        "strictatime" | "nostrictatime" => "strictatime",
        "private" | "rprivate" | "slave" | "rslave" | "shared" | "rshared" | "unbindable"
        | "runbindable" => "propagation",
        _ => return None,
    })
}

fn data_class(option: &str) -> Result<&'static str, MountError> {
    let refused = || {
        let parts: Vec<String> = option.splitn(2, '=').map(|part| format!("{part:?}")).collect();
        MountError::Tmpfs { option: format!("[{}]", parts.join(" ")) }
    };
    let (key, _) = option.split_once('=').ok_or_else(refused)?;
    DATA.into_iter().find(|known| *known == key).ok_or_else(refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flag_options_are_merged_as_docker_merges_them() {
        #[rustfmt::skip]
        let table = [
            ("",                    Ok("noexec,nosuid,nodev,rprivate")),
            ("exec",                Ok("nosuid,nodev,rprivate,exec")),
            ("size=1m,size=2m",     Ok("noexec,nosuid,nodev,rprivate,size=2m")),
            ("rw,noexec,mode=1777", Ok("nosuid,nodev,rprivate,rw,noexec,mode=1777")),
            ("foo=bar",             Err("invalid tmpfs option [\"foo\" \"bar\"]")),
            ("foo",                 Err("invalid tmpfs option [\"foo\"]")),
            ("size=1m,",            Err("invalid tmpfs option [\"\"]")),
        ];
        for (given, expected) in table {
            let got = tmpfs_flag_options(given).map(|list| list.join(","));
            let got = got.map_err(|error| error.to_string());
            assert_eq!(got, expected.map(str::to_owned).map_err(str::to_owned), "{given:?}");
        }
    }

    #[test]
    fn sizes_use_the_largest_unit_that_divides_them() {
        let table = [(1 << 30, "1g"), (3 << 20, "3m"), (2048, "2k"), (1000, "1000")];
        for (bytes, text) in table {
            assert_eq!(size(bytes), text);
        }
    }
}

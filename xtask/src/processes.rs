//! What runs on this machine and how much memory it takes, from `/proc`.

use std::path::Path;

/// A process.
#[derive(Debug, Clone)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    pub(crate) parent: u32,
    /// The program's name as the kernel keeps it, at most 15 bytes.
    pub(crate) name: String,
    pub(crate) arguments: Vec<String>,
}

impl Process {
    /// Whether it watches a container.
    pub(crate) fn is_watcher(&self) -> bool {
        self.name == "berth-shim" || self.name.starts_with("containerd-shim")
    }

    /// Its proportional share of memory, in KiB; `None` when it is gone.
    pub(crate) fn pss(&self) -> Option<u64> {
        let text = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", self.pid)).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
        line.trim().strip_suffix(" kB")?.trim().parse().ok()
    }
}

/// Every process, without those that end meanwhile.
pub(crate) fn all() -> Vec<Process> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let numbers = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    numbers.filter_map(read).collect()
}

/// The process with this number.
pub(crate) fn read(pid: u32) -> Option<Process> {
    let dir = Path::new("/proc").join(pid.to_string());
    let stat = std::fs::read_to_string(dir.join("stat")).ok()?;
    let (name, parent) = parse_stat(&stat)?;
    let arguments = std::fs::read(dir.join("cmdline")).ok()?;
    let arguments = String::from_utf8_lossy(&arguments);
    let arguments = arguments.split_terminator('\0').map(str::to_owned).collect();
    Some(Process { pid, parent, name: name.to_owned(), arguments })
}

/// The children of a process.
pub(crate) fn children(pid: u32) -> Vec<u32> {
    all().into_iter().filter(|process| process.parent == pid).map(|process| process.pid).collect()
}

/// Name and parent. The name stands in parentheses and may hold any byte.
fn parse_stat(stat: &str) -> Option<(&str, u32)> {
    let (head, tail) = stat.rsplit_once(')')?;
    let (_, name) = head.split_once('(')?;
    Some((name, tail.split_whitespace().nth(1)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_hold_anything() {
        assert_eq!(parse_stat("7 (sh) S 3 7 7"), Some(("sh", 3)));
        assert_eq!(parse_stat("7 (a) b) S 3 7 7"), Some(("a) b", 3)));
        assert_eq!(parse_stat("7 sh"), None);
    }

    #[test]
    fn this_process_is_found() {
        let own = read(std::process::id()).unwrap();
        assert!(own.arguments[0].contains("xtask"));
        assert!(own.pss().unwrap() > 0);
    }
}

//! What the machine is doing shortly before it is ended for having taken too long.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use crate::processes;

/// How long before its end a machine tells; what it says takes a while where it hangs.
const BEFORE_THE_END: Duration = Duration::from_secs(20);
/// So much of a thread's stack in the kernel.
const FRAMES: usize = 8;

/// Tells through `port`, should the machine still run when its limit is close.
pub(super) fn watch(limit: Duration, mut port: fs::File) {
    std::thread::spawn(move || {
        std::thread::sleep(limit.saturating_sub(BEFORE_THE_END));
        let text = format!("still running after {} s:\n{}", limit.as_secs(), threads());
        // Nobody is left to be told of an error.
        let _told = port.write_all(text.as_bytes());
    });
}

/// Each thread of each program: its name, its state, and where in the kernel it waits.
fn threads() -> String {
    let mut text = String::new();
    // Kernel threads have no arguments.
    for process in processes::all().iter().filter(|process| !process.arguments.is_empty()) {
        let words = process.arguments.join(" ");
        let words: String = words.chars().take(120).collect();
        let (pid, parent) = (process.pid, process.parent);
        let _written = writeln!(text, "{pid} (child of {parent}) {words}");
        for task in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
            let _written = writeln!(text, "    {}", thread(&task.path()));
        }
    }
    text
}

fn thread(dir: &Path) -> String {
    let read = |name: &str| fs::read_to_string(dir.join(name)).unwrap_or_default();
    let stack = read("stack");
    let frames = stack.lines().filter_map(|line| line.split(' ').nth(1)).take(FRAMES);
    let frames = frames.collect::<Vec<_>>().join(" < ");
    let stat = read("stat");
    let state = stat.rsplit(')').next().and_then(|rest| rest.split(' ').nth(1)).unwrap_or("?");
    format!("{} {state} {frames}", read("comm").trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_program_is_told_of_with_its_threads() {
        let text = threads();
        let own =
            format!("{} (child of {}) ", std::process::id(), std::os::unix::process::parent_id());
        let (_, rest) = text.split_once(&own).expect("this process is listed");
        let mut lines = rest.lines();
        assert!(lines.next().unwrap().contains("xtask"));
        assert!(lines.next().unwrap().starts_with("    "), "its first thread");
    }
}

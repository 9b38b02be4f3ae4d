//! Named points that a crash test can stop a process at.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

struct Config {
    file: OsString,
    pause: Duration,
}

static CONFIG: OnceLock<Option<Config>> = OnceLock::new();

/// Says that the process has reached the point `name`, for example `load.staged`.
///
/// Does nothing unless the environment names a file in `BERTH_STEPS`: then the name and the
/// time (nanoseconds since 1970) are appended to it, and the thread sleeps for
/// `BERTH_STEPS_PAUSE_MS` so that a kill can fall exactly there.
pub fn reached(name: &str) {
    let config = CONFIG.get_or_init(|| {
        let file = std::env::var_os("BERTH_STEPS")?;
        let pause = std::env::var("BERTH_STEPS_PAUSE_MS").ok().and_then(|ms| ms.parse().ok());
        Some(Config { file, pause: Duration::from_millis(pause.unwrap_or(0)) })
    });
    let Some(config) = config else { return };
    if let Err(error) = note(Path::new(&config.file), name) {
        tracing::warn!(step = name, %error, "cannot note a step");
    }
    std::thread::sleep(config.pause);
}

fn note(file: &Path, name: &str) -> io::Result<()> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    // One write of one line: lines of several threads do not mix in append mode.
    let line = format!("{name} {now}\n");
    OpenOptions::new().append(true).create(true).open(file)?.write_all(line.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_noted_line_by_line() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("steps");
        note(&file, "load.staged").unwrap();
        note(&file, "load.renamed").unwrap();
        let text = std::fs::read_to_string(&file).unwrap();
        let names: Vec<_> = text.lines().map(|line| line.split(' ').next().unwrap()).collect();
        assert_eq!(names, ["load.staged", "load.renamed"]);
        reached("not.configured");
    }
}

//! Finding a container's program as Go's `exec.LookPath` does, with its words.
//!
//! Runs inside the container, as its user, right before the program is executed.

use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, FileType};
use rustix::io::Errno;

/// The program's path, or the text that runc prints.
pub(crate) fn look_path(name: &str, env: &[String]) -> Result<PathBuf, String> {
    if name.contains('/') {
        return match executable(Path::new(name)) {
            Ok(()) => Ok(PathBuf::from(name)),
            Err(why) => Err(format!("exec: {name:?}: {}", why.text(name))),
        };
    }
    let path = env.iter().rev().find_map(|pair| pair.strip_prefix("PATH=")).unwrap_or("");
    let dirs = path.split(':').filter(|_| !path.is_empty());
    for dir in dirs {
        let candidate = Path::new(if dir.is_empty() { "." } else { dir }).join(name);
        if executable(&candidate).is_ok() {
            return Ok(candidate);
        }
    }
    Err(format!("exec: {name:?}: executable file not found in $PATH"))
}

enum Why {
    Stat(Errno),
    Directory,
    Denied,
}

impl Why {
    fn text(&self, name: &str) -> String {
        match self {
            Self::Stat(errno) => format!("stat {name}: {}", go_text(*errno)),
            Self::Directory => "is a directory".to_owned(),
            Self::Denied => "permission denied".to_owned(),
        }
    }
}

fn executable(path: &Path) -> Result<(), Why> {
    let stat = rustix::fs::stat(path).map_err(Why::Stat)?;
    if FileType::from_raw_mode(stat.st_mode).is_dir() {
        return Err(Why::Directory);
    }
    // For root access(2) wants one executable bit, as execve(2) does.
    rustix::fs::accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS).or(Err(Why::Denied))
}

/// An error as Go prints it: the C library's words, in lower case.
pub(crate) fn go_text(errno: Errno) -> String {
    let text = std::io::Error::from(errno).to_string();
    let text = text.split(" (os error").next().unwrap_or(&text);
    let mut chars = text.chars();
    match chars.next() {
        Some(first) => first.to_lowercase().chain(chars).collect(),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File, Permissions};
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn programs_are_found_or_refused_in_runcs_words() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().to_str().unwrap();
        fs::create_dir_all(dir.path().join("bin/sub")).unwrap();
        for (name, mode) in [("bin/run", 0o755), ("bin/data", 0o644)] {
            File::create(dir.path().join(name)).unwrap();
            fs::set_permissions(dir.path().join(name), Permissions::from_mode(mode)).unwrap();
        }
        let env = [format!("PATH=/nonexistent:{root}/bin")];
        #[rustfmt::skip]
        let table = [
            ("run".to_owned(),            Ok(format!("{root}/bin/run"))),
            (format!("{root}/bin/run"),   Ok(format!("{root}/bin/run"))),
            ("data".to_owned(),           Err("exec: \"data\": executable file not found in $PATH".to_owned())),
            ("sub".to_owned(),            Err("exec: \"sub\": executable file not found in $PATH".to_owned())),
            (format!("{root}/bin/data"),  Err(format!("exec: \"{root}/bin/data\": permission denied"))),
            (format!("{root}/bin"),       Err(format!("exec: \"{root}/bin\": is a directory"))),
            (format!("{root}/x"),         Err(format!("exec: \"{root}/x\": stat {root}/x: no such file or directory"))),
            (format!("{root}/bin/run/x"), Err(format!("exec: \"{root}/bin/run/x\": stat {root}/bin/run/x: not a directory"))),
        ];
        for (name, expected) in table {
            assert_eq!(look_path(&name, &env), expected.map(PathBuf::from), "{name}");
        }
        let unset = look_path("run", &[]).unwrap_err();
        assert_eq!(unset, "exec: \"run\": executable file not found in $PATH");
    }
}

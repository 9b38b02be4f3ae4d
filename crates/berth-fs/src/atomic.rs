//! Writing a file so that a crash leaves the old content or the new, never a mixture.

use std::ffi::OsString;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Whether a write must survive a power cut before the call returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// The file and its directory are synced.
    Synced,
    /// The kernel writes it back when it likes; still atomic against a crash of the process.
    Unsynced,
}

/// What the names of unfinished files begin with; a leftover of a crash can be removed.
pub const TEMPORARY_PREFIX: &str = ".berth-tmp-";

/// Replaces `path` by a file of mode 0644 with this content, durably.
pub fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    write_with(path, content, 0o644, Durability::Synced)
}

/// Replaces `path` by a file with this content and exactly this mode.
pub fn write_with(
    path: &Path,
    content: &[u8],
    mode: u32,
    durability: Durability,
) -> io::Result<()> {
    let dir = parent(path);
    let (temporary, file) = create_temporary(dir)?;
    let result =
        fill(file, content, mode, durability).and_then(|()| std::fs::rename(&temporary, path));
    if let Err(error) = result {
        if let Err(cleanup) = std::fs::remove_file(&temporary) {
            tracing::warn!(path = %temporary.display(), error = %cleanup, "a temporary file stays");
        }
        return Err(error);
    }
    match durability {
        Durability::Synced => sync_dir(dir),
        Durability::Unsynced => Ok(()),
    }
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    }
}

fn create_temporary(dir: &Path) -> io::Result<(PathBuf, File)> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    loop {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = OsString::from(format!("{TEMPORARY_PREFIX}{}-{number}", std::process::id()));
        let path = dir.join(name);
        match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
            // A process of the same number died here.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            other => return Ok((path, other?)),
        }
    }
}

fn fill(mut file: File, content: &[u8], mode: u32, durability: Durability) -> io::Result<()> {
    file.write_all(content)?;
    file.set_permissions(std::fs::Permissions::from_mode(mode))?;
    if durability == Durability::Synced {
        file.sync_all()?;
    }
    Ok(())
}

/// Creates `path` and its missing parents with `mode`, and syncs each directory that got an entry.
///
/// A directory that is already there is fine and keeps its mode.
pub fn create_dir_durable(path: &Path, mode: u32) -> io::Result<()> {
    match DirBuilder::new().mode(mode).create(path) {
        Ok(()) => {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
            sync_dir(parent(path))
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            if std::fs::metadata(path)?.is_dir() { Ok(()) } else { Err(error) }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let dir = parent(path);
            if dir == path || dir == Path::new(".") {
                return Err(error);
            }
            create_dir_durable(dir, mode)?;
            create_dir_durable(path, mode)
        }
        Err(error) => Err(error),
    }
}

/// Makes the entries of a directory (creations, renames, removals) survive a power cut.
pub fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Renames and syncs both directories concerned.
pub fn rename_durable(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::rename(from, to)?;
    let (old, new) = (parent(from), parent(to));
    sync_dir(new)?;
    if old == new { Ok(()) } else { sync_dir(old) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_nothing_else_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("record");
        for (content, mode, durability) in [
            (&b"one"[..], 0o600, Durability::Synced),
            (b"two and more", 0o644, Durability::Unsynced),
            (b"", 0o400, Durability::Synced),
        ] {
            write_with(&path, content, mode, durability).unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), content);
            let got = std::fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(got & 0o7777, mode);
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_write_that_fails_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("taken");
        std::fs::create_dir(&path).unwrap();
        assert!(write(&path, b"x").is_err());
        assert!(write(&dir.path().join("missing/x"), b"x").is_err());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn missing_parents_are_created() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b/c");
        create_dir_durable(&path, 0o710).unwrap();
        create_dir_durable(&path, 0o755).unwrap();
        for dir in [dir.path().join("a"), path] {
            let mode = std::fs::metadata(dir).unwrap().permissions().mode();
            assert_eq!(mode & 0o7777, 0o710);
        }
        let file = dir.path().join("file");
        write(&file, b"x").unwrap();
        assert!(create_dir_durable(&file, 0o755).is_err());
    }
}

//! Sources of `ADD` and `COPY` that stand in the Dockerfile itself.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use berth_build::lines::Heredoc;
use rustix::fs::Mode;

use super::hash::{self, Origin};
use super::source::Found;
use crate::build::context::Context;
use crate::error::EngineError;

/// What they are before anybody asks for something else.
const MODE: u32 = 0o644;

/// Makes a file of each here-document, in a directory of its own that goes with it: two may have
/// the same name.
pub(super) fn write(tmp: &Path, heredocs: &[Heredoc]) -> Result<Vec<Found>, EngineError> {
    heredocs.iter().map(|heredoc| write_one(tmp, heredoc)).collect()
}

fn write_one(tmp: &Path, heredoc: &Heredoc) -> Result<Found, EngineError> {
    let dir = put(tmp, &heredoc.name, &heredoc.content, MODE)?;
    let path = PathBuf::from(&heredoc.name);
    let sum = hash::of_path(dir.root(), &path, Origin::Context)
        .map_err(EngineError::io("read", &path))?;
    let name = heredoc.name.clone();
    Ok(Found { path, name, sum, may_unpack: false, remote: Some(dir) })
}

/// A directory with one file.
pub(crate) fn put(
    tmp: &Path,
    name: &str,
    content: &str,
    mode: u32,
) -> Result<Arc<Context>, EngineError> {
    let dir = Context::new(tmp)?;
    let failed = EngineError::io("write", Path::new(name));
    let write = || {
        let mut file = dir.root().create_file(Path::new(name), mode)?;
        // The daemon's umask does not count.
        rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))?;
        file.write_all(content.as_bytes())
    };
    write().map_err(failed)?;
    Ok(Arc::new(dir))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn here_documents_become_files() {
        let tmp = tempfile::tempdir().unwrap();
        let heredoc = |content: &str| Heredoc {
            name: "E".to_owned(),
            expand: true,
            chomp: false,
            descriptor: String::new(),
            content: content.to_owned(),
        };
        let found = write(tmp.path(), &[heredoc("one\n"), heredoc("two\n")]).unwrap();
        let read = |found: &Found| {
            let root = found.remote.as_ref().unwrap().root();
            let stat = root.stat(Path::new("E"), berth_fs::root::Follow::No).unwrap();
            let text = std::io::read_to_string(root.open_file(Path::new("E")).unwrap()).unwrap();
            (text, stat.st_mode & 0o7777)
        };
        assert_eq!(read(&found[0]), ("one\n".to_owned(), 0o644));
        assert_eq!(read(&found[1]), ("two\n".to_owned(), 0o644));
        assert_ne!(found[0].sum, found[1].sum);
        drop(found);
        assert_eq!(std::fs::read_dir(tmp.path()).unwrap().count(), 0);
    }
}

//! The sources of `ADD` and `COPY`: which files they name, and their sums.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use berth_build::glob;
use berth_fs::root::{Follow, Root};
use rustix::fs::FileType;
use rustix::io::Errno;

use super::hash::{self, Origin};
use crate::build::context::Context;
use crate::build::error::SourceError;

/// One file or directory to be copied.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    /// Where it is, without links, relative to the root; empty for the root itself.
    pub(crate) path: PathBuf,
    /// The last part of the name it was asked for by.
    pub(crate) name: String,
    /// `file:…` or `dir:…`.
    pub(crate) sum: String,
    /// Whether `ADD` may unpack it.
    pub(crate) may_unpack: bool,
    /// Where it is, when it was fetched from elsewhere.
    pub(crate) remote: Option<Arc<Context>>,
}

/// What `pattern` names.
pub(crate) fn find(
    root: &Root,
    pattern: &str,
    origin: Origin<'_>,
) -> Result<Vec<Found>, SourceError> {
    let pattern = pattern.strip_prefix('/').unwrap_or(pattern);
    let pattern = pattern.strip_prefix("./").unwrap_or(pattern);
    if !has_wildcards(pattern) {
        return Ok(vec![one(root, pattern, origin)?]);
    }
    let segments: Vec<&str> = pattern.split('/').collect();
    let mut paths = Vec::new();
    expand(root, Path::new(""), &segments, &mut paths)?;
    let found = paths.iter().map(|path| one(root, &path.to_string_lossy(), origin));
    found.collect()
}

/// `*`, `?` and `[`, unless a backslash stands before them.
fn has_wildcards(pattern: &str) -> bool {
    let mut escaped = false;
    pattern.chars().any(|c| {
        let is_wild = !escaped && matches!(c, '*' | '?' | '[');
        escaped = !escaped && c == '\\';
        is_wild
    })
}

/// Everything below `dir` that matches the segments, in the order of a walk.
fn expand(
    root: &Root,
    dir: &Path,
    segments: &[&str],
    out: &mut Vec<PathBuf>,
) -> Result<(), SourceError> {
    let Some((first, rest)) = segments.split_first() else { return Ok(()) };
    let read = |source| SourceError::Read { path: dir.display().to_string(), source };
    for name in hash::names(root, dir).map_err(read)? {
        let path = dir.join(OsStr::from_bytes(&name));
        // A pattern that is none matches nothing, as in Docker.
        if !glob::matches(first, &String::from_utf8_lossy(&name)).unwrap_or(false) {
            continue;
        }
        if rest.is_empty() {
            out.push(path);
            continue;
        }
        let stat = hash::look(root, &path).map_err(read)?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            expand(root, &path, rest, out)?;
        }
    }
    Ok(())
}

/// What one name means. Links are followed, inside the root.
pub(crate) fn one(root: &Root, name: &str, origin: Origin<'_>) -> Result<Found, SourceError> {
    let path = place(root, name, origin)?;
    match hash::of_path(root, &path, origin) {
        Ok(sum) => Ok(Found { path, name: base(name), sum, may_unpack: true, remote: None }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(missing(name, origin)),
        Err(source) => Err(SourceError::Read { path: name.to_owned(), source }),
    }
}

fn missing(name: &str, origin: Origin<'_>) -> SourceError {
    match origin {
        Origin::Context => SourceError::Missing { path: name.to_owned() },
        Origin::Image(_) => SourceError::MissingInImage { path: name.to_owned() },
    }
}

/// Where that is, without links, relative to the root.
pub(crate) fn place(root: &Root, name: &str, origin: Origin<'_>) -> Result<PathBuf, SourceError> {
    let outside = || SourceError::Outside { path: name.to_owned() };
    if climbs_out(name) {
        return Err(outside());
    }
    let resolved = root.resolve(&hash::inside(Path::new(name)), Follow::Yes).and_then(|path| {
        let path = path.strip_prefix("/").unwrap_or(&path).to_owned();
        hash::look(root, &path).map(|_there| path)
    });
    match resolved {
        Ok(path) => Ok(path),
        Err(error) if is(&error, Errno::NOTDIR) || is(&error, Errno::LOOP) => Err(outside()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(missing(name, origin)),
        Err(source) => Err(SourceError::Read { path: name.to_owned(), source }),
    }
}

fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno.raw_os_error())
}

/// Whether the name leads above the root, links aside.
pub(crate) fn climbs_out(name: &str) -> bool {
    let mut depth = 0_usize;
    for part in Path::new(name).components() {
        match part {
            Component::Normal(_) => depth += 1,
            Component::ParentDir if depth == 0 => return true,
            Component::ParentDir => depth -= 1,
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    false
}

/// Go's `filepath.Base`.
pub(crate) fn base(name: &str) -> String {
    let name = name.trim_end_matches('/');
    name.rsplit('/').next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// Paths and names, or the problem.
    type Expected = Result<&'static [(&'static str, &'static str)], &'static str>;

    #[test]
    fn names_lead_to_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        std::fs::create_dir_all(path("d/e")).unwrap();
        for name in ["a", "ab", "d/f", "d/e/g", "*"] {
            std::fs::File::create(path(name)).unwrap();
        }
        symlink("d", path("link")).unwrap();
        symlink("/etc/passwd", path("abs")).unwrap();
        symlink("../../d/f", path("up")).unwrap();
        symlink("loop", path("loop")).unwrap();
        let root = Root::open(dir.path()).unwrap();
        #[rustfmt::skip]
        let table: &[(&str, Expected)] = &[
            // pattern    paths and names
            ("a",         Ok(&[("a", "a")])),
            ("/a",        Ok(&[("a", "a")])),
            ("./d/",      Ok(&[("d", "d")])),
            (".",         Ok(&[("", ".")])),
            ("d/../a",    Ok(&[("a", "a")])),
            ("link/f",    Ok(&[("d/f", "f")])),
            ("up",        Ok(&[("d/f", "up")])),
            ("a?",        Ok(&[("ab", "ab")])),
            ("d/*",       Ok(&[("d/e", "e"), ("d/f", "f")])),
            ("*/*",       Ok(&[("d/e", "e"), ("d/f", "f")])),
            (r"\*",       Err(r"file not found in build context or excluded by .dockerignore: stat \*: file does not exist")),
            ("[a]b",      Ok(&[("ab", "ab")])),
            ("x*",        Ok(&[])),
            ("../a",      Err("forbidden path outside the build context: ../a ()")),
            ("d/../../a", Err("forbidden path outside the build context: d/../../a ()")),
            ("a/b",       Err("forbidden path outside the build context: a/b ()")),
            ("loop",      Err("forbidden path outside the build context: loop ()")),
            ("abs",       Err("file not found in build context or excluded by .dockerignore: stat abs: file does not exist")),
            ("no/no",     Err("file not found in build context or excluded by .dockerignore: stat no/no: file does not exist")),
            ("[",         Ok(&[])),
        ];
        for (pattern, expected) in table {
            let got = find(&root, pattern, Origin::Context).map(|found| {
                let pair = |f: Found| (f.path.to_string_lossy().into_owned(), f.name);
                found.into_iter().map(pair).collect::<Vec<_>>()
            });
            let owned = |pairs: &[(&str, &str)]| {
                pairs.iter().map(|(p, n)| ((*p).to_owned(), (*n).to_owned())).collect::<Vec<_>>()
            };
            assert_eq!(
                got.map_err(|error| error.to_string()),
                expected.map(owned).map_err(str::to_owned),
                "{pattern}"
            );
        }
        let in_image = find(&root, "no", Origin::Image(&berth_types::IdMaps::default()))
            .unwrap_err()
            .to_string();
        assert_eq!(in_image, "stat no: file does not exist");
    }
}

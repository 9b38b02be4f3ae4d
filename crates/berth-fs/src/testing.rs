//! What the tests of this crate share: archives made by hand, and trees to look at.

use std::fmt::Write as _;
use std::io::Write as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use crate::root::Root;
use crate::tar::{Entry, Kind, TarWriter, Time};
use crate::unpack::{UnpackError, UnpackOptions, Unpacked, WhiteoutStyle};

/// An archive being made.
pub(crate) struct Archive(TarWriter<Vec<u8>>);

fn entry(path: &str, kind: Kind, mode: u32) -> Entry {
    Entry {
        path: path.into(),
        kind,
        mode,
        uid: u64::from(rustix::process::geteuid().as_raw()),
        gid: u64::from(rustix::process::getegid().as_raw()),
        mtime: Time { seconds: 1_000_000_000, nanos: 0 },
        ..Entry::default()
    }
}

impl Archive {
    pub(crate) fn new() -> Self {
        Self(TarWriter::new(Vec::new()))
    }

    pub(crate) fn raw(mut self, entry: &Entry, content: &[u8]) -> Self {
        self.0.header(&Entry { size: content.len() as u64, ..entry.clone() }).unwrap();
        self.0.content().write_all(content).unwrap();
        self.0.end_content().unwrap();
        self
    }

    pub(crate) fn file(self, path: &str, content: &str) -> Self {
        self.raw(&entry(path, Kind::File, 0o644), content.as_bytes())
    }

    pub(crate) fn dir(self, path: &str, mode: u32) -> Self {
        self.raw(&entry(path, Kind::Directory, mode), b"")
    }

    pub(crate) fn symlink(self, path: &str, target: &str) -> Self {
        let link = target.into();
        self.raw(&Entry { link, ..entry(path, Kind::Symlink, 0o777) }, b"")
    }

    pub(crate) fn hard_link(self, path: &str, target: &str) -> Self {
        let link = target.into();
        self.raw(&Entry { link, ..entry(path, Kind::HardLink, 0o644) }, b"")
    }

    pub(crate) fn device(self, path: &str, device: (u32, u32)) -> Self {
        self.raw(&Entry { device, ..entry(path, Kind::CharDevice, 0o600) }, b"")
    }

    pub(crate) fn xattr(self, path: &str, name: &str, value: &[u8]) -> Self {
        let xattrs = vec![(name.into(), value.to_vec())];
        self.raw(&Entry { xattrs, ..entry(path, Kind::File, 0o755) }, b"x")
    }

    /// A file whose owner is not this process's.
    pub(crate) fn owned(self, path: &str, content: &str, (uid, gid): (u64, u64)) -> Self {
        self.raw(&Entry { uid, gid, ..entry(path, Kind::File, 0o644) }, content.as_bytes())
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.0.finish().unwrap()
    }
}

/// Unpacks `archive` into `dest`.
pub(crate) fn unpack(
    archive: &[u8],
    dest: &Path,
    style: WhiteoutStyle,
) -> Result<Unpacked, UnpackError> {
    let root = Root::open(dest).unwrap();
    crate::unpack::unpack(archive, root.fd(), &UnpackOptions::layer(style, "/dest"))
}

/// A tree as text: one line for each name, sorted: `d`, `f CONTENT`, `l TARGET`, `c MAJOR:MINOR`.
pub(crate) fn listing(dir: &Path) -> String {
    let mut out = String::new();
    list_below(dir, dir, &mut out);
    out
}

fn list_below(base: &Path, dir: &Path, out: &mut String) {
    let mut entries: Vec<_> = std::fs::read_dir(dir).unwrap().map(Result::unwrap).collect();
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        let name = path.strip_prefix(base).unwrap().display().to_string();
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            let opaque = Root::open(&path)
                .ok()
                .and_then(|dir| crate::changes::xattr(dir.fd(), crate::marks::OPAQUE).unwrap());
            let mark = if opaque.is_some() { " opaque" } else { "" };
            writeln!(out, "{name} d{mark}").unwrap();
            list_below(base, &path, out);
        } else if kind.is_symlink() {
            let target = std::fs::read_link(&path).unwrap();
            writeln!(out, "{name} l {}", target.display()).unwrap();
        } else if kind.is_char_device() {
            let device = std::fs::symlink_metadata(&path).unwrap().rdev();
            let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
            writeln!(out, "{name} c {major}:{minor}").unwrap();
        } else if kind.is_file() {
            let content = std::fs::read(&path).unwrap();
            writeln!(out, "{name} f {}", String::from_utf8_lossy(&content)).unwrap();
        } else {
            writeln!(out, "{name} other").unwrap();
        }
    }
}

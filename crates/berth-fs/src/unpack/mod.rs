//! Extraction of a tar into a directory, without ever leaving it.
//!
//! The extractor runs in this process, not in a chroot; that it stays inside rests on three
//! rules. Directories are opened with `openat2(RESOLVE_IN_ROOT)` and only then used; the last
//! part of a name is a single component that is never followed; whatever is created is created
//! exclusively. The semantics are those of Docker's `archive` package.

mod extract;
mod kinds;
mod parents;
mod whiteout;

pub(crate) use extract::run;
pub(crate) use whiteout::{Mark, mark_of};

use std::io::{self, BufRead};
use std::os::fd::BorrowedFd;
use std::path::PathBuf;

use berth_types::{IdMapError, IdMaps};

use crate::decompress::DecompressError;
use crate::marks::Marks;
use crate::tar::{Reader, TarError};

/// What `.wh.` entries of an archive do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhiteoutStyle {
    /// Nothing: they are files like others (`docker cp`, `docker import` of plain trees).
    Plain,
    /// They delete what the destination already has (full-tree drivers).
    Apply,
    /// They become marks in a directory of changes.
    Mark(Marks),
}

/// Whether an archive may make device nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Devices {
    /// Made as the archive says.
    Create,
    /// An entry that is a device is an error.
    Refuse,
}

/// Whose files unpacked entries become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// As the archive says.
    Archive,
    /// Everything belongs to this user and group.
    Fixed {
        /// User id.
        uid: u32,
        /// Group id.
        gid: u32,
    },
}

/// What to do when a directory would be replaced by something else, or the other way round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TypeClash {
    /// The archive wins; what was there is removed.
    Replace,
    /// An error with Docker's words (`noOverwriteDirNonDir` of the archive API).
    Refuse,
}

/// Bounds on what an archive may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most entries, PAX and GNU helper headers not counted.
    pub max_entries: u64,
    /// Most bytes of file content, holes of sparse files included.
    pub max_bytes: u64,
}

impl Limits {
    /// Ten million entries and a tebibyte of content.
    pub const LAYER: Self = Self { max_entries: 10_000_000, max_bytes: 1 << 40 };
}

/// How to unpack.
#[derive(Debug, Clone)]
pub struct UnpackOptions {
    /// What `.wh.` entries do.
    pub whiteouts: WhiteoutStyle,
    /// Whether device nodes are made.
    pub devices: Devices,
    /// Whose files they become.
    pub owner: Owner,
    /// What ids of the container are in the destination.
    pub ids: IdMaps,
    /// The ids that containers have, where the destination holds them as they are: others are refused.
    pub known: IdMaps,
    /// What happens to an existing directory or file of another type.
    pub type_clash: TypeClash,
    /// Bounds.
    pub limits: Limits,
    /// The destination's name, for messages only.
    pub dest_name: PathBuf,
}

impl UnpackOptions {
    /// The marks that whiteouts become.
    pub(crate) fn marks(&self) -> Option<Marks> {
        match self.whiteouts {
            WhiteoutStyle::Mark(marks) => Some(marks),
            WhiteoutStyle::Plain | WhiteoutStyle::Apply => None,
        }
    }

    /// For a layer: devices made, owners and ids as in the archive, [`Limits::LAYER`].
    pub fn layer(whiteouts: WhiteoutStyle, dest_name: impl Into<PathBuf>) -> Self {
        Self {
            whiteouts,
            devices: Devices::Create,
            owner: Owner::Archive,
            ids: IdMaps::default(),
            known: IdMaps::default(),
            type_clash: TypeClash::Replace,
            limits: Limits::LAYER,
            dest_name: dest_name.into(),
        }
    }
}

/// Sizes and counts of what was unpacked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Unpacked {
    /// Entries, PAX and GNU helper headers not counted.
    pub entries: u64,
    /// Sum of the apparent sizes of non-directories, each inode once: what overlay2 records as
    /// the layer's size.
    pub tree_size: u64,
    /// Sum of the sizes in the headers: what full-tree drivers record as the layer's size.
    pub header_size: u64,
    /// Entries with a `security.capability`.
    pub capabilities: u64,
    /// Extended attributes that were left out: not allowed in a layer, or not supported by the
    /// file system.
    pub skipped_xattrs: u64,
}

/// Why a layer or archive was not unpacked.
#[expect(missing_docs, reason = "the messages name the fields")]
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    #[error(transparent)]
    Tar(#[from] TarError),
    #[error(transparent)]
    Decompress(#[from] DecompressError),
    #[error("cannot start a thread")]
    Thread { source: io::Error },
    #[error("{name:?} is outside of {dest:?}")]
    Outside { name: String, dest: PathBuf },
    #[error("invalid hardlink {path:?} -> {target:?}")]
    HardLink { path: PathBuf, target: String },
    #[error(transparent)]
    Unmapped(#[from] IdMapError),
    #[error("duplicates of file paths not supported")]
    Duplicate { name: String },
    #[error("the archive has more than {limit} entries")]
    TooManyEntries { limit: u64 },
    #[error("the archive unpacks to more than {limit} bytes")]
    TooManyBytes { limit: u64 },
    #[error("entry {name:?}: {reason}")]
    Entry { name: String, reason: &'static str },
    #[error("cannot overwrite directory {path:?} with non-directory {dest:?}")]
    DirByFile { path: PathBuf, dest: PathBuf },
    #[error("cannot overwrite non-directory {path:?} with directory {dest:?}")]
    FileByDir { path: PathBuf, dest: PathBuf },
    #[error("cannot {action} {name:?}")]
    Io { action: &'static str, name: String, source: io::Error },
    #[error("cannot write the layer's tar-split")]
    TarSplit { source: io::Error },
}

/// Unpacks a plain (not compressed) tar into the directory `dest`.
///
/// On failure what was unpacked so far stays. Nothing is synced.
pub fn unpack<R: BufRead>(
    input: R,
    dest: BorrowedFd<'_>,
    options: &UnpackOptions,
) -> Result<Unpacked, UnpackError> {
    run(Reader::new(input), dest, options, None)
}

/// Cleans a name as Go's `filepath.Clean` would, without a leading `/`; empty for the root
/// itself. False when a relative name climbs out.
pub(crate) fn clean(name: &[u8], out: &mut Vec<u8>) -> bool {
    out.clear();
    for part in name.split(|&byte| byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => match out.iter().rposition(|&byte| byte == b'/') {
                Some(at) => out.truncate(at),
                None if !out.is_empty() => out.clear(),
                None if name.starts_with(b"/") => {}
                None => return false,
            },
            part => {
                if !out.is_empty() {
                    out.push(b'/');
                }
                out.extend_from_slice(part);
            }
        }
    }
    true
}

/// Splits a clean name into the directory (empty for the root) and the last part.
pub(crate) fn split_clean(name: &[u8]) -> (&[u8], &[u8]) {
    match name.iter().rposition(|&byte| byte == b'/') {
        Some(at) => (&name[..at], &name[at + 1..]),
        None => (&[], name),
    }
}

#[cfg(test)]
mod tests;

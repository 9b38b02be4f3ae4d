//! Layers that are mounted with overlayfs's index, so that hard links to files of the image stay
//! together when one of them is written.
//!
//! Without it the first write to a file copies it up under the name that it was opened by, and its
//! other names keep the old content. With it the copy is found by each name; names that were not
//! used yet are in no directory of changes, only in the index. That is why the changes of such a
//! layer are found by comparing trees, and why it is mounted with its index even to be read.
//!
//! A layer has an index when its `work/index` is a directory. The kernel makes it itself where it is
//! told `index=on`, and takes one that is there; so what a layer needs is said on the disk, whatever the
//! driver is told later.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use berth_sys::handle::FileHandle;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use super::layout::{DIFF, WORK};
use crate::StorageError;
use crate::error::io_at;
use crate::home::new_dir;

const INDEX: &str = "index";
/// Where an index that belongs to other directories is kept, with a number, beside `work/`.
const STALE: &str = "index-stale-";
/// Of the top of a directory of changes: the top of the directory right below it.
const ORIGIN: &str = "trusted.overlay.origin";
/// Of an index: the top of the directory of changes.
const UPPER: &str = "trusted.overlay.upper";
/// Of an entry: how many names it has, counted from the names that it has on the disk.
const NAMES: &str = "trusted.overlay.nlink";
/// As many as on the disk, less the one in the index: each of its names is in the directory of changes.
const ALL_WRITTEN: &[u8] = b"U-1";

fn place(layer: &Path) -> PathBuf {
    layer.join(WORK).join(INDEX)
}

/// Gives a new layer its index.
pub(super) fn make(layer: &Path) -> Result<(), StorageError> {
    new_dir(&place(layer), 0o700)
}

/// Whether the layer has one.
pub(super) fn has(layer: &Path) -> Result<bool, StorageError> {
    let path = place(layer);
    match fs::symlink_metadata(&path) {
        Ok(meta) => Ok(meta.is_dir()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(io_at("look at", path)(error)),
    }
}

/// Makes the layer mountable where its index speaks of other directories than `lower`, the one right
/// below it, and its own: the kernel would refuse it. They are others after the data root was copied,
/// or when what is below was made anew. The old index is set aside in the layer's directory.
pub(super) fn settle(layer: &Path, lower: &Path) -> Result<(), StorageError> {
    if !has(layer)? {
        return Ok(());
    }
    let (diff, index) = (layer.join(DIFF), place(layer));
    if names(&diff, ORIGIN, lower)? && names(&index, UPPER, &diff)? {
        return Ok(());
    }
    for number in 0_u32.. {
        let aside = layer.join(format!("{STALE}{number}"));
        match renameat_with(CWD, &index, CWD, &aside, RenameFlags::NOREPLACE) {
            Ok(()) => {
                tracing::warn!(
                    aside = %aside.display(),
                    "hard links to files of the image came apart: the index of the layer is of other \
                     directories, and was set aside"
                );
                break;
            }
            Err(Errno::EXIST | Errno::NOTEMPTY) => {}
            Err(error) => return Err(io_at("rename", index)(error)),
        }
    }
    match rustix::fs::removexattr(&diff, ORIGIN) {
        Ok(()) | Err(Errno::NODATA) => make(layer),
        Err(error) => Err(io_at("remove an attribute of", diff)(error)),
    }
}

/// Whether the attribute, if it is there, is the handle of `target`.
fn names(path: &Path, attribute: &str, target: &Path) -> Result<bool, StorageError> {
    let Some(value) = attribute_of(path, attribute)? else { return Ok(true) };
    let handle = FileHandle::of(target).map_err(io_at("look at", target))?;
    // Version, magic, length, flags, form, the file system's UUID, the handle.
    let form = value.get(4).map(|byte| i32::from(*byte));
    Ok(form == Some(handle.kind) && value.get(21..) == Some(&*handle.bytes))
}

fn attribute_of(path: &Path, name: &str) -> Result<Option<Vec<u8>>, StorageError> {
    let mut value = [0; 256];
    match rustix::fs::lgetxattr(path, OsStr::new(name), &mut value[..]) {
        Ok(length) => Ok(Some(value[..length].to_vec())),
        Err(Errno::NODATA) => Ok(None),
        Err(error) => Err(io_at("read an attribute of", path)(error)),
    }
}

/// Whether anything that was written is under no name in the directory of changes, or not under each
/// of its names: a copy of that directory would lack it.
pub(super) fn holds_what_changes_lack(layer: &Path) -> Result<bool, StorageError> {
    if !has(layer)? {
        return Ok(false);
    }
    let index = place(layer);
    for entry in fs::read_dir(&index).map_err(io_at("list", &index))? {
        let path = entry.map_err(io_at("list", &index))?.path();
        let kind = fs::symlink_metadata(&path).map_err(io_at("look at", &path))?.file_type();
        // Whiteouts stand for files of which every name was removed.
        if !kind.is_char_device() && attribute_of(&path, NAMES)?.as_deref() != Some(ALL_WRITTEN) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Removes the index of a layer that nothing was written in.
pub(super) fn drop_new(layer: &Path) -> Result<(), StorageError> {
    let index = place(layer);
    match fs::remove_dir(&index) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_at("remove", index)(error)),
        _ => Ok(()),
    }
}

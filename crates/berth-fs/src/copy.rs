//! Copying trees with everything that belongs to them, by a few threads.

mod entries;
mod links;
mod metadata;
mod walk;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use berth_sys::copy::Method;
use rustix::io::Errno;

use crate::root::Root;
use links::Links;

/// Why a tree was not copied.
#[expect(missing_docs, reason = "the messages name the fields")]
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}", .path.display())]
pub struct CopyError {
    pub action: &'static str,
    pub path: PathBuf,
    pub source: io::Error,
}

/// Which extended attributes go along.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Xattrs {
    /// All but `trusted.overlay.*`.
    All,
    /// Like `All`, but directories that hide what is below them stay so: a directory of an
    /// overlay's changes is copied as one.
    Upper,
    /// Only `security.capability`.
    Capability,
}

/// Copies the content of `from` into the existing directory `to`, with owner, mode, times,
/// extended attributes, hard links, links and devices. The two directories' own metadata
/// is copied too. Data is shared where the file system can (reflink). Gives the bytes copied.
///
/// What is already in `to` under a name that is copied is an error.
pub fn tree(from: &Root, to: &Root, xattrs: Xattrs) -> Result<u64, CopyError> {
    let copier = Copier::new(to, xattrs, Files::Copy);
    walk::run(&copier, from, to, Path::new(""))?;
    Ok(copier.bytes())
}

/// Like [`tree`], but only directories are copied: everything else is linked, as far as the file
/// system has links left, and must not be changed in place in either tree from then on.
pub fn links(from: &Root, to: &Root) -> Result<(), CopyError> {
    let copier = Copier::new(to, Xattrs::All, Files::Link);
    walk::run(&copier, from, to, Path::new(""))
}

/// Copies several trees of one file system so that they are as they were: hard links between them,
/// sockets and directories that hide what is below them too. What is mounted in them is left out, and
/// what disappears meanwhile is no error.
pub struct Mirror<'a>(Copier<'a>);

impl<'a> Mirror<'a> {
    /// Everything is copied below `to`.
    pub fn new(to: &'a Root) -> Self {
        Self(Copier::new(to, Xattrs::Upper, Files::Mirror))
    }

    /// Copies what is in the directory `from` into the existing one at `place`, a path below the
    /// target, and its own metadata. Gives the bytes copied.
    pub fn tree(&mut self, from: &Root, place: &Path) -> Result<u64, CopyError> {
        let copier = &self.0;
        let to = copier.target.open_dir(place).map_err(|source| CopyError {
            action: "open",
            path: place.to_owned(),
            source,
        })?;
        let before = copier.bytes();
        walk::run(copier, from, &to, place)?;
        Ok(copier.bytes() - before)
    }
}

impl std::fmt::Debug for Mirror<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mirror").finish_non_exhaustive()
    }
}

/// How what is not a directory gets into the new tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Files {
    Copy,
    Link,
    Mirror,
}

/// What the threads share.
struct Copier<'a> {
    xattrs: Xattrs,
    files: Files,
    /// The cheapest method that has not been refused yet.
    method: Mutex<Method>,
    links: Links,
    target: &'a Root,
    bytes: AtomicU64,
}

impl<'a> Copier<'a> {
    fn new(target: &'a Root, xattrs: Xattrs, files: Files) -> Self {
        let (method, bytes) = (Mutex::new(Method::Reflink), AtomicU64::new(0));
        Self { xattrs, files, method, links: Links::default(), target, bytes }
    }

    fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    fn method(&self) -> Method {
        *self.method.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn copied(&self, bytes: u64, by: Method) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let mut method = self.method.lock().unwrap_or_else(PoisonError::into_inner);
        *method = by.max(*method);
    }
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(Errno) -> CopyError + use<> {
    let path = Path::new("/").join(path);
    move |error| CopyError { action, path, source: error.into() }
}

#[cfg(test)]
mod tests;

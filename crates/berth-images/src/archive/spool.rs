//! A request's archive, kept as one file with an index of what is where.
//!
//! The parts of an archive come in any order, and a layer can only be unpacked once the
//! configuration that names it is known; so everything is kept until the end. One file holds the
//! contents one after the other: names from the archive never reach the file system.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use berth_types::{Digest, HexId};

use super::ArchiveError;
use super::members::{Kind, Members};

/// The most members an archive may have.
const MAX_MEMBERS: usize = 65_536;
/// The most links that are followed to find one file, as in the kernel.
const MAX_LINKS: usize = 40;
const BUFFER: usize = 1 << 18;

/// An archive's contents. Dropping it removes the file.
#[derive(Debug)]
pub(crate) struct Spool {
    file: Arc<File>,
    nodes: BTreeMap<String, Node>,
    _directory: Directory,
}

#[derive(Debug, Clone)]
enum Node {
    File {
        offset: u64,
        len: u64,
    },
    Directory,
    /// Where it points, from the top of the archive.
    Link(String),
}

/// A part of a spool: one file of the archive.
#[derive(Debug, Clone)]
pub(crate) struct Blob {
    file: Arc<File>,
    offset: u64,
    len: u64,
}

impl Spool {
    /// Takes in an archive, compressed or not, to its end. `tmp` is where the file lives.
    pub(crate) fn read(input: impl Read + Send, tmp: &Path) -> Result<Self, ArchiveError> {
        let directory = Directory::create(tmp)?;
        let path = directory.path.join("contents");
        let error = |action| {
            let path = path.clone();
            move |source| ArchiveError::Spool { action, path, source }
        };
        let file = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(error("create"))?;
        let (_, plain) = berth_fs::decompress::open(input)?;
        let mut members = Members::new(plain);
        let mut out = BufWriter::with_capacity(BUFFER, &file);
        let mut index = Index::default();
        let mut count = 0;
        while let Some(member) = members.next()? {
            count += 1;
            if count > MAX_MEMBERS {
                return Err(ArchiveError::TooMany { limit: MAX_MEMBERS });
            }
            let name = clean(&member.name)
                .ok_or_else(|| ArchiveError::Outside { name: member.name.clone() })?;
            if member.kind == Kind::File {
                copy(&mut members, &mut out, error("write"))?;
            }
            index.add(name, member.kind, member.size)?;
        }
        members.drain()?;
        out.flush().map_err(error("write"))?;
        drop(out);
        Ok(Self { file: Arc::new(file), nodes: index.nodes, _directory: directory })
    }

    /// The file of this name; links are followed, never out of the archive.
    pub(crate) fn open(&self, name: &str) -> Result<Blob, ArchiveError> {
        match self.find(name)? {
            Some(Node::File { offset, len }) => {
                Ok(Blob { file: Arc::clone(&self.file), offset: *offset, len: *len })
            }
            Some(_) => Err(ArchiveError::IsDirectory { name: name.to_owned() }),
            None => Err(ArchiveError::Missing { name: name.to_owned() }),
        }
    }

    /// Whether there is a file of this name.
    pub(crate) fn has_file(&self, name: &str) -> Result<bool, ArchiveError> {
        Ok(matches!(self.find(name)?, Some(Node::File { .. })))
    }

    /// The whole of a small file.
    pub(crate) fn small(&self, name: &str, limit: u64) -> Result<Vec<u8>, ArchiveError> {
        let blob = self.open(name)?;
        if blob.len > limit {
            return Err(ArchiveError::TooLarge { name: name.to_owned(), limit });
        }
        let mut bytes = Vec::new();
        blob.reader().read_to_end(&mut bytes).map_err(ArchiveError::read)?;
        Ok(bytes)
    }

    /// A small file that is stored under its digest, checked against it.
    pub(crate) fn small_blob(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>, ArchiveError> {
        let name = blob_name(digest);
        let bytes = self.small(&name, limit)?;
        let got = Digest::of(&bytes);
        if got == *digest {
            Ok(bytes)
        } else {
            Err(ArchiveError::BlobDigest { name, got: got.to_string() })
        }
    }

    /// The directories at the top.
    pub(crate) fn top_directories(&self) -> Vec<String> {
        let mut names: Vec<String> = self
            .nodes
            .keys()
            .filter_map(|name| name.split_once('/').map(|(top, _)| top.to_owned()))
            .collect();
        names.dedup();
        names
    }

    fn find(&self, name: &str) -> Result<Option<&Node>, ArchiveError> {
        let looped = || ArchiveError::Loop { name: name.to_owned() };
        let mut rest: Vec<String> = clamp("", name).into_iter().rev().collect();
        let mut at = String::new();
        let mut links = 0;
        while let Some(part) = rest.pop() {
            let next = if at.is_empty() { part } else { format!("{at}/{part}") };
            match self.nodes.get(&next) {
                Some(Node::Link(target)) => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(looped());
                    }
                    rest.extend(target.split('/').rev().map(str::to_owned));
                    at.clear();
                }
                _ => at = next,
            }
        }
        Ok(self.nodes.get(&at))
    }
}

/// What is where, while the archive comes in.
#[derive(Default)]
struct Index {
    nodes: BTreeMap<String, Node>,
    end: u64,
}

impl Index {
    fn add(&mut self, name: String, kind: Kind, size: u64) -> Result<(), ArchiveError> {
        let node = match kind {
            Kind::File => {
                let offset = self.end;
                self.end += size;
                Node::File { offset, len: size }
            }
            Kind::Directory => {
                // A directory never replaces what has its name; it may come after its content.
                self.nodes.entry(name).or_insert(Node::Directory);
                return Ok(());
            }
            Kind::Symlink(target) => {
                let parent = name.rsplit_once('/').map_or("", |(parent, _)| parent);
                let Some(inside) = resolve(parent, &target) else {
                    return Err(ArchiveError::Symlink { name, target });
                };
                Node::Link(inside)
            }
            Kind::HardLink(target) => {
                let there = clean(&target).and_then(|target| self.nodes.get(&target).cloned());
                match there {
                    Some(node @ (Node::File { .. } | Node::Link(_))) => node,
                    _ => return Err(ArchiveError::HardLink { name, target }),
                }
            }
            Kind::Other => return Ok(()),
        };
        if !name.is_empty() {
            self.nodes.insert(name, node);
        }
        Ok(())
    }
}

/// The name without `.`, doubled slashes and a slash in front; `None` when `..` leads out.
fn clean(name: &str) -> Option<String> {
    resolve("", name)
}

/// `target` seen from the directory `base`; `None` when it leads out.
fn resolve(base: &str, target: &str) -> Option<String> {
    let base = if target.starts_with('/') { "" } else { base };
    let mut parts: Vec<&str> = base.split('/').filter(|part| !part.is_empty()).collect();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            name => parts.push(name),
        }
    }
    Some(parts.join("/"))
}

/// As [`resolve`], but `..` at the top stays there: how Docker looks up what a manifest names.
fn clamp(base: &str, target: &str) -> Vec<String> {
    let mut parts: Vec<&str> = base.split('/').filter(|part| !part.is_empty()).collect();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            name => parts.push(name),
        }
    }
    parts.into_iter().map(str::to_owned).collect()
}

/// Where an OCI layout keeps a blob.
pub(crate) fn blob_name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn copy<R: Read>(
    members: &mut Members<R>,
    out: &mut impl Write,
    write_error: impl FnOnce(io::Error) -> ArchiveError,
) -> Result<(), ArchiveError> {
    let mut buffer = vec![0; BUFFER];
    loop {
        match members.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(n) => {
                if let Err(error) = out.write_all(&buffer[..n]) {
                    return Err(write_error(error));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(ArchiveError::read(error)),
        }
    }
}

impl Blob {
    /// How many bytes it has.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Reads it from the start; any number of readers at the same time.
    pub(crate) fn reader(&self) -> BlobReader {
        BlobReader { file: Arc::clone(&self.file), at: self.offset, end: self.offset + self.len }
    }
}

/// Reads a part of the spool.
#[derive(Debug)]
pub(crate) struct BlobReader {
    file: Arc<File>,
    at: u64,
    end: u64,
}

impl Read for BlobReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end - self.at).unwrap_or(usize::MAX);
        let most = left.min(buffer.len());
        let read = self.file.read_at(&mut buffer[..most], self.at)?;
        if read == 0 && most > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.at += read as u64;
        Ok(read)
    }
}

/// A directory of its own for one request, removed with everything in it when dropped.
#[derive(Debug)]
struct Directory {
    path: PathBuf,
}

impl Directory {
    fn create(tmp: &Path) -> Result<Self, ArchiveError> {
        let path = tmp.join(format!("load-{}", HexId::random().short()));
        std::fs::DirBuilder::new().mode(0o700).create(&path).map_err(|source| {
            ArchiveError::Spool { action: "create", path: path.clone(), source }
        })?;
        Ok(Self { path })
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove a spool");
        }
    }
}

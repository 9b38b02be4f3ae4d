//! What a layer has of those below it, where each layer is a whole tree of its own: a copy, links or a
//! snapshot, which damage can have come to.
//!
//! A file must be what the topmost layer that has one at its path brought. That is taken from the
//! layers' tar-splits, so it does not matter which of them are damaged.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;

use berth_fs::root::{Follow, Root};
use berth_fs::tar::Kind;
use berth_fs::tarsplit::{Brought, FileSource as _, Outline, Sum, outline};
use berth_types::ChainId;
use berth_types::kind::chain;
use rustix::fs::FileType;

use crate::Layer;
use crate::activations::{Active, Reading};
use crate::check::Trouble;
use crate::store::Inner;

/// Layers as they are looked at, each right after what it stands on.
#[derive(Debug, Default)]
pub(super) struct Inherited {
    /// From the base up to the last one.
    below: Vec<(ChainId, Option<Outline>)>,
    /// Files with several names that were read.
    read: HashSet<(u64, u64, Sum)>,
}

impl Inherited {
    /// Looks at what `layer` has of those below, and gives what is wrong and how many bytes were read. The
    /// layer must come right after its parent, or after what stands on that.
    pub(super) fn look_at(&mut self, store: &Arc<Inner>, layer: &Layer) -> (Option<Trouble>, u64) {
        let parent = |(chain, _): &(ChainId, _)| Some(chain) == layer.parent.as_ref();
        let height = self.below.iter().rposition(parent).map_or(0, |at| at + 1);
        self.below.truncate(height);
        let opened = Active::hold(store, &layer.layer).and_then(|active| {
            let [reading] = Reading::open(store, [active])?;
            Ok(reading)
        });
        let reading = match opened {
            Ok(reading) => reading,
            Err(error) => {
                self.below.push((layer.chain.clone(), None));
                return (Some(Trouble::Unreadable { why: chain(&error) }), 0);
            }
        };
        // What is wrong with it is told where the layer's own content is read.
        let records = store.files.tar_split(&layer.chain).ok();
        let own = records.and_then(|records| outline(records).ok());
        let own = own.map(|own| really(own, &reading.root));
        self.below.push((layer.chain.clone(), own));
        let mut bytes = 0;
        let trouble = match self.compare(&reading.root, &mut bytes) {
            Ok(()) => None,
            Err(why) => Some(Trouble::Inherited { why }),
        };
        (trouble, bytes)
    }

    /// Compares the tree of the last layer with what those below it brought.
    fn compare(&mut self, tree: &Root, bytes: &mut u64) -> Result<(), String> {
        let mut cover = Cover::default();
        let Self { below, read } = self;
        let mut layers = below.iter().rev();
        // Its own files are checked with its tar.
        match layers.next() {
            Some((_, Some(own))) => cover.add(own),
            _ => return Ok(()),
        }
        for (chain, outline) in layers {
            // What this one hides is not known, so nothing is known of those below.
            let Some(outline) = outline else { return Ok(()) };
            let own = Cover::within(outline);
            let mut files: Vec<_> = outline.brings.iter().collect();
            files.sort_unstable_by_key(|(name, _)| *name);
            for (name, brought) in files {
                if !cover.shows(name) || !own.leads_to(name) {
                    continue;
                }
                look_at(tree, name, brought, read, bytes).map_err(|why| {
                    let name = String::from_utf8_lossy(name);
                    format!("{name:?} of {}: {why}", &chain.hex()[..12])
                })?;
            }
            cover.add(outline);
        }
        Ok(())
    }
}

/// An order in which each layer comes right after its parent or after all that stands on a sibling.
pub(super) fn depth_first(layers: Vec<Layer>) -> Vec<Layer> {
    let mut sorted: Vec<Layer> = Vec::with_capacity(layers.len());
    let mut left: Vec<Option<Layer>> = layers.into_iter().map(Some).collect();
    let known: HashSet<ChainId> = left.iter().flatten().map(|layer| layer.chain.clone()).collect();
    let mut children = HashMap::<ChainId, Vec<usize>>::new();
    let mut todo = Vec::new();
    for (at, layer) in left.iter().enumerate().rev() {
        let Some(layer) = layer else { continue };
        match &layer.parent {
            Some(parent) if known.contains(parent) => {
                children.entry(parent.clone()).or_default().push(at);
            }
            _ => todo.push(at),
        }
    }
    while let Some(at) = todo.pop() {
        let Some(layer) = left[at].take() else { continue };
        todo.extend(children.remove(&layer.chain).unwrap_or_default());
        sorted.push(layer);
    }
    sorted
}

/// What hides names of the layers below.
#[derive(Debug, Default)]
struct Cover<'a> {
    /// Names that are there.
    names: HashSet<&'a [u8]>,
    /// Those among them that are no directories.
    ends: HashSet<&'a [u8]>,
    /// Names that are deleted, with all that is below them.
    deleted: HashSet<&'a [u8]>,
    opaque: HashSet<&'a [u8]>,
}

impl<'a> Cover<'a> {
    /// What hides names of the same layer.
    fn within(layer: &'a Outline) -> Self {
        let mut cover = Self::default();
        cover.ends.extend(ends(layer));
        cover
    }

    fn add(&mut self, layer: &'a Outline) {
        self.names.extend(layer.brings.keys().map(Vec::as_slice));
        self.ends.extend(ends(layer));
        self.deleted.extend(layer.deletes.iter().map(Vec::as_slice));
        self.opaque.extend(layer.opaque.iter().map(Vec::as_slice));
    }

    /// Whether something below is seen at this name.
    fn shows(&self, name: &[u8]) -> bool {
        !self.names.contains(name) && !self.deleted.contains(name) && self.leads_to(name)
    }

    /// Whether the directories above a name are seen.
    fn leads_to(&self, name: &[u8]) -> bool {
        let slashes = name.iter().enumerate().filter(|(_, byte)| **byte == b'/');
        let mut dirs = slashes.map(|(at, _)| &name[..at]).chain([&b""[..]]);
        dirs.all(|dir| {
            !self.ends.contains(dir) && !self.deleted.contains(dir) && !self.opaque.contains(dir)
        })
    }
}

fn ends(layer: &Outline) -> impl Iterator<Item = &[u8]> {
    let ends = layer.brings.iter().filter(|(_, brought)| brought.kind != Kind::Directory);
    ends.map(|(name, _)| name.as_slice())
}

/// By names that no link in the layer's tree leads elsewhere.
fn really(outline: Outline, tree: &Root) -> Outline {
    let mut dirs = HashMap::<Vec<u8>, Vec<u8>>::new();
    let mut real = |name: Vec<u8>| {
        let Some(at) = name.iter().rposition(|&byte| byte == b'/') else { return name };
        let dir = dirs.entry(name[..at].to_vec()).or_insert_with_key(|dir| {
            let path = Path::new(OsStr::from_bytes(dir));
            // What is not there was taken away by a layer's own later entry.
            let real = tree.resolve(path, Follow::Yes).unwrap_or_else(|_| path.to_owned());
            let bytes = real.as_os_str().as_bytes();
            bytes.strip_prefix(b"/").unwrap_or(bytes).to_vec()
        });
        if dir.is_empty() { name[at + 1..].to_vec() } else { [&**dir, &name[at..]].concat() }
    };
    Outline {
        brings: outline.brings.into_iter().map(|(name, it)| (real(name), it)).collect(),
        deletes: outline.deletes.into_iter().map(&mut real).collect(),
        opaque: outline
            .opaque
            .into_iter()
            .map(|dir| {
                let path = Path::new(OsStr::from_bytes(&dir)).join("x");
                let name = real(path.into_os_string().into_encoded_bytes());
                name.strip_suffix(b"/x").unwrap_or_default().to_vec()
            })
            .collect(),
    }
}

fn look_at(
    tree: &Root,
    name: &[u8],
    brought: &Brought,
    read: &mut HashSet<(u64, u64, Sum)>,
    bytes: &mut u64,
) -> Result<(), String> {
    let path = Path::new(OsStr::from_bytes(name));
    let failed = |error: io::Error| chain(&error);
    let stat = tree.stat(path, Follow::No).map_err(failed)?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    let expected = match brought.kind {
        Kind::File => FileType::RegularFile,
        Kind::Symlink => FileType::Symlink,
        Kind::Directory => FileType::Directory,
        Kind::Fifo => FileType::Fifo,
        // Names of something else, and nodes that some machines may not make.
        _ => return Ok(()),
    };
    if kind != expected {
        return Err("it is something else".to_owned());
    }
    let Some(sum) = brought.content else { return Ok(()) };
    let key = (stat.st_dev, stat.st_ino, sum);
    if stat.st_nlink > 1 && read.contains(&key) {
        return Ok(());
    }
    let file = tree.try_clone().and_then(|mut tree| tree.open(path)).map_err(failed)?;
    if !sum.is_of(file).map_err(failed)? {
        return Err("file integrity checksum failed".to_owned());
    }
    *bytes += sum.size();
    if stat.st_nlink > 1 {
        read.insert(key);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outline(brings: &[(&str, Kind)], deletes: &[&str], opaque: &[&str]) -> Outline {
        let bytes = |names: &[&str]| names.iter().map(|name| name.as_bytes().to_vec()).collect();
        Outline {
            brings: brings
                .iter()
                .map(|&(name, kind)| (name.into(), Brought { kind, content: None }))
                .collect(),
            deletes: bytes(deletes),
            opaque: bytes(opaque),
        }
    }

    #[test]
    fn what_is_hidden_is_not_looked_for() {
        use Kind::{Directory as Dir, File, Symlink};
        let upper = outline(&[("a", Dir), ("a/f", File), ("l", Symlink)], &["b", "c/d"], &["o"]);
        let mut cover = Cover::default();
        cover.add(&upper);
        #[rustfmt::skip]
        let table = [
            ("a/f",    false), // There is another.
            ("a/g",    true),
            ("b",      false),
            ("b/x/y",  false),
            ("c/d",    false),
            ("c/e",    true),
            ("l/x",    false), // Something stands where the directory was.
            ("o",      true),
            ("o/x",    false),
            ("oo/x",   true),
        ];
        for (name, shown) in table {
            assert_eq!(cover.shows(name.as_bytes()), shown, "{name}");
        }
        let all = outline(&[], &[], &[""]);
        cover.add(&all);
        assert!(!cover.shows(b"c/e") && !cover.shows(b"z"));
    }
}

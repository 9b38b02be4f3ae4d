//! What interrupted calls and power cuts left.

use std::fs;
use std::io;
use std::path::Path;

use berth_fs::atomic;
use berth_types::LayerId;

use super::Stack;
use super::index;
use super::layout::{self, DIFF, LOWER, MERGED, ShortName, WORK, lower_text};
use crate::StorageError;
use crate::delete::delete_tree;
use crate::error::io_at;
use crate::home::{clear_mount_point, new_dir};

impl Stack {
    /// Removes unfinished layers, the links of detached ones, and mounts that nobody holds.
    pub(crate) fn clean_up(&self, keep: &dyn Fn(&LayerId) -> bool) -> Result<(), StorageError> {
        for (id, _) in self.home.unfinished()? {
            self.undo_creation(&id);
        }
        for (id, path) in self.home.detached()? {
            self.drop_link(&id, &path)?;
        }
        for id in self.home.list()? {
            if !keep(&id) {
                let merged = self.home.layer(&id).join(MERGED);
                // Most layers have none, and looking is cheaper than trying to unmount. One whose
                // helper is gone cannot be looked at.
                let missing = |error: io::Error| error.kind() == io::ErrorKind::NotFound;
                if !fs::symlink_metadata(&merged).is_err_and(missing)
                    && let Err(error) = clear_mount_point(&merged)
                {
                    tracing::warn!(%error, "a left mount point stays");
                }
            }
            self.mend_link(&id)?;
            if self.some_indexed && !keep(&id) {
                self.settle_index(&id)?;
            }
        }
        self.drop_dead_links()
    }

    /// Makes an index and the directories that it belongs to agree.
    fn settle_index(&self, id: &LayerId) -> Result<(), StorageError> {
        let dir = self.home.layer(id);
        // What cannot be read is told to whoever wants to mount it.
        let Ok(Some(lowers)) = layout::read_lower_file(id, &dir) else { return Ok(()) };
        match lowers.first().map(|name| layout::resolve(&self.home, name)) {
            Some(Ok(lower)) if lower.is_dir() => index::settle(&dir, &lower),
            _ => Ok(()),
        }
    }

    /// Removes the short names of layers that are gone: their removal can outlive a power cut that
    /// the link's did not.
    fn drop_dead_links(&self) -> Result<(), StorageError> {
        let links = self.home.dir().join(layout::LINKS);
        for entry in fs::read_dir(&links).map_err(io_at("list", &links))? {
            let entry = entry.map_err(io_at("list", &links))?;
            let Some(name) = entry.file_name().to_str().and_then(ShortName::parse) else {
                continue;
            };
            let Ok(target) = fs::read_link(entry.path()) else { continue };
            let id = target.parent().and_then(Path::file_name).and_then(|id| id.to_str());
            let Some(id) = id.and_then(|id| LayerId::parse(id).ok()) else { continue };
            if !self.home.has(&id)? {
                layout::remove_link(&self.home, &name, &id)?;
            }
        }
        Ok(())
    }

    /// Deletes an unfinished layer and its link.
    pub(super) fn undo_creation(&self, id: &LayerId) {
        let found = self.home.unfinished().and_then(|all| {
            all.iter()
                .filter(|(found, _)| found == id)
                .try_for_each(|(id, path)| self.drop_link(id, path))
        });
        if let Err(error) = found {
            tracing::warn!(%error, "the link of an unfinished layer stays");
        }
        self.home.stop_creating(id);
    }

    /// Removes the short name of a layer whose directory is now at `dir`.
    pub(super) fn drop_link(&self, id: &LayerId, dir: &Path) -> Result<(), StorageError> {
        match layout::read_link_file(dir)? {
            Some(name) if layout::linked(&self.home, &name).as_ref() == Some(id) => {
                layout::remove_link(&self.home, &name, id)
            }
            // It was another layer's content, see `replace`: that one keeps the name in the file.
            Some(name) if layout::linked(&self.home, &name).is_some() => {
                match self.find_link(id)? {
                    Some(own) => layout::remove_link(&self.home, &own, id),
                    None => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }

    /// Makes the layer's own files say what they must: see `NativeDiff::stand_on`.
    pub(crate) fn mend(&self, id: &LayerId, parent: Option<&LayerId>) -> Result<(), StorageError> {
        self.home.check(id)?;
        let dir = self.home.layer(id);
        self.mend_link(id)?;
        let lower = dir.join(LOWER);
        let Some(parent) = parent else {
            return match fs::remove_file(&lower) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    Err(io_at("remove", lower)(error))
                }
                _ => Ok(()),
            };
        };
        self.mend_link(parent)?;
        let wanted = layout::lowers_on(&self.home, parent, self.most)?;
        let found = layout::read_lower_file(id, &dir);
        if !matches!(&found, Ok(Some(names)) if *names == wanted) {
            atomic::write(&lower, lower_text(&wanted).as_bytes())
                .map_err(io_at("write", &lower))?;
        }
        let work = dir.join(WORK);
        match fs::symlink_metadata(&work) {
            Ok(meta) if meta.is_dir() && self.some_indexed => self.settle_index(id),
            Ok(meta) if meta.is_dir() => Ok(()),
            Ok(_) => {
                delete_tree(&work).map_err(io_at("remove", &work))?;
                new_dir(&work, 0o700)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => new_dir(&work, 0o700),
            Err(error) => Err(io_at("look at", work)(error)),
        }
    }

    /// Makes `link` and `l/…` of a layer agree again after a power cut.
    pub(super) fn mend_link(&self, id: &LayerId) -> Result<(), StorageError> {
        let dir = self.home.layer(id);
        let named = layout::read_link_file(&dir)?;
        if let Some(name) = &named {
            let path = self.home.dir().join(name.relative());
            match fs::symlink_metadata(&path) {
                Ok(_) if layout::linked(&self.home, name).as_ref() == Some(id) => return Ok(()),
                Ok(_) if !self.is_of_another(name, id)? => {
                    return layout::remake_link(&self.home, name, id);
                }
                // Two layers have the name, and one may keep it.
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return layout::make_link(&self.home, name, id);
                }
                Err(error) => return Err(io_at("look at", path)(error)),
            }
        }
        let diff = dir.join(DIFF);
        if !diff.try_exists().map_err(io_at("look at", &diff))? {
            // Not a layer of ours; whoever asks for it is told.
            return Ok(());
        }
        let name = match self.find_link(id)? {
            Some(name) => name,
            None => ShortName::random(),
        };
        layout::rewrite_link_file(&dir, &name)?;
        if self.find_link(id)?.is_none() {
            layout::make_link(&self.home, &name, id)?;
        }
        Ok(())
    }

    /// Whether the short name points to another layer that says that it is its own.
    fn is_of_another(&self, name: &ShortName, id: &LayerId) -> Result<bool, StorageError> {
        match layout::linked(&self.home, name) {
            Some(other) if other != *id => {
                Ok(layout::read_link_file(&self.home.layer(&other))?.as_ref() == Some(name))
            }
            _ => Ok(false),
        }
    }

    /// The short name that points to the layer.
    pub(super) fn find_link(&self, id: &LayerId) -> Result<Option<ShortName>, StorageError> {
        let links = self.home.dir().join(layout::LINKS);
        for entry in fs::read_dir(&links).map_err(io_at("list", &links))? {
            let entry = entry.map_err(io_at("list", &links))?;
            let points_here =
                fs::read_link(entry.path()).is_ok_and(|target| target == layout::link_target(id));
            if points_here && let Some(name) = entry.file_name().to_str().and_then(ShortName::parse)
            {
                return Ok(Some(name));
            }
        }
        Ok(None)
    }
}

//! The directory `layers/`: each layer's tar-split, and who made it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use berth_fs::atomic;
use berth_fs::reserve::Reserve;
use berth_types::{ChainId, DiffId, Digest, LayerId, Timestamp};
use serde::{Deserialize, Serialize};

use crate::LayerError;

const NEW: &str = ".berth-new-";
const REMOVING: &str = ".berth-removing-";
const TAR_SPLIT: &str = "tar-split.json.gz";
const NOTE: &str = "layer.json";

/// What `layer.json` says: enough to find out by hand what a driver's layer is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Note {
    pub(crate) diff_id: DiffId,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) parent: Option<ChainId>,
    pub(crate) driver: String,
    pub(crate) layer_id: LayerId,
}

/// What is in the directory.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Of layers that were being made.
    pub(crate) new: Vec<(LayerId, PathBuf)>,
    /// Of layers in their place.
    pub(crate) layers: Vec<(ChainId, PathBuf)>,
    /// Removed, to be deleted.
    pub(crate) trash: Vec<PathBuf>,
}

/// The directory `layers/`.
#[derive(Debug)]
pub(crate) struct Files {
    dir: PathBuf,
    reserve: Reserve,
    /// How many ingests rely on a chain's files before its record is written.
    claims: Mutex<BTreeMap<ChainId, usize>>,
}

/// `map_err` closure for a failed system call on `path`.
pub(crate) fn io_at<E: Into<io::Error>>(
    action: &'static str,
    path: impl Into<PathBuf>,
) -> impl FnOnce(E) -> LayerError {
    let path = path.into();
    move |source| LayerError::Io { action, path, source: source.into() }
}

/// Removes what [`Files::scratch`] made, once nothing is mounted there any more.
pub(crate) fn end_scratch(dir: &Path) {
    let removed = fs::read_dir(dir).and_then(|entries| {
        for entry in entries {
            fs::remove_dir(entry?.path())?;
        }
        fs::remove_dir(dir)
    });
    if let Err(error) = removed {
        tracing::debug!(%error, dir = %dir.display(), "left to the next start");
    }
}

impl Files {
    pub(crate) fn open(root: &Path) -> Result<Self, LayerError> {
        let dir = root.join("layers");
        atomic::create_dir_durable(&dir, 0o700).map_err(io_at("create", &dir))?;
        let reserve = Reserve::at(&dir);
        Ok(Self { dir, reserve, claims: Mutex::new(BTreeMap::new()) })
    }

    /// Keeps room for removals. At the start: a copy that is only read needs none.
    pub(crate) fn keep_room(&self) {
        self.reserve.renew();
    }

    /// A new tar-split file for a layer in the making.
    pub(crate) fn start(&self, layer: &LayerId) -> Result<File, LayerError> {
        let dir = self.new_dir(layer);
        fs::DirBuilder::new().mode(0o700).create(&dir).map_err(io_at("create", &dir))?;
        let path = dir.join(TAR_SPLIT);
        let mut options = fs::OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        options.open(&path).map_err(io_at("create", path))
    }

    /// A new directory for somebody to mount below; a crash leaves it to the next start.
    pub(crate) fn scratch(&self) -> Result<PathBuf, LayerError> {
        let dir = self.new_dir(&LayerId::random());
        fs::DirBuilder::new().mode(0o700).create(&dir).map_err(io_at("create", &dir))?;
        Ok(dir)
    }

    /// Completes a layer's files; the caller syncs.
    pub(crate) fn complete(&self, layer: &LayerId, note: &Note) -> Result<(), LayerError> {
        let path = self.new_dir(layer).join(NOTE);
        let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let file = file.map_err(io_at("create", &path))?;
        serde_json::to_writer(file, note).map_err(io_at("write", path))
    }

    /// Whether `path` is on the same file system.
    pub(crate) fn is_beside(&self, path: &Path) -> bool {
        let device = |path: &Path| fs::metadata(path).map(|meta| meta.dev()).ok();
        device(&self.dir).is_some_and(|own| device(path) == Some(own))
    }

    /// Makes everything in the directory survive a power cut.
    pub(crate) fn sync(&self) -> Result<(), LayerError> {
        berth_sys::fsinfo::sync_fs_of(&self.dir).map_err(io_at("sync", &self.dir))
    }

    /// Makes the renames survive a power cut.
    pub(crate) fn sync_names(&self) -> Result<(), LayerError> {
        atomic::sync_dir(&self.dir).map_err(io_at("sync", &self.dir))
    }

    /// Puts a completed layer's files in their place, or finds the chain's files there already,
    /// and keeps them there until [`unclaim`](Self::unclaim).
    pub(crate) fn claim(&self, chain: &ChainId, layer: &LayerId) -> Result<(), LayerError> {
        let mut claims = self.claims();
        let place = self.dir.join(chain.hex());
        match fs::rename(self.new_dir(layer), &place) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
                self.discard_new(layer)?;
            }
            Err(error) => return Err(io_at("rename to", place)(error)),
        }
        *claims.entry(chain.clone()).or_default() += 1;
        Ok(())
    }

    /// Puts the completed files of `layer` in the place of the chain's, which are moved to
    /// `lost_and_found` if there are any.
    pub(crate) fn renew(
        &self,
        chain: &ChainId,
        layer: &LayerId,
        lost_and_found: &Path,
    ) -> Result<(), LayerError> {
        let _nobody_claims = self.claims();
        let place = self.dir.join(chain.hex());
        if place.try_exists().map_err(io_at("look at", &place))? {
            Self::set_aside(chain, &place, lost_and_found)?;
        }
        fs::rename(self.new_dir(layer), &place).map_err(io_at("rename to", place))?;
        self.sync_names()
    }

    /// Moves a chain's files to `lost_and_found`.
    pub(crate) fn set_aside(
        chain: &ChainId,
        path: &Path,
        lost_and_found: &Path,
    ) -> Result<PathBuf, LayerError> {
        let dir = lost_and_found;
        atomic::create_dir_durable(dir, 0o700).map_err(io_at("create", dir))?;
        let to = dir.join(format!("layers-{}-{}", chain.hex(), Timestamp::now().unix_nanos()));
        fs::rename(path, &to).map_err(io_at("rename", path))?;
        atomic::sync_dir(dir).map_err(io_at("sync", dir))?;
        tracing::warn!(chain = %chain, to = %to.display(), "set aside a layer's files");
        Ok(to)
    }

    /// Ends a claim. The files go when nobody else claims them and `recorded` says that there is
    /// no record.
    pub(crate) fn unclaim(
        &self,
        chain: &ChainId,
        recorded: impl FnOnce() -> Result<bool, LayerError>,
    ) -> Result<(), LayerError> {
        let mut claims = self.claims();
        let left = claims.get(chain).map_or(0, |count| count - 1);
        if left > 0 {
            claims.insert(chain.clone(), left);
            return Ok(());
        }
        claims.remove(chain);
        if recorded()? { Ok(()) } else { self.trash(&self.dir.join(chain.hex())) }
    }

    /// Takes a removed layer's files away, unless they are needed again.
    pub(crate) fn remove(
        &self,
        chain: &ChainId,
        recorded: impl FnOnce() -> Result<bool, LayerError>,
    ) -> Result<(), LayerError> {
        let claims = self.claims();
        if claims.contains_key(chain) || recorded()? {
            return Ok(());
        }
        self.trash(&self.dir.join(chain.hex()))
    }

    /// Takes away what a layer in the making left.
    pub(crate) fn discard_new(&self, layer: &LayerId) -> Result<(), LayerError> {
        self.trash(&self.new_dir(layer))
    }

    /// Moves to the trash, to be deleted by [`reap`](Self::reap). Nothing there is fine.
    pub(crate) fn trash(&self, path: &Path) -> Result<(), LayerError> {
        let to = self.dir.join(format!("{REMOVING}{}", LayerId::random()));
        match self.reserve.spend(|| fs::rename(path, &to)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(io_at("rename", path)(error))
            }
            _ => Ok(()),
        }
    }

    /// Deletes the trash.
    pub(crate) fn reap(&self) -> Result<(), LayerError> {
        for path in self.scan()?.trash {
            match fs::remove_dir_all(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(io_at("remove", path)(error));
                }
                _ => {}
            }
        }
        self.reserve.renew();
        Ok(())
    }

    /// Opens a layer's tar-split.
    pub(crate) fn tar_split(&self, chain: &ChainId) -> Result<File, LayerError> {
        let path = self.dir.join(chain.hex()).join(TAR_SPLIT);
        File::open(&path).map_err(io_at("open", path))
    }

    /// Whether a layer's tar-split is there.
    pub(crate) fn has_tar_split(&self, chain: &ChainId) -> bool {
        fs::symlink_metadata(self.dir.join(chain.hex()).join(TAR_SPLIT)).is_ok()
    }

    /// What a layer's files say of it; `None` when they do not.
    pub(crate) fn note(path: &Path) -> Option<Note> {
        serde_json::from_slice(&fs::read(path.join(NOTE)).ok()?).ok()
    }

    /// Everything in the directory that berth made.
    pub(crate) fn scan(&self) -> Result<Found, LayerError> {
        let mut found = Found::default();
        for entry in fs::read_dir(&self.dir).map_err(io_at("list", &self.dir))? {
            let entry = entry.map_err(io_at("list", &self.dir))?;
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            if let Some(id) = name.strip_prefix(NEW).and_then(|id| LayerId::parse(id).ok()) {
                found.new.push((id, entry.path()));
            } else if name.starts_with(REMOVING) {
                found.trash.push(entry.path());
            } else if let Ok(digest) = Digest::from_hex(name) {
                found.layers.push((ChainId::from(digest), entry.path()));
            }
        }
        Ok(found)
    }

    pub(crate) fn place(&self, chain: &ChainId) -> PathBuf {
        self.dir.join(chain.hex())
    }

    fn new_dir(&self, layer: &LayerId) -> PathBuf {
        self.dir.join(format!("{NEW}{layer}"))
    }

    fn claims(&self) -> MutexGuard<'_, BTreeMap<ChainId, usize>> {
        // Counts stay right whatever a holder did: each change is one statement.
        self.claims.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

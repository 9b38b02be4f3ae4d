//! Creating volumes: the directory is staged, then the record is committed, then the directory
//! gets its name. [`recover`](VolumeStore::recover) undoes it before the commit and finishes it
//! after.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use berth_db::Tx;
use berth_fs::{atomic, steps};
use berth_types::{Owner, Timestamp};

use super::locks::Held;
use super::{ANONYMOUS_LABEL, LOCAL, NewVolume, Volume, VolumeStore, records};
use crate::names::{DATA, OPTIONS, VolumePaths};
use crate::{LocalOptions, VolumeError, anonymous_name, check_name, options};

/// A volume that a use case is about to record. While it lives its name is held: nobody creates
/// or removes a volume of that name. Dropping it without publishing removes the staged directory.
#[derive(Debug)]
pub struct Staged {
    volume: Volume,
    paths: VolumePaths,
    state: State,
    /// Its record may be committed: only [`recover`](VolumeStore::recover) may judge the staged directory.
    recorded: AtomicBool,
    _held: Arc<Held>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// It was there already.
    Existing,
    /// Its directory stands under its staging name.
    New,
}

impl Staged {
    /// The volume as it will be, or as it is when it exists.
    pub fn volume(&self) -> &Volume {
        &self.volume
    }

    /// Whether there was no such volume.
    pub fn is_new(&self) -> bool {
        self.state != State::Existing
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if self.state == State::New
            && !self.recorded.load(Ordering::Relaxed)
            && let Err(error) = std::fs::remove_dir_all(&self.paths.create)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.paths.create.display(), %error, "a staged volume stays");
        }
    }
}

impl VolumeStore {
    /// Creates a volume, or answers the one of that name; the flag says whether it is new.
    pub fn create(&self, new: &NewVolume) -> Result<(Volume, bool), VolumeError> {
        let staged = self.stage(std::slice::from_ref(new))?;
        if staged.iter().any(Staged::is_new) {
            self.db.write(|tx| self.record(tx, &staged))?;
        }
        let mut published = self.publish(staged)?;
        Ok(published.pop().expect("one answer for one request"))
    }

    /// The first part of creating several volumes together with other records: checks everything,
    /// stages the directories and holds the names until [`publish`](Self::publish) or drop.
    /// One answer for each request, in order.
    ///
    /// Never call it while holding what another call gave: two callers would wait for each other.
    pub fn stage(&self, new: &[NewVolume]) -> Result<Vec<Staged>, VolumeError> {
        let mut wanted = Vec::with_capacity(new.len());
        for request in new {
            let mut request = request.clone();
            if request.name.is_empty() {
                request.name = anonymous_name();
                request.anonymous = true;
            }
            wanted.push(request);
        }
        let names: Vec<&str> = wanted.iter().map(|request| request.name.as_str()).collect();
        let held = Arc::new(self.busy.hold(&names));
        let mut staged: Vec<Staged> = Vec::with_capacity(wanted.len());
        for request in &wanted {
            let twin = staged.iter().find(|earlier| earlier.volume.name == request.name);
            let one = match twin {
                Some(twin) => {
                    self::staged(twin.volume.clone(), twin.paths.clone(), State::Existing, &held)
                }
                None => self.stage_one(request, &held)?,
            };
            staged.push(one);
        }
        Ok(staged)
    }

    /// The second part: the records.
    pub fn record(&self, tx: &Tx<'_>, staged: &[Staged]) -> Result<(), VolumeError> {
        for one in staged.iter().filter(|one| one.is_new()) {
            one.recorded.store(true, Ordering::Relaxed);
            records::insert(tx, &one.volume)?;
        }
        Ok(())
    }

    /// The last part, after the transaction was committed: the directories get their names.
    #[expect(clippy::needless_pass_by_value, reason = "it lets go of the names")]
    pub fn publish(&self, staged: Vec<Staged>) -> Result<Vec<(Volume, bool)>, VolumeError> {
        let mut published = Vec::with_capacity(staged.len());
        let mut renamed = false;
        for one in &staged {
            if one.is_new() {
                steps::reached("volume-create.before-rename");
                std::fs::rename(&one.paths.create, &one.paths.home)
                    .map_err(VolumeError::io("name the directory", &one.paths.home))?;
                renamed = true;
            }
            published.push((one.volume.clone(), one.is_new()));
        }
        if renamed {
            atomic::sync_dir(&self.root).map_err(VolumeError::io("sync", &self.root))?;
        }
        Ok(published)
    }

    fn stage_one(&self, request: &NewVolume, held: &Arc<Held>) -> Result<Staged, VolumeError> {
        let name = &request.name;
        let paths = self.paths(name);
        if let Some(existing) = self.find(name)? {
            if !request.driver.is_empty() && request.driver != existing.driver {
                return Err(VolumeError::DriverConflict {
                    name: name.clone(),
                    existing: existing.driver,
                });
            }
            return Ok(staged(existing, paths, State::Existing, held));
        }
        if !request.driver.is_empty() && request.driver != LOCAL {
            return Err(VolumeError::DriverNotFound {
                name: name.clone(),
                driver: request.driver.clone(),
            });
        }
        check_name(name)?;
        LocalOptions::check(name, &request.options)?;
        stage_directory(&paths, &request.options, self.owner)?;
        let volume = new_volume(request, &paths);
        Ok(staged(volume, paths, State::New, held))
    }
}

fn staged(volume: Volume, paths: VolumePaths, state: State, held: &Arc<Held>) -> Staged {
    Staged { volume, paths, state, recorded: AtomicBool::new(false), _held: Arc::clone(held) }
}

fn new_volume(request: &NewVolume, paths: &VolumePaths) -> Volume {
    let mut labels = request.labels.clone();
    if request.anonymous {
        labels.insert(ANONYMOUS_LABEL.to_owned(), String::new());
    }
    Volume {
        name: request.name.clone(),
        driver: LOCAL.to_owned(),
        labels,
        options: request.options.clone(),
        created: Timestamp::from_unix(Timestamp::now().unix(), 0).unwrap_or_default(),
        anonymous: request.anonymous,
        mountpoint: paths.data.clone(),
    }
}

/// Makes the whole directory under its staging name, synced.
fn stage_directory(
    paths: &VolumePaths,
    given: &BTreeMap<String, String>,
    owner: Owner,
) -> Result<(), VolumeError> {
    let stage = &paths.create;
    match std::fs::remove_dir_all(stage) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(VolumeError::io("remove the stale", stage)(error));
        }
        _ => {}
    }
    let result = fill_stage(stage, given, owner);
    if result.is_err()
        && let Err(error) = std::fs::remove_dir_all(stage)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %stage.display(), %error, "a staged volume stays");
    }
    result
}

fn fill_stage(
    stage: &Path,
    given: &BTreeMap<String, String>,
    owner: Owner,
) -> Result<(), VolumeError> {
    make_dir(stage, 0o701)?;
    let data = stage.join(DATA);
    make_dir(&data, 0o755)?;
    if owner != Owner::ROOT {
        std::os::unix::fs::chown(&data, Some(owner.uid), Some(owner.gid))
            .map_err(VolumeError::io("set the owner of", data))?;
    }
    if !given.is_empty() {
        options::write_file(&stage.join(OPTIONS), given)?;
    }
    atomic::sync_dir(stage).map_err(VolumeError::io("sync", stage))?;
    let parent = stage.parent().expect("a staged volume stands in the store's directory");
    atomic::sync_dir(parent).map_err(VolumeError::io("sync", parent))?;
    steps::reached("volume-create.staged");
    Ok(())
}

/// Makes a directory with exactly this mode, whatever the umask.
fn make_dir(path: &Path, mode: u32) -> Result<(), VolumeError> {
    DirBuilder::new()
        .mode(mode)
        .create(path)
        .and_then(|()| std::fs::set_permissions(path, Permissions::from_mode(mode)))
        .map_err(VolumeError::io("create the directory", path))
}

//! A layer without a parent that is ready before somebody asks for it.
//!
//! Making a device, and mounting its file system for the first time, is a good part of what an import
//! takes. After one, the next one's device is made in the background, and mounted where nobody sees
//! it: whoever then mounts it has it at once. It is let rest after a while, when nobody came; its file
//! system has then been mounted once, which makes the next mount quicker.

use std::io::ErrorKind;
use std::mem::take;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use berth_sys::dm;
use berth_sys::mount::detached;
use berth_types::LayerId;
use berth_types::kind::chain;
use rustix::fs::{Mode, OFlags, StatVfsMountFlags};

use super::filesystem::{self, ROOT};
use super::records::{Device, Role};
use super::set::{Origin, Set, step};
use crate::StorageError;

/// How long a spare is kept mounted: imports and pulls come in bursts.
const AWAKE: Duration = Duration::from_mins(1);
/// How long one that is being made is waited for at most.
const PATIENCE: Duration = Duration::from_secs(5);

/// The spare of a set, and the thread that makes it.
#[derive(Debug, Default)]
pub(super) struct Spares {
    keeping: Mutex<Keeping>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Keeping {
    /// Drivers over the set.
    users: usize,
    is_closed: bool,
    is_wanted: bool,
    is_being_made: bool,
    spare: Option<Spare>,
    /// The mounts of spares that became layers, until those are filled.
    taken: Vec<(LayerId, OwnedFd)>,
    maker: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Spare {
    device: Device,
    /// Not while it rests; and since when.
    awake: Option<(OwnedFd, Instant)>,
}

impl Spares {
    fn keeping(&self) -> MutexGuard<'_, Keeping> {
        // Each change is one assignment.
        self.keeping.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn used_once_more(&self) {
        self.keeping().users += 1;
    }

    pub(super) fn used_once_less(&self) {
        let is_last = {
            let mut keeping = self.keeping();
            keeping.users -= 1;
            keeping.users == 0
        };
        if is_last {
            self.close();
        }
    }

    /// Unmounts what it has mounted, and makes no more. Waits for one that is just being made.
    pub(super) fn close(&self) {
        let maker = {
            let mut keeping = self.keeping();
            keeping.is_closed = true;
            keeping.maker.take()
        };
        self.changed.notify_all();
        if let Some(maker) = maker
            && maker.thread().id() != std::thread::current().id()
            && maker.join().is_err()
        {
            tracing::warn!("what makes spare layers ended in panic");
        }
        let mut keeping = self.keeping();
        let (spare, taken) = (keeping.spare.take(), take(&mut keeping.taken));
        drop(keeping);
        drop((spare, taken));
    }

    /// The layer is filled, or will not be: its mount is its user's alone.
    pub(super) fn let_go(&self, id: &LayerId) {
        let mut keeping = self.keeping();
        let found = keeping.taken.iter().position(|(taken, _)| taken == id);
        let mount = found.map(|at| keeping.taken.swap_remove(at));
        drop(keeping);
        // Which writes out the file system, unless somebody else has it mounted.
        drop(mount);
    }

    /// Waits for one that is being made: making another would take longer.
    fn take(&self) -> Option<Spare> {
        let keeping = self.keeping();
        let is_coming = |keeping: &mut Keeping| {
            let is_coming = keeping.is_wanted || keeping.is_being_made;
            keeping.spare.is_none() && is_coming && !keeping.is_closed
        };
        let waited = self.changed.wait_timeout_while(keeping, PATIENCE, is_coming);
        let spare = waited.unwrap_or_else(PoisonError::into_inner).0.spare.take();
        self.changed.notify_all();
        spare
    }

    pub(super) fn has_one(&self) -> bool {
        self.keeping().spare.is_some()
    }

    /// Makes spares and lets them rest, until the end.
    fn run(&self, set: &Weak<Set>) {
        let mut keeping = self.keeping();
        while !keeping.is_closed {
            if take(&mut keeping.is_wanted) {
                if keeping.spare.as_ref().is_none_or(|spare| spare.awake.is_none()) {
                    keeping.spare = None;
                    keeping.is_being_made = true;
                    drop(keeping);
                    let made = make(set);
                    keeping = self.keeping();
                    (keeping.spare, keeping.is_being_made) = (made, false);
                }
                self.changed.notify_all();
                continue;
            }
            let since = keeping.spare.as_ref().and_then(|spare| Some(spare.awake.as_ref()?.1));
            let Some(since) = since else {
                keeping = self.changed.wait(keeping).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let left = AWAKE.saturating_sub(since.elapsed());
            if left.is_zero() {
                let spare = keeping.spare.take();
                drop(keeping);
                let resting = spare.and_then(|spare| let_rest(set, spare));
                keeping = self.keeping();
                keeping.spare = resting;
            } else {
                let waited = self.changed.wait_timeout(keeping, left);
                keeping = waited.unwrap_or_else(PoisonError::into_inner).0;
            }
        }
    }
}

fn make(set: &Weak<Set>) -> Option<Spare> {
    let made = set.upgrade()?.make_spare();
    made.unwrap_or_else(|error| {
        // Whoever wants a layer is told what is wrong, if that is still so.
        tracing::debug!(error = chain(&error), "no spare layer");
        None
    })
}

fn let_rest(set: &Weak<Set>, spare: Spare) -> Option<Spare> {
    let set = set.upgrade()?;
    let device = spare.device;
    drop(spare.awake);
    if let Err(error) = set.mapper.remove(&set.name(&Role::Spare, &device)) {
        tracing::debug!(error = chain(&error), "a spare layer stays active");
    }
    Some(Spare { device, awake: None })
}

impl Set {
    /// Has a spare made, if there is none.
    pub(super) fn keep_spare(this: &Arc<Self>) {
        let mut keeping = this.spares.keeping();
        if keeping.is_closed {
            return;
        }
        if keeping.maker.is_none() {
            let (spares, set) = (Arc::clone(&this.spares), Arc::downgrade(this));
            let work = move || spares.run(&set);
            match std::thread::Builder::new().name("dm-spare".to_owned()).spawn(work) {
                Ok(maker) => keeping.maker = Some(maker),
                Err(error) => tracing::debug!(%error, "no spare layer"),
            }
        }
        keeping.is_wanted = keeping.maker.is_some();
        drop(keeping);
        this.spares.changed.notify_all();
    }

    /// Makes it, or wakes the one that rests.
    fn make_spare(&self) -> Result<Option<Spare>, StorageError> {
        let Some(base) = self.device(&Role::Base)? else { return Ok(None) };
        if !self.state().base_is_begun {
            return Ok(None);
        }
        self.check_space()?;
        let device = match self.device(&Role::Spare)? {
            Some(device) if device.size == base.size => device,
            left => {
                if let Some(left) = left {
                    self.throw_away(&left)?;
                }
                self.make(&Role::Spare, Origin::SnapshotOf(&Role::Base), base.size)?
            }
        };
        step("dm.spare.made");
        match self.wake_spare(&device) {
            Ok(mount) => Ok(Some(Spare { device, awake: Some((mount, Instant::now())) })),
            Err(error) => {
                self.throw_away(&device)?;
                Err(error)
            }
        }
    }

    fn throw_away(&self, device: &Device) -> Result<(), StorageError> {
        self.mapper.remove(&self.name(&Role::Spare, device))?;
        self.delete(&Role::Spare, device)
    }

    fn wake_spare(&self, device: &Device) -> Result<OwnedFd, StorageError> {
        self.activate(&Role::Spare, device)?;
        let source = dm::path(&self.name(&Role::Spare, device));
        let fs = filesystem::probe(&source)?.fs;
        let options = filesystem::mount_options(fs, &self.options);
        detached(fs.name(), &source, &options).map_err(|error| StorageError::Mount {
            fs_type: fs.name().to_owned(),
            target: source,
            source: error,
        })
    }

    /// At the start: the spare of the last process, which has mounted it no more.
    pub(super) fn find_spare(&self) -> Result<(), StorageError> {
        if self.spares.has_one() {
            return Ok(());
        }
        let begin = format!("{}-spare-", self.prefix);
        for name in self.mapper.names()? {
            // Also of one that became a layer and was about to get its name.
            if name.starts_with(&begin) && !self.mapper.remove_if_unused(&name)? {
                tracing::warn!(name, "somebody uses a spare layer");
                return Ok(());
            }
        }
        let device = self.device(&Role::Spare)?;
        self.spares.keeping().spare = device.map(|device| Spare { device, awake: None });
        Ok(())
    }

    /// Makes the spare a layer, if there is one of this size. One that is found unfit is thrown away by
    /// whoever makes the next.
    pub(super) fn take_spare(&self, id: &LayerId, size: u64) -> Result<bool, StorageError> {
        let Some(Spare { device, awake }) = self.spares.take() else { return Ok(false) };
        let layer = Role::Layer(id.clone());
        let (spare, name) = (self.name(&Role::Spare, &device), self.name(&layer, &device));
        let is_fit = match &awake {
            Some((mount, _)) => works(mount),
            // The layer's name must be the only one that it has.
            None => self.mapper.remove_if_unused(&spare)?,
        };
        if device.size != size || !is_fit {
            return Ok(false);
        }
        {
            // Nobody activates it between the two.
            let _state = self.state();
            match self.records.turn(&Role::Spare, &layer) {
                Err(StorageError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {
                    return Ok(false);
                }
                other => other?,
            }
            step("dm.spare.turned");
            if let Some((mount, _)) = awake {
                match self.mapper.rename(&spare, &name) {
                    Ok(()) => self.spares.keeping().taken.push((id.clone(), mount)),
                    Err(error) => {
                        tracing::debug!(error = chain(&error), "a spare layer begins at rest");
                        drop(mount);
                        self.mapper.remove(&spare)?;
                    }
                }
            }
        }
        self.records.sync()?;
        Ok(true)
    }
}

/// Whether the file system goes on: one whose device failed meanwhile does not, or is read-only.
fn works(mount: &OwnedFd) -> bool {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(root) = rustix::fs::openat(mount, ROOT, flags, Mode::empty()) else { return false };
    rustix::fs::fstatvfs(root).is_ok_and(|found| !found.f_flag.contains(StatVfsMountFlags::RDONLY))
}

//! The layers below one dataset: what is known of them, and each change of one as one command.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use berth_fs::steps;
use berth_sys::fsinfo;
use berth_sys::mount::{MountRequest, Unmount, mount, unmount};
use berth_sys::mountns::within_private;
use berth_types::kind::chain;
use berth_types::{LayerId, Owner};
use rustix::io::Errno;

use super::command::Runner;
use super::driver::{NAME, refusal};
use super::error::ZfsError;
use super::listing::{self, Listing};
use super::names::{Dataset, MARK, Role};
use super::status::Status;
use crate::error::io_at;
use crate::home::make_dir;
use crate::{LayerState, StorageError};

/// The layers below one dataset.
#[derive(Debug)]
pub(super) struct Set {
    pub(super) home: PathBuf,
    pub(super) dataset: Dataset,
    pub(super) runner: Runner,
    /// Never held while a command runs.
    state: Mutex<State>,
    /// Held while removed layers are destroyed.
    pub(super) reaping: Mutex<()>,
    pub(super) status: Status,
}

/// What there is.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct State {
    layers: BTreeMap<LayerId, LayerState>,
    /// Removed layers, by their whole names.
    trash: BTreeSet<String>,
}

impl State {
    pub(super) fn of(listing: &Listing, dataset: &Dataset) -> Self {
        let mut state = Self::default();
        for (name, found) in listing {
            match Role::of(name) {
                Role::Layer(id) if found.is_marked => {
                    let committed = found.is_committed;
                    let is = if committed { LayerState::Committed } else { LayerState::Active };
                    state.layers.insert(id, is);
                }
                Role::Removing => {
                    state.trash.insert(format!("{dataset}/{name}"));
                }
                Role::Layer(_) | Role::Creating(_) | Role::Foreign => {}
            }
        }
        state
    }
}

impl Set {
    pub(super) fn new(home: &Path, dataset: Dataset, runner: Runner, state: State) -> Self {
        Self {
            home: home.to_owned(),
            dataset,
            runner,
            state: Mutex::new(state),
            reaping: Mutex::new(()),
            status: Status::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change of it is one call.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn state_of(&self, id: &LayerId) -> Option<LayerState> {
        self.state().layers.get(id).copied()
    }

    /// Fails when the layer is not there.
    pub(super) fn check(&self, id: &LayerId) -> Result<LayerState, StorageError> {
        self.state_of(id).ok_or_else(|| unknown(id))
    }

    pub(super) fn trash(&self) -> BTreeSet<String> {
        self.state().trash.clone()
    }

    pub(super) fn forget_trash(&self, name: &str) {
        self.state().trash.remove(name);
    }

    /// What the kernel has.
    pub(super) fn read(&self) -> Result<Listing, ZfsError> {
        let text = self.runner.zfs(&listing::arguments(&self.dataset))?;
        listing::parse(&text, &self.dataset)
    }

    pub(super) fn list(&self) -> Result<Vec<(LayerId, LayerState)>, StorageError> {
        Ok(State::of(&self.read()?, &self.dataset).layers.into_iter().collect())
    }

    /// Makes a layer.
    pub(super) fn make(
        &self,
        id: &LayerId,
        parent: Option<&LayerId>,
        quota: Option<&str>,
        root: Owner,
    ) -> Result<(), StorageError> {
        let name = self.dataset.layer(id);
        // A new file system belongs to the host's root.
        let is_given = parent.is_none() && root != Owner::ROOT;
        let first = if is_given { self.dataset.creating(id) } else { name.clone() };
        let made = self.run_making(&first, parent, quota);
        made.map_err(|error| match parent {
            _ if error.is_there() => StorageError::LayerExists { driver: NAME, id: id.clone() },
            Some(parent) if error.is_gone() => unknown(parent),
            _ => refusal(error, quota),
        })?;
        if is_given {
            step("zfs.create.staged");
            let given = self.give(&first, root).and_then(|()| self.rename(&first, &name));
            if let Err(error) = given {
                self.undo(&first);
                return Err(error);
            }
        }
        step("zfs.create.made");
        self.state().layers.insert(id.clone(), LayerState::Active);
        Ok(())
    }

    /// One command. The kernel makes the file system and then, in this order, sets the quota and the
    /// other properties, all at once: one that has the mark has everything.
    fn run_making(
        &self,
        name: &str,
        parent: Option<&LayerId>,
        quota: Option<&str>,
    ) -> Result<(), ZfsError> {
        let (origin, quota) =
            (parent.map(|id| self.dataset.frozen(id)), quota.map(|size| format!("quota={size}")));
        let mark = format!("{MARK}=yes");
        let verb = if origin.is_some() { "clone" } else { "create" };
        let mut args = vec![verb, "-o", "mountpoint=legacy", "-o", &mark];
        if let Some(quota) = &quota {
            args.extend(["-o", quota]);
        }
        args.extend(origin.as_deref());
        args.push(name);
        self.runner.zfs(&args).map(drop)
    }

    /// Gives the root of a file system its owner.
    fn give(&self, name: &str, root: Owner) -> Result<(), StorageError> {
        self.within(name, |top| {
            std::os::unix::fs::chown(top, Some(root.uid), Some(root.gid))
                .map_err(io_at("set the owner of", top))
        })
    }

    fn undo(&self, name: &str) {
        if let Err(error) = self.runner.zfs(&["destroy", name]) {
            // The name marks it; the next recovery destroys it.
            tracing::warn!(error = chain(&error), name, "an unfinished layer stays");
        }
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), StorageError> {
        Ok(self.runner.zfs(&["rename", from, to]).map(drop)?)
    }

    /// Freezes a layer.
    pub(super) fn freeze(&self, id: &LayerId) -> Result<(), StorageError> {
        self.write_out(id)?;
        step("zfs.commit.written");
        match self.runner.zfs(&["snapshot", &self.dataset.frozen(id)]) {
            Err(error) if error.is_there() => {}
            Err(error) if error.is_gone() => return Err(unknown(id)),
            other => drop(other?),
        }
        step("zfs.commit.frozen");
        self.state().layers.insert(id.clone(), LayerState::Committed);
        Ok(())
    }

    /// A snapshot has what was written, but not what was written to memory that maps a file and that
    /// the kernel has not looked at. Unmounting does that, unless somebody who made a mount namespace
    /// meanwhile holds a copy of the mount.
    fn write_out(&self, id: &LayerId) -> Result<(), StorageError> {
        let synced = self.within(&self.dataset.layer(id), |top| {
            fsinfo::sync_fs_of(top).map_err(io_at("sync", top))
        });
        match synced {
            // Mounted to be read alone.
            Err(StorageError::Mount { source, .. })
                if source.raw_os_error() == Some(Errno::BUSY.raw_os_error()) =>
            {
                Ok(())
            }
            other => other,
        }
    }

    /// Does something with a mounted file system that nobody else sees.
    fn within(
        &self,
        name: &str,
        work: impl FnOnce(&Path) -> Result<(), StorageError> + Send,
    ) -> Result<(), StorageError> {
        let place = &self.home;
        let request = MountRequest {
            fs_type: NAME,
            source: Path::new(name),
            target: place,
            work_dir: None,
            options: &[],
        };
        let failed = |source| StorageError::Mount {
            fs_type: NAME.to_owned(),
            target: place.clone(),
            source,
        };
        let done = within_private(|| {
            mount(&request).map_err(failed)?;
            let done = work(place);
            // The end of the namespace would do it some time later.
            unmount(place, Unmount::Lazy).map_err(io_at("unmount", place))?;
            done
        });
        done.map_err(failed)?
    }

    /// Takes a layer's name away. Whoever uses it keeps it.
    pub(super) fn take_off(&self, id: &LayerId) -> Result<(), StorageError> {
        if self.state_of(id).is_none() {
            return Ok(());
        }
        let from = self.dataset.layer(id);
        let mut trash = None;
        for attempt in 0.. {
            let to = self.dataset.removing(id, attempt);
            match self.runner.zfs(&["rename", &from, &to]) {
                Err(error) if error.is_there() => continue,
                Err(error) if error.is_gone() => {}
                other => {
                    other?;
                    trash = Some(to);
                }
            }
            break;
        }
        step("zfs.remove.renamed");
        let mut state = self.state();
        state.layers.remove(id);
        state.trash.extend(trash);
        Ok(())
    }

    /// Takes a layer out of the driver's sight and shows it, for reading, to an administrator: now, and
    /// after each start of a machine that mounts its ZFS file systems. Needs no room.
    pub(super) fn move_aside(
        &self,
        id: &LayerId,
        lost_and_found: &Path,
    ) -> Result<PathBuf, StorageError> {
        make_dir(lost_and_found, 0o700)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let name = self.dataset.aside(id, now);
        match self.runner.zfs(&["rename", &self.dataset.layer(id), &name]) {
            Err(error) if error.is_gone() => return Err(unknown(id)),
            other => drop(other?),
        }
        self.state().layers.remove(id);
        let to = lost_and_found.join(format!("{NAME}-{id}-{now}"));
        let at = format!("mountpoint={}", to.display());
        if let Err(error) = self.runner.zfs(&["set", "readonly=on", &at, &name]) {
            let error = chain(&error);
            tracing::error!(error, dataset = name, "a layer that was set aside is not mounted");
            return Ok(name.into());
        }
        Ok(to)
    }

    /// Removes what interrupted calls left.
    pub(super) fn clean_up(&self) -> Result<(), StorageError> {
        for (name, found) in self.read()? {
            let whole = format!("{}/{name}", self.dataset);
            match Role::of(&name) {
                Role::Creating(_) => drop(self.runner.zfs(&["destroy", "-r", &whole])?),
                Role::Layer(id) if found.is_torn() => {
                    tracing::warn!(dataset = whole, "a layer was not made whole");
                    self.runner.zfs(&["destroy", &self.dataset.layer(&id)])?;
                }
                Role::Layer(_) | Role::Removing | Role::Foreign => {}
            }
        }
        Ok(())
    }
}

fn unknown(id: &LayerId) -> StorageError {
    StorageError::UnknownLayer { driver: NAME, id: id.clone() }
}

/// A named point at which a crash test may stop the process.
pub(super) fn step(name: &str) {
    steps::reached(name);
    #[cfg(test)]
    super::tests::stop_at(name);
}

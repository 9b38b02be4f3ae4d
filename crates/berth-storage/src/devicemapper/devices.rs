//! Devices one by one, for administrators: what there is, copies, and what nobody needs.

use std::path::Path;
use std::sync::{MutexGuard, PoisonError};

use berth_sys::dm;
use berth_types::LayerId;

use super::driver::Devicemapper;
use super::error::DevicemapperError;
use super::filesystem;
use super::layout;
use super::records::{Device, Role, is_snapshot_name};
use super::set::{Origin, Set};
use crate::{DeviceKind, Mapped, MountPlan, PoolDevice, Prepared, StorageError, ThinDevices};

/// What names of files begin with that are not Docker's; not shown.
const OWN: &str = ".berth-";

impl Set {
    fn find(&self, id: &str) -> Result<(Role, Device), StorageError> {
        let roles = self.records.roles()?.into_iter().map(|role| (shown(&role), role));
        let role = chosen(roles, id)?;
        let device = self.device(&role)?;
        // Removed meanwhile.
        let device = device.ok_or_else(|| DevicemapperError::NoDevice { id: id.to_owned() })?;
        Ok((role, device))
    }

    fn describe_device(&self, role: &Role, device: &Device) -> Result<PoolDevice, StorageError> {
        let name = self.name(role, device);
        let open_count = self.mapper.info(&name)?.map(|info| info.open_count);
        Ok(PoolDevice {
            id: shown(role),
            kind: kind(role),
            layer: match role {
                Role::Layer(id) => Some(id.clone()),
                _ => None,
            },
            name,
            number: device.device_id,
            size: device.size,
            transaction: device.transaction_id,
            open_count,
            mapped: None,
        })
    }

    /// Through a device of its own: whoever is about to use the usual one is not met.
    fn mapped(&self, device: &Device) -> Result<Option<Mapped>, StorageError> {
        let name = format!("{}-look-{}", self.prefix, device.device_id);
        self.mapper.remove_if_unused(&name)?;
        self.mapper.make(&name, &[self.pool.thin(device.device_id, device.size)])?;
        let status = self.mapper.status(&name);
        self.mapper.remove(&name)?;
        let params = status?.into_iter().next().map(|line| line.params).unwrap_or_default();
        Ok(parse_mapped(&params))
    }

    fn alone(&self) -> MutexGuard<'_, ()> {
        self.reaping.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ThinDevices for Devicemapper {
    fn devices(&self) -> Result<Vec<PoolDevice>, StorageError> {
        let devices = self.set.records.devices()?;
        let mut all = devices
            .iter()
            .map(|(role, device)| self.set.describe_device(role, device))
            .collect::<Result<Vec<_>, _>>()?;
        all.sort_by_key(|device| device.number);
        Ok(all)
    }

    fn device(&self, id: &str) -> Result<PoolDevice, StorageError> {
        let _alone = self.set.alone();
        let (role, device) = self.set.find(id)?;
        let mapped = self.set.mapped(&device)?;
        Ok(PoolDevice { mapped, ..self.set.describe_device(&role, &device)? })
    }

    fn snapshot(&self, name: &str, of: &str) -> Result<PoolDevice, StorageError> {
        if !is_snapshot_name(name) {
            return Err(DevicemapperError::SnapshotName { name: name.to_owned() }.into());
        }
        self.set.check_space()?;
        let _alone = self.set.alone();
        let role = Role::Snapshot(name.to_owned());
        if self.set.records.has(&role)? {
            return Err(DevicemapperError::SnapshotExists { name: name.to_owned() }.into());
        }
        let (from, device) = self.set.find(of)?;
        let made = self.set.make(&role, Origin::SnapshotOf(&from), device.size)?;
        self.set.describe_device(&role, &made)
    }

    fn remove_device(
        &self,
        id: &str,
        is_known: &dyn Fn(&LayerId) -> bool,
    ) -> Result<(), StorageError> {
        let _alone = self.set.alone();
        let (role, device) = self.set.find(id)?;
        let whose = match &role {
            Role::Base => Some("what layers without a parent begin as"),
            Role::Spare => Some("what the next layer without a parent becomes"),
            Role::Creating(_) => Some("a layer that is being made"),
            Role::Removing(..) => Some("removed already, and goes with its last user"),
            Role::Layer(id) if is_known(id) => Some("a layer of an image or a container"),
            Role::Layer(_) | Role::Aside(..) | Role::Snapshot(_) => None,
        };
        if let Some(whose) = whose {
            return Err(DevicemapperError::Needed { id: shown(&role), whose }.into());
        }
        if !self.set.reap_one(&role, &device)? {
            let name = self.set.name(&role, &device);
            return Err(DevicemapperError::Busy { name }.into());
        }
        if let Role::Layer(id) = &role {
            layout::clear_committed(&self.set.home, id)?;
        }
        self.set.watch.wake();
        Ok(())
    }

    fn look_into(&self, id: &str, target: &Path) -> Result<Prepared, StorageError> {
        let (role, device) = self.set.find(id)?;
        self.set.activate(&role, &device)?;
        let source = dm::path(&self.set.name(&role, &device));
        let fs = filesystem::probe(&source)?.fs;
        let mut options = filesystem::mount_options(fs, &self.set.options);
        // The whole of it, as Docker's tool does: a copy of the base has no directory of a layer yet.
        options.push("ro".to_owned());
        let mount = MountPlan {
            fs_type: fs.name().to_owned(),
            source,
            target: target.to_owned(),
            work_dir: None,
            options,
        };
        Ok(Prepared { root: target.to_owned(), mounts: vec![mount], teardown: Vec::new() })
    }

    fn let_go(&self, id: &str) -> Result<(), StorageError> {
        let (role, device) = self.set.find(id)?;
        let name = self.set.name(&role, &device);
        if self.set.deferred.removal {
            return self.set.deactivate(&name);
        }
        // It stays until the driver ends, or whoever has it mounted for use lets go of it.
        self.set.mapper.remove_if_unused(&name).map(drop)
    }
}

/// The one that is meant, by its whole id or by a beginning that is no other one's. An init layer,
/// whose id begins as that of its layer, is meant by its whole id alone.
fn chosen<T>(all: impl Iterator<Item = (String, T)>, wanted: &str) -> Result<T, DevicemapperError> {
    let mut found = Vec::new();
    for (id, what) in all {
        if id == wanted {
            return Ok(what);
        }
        if !wanted.is_empty() && id.starts_with(wanted) && !id.ends_with("-init") {
            found.push(what);
        }
    }
    let id = wanted.to_owned();
    match (found.pop(), found.pop()) {
        (Some(what), None) => Ok(what),
        (None, _) => Err(DevicemapperError::NoDevice { id }),
        (Some(_), Some(_)) => Err(DevicemapperError::SeveralDevices { id }),
    }
}

/// The id that an administrator knows a device by.
fn shown(role: &Role) -> String {
    let name = role.to_string();
    name.strip_prefix(OWN).unwrap_or(&name).to_owned()
}

fn kind(role: &Role) -> DeviceKind {
    match role {
        Role::Base => DeviceKind::Base,
        Role::Layer(_) => DeviceKind::Layer,
        Role::Creating(_) => DeviceKind::Unfinished,
        Role::Removing(..) => DeviceKind::Removed,
        Role::Aside(..) => DeviceKind::Aside,
        Role::Snapshot(_) => DeviceKind::Snapshot,
        Role::Spare => DeviceKind::Spare,
    }
}

/// `SECTORS HIGHEST`, or `SECTORS -`.
fn parse_mapped(params: &str) -> Option<Mapped> {
    let mut words = params.split_whitespace();
    let sectors = words.next()?.parse().ok()?;
    Some(Mapped { sectors, highest: words.next().and_then(|word| word.parse().ok()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_meant_by_a_beginning_that_is_no_other_ones() {
        let none = |id: &str| Err(format!("No such device: {id}"));
        let several = |id: &str| Err(format!("multiple devices found with provided prefix: {id}"));
        #[rustfmt::skip]
        let table = [
            ("base",       Ok("base")),
            ("ab12",       Ok("ab12")),
            ("ab12-init",  Ok("ab12-init")),
            ("ab1",        Ok("ab12")),
            ("a",          several("a")),
            ("ac",         Ok("ac")),
            ("snapshot-a", Ok("snapshot-a")),
            ("snapshot",   several("snapshot")),
            ("x",          none("x")),
            ("",           none("")),
        ];
        let ids = ["base", "ab12-init", "ab12", "ac", "snapshot-ab", "snapshot-a"];
        for (wanted, expected) in table {
            let got = chosen(ids.iter().map(|id| ((*id).to_owned(), *id)), wanted);
            assert_eq!(got.map_err(|error| error.to_string()), expected, "{wanted}");
        }
    }

    #[test]
    fn what_is_mapped_is_read() {
        let mapped = |sectors, highest| Some(Mapped { sectors, highest });
        #[rustfmt::skip]
        let table = [
            ("8192 20479", mapped(8192, Some(20479))),
            ("0 -",        mapped(0, None)),
            ("Fail",       None),
            ("",           None),
        ];
        for (params, expected) in table {
            assert_eq!(parse_mapped(params), expected, "{params}");
        }
    }
}

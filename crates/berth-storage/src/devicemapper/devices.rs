//! Devices one by one, for administrators: what there is, copies, and what nobody needs.

use std::path::Path;
use std::sync::{MutexGuard, PoisonError};

use berth_sys::dm;
use berth_types::LayerId;

use super::driver::Devicemapper;
use super::error::DevicemapperError;
use super::filesystem::{self, ROOT};
use super::layout;
use super::records::{Device, Role, is_snapshot_name};
use super::set::{Origin, Set};
use crate::{DeviceKind, Mapped, MountPlan, PoolDevice, Prepared, StorageError, ThinDevices};

/// What names of files begin with that are not Docker's; not shown.
const OWN: &str = ".berth-";

impl Set {
    /// By the whole id, or by a beginning that is no other one's.
    fn find(&self, id: &str) -> Result<(Role, Device), StorageError> {
        let mut found = Vec::new();
        for role in self.records.roles()? {
            let shown = shown(&role);
            if shown == id {
                found = vec![role];
                break;
            }
            if !id.is_empty() && shown.starts_with(id) {
                found.push(role);
            }
        }
        let id = || id.to_owned();
        let mut found = found.into_iter();
        match (found.next(), found.next()) {
            (Some(role), None) => match self.device(&role)? {
                Some(device) => Ok((role, device)),
                None => Err(DevicemapperError::NoDevice { id: id() }.into()),
            },
            (None, _) => Err(DevicemapperError::NoDevice { id: id() }.into()),
            (Some(_), Some(_)) => Err(DevicemapperError::SeveralDevices { id: id() }.into()),
        }
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
        if role != Role::Base {
            options.push(format!("{}{ROOT}", berth_sys::mount::SUBDIR));
        }
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

//! The devices on a thin pool: what there is, copies, a look into one, what nobody needs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use berth_layers::check::Owner;
use berth_storage::{DeviceKind, Mounted, PoolDevice};
use berth_types::LayerId;
use serde_json::{Value, json};

use super::check::owner;
use crate::blocking::blocking;
use crate::engine::Engine;
use crate::error::EngineError;

type Owners = BTreeMap<LayerId, Option<Owner>>;

impl Engine {
    /// Every device on the pool.
    pub async fn pool_devices(&self) -> Result<Vec<Value>, EngineError> {
        self.with_pool(|engine| {
            let devices = engine.thin_pool()?.devices()?;
            let owners = engine.layers().owners()?;
            Ok(devices.iter().map(|device| shown(device, &owners)).collect())
        })
        .await
    }

    /// One device, with what it has of the pool.
    pub async fn pool_device(&self, id: String) -> Result<Value, EngineError> {
        self.with_pool(move |engine| {
            let device = engine.thin_pool()?.device(&id)?;
            Ok(shown(&device, &engine.layers().owners()?))
        })
        .await
    }

    /// Makes a copy of a device as it is at this moment.
    pub async fn snapshot_device(&self, id: String, name: String) -> Result<Value, EngineError> {
        self.with_pool(move |engine| {
            let made = engine.thin_pool()?.snapshot(&name, &id)?;
            Ok(shown(&made, &Owners::new()))
        })
        .await
    }

    /// Removes a device that no image, container or operation has.
    pub async fn remove_device(&self, id: String) -> Result<(), EngineError> {
        self.with_pool(move |engine| {
            let is_known = |layer: &LayerId| match engine.layers().owners() {
                Ok(owners) => owners.contains_key(layer),
                Err(error) => {
                    let error = berth_types::kind::chain(&error);
                    tracing::warn!(error, %layer, "it is not known whose a layer is: it stays");
                    true
                }
            };
            Ok(engine.thin_pool()?.remove_device(&id, &is_known)?)
        })
        .await
    }

    /// Mounts a device to be read, until somebody unmounts it. Gives its device and the directory.
    pub async fn mount_device(&self, id: String, target: String) -> Result<Value, EngineError> {
        self.with_pool(move |engine| {
            let target = PathBuf::from(target);
            if !target.is_absolute() || !target.is_dir() {
                return Err(EngineError::MountTarget { path: target });
            }
            let pool = engine.thin_pool()?;
            let prepared = pool.look_into(&id, &target)?;
            let source = prepared.mounts.first().map(|mount| mount.source.clone());
            let mounted = Mounted::new(prepared);
            let let_go = pool.let_go(&id);
            mounted?.leave();
            let_go?;
            Ok(json!({ "Device": source.as_deref().map(Path::to_owned), "Target": target }))
        })
        .await
    }

    async fn with_pool<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, EngineError> + Send + 'static,
    ) -> Result<T, EngineError> {
        let engine = self.clone();
        blocking(move || work(&engine)).await
    }
}

fn shown(device: &PoolDevice, owners: &Owners) -> Value {
    let (owner_kind, owner) = match device.layer.as_ref().map(|layer| owners.get(layer)) {
        None => ("", String::new()),
        Some(None) => ("nobody", String::new()),
        Some(Some(None)) => ("an operation", String::new()),
        Some(Some(Some(of))) => owner(of),
    };
    let mut shown = json!({
        "Id": device.id,
        "Kind": device.kind.name(),
        "OwnerKind": owner_kind,
        "Owner": owner,
        "Name": device.name,
        "Number": device.number,
        "Size": device.size,
        "SizeInSectors": device.size / 512,
        "Transaction": device.transaction,
        "Active": device.open_count.is_some(),
        "OpenCount": device.open_count.unwrap_or(0),
        "Removable": device.kind == DeviceKind::Snapshot
            || device.kind == DeviceKind::Aside
            || owner_kind == "nobody",
    });
    if let Some(mapped) = device.mapped {
        shown["MappedSectors"] = json!(mapped.sectors);
        shown["HighestMappedSector"] = json!(mapped.highest);
    }
    shown
}

#[cfg(test)]
mod tests {
    use berth_storage::Mapped;
    use berth_types::ContainerId;

    use super::*;

    #[test]
    fn whose_a_device_is_and_whether_it_can_go_is_shown() {
        let layer = LayerId::random();
        let container = ContainerId::random();
        let device = |kind, layer: Option<&LayerId>| PoolDevice {
            id: "x".to_owned(),
            kind,
            layer: layer.cloned(),
            name: "docker-x".to_owned(),
            number: 7,
            size: 1024,
            transaction: 9,
            open_count: Some(2),
            mapped: Some(Mapped { sectors: 1, highest: None }),
        };
        let of = |owner: Option<Owner>| Owners::from([(layer.clone(), owner)]);
        let owned = of(Some(Owner::Container(container.clone())));
        let expected = json!({
            "Id": "x", "Kind": "layer", "OwnerKind": "container", "Owner": container.to_string(),
            "Name": "docker-x", "Number": 7, "Size": 1024, "SizeInSectors": 2, "Transaction": 9,
            "Active": true, "OpenCount": 2, "Removable": false, "MappedSectors": 1,
            "HighestMappedSector": null,
        });
        assert_eq!(shown(&device(DeviceKind::Layer, Some(&layer)), &owned), expected);
        #[rustfmt::skip]
        let table = [
            // kind                 layer         owners           whose           removable
            (DeviceKind::Layer,     Some(&layer), of(None),        "an operation", false),
            (DeviceKind::Layer,     Some(&layer), Owners::new(),   "nobody",       true),
            (DeviceKind::Snapshot,  None,         Owners::new(),   "",             true),
            (DeviceKind::Aside,     None,         Owners::new(),   "",             true),
            (DeviceKind::Base,      None,         Owners::new(),   "",             false),
            (DeviceKind::Removed,   None,         Owners::new(),   "",             false),
        ];
        for (kind, layer, owners, whose, removable) in table {
            let shown = shown(&device(kind, layer), &owners);
            assert_eq!(
                (&shown["OwnerKind"], &shown["Removable"]),
                (&json!(whose), &json!(removable))
            );
        }
    }
}

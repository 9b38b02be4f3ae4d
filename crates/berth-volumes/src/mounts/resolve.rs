//! All mounts of a container, in Docker's order of precedence: its own `Binds` and `Mounts`, then
//! `--volumes-from` (the later wins), then the image's volumes.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use berth_api::container::Mount;

use super::path::clean;
use super::{ContainerMount, MountError, MountKind, Request, read};

/// Every mount of the container, by destination.
///
/// Nothing is created. Volumes have no source yet: the use case stages
/// [`new_volume`](ContainerMount::new_volume) and hands the answer to
/// [`set_volume`](ContainerMount::set_volume).
pub fn resolve(request: &Request<'_>) -> Result<Vec<ContainerMount>, MountError> {
    let mut by_destination = BTreeMap::new();
    for (from, mounts) in request.volumes_from {
        for mount in mounts {
            by_destination.insert(mount.destination.clone(), inherited(mount, from.rw));
        }
    }
    let mut own = HashSet::new();
    for spec in request.binds {
        let mut mount = read::bind(spec, request.volume_driver)?;
        let destination = mount.destination.clone();
        if request.tmpfs.contains_key(&destination) || !own.insert(destination.clone()) {
            return Err(MountError::Duplicate { destination });
        }
        let propagation = spec_propagation(&mount);
        within_data_root(&mut mount, propagation, request.data_root)?;
        by_destination.insert(destination, mount);
    }
    for given in request.mounts {
        let mut mount = read::mount(given)?;
        if !own.insert(mount.destination.clone()) {
            return Err(MountError::Duplicate { destination: given.target.clone() });
        }
        within_data_root(&mut mount, given_propagation(given), request.data_root)?;
        by_destination.insert(mount.destination.clone(), mount);
    }
    let by_flag: HashSet<String> = request.tmpfs.keys().map(|path| clean(path)).collect();
    for key in request.volumes {
        let mount = read::anonymous(key, request.volume_driver);
        if !by_flag.contains(&mount.destination) {
            by_destination.entry(mount.destination.clone()).or_insert(mount);
        }
    }
    let mut mounts: Vec<ContainerMount> = by_destination.into_values().collect();
    // A mount below another comes after it.
    mounts.sort_by_key(|mount| mount.destination.matches('/').count());
    Ok(mounts)
}

/// What `--volumes-from` makes of another container's mount. It fills nothing from the image.
fn inherited(mount: &ContainerMount, rw: bool) -> ContainerMount {
    ContainerMount {
        rw: mount.rw && rw,
        mode: String::new(),
        copy: false,
        default_mode: false,
        create_source: false,
        labels: BTreeMap::new(),
        driver_options: BTreeMap::new(),
        ..mount.clone()
    }
}

/// The propagation that a bind's mode names; without one, Docker's default stands in the mount.
fn spec_propagation(mount: &ContainerMount) -> &'static str {
    let named = |word: &&str| mount.mode.split(',').any(|one| one == *word);
    super::mode::PROPAGATIONS.into_iter().find(named).unwrap_or_default()
}

fn given_propagation(mount: &Mount) -> &str {
    mount.bind_options.as_ref().map_or("", |options| &options.propagation)
}

/// A private bind of something that contains the data root would hold its mounts for ever.
fn within_data_root(
    mount: &mut ContainerMount,
    propagation: &str,
    data_root: &Path,
) -> Result<(), MountError> {
    let overlaps = mount.source.starts_with(data_root) || data_root.starts_with(&mount.source);
    if mount.kind != MountKind::Bind || !overlaps {
        return Ok(());
    }
    match propagation {
        // Docker, too, falls back to a private mount where the host's cannot have slaves.
        "" if host_propagates(mount) => "rslave".clone_into(&mut mount.propagation),
        "" | "rslave" | "rshared" => {}
        other => {
            return Err(MountError::DaemonRoot {
                root: data_root.to_owned(),
                source_path: mount.source.to_string_lossy().into_owned(),
                propagation: other.to_owned(),
            });
        }
    }
    Ok(())
}

fn host_propagates(mount: &ContainerMount) -> bool {
    let covering = berth_sys::mountinfo::covering(&mount.source).ok().flatten();
    covering.is_some_and(|host| !host.propagation.is_empty())
}

//! A disk more for the volume group of a pool.
//!
//! Each step is one of LVM's, whole or not done. A call that was stopped in the middle left a physical
//! volume, or room in the group: the next call for the same disk goes on from there.

use std::path::Path;

use super::error::DevicemapperError;
use super::lvm::{check, has_program, output, run};
use super::options::Lvm;
use super::set::step;
use crate::StorageError;

const PROGRAMS: [&str; 5] = ["pvcreate", "vgextend", "lvextend", "lvs", "vgs"];
/// The most metadata that LVM gives a thin pool: 15.81 GiB.
const MOST_METADATA: u64 = 33_161_216 * 512;

/// Whether a disk may have something on it that is lost then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wipe {
    Yes,
    No,
}

/// Adds `device` to the group that has the pool, and lets the pool have all that is free there.
pub(super) fn extend(pool: &str, device: &Path, wipe: Wipe) -> Result<(), StorageError> {
    for program in PROGRAMS {
        if !has_program(program) {
            let program = program.to_owned();
            return Err(DevicemapperError::NoProgram { program }.into());
        }
    }
    let (group, volume) = volume_of(pool)?;
    let device = device.display().to_string();
    let in_group = output("pvs", &["--noheadings", "-o", "vg_name", &device]);
    match in_group.as_deref().map(str::trim) {
        // As an earlier call left it.
        Some(name) if name == group => {}
        Some("") => add(&group, &device, Disk::Volume)?,
        Some(name) => {
            return Err(DevicemapperError::InGroup { device, group: name.to_owned() }.into());
        }
        None => {
            check_disk(&device, wipe)?;
            add(&group, &device, Disk::New)?;
        }
    }
    step("dm.extend.added");
    give(&group, &volume)
}

/// What a disk is to LVM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Disk {
    New,
    Volume,
}

fn check_disk(device: &str, wipe: Wipe) -> Result<(), StorageError> {
    let asked = Lvm { device: device.to_owned(), force: wipe == Wipe::Yes, ..Lvm::default() };
    match check(&asked, false) {
        Err(StorageError::Devicemapper(
            DevicemapperError::HasFs { device } | DevicemapperError::HasData { device },
        )) => Err(DevicemapperError::WouldWipe { device }.into()),
        other => other,
    }
}

fn add(group: &str, device: &str, disk: Disk) -> Result<(), StorageError> {
    if disk == Disk::New {
        run("pvcreate", &["-f", "-y", device])?;
        step("dm.extend.made");
    }
    let added = run("vgextend", &[group, device]);
    if added.is_err()
        && disk == Disk::New
        && let Err(error) = run("pvremove", &["-f", device])
    {
        let error = berth_types::kind::chain(&error);
        tracing::warn!(error, device, "a physical volume that is in no group stays");
    }
    added
}

/// Metadata first: data without them would be of no use.
fn give(group: &str, volume: &str) -> Result<(), StorageError> {
    let name = format!("{group}/{volume}");
    let sizes = numbers("lvs", "lv_size,lv_metadata_size", &name)?;
    let room = numbers("vgs", "vg_free,vg_extent_size", group)?;
    let (&[data, metadata], &[free, extent]) = (&sizes[..], &room[..]) else {
        return Err(DevicemapperError::NoVolume { name }.into());
    };
    if free < extent {
        return Err(DevicemapperError::NoExtents { group: group.to_owned() }.into());
    }
    if let Some(more) = metadata_share(data, metadata, free, extent) {
        run("lvextend", &["--poolmetadatasize", &format!("+{more}b"), &name])?;
        step("dm.extend.metadata");
    }
    run("lvextend", &["-l", "+100%FREE", &name])
}

/// What the metadata get of `free` bytes, in whole extents; LVM keeps a spare of the same size.
fn metadata_share(data: u64, metadata: u64, free: u64, extent: u64) -> Option<u64> {
    let all = u128::from(data) + u128::from(metadata) * 2;
    let share = u128::from(metadata) * u128::from(free);
    let share = u64::try_from(share.checked_div(all)?).ok()?;
    let share = share.min(MOST_METADATA.saturating_sub(metadata)) / extent.max(1) * extent;
    Some(share).filter(|&share| share > 0)
}

/// Group and name of the volume that the device-mapper calls so.
fn volume_of(pool: &str) -> Result<(String, String), StorageError> {
    let path = berth_sys::dm::path(pool).display().to_string();
    let said = output("lvs", &["--noheadings", "--separator", "/", "-o", "vg_name,lv_name", &path]);
    let names = said.as_deref().and_then(|said| said.trim().split_once('/'));
    let (group, volume) =
        names.ok_or_else(|| DevicemapperError::NoVolume { name: pool.to_owned() })?;
    Ok((group.to_owned(), volume.to_owned()))
}

/// Fields of a report, in bytes.
fn numbers(program: &str, fields: &str, of: &str) -> Result<Vec<u64>, StorageError> {
    let options =
        ["--noheadings", "--units", "b", "--nosuffix", "--separator", "/", "-o", fields, of];
    let said = output(program, &options).unwrap_or_default();
    let parsed: Option<Vec<u64>> = said.trim().split('/').map(|word| word.parse().ok()).collect();
    let failed = || DevicemapperError::Lvm { said: format!("{program} -o {fields} {of}: {said}") };
    Ok(parsed.ok_or_else(failed)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_get_their_part_in_whole_extents() {
        const MIB: u64 = 1 << 20;
        #[rustfmt::skip]
        let table = [
            // data         metadata    free         share
            (9500 * MIB,    100 * MIB,  9700 * MIB,  Some(100 * MIB)),
            (9500 * MIB,    100 * MIB,  400 * MIB,   Some(4 * MIB)),
            (9500 * MIB,    100 * MIB,  300 * MIB,   None),
            (950_000 * MIB, 16_000 * MIB, 950_000 * MIB, Some(192 * MIB)),
            (0,             0,          100 * MIB,   None),
        ];
        for (data, metadata, free, share) in table {
            assert_eq!(metadata_share(data, metadata, free, 4 * MIB), share, "{data} {free}");
        }
    }
}

//! Automatic direct-lvm: a thin pool on a whole disk, made by LVM's programs.
//!
//! What was asked for is kept in `setup-config.json` once the pool is made. Before, the disk is named in
//! `.berth-setup`: a start that finds that takes back what the last one left half-made.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use berth_fs::atomic;
use berth_sys::dm;
use serde::{Deserialize, Serialize};

use super::error::DevicemapperError;
use super::mapper::Mapper;
use super::options::Lvm;
use super::pool::is_empty;
use super::set::step;
use crate::StorageError;
use crate::error::io_at;

/// The pool, as the device-mapper calls it.
pub(super) const POOL: &str = "docker-thinpool";
const GROUP: &str = "docker";
const VOLUME: &str = "docker/thinpool";
const CONFIG: &str = "setup-config.json";
const BEGUN: &str = ".berth-setup";
const PROFILE: &str = "docker-thinpool";
const PROFILES: &str = "/etc/lvm/profile";
const PROGRAMS: [&str; 6] =
    ["pvcreate", "vgcreate", "lvcreate", "lvconvert", "lvchange", "thin_check"];

/// What was asked for: unset is 0. Whether the disk might be wiped is not kept.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Config {
    device: String,
    #[serde(rename = "ThinpPercent")]
    percent: u64,
    #[serde(rename = "ThinpMetaPercent")]
    metadata_percent: u64,
    #[serde(rename = "AutoExtendPercent")]
    extend_percent: u64,
    #[serde(rename = "AutoExtendThreshold")]
    extend_threshold: u64,
}

impl Config {
    fn of(lvm: &Lvm) -> Self {
        Self {
            device: lvm.device.clone(),
            percent: lvm.percent,
            metadata_percent: lvm.metadata_percent,
            extend_percent: lvm.extend_percent,
            extend_threshold: lvm.extend_threshold,
        }
    }
}

/// Makes the pool, unless it was made before. Gives its name.
pub(super) fn ensure(home: &Path, lvm: &Lvm) -> Result<&'static str, StorageError> {
    let asked = Config::of(lvm);
    match saved(home)? {
        Some(saved) if saved != asked => {
            return Err(
                DevicemapperError::Refused("changing direct-lvm config is not supported").into()
            );
        }
        Some(_) => {}
        None => set_up(home, lvm, &asked)?,
    }
    Ok(POOL)
}

fn saved(home: &Path) -> Result<Option<Config>, StorageError> {
    let path = home.join(CONFIG);
    let bytes = match fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(io_at("read", &path))?,
    };
    let parsed = serde_json::from_slice(&bytes);
    Ok(Some(parsed.map_err(|source| DevicemapperError::Record { path, source })?))
}

/// Activates the volume that is this pool: after a reboot nothing may have done so yet. Docker leaves that
/// to the administrator for a pool that it did not make. That it failed is seen by the pool that is missing.
pub(super) fn activate(mapper: &Mapper, pool: &str) -> Result<(), StorageError> {
    if mapper.info(pool)?.is_some_and(|info| info.is_active) {
        return Ok(());
    }
    if let Some(volume) = volume_name(pool)
        && let Err(error) = run("lvchange", &["-ay", &volume])
    {
        tracing::warn!(error = berth_types::kind::chain(&error), "the thin pool is not active");
    }
    Ok(())
}

/// The volume `GROUP/NAME` that LVM would give this name in the device-mapper: there a hyphen stands
/// between them, and those of their own are doubled. No volume's name begins with one.
pub(super) fn volume_name(name: &str) -> Option<String> {
    let run = |at: usize| name[..=at].bytes().rev().take_while(|&byte| byte == b'-').count();
    let is_last = |at: usize| !name[at + 1..].starts_with('-');
    let mut hyphens = name.match_indices('-').map(|(at, _)| at);
    let between = hyphens.find(|&at| is_last(at) && run(at) % 2 == 1)?;
    let (group, volume) = (&name[..between], &name[between + 1..]);
    if group.is_empty() || volume.is_empty() {
        return None;
    }
    Some(format!("{}/{}", group.replace("--", "-"), volume.replace("--", "-")))
}

fn set_up(home: &Path, lvm: &Lvm, asked: &Config) -> Result<(), StorageError> {
    let begun = home.join(BEGUN);
    let left = match fs::read_to_string(&begun) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        other => Some(other.map_err(io_at("read", &begun))?),
    };
    if let Some(device) = &left {
        take_back(device);
    }
    check(lvm, left.as_deref() == Some(&*lvm.device))?;
    atomic::write(&begun, lvm.device.as_bytes()).map_err(io_at("write", &begun))?;
    if let Err(error) = make(lvm) {
        take_back(&lvm.device);
        fs::remove_file(&begun).map_err(io_at("remove", begun))?;
        return Err(error);
    }
    step("dm.lvm.made");
    let config = home.join(CONFIG);
    let bytes = serde_json::to_vec(asked).expect("plain fields become JSON");
    atomic::write(&config, &bytes).map_err(io_at("write", config))?;
    fs::remove_file(&begun).map_err(io_at("remove", begun))
}

/// Refuses disks that are in use or have anything on them.
pub(super) fn check(lvm: &Lvm, is_ours: bool) -> Result<(), StorageError> {
    for program in PROGRAMS {
        if !has_program(program) {
            let program = program.to_owned();
            return Err(DevicemapperError::NoProgram { program }.into());
        }
    }
    let device = &lvm.device;
    let not_available = || DevicemapperError::NotAvailable { device: device.clone() };
    if output("lvmdiskscan", &[]).is_some_and(|disks| !lists(&disks, device)) {
        return Err(not_available().into());
    }
    if let Some(group) = output("pvdisplay", &[device]).as_deref().and_then(group_of) {
        let (device, group) = (device.clone(), group.to_owned());
        return Err(DevicemapperError::InGroup { device, group }.into());
    }
    // Mounted, or part of something else.
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::EXCL | rustix::fs::OFlags::CLOEXEC;
    if rustix::fs::open(device, flags, rustix::fs::Mode::empty()).is_err() {
        return Err(not_available().into());
    }
    if lvm.force || is_ours {
        return Ok(());
    }
    if output("blkid", &[device]).is_some_and(|said| said.contains(" TYPE=")) {
        return Err(DevicemapperError::HasFs { device: device.clone() }.into());
    }
    if !is_empty(Path::new(device))? {
        return Err(DevicemapperError::HasData { device: device.clone() }.into());
    }
    Ok(())
}

/// Whether a line of `lvmdiskscan` begins with the device.
fn lists(disks: &str, device: &str) -> bool {
    let by_name = |name: &str| {
        name == device || fs::canonicalize(device).is_ok_and(|is| is == Path::new(name))
    };
    disks.lines().filter_map(|line| line.split_whitespace().next()).any(by_name)
}

/// The volume group that `pvdisplay` shows.
fn group_of(said: &str) -> Option<&str> {
    let line = said.lines().find_map(|line| line.trim().strip_prefix("VG Name"))?;
    Some(line.trim()).filter(|name| !name.is_empty())
}

fn make(lvm: &Lvm) -> Result<(), StorageError> {
    let or = |given: u64, default: u64| if given == 0 { default } else { given };
    let data = format!("{}%VG", or(lvm.percent, 95));
    let metadata = format!("{}%VG", or(lvm.metadata_percent, 1));
    run("pvcreate", &["-f", &lvm.device])?;
    step("dm.lvm.begun");
    run("vgcreate", &[GROUP, &lvm.device])?;
    run("lvcreate", &["--wipesignatures", "y", "-n", "thinpool", GROUP, "--extents", &data])?;
    run(
        "lvcreate",
        &["--wipesignatures", "y", "-n", "thinpoolmeta", GROUP, "--extents", &metadata],
    )?;
    let meta = "docker/thinpoolmeta";
    let zero = ["-y", "--zero", "n", "-c", "512K", "--thinpool", VOLUME, "--poolmetadata", meta];
    run("lvconvert", &zero)?;
    let (threshold, percent) = (or(lvm.extend_threshold, 80), or(lvm.extend_percent, 20));
    write_profile(&format!(
        "activation{{\nthin_pool_autoextend_threshold={threshold}\n\
         thin_pool_autoextend_percent={percent}\n}}"
    ))?;
    run("lvchange", &["--metadataprofile", PROFILE, VOLUME])
}

fn write_profile(text: &str) -> Result<(), StorageError> {
    let dir = Path::new(PROFILES);
    let made = fs::DirBuilder::new().recursive(true).mode(0o755).create(dir);
    made.map_err(io_at("create", dir))?;
    let path = dir.join(format!("{PROFILE}.profile"));
    atomic::write(&path, text.as_bytes()).map_err(io_at("write", path))
}

/// Removes what [`make`] made on the disk, if the group is on this disk alone, and leaves the rest.
fn take_back(device: &str) {
    let group = output("pvs", &["--noheadings", "-o", "vg_name", device]);
    let group = group.as_deref().map(str::trim);
    let disks = output("vgs", &["--noheadings", "-o", "pv_count", GROUP]);
    let mut undone = Vec::new();
    if group == Some(GROUP) && disks.is_some_and(|count| count.trim() == "1") {
        undone.push(run("vgremove", &["-f", GROUP]));
    }
    if group.is_some_and(|name| name == GROUP || name.is_empty()) {
        undone.push(run("pvremove", &["-f", device]));
    }
    for error in undone.into_iter().filter_map(Result::err) {
        let error = berth_types::kind::chain(&error);
        tracing::warn!(error, device, "a half-made thin pool stays");
    }
}

pub(super) fn has_program(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir: PathBuf| dir.join(name).is_file())
}

fn command(program: &str, args: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(args).env("LC_ALL", "C");
    if !dm::udev_runs() {
        // Without udev its library waits for nodes that nobody makes.
        command.env("DM_DISABLE_UDEV", "1");
    }
    command
}

/// What a program says; `None` when it is missing or fails.
pub(super) fn output(program: &str, args: &[&str]) -> Option<String> {
    let output = command(program, args).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

pub(super) fn run(program: &str, args: &[&str]) -> Result<(), StorageError> {
    let failed = |said: String| DevicemapperError::Lvm { said };
    let output = command(program, args).output().map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    let said =
        [&*String::from_utf8_lossy(&output.stdout), &*String::from_utf8_lossy(&output.stderr)];
    let status = match output.status.code() {
        Some(code) => format!("exit status {code}"),
        None => output.status.to_string(),
    };
    Err(failed(format!("{}: {status}", said.concat())).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_programs_say_is_understood() {
        let disks = "  /dev/vda [       8.00 GiB] \n  /dev/vdb1[ 1.00 GiB] LVM physical volume\n";
        assert!(lists(disks, "/dev/vda"));
        assert!(!lists(disks, "/dev/vd"));
        let display = "  --- Physical volume ---\n  PV Name               /dev/vda\n  VG Name               tank\n";
        assert_eq!(group_of(display), Some("tank"));
        assert_eq!(group_of("  VG Name               \n"), None);
        assert_eq!(group_of(""), None);
    }

    #[test]
    fn a_volume_is_known_by_the_name_of_its_device() {
        #[rustfmt::skip]
        let table = [
            ("docker-thinpool", Some("docker/thinpool")),
            ("a--b-c--d",       Some("a-b/c-d")),
            ("a----b-c",        Some("a--b/c")),
            ("a---b",           Some("a-/b")),
            ("thinpool",        None),
            ("a--b",            None),
            ("-b",              None),
            ("a-",              None),
            ("",                None),
        ];
        for (name, volume) in table {
            assert_eq!(volume_name(name).as_deref(), volume, "{name:?}");
        }
    }

    #[test]
    fn the_configuration_is_saved_as_docker_saves_it() {
        let lvm = Lvm { device: "/dev/vdb".to_owned(), force: true, ..Lvm::default() };
        let text = serde_json::to_string(&Config::of(&lvm)).unwrap();
        assert_eq!(
            text,
            r#"{"Device":"/dev/vdb","ThinpPercent":0,"ThinpMetaPercent":0,"AutoExtendPercent":0,"AutoExtendThreshold":0}"#
        );
        let dir = tempfile::tempdir().unwrap();
        assert!(saved(dir.path()).unwrap().is_none());
        atomic::write(&dir.path().join(CONFIG), text.as_bytes()).unwrap();
        let other = Lvm { percent: 90, metadata_percent: 1, ..lvm };
        let error = ensure(dir.path(), &other).unwrap_err();
        assert_eq!(error.to_string(), "changing direct-lvm config is not supported");
        fs::File::create(dir.path().join(CONFIG)).unwrap();
        assert!(ensure(dir.path(), &other).is_err(), "a damaged file is no missing one");
    }
}

//! What a daemon works on: a storage driver over a file system, on one disk.
//!
//! ```text
//! overlay2/ext4           | the file system                        | marks |
//! devicemapper/ext4       | the file system, the pool's files in it| marks |
//! devicemapper-lvm/ext4   | the file system | a volume group       | marks |
//! zfs/ext4                | the file system | a pool of ZFS        | marks |
//! ```

use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

use super::{MARKS_AT, USAGE, succeed, zpool};
use crate::needs;

/// Those that are recorded where nobody names any.
pub(super) const USUAL: &[&str] = &[
    "overlay2/ext4",
    "overlay2/xfs",
    "btrfs/btrfs",
    "devicemapper/ext4",
    "devicemapper-lvm/ext4",
    "zfs/ext4",
];
/// Where what layers are in begins, where that is not the file system.
const REST_AT: u64 = 128 << 20;
/// What the disk of a volume group is called, whichever device it is.
const GROUP: &str = "/dev/berth-cuts";

/// A storage driver over a file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Lab {
    kind: &'static Kind,
    pub(super) file_system: String,
    /// The disk, or the record of it.
    pub(super) path: PathBuf,
}

#[derive(Debug, PartialEq, Eq)]
struct Kind {
    name: &'static str,
    driver: &'static str,
    /// The directory of the data root in which a removed layer is renamed.
    home: &'static str,
    /// `--storage-opt`
    options: &'static [&'static str],
    place: Place,
}

/// Where layers are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// In the data root.
    Inside,
    /// In a thin pool on files of the data root.
    Pool,
    /// In a thin pool on the rest of the disk.
    Group,
    /// In a pool of ZFS on the rest of the disk.
    Zpool,
}

#[rustfmt::skip]
const KINDS: &[Kind] = &[
    Kind { name: "overlay2", driver: "overlay2", home: "overlay2", options: &[], place: Place::Inside },
    Kind { name: "overlay", driver: "overlay", home: "overlay", options: &[], place: Place::Inside },
    Kind { name: "btrfs", driver: "btrfs", home: "btrfs/subvolumes", options: &[], place: Place::Inside },
    Kind { name: "vfs", driver: "vfs", home: "vfs/dir", options: &[], place: Place::Inside },
    Kind {
        name: "devicemapper", driver: "devicemapper", home: "devicemapper/metadata",
        options: &[
            "dm.fs=ext4", "dm.basesize=64M", "dm.loopdatasize=320M", "dm.loopmetadatasize=16M",
        ],
        place: Place::Pool,
    },
    Kind {
        name: "devicemapper-lvm", driver: "devicemapper", home: "devicemapper/metadata",
        // 1 % would be less than an extent.
        options: &[
            "dm.fs=ext4", "dm.basesize=64M", "dm.directlvm_device=/dev/berth-cuts",
            "dm.thinp_percent=90", "dm.thinp_metapercent=3",
        ],
        place: Place::Group,
    },
    Kind {
        name: "zfs", driver: "zfs", home: "zfs", options: &["zfs.fsname=berth-cuts/layers"],
        place: Place::Zpool,
    },
];

impl Lab {
    /// A lab and its disk: `PATH=LAB/FILESYSTEM`.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let (path, name) = text.rsplit_once('=').with_context(|| unknown(text))?;
        Ok(Self { path: path.into(), ..Self::named(name)? })
    }

    /// A lab without a disk.
    pub(super) fn named(name: &str) -> Result<Self> {
        let parts = name.split_once('/').and_then(|(kind, file_system)| {
            Some((KINDS.iter().find(|known| known.name == kind)?, file_system))
        });
        let (kind, file_system) = parts.with_context(|| unknown(name))?;
        Ok(Self { kind, file_system: file_system.to_owned(), path: PathBuf::new() })
    }

    pub(super) fn name(&self) -> String {
        format!("{}/{}", self.kind.name, self.file_system)
    }

    /// What the daemons of this lab are called in paths.
    pub(super) fn path_name(&self) -> String {
        format!("berth-cuts-{}-{}", self.kind.name, self.file_system)
    }

    pub(super) fn home(&self) -> &'static str {
        self.kind.home
    }

    /// Whether it has devices or a pool that only some kernels have, and of which one lab at a time
    /// can be cleared away.
    pub(super) fn has_devices(&self) -> bool {
        self.kind.place != Place::Inside
    }

    /// Why this machine cannot have it, if so.
    pub(super) fn missing(&self) -> Option<&'static str> {
        if self.kind.place == Place::Zpool { needs::zfs() } else { None }
    }

    /// Whether layers are in a pool of ZFS.
    pub(super) fn has_zpool(&self) -> bool {
        self.kind.place == Place::Zpool
    }

    /// Where a thin pool keeps its metadata, where that is a file.
    pub(super) fn pool_metadata(&self, data_root: &Path) -> Option<PathBuf> {
        let file = data_root.join("devicemapper/devicemapper/metadata");
        (self.kind.place == Place::Pool).then_some(file)
    }

    /// The daemon's flags.
    pub(super) fn flags(&self) -> Vec<String> {
        let mut flags =
            vec!["--bridge=none".to_owned(), format!("--storage-driver={}", self.kind.driver)];
        flags.extend(self.kind.options.iter().map(|option| format!("--storage-opt={option}")));
        flags
    }

    /// Makes the file system on an empty disk.
    pub(super) fn format(&self, disk: &Path) -> Result<()> {
        let bytes = self.file_system_bytes();
        let mut make = Command::new(format!("mkfs.{}", self.file_system));
        match self.file_system.as_str() {
            "ext4" => make
                .args(["-q", "-F", "-E", "nodiscard"])
                .arg(disk)
                .arg(format!("{}k", bytes >> 10)),
            "xfs" => make.args(["-q", "-f", "-K", "-d", &format!("size={bytes}")]).arg(disk),
            "btrfs" => make.args(["-q", "-f", "-K", "-b", &bytes.to_string()]).arg(disk),
            other => bail!("no file system {other:?}"),
        };
        succeed(&mut make)?;
        if self.has_zpool() {
            let device = attach_rest(disk)?;
            let made = zpool::create(&device);
            succeed(Command::new("losetup").arg("--detach").arg(device))?;
            made?;
        }
        Ok(())
    }

    /// Whether the file system has the first part of the disk alone.
    fn has_rest(&self) -> bool {
        matches!(self.kind.place, Place::Group | Place::Zpool)
    }

    fn file_system_bytes(&self) -> u64 {
        if self.has_rest() { REST_AT } else { MARKS_AT }
    }

    /// Mounts the file system of `disk`, a device or a file, and makes the rest a device.
    pub(super) fn attach(&self, disk: &Path, data_root: &Path) -> Result<Attached> {
        if self.has_devices() {
            // Where no udev runs nothing loads it when its device is opened.
            succeed(Command::new("modprobe").arg("loop"))?;
        }
        let mut options = Vec::new();
        if self.has_rest() || disk.is_file() {
            options.push(format!("loop,sizelimit={}", self.file_system_bytes()));
        }
        if self.file_system == "xfs" {
            options.push("nouuid".to_owned());
        }
        let mut mount = Command::new("mount");
        mount.args(["-t", &self.file_system]).arg(disk).arg(data_root);
        if !options.is_empty() {
            mount.args(["-o", &options.join(",")]);
        }
        succeed(&mut mount)?;
        let mut attached = Attached {
            data_root: data_root.to_owned(),
            place: self.kind.place,
            rest: None,
            devices: Vec::new(),
        };
        if matches!(self.kind.place, Place::Pool | Place::Group) {
            let device = std::fs::metadata(data_root)?.dev();
            let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
            attached.devices.push(format!("docker-{major}:{minor}-"));
        }
        if self.has_rest() {
            let device = attached.rest.insert(attach_rest(disk)?);
            match self.kind.place {
                Place::Group => symlink(device, GROUP).with_context(|| GROUP.to_owned())?,
                _ => zpool::import(device)?,
            }
        }
        if self.kind.place == Place::Group {
            attached.devices.push("docker-thinpool".to_owned());
        }
        Ok(attached)
    }
}

fn unknown(text: &str) -> String {
    let names: Vec<&str> = KINDS.iter().map(|kind| kind.name).collect();
    format!("not a lab: {text:?}; labs are {}\n{USAGE}", names.join(", "))
}

/// Makes the part of a disk behind the file system a device.
fn attach_rest(disk: &Path) -> Result<PathBuf> {
    // Where no udev runs nothing loads it when its device is opened.
    succeed(Command::new("modprobe").arg("loop"))?;
    let mut attach = Command::new("losetup");
    let size = (MARKS_AT - REST_AT).to_string();
    attach.args(["--find", "--show", "--offset", &REST_AT.to_string(), "--sizelimit", &size]);
    let output = attach.arg(disk).output().context("losetup")?;
    ensure!(output.status.success(), "losetup: {}", String::from_utf8_lossy(&output.stderr));
    Ok(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()))
}

/// A disk in use. Dropped: it is not any more, and its devices are gone.
#[derive(Debug)]
pub(super) struct Attached {
    data_root: PathBuf,
    place: Place,
    /// What the part behind the file system is.
    rest: Option<PathBuf>,
    /// How the names of its devices begin; none: it has none.
    devices: Vec<String>,
}

impl Attached {
    /// Lets go of a disk that a daemon has left in order: only a volume group may be active, and a
    /// pool of ZFS imported.
    pub(super) fn detach(mut self) -> Result<()> {
        match self.place {
            Place::Group => succeed(lvm("vgchange").args(["-an", "docker"]))?,
            Place::Zpool => zpool::export()?,
            Place::Inside | Place::Pool => {}
        }
        let left = self.devices()?;
        ensure!(left.is_empty(), "devices are left: {}", left.join(", "));
        self.detach_rest()?;
        succeed(Command::new("umount").arg(&self.data_root))
    }

    /// The devices of the device-mapper that are there, by name.
    fn devices(&self) -> Result<Vec<String>> {
        let mut found = Vec::new();
        if self.devices.is_empty() {
            return Ok(found);
        }
        for entry in std::fs::read_dir("/sys/block")? {
            let name = std::fs::read_to_string(entry?.path().join("dm/name")).unwrap_or_default();
            if self.devices.iter().any(|start| name.starts_with(start)) {
                found.push(name.trim().to_owned());
            }
        }
        Ok(found)
    }

    /// The thin pool, while a daemon has it.
    pub(super) fn thin_pool(&self) -> Result<PathBuf> {
        let names = self.devices()?;
        let pool = names.iter().find(|name| name.ends_with("pool")).context("there is no pool")?;
        Ok(Path::new("/dev/mapper").join(pool))
    }

    fn detach_rest(&mut self) -> Result<()> {
        let Some(device) = self.rest.take() else { return Ok(()) };
        if self.place == Place::Group {
            std::fs::remove_file(GROUP)?;
        }
        succeed(Command::new("losetup").arg("--detach").arg(device))
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        // Thin devices before their pool, whose name ends so, and that before what it is made of.
        let mut names = self.devices().unwrap_or_default();
        names.sort_by_key(|name| (name.contains("pool_"), name.ends_with("pool")));
        for name in names {
            drop(lvm("dmsetup").args(["remove", "--deferred", &name]).output());
        }
        if self.place == Place::Zpool && self.rest.is_some() {
            zpool::destroy();
        }
        drop(self.detach_rest());
    }
}

/// One of LVM's programs or the device-mapper's, which wait for udev in vain where there is none.
fn lvm(program: &str) -> Command {
    let mut command = Command::new(program);
    if Path::new("/run/udev/control").symlink_metadata().is_err() {
        command.env("DM_DISABLE_UDEV", "1");
    }
    command
}

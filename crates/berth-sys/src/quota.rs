//! Project quotas of ext4 and xfs: a limit for everything below a directory.
//!
//! A file system that keeps project quotas counts the blocks of all files that bear the same
//! project number. A directory gives its number to what is made in it, so the tree below a marked
//! directory is one project.
//!
//! Both file systems answer the calls that were made for xfs, in their own words:
//!
//! | | ext4 | xfs |
//! |---|---|---|
//! | mounted with | `prjquota`, made with `-O quota,project` | `prjquota` |
//! | beyond the limit | `EDQUOT` | `ENOSPC` |
//! | who holds `CAP_SYS_RESOURCE` | is not limited | is limited |
//! | free space (`statfs`) of the tree | up to the limit | up to the limit |

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::ioctl::{Getter, Opcode, Setter, ioctl, opcode};

/// `struct fsxattr`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Attributes {
    flags: u32,
    extent_size: u32,
    extents: u32,
    project: u32,
    cow_extent_size: u32,
    padding: [u8; 8],
}

const GET_ATTRIBUTES: Opcode = opcode::read::<Attributes>(b'X', 31);
const SET_ATTRIBUTES: Opcode = opcode::write::<Attributes>(b'X', 32);
/// `FS_XFLAG_PROJINHERIT`.
const INHERITED: u32 = 0x200;

/// The project of a file or directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Project {
    /// Its number; 0 is everybody's, and has no limit.
    pub id: u32,
    /// Whether what is made in this directory gets the same.
    pub is_inherited: bool,
}

/// The project that a file or directory belongs to.
pub fn project(of: impl AsFd) -> io::Result<Project> {
    let found = attributes(of)?;
    Ok(Project { id: found.project, is_inherited: found.flags & INHERITED != 0 })
}

/// Puts a directory into a project, and whatever is made in it from here on. What is in it stays
/// where it is.
pub fn set_project(dir: impl AsFd, id: u32) -> io::Result<()> {
    let mut attributes = attributes(&dir)?;
    attributes.project = id;
    attributes.flags |= INHERITED;
    // SAFETY: FS_IOC_FSSETXATTR reads one `struct fsxattr`, which `Attributes` is, and keeps no
    // pointer to it.
    unsafe { Ok(ioctl(dir, Setter::<SET_ATTRIBUTES, Attributes>::new(attributes))?) }
}

fn attributes(of: impl AsFd) -> io::Result<Attributes> {
    // SAFETY: FS_IOC_FSGETXATTR fills one `struct fsxattr`, which `Attributes` is: five u32 and
    // eight bytes, of which any value is valid.
    unsafe { Ok(ioctl(of, Getter::<GET_ATTRIBUTES, Attributes>::new())?) }
}

/// How much a project may hold, in bytes; 0 is no limit. Rounded up: ext4
/// to 512, xfs to a block of its own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limit {
    /// What can never be exceeded.
    pub hard: u64,
    /// What can be exceeded for some days.
    pub soft: u64,
}

/// What a project holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes in blocks, those included that are promised to data not yet written.
    pub bytes: u64,
    /// Files, directories and the like.
    pub inodes: u64,
    /// What it may hold.
    pub limit: Limit,
}

/// Whether a file system keeps project quotas.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct State {
    /// It counts.
    pub is_counted: bool,
    /// It refuses what goes beyond a limit.
    pub is_enforced: bool,
}

/// `Q_XSETQLIM`, `Q_XGETQUOTA` and `Q_XGETQSTATV`, for projects.
const SET_LIMIT: u32 = command(4);
const GET_QUOTA: u32 = command(3);
const GET_STATE: u32 = command(8);

const fn command(number: u32) -> u32 {
    const PROJECT: u32 = 2;
    (((b'X' as u32) << 8 | number) << 8) | PROJECT
}

/// `struct fs_disk_quota`, version 1.
#[repr(C)]
#[derive(Debug, Default)]
struct DiskQuota {
    version: i8,
    flags: i8,
    fields: u16,
    id: u32,
    block_hard: u64,
    block_soft: u64,
    inode_hard: u64,
    inode_soft: u64,
    blocks: u64,
    inodes: u64,
    inode_timer: i32,
    block_timer: i32,
    inode_warnings: u16,
    block_warnings: u16,
    timers_high: [i8; 4],
    realtime_hard: u64,
    realtime_soft: u64,
    realtime_blocks: u64,
    realtime_timer: i32,
    realtime_warnings: u16,
    padding: [u8; 10],
}

/// `FS_DQ_BSOFT` and `FS_DQ_BHARD`: which fields a call sets.
const BLOCK_LIMITS: u16 = 1 << 2 | 1 << 3;
/// `FS_PROJ_QUOTA`.
const OF_PROJECT: i8 = 2;
/// The unit of blocks in [`DiskQuota`], whatever the file system's own is.
const BLOCK: u64 = 512;

/// `struct fs_quota_statv`, version 1, as far as it is of use here. The version is the caller's to fill.
#[repr(C)]
#[derive(Debug, Default)]
struct QuotaState {
    version: i8,
    padding: u8,
    flags: u16,
    in_core: u32,
    rest: [u64; 19],
}

// The kernel reads and writes so many bytes, whatever is given to it.
const _: () = assert!(size_of::<Attributes>() == 28);
const _: () = assert!(size_of::<DiskQuota>() == 112);
const _: () = assert!(size_of::<QuotaState>() == 160);

/// `FS_QUOTA_PDQ_ACCT` and `FS_QUOTA_PDQ_ENFD`.
const COUNTED: u16 = 1 << 4;
const ENFORCED: u16 = 1 << 5;

/// The project quotas of one file system.
#[derive(Debug)]
pub struct ProjectQuotas {
    dir: OwnedFd,
    device: u64,
    /// `quotactl_fd` (since Linux 5.14) is tried before `quotactl`, which takes a device's path.
    by_descriptor: bool,
}

impl ProjectQuotas {
    /// Those of the file system that the directory lies on, if it has any.
    pub fn of(dir: &Path) -> io::Result<Self> {
        let device = dir.metadata()?.dev();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::openat(CWD, dir, flags, Mode::empty())?;
        Ok(Self { dir, device, by_descriptor: true })
    }

    /// Whether the file system keeps them. One that does not know what they are answers no.
    pub fn state(&self) -> io::Result<State> {
        let mut answer = QuotaState { version: 1, ..QuotaState::default() };
        match self.call(GET_STATE, 0, &mut answer) {
            Ok(()) => Ok(State {
                is_counted: answer.flags & COUNTED != 0,
                is_enforced: answer.flags & ENFORCED != 0,
            }),
            Err(error) if has_none(&error) => Ok(State::default()),
            Err(error) => Err(error),
        }
    }

    /// Limits a project, from here on; what it holds already stays.
    pub fn set_limit(&self, project: u32, limit: Limit) -> io::Result<()> {
        let mut quota = DiskQuota {
            version: 1,
            flags: OF_PROJECT,
            fields: BLOCK_LIMITS,
            id: project,
            block_hard: limit.hard.div_ceil(BLOCK),
            block_soft: limit.soft.div_ceil(BLOCK),
            ..DiskQuota::default()
        };
        self.call(SET_LIMIT, project, &mut quota)
    }

    /// What a project holds and may hold. One that the file system has never heard of holds
    /// nothing.
    pub fn usage(&self, project: u32) -> io::Result<Usage> {
        let mut quota = DiskQuota::default();
        match self.call(GET_QUOTA, project, &mut quota) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
            Err(error) => return Err(error),
        }
        Ok(Usage {
            bytes: quota.blocks.saturating_mul(BLOCK),
            inodes: quota.inodes,
            limit: Limit {
                hard: quota.block_hard.saturating_mul(BLOCK),
                soft: quota.block_soft.saturating_mul(BLOCK),
            },
        })
    }

    fn call<T>(&self, command: u32, project: u32, data: &mut T) -> io::Result<()> {
        if self.by_descriptor {
            match self.by_descriptor(command, project, data) {
                // Either the kernel does not know the call, or the file system no quotas.
                Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => {}
                done => return done,
            }
        }
        let device = device_path(self.device)?;
        by_device(&device, command, project, data)
    }

    fn by_descriptor<T>(&self, command: u32, project: u32, data: &mut T) -> io::Result<()> {
        // SAFETY: `data` is the structure of `command`: this module pairs GET_STATE with
        // QuotaState, the other two with DiskQuota, both as long as the kernel's and plain
        // numbers throughout. The kernel keeps no pointer to it.
        let answer = unsafe {
            libc::syscall(
                libc::SYS_quotactl_fd,
                self.dir.as_raw_fd(),
                command,
                project,
                std::ptr::from_mut(data),
            )
        };
        if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

fn by_device<T>(device: &CString, command: u32, project: u32, data: &mut T) -> io::Result<()> {
    // SAFETY: as in `by_descriptor`; `device` is a C string that outlives the call.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_quotactl,
            command,
            device.as_ptr(),
            project,
            std::ptr::from_mut(data),
        )
    };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Whether a file system says by this error that it keeps no quotas, or none of projects.
fn has_none(error: &io::Error) -> bool {
    const ERRORS: [i32; 5] =
        [libc::ENOSYS, libc::ESRCH, libc::EOPNOTSUPP, libc::EINVAL, libc::ENOTBLK];
    error.raw_os_error().is_some_and(|number| ERRORS.contains(&number))
}

/// The node of a block device. A file system without one has no quotas.
fn device_path(device: u64) -> io::Result<CString> {
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let none = || io::Error::from_raw_os_error(libc::ENOTBLK);
    let event = match std::fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/uevent")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(none()),
        text => text?,
    };
    let name = event.lines().find_map(|line| line.strip_prefix("DEVNAME=")).ok_or_else(none)?;
    let path = Path::new("/dev").join(name);
    let found = path.metadata()?;
    if !found.file_type().is_block_device() || found.rdev() != device {
        let text = format!("{} is not the device {major}:{minor}", path.display());
        return Err(io::Error::new(io::ErrorKind::NotFound, text));
    }
    Ok(CString::new(path.into_os_string().into_encoded_bytes())?)
}

#[cfg(test)]
mod tests;

//! The device-mapper: block devices whose sectors are served by other devices, by a table.
//!
//! Speaks to the kernel itself, by the ioctls of `/dev/mapper/control` (interface 4), and with udev
//! where that runs. A device is made ([`create`](Control::create)), gets a table
//! ([`load`](Control::load)), which counts from [`resume`](Control::resume) on. Names are unique on
//! the machine.

mod udev;
mod wire;

use std::ffi::c_void;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, RenameFlags, mknodat, renameat_with};
use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, opcode};

pub use udev::{can_sync, runs as udev_runs};
pub use wire::Line;
use wire::{HEADER, Message};

/// Where devices have their names.
pub const DIR: &str = "/dev/mapper";
const CONTROL: &str = "/dev/mapper/control";
/// Room for the answers of most requests; more is made when the kernel asks for it.
const ROOM: usize = 4096;

/// `DM_VERSION_CMD` and on.
#[derive(Debug, Clone, Copy)]
enum Command {
    Version = 0,
    List = 2,
    Create = 3,
    Remove = 4,
    Rename = 5,
    /// Resumes without the flag.
    Suspend = 6,
    Status = 7,
    Load = 9,
    Dependencies = 11,
    Table = 12,
    Message = 14,
    ArmPoll = 16,
}

/// The version of the kernel's interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u32, pub u32, pub u32);

impl Version {
    /// Since when devices can be removed as soon as nobody uses them.
    pub const DEFERRED_REMOVAL: Self = Self(4, 27, 0);
}

/// What the kernel says about a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Info {
    /// Its number.
    pub device: u64,
    /// How often it is open, mounts included.
    pub open_count: u32,
    /// It has a table that counts.
    pub is_active: bool,
    /// It stands still.
    pub is_suspended: bool,
    /// It goes as soon as nobody has it open.
    pub is_deferred: bool,
}

impl Info {
    /// The node that devtmpfs has of it.
    pub fn node(&self) -> PathBuf {
        PathBuf::from(format!("/dev/dm-{}", rustix::fs::minor(self.device)))
    }
}

/// How a removal treats a device that is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removal {
    /// It fails with `EBUSY`.
    Now,
    /// It is done when the last user closes the device.
    Deferred,
}

/// What a suspension does first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Suspension {
    /// File systems on the device are made whole, and everything queued is written.
    Flush,
    /// Nothing: what is queued waits. For devices that may not be able to write.
    NoFlush,
}

/// The way to the kernel.
#[derive(Debug)]
pub struct Control {
    file: File,
}

impl Control {
    /// Opens it. A kernel without a device-mapper has none.
    pub fn open() -> io::Result<Self> {
        Ok(Self { file: File::options().read(true).write(true).open(CONTROL)? })
    }

    /// The version of the interface.
    pub fn version(&self) -> io::Result<Version> {
        let (major, minor, patch) = self.ask(Command::Version, "", &[], 0)?.version();
        Ok(Version(major, minor, patch))
    }

    /// Makes a device without a table.
    pub fn create(&self, name: &str) -> io::Result<Info> {
        Ok(info(&self.ask(Command::Create, name, &[], 0)?))
    }

    /// Gives the device a table, which counts from the next [`resume`](Self::resume) on.
    pub fn load(&self, name: &str, table: &[Line]) -> io::Result<()> {
        let mut request = Message::new(name, &wire::table(table)?, 0)?;
        request.set_targets(u32::try_from(table.len()).map_err(|_| io::ErrorKind::InvalidInput)?);
        self.send(Command::Load, &mut request)
    }

    /// Lets the device work, with the table loaded last. Its node in [`DIR`] is there afterwards.
    pub fn resume(&self, name: &str) -> io::Result<Info> {
        let answer = self.with_udev(Command::Suspend, Message::new(name, &[], 0)?)?;
        let info = info(&answer);
        make_node(name, info.device)?;
        Ok(info)
    }

    /// Lets the device stand still.
    pub fn suspend(&self, name: &str, how: Suspension) -> io::Result<()> {
        let flags = match how {
            Suspension::Flush => wire::SUSPEND,
            Suspension::NoFlush => wire::SUSPEND | wire::NO_FLUSH,
        };
        self.ask(Command::Suspend, name, &[], flags).map(drop)
    }

    /// Removes the device and its node. One that is not there is an error (`ENXIO`).
    pub fn remove(&self, name: &str, how: Removal) -> io::Result<()> {
        let mut request = Message::new(name, &[], 0)?;
        if how == Removal::Deferred {
            request.set_flags(wire::DEFERRED_REMOVE);
        }
        self.with_udev(Command::Remove, request)?;
        if how == Removal::Deferred && self.info(name)?.is_some() {
            // Whoever is about to open it must find it.
            return Ok(());
        }
        remove_node(name)
    }

    /// Removes the nodes whose names begin with `prefix` and whose devices are gone: those that went
    /// with their last user.
    pub fn clear_nodes(&self, prefix: &str) -> io::Result<()> {
        for entry in std::fs::read_dir(DIR)? {
            let name = entry?.file_name();
            if let Some(name) = name.to_str().filter(|name| name.starts_with(prefix))
                && self.info(name)?.is_none()
            {
                remove_node(name)?;
            }
        }
        Ok(())
    }

    /// Gives the device another name.
    pub fn rename(&self, name: &str, new: &str) -> io::Result<()> {
        let request = Message::new(name, &wire::new_name(new)?, 0)?;
        let device = info(&self.with_udev(Command::Rename, request)?).device;
        remove_node(name)?;
        make_node(new, device)
    }

    /// Tells something to the target that serves `sector`.
    pub fn message(&self, name: &str, sector: u64, text: &str) -> io::Result<()> {
        self.ask(Command::Message, name, &wire::target_message(sector, text)?, 0).map(drop)
    }

    /// Looks at a device; there may be none of that name.
    pub fn info(&self, name: &str) -> io::Result<Option<Info>> {
        match self.ask(Command::Status, name, &[], 0) {
            Ok(answer) => Ok(Some(info(&answer))),
            Err(error) if is_gone(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The table that counts.
    pub fn table(&self, name: &str) -> io::Result<Vec<Line>> {
        self.ask(Command::Table, name, &[], wire::STATUS_TABLE)?.lines()
    }

    /// How the targets are. Work that they have begun is ended first unless `how` forbids it.
    pub fn status(&self, name: &str, how: Suspension) -> io::Result<Vec<Line>> {
        let flags = if how == Suspension::NoFlush { wire::NO_FLUSH } else { 0 };
        self.ask(Command::Table, name, &[], flags)?.lines()
    }

    /// The devices that the table refers to.
    pub fn dependencies(&self, name: &str) -> io::Result<Vec<u64>> {
        self.ask(Command::Dependencies, name, &[], 0)?.dependencies()
    }

    /// Forgets the events of any device so far: what happens from here on makes this descriptor
    /// readable, for whoever polls it. Kernels before 4.13 cannot.
    pub fn arm(&self) -> io::Result<()> {
        self.ask(Command::ArmPoll, "", &[], 0).map(drop)
    }

    /// Names and numbers of all devices.
    pub fn list(&self) -> io::Result<Vec<(String, u64)>> {
        self.ask(Command::List, "", &[], 0)?.names()
    }

    fn ask(&self, command: Command, name: &str, data: &[u8], flags: u32) -> io::Result<Message> {
        let mut room = ROOM;
        loop {
            let mut request = Message::new(name, data, room)?;
            request.set_flags(flags);
            self.send(command, &mut request)?;
            // A message's answer would be flagged as data; none of those sent here has one.
            if request.flags() & wire::BUFFER_FULL == 0 || request.flags() & wire::DATA_OUT != 0 {
                return Ok(request);
            }
            room *= 4;
        }
    }

    /// Sends what udev acts on, and waits for that.
    fn with_udev(&self, command: Command, mut request: Message) -> io::Result<Message> {
        if !udev::runs() {
            self.send(command, &mut request)?;
            return Ok(request);
        }
        // Without semaphores udev is not waited for; the nodes are made here in any case.
        let cookie = udev::Cookie::new().ok();
        if let Some(cookie) = &cookie {
            request.set_event(cookie.event());
        }
        self.send(command, &mut request)?;
        if let Some(cookie) = cookie
            && request.flags() & wire::UEVENT_GENERATED != 0
        {
            cookie.wait()?;
        }
        Ok(request)
    }

    fn send(&self, command: Command, message: &mut Message) -> io::Result<()> {
        // SAFETY: every command of the device-mapper reads and writes one `struct dm_ioctl` and the
        // data behind it, as many bytes as the structure says itself: `Message` allocates them and
        // writes their number. The kernel keeps no pointer.
        unsafe { rustix::ioctl::ioctl(&self.file, Exchange { command, message })? };
        Ok(())
    }
}

impl AsFd for Control {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// A request whose answer takes its place.
struct Exchange<'a> {
    command: Command,
    message: &'a mut Message,
}

// SAFETY: the number is that of the command, whose argument is what `as_ptr` gives; it is written to,
// and nothing is read from it here.
unsafe impl Ioctl for Exchange<'_> {
    type Output = ();
    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        request(self.command)
    }

    fn as_ptr(&mut self) -> *mut c_void {
        self.message.as_mut_ptr().cast()
    }

    unsafe fn output_from_ptr(_: IoctlOutput, _: *mut c_void) -> rustix::io::Result<()> {
        Ok(())
    }
}

fn request(command: Command) -> Opcode {
    opcode::read_write::<[u8; HEADER]>(0xfd, command as u8)
}

fn info(answer: &Message) -> Info {
    let flags = answer.flags();
    Info {
        device: answer.device(),
        open_count: answer.open_count(),
        is_active: flags & wire::ACTIVE != 0,
        is_suspended: flags & wire::SUSPEND != 0,
        is_deferred: flags & wire::DEFERRED_REMOVE != 0,
    }
}

/// Whether this says that there is no such device.
pub fn is_gone(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ENXIO)
}

/// The path of a device.
pub fn path(name: &str) -> PathBuf {
    Path::new(DIR).join(name)
}

/// Makes the node, unless udev has made it: what is there must be this device.
fn make_node(name: &str, device: u64) -> io::Result<()> {
    let path = path(name);
    let is_it = |path: &Path| {
        path.metadata()
            .is_ok_and(|meta| meta.file_type().is_block_device() && meta.rdev() == device)
    };
    if is_it(&path) {
        return Ok(());
    }
    // By a rename: nobody finds the node of another device, or none, on the way.
    let new = path.with_file_name(format!(".{name}.berth"));
    unlink(&new)?;
    let mode = Mode::from_raw_mode(0o600);
    mknodat(CWD, &new, FileType::BlockDevice, mode, device)?;
    Ok(renameat_with(CWD, &new, CWD, &path, RenameFlags::empty())?)
}

/// udev removes its link itself.
fn remove_node(name: &str) -> io::Result<()> {
    let path = path(name);
    match path.symlink_metadata() {
        Ok(meta) if meta.file_type().is_block_device() => unlink(&path),
        _ => Ok(()),
    }
}

fn unlink(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;

//! Loop devices: block devices whose content is a file.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, RawFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

const CONTROL: &str = "/dev/loop-control";
const MAJOR: u32 = 7;
/// `LOOP_SET_FD`, `LOOP_CLR_FD`, `LOOP_SET_STATUS64`, `LOOP_GET_STATUS64`, `LOOP_SET_CAPACITY`.
const SET_FD: u64 = 0x4C00;
const CLEAR: u64 = 0x4C01;
const SET_STATUS: u64 = 0x4C04;
const GET_STATUS: u64 = 0x4C05;
const SET_CAPACITY: u64 = 0x4C07;
/// `LOOP_CTL_GET_FREE`.
const GET_FREE: u64 = 0x4C82;
/// `LO_FLAGS_AUTOCLEAR`: it lets go of its file when nobody has it open any more.
const AUTO_CLEAR: u32 = 4;
const NAME: usize = 64;

/// `struct loop_info64`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Status {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; NAME],
    crypt_name: [u8; NAME],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

// The kernel reads and writes so many bytes, whatever is given to it.
const _: () = assert!(size_of::<Status>() == 232);

/// A loop device that is open here. When nobody has it open any more, it lets go of its file.
#[derive(Debug)]
pub struct LoopDevice {
    file: File,
    path: PathBuf,
    device: u64,
}

impl LoopDevice {
    /// Attaches a file to the next free device.
    pub fn attach(path: &Path) -> io::Result<Self> {
        let backing = File::options().read(true).write(true).open(path)?;
        let control = File::options().read(true).write(true).open(CONTROL)?;
        loop {
            let number = call(&control, GET_FREE, 0)?;
            let this = Self::open(&PathBuf::from(format!("/dev/loop{number}")))?;
            match call(&this.file, SET_FD, backing.as_raw_fd()) {
                Ok(_) => {}
                // Somebody else took it meanwhile.
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy => continue,
                Err(error) => return Err(error),
            }
            if let Err(error) = this.name_it(path) {
                call(&this.file, CLEAR, 0)?;
                return Err(error);
            }
            return Ok(this);
        }
    }

    /// The device that has this very file, if there is one.
    pub fn of_file(path: &Path) -> io::Result<Option<Self>> {
        let wanted = path.metadata()?;
        for entry in std::fs::read_dir("/sys/block")? {
            let name = entry?.file_name();
            let name = name.to_string_lossy();
            let attached = Path::new("/sys/block").join(&*name).join("loop/backing_file");
            if !name.starts_with("loop") || attached.symlink_metadata().is_err() {
                continue;
            }
            let this = Self::open(&Path::new("/dev").join(&*name))?;
            let Some(status) = this.status()? else { continue };
            if (status.device, status.inode) == (wanted.dev(), wanted.ino()) {
                return Ok(Some(this));
            }
        }
        Ok(None)
    }

    /// Whether its content is that of the file of this name. The file may have been deleted, and
    /// another one may have its name.
    pub fn is_of(&self, path: &Path) -> io::Result<bool> {
        let named = match path.metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            other => other?,
        };
        let status = self.status()?;
        Ok(status.is_some_and(|status| (status.device, status.inode) == (named.dev(), named.ino())))
    }

    /// Its path, for example `/dev/loop0`.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its number.
    pub fn device(&self) -> u64 {
        self.device
    }

    /// Takes notice that the file has grown.
    pub fn grow(&self) -> io::Result<()> {
        call(&self.file, SET_CAPACITY, 0).map(drop)
    }

    /// Bytes, as the kernel sees the device now.
    pub fn size(&self) -> io::Result<u64> {
        crate::block::size(&self.file)
    }

    fn open(path: &Path) -> io::Result<Self> {
        let file = File::options().read(true).write(true).open(path)?;
        let device = file.metadata()?.rdev();
        if rustix::fs::major(device) != MAJOR {
            let text = format!("{} is no loop device", path.display());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        Ok(Self { file, path: path.to_owned(), device })
    }

    /// Tells the device what its file is called, and to let go of it in the end.
    fn name_it(&self, path: &Path) -> io::Result<()> {
        let Some(mut status) = self.status()? else { return Err(io::ErrorKind::NotFound.into()) };
        status.flags |= AUTO_CLEAR;
        let name = path.as_os_str().as_encoded_bytes();
        let length = name.len().min(NAME - 1);
        status.file_name[..length].copy_from_slice(&name[..length]);
        // SAFETY: LOOP_SET_STATUS64 reads one `struct loop_info64`, which `Status` is and which
        // outlives the call.
        unsafe { call_with(&self.file, SET_STATUS, std::ptr::from_ref(&status).cast_mut()) }
    }

    /// `None` when it has no file.
    fn status(&self) -> io::Result<Option<Status>> {
        let mut status = Status {
            device: 0,
            inode: 0,
            rdevice: 0,
            offset: 0,
            size_limit: 0,
            number: 0,
            encrypt_type: 0,
            encrypt_key_size: 0,
            flags: 0,
            file_name: [0; NAME],
            crypt_name: [0; NAME],
            encrypt_key: [0; 32],
            init: [0; 2],
        };
        // SAFETY: LOOP_GET_STATUS64 fills one `struct loop_info64`, which `Status` is: plain
        // numbers and bytes, of which any value is valid.
        match unsafe { call_with(&self.file, GET_STATUS, &raw mut status) } {
            Ok(()) => Ok(Some(status)),
            Err(error) if error.raw_os_error() == Some(libc::ENXIO) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// A request that takes a number or nothing.
fn call(file: &File, request: u64, argument: RawFd) -> io::Result<i32> {
    // SAFETY: the requests that this module gives take no pointer.
    let answer =
        unsafe { libc::ioctl(file.as_raw_fd(), request as _, libc::c_long::from(argument)) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(answer) }
}

/// # Safety
///
/// `status` must be valid for what the request does with it.
unsafe fn call_with(file: &File, request: u64, status: *mut Status) -> io::Result<()> {
    // SAFETY: the caller's.
    let answer = unsafe { libc::ioctl(file.as_raw_fd(), request as _, status) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vm_a_loop_device_grows_with_its_file_and_lets_go_of_it() {
        if !testkit::in_vm("vm_a_loop_device_grows_with_its_file_and_lets_go_of_it") {
            return;
        }
        testkit::load_module("loop");
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let file = File::create(&path).unwrap();
        file.set_len(1 << 20).unwrap();
        assert!(LoopDevice::of_file(&path).unwrap().is_none());
        let first = LoopDevice::attach(&path).unwrap();
        assert_eq!(first.size().unwrap(), 1 << 20);
        file.set_len(2 << 20).unwrap();
        first.grow().unwrap();
        assert_eq!(first.size().unwrap(), 2 << 20);
        let found = LoopDevice::of_file(&path).unwrap().expect("the same device");
        assert_eq!((found.path(), found.device()), (first.path(), first.device()));
        drop(first);
        assert!(LoopDevice::of_file(&path).unwrap().is_some());
        drop(found);
        assert!(LoopDevice::of_file(&path).unwrap().is_none());
    }
}

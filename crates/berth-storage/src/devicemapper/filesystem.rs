//! The file systems on thin devices: making them, telling them apart, growing them, looking in.

use std::fs::File;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _};
use std::path::Path;
use std::process::Command;

use berth_sys::mount::{MountRequest, Unmount, mount, unmount};
use berth_sys::mountns::within_private;

use super::error::DevicemapperError;
use super::options::{Fs, Options};
use crate::StorageError;
use crate::error::io_at;
use crate::programs::{load_module, on_path};

/// Where in a device's file system its layer is.
pub(super) const ROOT: &str = "rootfs";

/// What a device holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) fs: Fs,
    pub(super) uuid: String,
    /// Bytes of the device that the file system uses.
    pub(super) size: u64,
}

/// The file system for a new base device: what was asked for, else xfs where it works.
pub(super) fn choose(options: &Options) -> Fs {
    if let Some(fs) = options.fs {
        return fs;
    }
    match xfs_works() {
        Ok(()) => Fs::Xfs,
        Err(why) => {
            tracing::warn!(
                "XFS is not supported in your system ({why}). Defaulting to ext4 filesystem"
            );
            Fs::Ext4
        }
    }
}

fn xfs_works() -> Result<(), &'static str> {
    if !on_path("mkfs.xfs") {
        return Err("exec: \"mkfs.xfs\": executable file not found in $PATH");
    }
    load_module("xfs");
    let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if known.lines().any(|line| line.trim() == "xfs") {
        return Ok(());
    }
    Err("kernel does not support xfs, or xfs is not in $PATH")
}

/// Makes one, over whatever is there.
pub(super) fn make(fs: Fs, device: &Path, options: &Options) -> Result<(), StorageError> {
    let mut mkfs = Command::new(format!("mkfs.{}", fs.name()));
    match fs {
        Fs::Xfs => {
            mkfs.args(&options.mkfs_args).arg(device);
            run(&mut mkfs)
        }
        Fs::Ext4 => {
            // What is written later is written by each layer of its own.
            mkfs.args(["-q", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0"]);
            run(mkfs.args(&options.mkfs_args).arg(device))?;
            run(Command::new("tune2fs").args(["-c", "-1", "-i", "0"]).arg(device))
        }
    }
}

/// Tells which one a device holds.
pub(super) fn probe(device: &Path) -> Result<Found, StorageError> {
    let mut head = [0; 2048];
    let read = File::open(device).and_then(|file| file.read_exact_at(&mut head, 0));
    read.map_err(io_at("read", device))?;
    let unknown = || DevicemapperError::UnknownFs { device: device.to_owned() };
    Ok(parse(&head).ok_or_else(unknown)?)
}

fn parse(head: &[u8; 2048]) -> Option<Found> {
    let (fs, uuid_at) = match () {
        () if &head[..4] == b"XFSB" => (Fs::Xfs, 32),
        () if head[0x438..0x43a] == [0x53, 0xef] => (Fs::Ext4, 0x468),
        () => return None,
    };
    let size = match fs {
        Fs::Xfs => {
            let block = u32::from_be_bytes(bytes(head, 4));
            u64::from_be_bytes(bytes(head, 8)).saturating_mul(block.into())
        }
        Fs::Ext4 => {
            let number = |at| u64::from(u32::from_le_bytes(bytes(head, at)));
            // The upper half counts with the feature `64bit` alone.
            let upper = if number(0x460) & 0x80 == 0 { 0 } else { number(0x550) };
            let block = 1024_u64.checked_shl(u32::try_from(number(0x418)).ok()?)?;
            (upper << 32 | number(0x404)).saturating_mul(block)
        }
    };
    let hex = format!("{:032x}", u128::from_be_bytes(bytes(head, uuid_at)));
    let parts = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]];
    Some(Found { fs, uuid: parts.join("-"), size })
}

fn bytes<const N: usize>(head: &[u8; 2048], at: usize) -> [u8; N] {
    std::array::from_fn(|index| head[at + index])
}

/// The options of every mount of a device.
pub(super) fn mount_options(fs: Fs, options: &Options) -> Vec<String> {
    let own = if fs == Fs::Xfs { Some("nouuid".to_owned()) } else { None };
    own.into_iter().chain(options.mount_options.iter().cloned()).collect()
}

/// Mounts a device where nobody else sees it, and does something with it.
pub(super) fn with_mounted(
    fs: Fs,
    device: &Path,
    place: &Path,
    options: &Options,
    work: impl FnOnce(&Path) -> Result<(), StorageError> + Send,
) -> Result<(), StorageError> {
    let options = mount_options(fs, options);
    let request = MountRequest {
        fs_type: fs.name(),
        source: device,
        target: place,
        work_dir: None,
        options: &options,
    };
    let failed = |source| StorageError::Mount {
        fs_type: fs.name().to_owned(),
        target: place.to_owned(),
        source,
    };
    let done = within_private(|| {
        mount(&request).map_err(failed)?;
        let done = work(place);
        // The end of the namespace would do it some time later.
        unmount(place, Unmount::Lazy).map_err(io_at("unmount", place))?;
        done
    });
    done.map_err(failed)?
}

/// Makes the directory of a layer that stands on nothing, and the file that says whose it is.
pub(super) fn begin_layer(top: &Path, id: &str) -> Result<(), StorageError> {
    let root = top.join(ROOT);
    match std::fs::DirBuilder::new().mode(0o755).create(&root) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(io_at("create", root)(error));
        }
        _ => {}
    }
    rustix::fs::chmod(&root, 0o755.into()).map_err(io_at("set the mode of", root))?;
    let file = top.join("id");
    berth_fs::atomic::write(&file, id.as_bytes()).map_err(io_at("write", file))
}

/// Lets the file system, mounted at `top`, fill its device.
pub(super) fn grow(fs: Fs, device: &Path, top: &Path) -> Result<(), StorageError> {
    match fs {
        Fs::Xfs => run(Command::new("xfs_growfs").arg(top)),
        Fs::Ext4 => run(Command::new("resize2fs").arg(device)),
    }
}

fn run(command: &mut Command) -> Result<(), StorageError> {
    let program = command.get_program().to_string_lossy().into_owned();
    let failed = |said: String| DevicemapperError::Program { program: program.clone(), said };
    let output = command.output().map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(failed(format!("{}: {}", output.status, said.trim())).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_systems_are_told_by_their_first_bytes() {
        let uuid: Vec<u8> = (0..16).collect();
        let text = "00010203-0405-0607-0809-0a0b0c0d0e0f";
        let mut xfs = [0; 2048];
        xfs[..4].copy_from_slice(b"XFSB");
        xfs[4..8].copy_from_slice(&4096_u32.to_be_bytes());
        xfs[8..16].copy_from_slice(&0x1_0000_0001_u64.to_be_bytes());
        xfs[32..48].copy_from_slice(&uuid);
        let mut ext4 = [0; 2048];
        ext4[0x438..0x43a].copy_from_slice(&[0x53, 0xef]);
        ext4[0x404..0x408].copy_from_slice(&7_u32.to_le_bytes());
        ext4[0x418..0x41c].copy_from_slice(&2_u32.to_le_bytes());
        ext4[0x550..0x554].copy_from_slice(&1_u32.to_le_bytes());
        ext4[0x468..0x478].copy_from_slice(&uuid);
        let found = |fs, size| Some(Found { fs, uuid: text.to_owned(), size });
        assert_eq!(parse(&xfs), found(Fs::Xfs, 0x1_0000_0001 * 4096));
        assert_eq!(parse(&ext4), found(Fs::Ext4, 7 * 4096));
        ext4[0x460] = 0x80;
        assert_eq!(parse(&ext4), found(Fs::Ext4, 0x1_0000_0007 * 4096));
        assert_eq!(parse(&[0; 2048]), None);
    }
}

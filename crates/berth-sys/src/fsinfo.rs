//! What kind of file system something lies on, and what it can do.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags};

/// Docker's names of file systems by `statfs` magic; anything else is [`UNKNOWN`].
#[rustfmt::skip]
const NAMES: &[(u32, &str)] = &[
    (0x6175_6673, "aufs"),     (0x9123_683E, "btrfs"),    (0x28cd_3d45, "cramfs"),
    (0x0000_f15f, "ecryptfs"), (0x0000_EF53, "extfs"),    (0xF2F5_2010, "f2fs"),
    (0x6573_5546, "fuse"),     (0x4750_4653, "gpfs"),     (0x0000_72b6, "jffs2"),
    (0x3153_464a, "jfs"),      (0x0000_6969, "nfs"),      (0x794C_7630, "overlayfs"),
    (0x8584_58f6, "ramfs"),    (0x5265_4973, "reiserfs"), (0x0000_517B, "smb"),
    (0x7371_7368, "squashfs"), (0x0102_1994, "tmpfs"),    (0xa501_fcf5, "vxfs"),
    (0x5846_5342, "xfs"),      (0x2fc1_2fc1, "zfs"),
];

/// The name Docker gives a file system that it does not know.
pub const UNKNOWN: &str = "<unknown>";

/// The name for a `statfs` magic.
pub fn name_of_magic(magic: u32) -> &'static str {
    NAMES.iter().find(|(known, _)| *known == magic).map_or(UNKNOWN, |(_, name)| name)
}

/// The `statfs` magic of the file system that `path` is on.
pub fn magic(path: &Path) -> io::Result<u32> {
    let info = rustix::fs::statfs(path)?;
    // The field's type differs between architectures; the magic is its low 32 bits.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "magics have 32 bits and are sign-extended on some architectures"
    )]
    Ok(info.f_type as u32)
}

/// Has the kernel begin to write out this part of a file, and does not wait for it. Nothing is promised by
/// that: whoever needs the content to last syncs it all the same.
pub fn begin_write_out(file: impl AsFd, offset: u64, length: u64) -> io::Result<()> {
    use std::os::fd::AsRawFd as _;
    let place = |number: u64| i64::try_from(number).map_err(io::Error::other);
    let (offset, length) = (place(offset)?, place(length)?);
    let fd = file.as_fd().as_raw_fd();
    // SAFETY: the descriptor is open for the whole call, which takes numbers only.
    let done = unsafe { libc::sync_file_range(fd, offset, length, libc::SYNC_FILE_RANGE_WRITE) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Docker's name of the file system that `path` is on (`Backing Filesystem` of `docker info`).
pub fn fs_name(path: &Path) -> io::Result<&'static str> {
    Ok(name_of_magic(magic(path)?))
}

/// Whether directory entries below `dir` come with their type (needed by overlay).
///
/// Makes a temporary file in `dir`, lists it, and removes the file.
pub fn has_d_type(dir: &Path) -> io::Result<bool> {
    let dir = rustix::fs::openat(
        CWD,
        dir,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let probe = format!(".berth-d-type-{}-{}", std::process::id(), unique());
    let file = rustix::fs::openat(
        &dir,
        &probe,
        OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC,
        Mode::from_raw_mode(0o600),
    )?;
    drop(file);
    let answer = all_typed(&dir);
    rustix::fs::unlinkat(&dir, &probe, AtFlags::empty())?;
    answer
}

fn unique() -> u64 {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

fn all_typed(dir: impl AsFd) -> io::Result<bool> {
    for entry in rustix::fs::Dir::read_from(dir)? {
        let entry = entry?;
        let dots = matches!(entry.file_name().to_bytes(), b"." | b"..");
        if !dots && entry.file_type() == FileType::Unknown {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Makes everything written to the file system of `file` survive a power cut.
pub fn sync_fs(file: impl AsFd) -> io::Result<()> {
    Ok(rustix::fs::syncfs(file)?)
}

/// Like [`sync_fs`], for the file system that `path` is on.
pub fn sync_fs_of(path: &Path) -> io::Result<()> {
    sync_fs(std::fs::File::open(path)?)
}

/// Sets the mask of permissions that new files of this process do not get; gives the old one.
pub fn set_umask(mask: u32) -> u32 {
    rustix::process::umask(Mode::from_raw_mode(mask)).as_raw_mode()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_a_file_is_written_out_early_and_of_a_pipe_nothing() {
        let mut file = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut file, &[7; 8192]).unwrap();
        begin_write_out(&file, 4096, 4096).unwrap();
        let (reader, _writer) = std::io::pipe().unwrap();
        assert!(begin_write_out(&reader, 0, 1).is_err());
    }

    #[test]
    fn file_systems_have_dockers_names() {
        #[rustfmt::skip]
        let table = [
            (0xEF53,      "extfs"),
            (0x9123_683E, "btrfs"),
            (0x794C_7630, "overlayfs"),
            (0x0102_1994, "tmpfs"),
            (0x1,         "<unknown>"),
        ];
        for (magic, name) in table {
            assert_eq!(name_of_magic(magic), name);
        }
        assert_eq!(fs_name(Path::new("/proc")).unwrap(), "<unknown>");
    }

    #[test]
    fn the_d_type_probe_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        assert!(has_d_type(dir.path()).unwrap());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}

//! The sums of files by which `ADD` and `COPY` know whether anything has changed.
//!
//! They stand in images' histories and are Docker's: of the fields of the tar header that the file
//! would have, without its times, then of its content. A directory's sum is that of the sorted sums
//! of everything in it.

use std::ffi::OsStr;
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use berth_fs::root::{Follow, Root};
use berth_types::{Digest, IdMaps};
use rustix::fs::{FileType, OFlags, Stat};
use sha2::{Digest as _, Sha256};

/// Deepest tree that is walked.
const DEEPEST: usize = 1000;

/// Where files come from: Docker sums those of an image a little differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin<'a> {
    /// The client's context.
    Context,
    /// An image or stage, and what ids of the container are in its layers.
    Image(&'a IdMaps),
}

/// `file:<sum>` or `dir:<sum>` of a clean path without links, relative to the root; empty for the
/// root itself.
pub(crate) fn of_path(root: &Root, path: &Path, origin: Origin<'_>) -> io::Result<String> {
    let stat = look(root, path)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        return Ok(format!("file:{}", of_entry(root, path, &stat, origin)?));
    }
    let mut sums = Vec::new();
    if !path.as_os_str().is_empty() {
        sums.push(of_entry(root, path, &stat, origin)?);
    }
    below(root, path, origin, 0, &mut sums)?;
    sums.sort_unstable();
    Ok(of_sums("dir", &sums))
}

/// The sum of several sums.
pub(crate) fn of_sums(prefix: &str, sums: &[String]) -> String {
    format!("{prefix}:{}", hex(Sha256::new_with_prefix(sums.join(",").as_bytes())))
}

fn below(
    root: &Root,
    dir: &Path,
    origin: Origin<'_>,
    depth: usize,
    sums: &mut Vec<String>,
) -> io::Result<()> {
    if depth > DEEPEST {
        return Err(rustix::io::Errno::NAMETOOLONG.into());
    }
    for name in names(root, dir)? {
        let path = dir.join(OsStr::from_bytes(&name));
        let stat = look(root, &path)?;
        sums.push(of_entry(root, &path, &stat, origin)?);
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            below(root, &path, origin, depth + 1, sums)?;
        }
    }
    Ok(())
}

/// The names in a directory, sorted.
pub(crate) fn names(root: &Root, dir: &Path) -> io::Result<Vec<Vec<u8>>> {
    Ok(berth_fs::root::names(root.open_dir(&inside(dir))?.fd())?)
}

/// A relative path as one from the root.
pub(crate) fn inside(path: &Path) -> PathBuf {
    Path::new("/").join(path)
}

pub(crate) fn look(root: &Root, path: &Path) -> io::Result<Stat> {
    if path.as_os_str().is_empty() {
        return Ok(rustix::fs::fstat(root.fd())?);
    }
    root.stat(&inside(path), Follow::No)
}

fn of_entry(root: &Root, path: &Path, stat: &Stat, origin: Origin<'_>) -> io::Result<String> {
    let kind = FileType::from_raw_mode(stat.st_mode);
    let mut sum = Sha256::new();
    let mut field = |name: &str, value: &[u8]| {
        sum.update(name.as_bytes());
        sum.update(value);
    };
    let mut name = path.as_os_str().as_bytes().to_vec();
    if kind == FileType::Directory {
        name.push(b'/');
    }
    field("name", &name);
    let mode = match origin {
        Origin::Context => stat.st_mode & 0o7777,
        Origin::Image(_) => stat.st_mode,
    };
    field("mode", mode.to_string().as_bytes());
    let (uid, gid) = match origin {
        Origin::Context => (stat.st_uid, stat.st_gid),
        Origin::Image(ids) => (ids.uids.seen(stat.st_uid), ids.gids.seen(stat.st_gid)),
    };
    field("uid", uid.to_string().as_bytes());
    field("gid", gid.to_string().as_bytes());
    let size = if kind == FileType::RegularFile { stat.st_size } else { 0 };
    field("size", size.to_string().as_bytes());
    let (flag, link) = match kind {
        FileType::Directory => (b"5", Vec::new()),
        FileType::Symlink => (b"2", root.read_link(&inside(path))?.as_bytes().to_vec()),
        FileType::CharacterDevice => (b"3", Vec::new()),
        FileType::BlockDevice => (b"4", Vec::new()),
        FileType::Fifo => (b"6", Vec::new()),
        _ => (b"0", Vec::new()),
    };
    field("typeflag", flag);
    field("linkname", &link);
    // Of an image's files Docker looks the owner up on the host; root is the one that is the same
    // everywhere.
    let is_image = origin != Origin::Context;
    let root_name = |id: u32| if is_image && id == 0 { "root" } else { "" };
    field("uname", root_name(uid).as_bytes());
    field("gname", root_name(gid).as_bytes());
    let is_device = matches!(kind, FileType::CharacterDevice | FileType::BlockDevice);
    let device = if is_device { stat.st_rdev } else { 0 };
    field("devmajor", rustix::fs::major(device).to_string().as_bytes());
    field("devminor", rustix::fs::minor(device).to_string().as_bytes());
    if kind == FileType::RegularFile {
        content(root, path, &mut sum)?;
    }
    Ok(hex(sum))
}

/// The file's capabilities, if it has any, and its bytes.
fn content(root: &Root, path: &Path, sum: &mut Sha256) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = root.open_at(&inside(path), flags, rustix::fs::Mode::empty())?;
    let mut value = vec![0_u8; 256];
    match rustix::fs::fgetxattr(&file, "security.capability", &mut value[..]) {
        Ok(length) => {
            sum.update(b"security.capability");
            sum.update(&value[..length]);
        }
        Err(rustix::io::Errno::NODATA | rustix::io::Errno::OPNOTSUPP) => {}
        Err(error) => return Err(error.into()),
    }
    let mut file = std::fs::File::from(file);
    let mut piece = vec![0_u8; 1 << 17];
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(()),
            count => sum.update(&piece[..count]),
        }
    }
}

fn hex(sum: Sha256) -> String {
    Digest::from_hash(sum.finalize().as_slice()).hex().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// The sums that dockerd 20.10 gives for the same files.
    #[test]
    fn root_sums_are_dockers() {
        if !rustix::process::geteuid().is_root() {
            testkit::skip("root_sums_are_dockers", "root");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        std::fs::create_dir_all(path("d/e")).unwrap();
        std::fs::create_dir(path("etc")).unwrap();
        #[rustfmt::skip]
        let files = [
            ("a",         "one\n", 0o644),
            ("d/f",       "x\n",   0o600),
            ("d/e/g",     "y\n",   0o644),
            ("etc/group", "root:x:0:\nme:x:1001:\nstaff:x:50:\n", 0o644),
        ];
        for (name, content, mode) in files {
            berth_fs::atomic::write(&path(name), content.as_bytes()).unwrap();
            std::fs::set_permissions(path(name), PermissionsExt::from_mode(mode)).unwrap();
        }
        std::fs::set_permissions(path("d/e"), PermissionsExt::from_mode(0o700)).unwrap();
        std::fs::set_permissions(path("d"), PermissionsExt::from_mode(0o755)).unwrap();
        let root = Root::open(dir.path()).unwrap();
        #[rustfmt::skip]
        let table = [
            ("a",         Origin::Context, "file:787261af2811430319c145b4d041c82c0ef3b7ec9bb9b2ef28d9653565194909"),
            ("d",         Origin::Context, "dir:054cac4ddee161767b45c1274dba4e7fa9c48c40c624770c946328acffb26851"),
            ("etc/group", Origin::Image(&IdMaps::default()), "file:4ba82430c6d2c3870ee09c31b64b3f52db98af6e9ae968ce76df666fa8ab290c"),
        ];
        for (name, origin, expected) in table {
            assert_eq!(of_path(&root, Path::new(name), origin).unwrap(), expected, "{name}");
        }
        let one = of_path(&root, Path::new("a"), Origin::Context).unwrap();
        assert_eq!(
            of_sums("multi", &[one.clone(), one]),
            "multi:439ade46b8a91093943b7c6cbd3afab11af5cc9c5673b11070a91fb0f64b7fe7"
        );
    }
}

//! What overlayfs can do on this kernel over this file system, tried out with one mount.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, Write as _};
use std::path::Path;

use berth_sys::mount::{MountRequest, mount};
use rustix::fs::XattrFlags;
use rustix::io::Errno;

use crate::StorageError;
use crate::error::io_at;
use crate::home::{ProbeDir, new_dir};

const OPAQUE: &str = "trusted.overlay.opaque";
const REDIRECT: &str = "trusted.overlay.redirect";
const METACOPY: &str = "trusted.overlay.metacopy";
const INDEX_PARAMETER: &str = "/sys/module/overlay/parameters/index";

/// What was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Abilities {
    /// The kernel knows `index=`, which is switched off.
    pub(super) index: bool,
    /// Renamed directories are redirected by default; switched off.
    pub(super) redirect: bool,
    /// Copied-up files have no data by default; switched off.
    pub(super) metacopy: bool,
    /// Lower directories may be named one by one, so that more fit than into a page.
    pub(super) many: bool,
}

impl Abilities {
    /// The options that every mount begins with; `index` is for hard links to be kept.
    pub(super) fn options(self, index: bool) -> Vec<String> {
        let mut options = Vec::new();
        for (on, option) in [
            (index, "index=on"),
            (self.index && !index, "index=off"),
            (self.redirect, "redirect_dir=off"),
            (self.metacopy, "metacopy=off"),
        ] {
            if on {
                options.push(option.to_owned());
            }
        }
        options
    }
}

/// Tries overlayfs in `dir`. `Err(NotSupported)`, with a log line, when it does not work.
pub(super) fn run(dir: &Path) -> Result<Abilities, StorageError> {
    let probe = ProbeDir::new(dir)?;
    let at = |name: &str| probe.path().join(name);
    for name in ["l1", "l1/d", "l1/d1", "l2", "l2/d", "upper", "work", "merged"] {
        new_dir(&at(name), 0o755)?;
    }
    fs::File::create(at("l1/f")).map_err(io_at("create", at("l1/f")))?;
    set_opaque(&at("l2/d"))?;
    // Without `volatile` (Linux 5.10) the unmount would sync the whole file system below.
    let options = ["lowerdir=l2:l1", "upperdir=upper", "workdir=work", "volatile"];
    let options = options.map(str::to_owned);
    let request = |options| MountRequest {
        fs_type: "overlay",
        source: Path::new("overlay"),
        target: Path::new("merged"),
        work_dir: Some(probe.path()),
        options,
    };
    let tried = mount(&request(&options)).or_else(|_| mount(&request(&options[..3])));
    if let Err(error) = tried {
        tracing::error!(
            %error,
            "'overlay' not found as a supported filesystem on this host. Please ensure kernel \
             is new enough and has overlay support loaded."
        );
        return Err(StorageError::NotSupported);
    }
    fs::File::create(at("merged/d/f")).map_err(io_at("create", at("merged/d/f")))?;
    if has(&at("upper/d"), OPAQUE)? {
        tracing::error!(
            "opaque flag erroneously copied up, consider update to kernel 4.8 or later to fix"
        );
        return Err(StorageError::NotSupported);
    }
    let redirect = match fs::rename(at("merged/d1"), at("merged/d2")) {
        Ok(()) => has(&at("upper/d2"), REDIRECT)?,
        Err(error) if error.raw_os_error() == Some(Errno::XDEV.raw_os_error()) => false,
        Err(error) => return Err(io_at("rename", at("merged/d1"))(error)),
    };
    rustix::fs::chmod(at("merged/f"), 0o600.into()).map_err(io_at("chmod", at("merged/f")))?;
    let metacopy = has(&at("upper/f"), METACOPY)?;
    let index =
        Path::new(INDEX_PARAMETER).try_exists().map_err(io_at("look at", INDEX_PARAMETER))?;
    let many = ["lowerdir+=l2", "lowerdir+=l1", "ro"].map(str::to_owned);
    let many = mount(&request(&many)).is_ok();
    Ok(Abilities { index, redirect, metacopy, many })
}

/// Tries in `dir` whether a write through one name of a file of the image is seen through another.
pub(super) fn keeps_links(dir: &Path) -> Result<bool, StorageError> {
    let probe = ProbeDir::new(dir)?;
    let at = |name: &str| probe.path().join(name);
    for name in ["lower", "upper", "work", "merged"] {
        new_dir(&at(name), 0o755)?;
    }
    fs::File::create(at("lower/a")).map_err(io_at("create", at("lower/a")))?;
    fs::hard_link(at("lower/a"), at("lower/b")).map_err(io_at("link", at("lower/a")))?;
    let options = ["lowerdir=lower", "upperdir=upper", "workdir=work", "index=on"];
    let request = MountRequest {
        fs_type: "overlay",
        source: Path::new("overlay"),
        target: Path::new("merged"),
        work_dir: Some(probe.path()),
        options: &options.map(str::to_owned),
    };
    if mount(&request).is_err() {
        return Ok(false);
    }
    let opened = fs::OpenOptions::new().write(true).open(at("merged/a"));
    let written = opened.and_then(|mut file| file.write_all(b"written"));
    written.map_err(io_at("write", at("merged/a")))?;
    let read = fs::read(at("merged/b")).map_err(io_at("read", at("merged/b")))?;
    Ok(read == b"written")
}

fn set_opaque(path: &Path) -> Result<(), StorageError> {
    match rustix::fs::setxattr(path, OPAQUE, b"y", XattrFlags::empty()) {
        Ok(()) => Ok(()),
        Err(Errno::OPNOTSUPP | Errno::PERM) => {
            tracing::error!("the file system below overlay2 has no trusted extended attributes");
            Err(StorageError::NotSupported)
        }
        Err(error) => Err(io_at("set an attribute of", path)(error)),
    }
}

fn has(path: &Path, name: &str) -> Result<bool, StorageError> {
    let mut empty = [0_u8; 0];
    match rustix::fs::lgetxattr(path, OsStr::new(name), &mut empty[..]) {
        Ok(_) => Ok(true),
        Err(Errno::NODATA) => Ok(false),
        Err(error) => Err(io_at("read an attribute of", path)(io::Error::from(error))),
    }
}

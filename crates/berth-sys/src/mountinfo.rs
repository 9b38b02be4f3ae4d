//! The mounts this process sees, from `/proc/self/mountinfo`.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

/// One line of mountinfo.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// The mount's own number.
    pub id: u64,
    /// The number of the mount it is on.
    pub parent: u64,
    /// Major and minor device number of the file system.
    pub device: (u32, u32),
    /// What of the file system is mounted here.
    pub root: PathBuf,
    /// Where.
    pub mount_point: PathBuf,
    /// Options of this mount, comma separated.
    pub options: String,
    /// `shared:1`, `master:2`, …
    pub propagation: Vec<String>,
    /// File system type.
    pub fs_type: String,
    /// The device or other source.
    pub source: OsString,
    /// Options of the file system, comma separated.
    pub super_options: OsString,
}

/// All mounts, in the kernel's order (parents before children).
pub fn all() -> io::Result<Vec<Mount>> {
    // Read whole: a line-wise reader would see a list that changes under it more easily.
    let text = std::fs::read("/proc/self/mountinfo")?;
    text.split(|&byte| byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| {
            parse(line).ok_or_else(|| {
                let line = String::from_utf8_lossy(line);
                io::Error::new(io::ErrorKind::InvalidData, format!("bad mountinfo line {line:?}"))
            })
        })
        .collect()
}

/// The mounts at and below `path`, in the kernel's order.
pub fn below(path: &Path) -> io::Result<Vec<Mount>> {
    let mut mounts = all()?;
    mounts.retain(|mount| mount.mount_point.starts_with(path));
    Ok(mounts)
}

/// The mount that `path` lies on: the last one among those with the longest mount point.
pub fn covering(path: &Path) -> io::Result<Option<Mount>> {
    let mut best: Option<Mount> = None;
    for mount in all()? {
        let longer = |best: &Mount| {
            mount.mount_point.as_os_str().len() >= best.mount_point.as_os_str().len()
        };
        if path.starts_with(&mount.mount_point) && best.as_ref().is_none_or(longer) {
            best = Some(mount);
        }
    }
    Ok(best)
}

fn parse(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|&byte| byte == b' ');
    let mut next = || fields.next();
    let id = number(next()?)?;
    let parent = number(next()?)?;
    let device = text(next()?)?;
    let (major, minor) = device.split_once(':')?;
    let device = (major.parse().ok()?, minor.parse().ok()?);
    let root = PathBuf::from(unescape(next()?));
    let mount_point = PathBuf::from(unescape(next()?));
    let options = text(next()?)?;
    let mut propagation = Vec::new();
    loop {
        match next()? {
            b"-" => break,
            tag => propagation.push(text(tag)?),
        }
    }
    let fs_type = text(next()?)?;
    let source = unescape(next()?);
    let super_options = unescape(next().unwrap_or_default());
    Some(Mount {
        id,
        parent,
        device,
        root,
        mount_point,
        options,
        propagation,
        fs_type,
        source,
        super_options,
    })
}

fn text(field: &[u8]) -> Option<String> {
    String::from_utf8(field.to_vec()).ok()
}

fn number(field: &[u8]) -> Option<u64> {
    std::str::from_utf8(field).ok()?.parse().ok()
}

/// Undoes the kernel's `\040` for space, tab, newline, backslash and `#`.
fn unescape(field: &[u8]) -> OsString {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        let octal = tail.get(..3).filter(|digits| digits.iter().all(|d| (b'0'..=b'7').contains(d)));
        match octal {
            Some(digits) if byte == b'\\' => {
                let value = digits.iter().fold(0_u32, |sum, d| sum * 8 + u32::from(d - b'0'));
                out.push(u8::try_from(value & 0xff).unwrap_or(b'?'));
                rest = &tail[3..];
            }
            _ => {
                out.push(byte);
                rest = tail;
            }
        }
    }
    OsString::from_vec(out)
}

/// Whether an option list (comma separated) has exactly this option.
pub fn has_option(options: &std::ffi::OsStr, option: &str) -> bool {
    options.as_bytes().split(|&byte| byte == b',').any(|one| one == option.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_taken_apart() {
        let line =
            br"36 35 98:0 /mnt1 /mnt\0402 rw,noatime master:1 shared:2 - ext3 /dev/root rw,x=\134";
        let expected = Mount {
            id: 36,
            parent: 35,
            device: (98, 0),
            root: "/mnt1".into(),
            mount_point: "/mnt 2".into(),
            options: "rw,noatime".to_owned(),
            propagation: vec!["master:1".to_owned(), "shared:2".to_owned()],
            fs_type: "ext3".to_owned(),
            source: "/dev/root".into(),
            super_options: r"rw,x=\".into(),
        };
        assert_eq!(parse(line), Some(expected));
        assert_eq!(parse(b"36 35 98:0 /mnt1"), None);
    }

    #[test]
    fn this_process_has_a_root_mount() {
        assert!(covering(Path::new("/")).unwrap().is_some());
        assert!(has_option(std::ffi::OsStr::new("rw,prjquota"), "prjquota"));
        assert!(!has_option(std::ffi::OsStr::new("rw,prjquotax"), "prjquota"));
    }
}

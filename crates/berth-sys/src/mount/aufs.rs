//! Mounts of aufs: more branches than a page names, and hard links that must be tied before the end.

use std::ffi::CString;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::mount::UnmountFlags;

use super::{MountRequest, parse};

/// The option of aufs that adds a branch below the others, to a mount that is there.
pub const APPEND: &str = "append:";
/// The option that says where aufs has its file of inode numbers; each mount adds to the name what
/// makes it its own.
const XINO: &str = "xino=";
/// The longest that is added.
pub const XINO_MORE: usize = ".4194304-18446744073709551615".len();
/// The program that ties hard links before a mount ends.
pub const AUPLINK: &str = "auplink";
/// The file system's type.
pub const FS_TYPE: &str = "aufs";

/// Mounts with all options but the [added branches](APPEND), which are then added by remounts, as many
/// at a time as a page holds.
pub(super) fn mount(request: &MountRequest<'_>) -> io::Result<()> {
    let is_more = |option: &&String| option.starts_with(APPEND);
    let first = request.options.iter().filter(|option| !is_more(option));
    let first: Vec<String> = first.map(|option| with_own_xino(option)).collect();
    let parsed = parse(request.fs_type, &first);
    let data = CString::new(parsed.data)?;
    rustix::mount::mount(
        request.source,
        request.target,
        request.fs_type,
        parsed.flags,
        Some(data.as_c_str()),
    )?;
    let more: Vec<&str> = request.options.iter().filter(is_more).map(String::as_str).collect();
    for data in groups(&more, rustix::param::page_size()) {
        let added = CString::new(data).map_err(io::Error::from).and_then(|data| {
            Ok(rustix::mount::mount_remount(request.target, parsed.flags, data.as_c_str())?)
        });
        if let Err(error) = added {
            // A mount without its lowest branches must not stay.
            rustix::mount::unmount(request.target, UnmountFlags::DETACH)?;
            return Err(error);
        }
    }
    Ok(())
}

/// Gives the file of inode numbers a name that no other mount has. aufs makes the file and removes its
/// name at once, and a mount that meets the name of another fails.
fn with_own_xino(option: &str) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    if !option.starts_with(XINO) {
        return option.to_owned();
    }
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{option}.{}-{number}", std::process::id())
}

/// Options put together so that each text with its end fits into a page.
fn groups(options: &[&str], page: usize) -> Vec<String> {
    let mut groups: Vec<String> = Vec::new();
    for option in options {
        match groups.last_mut().filter(|last| last.len() + 1 + option.len() < page) {
            Some(last) => {
                last.push(',');
                last.push_str(option);
            }
            None => groups.push((*option).to_owned()),
        }
    }
    groups
}

/// Does what must be done before a mount of `fs_type` ends.
///
/// aufs keeps hard links to files of lower branches together as long as it is mounted; the program
/// `auplink`, where there is one, gives the others of such names their files. Other types need nothing.
pub fn before_unmount(fs_type: &str, target: &Path) {
    /// What it ends with when it was disturbed.
    const AGAIN: i32 = 22;
    if fs_type != FS_TYPE {
        return;
    }
    for _ in 0..3 {
        let ended = Command::new(AUPLINK)
            .arg(target)
            .arg("flush")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        // Docker goes on as well when it is missing or fails: what is lost is that two names are one
        // file.
        if !ended.is_ok_and(|status| status.code() == Some(AGAIN)) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn branches_are_added_as_many_at_a_time_as_a_page_holds() {
        #[rustfmt::skip]
        let table: &[(&[&str], usize, &[&str])] = &[
            (&[],                   10, &[]),
            (&["aaaa"],             10, &["aaaa"]),
            (&["aaaa", "bbbb"],     10, &["aaaa,bbbb"]),
            (&["aaaa", "bbbb"],      9, &["aaaa", "bbbb"]),
            (&["aa", "bb", "cc"],    6, &["aa,bb", "cc"]),
            (&["too long", "b"],     4, &["too long", "b"]),
        ];
        for (options, page, expected) in table {
            assert_eq!(groups(options, *page), *expected, "{options:?} {page}");
        }
    }

    #[test]
    fn no_two_mounts_have_one_file_of_inode_numbers() {
        assert_eq!(with_own_xino("dio"), "dio");
        let [one, two] = [(); 2].map(|()| with_own_xino("xino=/dev/shm/aufs.xino"));
        assert!(one.starts_with("xino=/dev/shm/aufs.xino."), "{one}");
        assert_ne!(one, two);
        assert!(one.len() <= "xino=/dev/shm/aufs.xino".len() + XINO_MORE);
    }
}

//! Handles of files: names by which a file system knows a file again, wherever it has moved.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

/// The most that a handle takes (`MAX_HANDLE_SZ`).
const LONGEST: u32 = 128;

/// What a file system calls a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileHandle {
    /// The form of `bytes`.
    pub kind: i32,
    /// Only the file system knows what they mean.
    pub bytes: Vec<u8>,
}

/// `struct file_handle` with room for any.
#[repr(C)]
struct Room {
    length: u32,
    kind: i32,
    bytes: [u8; LONGEST as usize],
}

impl FileHandle {
    /// The handle of what is at `path`; links are not followed. Fails where the file system has no
    /// handles.
    pub fn of(path: &Path) -> io::Result<Self> {
        let text = CString::new(path.as_os_str().as_bytes())?;
        let mut room = Room { length: LONGEST, kind: 0, bytes: [0; LONGEST as usize] };
        let mut mount = 0;
        // SAFETY: the path ends with a zero byte, and `room` is laid out as the kernel's structure with
        // as many bytes behind it as its length says; both outlive the call.
        let done = unsafe {
            libc::name_to_handle_at(
                libc::AT_FDCWD,
                text.as_ptr(),
                std::ptr::from_mut(&mut room).cast(),
                &raw mut mount,
                0,
            )
        };
        if done != 0 {
            return Err(io::Error::last_os_error());
        }
        let bytes = room.bytes.get(..room.length as usize).unwrap_or_default().to_vec();
        Ok(Self { kind: room.kind, bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_is_the_files_and_not_the_names() {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let (one, other) = (dir.path().join("one"), dir.path().join("other"));
        std::fs::File::create(&one).unwrap();
        std::fs::File::create(&other).unwrap();
        let Ok(before) = FileHandle::of(&one) else {
            return testkit::skip("a_handle_is_the_files_and_not_the_names", "file handles");
        };
        assert_ne!(FileHandle::of(&other).unwrap(), before);
        std::fs::rename(&one, &other).unwrap();
        assert_eq!(FileHandle::of(&other).unwrap(), before);
        assert_eq!(FileHandle::of(&one).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}

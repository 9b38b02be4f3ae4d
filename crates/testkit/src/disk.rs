//! Disks of the virtual machine that runs the tests named `vm_…`.
//!
//! A test takes a disk, makes a file system on it and mounts it; when it ends, however it ends,
//! the disk is unmounted and free for the next one. There are fewer disks than tests.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::mount::{MountFlags, UnmountFlags};

/// Names the disks, separated by colons.
const DISKS: &str = "BERTH_VM_DISKS";
const NAP: Duration = Duration::from_millis(20);

/// A disk that no other test uses meanwhile. Its content is whatever the last one left.
#[derive(Debug)]
pub struct Disk {
    path: PathBuf,
    /// Its lock is what makes it this test's.
    _file: File,
}

impl Disk {
    /// Waits until a disk is free, and takes it.
    pub fn take() -> Self {
        let names = std::env::var(DISKS).expect("a virtual machine names its disks");
        let disks: Vec<PathBuf> = std::env::split_paths(&names).collect();
        assert!(!disks.is_empty(), "this virtual machine has no disks");
        loop {
            for path in &disks {
                let file = File::open(path).expect("a disk can be opened");
                if file.try_lock().is_ok() {
                    return Self { path: path.clone(), _file: file };
                }
            }
            std::thread::sleep(NAP);
        }
    }

    /// The device.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes a file system with the defaults of `mkfs.<kind>` and these options, over whatever is
    /// there.
    #[must_use]
    pub fn format(self, kind: &str, options: &[&str]) -> Self {
        let force = if kind.starts_with("ext") { "-F" } else { "-f" };
        let mut command = Command::new(format!("mkfs.{kind}"));
        command.args(["-q", force]).args(options).arg(&self.path);
        let output = command.output().expect("the runner installs the programs that make them");
        assert!(output.status.success(), "{command:?}: {output:?}");
        self
    }

    /// Mounts what was made by [`format`](Self::format), with options of that file system.
    pub fn mount(self, kind: &str, options: &str) -> Mounted {
        let dir = tempfile::tempdir().expect("a mount point");
        let data = std::ffi::CString::new(options).expect("options have no zero byte");
        rustix::mount::mount(&self.path, dir.path(), kind, MountFlags::empty(), Some(&*data))
            .unwrap_or_else(|error| panic!("cannot mount {kind} with {options:?}: {error}"));
        Mounted { mount: Mount(dir), disk: self }
    }
}

/// A mounted disk, unmounted when it is dropped.
#[derive(Debug)]
pub struct Mounted {
    // In this order: it is unmounted while it still is this test's.
    mount: Mount,
    disk: Disk,
}

impl Mounted {
    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        self.mount.0.path()
    }

    /// The device.
    pub fn device(&self) -> &Path {
        self.disk.path()
    }

    /// Unmounts it, and gives the disk back with its content.
    pub fn unmount(self) -> Disk {
        let Self { mount, disk } = self;
        drop(mount);
        disk
    }
}

#[derive(Debug)]
struct Mount(tempfile::TempDir);

impl Drop for Mount {
    fn drop(&mut self) {
        // A process that was killed may still have files open for a moment.
        for _ in 0..100 {
            match rustix::mount::unmount(self.0.path(), UnmountFlags::empty()) {
                Err(rustix::io::Errno::BUSY) => std::thread::sleep(NAP),
                Ok(()) => return,
                Err(_) => break,
            }
        }
        // Better a test that fails later for a busy disk than one that hides why it failed.
        if let Err(error) = rustix::mount::unmount(self.0.path(), UnmountFlags::DETACH) {
            crate::say(&format!("{} stays mounted: {error}", self.0.path().display()));
        }
    }
}

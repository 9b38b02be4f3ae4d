//! A ZFS pool on a disk of the virtual machine.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::disk::Disk;

/// What `cargo xtask vm zfs` makes.
const NEED: &str = "the kernel modules of ZFS (zfs-dkms, of contrib: cargo xtask vm zfs)";
const POOL: &str = "berth";
/// Where a machine keeps which pools it has.
const CACHE: &str = "/etc/zfs/zpool.cache";

/// A pool; gone when it is dropped.
#[derive(Debug)]
pub struct Zpool {
    dir: tempfile::TempDir,
    device: PathBuf,
    _disk: Disk,
}

impl Zpool {
    /// Makes one, of which file systems are mounted below a directory of the test's own; `None`, and
    /// `test` is skipped, outside the virtual machine, and where that has no ZFS.
    pub fn or_skip(test: &str) -> Option<Self> {
        if !crate::in_vm(test) {
            return None;
        }
        let load = Command::new("modprobe").args(["-q", "zfs"]).status();
        if !load.is_ok_and(|status| status.success()) || !crate::has_program("zpool") {
            crate::skip(test, NEED);
            return None;
        }
        crate::load_module("loop");
        let disk = Disk::take();
        let dir = tempfile::tempdir().expect("a directory");
        // On a disk itself zpool makes partitions, for whose nodes it needs udev.
        let device = run("losetup", &["-f", "--show", text(disk.path())]);
        let device = device.trim().to_owned();
        run("zpool", &["create", "-f", "-m", text(dir.path()), POOL, &device]);
        Some(Self { dir, device: device.into(), _disk: disk })
    }

    /// A file system with these properties, mounted in a directory of its name.
    pub fn create(&self, name: &str, options: &[&str]) -> PathBuf {
        let dataset = self.dataset(name);
        let mut words = vec!["create"];
        for option in options {
            words.extend(["-o", option]);
        }
        words.push(&dataset);
        self.zfs(&words);
        self.dir.path().join(name)
    }

    /// The whole name of a file system.
    pub fn dataset(&self, name: &str) -> String {
        format!("{POOL}/{name}")
    }

    /// Where the pool's own file system is mounted.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Runs `zfs`, which must succeed; gives what it prints.
    pub fn zfs(&self, words: &[&str]) -> String {
        run("zfs", words)
    }

    /// As if the machine was started anew and had not imported it.
    pub fn export(&self) {
        let cache = std::fs::read(CACHE).expect("the machine knows its pools");
        run("zpool", &["export", POOL]);
        std::io::Write::write_all(
            &mut std::fs::File::create(CACHE).expect("the file can be written"),
            &cache,
        )
        .expect("the file is written");
    }
}

impl Drop for Zpool {
    fn drop(&mut self) {
        for (program, words) in
            [("zpool", &["destroy", "-f", POOL][..]), ("losetup", &["-d", text(&self.device)])]
        {
            let output = Command::new(program).args(words).output();
            if !output.as_ref().is_ok_and(|output| output.status.success()) {
                crate::say(&format!("{program} {words:?}: {output:?}"));
            }
        }
    }
}

fn run(program: &str, words: &[&str]) -> String {
    let output = Command::new(program).args(words).output().expect("a program that starts");
    assert!(output.status.success(), "{program} {words:?}: {output:?}");
    String::from_utf8(output.stdout).expect("text")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}

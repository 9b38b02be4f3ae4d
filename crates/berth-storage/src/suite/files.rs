//! What files can be, beyond names and contents.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, chown, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime};

use berth_types::LayerId;
use rustix::fs::{CWD, FileType, Mode, XattrFlags, mknodat};

use super::{Open, id, layer, listed, rw};
use crate::{Access, CreateOptions, Mounted, StorageDriver};

/// `cap_net_raw+ep`, as the kernel keeps it (version 2).
const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
const CAPABILITY_NAME: &str = "security.capability";

pub(super) fn everything_that_a_file_can_be_reaches_the_layers_above(open: Open<'_>, home: &Path) {
    let driver = open(home);
    let base = id();
    driver.create(&base, None, &CreateOptions::default()).expect("a layer");
    {
        let plan = driver.prepare(&base, Access::Write).expect("a plan");
        let mounted = Mounted::new(plan).expect("mounts");
        // aufs keeps some of the kernel's 255 bytes for its own names.
        fill(mounted.root(), if driver.name() == "aufs" { 242 } else { 255 });
    }
    driver.commit(&base).expect("frozen");
    let expected = described(&*driver, &base);
    assert_eq!(expected.len(), 13, "{expected:#?}");
    let image = layer(&*driver, Some(&base), &["new"]);
    let container = id();
    driver.create(&container.init(), Some(&image), &rw()).expect("an init layer");
    driver.commit(&container.init()).expect("frozen");
    driver.create(&container, Some(&container.init()), &rw()).expect("a container's layer");
    for id in [&image, &container] {
        let mut found = described(&*driver, id);
        assert!(found.remove("new").is_some());
        assert_eq!(found, expected);
    }
    assert_eq!(listed(&*driver).len(), 4);
}

fn fill(root: &Path, longest: usize) {
    let at = |name: &str| root.join(name);
    let mode = |name: &str, mode: u32| rustix::fs::chmod(at(name), mode.into()).expect("its mode");
    for name in ["setuid", "capable", "owned", "linked", &"n".repeat(longest)] {
        let mut file = File::create(at(name)).expect("a new file");
        file.write_all(name.as_bytes()).expect("its content");
        // Not a whole second, and long ago.
        let time = SystemTime::UNIX_EPOCH + Duration::new(1_000_000_000, 123_456_789);
        file.set_modified(time).expect("its time");
    }
    fs::hard_link(at("linked"), at("twin")).expect("a hard link");
    symlink("../nowhere", at("link")).expect("a link");
    for name in ["sticky", "setgid"] {
        fs::create_dir(at(name)).expect("a directory");
    }
    let node = |name: &str, kind, device| {
        mknodat(CWD, at(name), kind, Mode::from_raw_mode(0o640), device).expect("a node");
    };
    node("fifo", FileType::Fifo, 0);
    node("socket", FileType::Socket, 0);
    node("char", FileType::CharacterDevice, rustix::fs::makedev(1, 3));
    node("block", FileType::BlockDevice, rustix::fs::makedev(7, 200));
    chown(at("owned"), Some(1000), Some(1001)).expect("its owner");
    mode("setuid", 0o4755);
    mode("sticky", 0o1777);
    mode("setgid", 0o2750);
    let flags = XattrFlags::empty();
    rustix::fs::setxattr(at("capable"), CAPABILITY_NAME, &CAPABILITY, flags).expect("a capability");
}

/// One line for each name at the top of a layer.
fn described(driver: &dyn StorageDriver, id: &LayerId) -> BTreeMap<String, String> {
    let mounted = Mounted::new(driver.prepare(id, Access::Read).expect("a plan")).expect("mounts");
    let inode = |name: &str| {
        fs::symlink_metadata(mounted.root().join(name)).expect("a file of two names").ino()
    };
    assert_eq!(inode("linked"), inode("twin"), "hard links stay links");
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(mounted.root()).expect("the layer's root") {
        let entry = entry.expect("an entry");
        let name = entry.file_name().to_string_lossy().into_owned();
        found.insert(name, describe(&entry.path()));
    }
    found
}

fn describe(path: &Path) -> String {
    let meta = fs::symlink_metadata(path).expect("its state");
    let kind = meta.file_type();
    let kind = match () {
        () if kind.is_dir() => "directory".to_owned(),
        () if kind.is_symlink() => {
            format!("link to {}", fs::read_link(path).expect("a link").display())
        }
        () if kind.is_char_device() => format!("char {}", meta.rdev()),
        () if kind.is_block_device() => format!("block {}", meta.rdev()),
        // Copies of sockets are pipes, as Docker's are.
        () if kind.is_fifo() || kind.is_socket() => "pipe".to_owned(),
        () => format!("file {}", fs::read_to_string(path).expect("its content")),
    };
    let mut value = [0; 32];
    let capability = rustix::fs::lgetxattr(path, CAPABILITY_NAME, &mut value).map_or(0, |n| n);
    let (mode, uid, gid) = (meta.mode() & 0o7777, meta.uid(), meta.gid());
    let time = (meta.mtime(), meta.mtime_nsec());
    format!("{kind} {mode:o} {uid}:{gid} {time:?} {:?}", &value[..capability])
}

pub(super) fn what_is_replaced_hides_what_was_there(open: Open<'_>, home: &Path) {
    let driver = open(home);
    let base = id();
    driver.create(&base, None, &CreateOptions::default()).expect("a layer");
    let mount = |id: &LayerId, access| {
        Mounted::new(driver.prepare(id, access).expect("a plan")).expect("mounts")
    };
    {
        let mounted = mount(&base, Access::Write);
        for dir in ["d/inner", "was-dir/inner"] {
            fs::create_dir_all(mounted.root().join(dir)).expect("directories");
        }
        for file in ["d/old", "d/inner/old", "was-dir/old", "was-file"] {
            File::create(mounted.root().join(file)).expect("a file");
        }
    }
    driver.commit(&base).expect("frozen");
    let container = id();
    driver.create(&container, Some(&base), &rw()).expect("a container's layer");
    {
        let mounted = mount(&container, Access::Write);
        let at = |name: &str| mounted.root().join(name);
        for dir in ["d", "was-dir"] {
            fs::remove_dir_all(at(dir)).expect("removed");
        }
        fs::create_dir(at("d")).expect("the directory, anew");
        File::create(at("d/new")).expect("a file");
        File::create(at("was-dir")).expect("a file where a directory was");
        fs::remove_file(at("was-file")).expect("removed");
        fs::create_dir(at("was-file")).expect("a directory where a file was");
    }
    let next = id();
    driver.commit(&container).expect("frozen");
    driver.create(&next, Some(&container), &rw()).expect("a layer on top");
    for id in [&container, &next] {
        let mounted = mount(id, Access::Read);
        assert_eq!(tree(mounted.root()), ["d", "d/new", "was-dir", "was-file"]);
    }
    let mounted = mount(&base, Access::Read);
    assert_eq!(tree(mounted.root()).len(), 8, "nothing changed in the layer below");
}

fn tree(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut todo = vec![root.to_owned()];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(dir).expect("a directory") {
            let entry = entry.expect("an entry");
            let path = entry.path();
            found.push(path.strip_prefix(root).expect("below").to_string_lossy().into_owned());
            if entry.file_type().expect("its type").is_dir() {
                todo.push(path);
            }
        }
    }
    found.sort();
    found
}

//! A full disk: whatever step runs out of space says so and leaves nothing, and what is there can be
//! listed and removed meanwhile.

use std::fs::File;
use std::io::Write as _;
use std::time::{Duration, Instant};

use berth_layers::check::Depth;
use berth_layers::{LayerError, LayerStore, Reach};
use berth_storage::{Access, Mounted};
use berth_types::kind::chain;
use berth_types::{ChainId, ContainerId};

use crate::fixture::{Open, Root, commit, container, load, remove_all};

/// By driver and file system, and how much more there is each time: btrfs counts in larger pieces,
/// and takes its time; fuse-overlayfs starts a helper for each mount. Not the twin, which takes space
/// to read.
const OVER: [(&str, &str, u64); 8] = [
    ("overlay2", "ext4", 16 << 10),
    ("overlay2", "xfs", 16 << 10),
    ("overlay2", "btrfs", 128 << 10),
    ("vfs", "ext4", 32 << 10),
    ("vfs", "xfs", 16 << 10),
    ("overlay", "ext4", 16 << 10),
    ("fuse-overlayfs", "ext4", 64 << 10),
    ("btrfs", "btrfs", 256 << 10),
];
const FILE: usize = 48 << 10;
/// Room for what is to be removed later.
const ROOM: u64 = 24 << 20;
/// How long a file system may take to count what was deleted as free.
const PATIENCE: Duration = Duration::from_mins(1);

/// A tar of one file of this name, which does not compress.
fn tar_of(name: &str) -> Vec<u8> {
    let mut state = name.bytes().fold(7_u64, |state, byte| state * 31 + u64::from(byte));
    let content: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        state.to_be_bytes()[0]
    })
    .take(FILE)
    .collect();
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(FILE as u64);
    header.set_mode(0o644);
    header.set_mtime(1_700_000_000);
    tar.append_data(&mut header, name, content.as_slice()).unwrap();
    tar.into_inner().unwrap()
}

/// Everything that takes space, once. Gives what step it came to.
fn workload(open: &Open, step: &mut &str) -> Result<(), LayerError> {
    *step = "load";
    let top = load(open, &[tar_of("base"), tar_of("mid"), tar_of("top")], "image:1")?;
    *step = "create";
    let id = create(open, &top)?;
    *step = "write";
    write(&open.store, &id)?;
    *step = "diff";
    open.store.changes(&id, Reach::AtRest)?;
    *step = "commit";
    let chain = commit(open, &id, "image:2")?;
    *step = "snapshot";
    create(open, &chain).map(drop)
}

/// A container, or no record of one: what the daemon does with one that it cannot make.
fn create(open: &Open, parent: &ChainId) -> Result<ContainerId, LayerError> {
    let before = open.store.list_rw()?;
    container(open, Some(parent)).inspect_err(|_| {
        let containers = open.store.list_rw().unwrap();
        let new = containers.into_iter().filter(|rw| !before.contains(rw));
        for rw in new {
            let removed = open.db.write(|tx| open.store.remove_rw(tx, &rw.container)).unwrap();
            open.store.purge(&removed).unwrap();
        }
    })
}

fn write(store: &LayerStore, id: &ContainerId) -> Result<(), LayerError> {
    let mounted = Mounted::new(store.prepare_rw(id, Access::Write)?)?;
    let path = mounted.root().join("written");
    let written = File::create(&path)
        .and_then(|mut file| file.write_all(&vec![7; FILE]).and_then(|()| file.sync_all()));
    written.map_err(|source| LayerError::Io { action: "write", path, source })
}

fn findings(store: &LayerStore) -> Vec<String> {
    let mut found = Vec::new();
    store
        .check(Depth::Content, &mut |progress| {
            if let berth_layers::check::Progress::Found(finding) = progress {
                found.push(format!("{finding:?}"));
            }
            true
        })
        .unwrap();
    found
}

#[test]
fn fault_root_a_full_disk_stops_any_step_of_overlay2_and_no_removal() {
    on_each_fs("fault_root_a_full_disk_stops_any_step_of_overlay2_and_no_removal", "overlay2");
}

#[test]
fn fault_root_a_full_disk_stops_any_step_of_vfs_and_no_removal() {
    on_each_fs("fault_root_a_full_disk_stops_any_step_of_vfs_and_no_removal", "vfs");
}

#[test]
fn fault_root_a_full_disk_stops_any_step_of_overlay_and_no_removal() {
    on_each_fs("fault_root_a_full_disk_stops_any_step_of_overlay_and_no_removal", "overlay");
}

#[test]
fn fault_root_a_full_disk_stops_any_step_of_fuse_overlayfs_and_no_removal() {
    let test = "fault_root_a_full_disk_stops_any_step_of_fuse_overlayfs_and_no_removal";
    on_each_fs(test, "fuse-overlayfs");
}

#[test]
fn fault_root_a_full_disk_stops_any_step_of_btrfs_and_no_removal() {
    on_each_fs("fault_root_a_full_disk_stops_any_step_of_btrfs_and_no_removal", "btrfs");
}

fn on_each_fs(test: &str, name: &str) {
    for (driver, kind, step) in OVER.into_iter().filter(|(driver, ..)| *driver == name) {
        let Some(root) = Root::on_fs(test, driver, kind) else { continue };
        run_out_of_space(&root, step, &format!("{driver} on {kind}"));
    }
}

fn run_out_of_space(root: &Root, more: u64, what: &str) {
    let (open, _) = root.recover();
    load(&open, &[tar_of("kept")], "kept").unwrap();
    let mut filler = root.fs().fill();
    let mut steps: Vec<&str> = Vec::new();
    for left in (0..).step_by(usize::try_from(more).unwrap()) {
        let at = || format!("{what}, {} KiB left", left >> 10);
        filler.take_all_but(ROOM);
        let victim = load(&open, &[tar_of("victim")], "victim").unwrap();
        container(&open, Some(&victim)).unwrap();
        filler.take_all_but(left);
        let mut step = "";
        let done = workload(&open, &mut step);
        if let Err(error) = &done {
            let text = chain(error);
            // overlayfs mounts read-only where it has no room for its work directory; the helper of
            // fuse-overlayfs misses the one that it could not make.
            let said = [
                "no space left on device",
                "read-only file system",
                "cannot open workdir: No such file or directory",
            ];
            assert!(said.iter().any(|said| text.ends_with(said)), "{}: {step}: {text}", at());
            steps.push(step);
        }
        filler.take_all();
        open.store.reap().unwrap_or_else(|error| panic!("{}: {}", at(), chain(&error)));
        assert_eq!(findings(&open.store), [""; 0], "{}: {step}", at());
        let before = free(root);
        remove_all(&open, &["image:1", "image:2", "victim"]);
        let begun = Instant::now();
        while free(root) < before + FILE as u64 {
            assert!(begun.elapsed() < PATIENCE, "{}: removal frees nothing", at());
            std::thread::sleep(Duration::from_millis(20));
        }
        root.check(&open.store);
        assert_eq!(open.store.list().unwrap().len(), 1, "{}", at());
        if done.is_ok() {
            break;
        }
    }
    steps.dedup();
    assert!(steps.len() > 1, "{what}: only {steps:?} ran out of space");
    drop(filler);
    drop(open);
    let (_, report) = root.recover();
    assert_eq!(report, berth_layers::RecoverReport::default(), "{what}");
}

fn free(root: &Root) -> u64 {
    let dir = File::open(root.fs().path()).unwrap();
    rustix::fs::syncfs(&dir).unwrap();
    let stat = rustix::fs::fstatvfs(&dir).unwrap();
    stat.f_bfree * stat.f_frsize
}

use std::fs::File;
use std::io::Write as _;
use std::time::{Duration, Instant};

use rustix::thread::CapabilitySet;
use testkit::disk::{Disk, Mounted};

use super::*;

const MIB: u64 = 1 << 20;
const LIMIT: u64 = 16 * MIB;

/// A file system and what it does.
#[derive(Debug, Clone, Copy)]
struct Case {
    kind: &'static str,
    made_with: &'static [&'static str],
    mounted_with: &'static str,
    state: State,
    /// Beyond the limit, without and with `CAP_SYS_RESOURCE`.
    refused: [Option<i32>; 2],
}

const NONE: State = State { is_counted: false, is_enforced: false };
const COUNTS: State = State { is_counted: true, is_enforced: false };
const BOTH: State = State { is_counted: true, is_enforced: true };
const EXT4: &[&str] = &["-O", "quota,project", "-E", "quotatype=prjquota"];

#[rustfmt::skip]
const CASES: [Case; 6] = [
    Case { kind: "ext4", made_with: EXT4, mounted_with: "prjquota",   state: BOTH,   refused: [Some(libc::EDQUOT), None] },
    Case { kind: "ext4", made_with: EXT4, mounted_with: "",           state: COUNTS, refused: [None, None] },
    Case { kind: "ext4", made_with: &[],  mounted_with: "",           state: NONE,   refused: [None, None] },
    Case { kind: "xfs",  made_with: &[],  mounted_with: "prjquota",   state: BOTH,   refused: [Some(libc::ENOSPC), Some(libc::ENOSPC)] },
    Case { kind: "xfs",  made_with: &[],  mounted_with: "pqnoenforce", state: COUNTS, refused: [None, None] },
    Case { kind: "xfs",  made_with: &[],  mounted_with: "",           state: NONE,   refused: [None, None] },
];

impl Case {
    fn mount(&self) -> Mounted {
        Disk::take().format(self.kind, self.made_with).mount(self.kind, self.mounted_with)
    }
}

/// Both ways of asking, whichever this kernel prefers.
fn quotas(of: &Path) -> [ProjectQuotas; 2] {
    [true, false]
        .map(|by_descriptor| ProjectQuotas { by_descriptor, ..ProjectQuotas::of(of).unwrap() })
}

fn marked(root: &Path, project: u32) -> std::path::PathBuf {
    let dir = root.join(project.to_string());
    std::fs::create_dir(&dir).unwrap();
    set_project(File::open(&dir).unwrap(), project).unwrap();
    dir
}

/// Writes on a thread of its own, which may give up `CAP_SYS_RESOURCE`; gives what was written and
/// the error that ended it.
fn write(file: &Path, bytes: u64, is_privileged: bool) -> (u64, Option<i32>) {
    let path = file.to_owned();
    let work = move || {
        let mut sets = rustix::thread::capabilities(None).unwrap();
        sets.effective.set(CapabilitySet::SYS_RESOURCE, is_privileged);
        rustix::thread::set_capabilities(None, sets).unwrap();
        let mut file = File::create(path).unwrap();
        let chunk = vec![7; 64 << 10];
        for at in (0..bytes).step_by(chunk.len()) {
            if let Err(error) = file.write_all(&chunk) {
                return (at, error.raw_os_error());
            }
        }
        file.sync_all().unwrap();
        (bytes, None)
    };
    std::thread::spawn(work).join().unwrap()
}

#[test]
fn vm_the_probe_tells_counting_from_enforcing() {
    if !testkit::in_vm("vm_the_probe_tells_counting_from_enforcing") {
        return;
    }
    for case in CASES {
        let mounted = case.mount();
        for quotas in quotas(mounted.path()) {
            assert_eq!(quotas.state().unwrap(), case.state, "{case:?}, {quotas:?}");
        }
    }
}

#[test]
fn vm_writes_beyond_a_limit_are_refused() {
    if !testkit::in_vm("vm_writes_beyond_a_limit_are_refused") {
        return;
    }
    for case in CASES.iter().filter(|case| case.state == BOTH) {
        let mounted = case.mount();
        for (number, quotas) in (1..).zip(quotas(mounted.path())) {
            let dir = marked(mounted.path(), number);
            quotas.set_limit(number, Limit { hard: LIMIT, soft: 0 }).unwrap();
            let below = dir.join("a/b");
            std::fs::create_dir_all(&below).unwrap();
            for (is_privileged, refused) in [false, true].into_iter().zip(case.refused) {
                let file = below.join("file");
                let (written, error) = write(&file, 2 * LIMIT, is_privileged);
                assert_eq!(error, refused, "{case:?}, privileged: {is_privileged}");
                let fits = LIMIT - MIB..=LIMIT;
                assert_eq!(fits.contains(&written), refused.is_some(), "{case:?}: {written}");
                std::fs::remove_file(file).unwrap();
            }
            let outside = write(&mounted.path().join(format!("free{number}")), 2 * LIMIT, false);
            assert_eq!(outside, (2 * LIMIT, None), "{case:?}");
        }
    }
}

#[test]
fn vm_usage_follows_files_and_limits() {
    if !testkit::in_vm("vm_usage_follows_files_and_limits") {
        return;
    }
    for case in CASES.iter().filter(|case| case.state.is_counted) {
        let mounted = case.mount();
        for (number, quotas) in (7..).zip(quotas(mounted.path())) {
            assert_eq!(quotas.usage(number).unwrap(), Usage::default(), "{case:?}");
            let dir = marked(mounted.path(), number);
            let limit = Limit { hard: LIMIT, soft: 4 * MIB };
            quotas.set_limit(number, limit).unwrap();
            let before = quotas.usage(number).unwrap();
            assert_eq!((before.inodes, before.limit), (1, limit), "{case:?}");
            write(&dir.join("file"), 3 * MIB, false);
            let after = quotas.usage(number).unwrap();
            assert_eq!((after.inodes, after.limit), (2, limit), "{case:?}");
            assert_eq!(after.bytes - before.bytes, 3 * MIB, "{case:?}");
            std::fs::remove_file(dir.join("file")).unwrap();
            // xfs frees the blocks of removed files in the background.
            let until = Instant::now() + Duration::from_secs(10);
            while quotas.usage(number).unwrap() != before && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(20));
            }
            assert_eq!(quotas.usage(number).unwrap(), before, "{case:?}");
            quotas.set_limit(number, Limit::default()).unwrap();
            assert_eq!(quotas.usage(number).unwrap().limit, Limit::default(), "{case:?}");
        }
    }
}

#[test]
fn vm_a_project_is_inherited_and_shown_as_free_space() {
    if !testkit::in_vm("vm_a_project_is_inherited_and_shown_as_free_space") {
        return;
    }
    for case in CASES.iter().filter(|case| case.state == BOTH) {
        let mounted = case.mount();
        let dir = marked(mounted.path(), 9);
        std::fs::create_dir(dir.join("sub")).unwrap();
        File::create(dir.join("sub/file")).unwrap();
        let of = |name: &str| project(File::open(dir.join(name)).unwrap()).unwrap();
        assert_eq!(of("sub"), Project { id: 9, is_inherited: true }, "{case:?}");
        assert_eq!(of("sub/file").id, 9, "{case:?}");
        assert_eq!(of(".."), Project { id: 0, is_inherited: false }, "{case:?}");
        let quotas = ProjectQuotas::of(&dir).unwrap();
        quotas.set_limit(9, Limit { hard: LIMIT, soft: 0 }).unwrap();
        let space = rustix::fs::statvfs(&dir).unwrap();
        assert_eq!(space.f_blocks * space.f_frsize, LIMIT, "{case:?}");
        // A file of one project cannot be linked or renamed into another: as between file systems.
        let other = marked(mounted.path(), 10);
        let moved = std::fs::rename(dir.join("sub/file"), other.join("file"));
        assert_eq!(moved.unwrap_err().raw_os_error(), Some(libc::EXDEV), "{case:?}");
    }
}

#[test]
fn file_systems_without_quotas_say_so() {
    for dir in ["/proc", "/sys"] {
        for quotas in quotas(Path::new(dir)) {
            assert_eq!(quotas.state().unwrap(), NONE, "{dir}, {quotas:?}");
        }
    }
}

//! Limits as containers meet them, on file systems with and without project quotas.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::Arc;

use berth_types::LayerId;
use rustix::io::Errno;
use testkit::disk::{Disk, Mounted as MountedDisk};

use crate::overlay2::Overlay2;
use crate::vfs::Vfs;
use crate::{Access, CreateOptions, Mounted, StorageDriver, StorageError};

const MIB: usize = 1 << 20;
/// `CAP_SYS_RESOURCE`; ext4 limits nobody who has it, and a container has not.
const SYS_RESOURCE: u64 = 1 << 24;

type Open = fn(&Path, &[String]) -> Result<Arc<dyn StorageDriver>, StorageError>;

/// Each driver with its option for a default, and the kinds of file system that have quotas.
const DRIVERS: [(&str, Open, &str); 2] =
    [("overlay2", open_overlay2, "overlay2.size"), ("vfs", open_vfs, "size")];
const KINDS: [(&str, &[&str]); 2] =
    [("ext4", &["-O", "quota,project", "-E", "quotatype=prjquota"]), ("xfs", &[])];

fn open_overlay2(home: &Path, options: &[String]) -> Result<Arc<dyn StorageDriver>, StorageError> {
    Ok(Arc::new(Overlay2::open(home, options)?))
}

fn open_vfs(home: &Path, options: &[String]) -> Result<Arc<dyn StorageDriver>, StorageError> {
    Ok(Arc::new(Vfs::open(home, options)?))
}

/// Runs `case` on each driver over each file system, mounted so.
fn on_each(mount: &str, case: impl Fn(&str, Open, &str, &MountedDisk)) {
    // Of this test's thread, for good.
    let held = berth_sys::caps::own().unwrap().effective;
    berth_sys::caps::limit_to(held & !SYS_RESOURCE).unwrap();
    for (kind, made_with) in KINDS {
        for (name, open, option) in DRIVERS {
            let disk = Disk::take().format(kind, made_with).mount(kind, mount);
            case(&format!("{name} on {kind}"), open, option, &disk);
        }
    }
}

fn container(
    driver: &dyn StorageDriver,
    base: &LayerId,
    size: Option<&str>,
) -> Result<LayerId, StorageError> {
    let id = LayerId::random();
    let size = size.map(|size| ("size".to_owned(), size.to_owned()));
    let storage_opt: BTreeMap<_, _> = size.into_iter().collect();
    let options = CreateOptions { writable: true, storage_opt, ..CreateOptions::default() };
    driver.create(&id, Some(base), &options)?;
    Ok(id)
}

fn base(driver: &dyn StorageDriver) -> LayerId {
    let id = LayerId::random();
    driver.create(&id, None, &CreateOptions::default()).unwrap();
    driver.commit(&id).unwrap();
    id
}

/// Writes so many MiB into a new file of the layer; synced, so that the file system has to say now
/// what it does not take.
fn write(driver: &dyn StorageDriver, id: &LayerId, name: &str, mib: usize) -> io::Result<()> {
    let mounted = Mounted::new(driver.prepare(id, Access::Write).unwrap()).unwrap();
    let mut file = File::create(mounted.root().join(name))?;
    for _ in 0..mib {
        file.write_all(&vec![7; MIB])?;
    }
    file.sync_all()
}

fn is_full(result: &io::Result<()>) -> bool {
    let errno = result.as_ref().err().and_then(Errno::from_io_error);
    matches!(errno, Some(Errno::DQUOT | Errno::NOSPC))
}

#[test]
fn vm_a_container_writes_as_much_as_its_size_allows() {
    if !testkit::in_vm("vm_a_container_writes_as_much_as_its_size_allows") {
        return;
    }
    on_each("prjquota", |what, open, _option, disk| {
        let home = disk.path().join("home");
        let driver = open(&home, &[]).unwrap();
        let base = base(&*driver);
        let small = container(&*driver, &base, Some("8M")).unwrap();
        let large = container(&*driver, &base, Some("24m")).unwrap();
        let free = container(&*driver, &base, None).unwrap();
        write(&*driver, &small, "a", 6).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert!(is_full(&write(&*driver, &small, "b", 4)), "{what}: 8 MiB hold 10");
        for id in [&large, &free] {
            write(&*driver, id, "a", 16).unwrap_or_else(|error| panic!("{what}: {error}"));
        }
        assert!(is_full(&write(&*driver, &large, "b", 16)), "{what}: 24 MiB hold 32");
        // A later start gives numbers that nobody has.
        let driver = open(&home, &[]).unwrap();
        let later = container(&*driver, &base, Some("40M")).unwrap();
        write(&*driver, &later, "a", 32).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert!(is_full(&write(&*driver, &small, "c", 4)), "{what}: another's limit");
        // What is removed makes room.
        {
            let mounted = Mounted::new(driver.prepare(&small, Access::Write).unwrap()).unwrap();
            for entry in std::fs::read_dir(mounted.root()).unwrap() {
                std::fs::remove_file(entry.unwrap().path()).unwrap();
            }
            rustix::fs::syncfs(File::open(mounted.root()).unwrap()).unwrap();
        }
        write(&*driver, &small, "d", 6).unwrap_or_else(|error| panic!("{what}: {error}"));
    });
}

#[test]
fn vm_the_daemons_size_is_for_containers_that_ask_for_none() {
    if !testkit::in_vm("vm_the_daemons_size_is_for_containers_that_ask_for_none") {
        return;
    }
    on_each("prjquota", |what, open, option, disk| {
        let driver = open(&disk.path().join("home"), &[format!("{option}=8M")]).unwrap();
        let base = base(&*driver);
        write_base_freely(&*driver, what);
        let plain = container(&*driver, &base, None).unwrap();
        assert!(is_full(&write(&*driver, &plain, "a", 10)), "{what}: no default");
        let asked = container(&*driver, &base, Some("24M")).unwrap();
        write(&*driver, &asked, "a", 16).unwrap_or_else(|error| panic!("{what}: {error}"));
        let unlimited = container(&*driver, &base, Some("0")).unwrap();
        write(&*driver, &unlimited, "a", 16).unwrap_or_else(|error| panic!("{what}: {error}"));
    });
}

/// Layers of images have no limit.
fn write_base_freely(driver: &dyn StorageDriver, what: &str) {
    let id = LayerId::random();
    driver.create(&id, None, &CreateOptions::default()).unwrap();
    write(driver, &id, "a", 16).unwrap_or_else(|error| panic!("{what}: {error}"));
}

#[test]
fn vm_sizes_are_refused_where_nothing_enforces_them() {
    if !testkit::in_vm("vm_sizes_are_refused_where_nothing_enforces_them") {
        return;
    }
    on_each("", |what, open, option, disk| {
        let home = disk.path().join("home");
        let (of_container, of_daemon) = if what.starts_with("vfs") {
            let text = "Filesystem does not support, or has not enabled quotas";
            (text, text)
        } else {
            (
                "--storage-opt is supported only for overlay over xfs with 'pquota' mount option",
                "Storage option overlay2.size not supported. Filesystem does not support Project \
                 Quota: Filesystem does not support, or has not enabled quotas",
            )
        };
        let refused = open(&home, &[format!("{option}=8M")]).unwrap_err();
        assert_eq!(refused.to_string(), of_daemon, "{what}");
        assert!(!home.try_exists().unwrap(), "{what}: a refused start leaves nothing");
        let driver = open(&home, &[]).unwrap();
        let base = base(&*driver);
        let refused = container(&*driver, &base, Some("8M")).unwrap_err();
        assert_eq!(refused.to_string(), of_container, "{what}");
    });
}

#[test]
fn vm_options_of_containers_have_dockers_texts() {
    if !testkit::in_vm("vm_options_of_containers_have_dockers_texts") {
        return;
    }
    let disk = Disk::take().format("xfs", &[]).mount("xfs", "prjquota");
    #[rustfmt::skip]
    let table: &[(Open, &str, &str, &str)] = &[
        (open_overlay2, "foo",  "1",  "Unknown option foo"),
        (open_overlay2, "size", "1x", "invalid size: '1x'"),
        (open_vfs,      "foo",  "1",  "Storage opt foo not supported"),
        (open_vfs,      "size", "1x", "invalid size: '1x'"),
    ];
    for (at, (open, key, value, text)) in table.iter().enumerate() {
        let driver = open(&disk.path().join(at.to_string()), &[]).unwrap();
        let storage_opt = [((*key).to_owned(), (*value).to_owned())].into();
        let options = CreateOptions { writable: true, storage_opt, ..CreateOptions::default() };
        let error = driver.create(&LayerId::random(), None, &options).unwrap_err();
        assert_eq!(error.to_string(), *text, "{key}={value}");
        assert_eq!(driver.list().unwrap(), [], "{key}={value}");
    }
}

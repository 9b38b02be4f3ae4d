//! Backups of each driver's data root, and data roots made of them.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use berth_api::ApiVersion;
use berth_api::container::CreateRequest;
use berth_api::options::{ArchivePutOptions, ListOptions, RemoveOptions};
use berth_engine::Depth;
use berth_engine::storage::{BackupRequest, Changes, restore_backup};
use berth_fs::reserve;
use berth_types::kind::chain;
use serde_json::Value;

use crate::kit::{Dirs, Open, finish, is_clean, put};

/// Each with the file system that its data root needs.
const DRIVERS: [(&str, Option<&str>); 5] = [
    ("overlay2", None),
    ("vfs", None),
    ("btrfs", Some("btrfs")),
    ("overlay", Some("ext4")),
    ("fuse-overlayfs", None),
];

fn each_driver(test: &str, case: impl Fn(&Dirs, &str)) {
    for (driver, kind) in DRIVERS {
        let Some(dirs) = Dirs::on(test, kind) else { continue };
        match dirs.open_on(driver) {
            Ok(open) => drop(open),
            Err(error) => {
                testkit::skip(test, &format!("{driver}: {}", chain(&error)));
                continue;
            }
        }
        case(&dirs, driver);
    }
}

fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o640);
        header.set_size(content.len() as u64);
        tar.append_data(&mut header, name, *content).unwrap();
    }
    tar.into_inner().unwrap()
}

fn create(open: &Open, name: &str) -> String {
    let body = r#"{"Image": "test", "Cmd": ["/file"],
        "HostConfig": {"NetworkMode": "none", "Binds": ["data:/data"]}}"#;
    let request = CreateRequest::from_json(body.as_bytes()).unwrap();
    let name = Some(name.to_owned());
    let made = open.engine().create_container(name, None, request, ApiVersion::MAX);
    open.block_on(made).unwrap().id
}

fn write(open: &Open, container: &str, path: &str, files: &[(&str, &[u8])]) {
    let archive = Box::new(std::io::Cursor::new(tar(files)));
    let put = open.engine().archive_put(container, path, ArchivePutOptions::default(), archive);
    open.block_on(put).unwrap();
}

/// An image, two containers that changed something, and a volume.
fn fill(open: &Open) {
    open.import(b"of the image");
    for name in ["one", "two"] {
        create(open, name);
        write(open, name, "/", &[("file", b"changed"), ("new", name.as_bytes())]);
    }
    write(open, "one", "/data", &[("kept", b"in the volume")]);
}

/// Everything that clients see.
fn seen(open: &Open) -> BTreeMap<String, Vec<u8>> {
    let engine = open.engine();
    let options = ListOptions { all: true, size: true, ..ListOptions::default() };
    let mut seen = BTreeMap::new();
    seen.insert("images".to_owned(), open.images().join(" ").into_bytes());
    for container in open.block_on(engine.list_containers(options)).unwrap() {
        let name = container.names.first().cloned().unwrap_or_default();
        seen.insert(format!("size of {name}"), container.size_rw.to_string().into_bytes());
        let all = stream(open, open.begin(|engine| engine.export(&container.id)).unwrap());
        seen.insert(format!("files of {name}"), all);
    }
    let saved = open.block_on(engine.save_images(vec!["test".to_owned()])).unwrap();
    seen.insert("saved".to_owned(), stream(open, saved));
    seen
}

fn stream(open: &Open, mut stream: berth_engine::ByteStream) -> Vec<u8> {
    open.block_on(async {
        let mut all = Vec::new();
        while let Some(piece) = stream.recv().await {
            all.extend_from_slice(&piece.unwrap());
        }
        all
    })
}

fn backup(open: &Open, dest: &Path, volumes: bool) -> Result<Value, String> {
    let request = BackupRequest { dest: dest.to_owned(), volumes, pause: true };
    finish(open, open.begin(|engine| engine.backup_storage(request)))
}

fn partial(dest: &Path) -> PathBuf {
    let mut name = dest.as_os_str().to_owned();
    name.push(".partial");
    name.into()
}

#[test]
fn root_a_backup_is_restored_with_everything() {
    each_driver("root_a_backup_is_restored_with_everything", |dirs, driver| {
        let open = dirs.open_on(driver).unwrap();
        fill(&open);
        let before = seen(&open);
        let dest = dirs.path().join("backup");
        let made = backup(&open, &dest, true).unwrap();
        let sums = &made["Backup"];
        assert_eq!((&sums["Layers"], &sums["Containers"]), (&1.into(), &2.into()), "{driver}");
        assert_eq!(sums["Volumes"], 1, "{driver}");
        assert!(!partial(&dest).try_exists().unwrap());
        // The original goes on, and the copy stays what it is.
        write(&open, "one", "/", &[("later", b"not in the backup")]);
        is_clean(&open);
        drop(open);
        fs::remove_dir_all(dirs.data_root().join("volumes")).unwrap();

        let root = dirs.path().join("restored");
        let mut told = (0, 0);
        let restored = restore_backup(&dest, &root, &mut |done, total| told = (done, total));
        let restored = restored.unwrap_or_else(|error| panic!("{driver}: {}", chain(&error)));
        assert_eq!((restored.layers, restored.containers, told), (1, 2, (3, 3)), "{driver}");
        let open = dirs.open_at(&root, if driver == "vfs" { driver } else { "" }).unwrap();
        assert!(seen(&open) == before, "{driver}: something is not as it was");
        is_clean(&open);
        let kept = fs::read(root.join("volumes/data/_data/kept")).unwrap();
        assert_eq!(kept, b"in the volume", "{driver}");
        let lost = fs::read_dir(root.join("lost+found")).unwrap().count();
        assert_eq!(lost, 0, "{driver}: nothing is left over");
        // It is an engine's data root like any other.
        create(&open, "three");
        write(&open, "three", "/", &[("new", b"three")]);
        drop(open);
        let again = restore_backup(&dest, &root, &mut |_, _| {}).unwrap_err();
        let text = "is not empty: a backup is restored into a new or an empty directory";
        assert_eq!(chain(&again), format!("{} {text}", root.display()));
    });
}

#[test]
fn root_what_is_removed_meanwhile_is_whole_or_not_there() {
    each_driver("root_what_is_removed_meanwhile_is_whole_or_not_there", |dirs, driver| {
        for round in 0..4 {
            let open = dirs.open_on(driver).unwrap();
            fill(&open);
            let dest = dirs.path().join(format!("backup{round}"));
            let request = BackupRequest { dest: dest.clone(), volumes: true, pause: false };
            let messages = open.begin(|engine| engine.backup_storage(request));
            for name in ["one", "two"] {
                let options = RemoveOptions { force: true, volumes: true, link: false };
                open.block_on(open.engine().remove_container(name, options)).unwrap();
            }
            open.block_on(
                open.engine()
                    .prune_images(berth_api::Filters::parse(r#"{"dangling":["false"]}"#).unwrap()),
            )
            .unwrap();
            finish(&open, messages).unwrap();
            assert_eq!(open.images(), Vec::<String>::new());
            is_clean(&open);
            drop(open);
            let kept = fs::read_dir(dirs.data_root().join("layers")).unwrap().filter(|entry| {
                let name = entry.as_ref().unwrap().file_name();
                name != reserve::NAME && !name.to_string_lossy().starts_with(".berth-removing-")
            });
            assert_eq!(kept.count(), 0, "{driver}: something is still held");

            let root = dirs.path().join(format!("restored{round}"));
            restore_backup(&dest, &root, &mut |_, _| {}).unwrap();
            let open = dirs.open_at(&root, driver).unwrap();
            is_clean(&open);
            // The removals may have been faster than all of the backup.
            if !open.images().is_empty() {
                seen(&open);
            }
            let lost = fs::read_dir(root.join("lost+found")).unwrap().count();
            assert_eq!(lost, 0, "{driver}");
        }
    });
}

#[test]
fn root_a_backup_without_volumes_has_empty_ones() {
    let Some(dirs) = Dirs::new("root_a_backup_without_volumes_has_empty_ones") else { return };
    let open = dirs.open_on("overlay2").unwrap();
    fill(&open);
    let dest = dirs.path().join("backup");
    backup(&open, &dest, false).unwrap();
    drop(open);
    let root = dirs.path().join("restored");
    restore_backup(&dest, &root, &mut |_, _| {}).unwrap();
    let data = root.join("volumes/data/_data");
    assert_eq!(fs::read_dir(&data).unwrap().count(), 0);
    is_clean(&dirs.open_at(&root, "overlay2").unwrap());
}

#[test]
fn root_a_backup_goes_to_an_empty_directory_elsewhere() {
    let test = "root_a_backup_goes_to_an_empty_directory_elsewhere";
    let Some(dirs) = Dirs::new(test) else { return };
    let open = dirs.open_on("vfs").unwrap();
    let at = |name: &str| dirs.path().join(name);
    put(&at("full/file"), b"precious");
    fs::create_dir(at("empty")).unwrap();
    put(&at("left.partial/file"), b"precious");
    let shown = |name: &str| at(name).display().to_string();
    let relative = "the directory of a backup must be given with its full path, and x is none";
    let table = [
        (PathBuf::from("x"), relative.to_owned()),
        (
            at("full"),
            format!("{} is not empty: a backup goes to a new or an empty directory", shown("full")),
        ),
        (
            at("data/inside"),
            format!("{} is in the data root: a backup must be elsewhere", shown("data/inside")),
        ),
        (
            at("left"),
            format!(
                "{} is left of a backup that did not finish: delete it, and begin again",
                shown("left.partial")
            ),
        ),
        (at("no/where"), format!("cannot find {}: no such file or directory", shown("no"))),
    ];
    for (dest, expected) in table {
        assert_eq!(backup(&open, &dest, true).unwrap_err(), expected);
    }
    assert_eq!(fs::read(at("full/file")).unwrap(), b"precious");
    backup(&open, &at("empty"), true).unwrap();
    let repair = open.begin(|engine| engine.repair_storage(Depth::Names, Changes::OnlySaid));
    assert_eq!(finish(&open, repair).unwrap()["Repaired"]["Findings"], 0);
    let error = restore_backup(&at("full"), &at("new"), &mut |_, _| {}).unwrap_err();
    let text = "is not a complete backup of berth's: there is no backup.json in it";
    assert_eq!(chain(&error), format!("{} {text}", shown("full")));
    assert!(!at("new").try_exists().unwrap());
}

/// Another test's process may have files of it open until it executes its program.
fn unmount(place: &Path) {
    rustix::mount::unmount(place, rustix::mount::UnmountFlags::DETACH).unwrap();
}

#[test]
fn fault_root_a_backup_to_a_full_disk_leaves_nothing() {
    let test = "fault_root_a_backup_to_a_full_disk_leaves_nothing";
    each_driver(test, |dirs, driver| {
        let open = dirs.open_on(driver).unwrap();
        fill(&open);
        let noise: Vec<u8> =
            (0..6_000_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
        write(&open, "two", "/", &[("large", &noise)]);
        let place = dirs.path().join("small");
        fs::create_dir(&place).unwrap();
        let options = std::ffi::CString::new("size=8m").unwrap();
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("tmpfs", &place, "tmpfs", flags, options.as_c_str()).unwrap();
        let error = backup(&open, &place.join("backup"), true).unwrap_err();
        let left = fs::read_dir(&place).unwrap().count();
        unmount(&place);
        let expected = if driver == "btrfs" {
            "can only be copied to btrfs"
        } else {
            "no space left on device"
        };
        assert!(error.contains(expected), "{driver}: {error}");
        assert_eq!(left, 0, "{driver}");
        is_clean(&open);
        backup(&open, &dirs.path().join("backup"), true).unwrap();
    });
}

#[test]
fn fault_root_a_restore_to_a_full_disk_leaves_the_directory_empty() {
    let test = "fault_root_a_restore_to_a_full_disk_leaves_the_directory_empty";
    let Some(dirs) = Dirs::new(test) else { return };
    let open = dirs.open_on("vfs").unwrap();
    fill(&open);
    let noise = vec![7; 24 << 20];
    write(&open, "two", "/", &[("large", &noise)]);
    let dest = dirs.path().join("backup");
    backup(&open, &dest, true).unwrap();
    let place = dirs.path().join("small");
    fs::create_dir(&place).unwrap();
    let options = std::ffi::CString::new("size=8m").unwrap();
    let flags = rustix::mount::MountFlags::empty();
    rustix::mount::mount("tmpfs", &place, "tmpfs", flags, options.as_c_str()).unwrap();
    let error = restore_backup(&dest, &place, &mut |_, _| {}).unwrap_err();
    let left = fs::read_dir(&place).unwrap().count();
    unmount(&place);
    assert!(chain(&error).contains("no space left on device"), "{}", chain(&error));
    assert_eq!(left, 0);
    // A stop in the middle is another matter: nobody takes what is there for a data root.
    put(&place.join(".berth-restoring"), b"");
    put(&place.join("version"), b"{\"engine\":\"berth\",\"format\":1}\n");
    let Err(refused) = dirs.open_at(&place, "vfs") else { panic!("half a data root was taken") };
    let expected = format!(
        "a restore into {} did not finish: empty the directory and restore again (nothing in it was \
         changed)",
        place.display()
    );
    assert_eq!(chain(&refused), expected);
}

#[test]
fn root_btrfs_goes_to_another_btrfs() {
    let test = "root_btrfs_goes_to_another_btrfs";
    if !testkit::has_program("btrfs") {
        testkit::skip(test, "btrfs");
        return;
    }
    let (Some(dirs), Some(other)) = (Dirs::on(test, Some("btrfs")), Dirs::on(test, Some("btrfs")))
    else {
        return;
    };
    let open = dirs.open_on("btrfs").unwrap();
    fill(&open);
    let before = seen(&open);
    let dest = other.path().join("backup");
    backup(&open, &dest, true).unwrap();
    drop(open);
    for (place, root) in [(&other, "same"), (&dirs, "back")] {
        let root = place.path().join(root);
        restore_backup(&dest, &root, &mut |_, _| {}).unwrap_or_else(|e| panic!("{}", chain(&e)));
        let open = place.open_at(&root, "btrfs").unwrap();
        assert!(seen(&open) == before);
        is_clean(&open);
        write(&open, "one", "/", &[("more", b"more")]);
    }
}

#[test]
fn root_special_files_survive_backup_and_restore() {
    use std::os::unix::fs::MetadataExt as _;
    let Some(dirs) = Dirs::new("root_special_files_survive_backup_and_restore") else { return };
    let open = dirs.open_on("overlay2").unwrap();
    fill(&open);
    put(&dirs.data_root().join("volumes/nobodys/_data/file"), b"of no record");
    let data = dirs.data_root().join("volumes/data/_data");
    let sparse = fs::File::create(data.join("sparse")).unwrap();
    sparse.set_len(1 << 30).unwrap();
    (&sparse).write_all(b"begins").unwrap();
    fs::hard_link(data.join("kept"), data.join("link")).unwrap();
    drop(std::os::unix::net::UnixListener::bind(data.join("socket")).unwrap());
    let value = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(data.join("kept"), "user.note", b"x", value).unwrap();
    let dest = dirs.path().join("backup");
    backup(&open, &dest, true).unwrap();
    drop(open);
    let root = dirs.path().join("restored");
    restore_backup(&dest, &root, &mut |_, _| {}).unwrap();
    let back = root.join("volumes/data/_data");
    let stat = |name: &str| fs::symlink_metadata(back.join(name)).unwrap();
    let found = fs::read(root.join("volumes/nobodys/_data/file")).unwrap();
    assert_eq!(found, b"of no record", "a directory is a volume, too");
    assert_eq!(stat("sparse").len(), 1 << 30);
    assert!(stat("sparse").blocks() < 1 << 12, "{} blocks", stat("sparse").blocks());
    assert_eq!(stat("kept").ino(), stat("link").ino());
    assert_eq!(stat("socket").mode() & 0o170_000, 0o140_000);
    let mut buffer = [0; 8];
    let length = rustix::fs::getxattr(back.join("kept"), "user.note", &mut buffer[..]).unwrap();
    assert_eq!(&buffer[..length], b"x");
}

#[test]
fn root_the_log_of_a_restored_database_is_overwritten_in_place() {
    let test = "root_the_log_of_a_restored_database_is_overwritten_in_place";
    let Some(dirs) = Dirs::on(test, Some("btrfs")) else { return };
    let open = dirs.open_on("btrfs").unwrap();
    open.import(b"of the image");
    let dest = dirs.path().join("backup");
    backup(&open, &dest, true).unwrap();
    drop(open);
    let root = dirs.path().join("restored");
    restore_backup(&dest, &root, &mut |_, _| {}).unwrap_or_else(|e| panic!("{}", chain(&e)));
    for root in [dirs.data_root(), root] {
        let log = fs::File::open(root.join("berth.db-wal")).unwrap();
        let flags = rustix::fs::ioctl_getflags(&log).unwrap();
        assert!(flags.contains(rustix::fs::IFlags::NOCOW), "{}: {flags:?}", root.display());
    }
}

#[test]
fn vm_a_size_is_in_force_after_a_restore() {
    if !testkit::in_vm("vm_a_size_is_in_force_after_a_restore") {
        return;
    }
    // Of this test's thread and those that it starts: ext4 limits nobody who has it.
    let held = berth_sys::caps::own().unwrap().effective;
    berth_sys::caps::limit_to(held & !SYS_RESOURCE).unwrap();
    let mkfs = ["-O", "quota,project", "-E", "quotatype=prjquota"];
    for driver in ["overlay2", "vfs"] {
        let disk = testkit::disk::Disk::take().format("ext4", &mkfs).mount("ext4", "prjquota");
        let dirs = Dirs::on_disk(disk);
        let open = dirs.open_on(driver).unwrap();
        open.import(b"of the image");
        let body = r#"{"Image": "test", "Cmd": ["/file"],
            "HostConfig": {"NetworkMode": "none", "StorageOpt": {"size": "4m"}}}"#;
        let request = CreateRequest::from_json(body.as_bytes()).unwrap();
        let name = Some("one".to_owned());
        open.block_on(open.engine().create_container(name, None, request, ApiVersion::MAX))
            .unwrap();
        write(&open, "one", "/", &[("small", b"small")]);
        let before = seen(&open);
        let dest = dirs.path().join("backup");
        backup(&open, &dest, true).unwrap();
        drop(open);
        let root = dirs.path().join("restored");
        restore_backup(&dest, &root, &mut |_, _| {}).unwrap_or_else(|e| panic!("{}", chain(&e)));
        let open = dirs.open_at(&root, driver).unwrap();
        assert!(seen(&open) == before, "{driver}");
        is_clean(&open);
        let archive = Box::new(std::io::Cursor::new(tar(&[("large", &vec![1; 8 << 20])])));
        let options = ArchivePutOptions::default();
        let put = open.engine().archive_put("one", "/", options, archive);
        let error = chain(&open.block_on(put).unwrap_err());
        assert!(error.ends_with("disk quota exceeded"), "{driver}: {error}");
    }
}

/// `CAP_SYS_RESOURCE`.
const SYS_RESOURCE: u64 = 1 << 24;

/// Lets everybody pass on the way to a test's directories.
fn open_way(dirs: &Dirs) {
    use std::os::unix::fs::PermissionsExt as _;
    for dir in dirs.path().ancestors().take_while(|dir| *dir != Path::new("/var/tmp")) {
        let mode = fs::metadata(dir).unwrap().permissions().mode();
        if mode & 0o001 == 0 {
            fs::set_permissions(dir, fs::Permissions::from_mode(mode | 0o111)).unwrap();
        }
    }
}

/// Who owns what, below a directory; but not what overlayfs keeps for itself.
fn owners(dir: &Path) -> BTreeMap<PathBuf, (u32, u32, u32)> {
    use std::os::unix::fs::MetadataExt as _;
    let mut all = BTreeMap::new();
    let mut left = vec![dir.to_owned()];
    while let Some(path) = left.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        if meta.is_dir() && !path.ends_with("work") {
            left.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        let owner = (meta.mode(), meta.uid(), meta.gid());
        all.insert(path.strip_prefix(dir).unwrap().to_owned(), owner);
    }
    all
}

#[test]
fn root_a_backup_of_remapped_users_is_restored_for_them() {
    const UID: u32 = 100_000;
    each_driver("root_a_backup_of_remapped_users_is_restored_for_them", |dirs, driver| {
        fs::remove_dir_all(dirs.data_root()).unwrap();
        open_way(dirs);
        let own = dirs.remapped_root(UID);
        let open = dirs.open_remapped_at(&own, UID, driver).unwrap();
        fill(&open);
        let before = seen(&open);
        let inside = dirs.data_root().join("backup");
        assert_eq!(
            backup(&open, &inside, true).unwrap_err(),
            format!("{} is in the data root: a backup must be elsewhere", inside.display())
        );
        let dest = dirs.path().join("backup");
        backup(&open, &dest, true).unwrap();
        drop(open);

        let base = dirs.path().join("restored");
        let restored = restore_backup(&dest, &base, &mut |_, _| {});
        let root = restored.unwrap_or_else(|error| panic!("{driver}: {}", chain(&error))).path;
        assert_eq!(root, base.join(format!("{UID}.{UID}")));
        let open = dirs.open_remapped_at(&root, UID, driver).unwrap();
        for place in [driver, "containers", "volumes"] {
            assert_eq!(owners(&root.join(place)), owners(&own.join(place)), "{driver}: {place}");
        }
        assert!(seen(&open) == before, "{driver}: something is not as it was");
        is_clean(&open);
        create(&open, "three");
        write(&open, "three", "/", &[("new", b"three")]);
        drop(open);
        // Beside it, a daemon that remaps nothing has a data root as ever.
        assert!(dirs.open_at(&base, driver).unwrap().images().is_empty());
    });
}

#[test]
fn root_a_layer_of_remapped_users_is_mended_for_them() {
    use std::os::unix::fs::MetadataExt as _;
    const UID: u32 = 100_000;
    let test = "root_a_layer_of_remapped_users_is_mended_for_them";
    let Some(dirs) = Dirs::new(test) else { return };
    open_way(&dirs);
    let own = dirs.remapped_root(UID);
    for driver in ["vfs", "overlay2"] {
        dirs.open_remapped_at(&own, UID, driver).unwrap().import(b"of the image");
    }
    let find = || {
        let layers = fs::read_dir(own.join("overlay2")).unwrap();
        let files = layers.map(|entry| entry.unwrap().path().join("diff/file"));
        files.into_iter().find(|path| path.is_file()).unwrap()
    };
    let before = fs::metadata(find()).unwrap();
    fs::File::options().write(true).open(find()).unwrap().write_all(b"OF").unwrap();
    let open = dirs.open_remapped_at(&own, UID, "overlay2").unwrap();
    let repair = open.begin(|engine| engine.repair_storage(Depth::Content, Changes::Made));
    let sums = finish(&open, repair).unwrap();
    assert_eq!((&sums["Repaired"]["Mended"], &sums["Repaired"]["Left"]), (&1.into(), &0.into()));
    let file = fs::metadata(find()).unwrap();
    assert_ne!(file.ino(), before.ino());
    // The container's root, or who that is on the host: as mounts translate or not.
    assert_eq!((file.uid(), file.gid()), (before.uid(), before.gid()));
    is_clean(&open);
}

//! Tests of what is particular to overlay: Docker's layout, options and texts.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;

use berth_types::LayerId;
use testkit::LoopFs;

use super::Overlay;
use crate::{Access, CreateOptions, Mounted, StorageDriver, suite};

fn home_for(test: &str) -> Option<LoopFs> {
    let fs = LoopFs::or_skip(test, "ext4")?;
    match Overlay::open(&fs.path().join("probe"), &[]) {
        Ok(_) => Some(fs),
        Err(error) if error.is_not_supported() => {
            testkit::skip(test, "overlayfs over ext4");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn rw() -> CreateOptions {
    CreateOptions { writable: true, ..CreateOptions::default() }
}

#[test]
fn root_overlay_keeps_the_contract() {
    let Some(fs) = home_for("root_overlay_keeps_the_contract") else { return };
    let dir = fs.path().join("suite");
    fs::create_dir(&dir).unwrap();
    suite::run(&|home| Arc::new(Overlay::open(home, &[]).unwrap()), &dir);
}

#[test]
fn root_overlay_is_laid_out_as_dockers() {
    let Some(fs) = home_for("root_overlay_is_laid_out_as_dockers") else { return };
    let home = fs.path().join("overlay");
    let driver = Overlay::open(&home, &[]).unwrap();
    let (base, top, container) = (LayerId::random(), LayerId::random(), LayerId::random());
    driver.create(&base, None, &CreateOptions::default()).unwrap();
    let root = |id: &LayerId| home.join(id.as_str()).join("root");
    File::create(root(&base).join("f")).unwrap();
    rustix::fs::chmod(root(&base), 0o711.into()).unwrap();
    driver.commit(&base).unwrap();
    driver.create(&top, Some(&base), &CreateOptions::default()).unwrap();
    driver.commit(&top).unwrap();
    let inode = |id: &LayerId| fs::metadata(root(id).join("f")).unwrap().ino();
    assert_eq!(inode(&base), inode(&top));

    let init = container.init();
    driver.create(&init, Some(&top), &rw()).unwrap();
    {
        let mounted = Mounted::new(driver.prepare(&init, Access::Write).unwrap()).unwrap();
        fs::remove_file(mounted.root().join("f")).unwrap();
        fs::create_dir(mounted.root().join("f")).unwrap();
        File::create(mounted.root().join(".dockerenv")).unwrap();
    }
    driver.commit(&init).unwrap();
    driver.create(&container, Some(&init), &rw()).unwrap();

    let h = home.display();
    let dir = |id: &LayerId| home.join(id.as_str());
    assert_eq!(names(&dir(&top)), ["committed", "root"]);
    assert_eq!(names(&dir(&init)), ["committed", "lower-id", "upper", "work"]);
    assert_eq!(names(&dir(&container)), ["lower-id", "upper", "work"]);
    assert_eq!(names(&dir(&container).join("upper")), [".dockerenv", "f"]);
    let mut value = [0; 8];
    let upper = dir(&container).join("upper/f");
    let length = rustix::fs::getxattr(upper, "trusted.overlay.opaque", &mut value).unwrap();
    assert_eq!(value[..length], *b"y");
    for id in [&init, &container] {
        let lower = fs::read_to_string(dir(id).join("lower-id")).unwrap();
        assert_eq!(lower, top.as_str());
        assert_eq!(mode(&dir(id).join("upper")), 0o711);
    }
    let plan = driver.prepare(&container, Access::Write).unwrap();
    let options: Vec<_> = plan.mounts[0].options.iter().filter(|o| !o.ends_with("=off")).collect();
    assert_eq!(
        options,
        [
            &format!("lowerdir={h}/{top}/root"),
            &format!("upperdir={h}/{container}/upper"),
            &format!("workdir={h}/{container}/work"),
        ]
    );
    let mounted = Mounted::new(plan).unwrap();
    assert_eq!(names(mounted.root()), [".dockerenv", "f"]);
    drop(mounted);

    let data = driver.metadata(&container).unwrap().unwrap();
    let data: Vec<_> = data.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    assert_eq!(
        data,
        [
            ("LowerDir", &*format!("{h}/{top}/root")),
            ("MergedDir", &*format!("{h}/{container}/merged")),
            ("UpperDir", &*format!("{h}/{container}/upper")),
            ("WorkDir", &*format!("{h}/{container}/work")),
        ]
    );
    let data = driver.metadata(&top).unwrap().unwrap();
    assert_eq!(data, [("RootDir".to_owned(), format!("{h}/{top}/root"))].into());
    // An image layer needs nothing of the one below.
    driver.remove(&base).unwrap();
    driver.reap().unwrap();
    assert_eq!(names(&root(&top)), ["f"]);
}

#[test]
fn root_overlay_options_have_dockers_texts() {
    let Some(fs) = home_for("root_overlay_options_have_dockers_texts") else { return };
    let home = fs.path().join("overlay");
    #[rustfmt::skip]
    let table = [
        ("overlay2.size=1G",  "overlay: unknown option overlay2.size"),
        ("Overlay.Mountopt=", "overlay: unknown option overlay.mountopt"),
        ("foo",               "Unable to parse key/value option: foo"),
    ];
    for (option, text) in table {
        let error = Overlay::open(&home, &[option.to_owned()]).unwrap_err();
        assert_eq!(error.to_string(), text, "{option}");
    }
    let driver = Overlay::open(&home, &[]).unwrap();
    for writable in [true, false] {
        let storage_opt = [("size".to_owned(), "1G".to_owned())].into();
        let options = CreateOptions { writable, storage_opt, mount_label: String::new() };
        let error = driver.create(&LayerId::random(), None, &options).unwrap_err();
        assert_eq!(error.to_string(), "--storage-opt is not supported for overlay");
    }
    let status: Vec<_> =
        driver.status().into_iter().map(|(key, value)| format!("{key}: {value}")).collect();
    assert_eq!(status, ["Backing Filesystem: extfs", "Supports d_type: true"]);
}

#[test]
fn root_overlay_is_refused_over_btrfs_and_itself() {
    let test = "root_overlay_is_refused_over_btrfs_and_itself";
    let refused = "backing file system is unsupported for this graph driver";
    let Some(fs) = LoopFs::or_skip(test, "btrfs") else { return };
    let error = Overlay::open(&fs.path().join("overlay"), &[]).unwrap_err();
    assert_eq!(error.to_string(), refused);
    let Some(fs) = home_for(test) else { return };
    let driver = Overlay::open(&fs.path().join("overlay"), &[]).unwrap();
    let (base, top) = (LayerId::random(), LayerId::random());
    driver.create(&base, None, &CreateOptions::default()).unwrap();
    driver.create(&top, Some(&base), &rw()).unwrap();
    let mounted = Mounted::new(driver.prepare(&top, Access::Write).unwrap()).unwrap();
    let error = Overlay::open(&mounted.root().join("inner"), &[]).unwrap_err();
    assert_eq!(error.to_string(), refused);
}

#[test]
fn root_overlay_damage_is_named() {
    let Some(fs) = home_for("root_overlay_damage_is_named") else { return };
    let home = fs.path().join("overlay");
    let driver = Overlay::open(&home, &[]).unwrap();
    let (base, top) = (LayerId::random(), LayerId::random());
    driver.create(&base, None, &CreateOptions::default()).unwrap();
    driver.create(&top, Some(&base), &rw()).unwrap();
    let left = home.join(format!(".berth-creating-{}", LayerId::random()));
    fs::create_dir_all(left.join("root/half")).unwrap();
    driver.recover(&|_| false).unwrap();
    assert!(!left.try_exists().unwrap());
    for torn in ["", "../../etc"] {
        let file = home.join(top.as_str()).join("lower-id");
        berth_fs::atomic::write(&file, torn.as_bytes()).unwrap();
        let error = driver.prepare(&top, Access::Write).unwrap_err();
        assert_eq!(error.to_string(), format!("file lower-id of layer {top} is damaged"));
    }
}

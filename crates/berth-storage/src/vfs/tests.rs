//! Tests of what is particular to vfs.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use berth_types::LayerId;

use super::Vfs;
use crate::{CreateOptions, StorageDriver as _, suite};

fn opts(options: &[&str]) -> Vec<String> {
    options.iter().map(|&option| option.to_owned()).collect()
}

#[test]
fn root_vfs_keeps_the_contract() {
    if !testkit::is_root() {
        testkit::skip("root_vfs_keeps_the_contract", "root");
        return;
    }
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    suite::run(&|home| Arc::new(Vfs::open(home, &[]).unwrap()), dir.path());
}

#[test]
fn options_have_dockers_texts() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("vfs");
    #[rustfmt::skip]
    let table: &[(&[&str], &str)] = &[
        (&["size=1G"], "Filesystem does not support, or has not enabled quotas"),
        (&["size=x"],  "invalid size: 'x'"),
        (&["zz=1"],    "unknown option zz for vfs"),
        (&["foo"],     "Unable to parse key/value option: foo"),
    ];
    for (options, text) in table {
        let error = Vfs::open(&home, &opts(options)).unwrap_err();
        assert_eq!(error.to_string(), *text, "{options:?}");
    }
    let driver = Vfs::open(&home, &opts(&["size=0"])).unwrap();
    #[rustfmt::skip]
    let table = [
        (true,  "size", "Filesystem does not support, or has not enabled quotas"),
        (true,  "x",    "Storage opt x not supported"),
        (false, "size", "--storage-opt is not supported for vfs on read-only layers"),
    ];
    for (writable, key, text) in table {
        let storage_opt = [(key.to_owned(), "1G".to_owned())].into();
        let options = CreateOptions { writable, storage_opt, mount_label: String::new() };
        let error = driver.create(&LayerId::random(), None, &options).unwrap_err();
        assert_eq!(error.to_string(), text);
    }
}

#[test]
fn an_interrupted_copy_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("vfs");
    let driver = Vfs::open(&home, &[]).unwrap();
    let left = home.join("dir").join(format!(".berth-creating-{}", LayerId::random()));
    fs::create_dir_all(left.join("half")).unwrap();
    let marker = home.join("committed").join(LayerId::random().as_str());
    fs::File::create(&marker).unwrap();
    assert_eq!(driver.list().unwrap(), []);
    driver.recover(&|_| false).unwrap();
    assert!(gone(&left) && gone(&marker));
}

fn gone(path: &Path) -> bool {
    !path.try_exists().unwrap()
}

#[test]
fn an_init_layer_shares_files_and_a_containers_layer_has_its_own() {
    use std::os::unix::fs::MetadataExt as _;
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let driver = Vfs::open(&dir.path().join("vfs"), &[]).unwrap();
    let image = LayerId::random();
    driver.create(&image, None, &CreateOptions::default()).unwrap();
    let file = |id: &LayerId| driver.home.layer(id).join("file");
    fs::File::create(file(&image)).unwrap();
    let own = LayerId::random();
    let writable = CreateOptions { writable: true, ..CreateOptions::default() };
    driver.create(&own.init(), Some(&image), &writable).unwrap();
    driver.create(&own, Some(&own.init()), &writable).unwrap();
    let inode = |id: &LayerId| fs::metadata(file(id)).unwrap().ino();
    assert_eq!(inode(&own.init()), inode(&image));
    assert_ne!(inode(&own), inode(&image));
    assert_eq!(fs::metadata(file(&own)).unwrap().nlink(), 1);
}

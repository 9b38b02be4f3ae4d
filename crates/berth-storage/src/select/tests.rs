//! Tests of the choice, with the texts of a real daemon.

use std::fs;
use std::path::Path;

use berth_types::kind::chain;

use super::{Selection, open};

fn choose(root: &Path, name: &str, environment: &str, options: &[&str]) -> Result<String, String> {
    let options: Vec<_> = options.iter().map(|&option| option.to_owned()).collect();
    let selection =
        Selection { root, name: Some(name), environment: Some(environment), options: &options };
    match open(&selection) {
        Ok(driver) => Ok(driver.name().to_owned()),
        Err(error) => Err(chain(&error)),
    }
}

const UNKNOWN: &str = "error initializing graphdriver: driver not supported";

const PREREQUISITES: &str = "error initializing graphdriver: prerequisites for driver not \
                             satisfied (wrong filesystem?)";

#[test]
fn a_given_name_never_falls_back() {
    let unbuilt = |name: &str| {
        format!(
            "error initializing graphdriver: storage driver {name} is not supported by this \
             version of berth"
        )
    };
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(choose(dir.path(), "nosuch", "", &[]), Err(UNKNOWN.to_owned()));
    for name in ["overlay", "aufs", "zfs", "devicemapper", "fuse-overlayfs"] {
        assert_eq!(choose(dir.path(), name, "", &[]), Err(unbuilt(name)));
        assert_eq!(choose(dir.path(), "vfs", name, &[]), Err(unbuilt(name)), "environment wins");
    }
    assert_eq!(choose(dir.path(), "btrfs", "", &[]), Err(PREREQUISITES.to_owned()));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing was made");
    assert_eq!(choose(dir.path(), "vfs", "", &[]), Ok("vfs".to_owned()));
    assert_eq!(choose(dir.path(), "zfs", "vfs", &[]), Ok("vfs".to_owned()));
    let error = "error initializing graphdriver: unknown option zz for vfs".to_owned();
    assert_eq!(choose(dir.path(), "vfs", "", &["zz=1"]), Err(error));
}

#[test]
fn root_without_a_name_the_first_that_works_is_chosen() {
    let Some(dir) = dir_for("root_without_a_name_the_first_that_works_is_chosen") else { return };
    let root = dir.path();
    // vfs is forgotten, an empty directory is no state.
    fs::create_dir_all(root.join("vfs/dir/x")).unwrap();
    fs::create_dir(root.join("btrfs")).unwrap();
    assert_eq!(choose(root, "", "", &[]), Ok("overlay2".to_owned()));
    assert_eq!(choose(root, "", "", &[]), Ok("overlay2".to_owned()), "prior");
    let error = "error initializing graphdriver: Unable to parse key/value option: foo".to_owned();
    assert_eq!(choose(root, "", "", &["foo"]), Err(error));

    fs::create_dir_all(root.join("overlay/x")).unwrap();
    let several = format!(
        "error initializing graphdriver: {} contains several valid graphdrivers: overlay2, \
         overlay; Please cleanup or explicitly choose storage driver (-s <DRIVER>)",
        root.display()
    );
    assert_eq!(choose(root, "", "", &[]), Err(several));
    assert_eq!(choose(root, "overlay2", "", &[]), Ok("overlay2".to_owned()));
}

#[test]
fn prior_state_of_a_driver_that_is_not_built_is_never_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("devicemapper/x")).unwrap();
    let error = "error initializing graphdriver: storage driver devicemapper is not supported by \
                 this version of berth";
    assert_eq!(choose(dir.path(), "", "", &[]), Err(error.to_owned()));
}

fn dir_for(test: &str) -> Option<tempfile::TempDir> {
    if !testkit::is_root() {
        testkit::skip(test, "root");
        return None;
    }
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    if choose(dir.path(), "overlay2", "", &[]).is_err() {
        testkit::skip(test, "overlayfs over /var/tmp");
        return None;
    }
    fs::remove_dir_all(dir.path().join("overlay2")).unwrap();
    Some(dir)
}

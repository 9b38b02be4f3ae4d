//! Tests of the choice, with the texts of a real daemon.

use std::fs;
use std::path::Path;

use berth_types::Owner;
use berth_types::kind::chain;

use super::{DRIVERS, Environment, Selection, open, warnings};

fn choose(root: &Path, name: &str, environment: &str, options: &[&str]) -> Result<String, String> {
    let options: Vec<_> = options.iter().map(|&option| option.to_owned()).collect();
    let environment = Environment { variable: "DOCKER_DRIVER", name: environment };
    let selection = Selection {
        root,
        name: Some(name),
        environment: Some(environment),
        options: &options,
        owner: Owner::ROOT,
        mapping: None,
    };
    match open(&selection) {
        Ok(driver) => Ok(driver.name().to_owned()),
        Err(error) => Err(chain(&error)),
    }
}

/// The reason, without the words that every one begins with.
fn refused(root: &Path, name: &str, environment: &str, options: &[&str]) -> String {
    let error = choose(root, name, environment, options).unwrap_err();
    match error.strip_prefix("error initializing graphdriver: ") {
        Some(reason) => reason.to_owned(),
        None => panic!("{error}"),
    }
}

const PREREQUISITES: &str = "prerequisites for driver not satisfied (wrong filesystem?)";

#[test]
fn the_order_is_dockers_and_what_is_deprecated_is_never_chosen_freely() {
    let names: Vec<_> = DRIVERS.iter().map(|known| known.name).collect();
    assert_eq!(
        names,
        ["btrfs", "zfs", "overlay2", "fuse-overlayfs", "aufs", "overlay", "devicemapper", "vfs"]
    );
    for name in names {
        let deprecated = ["aufs", "overlay", "devicemapper"].contains(&name);
        assert_eq!(super::is_deprecated(name), deprecated, "{name}");
    }
}

#[test]
fn a_given_name_never_falls_back() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    assert_eq!(refused(root, "nosuch", "", &[]), "driver not supported");
    assert_eq!(refused(root, "Overlay2", "", &[]), "driver not supported");
    for name in ["btrfs", "zfs"] {
        assert_eq!(refused(root, name, "", &[]), PREREQUISITES);
        assert_eq!(refused(root, "vfs", name, &[]), PREREQUISITES, "the environment wins");
    }
    assert_eq!(fs::read_dir(root).unwrap().count(), 0, "nothing was made");
    assert_eq!(choose(root, "vfs", "", &[]), Ok("vfs".to_owned()));
    assert_eq!(choose(root, "zfs", "vfs", &[]), Ok("vfs".to_owned()));
}

#[test]
fn options_that_a_driver_does_not_have_are_refused_in_dockers_words() {
    let dir = tempfile::tempdir().unwrap();
    #[rustfmt::skip]
    let table: &[(&str, &str, &str)] = &[
        ("overlay2", "dm.basesize=1G",                   "overlay2: unknown option dm.basesize"),
        ("overlay2", "foo",                              "Unable to parse key/value option: foo"),
        ("overlay2", "overlay2.override_kernel_check=x", "strconv.ParseBool: parsing \"x\": invalid syntax"),
        ("overlay",  "overlay2.size=1G",                 "overlay: unknown option overlay2.size"),
        ("overlay",  "foo",                              "Unable to parse key/value option: foo"),
        ("btrfs",    "foo",                              PREREQUISITES),
        ("zfs",      "foo",                              PREREQUISITES),
        ("vfs",      "size=1G",                          "Filesystem does not support, or has not enabled quotas"),
        ("vfs",      "zz=1",                             "unknown option zz for vfs"),
        ("vfs",      "foo",                              "Unable to parse key/value option: foo"),
    ];
    for (name, option, text) in table {
        assert_eq!(refused(dir.path(), name, "", &[option]), *text, "{name} {option}");
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing was made");
}

#[test]
fn root_without_a_name_the_first_that_works_is_chosen() {
    let Some(dir) = dir_for("root_without_a_name_the_first_that_works_is_chosen") else { return };
    let root = dir.path();
    // vfs is forgotten, an empty directory is no state.
    fs::create_dir_all(root.join("vfs/dir/x")).unwrap();
    fs::create_dir(root.join("btrfs")).unwrap();
    let refusal = refused(root, "", "", &["btrfs.min_space=1G"]);
    assert_eq!(refusal, "overlay2: unknown option btrfs.min_space", "options go to all");
    assert_eq!(choose(root, "", "", &[]), Ok("overlay2".to_owned()));
    assert_eq!(choose(root, "", "", &[]), Ok("overlay2".to_owned()), "prior");
    assert_eq!(refused(root, "", "", &["foo"]), "Unable to parse key/value option: foo");

    fs::create_dir_all(root.join("overlay/x")).unwrap();
    let several = format!(
        "{} contains several valid graphdrivers: overlay2, overlay; Please cleanup or explicitly \
         choose storage driver (-s <DRIVER>)",
        root.display()
    );
    assert_eq!(refused(root, "", "", &[]), several);
    assert_eq!(choose(root, "overlay2", "", &[]), Ok("overlay2".to_owned()));
}

#[test]
fn root_what_is_deprecated_is_kept_by_its_prior_state() {
    let Some(dir) = dir_for("root_what_is_deprecated_is_kept_by_its_prior_state") else { return };
    fs::create_dir_all(dir.path().join("overlay/x")).unwrap();
    fs::create_dir(dir.path().join("overlay2")).unwrap();
    assert_eq!(choose(dir.path(), "", "", &[]), Ok("overlay".to_owned()));
    let selection = Selection {
        root: dir.path(),
        name: None,
        environment: None,
        options: &[],
        owner: Owner::ROOT,
        mapping: None,
    };
    let driver = open(&selection).unwrap();
    assert_eq!(
        warnings(&*driver),
        ["WARNING: the overlay storage-driver is deprecated, and will be removed in a future \
          release."]
    );
    let selection = Selection { name: Some("vfs"), ..selection };
    assert_eq!(warnings(&*open(&selection).unwrap()), [""; 0]);
}

#[test]
fn root_btrfs_comes_first_where_it_works() {
    let test = "root_btrfs_comes_first_where_it_works";
    let Some(fs) = testkit::LoopFs::or_skip(test, "btrfs") else { return };
    let root = fs.path();
    assert_eq!(refused(&root, "", "", &["overlay2.size=1G"]), "Unknown option overlay2.size");
    assert_eq!(choose(&root, "", "", &[]), Ok("btrfs".to_owned()));
}

#[test]
fn thin_devices_are_refused_to_remapped_users() {
    let selection = Selection {
        root: Path::new("/nonexistent"),
        name: Some("devicemapper"),
        environment: None,
        options: &[],
        owner: Owner { uid: 100_000, gid: 100_000 },
        mapping: None,
    };
    assert_eq!(
        chain(&open(&selection).unwrap_err()),
        "error initializing graphdriver: devicemapper: userns-remap is not supported by this \
         version of berth"
    );
}

#[test]
fn prior_state_of_a_driver_that_does_not_work_is_never_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("btrfs/subvolumes")).unwrap();
    assert_eq!(refused(dir.path(), "", "", &[]), PREREQUISITES);
    // What cannot be read counts as state.
    let dir = tempfile::tempdir().unwrap();
    fs::File::create(dir.path().join("btrfs")).unwrap();
    assert_eq!(refused(dir.path(), "", "", &[]), PREREQUISITES);
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

//! The tests of each driver, over the one that only the virtual machine has.

use std::process::Command;

use testkit::zpool::Zpool;

use crate::fixture::ONLY;

/// Those that take the usual ways; under emulation each command of ZFS takes half a second.
const TESTS: [&str; 6] = [
    "container::root_a_new_container_has_its_mount_points_and_no_changes",
    "container::root_changes_sizes_and_commit_are_dockers",
    "crash::root_mounts_of_running_containers_stay",
    "draft::root_a_draft_becomes_a_layer_of_what_was_written",
    "image::root_layers_come_back_bit_for_bit",
    "image::root_layers_go_when_nobody_needs_them",
];

/// And these in long runs.
const LONG: [&str; 4] = [
    "crash::fault_root_a_stop_at_any_driver_call_is_recovered_from",
    "crash::root_a_stop_at_any_step_of_a_load_is_recovered_from",
    "image::root_many_threads_load_the_same_layers",
    "sizes::root_sizes_are_dockers_for_every_kind_of_file",
];

#[test]
fn vm_layers_on_zfs_pass_the_tests_of_each_driver() {
    let test = "vm_layers_on_zfs_pass_the_tests_of_each_driver";
    if Zpool::or_skip(test).is_none() {
        return;
    }
    let more: &[&str] = if testkit::is_soak() { &LONG } else { &[] };
    let mut again = Command::new(std::env::current_exe().unwrap());
    again.arg("--exact").args(TESTS).args(more).env(ONLY, "zfs");
    let output = again.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let passed = format!("test result: ok. {} passed", TESTS.len() + more.len());
    assert!(said.contains(&passed), "{said}{}", String::from_utf8_lossy(&output.stderr));
}

//! The cases of the other files over aufs, which few kernels have.

use std::process::Command;

use crate::fixture::ONLY;

#[test]
fn vm_every_case_of_the_layer_store_holds_on_aufs() {
    let test = "vm_every_case_of_the_layer_store_holds_on_aufs";
    if !testkit::in_vm(test) {
        return;
    }
    let known = std::fs::read_to_string("/proc/filesystems").unwrap();
    if !known.contains("\taufs\n") {
        return testkit::skip(test, "a kernel with aufs (--kernel)");
    }
    let mut cases = Command::new(std::env::current_exe().unwrap());
    cases.arg("root_").args(["--skip", "fault_"]).env(ONLY, "aufs");
    let output = cases.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(!said.contains("running 0 tests"), "{said}");
}

//! Starts that must be refused: the message, the exit status, and that nothing changes.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What `berth daemon` with these arguments answers: exit status, stdout, stderr.
fn daemon(args: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_berth"))
        .arg("daemon")
        .args(args)
        .env("BERTH_SHIM", "/bin/true")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

fn put(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::File::create(path).unwrap().write_all(text.as_bytes()).unwrap();
}

/// Every path below `root` with its kind, size, time and content.
fn snapshot(root: &Path) -> BTreeMap<PathBuf, (std::time::SystemTime, Vec<u8>)> {
    let mut all = BTreeMap::new();
    let mut left = vec![root.to_owned()];
    while let Some(path) = left.pop() {
        let metadata = std::fs::symlink_metadata(&path).unwrap();
        let content = if metadata.is_dir() {
            left.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            Vec::new()
        } else {
            std::fs::read(&path).unwrap()
        };
        all.insert(path, (metadata.modified().unwrap(), content));
    }
    all
}

/// Starts on this data root with everything else in a directory of its own; the last line of stderr.
fn refused(data_root: &Path) -> String {
    refused_with(data_root, &[])
}

/// The same with these flags too.
fn refused_with(data_root: &Path, more: &[&str]) -> String {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let args = [
        "--data-root".to_owned(),
        data_root.display().to_string(),
        "--exec-root".to_owned(),
        path("exec"),
        "--pidfile".to_owned(),
        path("pid"),
        "--config-file".to_owned(),
        path("daemon.json"),
        "--host".to_owned(),
        format!("unix://{}", path("sock")),
        "--group=".to_owned(),
        "--bridge=none".to_owned(),
    ];
    put(&dir.path().join("daemon.json"), "{}");
    let args: Vec<&str> = args.iter().map(String::as_str).chain(more.iter().copied()).collect();
    let (status, stdout, stderr) = daemon(&args);
    assert_eq!((status, stdout.as_str()), (Some(1), ""), "{stderr}");
    for left in ["pid", "sock"] {
        assert!(!dir.path().join(left).try_exists().unwrap(), "{left} was left behind");
    }
    stderr.lines().last().unwrap_or_default().to_owned()
}

#[test]
fn root_a_dockerds_data_root_is_refused_and_no_byte_changes() {
    if !testkit::is_root() {
        return testkit::skip("root_a_dockerds_data_root_is_refused_and_no_byte_changes", "root");
    }
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("docker");
    put(&root.join("engine-id"), "5b0d");
    put(&root.join("image/overlay2/repositories.json"), "{\"Repositories\":{}}");
    put(&root.join("overlay2/0a/diff/etc/passwd"), "root");
    put(&root.join("volumes/data/_data/file"), "precious");
    std::fs::create_dir_all(root.join("tmp")).unwrap();
    std::fs::create_dir_all(root.join("containers")).unwrap();
    let before = snapshot(&root);
    let message = refused(&root);
    let expected = format!(
        "failed to start daemon: {} is not empty and was not made by berth",
        root.display()
    );
    assert!(message.starts_with(&expected), "{message}");
    assert!(message.contains("--data-root"), "{message}");
    assert_eq!(snapshot(&root), before);
}

#[test]
fn root_a_data_root_without_its_database_is_refused_and_no_byte_changes() {
    if !testkit::is_root() {
        return testkit::skip(
            "root_a_data_root_without_its_database_is_refused_and_no_byte_changes",
            "root",
        );
    }
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("berth");
    put(&root.join("version"), "{\"engine\":\"berth\",\"format\":1}\n");
    put(&root.join("overlay2/0a/diff/file"), "precious");
    put(&root.join("lock"), "");
    let before = snapshot(&root);
    let message = refused(&root);
    assert!(message.contains("berth.db is missing"), "{message}");
    assert!(message.contains("backup"), "{message}");
    assert_eq!(snapshot(&root), before);
}

#[test]
fn root_an_address_of_metrics_that_cannot_be_leaves_nothing_behind() {
    let test = "root_an_address_of_metrics_that_cannot_be_leaves_nothing_behind";
    if !testkit::is_root() {
        return testkit::skip(test, "root");
    }
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("berth");
    let message = refused_with(&root, &["--metrics-addr=127.0.0.1"]);
    let expected = "failed to start metrics server: listen tcp 127.0.0.1: ";
    assert!(message.starts_with(expected), "{message}");
    assert!(!root.try_exists().unwrap(), "the data root is not made");
}

#[test]
fn mistakes_are_one_line_on_stderr_and_exit_status_1() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("daemon.json");
    put(&file, "{\"debug\":tru}");
    let file = file.to_str().unwrap();
    let broken = format!(
        "unable to configure the Docker daemon with file {file}: \
         invalid character '}}' in literal true (expecting 'e')\n"
    );
    #[rustfmt::skip]
    let table: &[(&[&str], &str)] = &[
        (&["--config-file", file],        &broken),
        (&["--seccomp-profile", "x", "--config-file", file], "seccomp-profile is not supported by this version of berth\n"),
        (&["--nope"],                     "unknown flag: --nope\nSee 'berth daemon --help'.\n"),
    ];
    for (args, message) in table {
        let expected = (Some(1), String::new(), (*message).to_owned());
        assert_eq!(daemon(args), expected, "{args:?}");
    }
}

#[test]
fn validate_says_that_the_configuration_is_ok() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("daemon.json");
    put(&file, "{\"labels\":[\"a=b\"]}");
    let got = daemon(&["--validate", "--config-file", file.to_str().unwrap()]);
    assert_eq!(got, (Some(0), String::new(), "configuration OK\n".to_owned()));
}

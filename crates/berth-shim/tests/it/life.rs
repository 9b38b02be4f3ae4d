//! Creation, exit, signals, memory, and what survives whom.

use std::fs;
use std::process::Command;

use berth_shim_proto::{Event, Failure, Request, Response};
use serde_json::json;

use crate::bundle::{alive, bundle, cgroups, wait_until};

#[test]
fn root_output_exit_code_and_environment_are_as_asked() {
    let test = "root_output_exit_code_and_environment_are_as_asked";
    let script = "echo out; echo err >&2; env; pwd; exit 7";
    let Some(mut bundle) = bundle(test, &["sh", "-c", script]) else { return };
    bundle.spec["process"]["cwd"] = json!("/made/for/it");
    let (bundle, exit) = bundle.create().run();
    assert_eq!((exit.exit_code, exit.oom_killed), (7, false));
    let log = bundle.log();
    let of = |stream: &str| {
        let lines = log.iter().filter(|(from, _)| from == stream);
        lines.map(|(_, text)| text.trim_end()).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(of("stderr"), "err");
    let env = "PATH=/bin ZED=1 ALPHA=2 HOME=/root";
    let stdout = of("stdout");
    // busybox's shell adds its own, in its own order.
    for pair in env.split(' ') {
        assert!(stdout.contains(pair), "{stdout}");
    }
    assert!(stdout.starts_with("out "), "{stdout}");
    assert!(stdout.ends_with(" /made/for/it"), "{stdout}");
}

#[test]
fn root_the_environment_keeps_its_order() {
    let test = "root_the_environment_keeps_its_order";
    let Some(bundle) = bundle(test, &["env"]) else { return };
    let (bundle, _) = bundle.create().run();
    assert_eq!(bundle.text(), "PATH=/bin\nZED=1\nALPHA=2\nHOME=/root\n");
}

#[test]
fn root_no_signal_is_ignored_or_blocked_in_the_container() {
    let test = "root_no_signal_is_ignored_or_blocked_in_the_container";
    let Some(bundle) = bundle(test, &["grep", "^Sig[BI]", "/proc/self/status"]) else { return };
    let (bundle, _) = bundle.create().run();
    // 32 and 33 are the C library's own: no program can change them, so they come from outside.
    let own = 0b11 << 31;
    for line in bundle.text().lines() {
        let mask = u64::from_str_radix(line.split('\t').nth(1).unwrap(), 16).unwrap();
        assert_eq!(mask & !own, 0, "{line}");
    }
    assert_eq!(bundle.log().len(), 2);
}

#[test]
fn root_programs_that_cannot_be_run_fail_in_runcs_words() {
    let test = "root_programs_that_cannot_be_run_fail_in_runcs_words";
    #[rustfmt::skip]
    let table = [
        ("nope",        127, r#"exec: "nope": executable file not found in $PATH"#),
        ("/nope",       127, r#"exec: "/nope": stat /nope: no such file or directory"#),
        ("/etc/passwd", 126, r#"exec: "/etc/passwd": permission denied"#),
        ("/etc",        126, r#"exec: "/etc": is a directory"#),
    ];
    for (program, exit_code, message) in table {
        let Some(bundle) = bundle(test, &[program]) else { return };
        let expected = Failure { exit_code, message: message.to_owned() };
        assert_eq!(bundle.create_fails(), expected, "{program}");
    }
}

#[test]
fn root_a_root_that_cannot_be_mounted_fails_and_leaves_nothing() {
    let test = "root_a_root_that_cannot_be_mounted_fails_and_leaves_nothing";
    let Some(mut bundle) = bundle(test, &["true"]) else { return };
    let mut second = bundle.config.mounts[0].clone();
    second.options = vec!["lowerdir=absent".to_owned()];
    bundle.config.mounts.push(second);
    let failure = bundle.create_fails();
    assert_eq!(failure.exit_code, 128);
    assert!(failure.message.starts_with("error mounting"), "{failure:?}");
}

#[test]
fn root_a_root_that_a_helper_program_serves_goes_with_its_container() {
    let test = "root_a_root_that_a_helper_program_serves_goes_with_its_container";
    let Some(mut bundle) = bundle(test, &["sh", "-c", "echo here > /f; exit 3"]) else { return };
    if !testkit::has_program("fuse-overlayfs") || fs::metadata("/dev/fuse").is_err() {
        return testkit::skip(test, "fuse-overlayfs (Debian: fuse-overlayfs)");
    }
    "fuse.fuse-overlayfs".clone_into(&mut bundle.config.mounts[0].fs_type);
    let merged = bundle.file("merged");
    let helpers = || {
        let entries = fs::read_dir("/proc").unwrap();
        let lines = entries.map(|entry| fs::read(entry.unwrap().path().join("cmdline")));
        let merged = merged.to_str().unwrap();
        lines.flatten().filter(|line| String::from_utf8_lossy(line).contains(merged)).count()
    };
    let watcher = bundle.create();
    assert_eq!(helpers(), 1);
    let (bundle, exit) = watcher.run();
    assert_eq!(exit.exit_code, 3);
    assert_eq!(fs::read_to_string(bundle.file("upper/f")).unwrap(), "here\n");
    wait_until("the helper ends with its mount", || helpers() == 0);
}

#[test]
fn root_signals_reach_init_and_kill_ends_even_a_paused_container() {
    let test = "root_signals_reach_init_and_kill_ends_even_a_paused_container";
    let script = "trap 'echo hup' HUP; echo ready; while :; do sleep 0.01; done";
    let Some(bundle) = bundle(test, &["sh", "-c", script]) else { return };
    let watcher = bundle.create();
    let events = watcher.subscribe();
    let signal = |signal| Request::Signal { signal, exec: None, all: false };
    watcher.order(&Request::Start);
    wait_until("the trap is set", || watcher.bundle.text() == "ready\n");
    watcher.order(&signal(1));
    wait_until("the signal arrived", || watcher.bundle.text() == "ready\nhup\n");
    watcher.order(&Request::Pause { freeze: true });
    let Response::State(state) = watcher.ask(&Request::State).0 else { panic!("no state") };
    assert!(state.started && state.paused && state.pid == watcher.pid);
    watcher.order(&Request::Pause { freeze: false });
    watcher.order(&Request::Pause { freeze: true });
    watcher.order(&signal(9));
    assert_eq!(watcher.end(events).1.exit_code, 137);
}

#[test]
fn root_a_container_that_was_never_started_is_killed_and_cleaned_up() {
    let test = "root_a_container_that_was_never_started_is_killed_and_cleaned_up";
    let Some(bundle) = bundle(test, &["true"]) else { return };
    let watcher = bundle.create();
    let events = watcher.subscribe();
    watcher.order(&Request::Signal { signal: 9, exec: None, all: true });
    assert_eq!(watcher.end(events).1.exit_code, 137);
}

#[test]
fn root_lack_of_memory_is_told() {
    let test = "root_lack_of_memory_is_told";
    let hog = "dd if=/dev/zero of=/dev/null bs=64M count=9";
    let Some(mut bundle) = bundle(test, &["sh", "-c", hog]) else { return };
    bundle.spec["linux"]["resources"]["memory"] = json!({ "limit": 16 << 20, "swap": 16 << 20 });
    let watcher = bundle.create();
    let mut events = watcher.subscribe();
    watcher.order(&Request::Start);
    assert_eq!(events.next(), Event::Oom);
    let (_, exit) = watcher.end(events);
    assert_eq!((exit.exit_code, exit.oom_killed), (137, true));
}

#[test]
fn root_the_watcher_outlives_its_parent() {
    let test = "root_the_watcher_outlives_its_parent";
    let Some(bundle) = bundle(test, &["sh", "-c", "sleep 0.3; echo later"]) else { return };
    let mut child = bundle.spawn();
    let mut line = String::new();
    std::io::BufRead::read_line(
        &mut std::io::BufReader::new(child.stdout.take().unwrap()),
        &mut line,
    )
    .unwrap();
    let ready: serde_json::Value = serde_json::from_str(&line).unwrap();
    child.wait().unwrap();
    let pid = |key: &str| i32::try_from(ready[key].as_i64().unwrap()).unwrap();
    let watcher = crate::bundle::Watcher { bundle, shim_pid: pid("shim_pid"), pid: pid("pid") };
    let stat = fs::read_to_string(format!("/proc/{}/stat", watcher.shim_pid)).unwrap();
    let fields: Vec<_> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    assert_ne!(fields[1], std::process::id().to_string(), "it is no child of its starter");
    assert_ne!(fields[3], own_session(), "it has a session of its own");
    for signal in ["HUP", "INT", "TERM", "PIPE"] {
        let kill =
            Command::new("kill").args(["-s", signal, &watcher.shim_pid.to_string()]).status();
        assert!(kill.unwrap().success());
    }
    let (bundle, exit) = watcher.run();
    assert_eq!((bundle.text().as_str(), exit.exit_code), ("later\n", 0));
}

fn own_session() -> String {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    stat.rsplit(')').next().unwrap().split_whitespace().nth(3).unwrap().to_owned()
}

#[test]
fn root_what_a_killed_watcher_leaves_is_cleaned_up() {
    let test = "root_what_a_killed_watcher_leaves_is_cleaned_up";
    let Some(bundle) = bundle(test, &["sleep", "600"]) else { return };
    let watcher = bundle.create();
    watcher.order(&Request::Start);
    let kill = Command::new("kill").args(["-9", &watcher.shim_pid.to_string()]).status();
    assert!(kill.unwrap().success());
    wait_until("the watcher is dead", || !alive(watcher.shim_pid));
    assert!(alive(watcher.pid), "the container lives on");
    assert!(!cgroups(&watcher.bundle.config.id).is_empty());
    let shim = env!("CARGO_BIN_EXE_berth-shim");
    for _ in 0..2 {
        let mut cleanup = Command::new(shim);
        assert!(cleanup.arg("--cleanup").arg(watcher.bundle.path()).status().unwrap().success());
    }
    watcher.bundle.assert_clean();
    wait_until("the container is dead", || !alive(watcher.pid));
}

#[test]
fn root_a_process_that_outlives_init_in_the_hosts_pid_namespace_is_killed() {
    let test = "root_a_process_that_outlives_init_in_the_hosts_pid_namespace_is_killed";
    let script = "sleep 600 & echo started";
    let Some(mut bundle) = bundle(test, &["sh", "-c", script]) else { return };
    let namespaces = bundle.spec["linux"]["namespaces"].as_array_mut().unwrap();
    namespaces.retain(|namespace| namespace["type"] != "pid");
    let (bundle, exit) = bundle.create().run();
    assert_eq!((bundle.text().as_str(), exit.exit_code), ("started\n", 0));
}

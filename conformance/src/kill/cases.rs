//! Cases of their own, each with an engine of its own.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::full;
use super::lab::{self, Lab, PATIENCE};
use super::random::Random;
use crate::client::Client;
use crate::daemon::{self, BerthDaemon};

/// A named case.
#[derive(Debug)]
pub(super) struct Case {
    pub(super) name: &'static str,
    pub(super) run: fn(u64) -> Result<()>,
}

/// All of them.
pub(super) const ALL: &[Case] = &[
    Case { name: "exits while no daemon runs are reported", run: exits_while_no_daemon_runs },
    Case { name: "a killed watcher is noticed at once", run: watcher_killed_beside_the_daemon },
    Case { name: "a killed watcher is noticed at start", run: watcher_killed_without_a_daemon },
    Case { name: "a start cut short is started again", run: starts_cut_short },
    Case { name: "the first start can be cut short anywhere", run: first_start_cut_short },
    Case { name: "a full disk below overlay2 on ext4", run: full::overlay2_on_ext4 },
    Case { name: "a full disk below overlay2 on xfs", run: full::overlay2_on_xfs },
    Case { name: "a full disk below vfs on xfs", run: full::vfs_on_xfs },
    Case { name: "a full disk below btrfs", run: full::btrfs_on_btrfs },
];

/// Ends with this code as soon as the host makes this file in it.
fn ends_with(code: u32) -> Value {
    let script = format!("while [ ! -e /tmp/end ]; do usleep 5000; done; echo over; exit {code}");
    json!({ "Cmd": ["sh", "-c", script] })
}

/// Lets a container of [`ends_with`] end, and waits until nothing of it runs, its watcher included.
fn let_end(lab: &Lab, id: &str, pid: u64) -> Result<()> {
    std::fs::File::create(format!("/proc/{pid}/root/tmp/end")).context("into the container")?;
    let begun = Instant::now();
    while lab::birth(pid).is_some() || watcher_of(lab, id).is_some() {
        ensure!(begun.elapsed() < PATIENCE, "it does not end");
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// The watcher of a container: of the processes that name its bundle the one that the others come from.
fn watcher_of(lab: &Lab, id: &str) -> Option<u32> {
    let bundle = lab.daemon.exec_root().join("containers").join(id);
    daemon::watchers(lab.daemon.exec_root()).into_iter().find(|pid| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).any(|word| word == bundle.as_os_str().as_encoded_bytes())
    })
}

/// What becomes of a container that ended while no daemon ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum After {
    Exited,
    Runs,
    Gone,
}

fn exits_while_no_daemon_runs(seed: u64) -> Result<()> {
    use After::{Exited, Gone, Runs};
    #[rustfmt::skip]
    let table: &[(&str, &str, bool, u32, After)] = &[
        // name         policy            --rm   code after
        ("no-7",        "no",             false, 7,   Exited),
        ("no-0",        "no",             false, 0,   Exited),
        ("rm-7",        "no",             true,  7,   Gone),
        ("always-0",    "always",         false, 0,   Runs),
        ("always-7",    "always",         false, 7,   Runs),
        ("unless-0",    "unless-stopped", false, 0,   Runs),
        ("failure-0",   "on-failure",     false, 0,   Exited),
        ("failure-7",   "on-failure",     false, 7,   Runs),
    ];
    let mut lab = Lab::new("berth-kill-exits", seed)?;
    let mut made = Vec::new();
    for &(name, policy, rm, code, after) in table {
        let mut body = lab::container(&ends_with(code));
        body["HostConfig"]["RestartPolicy"] = json!({ "Name": policy });
        body["HostConfig"]["AutoRemove"] = json!(rm);
        let id = lab::create(&lab.api, name, body)?;
        lab.api.post(&format!("/containers/{id}/start"), Value::Null)?;
        let pid = lab::pid_of(&lab.api, &id)?;
        made.push((name, id, pid, code, after));
    }
    // Stopped by hand: the one starts with the daemon, the other does not.
    for (name, policy) in [("stopped", "always"), ("kept-stopped", "unless-stopped")] {
        let mut body = lab::container(&ends_with(0));
        body["HostConfig"]["RestartPolicy"] = json!({ "Name": policy });
        let id = lab::create(&lab.api, name, body)?;
        lab.api.post(&format!("/containers/{id}/start"), Value::Null)?;
        lab.api.post(&format!("/containers/{id}/stop?t=0"), Value::Null)?;
    }
    lab.daemon.kill9()?;
    for (name, id, pid, ..) in &made {
        let_end(&lab, id, *pid).with_context(|| (*name).to_owned())?;
    }
    lab.restart(None)?;
    for (name, id, pid, code, after) in &made {
        check_exit(&lab.api, id, *pid, *code, *after).with_context(|| (*name).to_owned())?;
    }
    lab::wait_for_state(&lab.api, "stopped", "running again", |state| state["Running"] == true)?;
    let kept = lab.api.get("/containers/kept-stopped/json")?["State"].clone();
    ensure!(kept["Status"] == "exited", "stopped by hand, but {kept}");
    for container in lab.api.get("/containers/json")?.as_array().into_iter().flatten() {
        let name = container["Names"][0].as_str().unwrap_or_default();
        if name != "/counter" && name != "/echo" {
            lab.api.delete(&format!("/containers{name}?force=1"))?;
        }
    }
    lab.check()
}

fn check_exit(api: &Client, id: &str, pid: u64, code: u32, after: After) -> Result<()> {
    match after {
        After::Gone => {
            let begun = Instant::now();
            while api.find(&format!("/containers/{id}/json"))?.is_some() {
                ensure!(begun.elapsed() < PATIENCE, "it was not removed");
                std::thread::sleep(Duration::from_millis(5));
            }
            Ok(())
        }
        After::Exited => {
            let state = api.get(&format!("/containers/{id}/json"))?["State"].clone();
            let expected = ("exited", u64::from(code));
            let got = (state["Status"].as_str(), state["ExitCode"].as_u64());
            ensure!(got == (Some(expected.0), Some(expected.1)), "{state}");
            ensure!(lab::wait(api, id)? == i64::from(code), "wait gives another code");
            lab::wait_for_log(api, id, "over\n")
        }
        After::Runs => {
            // The file that ended it is still there, so it ends and is started over and over.
            let begun = Instant::now();
            loop {
                let shown = api.get(&format!("/containers/{id}/json"))?;
                ensure!(shown["State"]["Pid"].as_u64() != Some(pid), "{}", shown["State"]);
                if shown["RestartCount"].as_u64() > Some(1) {
                    return Ok(());
                }
                ensure!(begun.elapsed() < PATIENCE, "not started again: {}", shown["State"]);
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
}

fn watcher_killed_beside_the_daemon(seed: u64) -> Result<()> {
    let mut lab = Lab::new("berth-kill-watcher", seed)?;
    let (id, pid) = victim(&lab)?;
    kill_watcher(&lab, &id)?;
    check_lost(&mut lab, &id, pid)
}

fn watcher_killed_without_a_daemon(seed: u64) -> Result<()> {
    let mut lab = Lab::new("berth-kill-watcher2", seed)?;
    let (id, pid) = victim(&lab)?;
    lab.daemon.kill9()?;
    kill_watcher(&lab, &id)?;
    lab.restart(None)?;
    check_lost(&mut lab, &id, pid)
}

/// A container with a file in it, more than one process, and a volume.
fn victim(lab: &Lab) -> Result<(String, u64)> {
    let body = lab::container(&json!({
        "Cmd": ["sh", "-c", "echo $$ >> /work/runs; sleep 1000 & sleep 1000"],
        "Volumes": { "/content": {} },
    }));
    let id = lab::create(&lab.api, "victim", body)?;
    lab.api.post(&format!("/containers/{id}/start"), Value::Null)?;
    let pid = lab::pid_of(&lab.api, &id)?;
    let begun = Instant::now();
    while std::fs::read(format!("/proc/{pid}/root/work/runs")).unwrap_or_default().is_empty() {
        ensure!(begun.elapsed() < PATIENCE, "it does not begin");
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok((id, pid))
}

fn kill_watcher(lab: &Lab, id: &str) -> Result<()> {
    let watcher = watcher_of(lab, id).context("it has no watcher")?;
    let pid = Pid::from_raw(watcher.cast_signed()).context("a number")?;
    kill_process(pid, Signal::KILL)?;
    Ok(())
}

/// The engine says that it has ended, nothing of it is left, and it can be started again with what it wrote.
fn check_lost(lab: &mut Lab, id: &str, pid: u64) -> Result<()> {
    let state = lab::wait_for_state(&lab.api, id, "ended", |state| state["Running"] == false)?;
    ensure!(state["Status"] == "exited" && state["ExitCode"] == 255, "{state}");
    ensure!(lab::birth(pid).is_none(), "its process still runs");
    lab.check_disk()?;
    lab.api.post(&format!("/containers/{id}/start"), Value::Null)?;
    let begun = Instant::now();
    let runs = || -> Result<usize> {
        let pid = lab::pid_of(&lab.api, id)?;
        let text = std::fs::read_to_string(format!("/proc/{pid}/root/work/runs"))?;
        Ok(text.lines().count())
    };
    while runs()? < 2 {
        ensure!(begun.elapsed() < PATIENCE, "what it wrote is gone");
        std::thread::sleep(Duration::from_millis(5));
    }
    lab.api.delete(&format!("/containers/{id}?force=1&v=1"))?;
    lab.check()
}

/// Recovery is itself killed at random moments, with much to recover.
fn starts_cut_short(seed: u64) -> Result<()> {
    const KILLS: u32 = 12;
    let mut lab = Lab::new("berth-kill-starts", seed)?;
    let mut random = Random::new(seed);
    let mut ended = Vec::new();
    for number in 0..4 {
        let id = lab::create(&lab.api, &format!("ended{number}"), lab::container(&ends_with(7)))?;
        lab.api.post(&format!("/containers/{id}/start"), Value::Null)?;
        let pid = lab::pid_of(&lab.api, &id)?;
        ended.push((id, pid));
    }
    lab.daemon.kill9()?;
    let whole = lab.daemon.restart()?;
    lab.daemon.kill9()?;
    for (id, pid) in &ended {
        let_end(&lab, id, *pid)?;
    }
    for _ in 0..KILLS {
        lab.daemon.spawn()?;
        std::thread::sleep(random.before(whole));
        lab.daemon.kill9()?;
    }
    lab.restart(None)?;
    for (id, pid) in &ended {
        check_exit(&lab.api, id, *pid, 7, After::Exited)?;
        lab.api.delete(&format!("/containers/{id}"))?;
    }
    lab.check()
}

/// A daemon that was killed while it made its data root takes it for its own the next time.
fn first_start_cut_short(seed: u64) -> Result<()> {
    const ROOTS: u32 = 6;
    let mut random = Random::new(seed);
    let mut whole = Duration::from_millis(100);
    for number in 0..ROOTS {
        let mut daemon = BerthDaemon::prepare(&format!("berth-kill-first{number}"))?;
        daemon.set_flags(&["--bridge=none"]);
        for _ in 0..number.min(3) {
            daemon.spawn()?;
            std::thread::sleep(random.before(whole));
            daemon.kill9()?;
        }
        let took = daemon.restart().with_context(|| format!("root {number}"))?;
        if number == 0 {
            whole = took;
        }
        let images = Client::new(&daemon.socket()).get("/images/json")?;
        if images != json!([]) {
            bail!("a new root has images: {images}");
        }
        daemon.stop()?;
    }
    Ok(())
}

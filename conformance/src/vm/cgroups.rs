//! Control groups of version 2: limits are in the kernel's files and bite, freezing freezes, device
//! rules refuse.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::Case;
use super::engine::{Engine, cgroup_of, eventually, read};

const MIB: u64 = 1 << 20;

pub(super) const CASES: &[Case] = &[
    ("nothing is missing on this machine", no_warnings),
    ("limits are in the kernel's files", limits),
    ("a container beyond its memory is killed, and says so", out_of_memory),
    ("a container cannot fork beyond its limit", out_of_processes),
    ("a paused container stands still", pause),
    ("devices open by the rules alone", devices),
    ("an exec is in its container's group", exec),
    ("a container sees its own group as the root", namespace),
    ("statistics come from the group", statistics),
    ("a removed container's group is gone", removal),
];

fn no_warnings(engine: &Engine) -> Result<()> {
    let info = engine.api().get("/info")?;
    ensure!(info["CgroupVersion"] == "2", "control groups of version {}", info["CgroupVersion"]);
    ensure!(info["Driver"] == "overlay2", "driver {}", info["Driver"]);
    let warnings = info["Warnings"].as_array().map_or(0, Vec::len);
    ensure!(warnings == 0, "warnings: {}", info["Warnings"]);
    Ok(())
}

fn limits(engine: &Engine) -> Result<()> {
    let container = engine.run(
        "sleep 1000",
        &json!({
            "Memory": 32 * MIB, "MemorySwap": 48 * MIB, "MemoryReservation": 16 * MIB,
            "PidsLimit": 50, "NanoCpus": 500_000_000, "CpuShares": 2048, "CpusetCpus": "0",
        }),
    )?;
    let cgroup = container.cgroup()?;
    let half = (16 * MIB).to_string();
    #[rustfmt::skip]
    let table = [
        ("memory.max",      (32 * MIB).to_string()),
        // Version 2 counts swap apart from memory.
        ("memory.swap.max", half.clone()),
        ("memory.low",      half),
        ("pids.max",        "50".to_owned()),
        ("cpu.max",         "50000 100000".to_owned()),
        // 2, 1024 and 262144 are 1, 100 and 10000, with runc's newer curve between them.
        ("cpu.weight",      "174".to_owned()),
        ("cpuset.cpus",     "0".to_owned()),
    ];
    for (file, wanted) in table {
        let found = read(&cgroup, file)?;
        ensure!(found == wanted, "{file} is {found:?}, not {wanted:?}");
    }
    Ok(())
}

fn out_of_memory(engine: &Engine) -> Result<()> {
    let limit = json!({ "Memory": 16 * MIB, "MemorySwap": 16 * MIB });
    let greedy = engine.run("exec dd if=/dev/zero of=/dev/null bs=64M count=1", &limit)?;
    let code = greedy.wait()?;
    ensure!(code == 137, "ended with {code}: {}", greedy.output()?);
    let state = greedy.state()?;
    ensure!(state["OOMKilled"] == true, "OOMKilled is not set: {state}");
    let modest = engine.run("exec dd if=/dev/zero of=/dev/null bs=4M count=4", &limit)?;
    ensure!(modest.wait()? == 0, "4 MiB are too much: {}", modest.output()?);
    ensure!(modest.state()?["OOMKilled"] == false, "it was not killed");
    Ok(())
}

fn out_of_processes(engine: &Engine) -> Result<()> {
    let script = "for n in 1 2 3 4 5 6 7 8; do sleep 2 & done; echo all; wait";
    let limited = engine.run(script, &json!({ "PidsLimit": 4 }))?;
    limited.wait()?;
    let output = limited.output()?;
    ensure!(output.contains("can't fork"), "it could fork: {output}");
    let free = engine.run(script, &json!({}))?;
    ensure!(free.wait()? == 0, "without a limit: {}", free.output()?);
    Ok(())
}

fn pause(engine: &Engine) -> Result<()> {
    let container = engine.run("while true; do echo tick; usleep 20000; done", &json!({}))?;
    let cgroup = container.cgroup()?;
    let ticks = || Ok::<_, anyhow::Error>(container.output()?.lines().count());
    eventually("it ticks", || Ok(ticks()? > 2))?;
    container.post("/pause", Value::Null)?;
    ensure!(read(&cgroup, "cgroup.freeze")? == "1", "cgroup.freeze is not 1");
    ensure!(read(&cgroup, "cgroup.events")?.contains("frozen 1"), "it is not frozen");
    ensure!(container.state()?["Status"] == "paused", "it is not shown as paused");
    let before = ticks()?;
    std::thread::sleep(std::time::Duration::from_millis(500));
    ensure!(ticks()? <= before + 1, "it goes on");
    container.post("/unpause", Value::Null)?;
    ensure!(read(&cgroup, "cgroup.freeze")? == "0", "cgroup.freeze is not 0");
    eventually("it goes on ticking", || Ok(ticks()? > before + 2))
}

fn devices(engine: &Engine) -> Result<()> {
    // The disk that the daemon's directories are on.
    let number = std::fs::read_to_string("/sys/class/block/vda/dev")?;
    let (major, minor) = number.trim().split_once(':').context("a device's number")?;
    let read_it = format!(
        "busybox mknod /tmp/disk b {major} {minor} && dd if=/tmp/disk of=/dev/null bs=512 count=1"
    );
    let given = |rights: &str| {
        json!({ "Devices": [{
            "PathOnHost": "/dev/vda", "PathInContainer": "/dev/given", "CgroupPermissions": rights,
        }] })
    };
    #[rustfmt::skip]
    let table = [
        // Docker's default capabilities have CAP_MKNOD, so only the rules are in the way.
        (read_it.as_str(),                                json!({}),                    Some("Operation not permitted")),
        (read_it.as_str(),                                json!({ "Privileged": true }), None),
        ("dd if=/dev/given of=/dev/null bs=512 count=1",  given("r"),                   None),
        (": >>/dev/given",                                given("r"),                   Some("Operation not permitted")),
        (": >>/dev/given",                                given("rw"),                  None),
        ("echo x >/dev/null; dd if=/dev/urandom of=/dev/zero bs=1 count=1", json!({}),  None),
        (read_it.as_str(), json!({ "DeviceCgroupRules": [format!("b {major}:{minor} r")] }), None),
    ];
    for (script, host_config, refusal) in table {
        let container = engine.run(script, &host_config)?;
        let code = container.wait()?;
        let output = container.output()?;
        ensure!((code == 0) == refusal.is_none(), "{script} {host_config}: {code} {output}");
        ensure!(output.contains(refusal.unwrap_or_default()), "{script} {host_config}: {output}");
    }
    Ok(())
}

fn exec(engine: &Engine) -> Result<()> {
    let container = engine.run("sleep 1000", &json!({ "PidsLimit": 20 }))?;
    let cgroup = container.cgroup()?;
    let exec = container.exec(&["sleep", "1000"])?;
    let pid = exec["Pid"].as_u64().filter(|pid| *pid > 0).context("an exec that runs")?;
    ensure!(cgroup_of(pid)? == cgroup, "{} is not {}", cgroup_of(pid)?.display(), cgroup.display());
    let inside = read(&cgroup, "pids.current")?;
    ensure!(inside == "2", "{inside} processes in the group");
    Ok(())
}

fn namespace(engine: &Engine) -> Result<()> {
    let script =
        "cat /proc/self/cgroup; cat /sys/fs/cgroup/pids.max; echo 9 >/sys/fs/cgroup/pids.max";
    let container = engine.run(script, &json!({ "PidsLimit": 33 }))?;
    ensure!(container.wait()? != 0, "it could change its own limit");
    let output = container.output()?;
    let lines: Vec<&str> = output.lines().take(2).collect();
    ensure!(lines == ["0::/", "33"], "{output}");
    ensure!(output.contains("Read-only file system"), "{output}");
    Ok(())
}

fn statistics(engine: &Engine) -> Result<()> {
    let container = engine.run("sleep 1000", &json!({ "Memory": 64 * MIB, "PidsLimit": 12 }))?;
    let found = engine.api().get(&container.path("/stats?stream=0&one-shot=1"))?;
    ensure!(found["memory_stats"]["limit"] == 64 * MIB, "memory: {}", found["memory_stats"]);
    let usage = found["memory_stats"]["usage"].as_u64().unwrap_or(0);
    ensure!((1..64 * MIB).contains(&usage), "memory: {}", found["memory_stats"]);
    let processes = json!({ "current": 1, "limit": 12 });
    ensure!(found["pids_stats"] == processes, "processes: {}", found["pids_stats"]);
    let time = found["cpu_stats"]["cpu_usage"]["total_usage"].as_u64().unwrap_or(0);
    ensure!(time > 0, "processors: {}", found["cpu_stats"]);
    Ok(())
}

fn removal(engine: &Engine) -> Result<()> {
    let container = engine.run("sleep 1000", &json!({}))?;
    let cgroup = container.cgroup()?;
    ensure!(cgroup.is_dir(), "{} is not there", cgroup.display());
    container.remove()?;
    eventually("the group is gone", || Ok(!cgroup.is_dir()))
}

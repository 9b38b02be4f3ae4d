//! Looking after the storage: checks, repairs, backups, each by berth's command line.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use super::cases::{SLEEPER, STATE};
use super::lab::{self, expect, put, wait_until};
use crate::daemon::BerthDaemon;

pub(super) fn checked() -> Result<()> {
    let daemon = lab::start("check", &[])?;
    expect(&daemon, &SLEEPER)?;
    let healthy = lab::berth(&daemon, &["storage", "check", "--deep"])?;
    let line = "1 image layer and 1 container checked, ";
    ensure!(healthy.code == 0 && healthy.stdout.contains(line), "{healthy:?}");
    ensure!(healthy.stdout.ends_with("no problems"), "{healthy:?}");
    let format = "{{(index .GraphDriver.Data \"UpperDir\")}}";
    let upper = expect(&daemon, &["image", "inspect", "--format", format, "box"])?;
    std::fs::remove_file(Path::new(&upper).join("bin/busybox"))?;
    let damaged = lab::berth(&daemon, &["storage", "check", "--format", "json"])?;
    let lines: Vec<serde_json::Value> =
        damaged.stdout.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let [found, sums] = lines.as_slice() else { anyhow::bail!("{damaged:?}") };
    let problem = found["Finding"]["Problem"].as_str().unwrap_or_default();
    ensure!(damaged.code == 1 && problem.starts_with("it has 0 bytes, and "), "{damaged:?}");
    ensure!(sums["Checked"]["Findings"] == 1, "{damaged:?}");
    expect(&daemon, &["rm", "-f", "sleeper"]).map(drop)
}

/// The directory of an image's upper layer.
fn upper(daemon: &BerthDaemon, image: &str) -> Result<PathBuf> {
    let format = "{{(index .GraphDriver.Data \"UpperDir\")}}";
    Ok(expect(daemon, &["image", "inspect", "--format", format, image])?.into())
}

fn objects(output: &lab::Output) -> Result<Vec<serde_json::Value>> {
    Ok(output.stdout.lines().map(serde_json::from_str).collect::<Result<_, _>>()?)
}

pub(super) fn repaired() -> Result<()> {
    let mut daemon = lab::start("repair", &[])?;
    let archive = daemon.exec_root().join("box.tar").display().to_string();
    expect(&daemon, &["save", "-o", &archive, "box"])?;
    expect(&daemon, &SLEEPER)?;
    let healthy = lab::berth(&daemon, &["storage", "repair"])?;
    ensure!(healthy.code == 0 && healthy.stdout.ends_with("no problems"), "{healthy:?}");

    // Nothing else has the layer: it is said who needs it, and a load of the same image mends it.
    let damaged = upper(&daemon, "box")?.join("bin/busybox");
    put(&damaged, "broken")?;
    let planned = lab::berth(&daemon, &["storage", "repair", "--deep", "--dry-run"])?;
    ensure!(planned.code == 1, "{planned:?}");
    let left = lab::berth(&daemon, &["storage", "repair", "--deep", "--format", "json"])?;
    let found = objects(&left)?;
    let repair = &found[0]["Repair"];
    ensure!(left.code == 1 && repair["Outcome"] == "needed", "{left:?}");
    ensure!(repair["Images"][0]["Names"][0] == "box:latest", "{left:?}");
    ensure!(repair["Containers"][0] == "sleeper", "{left:?}");
    ensure!(found[1]["Repaired"]["Left"] == 1, "{left:?}");
    let info = expect(&daemon, &["info", "--format", "{{json .Warnings}}"])?;
    ensure!(info.contains("1 problem was found in the storage"), "{info}");
    expect(&daemon, &["load", "-i", &archive])?;
    let mended = lab::berth(&daemon, &["storage", "repair", "--deep"])?;
    ensure!(mended.code == 0 && mended.stdout.ends_with("no problems"), "{mended:?}");
    let info = expect(&daemon, &["info", "--format", "{{json .Warnings}}"])?;
    ensure!(!info.contains("found in the storage"), "{info}");
    ensure!(std::fs::read(upper(&daemon, "box")?.join("bin/busybox"))?.len() > 100, "still broken");
    // The damaged file is kept.
    let lost = daemon.data_root().join("lost+found");
    ensure!(std::fs::read_dir(&lost)?.count() > 0, "nothing was set aside");

    // What a start finds is said.
    let layer = upper(&daemon, "box")?;
    let layer = layer.parent().context("a layer's directory")?;
    daemon.stop()?;
    std::fs::rename(layer, daemon.exec_root().join("away"))?;
    daemon.restart()?;
    wait_until("the start's check warns", || {
        let info = expect(&daemon, &["info", "--format", "{{json .Warnings}}"])?;
        Ok(info.contains("found in the storage"))
    })?;
    std::fs::rename(daemon.exec_root().join("away"), layer)?;
    let mended = lab::berth(&daemon, &["storage", "repair"])?;
    ensure!(mended.code == 0, "{mended:?}");
    expect(&daemon, &["rm", "-f", "sleeper"]).map(drop)
}

pub(super) fn shown() -> Result<()> {
    let daemon = lab::start("info", &[])?;
    expect(&daemon, &["volume", "create", "data"])?;
    let format = ["storage", "info", "--format", "json"];
    wait_until("it is measured", || {
        let shown = lab::berth(&daemon, &format)?;
        Ok(!objects(&shown)?[0]["Measured"].is_null())
    })?;
    let info = objects(&lab::berth(&daemon, &format)?)?.remove(0);
    let size: u64 =
        expect(&daemon, &["image", "inspect", "--format", "{{.Size}}", "box"])?.parse()?;
    ensure!(info["Driver"] == "overlay2" && info["Images"]["Size"] == size, "{info}");
    let allocated = info["Images"]["Allocated"].as_u64().unwrap_or_default();
    ensure!(allocated >= size, "{info}");
    ensure!(info["Volumes"]["Count"] == 1 && info["Hidden"] == serde_json::json!([]), "{info}");
    ensure!(
        info["FileSystem"]["BytesTotal"].as_u64() > info["FileSystem"]["BytesFree"].as_u64(),
        "{info}"
    );
    let table = lab::berth(&daemon, &["storage", "info"])?;
    ensure!(table.code == 0 && table.stdout.starts_with("Storage Driver: overlay2"), "{table:?}");
    ensure!(table.stdout.contains("ALLOCATED"), "{table:?}");
    Ok(())
}

/// A container that goes on writing pairs of files, the second after the first.
const WRITER: &str = "n=0; while true; do n=$((n+1)); echo $n > /a; echo $n > /b; \
                      echo $n > /data/a; echo $n > /data/b; done";

pub(super) fn backed_up() -> Result<()> {
    let mut daemon = lab::start("backup", &[])?;
    let run = ["run", "-d", "--name=writer", "--network=none", "-v", "data:/data", "box"];
    let shell = ["/bin/busybox", "sh", "-c", WRITER];
    expect(&daemon, &[&run[..], &shell[..]].concat())?;
    let written = daemon.data_root().join("volumes/data/_data/b");
    wait_until("it writes", || Ok(std::fs::read(&written).is_ok_and(|text| !text.is_empty())))?;
    let before = expect(&daemon, &["image", "inspect", "--format", "{{.Id}} {{.Size}}", "box"])?;
    let dest = daemon.data_root().with_extension("backup");
    let to = dest.display().to_string();
    let _gone = lab::Gone(dest.clone());
    let made = lab::berth(&daemon, &["storage", "backup", "--format", "json", &to])?;
    ensure!(made.code == 0 && objects(&made)?[0]["Backup"]["Containers"] == 1, "{made:?}");
    let state = ["inspect", "--format", "{{.State.Status}}", "writer"];
    ensure!(expect(&daemon, &state)? == "running", "it is not thawed");
    let again = lab::berth(&daemon, &["storage", "backup", &to])?;
    ensure!(again.code == 1 && again.stderr.contains("is not empty"), "{again:?}");
    expect(&daemon, &["rm", "-f", "writer"])?;
    daemon.stop()?;

    let mut other = lab::prepare("restored")?;
    let root = other.data_root().display().to_string();
    let restored = lab::berth(&daemon, &["storage", "restore", "--data-root", &root, &to])?;
    ensure!(restored.code == 0 && restored.stdout.contains("1 container of "), "{restored:?}");
    other.restart()?;
    let checked = lab::berth(&other, &["storage", "check", "--deep"])?;
    ensure!(checked.code == 0 && checked.stdout.ends_with("no problems"), "{checked:?}");
    let after = expect(&other, &["image", "inspect", "--format", "{{.Id}} {{.Size}}", "box"])?;
    ensure!(after == before, "{after}, and it was {before}");
    let state = ["inspect", "--format", "{{.State.Status}} {{.State.ExitCode}}", "writer"];
    ensure!(expect(&other, &state)? == "exited 255", "{}", expect(&other, &state)?);
    // Frozen while each was copied: what was written first is there, and is never behind.
    let diff = "{{(index .GraphDriver.Data \"UpperDir\")}}";
    let upper = PathBuf::from(expect(&other, &["inspect", "--format", diff, "writer"])?);
    for dir in [upper, other.data_root().join("volumes/data/_data")] {
        let number = |name: &str| -> Result<u64> {
            let text = std::fs::read_to_string(dir.join(name))?;
            Ok(text.trim().parse().unwrap_or(u64::MAX))
        };
        let (first, second) = (number("a")?, number("b")?);
        // A file may have been caught between being emptied and being written.
        let is_whole = |number: u64| number != u64::MAX;
        let ahead = first.checked_sub(second);
        let in_order = !is_whole(first) || !is_whole(second) || ahead.is_some_and(|by| by <= 1);
        ensure!(in_order, "{}: {first} and {second}", dir.display());
    }
    expect(&other, &["start", "writer"])?;
    expect(&other, &["rm", "-f", "-v", "writer"])?;
    expect(&other, &["run", "--rm", "--network=none", "box", "/bin/busybox", "true"]).map(drop)
}

pub(super) fn backup_killed() -> Result<()> {
    let mut daemon = lab::start("backup-kill", &[])?;
    expect(&daemon, &SLEEPER)?;
    let steps = daemon.exec_root().join("steps");
    for step in ["backup.begun", "backup.snapshot", "backup.copied", "backup.synced"] {
        let dest = daemon.data_root().with_extension(step);
        let partial = PathBuf::from(format!("{}.partial", dest.display()));
        let (_gone, _gone_too) = (lab::Gone(dest.clone()), lab::Gone(partial.clone()));
        lab::killed_at(
            &mut daemon,
            &steps,
            step,
            &["storage", "backup", &dest.display().to_string()],
        )?;
        ensure!(!dest.try_exists()?, "{step}: it looks complete");
        ensure!(partial.try_exists()?, "{step}: it was not there yet");
        let root = daemon.exec_root().join("root");
        let restore = ["storage", "restore", "--data-root", &root.display().to_string()];
        if step != "backup.synced" {
            let refused =
                lab::berth(&daemon, &[&restore[..], &[&partial.display().to_string()]].concat())?;
            ensure!(
                refused.code == 1 && refused.stderr.contains("not a complete backup"),
                "{refused:?}"
            );
        }
        ensure!(expect(&daemon, &STATE)? == "running 0", "{step}: {}", expect(&daemon, &STATE)?);
        let left = lab::berth(&daemon, &["storage", "backup", &dest.display().to_string()])?;
        ensure!(left.code == 1 && left.stderr.contains("did not finish"), "{left:?}");
        let checked = lab::berth(&daemon, &["storage", "check", "--deep"])?;
        ensure!(checked.code == 0, "{step}: {checked:?}");
    }
    // What the killed backups held is held no more.
    expect(&daemon, &["rm", "-f", "sleeper"])?;
    expect(&daemon, &["rmi", "box"])?;
    let layers = daemon.data_root().join("layers");
    wait_until("the layer is gone", || {
        let names: std::io::Result<Vec<_>> =
            std::fs::read_dir(&layers)?.map(|entry| Ok(entry?.file_name())).collect();
        Ok(names?.iter().all(|name| name == crate::kill::disk::RESERVE))
    })
}

pub(super) fn repair_killed() -> Result<()> {
    let mut daemon = lab::start("repair-kill", &[])?;
    let archive = daemon.exec_root().join("box.tar").display().to_string();
    expect(&daemon, &["save", "-o", &archive, "box"])?;
    let steps = daemon.exec_root().join("steps");
    for step in [
        "repair.staged",
        "repair.before-replace",
        "repair.replaced",
        "repair.set-aside",
        "repair.before-record",
    ] {
        put(&upper(&daemon, "box")?.join("bin/busybox"), &format!("broken at {step}"))?;
        let noted = lab::berth(&daemon, &["storage", "repair", "--deep"])?;
        ensure!(noted.code == 1, "{step}: {noted:?}");
        lab::killed_at_docker(&mut daemon, &steps, step, &["load", "-i", &archive])?;
        let kept = "grep -rl \"broken at $STEP\" \"$ROOT\"";
        let root = daemon.data_root().display().to_string();
        let found = lab::shell(kept, &[("STEP", step), ("ROOT", &root)])?;
        ensure!(!found.stdout.is_empty(), "{step}: the damaged content is gone");
        expect(&daemon, &["load", "-i", &archive])?;
        let repaired = lab::berth(&daemon, &["storage", "repair", "--deep"])?;
        ensure!(repaired.code == 0, "{step}: {repaired:?}");
        let checked = lab::berth(&daemon, &["storage", "check", "--deep"])?;
        ensure!(checked.code == 0, "{step}: {checked:?}");
        expect(&daemon, &["run", "--rm", "--network=none", "box", "/bin/busybox", "true"])?;
    }
    Ok(())
}

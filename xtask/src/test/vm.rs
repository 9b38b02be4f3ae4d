//! The tier `vm`: its tests run in one virtual machine, one program after the other.
//!
//! The host leaves a plan in a directory that it shares with the machine, the machine writes the
//! counts beside it after each program. What it has not come to is thereby known.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::total::Total;
use super::{Binary, report, run_binary, run_reporter};
use crate::interrupt::Interrupt;
use crate::vm::{self, Disk, POWER_CUT, REBOOT, Setup};
use crate::{Ended, run, ui};

const LIMIT: Duration = Duration::from_mins(30);
const SOAK_LIMIT: Duration = Duration::from_mins(90);
const DISKS: usize = 3;
const DISK_BYTES: u64 = 2 << 30;
const PLAN: &str = "plan.json";
const COUNTS: &str = "counts.json";
const SKIPS: &str = "skips";
/// What was counted before a reboot.
const BEFORE: &str = "before.json";
const CONFORMANCE: &str = "conformance vm";
/// It reboots the machine.
const GUIDE: &str = "conformance guide";
const BOOTS: u32 = 4;

/// How many of their cases tests take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cases {
    /// Those that there is time for at each change.
    Usual,
    /// All of them.
    All,
}

/// Runs these tests, `conformance vm` and `conformance guide` in a machine, with this kernel if one is given.
pub(super) fn run_tier(
    binaries: &[(Binary, Vec<String>)],
    conformance: &Path,
    kernel: Option<&Path>,
    cases: Cases,
    total: &mut Total,
) -> Result<()> {
    let begun = Instant::now();
    ui::step("tier vm");
    let dir = run::target().join(format!("vm-tier-{}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    // A machine that hangs or breaks has counted what it came to.
    let done = boot(&dir, binaries, conformance, kernel, cases);
    let counts = std::fs::read(dir.join(COUNTS)).unwrap_or_default();
    if let Ok(counts) = serde_json::from_slice(&counts) {
        take_counts(&counts, total);
    }
    let skips = std::fs::read_to_string(dir.join(SKIPS)).unwrap_or_default();
    total.skipped.extend(skips.lines().map(str::to_owned));
    std::fs::remove_dir_all(&dir)?;
    if let Err(error) = done {
        ui::error(&format!("{error:#}"));
        total.failed.push(format!("tier vm: {error:#}"));
    }
    ui::line(&format!("tier vm took {:.1} s", begun.elapsed().as_secs_f32()));
    Ok(())
}

fn boot(
    dir: &Path,
    binaries: &[(Binary, Vec<String>)],
    conformance: &Path,
    kernel: Option<&Path>,
    cases: Cases,
) -> Result<()> {
    run::write(&dir.join(PLAN), plan(binaries, conformance).to_string().as_bytes())?;
    let own = std::env::current_exe().context("the path of this program")?;
    let words = [own.as_path(), "vm".as_ref(), "tests".as_ref(), dir];
    let (limit, env) = match cases {
        Cases::Usual => (LIMIT, Vec::new()),
        Cases::All => (SOAK_LIMIT, vec![("BERTH_SOAK".to_owned(), "1".to_owned())]),
    };
    let setup = Setup {
        command: words.iter().map(|word| word.display().to_string()).collect(),
        disks: (0..DISKS).map(|_| Disk::Empty { bytes: DISK_BYTES }).collect(),
        limit,
        boots: BOOTS,
        env,
        kernel: kernel.map(Path::to_owned),
        share: Some(dir.to_owned()),
        console: Some(run::target().join("vm-console.log")),
        ..Setup::new()?
    };
    let code = vm::start(&setup, &Interrupt::watch()?)?;
    ensure!(code == 0, "the machine ended with code {code}");
    Ok(())
}

/// Carries out the plan that lies in `args`, inside the machine; in a later boot, the rest of it.
pub(crate) fn inside(args: &[String]) -> Result<()> {
    let dir = Path::new(args.first().context("vm tests takes a directory")?);
    let plan: Value = serde_json::from_slice(&std::fs::read(dir.join(PLAN))?)?;
    let (binaries, conformance) = read_plan(&plan);
    let mut total = Total::default();
    if std::env::var("BERTH_VM_BOOT").is_ok_and(|boot| boot != "1") {
        take_counts(&serde_json::from_slice(&std::fs::read(dir.join(BEFORE))?)?, &mut total);
    } else {
        first_boot(dir, &binaries, &conformance, &mut total)?;
    }
    write_counts(dir, COUNTS, &total, [GUIDE.to_owned()])?;
    let failed = total.failed.len();
    let status = report(GUIDE, Command::new(&conformance).arg("guide"), &mut total)?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    if let Some(code @ (REBOOT | POWER_CUT)) = code {
        write_counts(dir, BEFORE, &total, [])?;
        return Err(Ended(code).into());
    }
    if !status.success() && total.failed.len() == failed {
        total.failed.push(format!("{GUIDE}: {status}"));
    }
    write_counts(dir, COUNTS, &total, [])
}

fn first_boot(
    dir: &Path,
    binaries: &[(Binary, Vec<String>)],
    conformance: &Path,
    total: &mut Total,
) -> Result<()> {
    let left = |at: usize| {
        let names = binaries[at..].iter().map(|(binary, _)| binary.name.as_str());
        names.chain([CONFORMANCE, GUIDE]).map(str::to_owned)
    };
    for (at, (binary, names)) in binaries.iter().enumerate() {
        write_counts(dir, COUNTS, total, left(at))?;
        run_binary(binary, names, &dir.join(SKIPS), total)?;
    }
    write_counts(dir, COUNTS, total, left(binaries.len()))?;
    run_reporter(CONFORMANCE, Command::new(conformance).arg("vm"), total)
}

/// What was counted so far; what is left counts as failed until it was run.
fn write_counts(
    dir: &Path,
    file: &str,
    total: &Total,
    left: impl IntoIterator<Item = String>,
) -> Result<()> {
    let mut failed = total.failed.clone();
    failed.extend(left.into_iter().map(|name| format!("{name}: the machine ended before")));
    let counts = json!({ "passed": total.passed, "failed": failed, "skipped": total.skipped });
    let new = dir.join("new");
    run::write(&new, counts.to_string().as_bytes())?;
    Ok(std::fs::rename(new, dir.join(file))?)
}

fn take_counts(counts: &Value, total: &mut Total) {
    total.passed += counts["passed"].as_u64().unwrap_or(0);
    total.failed.extend(strings(&counts["failed"]));
    total.skipped.extend(strings(&counts["skipped"]));
}

fn plan(binaries: &[(Binary, Vec<String>)], conformance: &Path) -> Value {
    let binaries: Vec<Value> = binaries
        .iter()
        .map(|(binary, names)| {
            json!({
                "path": binary.path, "dir": binary.package_dir, "name": binary.name,
                "is_integration": binary.is_integration, "tests": names,
            })
        })
        .collect();
    json!({ "binaries": binaries, "conformance": conformance })
}

fn read_plan(plan: &Value) -> (Vec<(Binary, Vec<String>)>, PathBuf) {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let binaries = plan["binaries"].as_array().into_iter().flatten().map(|entry| {
        let binary = Binary {
            path: text(&entry["path"]).into(),
            package_dir: text(&entry["dir"]).into(),
            name: text(&entry["name"]),
            is_integration: entry["is_integration"] == true,
        };
        (binary, strings(&entry["tests"]))
    });
    (binaries.collect(), text(&plan["conformance"]).into())
}

fn strings(value: &Value) -> Vec<String> {
    let words = value.as_array().into_iter().flatten();
    words.filter_map(|word| word.as_str().map(str::to_owned)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_read_as_it_was_written() {
        let binary = Binary {
            path: "/target/x".into(),
            package_dir: "/crates/x".into(),
            name: "x".to_owned(),
            is_integration: true,
        };
        let binaries = vec![(binary, vec!["a::vm_b".to_owned()])];
        let program = Path::new("/target/conformance");
        let read = read_plan(&plan(&binaries, program));
        assert_eq!(read, (binaries, program.to_owned()));
    }

    #[test]
    fn what_was_not_reached_counts_as_failed() {
        let dir = std::env::temp_dir().join(format!("berth-counts-{}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        let total = Total { passed: 3, failed: vec!["x y".to_owned()], skipped: Vec::new() };
        write_counts(&dir, COUNTS, &total, ["z".to_owned()]).unwrap();
        let counts = serde_json::from_slice(&std::fs::read(dir.join(COUNTS)).unwrap()).unwrap();
        let mut read = Total::default();
        take_counts(&counts, &mut read);
        assert_eq!((read.passed, read.failed.len()), (3, 2));
        assert_eq!(read.failed[1], "z: the machine ended before");
        std::fs::remove_dir_all(dir).unwrap();
    }
}

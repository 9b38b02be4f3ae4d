//! `cargo xtask test`: every test that this machine can run, and by name what it cannot.
//!
//! A test's tier is in its name: `root_…` needs root and mounts, `fault_…` breaks things on purpose
//! (and needs root too), `vm_…` runs in a virtual machine, anything else is `unit` inside a crate and `host` in `tests/it`. `conformance` drives the
//! built binaries with the docker CLI, `fuzz` feeds broken archives and Dockerfiles to their parsers.

mod total;
mod vm;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::vm::cuts::{Points, Records};
use crate::{host, run, ui};
use total::Total;
pub(crate) use vm::inside;

const TIERS: &[&str] = &["unit", "host", "root", "fault", "conformance", "fuzz", "vm"];
/// What is fuzzed.
pub(crate) const FUZZ_TARGETS: &[&str] = &["tar", "dockerfile", "reference", "manifest"];
/// How long the fuzzer runs for each among the tests.
const FUZZ_SECONDS: &str = "10";

struct Options {
    only: Option<String>,
    /// The kernel of the tier `vm`, instead of Debian's.
    kernel: Option<PathBuf>,
    allowed_skips: Option<PathBuf>,
}

/// Runs the tiers, prints one total, and fails when a test failed or a skip is not allowed.
pub(crate) fn run(args: &[String]) -> Result<()> {
    let options = parse(args)?;
    host::ensure(host::BUILD)?;
    let wants = |tier: &str| options.only.as_deref().is_none_or(|only| only == tier);
    if host::is_root() {
        host::ensure(host::TEST)?;
    }
    let mut total = Total::default();
    let skip_log = run::target().join("skipped-tests");
    if let Err(error) = std::fs::remove_file(&skip_log)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        return Err(error.into());
    }
    let mut of_vm = Vec::new();
    if ["unit", "host", "root", "fault", "vm"].iter().any(|tier| wants(tier)) {
        for (tier, binaries) in in_tiers(binaries()?)? {
            if tier == "vm" {
                of_vm = binaries;
            } else if wants(tier) {
                run_tier(tier, &binaries, &skip_log, &mut total)?;
            }
        }
    }
    if wants("conformance") || wants("fault") {
        run_conformance(&wants, &mut total)?;
    }
    if wants("fuzz") {
        run_fuzz(&mut total)?;
    }
    if wants("vm") {
        run_vm(&of_vm, options.kernel.as_deref(), &mut total)?;
    }
    if let Ok(text) = std::fs::read_to_string(&skip_log) {
        total.skipped.extend(text.lines().map(str::to_owned));
    }
    total.finish(options.allowed_skips.as_deref())
}

fn parse(args: &[String]) -> Result<Options> {
    let mut options = Options { only: None, kernel: None, allowed_skips: None };
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let mut value = || args.next().cloned().with_context(|| format!("{arg} needs a value"));
        match arg.as_str() {
            "--only" => options.only = Some(value()?),
            "--kernel" => {
                let file = PathBuf::from(value()?);
                let found = file.canonicalize();
                options.kernel =
                    Some(found.with_context(|| format!("cannot find {}", file.display()))?);
            }
            "--allowed-skips" => options.allowed_skips = Some(value()?.into()),
            other => bail!(
                "test takes --only TIER, --kernel FILE and --allowed-skips FILE, not {other:?}"
            ),
        }
    }
    if let Some(only) = &options.only
        && !TIERS.contains(&only.as_str())
    {
        bail!("there is no tier {only:?}; there are {}", TIERS.join(", "));
    }
    Ok(options)
}

/// A built test program.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Binary {
    path: PathBuf,
    package_dir: PathBuf,
    name: String,
    is_integration: bool,
}

fn binaries() -> Result<Vec<Binary>> {
    ui::step("building the tests");
    let args = ["test", "--workspace", "--no-run", "--message-format", "json-render-diagnostics"];
    let mut command = run::cargo();
    command.args(args).stderr(std::process::Stdio::inherit());
    let output = command.output().context("cargo test --no-run")?;
    if !output.status.success() {
        bail!("the tests do not build");
    }
    let mut binaries = Vec::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let Ok(message) = serde_json::from_str::<Value>(line) else { continue };
        let Some(path) = message["executable"].as_str() else { continue };
        if message["profile"]["test"] != true {
            continue;
        }
        let manifest = PathBuf::from(message["manifest_path"].as_str().unwrap_or_default());
        let package_dir = manifest.parent().map(PathBuf::from).unwrap_or_default();
        let package = package_dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let kinds = message["target"]["kind"].as_array().cloned().unwrap_or_default();
        binaries.push(Binary {
            path: path.into(),
            package_dir,
            name: package,
            is_integration: kinds.iter().any(|kind| kind == "test"),
        });
    }
    binaries.sort_by(|a, b| (&a.name, a.is_integration).cmp(&(&b.name, b.is_integration)));
    Ok(binaries)
}

/// Each program with its tests of one tier.
type Selected = Vec<(Binary, Vec<String>)>;
type Tiers = BTreeMap<&'static str, Selected>;
type InOrder = Vec<(&'static str, Selected)>;

fn in_tiers(binaries: Vec<Binary>) -> Result<InOrder> {
    let mut tiers = Tiers::new();
    for binary in binaries {
        let list = Command::new(&binary.path)
            .args(["--list", "--format", "terse"])
            .current_dir(&binary.package_dir)
            .output()?;
        let mut by_tier: BTreeMap<&'static str, Vec<String>> = BTreeMap::new();
        for line in String::from_utf8_lossy(&list.stdout).lines() {
            let Some(name) = line.strip_suffix(": test") else { continue };
            by_tier.entry(tier_of(name, binary.is_integration)).or_default().push(name.to_owned());
        }
        for (tier, names) in by_tier {
            tiers.entry(tier).or_default().push((binary.clone(), names));
        }
    }
    let order = |tier: &str| TIERS.iter().position(|known| *known == tier);
    let mut tiers: Vec<_> = tiers.into_iter().collect();
    tiers.sort_by_key(|(tier, _)| order(tier));
    Ok(tiers)
}

fn tier_of(test: &str, is_integration: bool) -> &'static str {
    let name = test.rsplit("::").next().unwrap_or(test);
    if name.starts_with("root_") {
        "root"
    } else if name.starts_with("fault_") {
        "fault"
    } else if name.starts_with("vm_") {
        "vm"
    } else if is_integration {
        "host"
    } else {
        "unit"
    }
}

fn run_tier(
    tier: &str,
    binaries: &[(Binary, Vec<String>)],
    skip_log: &Path,
    total: &mut Total,
) -> Result<()> {
    if matches!(tier, "root" | "fault") && !host::is_root() {
        total.skipped.push(format!("tier {tier}: needs root"));
        return Ok(());
    }
    ui::step(&format!("tier {tier}"));
    for (binary, names) in binaries {
        run_binary(binary, names, skip_log, total)?;
    }
    Ok(())
}

/// Runs these tests of a program, and counts what came of them.
fn run_binary(binary: &Binary, names: &[String], skip_log: &Path, total: &mut Total) -> Result<()> {
    let begun = Instant::now();
    let output = Command::new(&binary.path)
        .arg("--exact")
        .args(names)
        .current_dir(&binary.package_dir)
        .env("CARGO_MANIFEST_DIR", &binary.package_dir)
        .env("BERTH_SKIP_LOG", skip_log)
        .output()
        .with_context(|| format!("cannot run {}", binary.path.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let passed = text.lines().filter(|line| is_result(line, "ok")).count() as u64;
    let seconds = begun.elapsed().as_secs_f32();
    ui::line(&format!("{:<18} {passed:>4} of {:>4} in {seconds:>5.1} s", binary.name, names.len()));
    total.passed += passed;
    let failed = total.failed.len();
    for line in text.lines().filter(|line| is_result(line, "FAILED")) {
        let name = line.trim_start_matches("test ").trim_end_matches(" ... FAILED");
        total.failed.push(format!("{} {name}", binary.name));
    }
    if !output.status.success() {
        ui::line(&text);
        ui::line(&String::from_utf8_lossy(&output.stderr));
        if total.failed.len() == failed {
            total.failed.push(format!("{}: {}", binary.name, output.status));
        }
    }
    Ok(())
}

fn is_result(line: &str, result: &str) -> bool {
    line.starts_with("test ") && line.trim_end().ends_with(&format!("... {result}"))
}

fn run_reporter(name: &str, command: &mut Command, total: &mut Total) -> Result<()> {
    let failed = total.failed.len();
    let status = report(name, command, total)?;
    if !status.success() && total.failed.len() == failed {
        total.failed.push(format!("{name}: {status}"));
    }
    Ok(())
}

/// Counts what a program says of its comparisons, and leaves its end to the caller.
fn report(name: &str, command: &mut Command, total: &mut Total) -> Result<ExitStatus> {
    let output = command
        .stdin(std::process::Stdio::null())
        .stderr(std::process::Stdio::inherit())
        .output()
        .with_context(|| format!("cannot run {name}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    ui::line(text.trim_end());
    total.take_report(&text);
    Ok(output.status)
}

fn run_conformance(wants: &dyn Fn(&str) -> bool, total: &mut Total) -> Result<()> {
    if !host::is_root() {
        total.skipped.push("tier conformance: needs root".to_owned());
        return Ok(());
    }
    let program = build_conformance()?;
    if wants("fault") {
        ui::step("tier fault: the daemon killed at random points");
        run_reporter("conformance kill", Command::new(&program).arg("kill"), total)?;
    }
    if wants("conformance") {
        ui::step("tier conformance: the docker CLI");
        run_reporter("conformance docker", Command::new(&program).arg("docker"), total)?;
        ui::step("tier conformance: the daemon as a service");
        run_reporter("conformance service", Command::new(&program).arg("service"), total)?;
    }
    Ok(())
}

/// The last tier: from here on Ctrl-C ends the machine, and then this program.
///
/// On another kernel than Debian's only the tests run: what disks keep at power cuts is not a matter of
/// the kernel's configuration.
fn run_vm(
    binaries: &[(Binary, Vec<String>)],
    kernel: Option<&Path>,
    total: &mut Total,
) -> Result<()> {
    let ready = crate::vm::prepare(kernel)
        .and_then(|()| host::ensure(host::VM_TEST))
        .and_then(|()| host::ensure(host::CUTS));
    if let Err(error) = ready {
        let why = format!("{error:#}");
        total.skipped.push(format!("tier vm: {}", why.lines().next().unwrap_or_default()));
        return Ok(());
    }
    let conformance = build_conformance()?;
    vm::run_tier(binaries, &conformance, kernel, vm::Cases::Usual, total)?;
    if kernel.is_some() {
        return Ok(());
    }
    run_cuts(&conformance, total)
}

/// The power is cut at points of a recorded disk; `BERTH_CUT_POINTS` says at how many of each.
fn run_cuts(conformance: &Path, total: &mut Total) -> Result<()> {
    let begun = Instant::now();
    ui::step("tier vm: the power cut at points of recorded disks");
    let records = match Records::make_all(conformance) {
        Ok(records) => records,
        Err(error) => {
            ui::error(&format!("{error:#}"));
            total.failed.push(format!("conformance cuts: {error:#}"));
            return Ok(());
        }
    };
    let points = match std::env::var("BERTH_CUT_POINTS") {
        Ok(points) => Points::of_each(points.parse().context("BERTH_CUT_POINTS")?),
        Err(_) => Points::default(),
    };
    let failed = total.failed.len();
    for mut check in records.checks(conformance, points, None)? {
        run_reporter("conformance cuts", &mut check, total)?;
    }
    if total.failed.len() > failed {
        records.keep();
    }
    ui::line(&format!("the cuts took {:.1} s", begun.elapsed().as_secs_f32()));
    Ok(())
}

/// The tests of the tier `vm` with all of their cases.
pub(crate) fn soak_vm() -> Result<()> {
    host::ensure(host::VM_TEST)?;
    let mut total = Total::default();
    let tiers = in_tiers(binaries()?)?;
    let conformance = build_conformance()?;
    for (_, binaries) in tiers.iter().filter(|(tier, _)| *tier == "vm") {
        vm::run_tier(binaries, &conformance, None, vm::Cases::All, &mut total)?;
    }
    total.finish(None)
}

fn build_conformance() -> Result<PathBuf> {
    ui::step("building the release binaries");
    let built = run::build_release()?;
    run::succeed(run::cargo().args(["build", "--release", "-p", "conformance"]))?;
    Ok(built.join("conformance"))
}

fn run_fuzz(total: &mut Total) -> Result<()> {
    ui::step("tier fuzz");
    run::succeed(run::cargo().args(["build", "--release", "-p", "berth-fuzz"]))?;
    let program = run::target().join("release/berth-fuzz");
    for target in FUZZ_TARGETS {
        let status = Command::new(&program)
            .args([target, "--seconds", FUZZ_SECONDS])
            .current_dir(run::workspace())
            .status()?;
        if status.success() {
            total.passed += 1;
        } else {
            total.failed.push(format!("fuzz {target}"));
        }
    }
    Ok(())
}

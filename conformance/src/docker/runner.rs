//! Runs cases and writes down what they print.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{OnceLock, mpsc};

use anyhow::{Context as _, Result, bail};
use tempfile::TempDir;

use super::archive;
use super::case::Case;
use super::engine::{Engine, output};
use super::normalise::Normaliser;
use crate::registry::{LOCKED, OPEN, Registries};

/// How long a step may take, in seconds.
const STEP: &str = "90";
/// What every case finds in the engine.
pub(super) const BASE_IMAGES: &[&str] = &["busybox:latest", "tiny:1"];

/// Called with each case's transcript, in the order of the cases.
pub(super) type Take<'a> = &'a mut dyn FnMut(&Case, String) -> Result<()>;

/// Cases on one engine.
#[derive(Debug)]
pub(super) struct Runner<'a> {
    engine: &'a Engine,
    jobs: usize,
    assets: TempDir,
    normaliser: Normaliser,
    /// The value of `DOCKER_HOST` for the other engine, while there is one.
    witness: OnceLock<String>,
    /// Where the open registry keeps what it has.
    kept: OnceLock<PathBuf>,
}

/// Where a name begins, behind a registry's perhaps.
const BEGINS: &str = r"\(^\|/\)";

impl<'a> Runner<'a> {
    /// Makes the archives and loads the base images.
    pub(super) fn new(engine: &'a Engine, jobs: usize) -> Result<Self> {
        let assets = TempDir::with_prefix("conformance-")?;
        let known = archive::write_all(assets.path())?;
        let mut paths = engine.paths()?;
        paths.push((assets.path().display().to_string(), "<assets>".to_owned()));
        for name in ["busybox.tar", "tiny.tar"] {
            output(engine.docker().arg("load").arg("-qi").arg(assets.path().join(name)))?;
        }
        let normaliser = Normaliser::new(paths, known);
        Ok(Self {
            engine,
            jobs: jobs.max(1),
            assets,
            normaliser,
            witness: OnceLock::new(),
            kept: OnceLock::new(),
        })
    }

    /// How many different Dockerfiles the cases have built, or tried to.
    pub(super) fn dockerfiles(&self) -> usize {
        let path = self.assets.path().join("dockerfiles");
        let text = std::fs::read_to_string(path).unwrap_or_default();
        text.lines().collect::<std::collections::BTreeSet<_>>().len()
    }

    /// Runs the cases, those that look at the whole engine first and one by one.
    pub(super) fn run(&self, cases: &[&Case], take: Take<'_>) -> Result<()> {
        let namespace = self.engine.namespace_flag();
        let registries = cases
            .iter()
            .any(|case| case.registry)
            .then(|| Registries::start(namespace.as_deref()))
            .transpose()?;
        if let Some(registries) = &registries {
            self.kept.get_or_init(|| registries.open_dir());
        }
        let wanted = cases.iter().any(|case| case.witness);
        let witness = wanted.then(|| Engine::witness(self.engine)).transpose();
        let witness = witness.unwrap_or_else(|error| {
            crate::ui::detail(&format!("no dockerd as a witness: {error:#}"));
            None
        });
        if let Some(witness) = &witness {
            self.witness.get_or_init(|| witness.host());
        }
        let has_witness = witness.is_some();
        let (cases, without): (Vec<&Case>, Vec<_>) =
            cases.iter().copied().partition(|case| has_witness || !case.witness);
        for case in without {
            crate::ui::line(&format!("skipped {}: a dockerd that starts", case.name));
        }
        for case in cases.iter().filter(|case| case.alone) {
            take(case, self.transcript(case)?)?;
        }
        let shared: Vec<_> = cases.iter().filter(|case| !case.alone).collect();
        let next = AtomicUsize::new(0);
        let (send, receive) = mpsc::channel();
        std::thread::scope(|scope| {
            for _ in 0..self.jobs.min(shared.len()) {
                let (send, next, shared) = (send.clone(), &next, &shared);
                scope.spawn(move || {
                    while let Some(case) = shared.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let at = case.name.clone();
                        if send.send((at, self.transcript(case))).is_err() {
                            return;
                        }
                    }
                });
            }
            drop(send);
            let mut done = BTreeMap::new();
            let mut waiting = shared.iter().peekable();
            for (name, transcript) in receive {
                done.insert(name, transcript);
                while let Some(case) = waiting.peek()
                    && let Some(transcript) = done.remove(&case.name)
                {
                    take(case, transcript?)?;
                    waiting.next();
                }
            }
            Ok(())
        })
    }

    fn transcript(&self, case: &Case) -> Result<String> {
        let dir = TempDir::with_prefix("case-")?;
        let mut own = self.normaliser.begin(dir.path());
        let mut text = String::new();
        for step in &case.steps {
            let mut shell = self.shell(case, &step.line);
            let ran = shell.current_dir(dir.path()).output().context("cannot run sh")?;
            let (stdout, stderr) = (lossy(&ran.stdout), lossy(&ran.stderr));
            if !step.compared && ran.status.success() {
                // Its output may name what a later one names too.
                own.apply(&stdout);
                continue;
            }
            text.push_str(if step.compared { "$ " } else { "a preparing step failed: " });
            text.push_str(&step.line.replace('\n', "\n  "));
            text.push('\n');
            for line in own.apply(&stdout).lines() {
                text.push_str(line);
                text.push('\n');
            }
            for line in own.apply(&stderr).lines() {
                text.push_str("! ");
                text.push_str(line);
                text.push('\n');
            }
            if !ran.status.success() {
                let code = ran.status.code().unwrap_or(-1);
                text.extend(["[exit ", &code.to_string(), "]\n"]);
            }
        }
        self.clean(case)?;
        Ok(text)
    }

    fn shell(&self, case: &Case, line: &str) -> Command {
        let mut command = Command::new("timeout");
        let lib = self.assets.path().join("lib.sh");
        let line = format!(". {}\n{line}", lib.display());
        command.args(["-s", "KILL", STEP, "sh", "-c", &line]).stdin(Stdio::null());
        let inherited = ["DOCKER_API_VERSION", "DOCKER_CONTEXT", "DOCKER_DEFAULT_PLATFORM"];
        for name in inherited {
            command.env_remove(name);
        }
        command
            .env("DOCKER_HOST", self.engine.host())
            .env("DOCKER_CONFIG", self.assets.path().join("config"))
            .env("LC_ALL", "C")
            .env("TZ", "UTC")
            .env("TERM", "dumb")
            .env("c", case.prefix())
            .env("netns", self.engine.namespace_flag().unwrap_or_default())
            .env("witness", self.witness.get().map_or("", String::as_str))
            .env("registry", OPEN)
            .env("kept", self.kept.get().map_or(Path::new(""), PathBuf::as_path))
            .env("locked", LOCKED)
            .env("assets", self.assets.path());
        command
    }

    /// Removes what the case has left. A case that is alone leaves nothing but the base images.
    fn clean(&self, case: &Case) -> Result<()> {
        let says = |words: &[&str]| {
            case.steps.iter().any(|step| words.iter().any(|word| step.line.contains(word)))
        };
        // Cases run beside each other, and what another one uses must stay.
        let prefix = case.prefix();
        let mut own = format!("grep '{BEGINS}{}'", if case.alone { "" } else { &prefix });
        if !case.alone && !case.others.is_empty() {
            let others = case.others.join("\\|");
            own.extend([" | grep -v '", BEGINS, "\\(", &others, "\\)'"]);
        }
        let mut script = format!(
            "docker ps -a --format '{{{{.Names}}}}' | {own} | xargs -r docker rm -fv >/dev/null; "
        );
        if case.alone || says(&["volume", "-v ", "--mount"]) {
            let words =
                ["docker volume ls -q | ", &own, " | xargs -r docker volume rm >/dev/null; "];
            script.extend(words);
        }
        if case.alone || says(&["load", "import", "commit", "docker tag", "pull", "build"]) {
            // By name first: an image with several names is not removed by its id.
            let names = "--format '{{.Repository}}:{{.Tag}}'";
            let keep = BASE_IMAGES.join("\\|");
            let named = format!(
                "docker images {names} | grep -v '^\\({keep}\\)$\\|<none>' | {own} \
                 | xargs -r docker rmi -f >/dev/null; "
            );
            script += &named;
            if case.alone {
                script +=
                    "docker images -q --filter dangling=true | xargs -r docker rmi -f >/dev/null; ";
            }
        }
        let ran = self.shell(case, &format!("{script} true")).output()?;
        if !ran.stderr.is_empty() {
            crate::ui::detail(&format!("after {}: {}", case.name, lossy(&ran.stderr).trim_end()));
        }
        if !ran.status.success() {
            bail!("cannot clean up after {}: {}", case.name, lossy(&ran.stderr));
        }
        Ok(())
    }
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

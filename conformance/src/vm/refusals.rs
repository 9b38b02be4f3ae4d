//! What makes layers, and is refused while a pool has no room for them.

use std::process::{Command, Output};

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;

use super::engine::Engine;
use crate::needs;
use crate::registry::{OPEN, Registries};

/// Commands of which each makes a layer, with the directory of the offer as their own.
const COMMANDS: &[&str] = &[
    "docker pull $REGISTRY/offered",
    "docker load -i image.tar",
    "docker import file.tar imported",
    "DOCKER_BUILDKIT=0 docker build -t built context",
    "docker create --network none vm true",
];

/// Puts an image into a registry, another into an archive, and prepares a build; the engine has none of
/// them afterwards.
const PREPARE: &str = "
    echo offered >file && tar -cf file.tar file
    docker import file.tar $REGISTRY/offered
    docker push $REGISTRY/offered
    docker save -o image.tar $REGISTRY/offered
    docker rmi $REGISTRY/offered
    mkdir context && cp file context && printf 'FROM vm\\nCOPY file /file\\n' >context/Dockerfile
";

/// Images that an engine could take, in a registry and in files.
#[derive(Debug)]
pub(super) struct Offer {
    dir: TempDir,
    /// They end with it.
    _registries: Registries,
    /// What the engine has.
    images: String,
}

impl Offer {
    /// `None`, and a line of the report, where something is missing for it.
    pub(super) fn make(engine: &Engine) -> Result<Option<Self>> {
        for program in ["docker", "docker-registry"] {
            if !needs::on_path(program) {
                crate::ui::line(&format!(
                    "skipped vm thin devices: a full pool's refusals: {program}"
                ));
                return Ok(None);
            }
        }
        let dir = TempDir::with_prefix("offer-")?;
        let mut offer = Self { dir, _registries: Registries::start(None)?, images: String::new() };
        let done = offer.run(engine, &format!("set -e\n{PREPARE}"))?;
        ensure!(done.status.success(), "{}", said(&done));
        offer.images = offer.images(engine)?;
        Ok(Some(offer))
    }

    /// Each command fails and says this, and the engine has what it had.
    pub(super) fn is_refused(&self, engine: &Engine, why: &str) -> Result<()> {
        for command in COMMANDS {
            let done = self.run(engine, command)?;
            let said = said(&done);
            ensure!(!done.status.success(), "{command} was done: {said}");
            ensure!(said.contains(why), "{command}: {said}");
        }
        let images = self.images(engine)?;
        ensure!(images == self.images, "{} images became {images}", self.images);
        Ok(())
    }

    fn images(&self, engine: &Engine) -> Result<String> {
        let done = self.run(engine, "docker images -aq --no-trunc | sort")?;
        ensure!(done.status.success(), "{}", said(&done));
        Ok(String::from_utf8_lossy(&done.stdout).into_owned())
    }

    fn run(&self, engine: &Engine, script: &str) -> Result<Output> {
        let mut shell = Command::new("sh");
        shell.args(["-c", script]).current_dir(self.dir.path());
        shell.env("DOCKER_HOST", format!("unix://{}", engine.socket().display()));
        shell.env("REGISTRY", OPEN);
        shell.output().with_context(|| format!("cannot run {script}"))
    }
}

fn said(done: &Output) -> String {
    String::from_utf8_lossy(&[&*done.stdout, &done.stderr].concat()).into_owned()
}

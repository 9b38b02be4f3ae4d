//! `RUN`.

use std::path::Path;
use std::sync::Arc;

use berth_api::container::{ContainerConfig, HealthConfig};
use berth_api::options::{AttachOptions, WaitCondition};
use berth_api::{List, StrSlice};
use berth_build::apply;
use berth_build::instruction::{CommandLine, Run};
use berth_build::lines::Heredoc;
use berth_fs::root::Root;
use berth_layers::Reach;
use berth_storage as storage;
use berth_types::ContainerId;
use tokio::io::AsyncReadExt as _;

use super::error::BuildError;
use super::mounts::{SCRIPTS, Wanted};
use super::output::Output;
use super::record::Top;
use super::stages::{Builder, Intermediate, Stage};
use super::stubs::Stubs;
use crate::blocking::blocking;
use crate::containers::{AttachStream, Container, Purpose, View};
use crate::error::EngineError;

impl Builder {
    pub(crate) async fn run(&mut self, stage: &mut Stage, run: Run) -> Result<(), EngineError> {
        if run.security.is_some() {
            return Err(BuildError::NeedsBuildKit { option: "security" }.into());
        }
        if run.network.is_some() {
            return Err(BuildError::NeedsBuildKit { option: "network" }.into());
        }
        let script = Script::of(run.command, &run.heredocs);
        let wanted = self.look_up(stage, &run.mounts).await?;
        let config = &stage.state.config;
        let command = apply::command(config, &script.runs);
        let args = self.args.beside(&config.env);
        let mut known: Vec<String> = wanted.iter().map(|wanted| wanted.words.clone()).collect();
        if !args.is_empty() {
            known.extend(self.args.prefix(&args));
        }
        known.extend(apply::command(config, &script.known).iter().cloned());
        let step = ContainerConfig {
            cmd: known.into(),
            // An entrypoint would run before the command.
            entrypoint: StrSlice::default(),
            ..config.clone()
        };
        if self.probe(stage, &step).await? {
            return Ok(());
        }
        let mut env = stage.state.config.env.clone();
        env.extend(args);
        let runs = ContainerConfig {
            cmd: command.clone(),
            entrypoint: no_entrypoint(stage),
            env,
            healthcheck: Some(HealthConfig {
                test: List::from(vec!["NONE".to_owned()]),
                ..HealthConfig::default()
            }),
            ..stage.state.config.clone()
        };
        let id = self.create(runs, Purpose::Build).await?;
        self.containers.push(Intermediate { id: id.clone(), is_real: true });
        self.output.line(&format!(" ---> Running in {}", id.short())).await?;
        let code = self.run_mounted(&id, wanted, &script).await?;
        if code != 0 {
            let command = apply::command(&stage.state.config, &script.known).join(" ");
            return Err(BuildError::Command { command, code }.into());
        }
        let layers = Arc::clone(self.engine.layers());
        let container = self.engine.registry().find(id.as_str())?;
        let committed = {
            let id = id.clone();
            let commit = move |reach: Reach<'_>| Ok(layers.commit_rw("build", &id, reach)?);
            self.engine.with_layer(&container, commit).await?
        };
        self.record(stage, step, Some(id), Top::New(Box::new(committed))).await
    }

    /// Runs a container with what is mounted for it; gives its exit code.
    async fn run_mounted(
        &self,
        id: &ContainerId,
        wanted: Vec<Wanted>,
        script: &Script,
    ) -> Result<i64, EngineError> {
        if wanted.is_empty() && script.file.is_none() {
            return self.run_to_end(id).await;
        }
        let mut mounted = self.mount(wanted).await?;
        if let Some((name, content)) = script.file.clone() {
            let tmp = self.engine.tmp();
            mounted = blocking(move || {
                mounted.script(&tmp, &name, &content)?;
                Ok::<_, EngineError>(mounted)
            })
            .await?;
        }
        let container = self.engine.registry().find(id.as_str())?;
        let targets: Vec<String> =
            mounted.extra.mounts.iter().map(|mount| mount.destination.clone()).collect();
        let look = move |root: &Root, _: &Path| Stubs::before(root, &targets);
        let stubs =
            self.engine.with_root(&container, View::Layers, storage::Access::Read, look).await?;
        self.engine.add_mounts(id, std::mem::take(&mut mounted.extra));
        let code = self.run_to_end(id).await?;
        self.tidy(&container, Arc::new(stubs)).await?;
        // What was mounted is let go of when nobody has it any more.
        drop(mounted);
        Ok(code)
    }

    async fn tidy(&self, container: &Arc<Container>, stubs: Arc<Stubs>) -> Result<(), EngineError> {
        let failed = |error| BuildError::Copy(Box::new(error));
        let (layers, id) = (Arc::clone(self.engine.layers()), container.id().clone());
        let known = Arc::clone(&stubs);
        let done = blocking(move || layers.with_changes(&id, |root| known.after(root))).await?;
        if let Some(done) = done {
            return Ok(done.map_err(failed)?);
        }
        let tidy = move |root: &Root, _: &Path| stubs.after(root).map_err(failed);
        self.engine.with_root(container, View::Layers, storage::Access::Write, tidy).await
    }

    /// Runs a container while the client listens; gives its exit code.
    async fn run_to_end(&self, id: &ContainerId) -> Result<i64, EngineError> {
        let options =
            AttachOptions { stdout: true, stderr: true, stream: true, ..AttachOptions::default() };
        let attached = self.engine.attach(id.as_str(), options).await?;
        let output = self.output.clone();
        let copying = tokio::spawn(async move { copy(attached.stream, &output).await });
        let end = self.engine.wait_container(id.as_str(), WaitCondition::NextExit)?;
        self.engine.start_container(id.as_str(), None).await?;
        tokio::select! {
            end = end => {
                match copying.await {
                    Ok(copied) => copied?,
                    Err(error) => tracing::warn!(%error, "the output of a step was lost"),
                }
                Ok(end.status_code)
            }
            () = self.output.cancelled() => {
                self.engine.drop_container(id).await?;
                Err(BuildError::Cancelled.into())
            }
        }
    }
}

/// What keeps the image's entrypoint from running before the command.
fn no_entrypoint(stage: &Stage) -> StrSlice {
    if stage.image.is_some() { vec![String::new()].into() } else { StrSlice::default() }
}

/// What a step runs.
#[derive(Debug, PartialEq, Eq)]
struct Script {
    /// As it stands in the history.
    known: CommandLine,
    /// As the container gets it.
    runs: CommandLine,
    /// A script that is mounted: its name and its text.
    file: Option<(String, String)>,
}

impl Script {
    /// A here-document that stands alone is a script, for the shell or the interpreter that it
    /// names; others are given to the shell as they are.
    fn of(command: CommandLine, heredocs: &[Heredoc]) -> Self {
        let Some(first) = heredocs.first().filter(|_| command.by_shell) else {
            return Self { known: command.clone(), runs: command, file: None };
        };
        let line = |text: String| CommandLine { words: vec![text], by_shell: true };
        let mut text = command.words.join(" ");
        if heredocs.len() > 1 || text.trim().contains(char::is_whitespace) {
            for Heredoc { content, name, .. } in heredocs {
                text.extend(["\n", content, name]);
            }
            return Self { known: line(text.clone()), runs: line(text), file: None };
        }
        let known = line(first.content.clone());
        if !first.content.starts_with("#!") {
            return Self { runs: known.clone(), known, file: None };
        }
        let runs = line(format!("{SCRIPTS}/{}", first.name));
        Self { known, runs, file: Some((first.name.clone(), first.content.clone())) }
    }
}

/// Says what the container prints, stderr in red. A character that comes in two pieces stays
/// whole.
async fn copy(mut stream: AttachStream, output: &Output) -> Result<(), EngineError> {
    const STDERR: u8 = 2;
    let mut header = [0_u8; 8];
    let mut rest: [Vec<u8>; 2] = Default::default();
    let mut piece = Vec::new();
    while stream.read_exact(&mut header).await.is_ok() {
        let [kind, .., a, b, c, d] = header;
        let length = u64::from(u32::from_be_bytes([a, b, c, d]));
        piece.clear();
        if (&mut stream).take(length).read_to_end(&mut piece).await.is_err() {
            break;
        }
        let is_stderr = kind == STDERR;
        let pending = &mut rest[usize::from(is_stderr)];
        pending.append(&mut piece);
        let text = whole_characters(pending);
        if text.is_empty() {
            continue;
        }
        if is_stderr { output.stderr(&text).await? } else { output.stdout(text).await? }
    }
    for (at, bytes) in rest.iter().enumerate().filter(|(_, bytes)| !bytes.is_empty()) {
        let text = String::from_utf8_lossy(bytes);
        if at == 1 { output.stderr(&text).await? } else { output.stdout(text).await? }
    }
    Ok(())
}

/// Takes the bytes up to the last whole character; what never becomes one is replaced.
fn whole_characters(bytes: &mut Vec<u8>) -> String {
    let end = match std::str::from_utf8(bytes) {
        Ok(_) => bytes.len(),
        // `None`: the character may still be completed.
        Err(error) if error.error_len().is_none() => error.valid_up_to(),
        Err(_) => {
            let may_go_on = |&start: &usize| {
                std::str::from_utf8(&bytes[start..])
                    .is_err_and(|error| error.valid_up_to() == 0 && error.error_len().is_none())
            };
            let last = bytes.len().saturating_sub(3)..bytes.len();
            last.into_iter().find(may_go_on).unwrap_or(bytes.len())
        }
    };
    let rest = bytes.split_off(end);
    let text = String::from_utf8_lossy(bytes).into_owned();
    *bytes = rest;
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_stay_whole() {
        #[rustfmt::skip]
        let table: &[(&[u8], &str, &[u8])] = &[
            (b"abc",             "abc",        b""),
            ("é".as_bytes(),     "é",          b""),
            (b"a\xc3",           "a",          b"\xc3"),
            (b"a\xe2\x82",       "a",          b"\xe2\x82"),
            (b"\xff",            "\u{fffd}",   b""),
            (b"a\xffb",          "a\u{fffd}b", b""),
            (b"\xff\xe2\x82",     "\u{fffd}",   b"\xe2\x82"),
            (b"",                "",           b""),
        ];
        for (bytes, text, rest) in table {
            let mut pending = bytes.to_vec();
            assert_eq!(
                (whole_characters(&mut pending).as_str(), pending.as_slice()),
                (*text, *rest)
            );
        }
    }

    #[test]
    fn here_documents_are_scripts_or_the_shell_s() {
        let heredoc = |content: &str| Heredoc {
            name: "E".to_owned(),
            expand: true,
            chomp: false,
            descriptor: String::new(),
            content: content.to_owned(),
        };
        let line = |text: &str| CommandLine { words: vec![text.to_owned()], by_shell: true };
        let run = |text: &str, content: &str| {
            let Script { known, runs, file } = Script::of(line(text), &[heredoc(content)]);
            (known.words.join(" "), runs.words.join(" "), file)
        };
        let same = |text: &str| (text.to_owned(), text.to_owned(), None);
        assert_eq!(run("<<E", "a\nb\n"), same("a\nb\n"));
        assert_eq!(run("cat <<E", "a\n"), same("cat <<E\na\nE"));
        let script = "#!/bin/x\n".to_owned();
        let file = Some(("E".to_owned(), script.clone()));
        assert_eq!(run("<<E", &script), (script, "/dev/pipes/E".to_owned(), file));
        assert_eq!(Script::of(line("x"), &[]).runs, line("x"));
    }
}

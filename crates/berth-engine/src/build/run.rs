//! `RUN`.

use std::sync::Arc;

use berth_api::container::{ContainerConfig, HealthConfig};
use berth_api::options::{AttachOptions, WaitCondition};
use berth_api::{List, StrSlice};
use berth_build::apply;
use berth_build::instruction::{CommandLine, Run};
use berth_build::lines::Heredoc;
use berth_layers::Reach;
use berth_types::ContainerId;
use tokio::io::AsyncReadExt as _;

use super::error::BuildError;
use super::output::Output;
use super::record::Top;
use super::stages::{Builder, Intermediate, Stage};
use crate::containers::{AttachStream, Purpose};
use crate::error::EngineError;

impl Builder {
    pub(crate) async fn run(&mut self, stage: &mut Stage, run: Run) -> Result<(), EngineError> {
        if !run.mounts.is_empty() {
            return Err(BuildError::NeedsBuildKit { option: "mount" }.into());
        }
        if run.security.is_some() {
            return Err(BuildError::NeedsBuildKit { option: "security" }.into());
        }
        if run.network.is_some() {
            return Err(BuildError::NeedsBuildKit { option: "network" }.into());
        }
        let config = &stage.state.config;
        let command = apply::command(config, &with_heredocs(run.command, &run.heredocs)?);
        let args = self.args.beside(&config.env);
        let mut known = command.to_vec();
        if !args.is_empty() {
            known.splice(0..0, self.args.prefix(&args));
        }
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
        let code = self.run_to_end(&id).await?;
        if code != 0 {
            return Err(BuildError::Command { command: command.join(" "), code }.into());
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

/// What is run when here-documents come with the command: one that stands alone is a script, others
/// are given to the shell as they are.
fn with_heredocs(command: CommandLine, heredocs: &[Heredoc]) -> Result<CommandLine, EngineError> {
    let Some(first) = heredocs.first().filter(|_| command.by_shell) else { return Ok(command) };
    let text = command.words.join(" ");
    let is_alone = heredocs.len() == 1 && !text.trim().contains(char::is_whitespace);
    let mut script = if is_alone { first.content.clone() } else { text };
    if is_alone && script.starts_with("#!") {
        return Err(BuildError::NotBuilt("a here-document with an interpreter line").into());
    }
    if !is_alone {
        for Heredoc { content, name, .. } in heredocs {
            script.extend(["\n", content, name]);
        }
    }
    Ok(CommandLine { words: vec![script], by_shell: true })
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
            let made = with_heredocs(line(text), &[heredoc(content)]);
            made.map(|made| made.words.join(" ")).map_err(|error| error.to_string())
        };
        assert_eq!(run("<<E", "a\nb\n").unwrap(), "a\nb\n");
        assert_eq!(run("cat <<E", "a\n").unwrap(), "cat <<E\na\nE");
        assert!(run("<<E", "#!/bin/x\n").is_err());
        assert_eq!(with_heredocs(line("x"), &[]).unwrap(), line("x"));
    }
}

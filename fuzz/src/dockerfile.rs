//! The way of a Dockerfile: parse, expand, apply. The text is also taken for a `.dockerignore`.
//!
//! Promised for every input: no panic; a step's line is inside the text; a failure changes nothing.

use anyhow::ensure;
use berth_build::apply::{Changing, apply};
use berth_build::ignore::Ignore;
use berth_build::words::Context;
use berth_build::{Dockerfile, Step};

use crate::Target;
use crate::random::Random;

/// The target `dockerfile`.
#[derive(Debug)]
pub(crate) struct Text;

/// Words that parsers get wrong.
#[rustfmt::skip]
const WORDS: &[&str] = &[
    "FROM a AS b\n", "FROM ", "RUN ", "COPY ", "ADD ", "ENV ", "LABEL ", "ARG ", "CMD ", "ONBUILD ",
    "EXPOSE ", "VOLUME ", "HEALTHCHECK ", "SHELL ", "WORKDIR ", "STOPSIGNAL ", "--from=", "--mount=",
    "--", "type=cache,target=/x", "<<E\n", "<<-'E'\n", "\nE\n", "\\\n", "\\", "`", "# escape=`\n",
    "${", "}", "${a:-", "${a#", "${a//x/", "$", "\"", "'", "[\"", "\"]", "[", "=", "a=b ", "#", "\n",
    "\r\n", "\t", "!", "**", "/", "*", "80/udp", "65536", "\u{feff}", "é", "\0", "CMD [\"a\", 1]",
];

impl Target for Text {
    fn corpus(&self) -> anyhow::Result<Vec<Vec<u8>>> {
        crate::files("dockerfile")
    }

    fn mutate(&self, random: &mut Random, input: &mut Vec<u8>, corpus: &[Vec<u8>]) {
        crate::mutate::text(random, input, corpus, WORDS);
    }

    fn run(&mut self, input: &[u8], _round: u64) -> anyhow::Result<bool> {
        let text = String::from_utf8_lossy(input);
        if let Ok(ignore) = Ignore::parse(&text) {
            for path in ["", "a", "a/b.c", "Dockerfile"] {
                ignore.matches(path);
            }
        }
        let Ok(file) = Dockerfile::parse(&text) else { return Ok(false) };
        let lines = text.lines().count();
        let mut state = Changing::default();
        for mut step in file.stages.into_iter().flat_map(|stage| stage.steps) {
            ensure!((1..=lines).contains(&step.line), "line {} of {lines}", step.line);
            follow(&mut state, &mut step, file.escape)?;
        }
        Ok(true)
    }
}

fn follow(state: &mut Changing, step: &mut Step, escape: char) -> anyhow::Result<()> {
    let env = state.config.env.to_vec();
    if step.instruction.expand(Context { env: &env, escape }).is_err() {
        return Ok(());
    }
    let before = state.config.clone();
    if apply(state, &step.instruction).is_err() {
        ensure!(state.config == before, "a refused step changed the configuration");
    }
    Ok(())
}

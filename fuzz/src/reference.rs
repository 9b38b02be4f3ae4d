//! Names of images.
//!
//! Promised for every input: no panic; what is accepted is written out and read again as the same, and
//! its short form is the end of its long one.

use anyhow::ensure;
use berth_types::reference::Reference;

use crate::Target;
use crate::random::Random;

/// The target `reference`.
#[derive(Debug)]
pub(crate) struct Name;

#[rustfmt::skip]
const WORDS: &[&str] = &[
    "/", ":", "@", ".", "-", "--", "_", "__", "a", "A", "0", "library/", "docker.io/", "localhost", ":5000",
    "index.docker.io/", "[::1]:5000/", "sha256:", "@sha256:", "latest", "é", "\0", " ", "%",
    "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
];

impl Target for Name {
    fn corpus(&self) -> anyhow::Result<Vec<Vec<u8>>> {
        crate::files("reference")
    }

    fn mutate(&self, random: &mut Random, input: &mut Vec<u8>, corpus: &[Vec<u8>]) {
        crate::mutate::text(random, input, corpus, WORDS);
    }

    fn run(&mut self, input: &[u8], _round: u64) -> anyhow::Result<bool> {
        let text = String::from_utf8_lossy(input);
        let text = text.trim_end_matches('\n');
        let Ok(name) = Reference::parse(text) else { return Ok(false) };
        let written = name.to_string();
        let again = Reference::parse(&written)?;
        ensure!(again == name, "{text:?} is written as {written:?}, which is another name");
        // As in Docker, a path of docker.io may look like another registry's when it is short.
        ensure!(written.ends_with(&name.familiar()), "{text:?} is not {:?}", name.familiar());
        ensure!(name.with_default_tag().domain().len() <= text.len() + "docker.io".len());
        Ok(true)
    }
}

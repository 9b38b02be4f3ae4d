//! The way of a layer: parse, unpack, record, give back.
//!
//! Promised for every input: no panic; nothing outside the destination changes; what was
//! accepted comes back byte for byte.

use std::io::{Cursor, Read as _};
use std::path::PathBuf;

use anyhow::{Context as _, ensure};
use berth_fs::apply::apply;
use berth_fs::marks::Marks;
use berth_fs::root::Root;
use berth_fs::tarsplit::Assembler;
use berth_fs::unpack::{Limits, UnpackOptions, WhiteoutStyle};
use berth_types::{DiffId, Digest};

use crate::random::Random;
use crate::{Target, home, mutate};

/// How many ways there are to run one input.
pub(crate) const STYLES: u64 = 3;

/// The target `tar`.
pub(crate) struct Tar {
    dir: tempfile::TempDir,
}

const CANARY: &[u8] = b"alive";

impl Tar {
    pub(crate) fn new() -> anyhow::Result<Self> {
        // In memory where that is possible: a disk would be most of the time.
        let memory = PathBuf::from("/dev/shm");
        let dir =
            if memory.is_dir() { tempfile::tempdir_in(memory)? } else { tempfile::tempdir()? };
        std::fs::create_dir(dir.path().join("canary"))?;
        berth_fs::atomic::write(&dir.path().join("canary/a"), CANARY)?;
        Ok(Self { dir })
    }

    fn check_canary(&self) -> anyhow::Result<()> {
        let mut names: Vec<_> = std::fs::read_dir(self.dir.path())?
            .map(|entry| entry.map(|entry| entry.file_name()))
            .collect::<Result<_, _>>()?;
        names.sort();
        ensure!(
            names == ["canary", "dest"],
            "something appeared beside the destination: {names:?}"
        );
        let canary = self.dir.path().join("canary");
        let count = std::fs::read_dir(&canary)?.count();
        let content = std::fs::read(canary.join("a")).context("the canary is gone")?;
        ensure!(count == 1 && content == CANARY, "the canary has changed");
        Ok(())
    }
}

impl Target for Tar {
    fn corpus(&self) -> anyhow::Result<Vec<Vec<u8>>> {
        let mut paths: Vec<PathBuf> = std::fs::read_dir(home().join("corpus/tar"))?
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<Result<_, _>>()?;
        paths.sort();
        paths.iter().map(|path| Ok(std::fs::read(path)?)).collect()
    }

    fn mutate(&self, random: &mut Random, input: &mut Vec<u8>, corpus: &[Vec<u8>]) {
        if input.is_empty() {
            input.clone_from(random.pick(corpus));
        }
        mutate::mutate(random, input, corpus);
    }

    fn run(&mut self, input: &[u8], round: u64) -> anyhow::Result<bool> {
        let dest = self.dir.path().join("dest");
        // Left by an input that failed.
        if dest.try_exists()? {
            std::fs::remove_dir_all(&dest)?;
        }
        std::fs::create_dir(&dest)?;
        let style = match round % STYLES {
            0 => WhiteoutStyle::Apply,
            1 => WhiteoutStyle::Mark(Marks::Overlay),
            2 => WhiteoutStyle::Mark(Marks::Aufs),
            _ => WhiteoutStyle::Plain,
        };
        let mut options = UnpackOptions::layer(style, "/dest");
        options.limits = Limits { max_entries: 5_000, max_bytes: 32 << 20 };
        let root = Root::open(&dest)?;
        let mut records = Vec::new();
        let applied = apply(input, root.fd(), &options, Some(&mut records));
        self.check_canary()?;
        let accepted = applied.is_ok();
        if let Ok(applied) = applied {
            let expected = DiffId::from(Digest::of(input));
            // Compressed inputs have another digest, and nothing to compare with.
            if applied.diff_id == expected {
                let mut back = Vec::new();
                Assembler::new(Cursor::new(records), Root::open(&dest)?, applied.diff_id)
                    .read_to_end(&mut back)
                    .context("an accepted archive does not come back")?;
                ensure!(back == input, "an accepted archive comes back changed");
            }
        }
        std::fs::remove_dir_all(&dest)?;
        Ok(accepted)
    }
}

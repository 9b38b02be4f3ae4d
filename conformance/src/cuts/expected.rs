//! What a daemon must have at a point, as the disk itself says it.
//!
//! A mark is a JSON text in the sectors behind the file system, written past every cache. It has
//! all that was acknowledged by then (`must`), and what an operation that is under way may or may
//! not have made or removed (`may`); nothing else may be there. By names:
//!
//! ```text
//! {"step": "commit a", "must": {"images": {…}, "containers": {…}}, "may": {…}}
//! ```

use std::fs::File;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Map, Value, json};

use super::MARKS_AT;

/// One write, always this long; a whole number of any disk's sectors.
const MARK_BYTES: usize = 64 << 10;
const ALIGNMENT: usize = 4096;

/// What names are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Images,
    Containers,
}

impl Kind {
    pub(super) const ALL: [Self; 2] = [Self::Images, Self::Containers];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Images => "images",
            Self::Containers => "containers",
        }
    }
}

/// What is acknowledged and what is under way, and the place where that is marked.
#[derive(Debug)]
pub(super) struct Marks {
    disk: File,
    must: Value,
}

impl Marks {
    pub(super) fn on(disk: &Path) -> Result<Self> {
        let direct = rustix::fs::OFlags::DIRECT.bits().cast_signed();
        let disk = File::options().write(true).custom_flags(direct).open(disk)?;
        Ok(Self { disk, must: json!({ "images": {}, "containers": {} }) })
    }

    /// Marks what is acknowledged, and that nothing is under way.
    pub(super) fn settled(&self, step: &str) -> Result<()> {
        self.write(step, &json!({ "images": {}, "containers": {} }))
    }

    /// Makes something. `likely` is what is known of it before.
    pub(super) fn make(
        &mut self,
        kind: Kind,
        name: &str,
        likely: Value,
        act: impl FnOnce() -> Result<Value>,
    ) -> Result<()> {
        let step = format!("make {} {name}", kind.name());
        let mut may = json!({ "images": {}, "containers": {} });
        may[kind.name()][name] = likely;
        self.write(&step, &may)?;
        self.must[kind.name()][name] = act().with_context(|| step.clone())?;
        self.settled(&step)
    }

    /// Removes things. `act` gives what stays of them under other names.
    pub(super) fn remove(
        &mut self,
        kind: Kind,
        names: &[String],
        act: impl FnOnce() -> Result<Map<String, Value>>,
    ) -> Result<()> {
        let step = format!("remove {} {}", kind.name(), names.join(" "));
        let mut may = json!({ "images": {}, "containers": {} });
        for name in names {
            let known = self.must[kind.name()].as_object_mut().and_then(|all| all.remove(name));
            may[kind.name()][name] = known.with_context(|| format!("{step}: not there"))?;
        }
        self.write(&step, &may)?;
        for (name, facts) in act().with_context(|| step.clone())? {
            self.must[kind.name()][name] = facts;
        }
        self.settled(&step)
    }

    /// The names that are acknowledged.
    pub(super) fn names(&self, kind: Kind) -> Vec<String> {
        let all = self.must[kind.name()].as_object();
        all.into_iter().flatten().map(|(name, _)| name.clone()).collect()
    }

    fn write(&self, step: &str, may: &Value) -> Result<()> {
        let text = json!({ "step": step, "must": self.must, "may": may }).to_string();
        ensure!(text.len() <= MARK_BYTES, "a mark of {} bytes", text.len());
        // Past the caches only what lies and ends at such addresses is written.
        let mut memory = vec![0; MARK_BYTES + ALIGNMENT];
        let start = memory.as_ptr().align_offset(ALIGNMENT);
        memory[start..][..text.len()].copy_from_slice(text.as_bytes());
        let mark = &memory[start..][..MARK_BYTES];
        self.disk.write_all_at(mark, MARKS_AT).context("cannot write a mark")
    }
}

/// What was marked last before a point.
#[derive(Debug, Clone)]
pub(super) struct Expected(Value);

impl Expected {
    pub(super) fn parse(mark: &[u8]) -> Result<Self> {
        let end = mark.iter().position(|byte| *byte == 0).unwrap_or(mark.len());
        Ok(Self(serde_json::from_slice(&mark[..end]).context("a mark is JSON")?))
    }

    /// The operation that was under way or done last.
    pub(super) fn step(&self) -> &str {
        self.0["step"].as_str().unwrap_or_default()
    }

    /// Whether nothing was under way.
    pub(super) fn is_settled(&self) -> bool {
        Kind::ALL.iter().all(|kind| self.possible(*kind).next().is_none())
    }

    /// By name, what must be there.
    pub(super) fn certain(&self, kind: Kind) -> impl Iterator<Item = (&String, &Value)> {
        self.0["must"][kind.name()].as_object().into_iter().flatten()
    }

    /// By name, what may be there besides.
    pub(super) fn possible(&self, kind: Kind) -> impl Iterator<Item = (&String, &Value)> {
        self.0["may"][kind.name()].as_object().into_iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_say_what_is_certain_and_what_is_under_way() {
        let file = tempfile::NamedTempFile::new_in("/var/tmp").unwrap();
        let mut marks = Marks::on(file.path()).unwrap();
        let read = || {
            let mut bytes = vec![0; MARK_BYTES];
            File::open(file.path()).unwrap().read_exact_at(&mut bytes, MARKS_AT).unwrap();
            Expected::parse(&bytes).unwrap()
        };
        let names = |all: Vec<(&String, &Value)>| {
            all.into_iter().map(|(name, facts)| format!("{name} {facts}")).collect::<Vec<_>>()
        };
        let must = |mark: &Expected| names(mark.certain(Kind::Images).collect());
        let may = |mark: &Expected| names(mark.possible(Kind::Images).collect());
        marks
            .make(Kind::Images, "a", json!(null), || {
                let mark = read();
                assert_eq!((must(&mark), may(&mark)), (vec![], vec!["a null".to_owned()]));
                Ok(json!(7))
            })
            .unwrap();
        assert_eq!((must(&read()), read().is_settled()), (vec!["a 7".to_owned()], true));
        marks
            .remove(Kind::Images, &["a".to_owned()], || {
                let mark = read();
                assert_eq!((must(&mark), may(&mark)), (vec![], vec!["a 7".to_owned()]));
                Ok(Map::new())
            })
            .unwrap();
        assert_eq!((must(&read()), read().step().to_owned()), (vec![], "remove images a".into()));
    }
}

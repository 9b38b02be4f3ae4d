//! Goldens, the table of differences, and the verdict.
//!
//! ```text
//! goldens/docker-20.10.24/cli-28/run-exit-codes.txt   what dockerd answers, seen through a CLI
//! goldens/berth/cli-28/run-exit-codes.txt             what berth answers where differences.txt has a row
//! differences.txt                                     CASE: what differs and why; with CASE [cli-28]
//!                                                     seen through that CLI only
//! ```
//!
//! Every file begins with a line that says where it is from.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use super::case::Case;

/// The files of one CLI version.
#[derive(Debug)]
pub(super) struct Goldens {
    home: PathBuf,
    cli: String,
}

/// What is expected of each case.
#[derive(Debug)]
pub(super) struct Answers {
    version: String,
    dockerd: BTreeMap<String, String>,
    berth_dir: PathBuf,
    berth: BTreeMap<String, String>,
    differences: BTreeMap<String, String>,
    cli: String,
}

/// Whether a case went as it should.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Same,
    Failed { why: String, diff: String },
}

impl Goldens {
    pub(super) fn open(home: &Path, cli: &str) -> Result<Self> {
        let major = cli.split('.').next().context("a version number")?;
        major.parse::<u32>().with_context(|| format!("CLI version {cli:?}"))?;
        Ok(Self { home: home.to_owned(), cli: cli.to_owned() })
    }

    /// Writes down what dockerd of this version answers.
    pub(super) fn record(&self, version: &str, case: &Case, transcript: &str) -> Result<()> {
        let number = version.split(['+', '~']).next().unwrap_or(version);
        let dir =
            self.home.join("goldens").join(format!("docker-{number}")).join(cli_dir(&self.cli));
        let head = format!("# dockerd {version}, docker CLI {}\n", self.cli);
        write(&dir, &case.prefix(), &format!("{head}{transcript}"))
    }

    /// The recorded answers: those of the newest dockerd, through a CLI of this major version.
    /// None of them when nothing was recorded through such a CLI.
    pub(super) fn load(&self) -> Result<Answers> {
        let goldens = self.home.join("goldens");
        let mut versions: Vec<(Vec<u32>, String)> = Vec::new();
        for entry in std::fs::read_dir(&goldens).context("goldens")? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if let Some(number) = name.strip_prefix("docker-") {
                let parts = number.split('.').filter_map(|part| part.parse().ok()).collect();
                versions.push((parts, number.to_owned()));
            }
        }
        versions.sort();
        let (_, version) = versions.pop().context("no goldens of any dockerd")?;
        let dir = goldens.join(format!("docker-{version}")).join(cli_dir(&self.cli));
        let berth_dir = goldens.join("berth").join(cli_dir(&self.cli));
        Ok(Answers {
            version,
            dockerd: read_dir(&dir)?,
            berth: read_dir(&berth_dir)?,
            berth_dir,
            differences: differences(&self.home.join("differences.txt"), &cli_dir(&self.cli))?,
            cli: self.cli.clone(),
        })
    }
}

impl Answers {
    pub(super) fn version(&self) -> &str {
        &self.version
    }

    /// Whether nothing is there to compare with.
    pub(super) fn is_empty(&self) -> bool {
        self.dockerd.is_empty()
    }

    /// Puts the answers of a running dockerd in the place of the recorded ones.
    pub(super) fn replace(
        &mut self,
        ask: impl FnOnce(&mut BTreeMap<String, String>) -> Result<()>,
    ) -> Result<()> {
        let mut live = BTreeMap::new();
        ask(&mut live)?;
        self.dockerd =
            live.into_iter().map(|(name, text)| (name.replace('/', "-"), text)).collect();
        Ok(())
    }

    /// Takes an answer of berth as expected, if there is a row for its case.
    pub(super) fn accept(&mut self, case: &str, transcript: &str) -> Result<()> {
        let key = case.replace('/', "-");
        if self.differences.contains_key(case)
            && self.dockerd.get(&key).is_none_or(|text| text != transcript)
        {
            let head = format!("# berth, docker CLI {}\n", self.cli);
            write(&self.berth_dir, &key, &format!("{head}{transcript}"))?;
            self.berth.insert(key, transcript.to_owned());
        }
        Ok(())
    }

    pub(super) fn judge(&self, case: &str, transcript: &str) -> Verdict {
        let key = case.replace('/', "-");
        let failed = |why: &str, expected: &str| Verdict::Failed {
            why: why.to_owned(),
            diff: diff(expected, transcript),
        };
        let row = self.differences.contains_key(case);
        let Some(dockerd) = self.dockerd.get(&key) else {
            return failed("no golden: record it from dockerd", "");
        };
        match (dockerd == transcript, row, self.berth.get(&key)) {
            (true, false, _) => Verdict::Same,
            (true, true, _) => failed("as dockerd: its row in differences.txt is stale", dockerd),
            (false, false, _) => failed("not as dockerd", dockerd),
            (false, true, None) => failed("a known difference without a golden: --accept", dockerd),
            (false, true, Some(berth)) if berth == transcript => Verdict::Same,
            (false, true, Some(berth)) => failed("differs in another way than known", berth),
        }
    }

    /// Rows that name a case which is not there.
    pub(super) fn rows_without_case(&self, cases: &[&Case]) -> Vec<String> {
        let known = |name: &String| cases.iter().any(|case| case.name == *name);
        self.differences.keys().filter(|name| !known(name)).cloned().collect()
    }
}

/// CLIs of one major version print alike.
fn cli_dir(version: &str) -> String {
    format!("cli-{}", version.split('.').next().unwrap_or(version))
}

/// Rows `CASE: reason`, or `CASE [cli-N]: reason` for one CLI only; a line that begins with spaces
/// goes on.
fn differences(path: &Path, cli: &str) -> Result<BTreeMap<String, String>> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let mut rows: BTreeMap<String, String> = BTreeMap::new();
    let mut last = None;
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(more) = line.strip_prefix("  ") {
            if let Some(reason) = last.as_ref().and_then(|name| rows.get_mut(name)) {
                reason.push(' ');
                reason.push_str(more);
            }
            continue;
        }
        let (name, reason) =
            line.split_once(": ").with_context(|| format!("no reason: {line:?}"))?;
        let name = match name.split_once(" [") {
            Some((name, only)) if only.trim_end_matches(']') == cli => name,
            Some(_) => {
                last = None;
                continue;
            }
            None => name,
        };
        if rows.insert(name.to_owned(), reason.to_owned()).is_some() {
            bail!("two rows for {name}");
        }
        last = Some(name.to_owned());
    }
    Ok(rows)
}

/// The goldens of a directory; none when it is not there.
fn read_dir(dir: &Path) -> Result<BTreeMap<String, String>> {
    let mut files = BTreeMap::new();
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(files),
        entries => entries.with_context(|| dir.display().to_string())?,
    };
    for entry in entries {
        let path = entry?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".txt"))
        else {
            continue;
        };
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let (_, body) = text.split_once('\n').context("a first line that says where it is from")?;
        files.insert(name.to_owned(), body.to_owned());
    }
    Ok(files)
}

fn write(dir: &Path, name: &str, text: &str) -> Result<()> {
    use std::io::Write as _;
    std::fs::create_dir_all(dir)?;
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    file.write_all(text.as_bytes())?;
    rustix::fs::fchmod(&file, rustix::fs::Mode::from_raw_mode(0o644))?;
    file.persist(dir.join(format!("{name}.txt")))?;
    Ok(())
}

/// The lines that differ, as `diff` shows them (longest common subsequence; transcripts are short).
fn diff(expected: &str, got: &str) -> String {
    let (left, right): (Vec<&str>, Vec<&str>) = (expected.lines().collect(), got.lines().collect());
    let mut common = vec![vec![0_usize; right.len() + 1]; left.len() + 1];
    for row in (0..left.len()).rev() {
        for column in (0..right.len()).rev() {
            common[row][column] = if left[row] == right[column] {
                common[row + 1][column + 1] + 1
            } else {
                common[row + 1][column].max(common[row][column + 1])
            };
        }
    }
    let (mut row, mut column, mut text) = (0, 0, String::new());
    let mut command = "";
    while row < left.len() || column < right.len() {
        if row < left.len() && column < right.len() && left[row] == right[column] {
            if left[row].starts_with("$ ") {
                command = left[row];
            }
            (row, column) = (row + 1, column + 1);
            continue;
        }
        if !command.is_empty() {
            text.extend(["   ", command, "\n"]);
            command = "";
        }
        let left_first = column >= right.len()
            || (row < left.len() && common[row + 1][column] >= common[row][column + 1]);
        if left_first {
            text.extend(["  -", left[row], "\n"]);
            row += 1;
        } else {
            text.extend(["  +", right[column], "\n"]);
            column += 1;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_needs_a_row_and_a_row_a_difference() {
        let map = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|&(key, text)| (key.to_owned(), text.to_owned())).collect()
        };
        let answers = Answers {
            version: String::new(),
            dockerd: map(&[("a-same", "1\n"), ("row", "1\n"), ("stale", "1\n"), ("bare", "1\n")]),
            berth_dir: PathBuf::new(),
            berth: map(&[("row", "2\n")]),
            differences: map(&[("row", "r"), ("stale", "r"), ("bare", "r")]),
            cli: String::new(),
        };
        let why = |case: &str, transcript: &str| match answers.judge(case, transcript) {
            Verdict::Same => String::new(),
            Verdict::Failed { why, .. } => why,
        };
        let table: &[(&str, &str, &str)] = &[
            ("a/same", "1\n", ""),
            ("a/same", "2\n", "not as dockerd"),
            ("row", "2\n", ""),
            ("row", "3\n", "differs in another way than known"),
            ("row", "1\n", "as dockerd: its row in differences.txt is stale"),
            ("bare", "2\n", "a known difference without a golden: --accept"),
            ("new", "1\n", "no golden: record it from dockerd"),
        ];
        for &(case, transcript, expected) in table {
            assert_eq!(why(case, transcript), expected, "{case} {transcript:?}");
        }
    }

    #[test]
    fn a_diff_names_the_command() {
        assert_eq!(diff("$ x\na\nb\n", "$ x\na\nc\n"), "   $ x\n  -b\n  +c\n");
        assert_eq!(diff("a\n", "a\n"), "");
    }
}

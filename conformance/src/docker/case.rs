//! Cases, and the files they stand in.
//!
//! ```text
//! # A comment.
//! === run/exit-codes core alone
//! . docker create --name $c busybox true
//! $ docker start -a $c; echo $?
//! $ for code in 0 1
//!   do docker run --rm busybox sh -c "exit $code"
//!   done
//! ```
//!
//! A case begins with its name and words about it: `core` cases run with every storage driver,
//! `alone` ones while no other runs, because they look at the whole engine, and `cgroup1` ones only
//! where control groups are of version 1, as they were where the goldens come from. `registry` cases
//! have two registries in the engine's network, `witness` ones a dockerd there. `userns` ones run
//! only on an engine that remaps users, and `hostusers` ones never there; `experimental` ones only on
//! one with experimental features. `$` begins a shell line whose exit code and output
//! are compared, `.` one that prepares and must succeed; two spaces continue a line. The shell has:
//!
//! | name | what |
//! |---|---|
//! | `$c` | the case's name with `-` for `/`: names of containers, images and volumes begin with it, and are removed in the end |
//! | `$assets` | a directory of archives and scripts (`archive.rs`) |
//! | `.` | an empty directory of the case's own |
//! | `$witness` | the value of `DOCKER_HOST` for that dockerd |
//! | `$kept` | the directory of the open registry |
//! | `$registry`, `$locked` | the addresses of the registries: one is open, one wants `user` and `secret` |

use std::path::Path;

use anyhow::{Context as _, Result, bail};

use super::engine::Kind;

/// One case.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Case {
    pub(super) name: String,
    /// Runs with every storage driver.
    pub(super) core: bool,
    /// Looks at the whole engine.
    pub(super) alone: bool,
    /// Needs control groups of version 1.
    pub(super) cgroup1: bool,
    /// Needs a registry.
    pub(super) registry: bool,
    /// Needs a dockerd besides, in the engine's network.
    pub(super) witness: bool,
    /// Needs an engine that remaps users.
    pub(super) userns: bool,
    /// Needs one that does not.
    pub(super) host_users: bool,
    /// Needs one with experimental features.
    pub(super) experimental: bool,
    pub(super) steps: Vec<Step>,
    /// Other cases' prefixes that begin as this one's: what is named so is not its own.
    pub(super) others: Vec<String>,
}

/// One shell line.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) line: String,
    /// Whether its output belongs to the transcript; otherwise it must succeed.
    pub(super) compared: bool,
}

impl Case {
    /// The engine that its goldens come from.
    pub(super) fn kind(&self) -> Kind {
        match (self.userns, self.experimental) {
            (true, _) => Kind::Remapping,
            (false, true) => Kind::Experimental,
            (false, false) => Kind::Plain,
        }
    }

    /// The beginning of all names that the case uses.
    pub(super) fn prefix(&self) -> String {
        self.name.replace('/', "-")
    }
}

/// Every case of the directory, by file name, in the files' order.
pub(super) fn read_all(dir: &Path) -> Result<Vec<Case>> {
    let entries =
        std::fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))?;
    let mut files = Vec::new();
    for entry in entries {
        files.push(entry?.path());
    }
    files.sort();
    let mut cases: Vec<Case> = Vec::new();
    for file in &files {
        let text = std::fs::read_to_string(file)
            .with_context(|| format!("cannot read {}", file.display()))?;
        cases.extend(parse(&text).with_context(|| file.display().to_string())?);
    }
    for (at, case) in cases.iter().enumerate() {
        if cases[..at].iter().any(|other| other.name == case.name) {
            bail!("two cases are named {}", case.name);
        }
    }
    let prefixes: Vec<String> = cases.iter().map(Case::prefix).collect();
    for case in &mut cases {
        let own = case.prefix();
        let is_other = |prefix: &&String| prefix.starts_with(&own) && **prefix != own;
        case.others = prefixes.iter().filter(is_other).cloned().collect();
    }
    Ok(cases)
}

fn parse(text: &str) -> Result<Vec<Case>> {
    let mut cases: Vec<Case> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let at = || format!("line {}: {line:?}", number + 1);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(head) = line.strip_prefix("=== ") {
            cases.push(parse_head(head).with_context(at)?);
            continue;
        }
        let case = cases.last_mut().with_context(at).context("a step before any case")?;
        if let Some(more) = line.strip_prefix("  ") {
            let step = case.steps.last_mut().with_context(at).context("nothing to continue")?;
            step.line.push('\n');
            step.line.push_str(more);
            continue;
        }
        let (compared, line) = match line.split_once(' ') {
            Some(("$", line)) => (true, line),
            Some((".", line)) => (false, line),
            _ => bail!("{}: neither step nor case", at()),
        };
        case.steps.push(Step { line: line.to_owned(), compared });
    }
    Ok(cases)
}

fn parse_head(head: &str) -> Result<Case> {
    let mut words = head.split_whitespace();
    let mut case = Case { name: words.next().context("no name")?.to_owned(), ..Case::default() };
    for word in words {
        match word {
            "core" => case.core = true,
            "alone" => case.alone = true,
            "cgroup1" => case.cgroup1 = true,
            "registry" => case.registry = true,
            "witness" => case.witness = true,
            "userns" => case.userns = true,
            "hostusers" => case.host_users = true,
            "experimental" => case.experimental = true,
            _ => bail!("{word:?} says nothing about a case"),
        }
    }
    Ok(case)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_cases_is_read() {
        let text = "# x\n=== a/b core\n. one\n$ two\n  three\n\n=== c alone\n$ four\n";
        let step = |line: &str, compared: bool| Step { line: line.to_owned(), compared };
        let expected = vec![
            Case {
                name: "a/b".to_owned(),
                core: true,
                steps: vec![step("one", false), step("two\nthree", true)],
                ..Case::default()
            },
            Case {
                name: "c".to_owned(),
                alone: true,
                steps: vec![step("four", true)],
                ..Case::default()
            },
        ];
        assert_eq!(parse(text).unwrap(), expected);
        for bad in ["$ x", "=== ", "=== a b", "=== a\nx", "=== a\n  x"] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_cases_in_the_repository_are_well_formed() {
        let cases = read_all(&crate::docker::home().join("cases")).unwrap();
        assert!(cases.iter().all(|case| case.steps.iter().any(|step| step.compared)));
    }
}

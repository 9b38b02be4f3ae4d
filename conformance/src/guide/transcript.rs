//! What the guide shows beside what is shown here.
//!
//! Compared line by line, in order. Spacing is not compared, nor the space between a number and its
//! unit, which Docker's later versions leave out. Everything else that differs is in a table, with a reason.

use anyhow::{Result, bail, ensure};

/// Where this differs from the guide, and why that is right.
#[derive(Debug)]
pub(super) struct Difference {
    /// A line of the guide; empty for what only this has, wherever it stands.
    pub(super) guide: &'static str,
    /// The line here, with `{}` for any text without a space; empty for what only the guide has.
    pub(super) here: &'static str,
    pub(super) why: &'static str,
}

/// Where `docker info` of 18.09, which berth follows, has its lines elsewhere than the guide's 17.03.
pub(super) const ORDER: &str = "Docker 18.09 says it before the space";
/// What differs in `docker info` of either mode.
pub(super) const VERSION: Difference =
    differs("Server Version: 17.03.1-ce", "Server Version: {}", "berth's");
pub(super) const LIBRARY: Difference = differs(
    "Library Version: 1.02.135-RHEL7 (2016-11-16)",
    "",
    "berth speaks with the kernel without that library",
);
pub(super) const LEVEL: Difference = differs("", "Thin Pool Level: normal", "berth's own");

pub(super) const fn differs(
    guide: &'static str,
    here: &'static str,
    why: &'static str,
) -> Difference {
    Difference { guide, here, why }
}

/// Compares what was printed with the guide's listing.
pub(super) fn compare(guide: &str, differences: &[Difference], printed: &str) -> Result<()> {
    let mut unused: Vec<&Difference> = differences.iter().collect();
    let mut use_up = |difference: &Difference| {
        unused.retain(|left| !std::ptr::eq(*left, difference));
        difference.here
    };
    let only_here = |line: &String| {
        let here = |one: &&Difference| one.guide.is_empty() && fits(&normal(one.here), line);
        differences.iter().find(here)
    };
    let mut found = Vec::new();
    for line in lines(printed) {
        match only_here(&line) {
            Some(difference) => _ = use_up(difference),
            None => found.push(line),
        }
    }
    let mut wanted = Vec::new();
    for line in lines(guide) {
        match differences.iter().find(|one| !one.guide.is_empty() && normal(one.guide) == line) {
            Some(difference) => wanted.push(normal(use_up(difference))),
            None => wanted.push(line),
        }
    }
    wanted.retain(|line| !line.is_empty());
    let is_same = wanted.len() == found.len()
        && wanted.iter().zip(&found).all(|(wanted, found)| fits(wanted, found));
    if !is_same {
        bail!(
            "it is not the guide's listing\n--- wanted\n{}\n--- found\n{}\n--- differences that \
             are known\n{}",
            wanted.join("\n"),
            found.join("\n"),
            listed(differences)
        );
    }
    ensure!(unused.is_empty(), "this differs no longer: {unused:?}");
    Ok(())
}

fn listed(differences: &[Difference]) -> String {
    let lines = differences
        .iter()
        .map(|Difference { guide, here, why }| format!("{guide:?} is {here:?}: {why}"));
    lines.collect::<Vec<_>>().join("\n")
}

fn lines(text: &str) -> impl Iterator<Item = String> {
    text.lines().map(normal).filter(|line| !line.is_empty())
}

/// Words with one space between, and none between a number and its unit.
fn normal(line: &str) -> String {
    let mut normal = String::new();
    for word in line.split_whitespace() {
        let is_unit = matches!(word, "B" | "kB" | "MB" | "GB" | "TB");
        let follows_number = normal.ends_with(|last: char| last.is_ascii_digit());
        let is_joined = normal.is_empty() || (is_unit && follows_number);
        if !is_joined {
            normal.push(' ');
        }
        normal.push_str(word);
    }
    normal
}

/// Whether the text is as the pattern says, in which each `{}` stands for text without a space.
fn fits(pattern: &str, text: &str) -> bool {
    let Some((before, rest)) = pattern.split_once("{}") else { return pattern == text };
    let Some(text) = text.strip_prefix(before) else { return false };
    let word = text.find(' ').unwrap_or(text.len());
    let ends = (1..=word).filter(|&end| text.is_char_boundary(end));
    ends.into_iter().any(|end| fits(rest, &text[end..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_fits_words() {
        #[rustfmt::skip]
        let table = [
            ("a b",          "a b",             true),
            ("a b",          "a c",             false),
            ("Pool: {}",     "Pool: x",         true),
            ("Pool: {}",     "Pool: ",          false),
            ("Pool: {}",     "Pool: x y",       false),
            ("{}-pool {}",   "docker-1-pool 3", true),
            ("{}G",          "9G",              true),
            ("{}G",          "9M",              false),
        ];
        for (pattern, text, expected) in table {
            assert_eq!(fits(pattern, text), expected, "{pattern:?} {text:?}");
        }
    }

    #[test]
    fn spacing_is_no_difference() {
        compare("A:  1\n\n  B: 65.54 kB\n", &[], "A: 1\nB:   65.54kB").unwrap();
        assert!(compare("A: 1\nB: 2", &[], "B: 2\nA: 1").is_err(), "order is");
    }

    #[test]
    fn what_differs_is_listed() {
        const LIST: &[Difference] = &[
            differs("Name: x", "Name: {}", "the machine's"),
            differs("Old: 1", "", "gone"),
            differs("", "New: {}", "more"),
        ];
        let guide = "Name: x\nOld: 1\nEnd";
        compare(guide, LIST, "New: 7\nName: berth\nEnd").unwrap();
        assert!(compare(guide, LIST, "Name: berth\nEnd").is_err(), "one is not needed");
        assert!(compare(guide, LIST, "New: 7\nName: berth\nOther").is_err());
        assert!(compare(guide, LIST, "New: 7\nName: berth").is_err());
    }
}

//! `.dockerignore`, and the patterns in it.
//!
//! A pattern stands for paths from the context's root, and for everything below a path that it
//! matches. `**` takes any number of directories, the rest is Go's `path.Match`. The last pattern
//! that matches decides; one that begins with `!` takes a path back in.

use crate::glob::{self, BadPattern};

/// Why a file of patterns was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the messages name the fields")]
pub enum IgnoreError {
    #[error("illegal exclusion pattern: \"!\"")]
    Bare,
    #[error(transparent)]
    Pattern(#[from] BadPattern),
}

/// The patterns, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ignore {
    patterns: Vec<Pattern>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Pattern {
    takes_back: bool,
    parts: Vec<Part>,
}

/// A piece of a pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    /// Nothing, or any directories with the slash behind them.
    Directories,
    /// Any text, slashes included.
    Everything,
    /// Any text without slashes.
    Star,
    /// Any character but a slash.
    Any,
    /// One of these.
    Set(glob::Set),
    /// This one.
    Char(char),
}

impl Ignore {
    /// Reads a file of patterns.
    pub fn parse(text: &str) -> Result<Self, IgnoreError> {
        let text = text.trim_start_matches('\u{feff}');
        let lines = text.lines().filter(|line| !line.starts_with('#')).map(str::trim);
        let patterns = lines.filter(|line| !line.is_empty()).map(Pattern::parse);
        Ok(Self { patterns: patterns.collect::<Result<_, _>>()? })
    }

    /// Whether a path, relative to the context's root, is left out.
    pub fn matches(&self, path: &str) -> bool {
        let path: Vec<char> = path.chars().collect();
        let parents = path.iter().enumerate().filter(|(_, c)| **c == '/').map(|(at, _)| at);
        let ends: Vec<usize> = parents.chain([path.len()]).filter(|end| *end > 0).collect();
        let mut is_out = false;
        for pattern in &self.patterns {
            // What changes nothing need not be looked at.
            if pattern.takes_back == is_out
                && ends.iter().any(|&end| matches(&pattern.parts, &path[..end]))
            {
                is_out = !is_out;
            }
        }
        is_out
    }
}

impl Pattern {
    fn parse(line: &str) -> Result<Self, IgnoreError> {
        let (takes_back, text) = match line.strip_prefix('!') {
            Some(rest) => (true, rest.trim()),
            None => (false, line),
        };
        if text.is_empty() {
            return Err(IgnoreError::Bare);
        }
        let text = clean(text);
        glob::matches(&text, ".")?;
        let chars: Vec<char> = text.chars().collect();
        Ok(Self { takes_back, parts: parts(&chars)? })
    }
}

/// Go's `filepath.Clean`, and without the slash in front.
fn clean(text: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in text.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            ".." if text.starts_with('/') => {}
            part => parts.push(part),
        }
    }
    if parts.is_empty() { ".".to_owned() } else { parts.join("/") }
}

fn parts(mut rest: &[char]) -> Result<Vec<Part>, BadPattern> {
    let mut parts = Vec::new();
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        parts.push(match first {
            '*' if rest.first() == Some(&'*') => {
                rest = &rest[1..];
                rest = rest.strip_prefix(&['/']).unwrap_or(rest);
                if rest.is_empty() { Part::Everything } else { Part::Directories }
            }
            '*' => Part::Star,
            '?' => Part::Any,
            '[' => {
                let (set, after) = glob::set(rest).ok_or(BadPattern)?;
                rest = after;
                Part::Set(set)
            }
            '\\' => {
                let (&escaped, after) = rest.split_first().ok_or(BadPattern)?;
                rest = after;
                Part::Char(escaped)
            }
            c => Part::Char(c),
        });
    }
    Ok(parts)
}

/// Whether the parts make up the whole text. Keeps every place that may be the present one, so no
/// pattern takes longer than its length times that of the text.
fn matches(parts: &[Part], text: &[char]) -> bool {
    let mut at: Vec<bool> = vec![false; text.len() + 1];
    at[0] = true;
    for part in parts {
        let mut next = vec![false; text.len() + 1];
        match part {
            Part::Everything | Part::Directories | Part::Star => {
                let mut open = false;
                for end in 0..=text.len() {
                    let before = end.checked_sub(1).map(|before| text[before]);
                    if *part == Part::Star && before == Some('/') {
                        open = false;
                    }
                    open |= at[end];
                    next[end] = match part {
                        Part::Directories => at[end] || (open && before == Some('/')),
                        _ => open,
                    };
                }
            }
            Part::Any => step(&at, &mut next, text, |c| c != '/'),
            Part::Set(set) => step(&at, &mut next, text, |c| c != '/' && set.contains(c)),
            Part::Char(own) => step(&at, &mut next, text, |c| c == *own),
        }
        at = next;
    }
    at[text.len()]
}

fn step(at: &[bool], next: &mut [bool], text: &[char], takes: impl Fn(char) -> bool) {
    for (end, &c) in text.iter().enumerate() {
        next[end + 1] = at[end] && takes(c);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_leave_paths_out() {
        #[rustfmt::skip]
        let table: &[(&str, &str, bool)] = &[
            // patterns          path           left out
            ("a",                "a",           true),
            ("a",                "a/b/c",       true),
            ("a",                "ab",          false),
            ("a",                "b/a",         false),
            ("/a/",              "a",           true),
            ("./a/../b",         "b",           true),
            ("  a  ",            "a",           true),
            ("# a\n\nb",         "a",           false),
            ("*",                "a/b",         true),
            ("*.go",             "a.go",        true),
            ("*.go",             "x/a.go",      false),
            ("*/*.go",           "x/a.go",      true),
            ("**/*.go",          "a.go",        true),
            ("**/*.go",          "x/y/a.go",    true),
            ("x/**",             "x/y/z",       true),
            ("x/**",             "x",           false),
            ("x/**/z",           "x/z",         true),
            ("x/**/z",           "x/a/b/z",     true),
            ("x/**/z",           "xz",          false),
            ("**",               "a/b",         true),
            ("**/",              "a",           true),
            ("a**b",             "a/x/b",       true),
            ("a?c",              "abc",         true),
            ("a?c",              "a/c",         false),
            ("[a-c]x",           "bx",          true),
            ("[^a-c]x",          "bx",          false),
            (r"a\*",             "a*",          true),
            (r"a\*",             "ab",          false),
            ("a\n!a/b",          "a/b",         false),
            ("a\n!a/b",          "a/c",         true),
            ("a\n!a/b\na/b/c",   "a/b/c",       true),
            ("!a\na",            "a",           true),
            ("*\n!a",            "a/x",         false),
            ("a.b",              "axb",         false),
            ("a+(b)",            "a+(b)",       true),
            ("\u{feff}a",        "a",           true),
            ("..",               "..",          true),
            ("a",                "",            false),
        ];
        for &(patterns, path, expected) in table {
            let ignore = Ignore::parse(patterns).unwrap();
            assert_eq!(ignore.matches(path), expected, "{patterns:?} {path:?}");
        }
    }

    #[test]
    fn patterns_that_are_none() {
        for (text, expected) in [
            ("!", "illegal exclusion pattern: \"!\""),
            ("! ", "illegal exclusion pattern: \"!\""),
            ("[", "syntax error in pattern"),
            ("a\\", "syntax error in pattern"),
        ] {
            assert_eq!(Ignore::parse(text).unwrap_err().to_string(), expected, "{text}");
        }
    }

    #[test]
    fn many_stars_take_no_time() {
        let ignore = Ignore::parse(&"*a".repeat(200)).unwrap();
        assert!(!ignore.matches(&"b".repeat(4000)));
    }
}

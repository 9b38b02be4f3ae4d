//! Go's `path.Match`: `*` and `?` stop at slashes, `[a-z]` and `[^a-z]` are sets, `\` escapes.

/// A pattern that is none, in the words of Go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("syntax error in pattern")]
pub struct BadPattern;

/// Whether the whole of `text` matches.
pub fn matches(pattern: &str, text: &str) -> Result<bool, BadPattern> {
    let pattern: Vec<char> = pattern.chars().collect();
    let text: Vec<char> = text.chars().collect();
    // Reads the pattern once to its end, so that a bad one is refused whatever the text is.
    check(&pattern)?;
    Ok(run(&pattern, &text))
}

fn check(mut pattern: &[char]) -> Result<(), BadPattern> {
    while let Some(&c) = pattern.first() {
        pattern = match c {
            '[' => set(&pattern[1..]).ok_or(BadPattern)?.1,
            '\\' => pattern.get(2..).ok_or(BadPattern)?,
            _ => &pattern[1..],
        };
    }
    Ok(())
}

/// Goes back only to the last star: what an earlier one could take, the last one can.
fn run(pattern: &[char], text: &[char]) -> bool {
    let (mut p, mut t) = (pattern, text);
    let mut star: Option<(&[char], &[char])> = None;
    loop {
        match one(p, t) {
            Step::Done => return true,
            Step::Star(rest) => {
                star = Some((rest, t));
                p = rest;
            }
            Step::Next(rest_p, rest_t) => (p, t) = (rest_p, rest_t),
            Step::Fail => match star {
                Some((after, taken)) if taken.first().is_some_and(|&c| c != '/') => {
                    star = Some((after, &taken[1..]));
                    (p, t) = (after, &taken[1..]);
                }
                _ => return false,
            },
        }
    }
}

enum Step<'a> {
    Done,
    Star(&'a [char]),
    Next(&'a [char], &'a [char]),
    Fail,
}

fn one<'a>(pattern: &'a [char], text: &'a [char]) -> Step<'a> {
    let Some(&p) = pattern.first() else {
        return if text.is_empty() { Step::Done } else { Step::Fail };
    };
    if p == '*' {
        return Step::Star(&pattern[1..]);
    }
    let Some(&c) = text.first() else { return Step::Fail };
    let (hit, rest) = match p {
        '?' => (c != '/', &pattern[1..]),
        '[' => match set(&pattern[1..]) {
            Some((set, rest)) => (set.contains(c), rest),
            None => (false, &pattern[1..]),
        },
        '\\' => (pattern.get(1) == Some(&c), pattern.get(2..).unwrap_or_default()),
        _ => (p == c, &pattern[1..]),
    };
    if hit { Step::Next(rest, &text[1..]) } else { Step::Fail }
}

/// The characters between `[` and `]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Set {
    negated: bool,
    ranges: Vec<(char, char)>,
}

impl Set {
    pub(crate) fn contains(&self, c: char) -> bool {
        self.ranges.iter().any(|&(low, high)| (low..=high).contains(&c)) != self.negated
    }
}

/// Reads a set after its `[`; `None` when it is malformed.
pub(crate) fn set(mut rest: &[char]) -> Option<(Set, &[char])> {
    let negated = rest.first() == Some(&'^');
    if negated {
        rest = &rest[1..];
    }
    let mut ranges = Vec::new();
    loop {
        if rest.first() == Some(&']') && !ranges.is_empty() {
            return Some((Set { negated, ranges }, &rest[1..]));
        }
        let low = bound(&mut rest)?;
        let high = if rest.first() == Some(&'-') {
            rest = &rest[1..];
            bound(&mut rest)?
        } else {
            low
        };
        ranges.push((low, high));
    }
}

fn bound(rest: &mut &[char]) -> Option<char> {
    let (&c, mut after) = rest.split_first()?;
    let c = match c {
        '-' | ']' => return None,
        '\\' => {
            let (&escaped, tail) = after.split_first()?;
            after = tail;
            escaped
        }
        c => c,
    };
    *rest = after;
    Some(c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_go() {
        #[rustfmt::skip]
        let table = [
            ("abc",      "abc",       Some(true)),
            ("*",        "abc",       Some(true)),
            ("*",        "a/b",       Some(false)),
            ("*/*",      "a/b",       Some(true)),
            ("a*b*c",    "axxbxxc",   Some(true)),
            ("a*b*c",    "axxbxx",    Some(false)),
            ("a?c",      "abc",       Some(true)),
            ("a?c",      "a/c",       Some(false)),
            ("[a-c]x",   "bx",        Some(true)),
            ("[^a-c]x",  "bx",        Some(false)),
            ("[^a-c]x",  "dx",        Some(true)),
            (r"a\*",     "a*",        Some(true)),
            (r"a\*",     "ab",        Some(false)),
            ("",         "",          Some(true)),
            ("",         "a",         Some(false)),
            ("busy*:1*", "busybox:1.36", Some(true)),
            ("[",        "a",         None),
            ("[]a]",     "]",         None),
            ("a[",       "x",         None),
            (r"a\",      "a",         None),
            ("[a-]",     "a",         None),
        ];
        for (pattern, text, expected) in table {
            assert_eq!(matches(pattern, text).ok(), expected, "{pattern} {text}");
        }
    }
}

//! From a Dockerfile's text to logical lines: directives, comments, continuations, here-documents.

use crate::SyntaxError;

/// The longest physical line that is taken, in bytes, as in Docker.
const LONGEST: usize = 65_535;

/// A text, split up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text {
    /// What continues a line and escapes a character: a backslash, or a backtick.
    pub escape: char,
    /// The logical lines.
    pub lines: Vec<Line>,
    /// What Docker warns of, as it prints it.
    pub warnings: Vec<String>,
}

/// A logical line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Where it begins, counted from 1.
    pub number: usize,
    /// The line with its continuations joined.
    pub text: String,
    /// The here-documents that it opens, in order.
    pub heredocs: Vec<Heredoc>,
}

/// A here-document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heredoc {
    /// The word that ends it.
    pub name: String,
    /// Whether `$NAME` in it means a variable: its name was not quoted.
    pub expand: bool,
    /// Whether tabs before its lines do not count (`<<-`).
    pub chomp: bool,
    /// The descriptor it is given to, if one was named (`3<<EOF`).
    pub descriptor: String,
    /// Its lines, each with its newline.
    pub content: String,
}

/// Splits a text up.
pub fn split(text: &str) -> Result<Text, SyntaxError> {
    let text = text.trim_start_matches('\u{feff}');
    let mut raw = Raw { lines: text.lines(), number: 0 };
    let mut directives = Directives::default();
    let mut lines = Vec::new();
    let mut warnings = Vec::new();
    while let Some(first) = raw.next()? {
        let number = raw.number;
        let first = first.trim_start();
        directives.look_at(first)?;
        if first.is_empty() || first.starts_with('#') {
            continue;
        }
        let (mut line, mut goes_on) = continuation(first, directives.escape);
        let mut has_gap = false;
        while goes_on {
            let Some(next) = raw.next()? else { break };
            if next.trim_start().starts_with('#') {
                continue;
            }
            if next.trim().is_empty() {
                has_gap = true;
                continue;
            }
            let (part, more) = continuation(next, directives.escape);
            line.push_str(&part);
            goes_on = more;
        }
        if has_gap {
            warnings.push(format!("[WARNING]: Empty continuation line found in:\n    {line}"));
        }
        let mut heredocs = opened(&line, directives.escape);
        for heredoc in &mut heredocs {
            heredoc.content = raw.until(heredoc)?;
        }
        lines.push(Line { number, text: line, heredocs });
    }
    if !warnings.is_empty() {
        warnings.push(
            "[WARNING]: Empty continuation lines will become errors in a future release."
                .to_owned(),
        );
    }
    if lines.is_empty() {
        return Err(SyntaxError::Empty);
    }
    Ok(Text { escape: directives.escape, lines, warnings })
}

/// Physical lines, counted.
struct Raw<'a> {
    lines: std::str::Lines<'a>,
    number: usize,
}

impl<'a> Raw<'a> {
    fn next(&mut self) -> Result<Option<&'a str>, SyntaxError> {
        let line = self.lines.next();
        self.number += usize::from(line.is_some());
        match line {
            Some(line) if line.len() > LONGEST => Err(SyntaxError::LongLine),
            line => Ok(line),
        }
    }

    /// The lines of a here-document.
    fn until(&mut self, heredoc: &Heredoc) -> Result<String, SyntaxError> {
        let mut content = String::new();
        loop {
            let line = self.next()?.ok_or(SyntaxError::HeredocEnd)?;
            let line = if heredoc.chomp { line.trim_start_matches('\t') } else { line };
            if line == heredoc.name {
                return Ok(content);
            }
            content.push_str(line);
            content.push('\n');
        }
    }
}

/// What a comment may steer. `syntax` and `check` are for other builders.
const DIRECTIVES: [&str; 3] = ["syntax", "escape", "check"];

/// The comments at the very beginning that steer the parser.
struct Directives {
    escape: char,
    /// Whether one may still come.
    open: bool,
    seen: Vec<String>,
}

impl Default for Directives {
    fn default() -> Self {
        Self { escape: '\\', open: true, seen: Vec::new() }
    }
}

impl Directives {
    fn look_at(&mut self, line: &str) -> Result<(), SyntaxError> {
        if !self.open {
            return Ok(());
        }
        let known = directive(line).filter(|(name, _)| DIRECTIVES.contains(&name.as_str()));
        let Some((name, value)) = known else {
            self.open = false;
            return Ok(());
        };
        if self.seen.contains(&name) {
            return Err(SyntaxError::DirectiveTwice { name });
        }
        let is_escape = name == "escape";
        self.seen.push(name);
        if !is_escape {
            return Ok(());
        }
        self.escape = match value {
            "`" => '`',
            "\\" => '\\',
            other => return Err(SyntaxError::EscapeToken { token: other.to_owned() }),
        };
        Ok(())
    }
}

/// `# name = value`.
fn directive(line: &str) -> Option<(String, &str)> {
    let (name, value) = line.strip_prefix('#')?.split_once('=')?;
    let name = name.trim().to_lowercase();
    let is_name = name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_alphanumeric());
    let value = value.trim();
    (is_name && !value.is_empty()).then_some((name, value))
}

/// The line without an escape at its end that continues it, and whether there was one.
fn continuation(line: &str, escape: char) -> (String, bool) {
    let trimmed = line.trim_end_matches([' ', '\t']);
    match trimmed.strip_suffix(escape) {
        Some(kept) if !kept.ends_with(escape) => (kept.to_owned(), true),
        _ => (line.to_owned(), false),
    }
}

/// The here-documents that a line opens. Only these instructions have any.
fn opened(line: &str, escape: char) -> Vec<Heredoc> {
    let mut rest = line.trim_start();
    loop {
        let name = rest.split(char::is_whitespace).next().unwrap_or_default();
        match name.to_lowercase().as_str() {
            "onbuild" => rest = rest[name.len()..].trim_start(),
            "run" | "copy" | "add" => break,
            _ => return Vec::new(),
        }
    }
    crate::words::split(rest, escape).iter().filter_map(|word| heredoc(word)).collect()
}

/// Reads `3<<-"NAME"`.
pub(crate) fn heredoc(word: &str) -> Option<Heredoc> {
    let descriptor: String = word.chars().take_while(char::is_ascii_digit).collect();
    let rest = word[descriptor.len()..].strip_prefix("<<")?;
    let (chomp, rest) = rest.strip_prefix('-').map_or((false, rest), |rest| (true, rest));
    if rest.contains('<') {
        return None;
    }
    let name = rest.replace(['"', '\''], "");
    let starts = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    if !starts || !name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-')) {
        return None;
    }
    let expand = name.len() == rest.len();
    Some(Heredoc { name, expand, chomp, descriptor, content: String::new() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_split_into_lines() {
        type Lines = &'static [(usize, &'static str)];
        #[rustfmt::skip]
        let table: &[(&str, Lines)] = &[
            ("FROM a\nRUN b\n",                   &[(1, "FROM a"), (2, "RUN b")]),
            ("\u{feff}FROM a",                    &[(1, "FROM a")]),
            ("# c\n\n  FROM a\r\n\tRUN b\r\n",    &[(3, "FROM a"), (4, "RUN b")]),
            ("RUN a \\\n  b\\\nc",                &[(1, "RUN a   bc")]),
            ("RUN a \\  \n b",                    &[(1, "RUN a  b")]),
            ("RUN a\\\\\nRUN b",                  &[(1, "RUN a\\\\"), (2, "RUN b")]),
            ("RUN a \\\n # c\n b",                &[(1, "RUN a  b")]),
            ("RUN a \\\n\n b\nRUN c",             &[(1, "RUN a  b"), (4, "RUN c")]),
            ("RUN a \\",                          &[(1, "RUN a ")]),
            ("# escape=`\nRUN a `\nb\\\nRUN c",   &[(2, "RUN a b\\"), (4, "RUN c")]),
            ("#c\n# escape=`\nRUN a `\nRUN c",    &[(3, "RUN a `"), (4, "RUN c")]),
            ("#c=d\n# escape=`\nRUN a `\nRUN c",  &[(3, "RUN a `"), (4, "RUN c")]),
            ("#check=d\n# escape=`\nRUN a `\nb",  &[(3, "RUN a b")]),
            ("# Syntax = x\n# ESCAPE = `\nRUN a `\nb", &[(3, "RUN a b")]),
            ("ENV a <<x\nRUN b",                  &[(1, "ENV a <<x"), (2, "RUN b")]),
        ];
        for &(text, expected) in table {
            let got = split(text).unwrap();
            let lines: Vec<_> = got.lines.iter().map(|l| (l.number, l.text.as_str())).collect();
            assert_eq!(lines, expected, "{text:?}");
        }
    }

    #[test]
    fn texts_that_cannot_be_split() {
        let long = format!("RUN {}", "x".repeat(LONGEST));
        #[rustfmt::skip]
        let table = [
            ("",                              "file with no instructions"),
            ("# only\n \n",                   "file with no instructions"),
            ("# escape=x\nFROM a",            "invalid escape token 'x' does not match ` or \\"),
            ("# escape=`\n# escape=`\nFROM",  "only one escape parser directive can be used"),
            ("# syntax=a\n# Syntax=b\nFROM",  "only one syntax parser directive can be used"),
            ("RUN <<E\nx",                    "unterminated heredoc"),
            (long.as_str(),                   "dockerfile line greater than maximum allowed size of 65535"),
        ];
        for (text, expected) in table {
            assert_eq!(split(text).unwrap_err().to_string(), expected, "{text:.40?}");
        }
    }

    #[test]
    fn empty_continuation_lines_are_warned_of() {
        let warnings = split("ENV a=b \\\n\n c=d").unwrap().warnings;
        let expected = [
            "[WARNING]: Empty continuation line found in:\n    ENV a=b  c=d",
            "[WARNING]: Empty continuation lines will become errors in a future release.",
        ];
        assert_eq!(warnings, expected);
    }

    #[test]
    fn here_documents_belong_to_their_line() {
        let text = "RUN <<A 3<<-\"B\" x\n a $x\nA\n\t\tb\n\tB\nCOPY <<C /\nc\nC\nONBUILD RUN <<D\nD\nUSER u";
        let got = split(text).unwrap();
        let heredoc = |name: &str, expand, chomp, descriptor: &str, content: &str| Heredoc {
            name: name.to_owned(),
            expand,
            chomp,
            descriptor: descriptor.to_owned(),
            content: content.to_owned(),
        };
        let all: Vec<Vec<Heredoc>> = got.lines.iter().map(|line| line.heredocs.clone()).collect();
        let expected = vec![
            vec![heredoc("A", true, false, "", " a $x\n"), heredoc("B", false, true, "3", "b\n")],
            vec![heredoc("C", true, false, "", "c\n")],
            vec![heredoc("D", true, false, "", "")],
            vec![],
        ];
        assert_eq!(all, expected);
        assert_eq!(got.lines[3].number, 11);
        for word in ["<<", "<<<a", "<<-", "<<1", "a<<b", "<<a/b"] {
            assert_eq!(super::heredoc(word), None, "{word}");
        }
    }
}

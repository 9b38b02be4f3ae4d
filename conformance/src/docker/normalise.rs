//! What differs from run to run gets a name.
//!
//! | name | what it stands for |
//! |---|---|
//! | path | `<data-root>`, `<socket>`, `<assets>`, `<dir>` (the case's directory) |
//! | known | `<busybox>` and such: digests and sizes of what is made from this machine's busybox |
//! | id | `<id-N>`: the Nth identifier that the case shows, whole (64 digits), short (12), or with `sha256:` |
//! | time | `<time>`: a point in time, but not year 1; `<ago>`: an age in words |
//! | temporary | `docker-import<n>`: a directory with a random number |
//! | address | `<ip>`, `<mac>`: addresses on the default bridge |
//! | columns | two spaces for more: the width of a table's columns follows from the above |
//! | race | lines that the CLI logs when an answer comes before it has sent or awaited everything are left out |
//! | control | `\r` and such for control characters |

use std::path::Path;
use std::sync::LazyLock;

use regex::{Captures, Regex};

/// The normalisations of one engine.
#[derive(Debug)]
pub(super) struct Normaliser {
    /// Text and what it becomes, in this order.
    literal: Vec<(String, String)>,
}

/// The normalisations of one case.
#[derive(Debug)]
pub(super) struct Own {
    literal: Vec<(String, String)>,
    /// The first 12 digits of the identifiers seen.
    ids: Vec<String>,
}

static ID: LazyLock<Regex> = LazyLock::new(|| regex(r"\b[0-9a-f]{12}(?:[0-9a-f]{52})?\b"));
static TIME: LazyLock<Regex> = LazyLock::new(|| {
    regex(
        r"\b(?:19[7-9]\d|2\d{3})-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:\.\d+)?(?:Z| ?[+-]\d\d:?\d\d(?: UTC)?| UTC)?",
    )
});
static CTIME: LazyLock<Regex> = LazyLock::new(|| {
    regex(r"\b(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun) [A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d 2\d{3}")
});
static AGO: LazyLock<Regex> = LazyLock::new(|| {
    regex(
        r"\b(?:Less than a second|About a minute|About an hour|\d+ (?:seconds?|minutes?|hours?|days?|weeks?|months?|years?))\b",
    )
});
static TEMPORARY: LazyLock<Regex> = LazyLock::new(|| regex(r"\bdocker-(import|builder)-?\d+"));
static RACE: LazyLock<Regex> = LazyLock::new(|| {
    regex(
        r#"(?m)^time="[^"]*" level=error msg="(?:error waiting for container: context canceled|Can't (?:add file|close tar writer)[^\n]*)"\n"#,
    )
});
static IP: LazyLock<Regex> = LazyLock::new(|| regex(r"\b172\.1[78]\.\d+\.\d+\b"));
static MAC: LazyLock<Regex> = LazyLock::new(|| regex(r"\b[0-9a-f]{2}(?::[0-9a-f]{2}){5}\b"));
static COLUMNS: LazyLock<Regex> = LazyLock::new(|| regex(r"([^ \t\n])(?: {2,}| *\t+)"));

/// `\b` and `\d` mean ASCII; the tables for more are not built in.
fn regex(text: &str) -> Regex {
    Regex::new(&text.replace(r"\b", r"(?-u:\b)").replace(r"\d", "[0-9]"))
        .expect("a constant that the tests use")
}

impl Normaliser {
    pub(super) fn new(paths: Vec<(String, String)>, known: Vec<(String, String)>) -> Self {
        Self { literal: paths.into_iter().chain(known).collect() }
    }

    /// For a case that runs in `dir`.
    pub(super) fn begin(&self, dir: &Path) -> Own {
        let mut literal = self.literal.clone();
        literal.push((dir.display().to_string(), "<dir>".to_owned()));
        Own { literal, ids: Vec::new() }
    }
}

impl Own {
    pub(super) fn apply(&mut self, text: &str) -> String {
        let mut text = text.to_owned();
        for (from, to) in &self.literal {
            text = text.replace(from, to);
        }
        let text = RACE.replace_all(&text, "");
        let text = ID.replace_all(&text, |found: &Captures<'_>| self.id(&found[0]));
        let text = TIME.replace_all(&text, "<time>");
        let text = CTIME.replace_all(&text, "<time>");
        let text = AGO.replace_all(&text, "<ago>");
        let text = TEMPORARY.replace_all(&text, "docker-$1<n>");
        let text = MAC.replace_all(&text, "<mac>");
        let text = IP.replace_all(&text, "<ip>");
        let text = COLUMNS.replace_all(&text, "$1  ");
        control(&text)
    }

    fn id(&mut self, found: &str) -> String {
        let start = &found[..12];
        // Numbers that are no identifiers: a hundred billion and more, or zeros.
        if start.bytes().all(|byte| byte.is_ascii_digit()) && found.len() == 12 {
            return found.to_owned();
        }
        let at = self.ids.iter().position(|id| id == start).unwrap_or_else(|| {
            self.ids.push(start.to_owned());
            self.ids.len() - 1
        });
        let kind = if found.len() == 12 { "short-id" } else { "id" };
        format!("<{kind}-{}>", at + 1)
    }
}

/// Control characters as Rust writes them; trailing spaces go.
fn control(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for line in lines_without_cr(text) {
        for letter in line.trim_end_matches(' ').chars() {
            if letter.is_control() {
                out.extend(letter.escape_default());
            } else {
                out.push(letter);
            }
        }
        out.push('\n');
    }
    out
}

/// `str::lines` takes a carriage return for a part of the line's end; here it is content.
fn lines_without_cr(text: &str) -> impl Iterator<Item = &str> {
    text.split_terminator('\n')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_gets_a_name() {
        let paths = vec![("/x/y".to_owned(), "<data-root>".to_owned())];
        let normaliser = Normaliser::new(paths, Vec::new());
        let mut own = normaliser.begin(Path::new("/tmp/case-1"));
        let whole = format!("sha256:{}", "0123456789ab".to_owned() + &"c".repeat(52));
        let table: &[(&str, &str)] = &[
            (&whole, "sha256:<id-1>\n"),
            ("0123456789ab  x", "<short-id-1>  x\n"),
            ("ffffffffffff", "<short-id-2>\n"),
            ("123456789012", "123456789012\n"),
            ("at /x/y/z and /tmp/case-1/f", "at <data-root>/z and <dir>/f\n"),
            ("2026-01-02T03:04:05.678Z", "<time>\n"),
            ("2026-01-02 03:04:05 +0000 UTC", "<time>\n"),
            ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00Z\n"),
            ("Exited (0) Less than a second ago      x", "Exited (0) <ago> ago  x\n"),
            ("Up 3 minutes", "Up <ago>\n"),
            ("172.17.0.2 02:42:ac:11:00:02", "<ip> <mac>\n"),
            ("a\r\nb\u{1b}[m ", "a\\r\nb\\u{1b}[m\n"),
            (
                "time=\"x\" level=error msg=\"error waiting for container: context canceled\"\na",
                "a\n",
            ),
            ("    indented", "    indented\n"),
        ];
        for &(text, expected) in table {
            assert_eq!(own.apply(text), expected, "{text:?}");
        }
    }
}

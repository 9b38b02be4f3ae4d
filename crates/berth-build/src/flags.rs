//! The `--name=value` words before an instruction's arguments.

use crate::SyntaxError;

/// Takes the flags off the front of an instruction's text: quotes and backslashes are undone in
/// them, and a bare `--` ends them.
pub(crate) fn split(line: &str) -> (Vec<String>, &str) {
    let mut flags = Vec::new();
    let mut rest = line.trim_start();
    while rest.starts_with("--") {
        let (word, after) = word(rest);
        rest = after;
        if word == "--" {
            break;
        }
        flags.push(word);
        rest = rest.trim_start();
    }
    (flags, rest.trim())
}

/// The first word, its quotes undone, and what follows it.
fn word(line: &str) -> (String, &str) {
    let mut word = String::new();
    let mut quote = None;
    let mut chars = line.char_indices();
    while let Some((at, c)) = chars.next() {
        match (quote, c) {
            (_, '\\') => word.extend(chars.next().map(|(_, escaped)| escaped)),
            (Some(open), c) if c == open => quote = None,
            (None, '\'' | '"') => quote = Some(c),
            (None, c) if c.is_whitespace() => return (word, &line[at..]),
            (_, c) => word.push(c),
        }
    }
    (word, "")
}

/// The flags of one instruction.
#[derive(Debug, Default)]
pub(crate) struct Flags {
    /// Name and value, as far as there is one.
    given: Vec<(String, Option<String>)>,
}

impl Flags {
    /// Reads the flags; only `known` ones may be there, and only `repeatable` ones twice.
    pub(crate) fn read(
        words: &[String],
        known: &[&str],
        repeatable: &[&str],
    ) -> Result<Self, SyntaxError> {
        let mut flags = Self::default();
        for word in words {
            let text = word.trim_start_matches("--");
            let (name, value) = match text.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (text, None),
            };
            if !known.contains(&name) {
                return Err(SyntaxError::UnknownFlag { flag: name.to_owned() });
            }
            if !repeatable.contains(&name) && flags.given.iter().any(|(had, _)| had == name) {
                return Err(SyntaxError::DuplicateFlag { flag: name.to_owned() });
            }
            flags.given.push((name.to_owned(), value));
        }
        Ok(flags)
    }

    /// The value of a flag that needs one; `None` when it is not given.
    pub(crate) fn value(&self, name: &str) -> Result<Option<&str>, SyntaxError> {
        Ok(self.values(name)?.pop())
    }

    /// All values of a flag that needs one.
    pub(crate) fn values(&self, name: &str) -> Result<Vec<&str>, SyntaxError> {
        let given = self.given.iter().filter(|(had, _)| had == name);
        given
            .map(|(_, value)| {
                let missing = || SyntaxError::FlagValue { flag: format!("--{name}") };
                value.as_deref().ok_or_else(missing)
            })
            .collect()
    }

    /// A flag that stands for itself, or says `true` or `false`.
    pub(crate) fn boolean(&self, name: &str) -> Result<bool, SyntaxError> {
        match self.given.iter().find(|(had, _)| had == name) {
            None => Ok(false),
            Some((_, None)) => Ok(true),
            Some((_, Some(value))) => match value.to_lowercase().as_str() {
                "true" | "" => Ok(true),
                "false" => Ok(false),
                _ => Err(SyntaxError::FlagBool { flag: name.to_owned(), value: value.clone() }),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_taken_off_the_front() {
        #[rustfmt::skip]
        let table: &[(&str, &[&str], &str)] = &[
            ("a --b",                 &[],                    "a --b"),
            ("--a=b c",               &["--a=b"],             "c"),
            ("  --a  --b=c   d  e ",  &["--a", "--b=c"],      "d  e"),
            ("--a=\"b c\" d",         &["--a=b c"],           "d"),
            ("--a='b'\\ c d",         &["--a=b c"],           "d"),
            ("-- --a",                &[],                    "--a"),
            ("--a",                   &["--a"],               ""),
            ("-a b",                  &[],                    "-a b"),
        ];
        for &(line, flags, rest) in table {
            let (got, left) = split(line);
            assert_eq!(
                (got.iter().map(String::as_str).collect::<Vec<_>>(), left),
                (flags.to_vec(), rest)
            );
        }
    }

    #[test]
    fn flags_are_known_and_come_once() {
        let read = |words: &[&str]| {
            let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
            Flags::read(&words, &["a", "m", "on"], &["m"])
        };
        let flags = read(&["--a=1", "--m=2", "--m=3", "--on"]).unwrap();
        assert_eq!(flags.value("a").unwrap(), Some("1"));
        assert_eq!(flags.values("m").unwrap(), ["2", "3"]);
        assert!(flags.boolean("on").unwrap());
        assert_eq!(read(&["--x"]).unwrap_err().to_string(), "unknown flag: --x");
        assert_eq!(
            read(&["--a=1", "--a=2"]).unwrap_err().to_string(),
            "duplicate flag specified: a"
        );
        let missing = read(&["--a"]).unwrap().value("a").unwrap_err().to_string();
        assert_eq!(missing, "missing a value on flag: --a");
        let unclear = read(&["--on=x"]).unwrap().boolean("on").unwrap_err().to_string();
        assert_eq!(unclear, "expecting boolean value for flag on, not: x");
    }
}

//! From a logical line to a node: the instruction's name, its flags, and its arguments split up as
//! that instruction has them. What each of them means is not looked at yet.

use crate::lines::{Heredoc, Line};
use crate::{SyntaxError, flags, words};

/// One instruction, not understood yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// The line it begins at, counted from 1.
    pub line: usize,
    /// The line itself, trimmed.
    pub text: String,
    /// The first word, as written.
    pub name: String,
    /// The words that begin with `--`.
    pub flags: Vec<String>,
    /// Everything behind the flags, trimmed.
    pub rest: String,
    /// The arguments.
    pub arguments: Arguments,
    /// The here-documents it opens.
    pub heredocs: Vec<Heredoc>,
}

/// An instruction's arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arguments {
    /// The words.
    pub words: Vec<String>,
    /// Whether they came as a JSON array.
    pub is_json: bool,
}

impl Arguments {
    fn plain(words: Vec<String>) -> Self {
        Self { words, is_json: false }
    }

    /// All of the text as one word; nothing for no text.
    fn whole(text: &str) -> Self {
        let is_empty = text.is_empty();
        Self::plain(if is_empty { Vec::new() } else { vec![text.to_owned()] })
    }
}

impl Node {
    /// Splits a line up.
    pub(crate) fn read(line: Line, escape: char) -> Result<Self, SyntaxError> {
        let text = line.text.trim();
        let end = text.find(is_blank).unwrap_or(text.len());
        let (flags, rest) = flags::split(&text[end..]);
        let name = &text[..end];
        let arguments = match name.to_lowercase().as_str() {
            "env" => Arguments::plain(pairs("ENV", rest, escape)?),
            "label" => Arguments::plain(pairs("LABEL", rest, escape)?),
            "arg" => Arguments::plain(words::split(rest, escape)),
            "cmd" | "entrypoint" | "run" | "shell" | "healthcheck" => {
                json_array(rest)?.unwrap_or_else(|| Arguments::whole(rest))
            }
            "add" | "copy" | "volume" => {
                json_array(rest)?.unwrap_or_else(|| Arguments::plain(fields(rest)))
            }
            "onbuild" => {
                check_trigger(rest, escape)?;
                Arguments::whole(rest)
            }
            "expose" | "from" => Arguments::plain(fields(rest)),
            _ => Arguments::whole(rest),
        };
        Ok(Self {
            line: line.number,
            text: text.to_owned(),
            name: name.to_owned(),
            flags,
            rest: rest.to_owned(),
            arguments,
            heredocs: line.heredocs,
        })
    }
}

/// Splits up what `ONBUILD` puts off, so that what cannot be split up is refused at once.
fn check_trigger(mut trigger: &str, escape: char) -> Result<(), SyntaxError> {
    // A trigger of triggers is refused later. It may be as deep as a line is long.
    while let Some((name, rest)) = trigger.split_once(is_blank)
        && name.eq_ignore_ascii_case("onbuild")
    {
        trigger = flags::split(rest).1;
    }
    if trigger.eq_ignore_ascii_case("onbuild") {
        return Ok(());
    }
    let line = Line { number: 0, text: trigger.to_owned(), heredocs: Vec::new() };
    Node::read(line, escape).map(drop)
}

/// What separates words; a no-break space does not.
pub(crate) fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\u{b}' | '\u{c}' | '\r')
}

fn fields(text: &str) -> Vec<String> {
    text.split(is_blank).filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

/// A JSON array of strings; `None` for what only looks like JSON.
pub(crate) fn json_array(text: &str) -> Result<Option<Arguments>, SyntaxError> {
    if !text.starts_with('[') {
        return Ok(None);
    }
    // As Docker, which does not look at what follows the array.
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<Vec<serde_json::Value>>();
    let Some(Ok(items)) = values.next() else { return Ok(None) };
    let words = items.into_iter().map(|item| match item {
        serde_json::Value::String(text) => Ok(text),
        _ => Err(SyntaxError::NotStrings),
    });
    Ok(Some(Arguments { words: words.collect::<Result<_, _>>()?, is_json: true }))
}

/// Names and values by turns.
fn pairs(name: &'static str, text: &str, escape: char) -> Result<Vec<String>, SyntaxError> {
    let words = words::split(text, escape);
    let Some(first) = words.first() else { return Ok(Vec::new()) };
    if !first.contains('=') {
        // The old form: the name, then everything else as its value.
        let Some((key, value)) = text.split_once(is_blank) else {
            return Err(SyntaxError::TwoArguments { name });
        };
        return Ok(vec![key.to_owned(), value.trim_start_matches(is_blank).to_owned()]);
    }
    let mut pairs = Vec::with_capacity(words.len() * 2);
    for word in words {
        let Some((key, value)) = word.split_once('=') else {
            return Err(SyntaxError::NoEquals { word });
        };
        pairs.extend([key.to_owned(), value.to_owned()]);
    }
    Ok(pairs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_split_by_their_instruction() {
        #[rustfmt::skip]
        let table: &[(&str, &[&str], bool)] = &[
            // line                            words               JSON
            ("RUN  echo  a ",                  &["echo  a"],       false),
            ("run [\"a\", \"b c\"]",           &["a", "b c"],      true),
            ("RUN [ -e x ]",                   &["[ -e x ]"],      false),
            ("RUN ['a']",                      &["['a']"],         false),
            ("RUN",                            &[],                false),
            ("COPY a  b\tc",                   &["a", "b", "c"],   false),
            ("COPY [\"a b\", \"c\"]",          &["a b", "c"],      true),
            ("ENV a=b c='d e'",                &["a", "b", "c", "'d e'"], false),
            ("ENV a  b c",                     &["a", "b c"],      false),
            ("ARG a b=c",                      &["a", "b=c"],      false),
            ("USER a b",                       &["a b"],           false),
            ("FROM a AS b",                    &["a", "AS", "b"],  false),
            ("CMD []",                         &[],                true),
            ("CMD [\"a\"] b",                  &["a"],             true),
            ("CMD [\"a\"",                     &["[\"a\""],        false),
            ("ONBUILD ENV a=b",                &["ENV a=b"],       false),
            ("ONBUILD",                        &[],                false),
        ];
        for &(text, words, is_json) in table {
            let line = Line { number: 1, text: text.to_owned(), heredocs: Vec::new() };
            let node = Node::read(line, '\\').unwrap();
            let expected = words.iter().map(|word| (*word).to_owned()).collect();
            assert_eq!(node.arguments, Arguments { words: expected, is_json }, "{text}");
        }
    }

    #[test]
    fn what_cannot_be_split_up_is_refused() {
        let deep = "ONBUILD ".repeat(8000);
        #[rustfmt::skip]
        let table = [
            ("ENV a",                    Some("ENV must have two arguments")),
            ("ONBUILD ENV a",            Some("ENV must have two arguments")),
            ("onbuild ONBUILD label a",  Some("LABEL must have two arguments")),
            ("ONBUILD CMD [1]",          Some("when using JSON array syntax, arrays must be comprised of strings only")),
            ("ONBUILD FOO",              None),
            (deep.as_str(),              None),
        ];
        for (text, expected) in table {
            let line = Line { number: 1, text: text.to_owned(), heredocs: Vec::new() };
            let error = Node::read(line, '\\').err().map(|error| error.to_string());
            assert_eq!(error.as_deref(), expected, "{}", text.get(..30).unwrap_or(text));
        }
    }
}

//! Words of a Dockerfile instruction: splitting, quotes, escapes and `$NAME`.

/// Why a word could not be expanded. The texts are Docker's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("failed to process {word:?}: {problem}")]
pub struct WordError {
    word: String,
    problem: String,
}

/// Expands `word` to one string.
pub(super) fn expand(word: &str, env: &[String]) -> Result<String, WordError> {
    run(word, env).map(|done| done.text)
}

/// Expands `word` and splits what variables brought in at white space (`EXPOSE $PORTS`).
pub(super) fn expand_split(word: &str, env: &[String]) -> Result<Vec<String>, WordError> {
    run(word, env).map(|done| done.words)
}

/// Splits a line into words at white space, quotes kept for a later [`expand`].
pub(super) fn split(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quote: Option<char> = None;
    let mut had_quote = false;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match quote {
            None if c.is_whitespace() => {
                if had_quote || !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                had_quote = false;
            }
            None if c == '\\' => {
                // The escape and what it escapes both stay; alone at the end it is dropped.
                if let Some(next) = chars.next() {
                    word.push(c);
                    word.push(next);
                }
            }
            None => {
                if matches!(c, '\'' | '"') {
                    quote = Some(c);
                    had_quote = true;
                }
                word.push(c);
            }
            Some(q) => {
                if c == q {
                    quote = None;
                }
                if c == '\\' && q != '\'' {
                    if let Some(next) = chars.next() {
                        word.push(c);
                        word.push(next);
                    }
                } else {
                    word.push(c);
                }
            }
        }
    }
    if had_quote || !word.is_empty() {
        words.push(word);
    }
    words
}

struct Done {
    text: String,
    words: Vec<String>,
}

fn run(word: &str, env: &[String]) -> Result<Done, WordError> {
    let mut expander = Expander { rest: word.chars().peekable(), env };
    expander.until(None).map_err(|problem| WordError { word: word.to_owned(), problem })
}

struct Expander<'a> {
    rest: std::iter::Peekable<std::str::Chars<'a>>,
    env: &'a [String],
}

/// Collects the text, and beside it the words that unquoted white space separates.
#[derive(Default)]
struct Collector {
    text: String,
    words: Vec<String>,
    word: String,
}

impl Collector {
    /// A character that separates words when it is white space.
    fn soft(&mut self, c: char) {
        self.text.push(c);
        if !c.is_whitespace() {
            self.word.push(c);
        } else if !self.word.is_empty() {
            self.words.push(std::mem::take(&mut self.word));
        }
    }

    fn soft_text(&mut self, text: &str) {
        text.chars().for_each(|c| self.soft(c));
    }

    fn hard(&mut self, c: char) {
        self.text.push(c);
        self.word.push(c);
    }

    fn hard_text(&mut self, text: &str) {
        self.text.push_str(text);
        self.word.push_str(text);
    }

    fn finish(mut self) -> Done {
        if !self.word.is_empty() {
            self.words.push(self.word);
        }
        Done { text: self.text, words: self.words }
    }
}

impl Expander<'_> {
    fn until(&mut self, stop: Option<char>) -> Result<Done, String> {
        let mut out = Collector::default();
        while let Some(&c) = self.rest.peek() {
            if stop == Some(c) {
                self.rest.next();
                return Ok(out.finish());
            }
            match c {
                '\'' => out.hard_text(&self.single_quoted()?),
                '"' => out.hard_text(&self.double_quoted()?),
                '$' => out.soft_text(&self.dollar()?),
                '\\' => {
                    self.rest.next();
                    match self.rest.next() {
                        Some(escaped) => out.hard(escaped),
                        None => break,
                    }
                }
                _ => {
                    self.rest.next();
                    out.soft(c);
                }
            }
        }
        match stop {
            Some(stop) => {
                Err(format!("unexpected end of statement while looking for matching {stop}"))
            }
            None => Ok(out.finish()),
        }
    }

    fn single_quoted(&mut self) -> Result<String, String> {
        self.rest.next();
        let mut text = String::new();
        loop {
            match self.rest.next() {
                Some('\'') => return Ok(text),
                Some(c) => text.push(c),
                None => return Err(unmatched("single-quote")),
            }
        }
    }

    fn double_quoted(&mut self) -> Result<String, String> {
        self.rest.next();
        let mut text = String::new();
        loop {
            match self.rest.peek() {
                None => return Err(unmatched("double-quote")),
                Some('$') => text.push_str(&self.dollar()?),
                Some('"') => {
                    self.rest.next();
                    return Ok(text);
                }
                Some('\\') => {
                    self.rest.next();
                    match self.rest.peek() {
                        None => {}
                        // Only these can be escaped; the backslash stays before all others.
                        Some(&c @ ('"' | '$' | '\\')) => {
                            self.rest.next();
                            text.push(c);
                        }
                        Some(_) => text.push('\\'),
                    }
                }
                Some(&c) => {
                    self.rest.next();
                    text.push(c);
                }
            }
        }
    }

    fn dollar(&mut self) -> Result<String, String> {
        self.rest.next();
        if self.rest.peek() != Some(&'{') {
            let name = self.name();
            if name.is_empty() {
                return Ok("$".to_owned());
            }
            return Ok(self.value(&name).unwrap_or_default().to_owned());
        }
        self.rest.next();
        match self.rest.peek() {
            None => return Err("syntax error: missing '}'".to_owned()),
            Some('{' | '}' | ':') => return Err("syntax error: bad substitution".to_owned()),
            Some(_) => {}
        }
        let name = self.name();
        let mut modifier = String::new();
        let mut next = self.rest.next();
        if next == Some('}') {
            return Ok(self.value(&name).unwrap_or_default().to_owned());
        }
        let null_is_unset = next == Some(':');
        if null_is_unset {
            modifier.push(':');
            next = self.rest.next();
        }
        let Some(operator) = next else {
            return Err("syntax error: missing '}'".to_owned());
        };
        modifier.push(operator);
        if !matches!(operator, '-' | '+' | '?') {
            return Err(format!("unsupported modifier ({modifier}) in substitution"));
        }
        let word = match self.until(Some('}')) {
            Ok(done) => done.text,
            Err(_) if self.rest.peek().is_none() => {
                return Err("syntax error: missing '}'".to_owned());
            }
            Err(problem) => return Err(problem),
        };
        let value = self.value(&name);
        let usable = value.filter(|value| !(null_is_unset && value.is_empty()));
        match (operator, usable) {
            ('+', Some(_)) | ('-', None) => Ok(word),
            ('+', None) => Ok(String::new()),
            (_, Some(value)) => Ok(value.to_owned()),
            (_, None) if !word.is_empty() => Err(format!("{name}: {word}")),
            (_, None) if value.is_none() => Err(format!("{name}: is not allowed to be unset")),
            (_, None) => Err(format!("{name}: is not allowed to be empty")),
        }
    }

    /// A variable's name, a run of digits, or one special character.
    fn name(&mut self) -> String {
        let mut name = String::new();
        while let Some(&c) = self.rest.peek() {
            if name.is_empty() && c.is_ascii_digit() {
                while let Some(digit) = self.rest.next_if(char::is_ascii_digit) {
                    name.push(digit);
                }
                return name;
            }
            if name.is_empty() && matches!(c, '@' | '*' | '#' | '?' | '-' | '$' | '!') {
                self.rest.next();
                name.push(c);
                return name;
            }
            if !(c.is_alphanumeric() || c == '_') {
                break;
            }
            self.rest.next();
            name.push(c);
        }
        name
    }

    fn value(&self, name: &str) -> Option<&str> {
        self.env.iter().find_map(|entry| match entry.split_once('=') {
            Some((key, value)) => (key == name).then_some(value),
            None => (entry == name).then_some(""),
        })
    }
}

fn unmatched(what: &str) -> String {
    format!("unexpected end of statement while looking for matching {what}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_expanded_as_docker_does() {
        let env = ["A=one".to_owned(), "E=".to_owned(), "P=80  443".to_owned()];
        #[rustfmt::skip]
        let table: &[(&str, Result<&str, &str>)] = &[
            ("plain",          Ok("plain")),
            ("$A",             Ok("one")),
            ("${A}x",          Ok("onex")),
            ("$Ax",            Ok("")),
            ("$",              Ok("$")),
            ("'$A'",           Ok("$A")),
            ("\"$A b\"",       Ok("one b")),
            (r#""a\"b\c""#,    Ok(r#"a"b\c"#)),
            (r"\$A",           Ok("$A")),
            ("${B:-d}",        Ok("d")),
            ("${E:-d}",        Ok("d")),
            ("${E-d}",         Ok("")),
            ("${A:+yes}",      Ok("yes")),
            ("${B:+yes}",      Ok("")),
            ("${B:-$A}",       Ok("one")),
            ("${B?}",          Err("B: is not allowed to be unset")),
            ("${E:?}",         Err("E: is not allowed to be empty")),
            ("${B:?gone}",     Err("B: gone")),
            ("${A",            Err("syntax error: missing '}'")),
            ("${}",            Err("syntax error: bad substitution")),
            ("${A:=x}",        Err("unsupported modifier (:=) in substitution")),
            ("'x",             Err("unexpected end of statement while looking for matching single-quote")),
            ("\"x",            Err("unexpected end of statement while looking for matching double-quote")),
        ];
        for &(word, expected) in table {
            let got = expand(word, &env);
            let expected = expected.map(str::to_owned).map_err(|problem| WordError {
                word: word.to_owned(),
                problem: problem.to_owned(),
            });
            assert_eq!(got, expected, "{word}");
        }
        assert_eq!(expand_split("$P 'a b'", &env).unwrap(), ["80", "443", "a b"]);
    }

    #[test]
    fn lines_split_at_unquoted_white_space() {
        #[rustfmt::skip]
        let table: &[(&str, &[&str])] = &[
            ("a b",           &["a", "b"]),
            ("a=\"b c\" d",   &["a=\"b c\"", "d"]),
            ("a='b c'",       &["a='b c'"]),
            (r"a=b\ c",       &[r"a=b\ c"]),
            ("  \"\" ",       &["\"\""]),
            (r"a\",           &["a"]),
        ];
        for &(line, expected) in table {
            assert_eq!(split(line), expected, "{line}");
        }
    }
}

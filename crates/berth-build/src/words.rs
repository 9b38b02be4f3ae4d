//! Words of an instruction: splitting, quotes, escapes and `$NAME`.

/// Variables and what escapes a character.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// `NAME=value`; of several with one name the first counts.
    pub env: &'a [String],
    /// A backslash, or what the directive `escape` says.
    pub escape: char,
}

/// Why a word could not be expanded. The texts are Docker's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("failed to process {word:?}: {problem}")]
pub struct WordError {
    word: String,
    problem: String,
}

/// Expands `word` to one string.
pub fn expand(word: &str, context: Context<'_>) -> Result<String, WordError> {
    run(word, context).map(|done| done.text)
}

/// Expands `word` and splits what variables brought in at white space (`EXPOSE $PORTS`).
pub fn expand_split(word: &str, context: Context<'_>) -> Result<Vec<String>, WordError> {
    run(word, context).map(|done| done.words)
}

/// Expands a text whose quotes are part of it: a here-document.
pub fn expand_text(text: &str, context: Context<'_>) -> Result<String, WordError> {
    let mut expander = Expander { rest: text.chars().peekable(), context, depth: 0 };
    let mut out = String::new();
    while let Some(&c) = expander.rest.peek() {
        if c == '$' {
            let value = expander.dollar();
            out += &value.map_err(|problem| WordError { word: text.to_owned(), problem })?;
            continue;
        }
        expander.rest.next();
        let escaped = expander
            .rest
            .next_if(|&next| c == context.escape && (next == '$' || next == context.escape));
        out.push(escaped.unwrap_or(c));
    }
    Ok(out)
}

/// Splits a line into words at white space, quotes kept for a later [`expand`].
pub(crate) fn split(line: &str, escape: char) -> Vec<String> {
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
            None if c == escape => {
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
                if c == escape && q != '\'' {
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

fn run(word: &str, context: Context<'_>) -> Result<Done, WordError> {
    let mut expander = Expander { rest: word.chars().peekable(), context, depth: 0 };
    expander.until(None).map_err(|problem| WordError { word: word.to_owned(), problem })
}

struct Expander<'a> {
    rest: std::iter::Peekable<std::str::Chars<'a>>,
    context: Context<'a>,
    /// How many `${…}` are open.
    depth: usize,
}

/// As long as a word may become, in bytes: `ENV A=$A$A` doubles.
const LONGEST: usize = 1 << 20;
/// As deep as `${A:-${B:-…}}` may go.
const DEEPEST: usize = 100;

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
            if out.text.len() > LONGEST {
                return Err("the result is too long".to_owned());
            }
            match c {
                '\'' => out.hard_text(&self.single_quoted()?),
                '"' => out.hard_text(&self.double_quoted()?),
                '$' => out.soft_text(&self.dollar()?),
                c if c == self.context.escape => {
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
                Some(&escape) if escape == self.context.escape => {
                    self.rest.next();
                    match self.rest.peek() {
                        None => {}
                        // Only these can be escaped; the escape stays before all others.
                        Some(&c) if matches!(c, '"' | '$') || c == escape => {
                            self.rest.next();
                            text.push(c);
                        }
                        Some(_) => text.push(escape),
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
            None => return Err(MISSING_BRACE.to_owned()),
            Some('{' | '}' | ':') => return Err("syntax error: bad substitution".to_owned()),
            Some(_) => {}
        }
        if self.depth == DEEPEST {
            return Err("syntax error: too many substitutions in each other".to_owned());
        }
        self.depth += 1;
        let value = self.braced();
        self.depth -= 1;
        value
    }

    /// What stands between `${` and `}`.
    fn braced(&mut self) -> Result<String, String> {
        let name = self.name();
        let value = self.value(&name).map(str::to_owned);
        match self.rest.next() {
            None => Err(MISSING_BRACE.to_owned()),
            Some('}') => Ok(value.unwrap_or_default()),
            Some(':') => match self.rest.next() {
                None => Err(MISSING_BRACE.to_owned()),
                Some(operator @ ('-' | '+' | '?')) => {
                    let is_empty = value.as_ref().is_some_and(String::is_empty);
                    let usable = value.filter(|value| !value.is_empty());
                    self.conditional(&name, operator, usable, is_empty)
                }
                Some(other) => Err(format!("unsupported modifier (:{other}) in substitution")),
            },
            Some(operator @ ('-' | '+' | '?')) => self.conditional(&name, operator, value, false),
            Some(operator @ ('#' | '%')) => {
                let longest = self.rest.next_if_eq(&operator).is_some();
                let pattern = self.braced_word()?;
                Ok(trim(&value.unwrap_or_default(), operator, &pattern, longest))
            }
            Some('/') => {
                let all = self.rest.next_if_eq(&'/').is_some();
                let (pattern, new) = self.replacement()?;
                Ok(replace(&value.unwrap_or_default(), &pattern, &new, all))
            }
            Some(other) => Err(format!("unsupported modifier ({other}) in substitution")),
        }
    }

    fn conditional(
        &mut self,
        name: &str,
        operator: char,
        value: Option<String>,
        is_empty: bool,
    ) -> Result<String, String> {
        let word = self.braced_word()?;
        match (operator, value) {
            ('+', Some(_)) | ('-', None) => Ok(word),
            ('+', None) => Ok(String::new()),
            (_, Some(value)) => Ok(value),
            (_, None) if !word.is_empty() => Err(format!("{name}: {word}")),
            (_, None) if is_empty => Err(format!("{name}: is not allowed to be empty")),
            (_, None) => Err(format!("{name}: is not allowed to be unset")),
        }
    }

    /// A word that ends at `}`.
    fn braced_word(&mut self) -> Result<String, String> {
        match self.until(Some('}')) {
            Ok(done) => Ok(done.text),
            Err(_) if self.rest.peek().is_none() => Err(MISSING_BRACE.to_owned()),
            Err(problem) => Err(problem),
        }
    }

    /// `pattern/new}`; an escaped slash is part of the pattern.
    fn replacement(&mut self) -> Result<(String, String), String> {
        let missing = |error: String, at_end: bool| {
            if at_end { "syntax error: missing '/' in ${}".to_owned() } else { error }
        };
        let pattern = match self.until(Some('/')) {
            Ok(done) => done.text,
            Err(error) => return Err(missing(error, self.rest.peek().is_none())),
        };
        Ok((pattern, self.braced_word()?))
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
        self.context.env.iter().find_map(|entry| match entry.split_once('=') {
            Some((key, value)) => (key == name).then_some(value),
            None => (entry == name).then_some(""),
        })
    }
}

const MISSING_BRACE: &str = "syntax error: missing '}'";

/// Whether the shell's pattern, where `*` and `?` take slashes too, is the whole text.
fn matches(pattern: &[char], text: &[char]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() || p < pattern.len() {
        let step = match pattern.get(p) {
            Some('*') => {
                star = Some((p, t));
                p += 1;
                continue;
            }
            Some('?') if t < text.len() => 1,
            Some('\\') if p + 1 < pattern.len() && text.get(t) == pattern.get(p + 1) => 2,
            Some(c) if text.get(t) == Some(c) => 1,
            _ => 0,
        };
        if step > 0 {
            (p, t) = (p + step, t + 1);
            continue;
        }
        match star {
            Some((at, taken)) if taken < text.len() => {
                star = Some((at, taken + 1));
                (p, t) = (at + 1, taken + 1);
            }
            _ => return false,
        }
    }
    true
}

/// `${NAME#pattern}` and its like: a beginning (`#`) or an end (`%`) that matches is left out.
fn trim(value: &str, operator: char, pattern: &str, longest: bool) -> String {
    let value: Vec<char> = value.chars().collect();
    let pattern: Vec<char> = pattern.chars().collect();
    let mut lengths: Vec<usize> = (0..=value.len()).collect();
    if longest {
        lengths.reverse();
    }
    let from_start = operator == '#';
    let split = |length: usize| if from_start { length } else { value.len() - length };
    for length in lengths {
        let (start, end) = value.split_at(split(length));
        let (cut, kept) = if from_start { (start, end) } else { (end, start) };
        if matches(&pattern, cut) {
            return kept.iter().collect();
        }
    }
    value.iter().collect()
}

/// `${NAME/pattern/new}`: the longest match that comes first, or (`//`) each.
fn replace(value: &str, pattern: &str, new: &str, all: bool) -> String {
    let value: Vec<char> = value.chars().collect();
    let pattern: Vec<char> = pattern.chars().collect();
    let mut out = String::new();
    let mut at = 0;
    let mut done = false;
    while at < value.len() {
        let longest = (at + 1..=value.len()).rev().find(|&end| matches(&pattern, &value[at..end]));
        if let Some(end) = longest.filter(|_| !done) {
            out.push_str(new);
            at = end;
            done = !all;
        } else {
            out.push(value[at]);
            at += 1;
        }
    }
    out
}

fn unmatched(what: &str) -> String {
    format!("unexpected end of statement while looking for matching {what}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_expanded_as_docker_does() {
        let env = ["A=one", "E=", "P=80  443", "F=a/b.c/d.c", "A=two"].map(str::to_owned);
        let context = Context { env: &env, escape: '\\' };
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
            ("${A:",           Err("syntax error: missing '}'")),
            ("${A:-",          Err("syntax error: missing '}'")),
            ("${A-${B-${C-c}}}", Ok("one")),
            ("${B-${C-${D-d}}}", Ok("d")),
            ("${F#*/}",        Ok("b.c/d.c")),
            ("${F##*/}",       Ok("d.c")),
            ("${F%.*}",        Ok("a/b.c/d")),
            ("${F%%.*}",       Ok("a/b")),
            ("${F%x}",         Ok("a/b.c/d.c")),
            ("${F#?}",         Ok("/b.c/d.c")),
            ("${B#x}",         Ok("")),
            ("${F/.c/.o}",     Ok("a/b.o/d.c")),
            ("${F//.c/.o}",    Ok("a/b.o/d.o")),
            ("${F//.c/}",      Ok("a/b/d")),
            (r"${F/\//-}",     Ok("a-b.c/d.c")),
            ("${F/x",          Err("syntax error: missing '/' in ${}")),
            ("${A^}",          Err("unsupported modifier (^) in substitution")),
            ("'x",             Err("unexpected end of statement while looking for matching single-quote")),
            ("\"x",            Err("unexpected end of statement while looking for matching double-quote")),
        ];
        for &(word, expected) in table {
            let got = expand(word, context);
            let expected = expected.map(str::to_owned).map_err(|problem| WordError {
                word: word.to_owned(),
                problem: problem.to_owned(),
            });
            assert_eq!(got, expected, "{word}");
        }
        assert_eq!(expand_split("$P 'a b'", context).unwrap(), ["80", "443", "a b"]);
    }

    #[test]
    fn another_character_may_escape() {
        let env = ["A=one".to_owned()];
        let context = Context { env: &env, escape: '`' };
        assert_eq!(expand(r"`$A \$A", context).unwrap(), r"$A \one");
        assert_eq!(split("a` b c\\", '`'), ["a` b", "c\\"]);
    }

    #[test]
    fn substitutions_in_each_other_have_an_end() {
        let context = Context { env: &[], escape: '\\' };
        let deep = "${A:-".repeat(10_000);
        assert!(expand(&deep, context).is_err());
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
            assert_eq!(split(line, '\\'), expected, "{line}");
        }
    }
}

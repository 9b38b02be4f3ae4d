//! `WWW-Authenticate`: how a registry wants to be told who asks (RFC 9110 and 6750).

use std::collections::BTreeMap;

use reqwest::header::{HeaderMap, WWW_AUTHENTICATE};

/// One way to say who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Challenge {
    /// In lower case.
    pub(crate) scheme: String,
    /// Names in lower case.
    pub(crate) parameters: BTreeMap<String, String>,
}

/// Every challenge of an answer, in its order.
pub(crate) fn all(headers: &HeaderMap) -> Vec<Challenge> {
    let texts = headers.get_all(WWW_AUTHENTICATE).iter();
    texts.filter_map(|value| value.to_str().ok()).flat_map(parse).collect()
}

fn parse(text: &str) -> Vec<Challenge> {
    let mut challenges: Vec<Challenge> = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let end = rest.find(|c: char| !is_token(c)).unwrap_or(rest.len());
        if end == 0 {
            return challenges;
        }
        let (word, after) = rest.split_at(end);
        if let Some(value) = after.strip_prefix('=') {
            let (value, left) = parameter(value);
            if let Some(challenge) = challenges.last_mut() {
                challenge.parameters.insert(word.to_ascii_lowercase(), value);
            }
            rest = left;
        } else {
            let scheme = word.to_ascii_lowercase();
            challenges.push(Challenge { scheme, parameters: BTreeMap::new() });
            rest = after;
        }
    }
}

/// A token or a quoted text, and what follows it.
fn parameter(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find(|c: char| !is_token(c)).unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let mut value = String::new();
    let mut letters = quoted.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return (value, &quoted[at + 1..]),
            '\\' => value.extend(letters.next().map(|(_, escaped)| escaped)),
            other => value.push(other),
        }
    }
    (value, "")
}

fn is_token(c: char) -> bool {
    c.is_ascii_graphic() && !"()<>@,;:\\\"/[]?={}".contains(c)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Schemes, each with its parameters.
    type Challenges<'a> = &'a [(&'a str, &'a [(&'a str, &'a str)])];

    #[test]
    fn challenges_are_read() {
        #[rustfmt::skip]
        let table: &[(&str, Challenges<'_>)] = &[
            ("", &[]),
            ("Basic realm=\"a \\\"b\\\"\"", &[("basic", &[("realm", "a \"b\"")])]),
            ("Bearer realm=\"https://t/x\",service=\"s\",scope=\"repository:a:pull,push\"",
                &[("bearer", &[("realm", "https://t/x"), ("scope", "repository:a:pull,push"), ("service", "s")])]),
            ("Negotiate, Basic realm=r, BEARER Realm=\"q\" , error=\"invalid_token\"",
                &[("negotiate", &[]), ("basic", &[("realm", "r")]), ("bearer", &[("error", "invalid_token"), ("realm", "q")])]),
            ("Bearer realm=\"cut", &[("bearer", &[("realm", "cut")])]),
            ("=\"x\"", &[]),
        ];
        for (text, expected) in table {
            let got = parse(text);
            let got: Vec<(&str, Vec<(&str, &str)>)> = got
                .iter()
                .map(|c| {
                    let parameters = c.parameters.iter().map(|(k, v)| (&**k, &**v)).collect();
                    (&*c.scheme, parameters)
                })
                .collect();
            let expected: Vec<_> = expected.iter().map(|(s, p)| (*s, p.to_vec())).collect();
            assert_eq!(got, expected, "{text:?}");
        }
    }
}

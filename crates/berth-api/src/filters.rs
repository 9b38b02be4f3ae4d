//! The `filters` parameter: what it says and how its values match.

use std::collections::BTreeMap;

use berth_types::duration::{DurationError, parse_time_filter};
use berth_types::{Classify, ErrorKind, Timestamp};
use regex::Regex;
use serde::Deserialize;

/// Why filters were refused. The texts are Docker's.
#[expect(missing_docs, reason = "the messages name the fields")]
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    #[error("invalid filter")]
    Malformed,
    #[error("invalid filter '{key}'")]
    Key { key: String },
    #[error("invalid filter '{key}=[{}]'", .values.join(" "))]
    Value { key: String, values: Vec<String> },
    #[error("more than one until filter specified")]
    ManyUntil,
    #[error(transparent)]
    Time(#[from] DurationError),
}

impl Classify for FilterError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Malformed
            | Self::Key { .. }
            | Self::Value { .. }
            | Self::ManyUntil
            | Self::Time(_) => ErrorKind::InvalidParameter,
        }
    }
}

/// Values by key. A key that is absent matches everything.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Filters(BTreeMap<String, BTreeMap<String, bool>>);

/// The keys that every prune knows.
pub const PRUNE_KEYS: &[&str] = &["label", "label!", "until"];

impl Filters {
    /// Reads `{"key":{"value":true}}` or the older `{"key":["value"]}`; empty is no filter.
    pub fn parse(text: &str) -> Result<Self, FilterError> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Encoding {
            Sets(BTreeMap<String, Option<BTreeMap<String, bool>>>),
            Lists(BTreeMap<String, Option<Vec<String>>>),
        }

        if text.is_empty() {
            return Ok(Self::default());
        }
        let sets = match serde_json::from_str(text).map_err(|_err| FilterError::Malformed)? {
            None => BTreeMap::new(),
            Some(Encoding::Sets(sets)) => {
                sets.into_iter().map(|(key, set)| (key, set.unwrap_or_default())).collect()
            }
            Some(Encoding::Lists(lists)) => lists
                .into_iter()
                .map(|(key, list)| {
                    let set = list.unwrap_or_default().into_iter().map(|value| (value, true));
                    (key, set.collect())
                })
                .collect(),
        };
        Ok(Self(sets))
    }

    /// Refuses keys that the endpoint does not know.
    pub fn accept(self, known: &[&str]) -> Result<Self, FilterError> {
        match self.0.keys().find(|key| !known.contains(&key.as_str())) {
            Some(key) => Err(FilterError::Key { key: key.clone() }),
            None => Ok(self),
        }
    }

    /// Adds a value.
    pub fn add(&mut self, key: &str, value: &str) {
        self.0.entry(key.to_owned()).or_default().insert(value.to_owned(), true);
    }

    /// The `filters` parameter that says this.
    pub fn to_json(&self) -> String {
        if self.0.is_empty() {
            return String::new();
        }
        serde_json::to_string(&self.0).expect("strings and booleans have a JSON form")
    }

    /// Whether there is no filter at all.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the key occurs.
    pub fn contains(&self, key: &str) -> bool {
        self.0.contains_key(key)
    }

    /// The values of a key.
    pub fn get(&self, key: &str) -> impl Iterator<Item = &str> {
        self.0.get(key).into_iter().flatten().map(|(value, _)| value.as_str())
    }

    /// Whether the key is absent or has exactly this value among its values.
    pub fn exact(&self, key: &str, text: &str) -> bool {
        match self.0.get(key) {
            None => true,
            Some(values) if values.is_empty() => true,
            Some(values) => values.get(text).copied().unwrap_or(false),
        }
    }

    /// Whether the key is absent, or one of its values begins the text.
    pub fn prefix(&self, key: &str, text: &str) -> bool {
        self.exact(key, text) || self.get(key).any(|value| text.starts_with(value))
    }

    /// Whether the key is absent, or one of its values is the text or, as a regular expression,
    /// found in it. A value that is no regular expression matches only itself.
    pub fn regex(&self, key: &str, text: &str) -> bool {
        let found = |value| Regex::new(value).is_ok_and(|regex| regex.is_match(text));
        self.exact(key, text) || self.get(key).any(found)
    }

    /// Whether the key is absent, or all of its values, `name` or `name=value`, are among the
    /// labels.
    pub fn labels(&self, key: &str, labels: &BTreeMap<String, String>) -> bool {
        self.get(key).all(|wanted| match wanted.split_once('=') {
            Some((name, value)) => labels.get(name).is_some_and(|has| has == value),
            None => labels.contains_key(wanted),
        })
    }

    /// Whether a prune may take an object with these labels: it has all of `label`, and not all
    /// of `label!`.
    pub fn prunes(&self, labels: &BTreeMap<String, String>) -> bool {
        let protected = self.contains("label!") && self.labels("label!", labels);
        self.labels("label", labels) && !protected
    }

    /// The boolean a key holds, or the default when it is absent.
    pub fn boolean(&self, key: &str, default: bool) -> Result<bool, FilterError> {
        let Some(values) = self.0.get(key) else { return Ok(default) };
        if values.is_empty() {
            return Err(FilterError::Key { key: key.to_owned() });
        }
        let holds = |text| values.get(text).copied().unwrap_or(false);
        let (no, yes) = (holds("0") || holds("false"), holds("1") || holds("true"));
        if no == yes { Err(self.bad_value(key)) } else { Ok(yes) }
    }

    /// The one point in time that `until` holds.
    pub fn until(&self, now: Timestamp) -> Result<Option<Timestamp>, FilterError> {
        let mut values = self.get("until");
        match (values.next(), values.next()) {
            (None, _) => Ok(None),
            (Some(value), None) => Ok(Some(parse_time_filter(value, now)?)),
            (Some(_), Some(_)) => Err(FilterError::ManyUntil),
        }
    }

    /// The error for a key whose values make no sense.
    pub fn bad_value(&self, key: &str) -> FilterError {
        FilterError::Value {
            key: key.to_owned(),
            values: self.get(key).map(str::to_owned).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filters(text: &str) -> Filters {
        Filters::parse(text).unwrap()
    }

    #[test]
    fn both_encodings_say_the_same() {
        let mut expected = Filters::default();
        expected.add("label", "a=b");
        expected.add("label", "c");
        expected.add("until", "1h");
        #[rustfmt::skip]
        let table = [
            (r#"{"label":{"a=b":true,"c":true},"until":{"1h":true}}"#, Ok(expected.clone())),
            (r#"{"label":["a=b","c"],"until":["1h"]}"#,                Ok(expected.clone())),
            ("",       Ok(Filters::default())),
            ("{}",     Ok(Filters::default())),
            ("null",   Ok(Filters::default())),
            ("x",      Err(FilterError::Malformed)),
            ("[]",     Err(FilterError::Malformed)),
            (r#"{"a":"b"}"#,  Err(FilterError::Malformed)),
            (r#"{"a":[1]}"#,  Err(FilterError::Malformed)),
            (r#"{"a":{}} x"#, Err(FilterError::Malformed)),
        ];
        for (text, filters) in table {
            assert_eq!(Filters::parse(text), filters, "{text}");
        }
        assert_eq!(Filters::parse(&expected.to_json()), Ok(expected));
    }

    #[test]
    fn unknown_keys_are_refused() {
        let error = filters(r#"{"label":["a"],"x":["y"]}"#).accept(PRUNE_KEYS).unwrap_err();
        assert_eq!(error.to_string(), "invalid filter 'x'");
    }

    #[test]
    fn booleans() {
        #[rustfmt::skip]
        let table = [
            (r"{}",                         Ok(true)),
            (r#"{"dangling":["0"]}"#,       Ok(false)),
            (r#"{"dangling":["false"]}"#,   Ok(false)),
            (r#"{"dangling":["1"]}"#,       Ok(true)),
            (r#"{"dangling":["true","1"]}"#, Ok(true)),
            (r#"{"dangling":["x"]}"#,       Err("invalid filter 'dangling=[x]'")),
            (r#"{"dangling":["0","1"]}"#,   Err("invalid filter 'dangling=[0 1]'")),
            (r#"{"dangling":[]}"#,          Err("invalid filter 'dangling'")),
        ];
        for (text, expected) in table {
            let got = filters(text).boolean("dangling", true).map_err(|error| error.to_string());
            assert_eq!(got, expected.map_err(str::to_owned), "{text}");
        }
    }

    #[test]
    fn values_match() {
        #[rustfmt::skip]
        let table = [
            // filters                     exact  prefix regex   against "/web-1"
            (r"{}",                        true,  true,  true),
            (r#"{"k":[]}"#,                true,  true,  true),
            (r#"{"k":["/web-1"]}"#,        true,  true,  true),
            (r#"{"k":["/web"]}"#,          false, true,  true),
            (r#"{"k":["web"]}"#,           false, false, true),
            (r#"{"k":["^/w.*1$"]}"#,       false, false, true),
            (r#"{"k":["^web"]}"#,          false, false, false),
            (r#"{"k":["("]}"#,             false, false, false),
            (r#"{"k":["db","web"]}"#,      false, false, true),
        ];
        for (text, exact, prefix, regex) in table {
            let f = filters(text);
            let got = (f.exact("k", "/web-1"), f.prefix("k", "/web-1"), f.regex("k", "/web-1"));
            assert_eq!(got, (exact, prefix, regex), "{text}");
        }
    }

    #[test]
    fn labels_and_prunes() {
        let labels =
            BTreeMap::from([("a".to_owned(), "b".to_owned()), ("keep".to_owned(), String::new())]);
        #[rustfmt::skip]
        let table = [
            (r"{}",                            true),
            (r#"{"label":["a"]}"#,             true),
            (r#"{"label":["a=b"]}"#,           true),
            (r#"{"label":["a=c"]}"#,           false),
            (r#"{"label":["a","x"]}"#,         false),
            (r#"{"label!":["keep"]}"#,         false),
            (r#"{"label!":["keep","x"]}"#,     true),
            (r#"{"label!":["x"]}"#,            true),
            (r#"{"label!":["keep","a=b"]}"#,   false),
        ];
        for (text, expected) in table {
            assert_eq!(filters(text).prunes(&labels), expected, "{text}");
        }
    }

    #[test]
    fn until_takes_one_time() {
        let now = Timestamp::from_unix(1_700_000_000, 0).unwrap();
        #[rustfmt::skip]
        let table = [
            (r"{}",                        Ok(None)),
            (r#"{"until":["1h"]}"#,        Ok(Some(1_700_000_000 - 3600))),
            (r#"{"until":["5"]}"#,         Ok(Some(5))),
            (r#"{"until":["1h","2h"]}"#,   Err("more than one until filter specified")),
            (r#"{"until":["x"]}"#,         Err("failed to parse value as time or duration: \"x\"")),
        ];
        for (text, expected) in table {
            let got = filters(text).until(now).map(|time| time.map(Timestamp::unix));
            assert_eq!(got.map_err(|e| e.to_string()), expected.map_err(str::to_owned), "{text}");
        }
    }
}

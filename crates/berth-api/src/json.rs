//! Collections that keep Go's difference between `null` and empty.
//!
//! Docker's JSON has three styles for a collection, and clients tell them apart. Each field says
//! which one it has:
//!
//! | style in Go | here |
//! |---|---|
//! | nil prints `null`, empty prints `[]` or `{}` | [`List`], [`Dict`] |
//! | never `null` | `Vec`, `BTreeMap` |
//! | left out when empty (`omitempty`) | the above with `skip_serializing_if` |

use std::collections::BTreeMap;
use std::fmt;
use std::ops::{Deref, DerefMut};

use serde::de::{self, DeserializeOwned, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Go's slice: `null` until something is put into it. The default is `null`.
#[derive(Clone, PartialEq, Eq)]
pub struct List<T> {
    items: Vec<T>,
    nil: bool,
}

impl<T> List<T> {
    /// The list that prints `null`.
    pub const fn null() -> Self {
        Self { items: Vec::new(), nil: true }
    }

    /// The list that prints `[]`.
    pub const fn empty() -> Self {
        Self { items: Vec::new(), nil: false }
    }

    /// Whether it prints `null`: nobody gave a list.
    pub fn is_null(&self) -> bool {
        self.nil && self.items.is_empty()
    }

    /// Whether there is nothing in it, `null` or not.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The items.
    pub fn into_vec(self) -> Vec<T> {
        self.items
    }
}

impl<T> Default for List<T> {
    fn default() -> Self {
        Self::null()
    }
}

impl<T: fmt::Debug> fmt::Debug for List<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_null() { f.write_str("null") } else { self.items.fmt(f) }
    }
}

impl<T> Deref for List<T> {
    type Target = Vec<T>;
    fn deref(&self) -> &Vec<T> {
        &self.items
    }
}

impl<T> DerefMut for List<T> {
    fn deref_mut(&mut self) -> &mut Vec<T> {
        &mut self.items
    }
}

impl<T> From<Vec<T>> for List<T> {
    fn from(items: Vec<T>) -> Self {
        Self { items, nil: false }
    }
}

impl<T> From<Option<Vec<T>>> for List<T> {
    fn from(items: Option<Vec<T>>) -> Self {
        items.map_or_else(Self::null, Self::from)
    }
}

impl<T> FromIterator<T> for List<T> {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Self {
        Self::from(items.into_iter().collect::<Vec<T>>())
    }
}

impl<T> IntoIterator for List<T> {
    type Item = T;
    type IntoIter = std::vec::IntoIter<T>;
    fn into_iter(self) -> Self::IntoIter {
        self.items.into_iter()
    }
}

impl<'a, T> IntoIterator for &'a List<T> {
    type Item = &'a T;
    type IntoIter = std::slice::Iter<'a, T>;
    fn into_iter(self) -> Self::IntoIter {
        self.items.iter()
    }
}

impl<T: Serialize> Serialize for List<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.is_null() { serializer.serialize_none() } else { self.items.serialize(serializer) }
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Option::<Vec<T>>::deserialize(deserializer).map(Self::from)
    }
}

/// Go's `map[string]V`: `null` until something is put into it. The default is `null`.
#[derive(Clone, PartialEq, Eq)]
pub struct Dict<V> {
    entries: BTreeMap<String, V>,
    nil: bool,
}

impl<V> Dict<V> {
    /// The map that prints `null`.
    pub const fn null() -> Self {
        Self { entries: BTreeMap::new(), nil: true }
    }

    /// The map that prints `{}`.
    pub const fn empty() -> Self {
        Self { entries: BTreeMap::new(), nil: false }
    }

    /// Whether it prints `null`: nobody gave a map.
    pub fn is_null(&self) -> bool {
        self.nil && self.entries.is_empty()
    }

    /// Whether there is nothing in it, `null` or not.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The entries.
    pub fn into_map(self) -> BTreeMap<String, V> {
        self.entries
    }
}

impl<V> Default for Dict<V> {
    fn default() -> Self {
        Self::null()
    }
}

impl<V: fmt::Debug> fmt::Debug for Dict<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_null() { f.write_str("null") } else { self.entries.fmt(f) }
    }
}

impl<V> Deref for Dict<V> {
    type Target = BTreeMap<String, V>;
    fn deref(&self) -> &BTreeMap<String, V> {
        &self.entries
    }
}

impl<V> DerefMut for Dict<V> {
    fn deref_mut(&mut self) -> &mut BTreeMap<String, V> {
        &mut self.entries
    }
}

impl<V> From<BTreeMap<String, V>> for Dict<V> {
    fn from(entries: BTreeMap<String, V>) -> Self {
        Self { entries, nil: false }
    }
}

impl<V> From<Option<BTreeMap<String, V>>> for Dict<V> {
    fn from(entries: Option<BTreeMap<String, V>>) -> Self {
        entries.map_or_else(Self::null, Self::from)
    }
}

impl<V> FromIterator<(String, V)> for Dict<V> {
    fn from_iter<I: IntoIterator<Item = (String, V)>>(entries: I) -> Self {
        Self::from(entries.into_iter().collect::<BTreeMap<String, V>>())
    }
}

impl<V> IntoIterator for Dict<V> {
    type Item = (String, V);
    type IntoIter = std::collections::btree_map::IntoIter<String, V>;
    fn into_iter(self) -> Self::IntoIter {
        self.entries.into_iter()
    }
}

impl<'a, V> IntoIterator for &'a Dict<V> {
    type Item = (&'a String, &'a V);
    type IntoIter = std::collections::btree_map::Iter<'a, String, V>;
    fn into_iter(self) -> Self::IntoIter {
        self.entries.iter()
    }
}

impl<V: Serialize> Serialize for Dict<V> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.is_null() {
            serializer.serialize_none()
        } else {
            self.entries.serialize(serializer)
        }
    }
}

impl<'de, V: Deserialize<'de>> Deserialize<'de> for Dict<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Option::<BTreeMap<String, V>>::deserialize(deserializer).map(Self::from)
    }
}

/// Go's `struct{}`: prints `{}`, the value of a set's keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Empty {}

/// A command line: a list, or a single string, which stands for a list of one. Default `null`.
#[derive(Clone, PartialEq, Eq, Default, Serialize)]
#[serde(transparent)]
pub struct StrSlice(pub List<String>);

impl fmt::Debug for StrSlice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Deref for StrSlice {
    type Target = List<String>;
    fn deref(&self) -> &List<String> {
        &self.0
    }
}

impl DerefMut for StrSlice {
    fn deref_mut(&mut self) -> &mut List<String> {
        &mut self.0
    }
}

impl From<Vec<String>> for StrSlice {
    fn from(items: Vec<String>) -> Self {
        Self(items.into())
    }
}

impl From<&[&str]> for StrSlice {
    fn from(items: &[&str]) -> Self {
        Self(items.iter().map(|item| (*item).to_owned()).collect())
    }
}

impl<'a> IntoIterator for &'a StrSlice {
    type Item = &'a String;
    type IntoIter = std::slice::Iter<'a, String>;
    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

impl<'de> Deserialize<'de> for StrSlice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct StringOrList;

        impl<'de> Visitor<'de> for StringOrList {
            type Value = StrSlice;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or a list of strings")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<StrSlice, E> {
                Ok(vec![text.to_owned()].into())
            }

            fn visit_unit<E: de::Error>(self) -> Result<StrSlice, E> {
                Ok(StrSlice::default())
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<StrSlice, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = seq.next_element::<String>()? {
                    items.push(item);
                }
                Ok(items.into())
            }
        }

        deserializer.deserialize_any(StringOrList)
    }
}

/// The JSON keys of a message type, for tables that must name them all.
///
/// ```
/// use berth_api::container::RestartPolicy;
/// assert_eq!(berth_api::json::keys::<RestartPolicy>(), ["Name", "MaximumRetryCount"]);
/// ```
pub fn keys<T: DeserializeOwned>() -> &'static [&'static str] {
    struct Probe<'a>(&'a mut &'static [&'static str]);

    impl<'de> Deserializer<'de> for Probe<'_> {
        type Error = de::value::Error;

        fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Self::Error> {
            Err(de::Error::custom("not a struct"))
        }

        fn deserialize_struct<V: Visitor<'de>>(
            self,
            _: &'static str,
            fields: &'static [&'static str],
            _: V,
        ) -> Result<V::Value, Self::Error> {
            *self.0 = fields;
            Err(de::Error::custom("the fields are known"))
        }

        serde::forward_to_deserialize_any! {
            bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit
            unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
        }
    }

    let mut found: &'static [&'static str] = &[];
    match T::deserialize(Probe(&mut found)) {
        Ok(_) | Err(_) => found,
    }
}

/// For `skip_serializing_if`: Go's `omitempty` on numbers.
pub(crate) fn is_zero<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// For `skip_serializing_if`: Go's `omitempty` on booleans.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
pub(crate) fn is_false(value: &bool) -> bool {
    !value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_and_empty_stay_apart_on_both_ways() {
        for text in ["null", "[]", r#"["a","b"]"#] {
            let list: List<String> = serde_json::from_str(text).unwrap();
            assert_eq!(serde_json::to_string(&list).unwrap(), text);
        }
        for text in ["null", "{}", r#"{"a":{}}"#] {
            let dict: Dict<Empty> = serde_json::from_str(text).unwrap();
            assert_eq!(serde_json::to_string(&dict).unwrap(), text);
        }
    }

    #[test]
    fn a_command_is_a_string_a_list_or_null() {
        #[rustfmt::skip]
        let table = [
            ("null",        "null"),
            ("[]",          "[]"),
            (r#""sh -c x""#, r#"["sh -c x"]"#),
            (r#"["a","b"]"#, r#"["a","b"]"#),
        ];
        for (given, printed) in table {
            let slice: StrSlice = serde_json::from_str(given).unwrap();
            assert_eq!(serde_json::to_string(&slice).unwrap(), printed, "{given}");
        }
    }

    #[test]
    fn what_is_put_into_null_is_printed() {
        let mut list = List::null();
        list.push(1);
        assert_eq!(serde_json::to_string(&list).unwrap(), "[1]");
    }
}

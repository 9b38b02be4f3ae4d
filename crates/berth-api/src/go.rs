//! Reads JSON as Go's `encoding/json` does.
//!
//! Docker's clients were written against that decoder, so its habits are part of the API: keys of
//! structs match whatever their case, unknown keys are ignored, `null` leaves the zero value
//! wherever it stands, and a fixed-size array takes fewer or more items than it has. The message
//! types say `#[serde(default)]`; this module does the rest. Message texts are Go's.

use std::fmt;

use berth_types::{Classify, ErrorKind};
use serde::de::value::StrDeserializer;
use serde::de::{self, DeserializeOwned, DeserializeSeed, IntoDeserializer, Visitor};
use serde::forward_to_deserialize_any;
use serde_json::{Map, Value};

/// Why JSON was refused.
#[expect(missing_docs, reason = "the messages name the fields")]
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GoJsonError {
    /// No body at all.
    #[error("got EOF while reading request body")]
    Eof,
    #[error("unexpected content after JSON")]
    Trailing,
    /// The parser's own words.
    #[error("{0}")]
    Syntax(String),
    #[error("json: cannot unmarshal {value} into Go {place} of type {wanted}")]
    Type { value: String, place: String, wanted: String },
    /// A value that a message type refuses.
    #[error("{0}")]
    Value(String),
}

impl Classify for GoJsonError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Eof | Self::Trailing | Self::Syntax(_) | Self::Type { .. } | Self::Value(_) => {
                ErrorKind::InvalidParameter
            }
        }
    }
}

impl de::Error for GoJsonError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::Value(message.to_string())
    }
}

/// Parses exactly one JSON document.
pub fn value_from_slice(text: &[u8]) -> Result<Value, GoJsonError> {
    if text.iter().all(u8::is_ascii_whitespace) {
        return Err(GoJsonError::Eof);
    }
    let mut documents = serde_json::Deserializer::from_slice(text).into_iter::<Value>();
    let value = match documents.next() {
        None => return Err(GoJsonError::Eof),
        Some(Err(error)) if error.is_eof() => {
            return Err(GoJsonError::Syntax("unexpected EOF".to_owned()));
        }
        Some(Err(error)) => return Err(GoJsonError::Syntax(error.to_string())),
        Some(Ok(value)) => value,
    };
    let rest = &text[documents.byte_offset()..];
    if rest.iter().all(u8::is_ascii_whitespace) { Ok(value) } else { Err(GoJsonError::Trailing) }
}

/// Reads one message, see the module.
pub fn from_slice<T: DeserializeOwned>(text: &[u8]) -> Result<T, GoJsonError> {
    from_value(&value_from_slice(text)?)
}

/// Reads one message out of a parsed document.
pub fn from_value<T: DeserializeOwned>(value: &Value) -> Result<T, GoJsonError> {
    T::deserialize(Go { value, place: Place::Value })
}

/// Whether a member's name means this key: Go folds the case.
pub fn same_key(key: &str, name: &str) -> bool {
    key.eq_ignore_ascii_case(name)
}

/// Where a value stands, for messages.
#[derive(Clone, Copy)]
enum Place<'a> {
    Value,
    Field { owner: &'a str, field: &'a str },
}

#[derive(Clone, Copy)]
struct Go<'a> {
    value: &'a Value,
    place: Place<'a>,
}

impl Go<'_> {
    fn mismatch(self, wanted: &str) -> GoJsonError {
        let value = match self.value {
            Value::Null => "null".to_owned(),
            Value::Bool(_) => "bool".to_owned(),
            Value::Number(number) if wanted.contains("int") => format!("number {number}"),
            Value::Number(_) => "number".to_owned(),
            Value::String(_) => "string".to_owned(),
            Value::Array(_) => "array".to_owned(),
            Value::Object(_) => "object".to_owned(),
        };
        let place = match self.place {
            Place::Value => "value".to_owned(),
            Place::Field { owner, field } => format!("struct field {owner}.{field}"),
        };
        GoJsonError::Type { value, place, wanted: wanted.to_owned() }
    }
}

macro_rules! numbers {
    ($($method:ident $visit:ident $as:ident $zero:expr, $go:literal;)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, GoJsonError> {
            match self.value {
                Value::Null => visitor.$visit($zero),
                Value::Number(number) => match number.$as() {
                    Some(number) => visitor.$visit(number).map_err(|_: GoJsonError| self.mismatch($go)),
                    None => Err(self.mismatch($go)),
                },
                _ => Err(self.mismatch($go)),
            }
        }
    )*};
}

impl<'de> de::Deserializer<'de> for Go<'_> {
    type Error = GoJsonError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, GoJsonError> {
        match self.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Number(number) => {
                if let Some(value) = number.as_i64() {
                    visitor.visit_i64(value)
                } else if let Some(value) = number.as_u64() {
                    visitor.visit_u64(value)
                } else {
                    visitor.visit_f64(number.as_f64().unwrap_or_default())
                }
            }
            Value::String(text) => visitor.visit_str(text),
            Value::Array(items) => {
                visitor.visit_seq(Items { items: items.iter(), place: self.place })
            }
            Value::Object(members) => visitor.visit_map(Entries::new(members, self.place)),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, GoJsonError> {
        match self.value {
            Value::Null => visitor.visit_bool(false),
            Value::Bool(value) => visitor.visit_bool(*value),
            _ => Err(self.mismatch("bool")),
        }
    }

    numbers! {
        deserialize_i8 visit_i64 as_i64 0, "int8";
        deserialize_i16 visit_i64 as_i64 0, "int16";
        deserialize_i32 visit_i64 as_i64 0, "int32";
        deserialize_i64 visit_i64 as_i64 0, "int64";
        deserialize_u8 visit_u64 as_u64 0, "uint8";
        deserialize_u16 visit_u64 as_u64 0, "uint16";
        deserialize_u32 visit_u64 as_u64 0, "uint32";
        deserialize_u64 visit_u64 as_u64 0, "uint64";
        deserialize_f32 visit_f64 as_f64 0.0, "float32";
        deserialize_f64 visit_f64 as_f64 0.0, "float64";
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, GoJsonError> {
        match self.value {
            Value::Null => visitor.visit_str(""),
            Value::String(text) => visitor.visit_str(text),
            _ => Err(self.mismatch("string")),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, GoJsonError> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, GoJsonError> {
        if self.value.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, GoJsonError> {
        match self.value {
            Value::Null => visitor.visit_seq(Items { items: [].iter(), place: self.place }),
            Value::Array(items) => {
                visitor.visit_seq(Items { items: items.iter(), place: self.place })
            }
            _ => Err(self.mismatch("slice")),
        }
    }

    fn deserialize_tuple<V: Visitor<'de>>(
        self,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, GoJsonError> {
        const PADDING: [Value; 8] = [const { Value::Null }; 8];
        let items = match self.value {
            Value::Null => [].iter(),
            Value::Array(items) => items[..items.len().min(len)].iter(),
            _ => return Err(self.mismatch("array")),
        };
        let missing = len.saturating_sub(items.len()).min(PADDING.len());
        let padded: Vec<Value> = items.chain(&PADDING[..missing]).cloned().collect();
        visitor.visit_seq(Items { items: padded.iter(), place: self.place })
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, GoJsonError> {
        match self.value {
            Value::Null => visitor.visit_map(Entries::new(&Map::new(), self.place)),
            Value::Object(members) => visitor.visit_map(Entries::new(members, self.place)),
            _ => Err(self.mismatch("map")),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, GoJsonError> {
        match self.value {
            Value::Null => visitor.visit_map(Fields::new(&Map::new(), name, fields)),
            Value::Object(members) => visitor.visit_map(Fields::new(members, name, fields)),
            _ => Err(self.mismatch(name)),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, GoJsonError> {
        match self.value {
            Value::String(text) => visitor.visit_enum(text.as_str().into_deserializer()),
            _ => Err(self.mismatch(name)),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, GoJsonError> {
        visitor.visit_newtype_struct(self)
    }

    forward_to_deserialize_any! {
        i128 u128 char bytes byte_buf unit unit_struct tuple_struct identifier ignored_any
    }
}

struct Items<'a> {
    items: std::slice::Iter<'a, Value>,
    place: Place<'a>,
}

impl<'de> de::SeqAccess<'de> for Items<'_> {
    type Error = GoJsonError;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, GoJsonError> {
        match self.items.next() {
            Some(value) => seed.deserialize(Go { value, place: self.place }).map(Some),
            None => Ok(None),
        }
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.items.len())
    }
}

/// The members of a map, keys as they are.
struct Entries<'a> {
    members: serde_json::map::Iter<'a>,
    value: Option<&'a Value>,
    place: Place<'a>,
}

impl<'a> Entries<'a> {
    fn new(members: &'a Map<String, Value>, place: Place<'a>) -> Self {
        Self { members: members.iter(), value: None, place }
    }
}

impl<'de> de::MapAccess<'de> for Entries<'_> {
    type Error = GoJsonError;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, GoJsonError> {
        let Some((name, value)) = self.members.next() else { return Ok(None) };
        self.value = Some(value);
        seed.deserialize(StrDeserializer::new(name)).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(
        &mut self,
        seed: V,
    ) -> Result<V::Value, GoJsonError> {
        let value = self.value.take().unwrap_or(&Value::Null);
        seed.deserialize(Go { value, place: self.place })
    }
}

/// The known fields of a struct, in the message's spelling; `null` members are passed over.
struct Fields<'a> {
    found: std::vec::IntoIter<(&'static str, &'a Value)>,
    value: Option<(&'static str, &'a Value)>,
    owner: &'a str,
}

impl<'a> Fields<'a> {
    fn new(
        members: &'a Map<String, Value>,
        owner: &'a str,
        fields: &'static [&'static str],
    ) -> Self {
        let mut found: Vec<(&'static str, &'a Value)> = Vec::new();
        for (name, value) in members {
            // The exact spelling wins over a folded one, as in Go.
            let exact = fields.iter().find(|field| **field == name);
            let folded = || fields.iter().find(|field| same_key(field, name));
            let Some(field) = exact.or_else(folded) else { continue };
            if value.is_null() {
                continue;
            }
            match found.iter_mut().find(|(known, _)| known == field) {
                Some(entry) if exact.is_some() => entry.1 = value,
                Some(_) => {}
                None => found.push((field, value)),
            }
        }
        Self { found: found.into_iter(), value: None, owner }
    }
}

impl<'de> de::MapAccess<'de> for Fields<'_> {
    type Error = GoJsonError;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, GoJsonError> {
        let Some((field, value)) = self.found.next() else { return Ok(None) };
        self.value = Some((field, value));
        seed.deserialize(StrDeserializer::new(field)).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(
        &mut self,
        seed: V,
    ) -> Result<V::Value, GoJsonError> {
        let (field, value) = self.value.take().unwrap_or(("", &Value::Null));
        seed.deserialize(Go { value, place: Place::Field { owner: self.owner, field } })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::RestartPolicy;

    #[test]
    fn documents_that_are_refused() {
        #[rustfmt::skip]
        let table = [
            ("",        "got EOF while reading request body"),
            (" \n",     "got EOF while reading request body"),
            ("{} {}",   "unexpected content after JSON"),
            ("{}x",     "unexpected content after JSON"),
            ("{",       "unexpected EOF"),
            ("[]",      "json: cannot unmarshal array into Go value of type RestartPolicy"),
            (r#"{"Name":[]}"#, "json: cannot unmarshal array into Go struct field RestartPolicy.Name of type string"),
            (r#"{"MaximumRetryCount":1.5}"#,
                "json: cannot unmarshal number 1.5 into Go struct field RestartPolicy.MaximumRetryCount of type int64"),
        ];
        for (text, message) in table {
            let error = from_slice::<RestartPolicy>(text.as_bytes()).unwrap_err();
            assert_eq!(error.to_string(), message, "{text:?}");
        }
    }

    #[test]
    fn the_exact_spelling_wins_and_null_leaves_the_default() {
        #[rustfmt::skip]
        let table = [
            (r#"{"name":"a","Name":"b"}"#,           "b", 0),
            (r#"{"NAME":"a","maximumretrycount":3}"#, "a", 3),
            (r#"{"Name":null,"Other":{}}"#,          "",  0),
            ("null",                                 "",  0),
        ];
        for (text, name, maximum_retry_count) in table {
            let expected = RestartPolicy { name: name.to_owned(), maximum_retry_count };
            assert_eq!(from_slice::<RestartPolicy>(text.as_bytes()), Ok(expected), "{text}");
        }
    }
}

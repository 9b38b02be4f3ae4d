//! Query strings.

/// A query string that is built pair by pair.
#[derive(Debug, Clone, Default)]
pub struct Query(String);

impl Query {
    /// An empty query.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a pair.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl AsRef<str>) -> Self {
        self.0.push(if self.0.is_empty() { '?' } else { '&' });
        escape(name, &mut self.0);
        self.0.push('=');
        escape(value.as_ref(), &mut self.0);
        self
    }

    /// Adds `name=1` where `yes`.
    #[must_use]
    pub fn flag(self, name: &str, yes: bool) -> Self {
        if yes { self.with(name, "1") } else { self }
    }

    /// Adds a pair where there is a value.
    #[must_use]
    pub fn optional(self, name: &str, value: Option<impl AsRef<str>>) -> Self {
        match value {
            Some(value) => self.with(name, value),
            None => self,
        }
    }

    /// With its question mark, or empty.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A path segment with everything but unreserved characters and `/:@` escaped.
pub(crate) fn escape_path(text: &str) -> String {
    let mut escaped = String::new();
    for part in text.split_inclusive(['/', ':', '@']) {
        let (name, mark) = match part.char_indices().next_back() {
            Some((at, mark @ ('/' | ':' | '@'))) => (&part[..at], Some(mark)),
            _ => (part, None),
        };
        escape(name, &mut escaped);
        escaped.extend(mark);
    }
    escaped
}

fn escape(text: &str, into: &mut String) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            into.push(char::from(byte));
        } else {
            into.push('%');
            into.push(char::from(DIGITS[usize::from(byte >> 4)]));
            into.push(char::from(DIGITS[usize::from(byte & 15)]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_and_paths_are_escaped() {
        let query = Query::new().with("a b", "ü&=").flag("no", false).flag("yes", true);
        assert_eq!(query.as_str(), "?a%20b=%C3%BC%26%3D&yes=1");
        assert_eq!(escape_path("a/b:1@sha256:x?y #"), "a/b:1@sha256:x%3Fy%20%23");
    }
}

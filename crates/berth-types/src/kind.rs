//! What kind of failure an error is, whoever reports it.

/// The kind of a failure. Only the HTTP edge turns it into a status code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The object does not exist.
    NotFound,
    /// The request is malformed or asks for something that cannot be.
    InvalidParameter,
    /// The object's present state forbids the operation.
    Conflict,
    /// The caller did not say who they are.
    Unauthorized,
    /// The caller may not do this.
    Forbidden,
    /// The object already is as asked.
    NotModified,
    /// A part this operation needs is not there at the moment.
    Unavailable,
    /// A documented feature that this version does not have.
    NotImplemented,
    /// Anything that is nobody's request's fault.
    Internal,
}

/// An error that knows its kind.
pub trait Classify: std::error::Error {
    /// The kind of this failure.
    fn kind(&self) -> ErrorKind;
}

/// The error and all its causes, joined by `: `.
///
/// ```
/// let error = std::io::Error::other("disk on fire");
/// assert_eq!(berth_types::kind::chain(&error), "disk on fire");
/// ```
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text.push_str(": ");
        text.push_str(&clause(next));
        cause = next.source();
    }
    text
}

/// One cause. What the system said is put as Go puts it, because clients look for its words: lower
/// case and without the number (`no such file or directory`).
fn clause(error: &(dyn std::error::Error + 'static)) -> String {
    let text = error.to_string();
    let is_system =
        error.downcast_ref::<std::io::Error>().is_some_and(|error| error.raw_os_error().is_some());
    let Some((words, _number)) = text.split_once(" (os error ").filter(|_| is_system) else {
        return text;
    };
    let mut letters = words.chars();
    letters.next().map_or_else(String::new, |first| first.to_lowercase().chain(letters).collect())
}

#[cfg(test)]
mod tests {
    #[derive(Debug, thiserror::Error)]
    #[error("cannot open /x")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn what_the_system_says_is_put_as_go_puts_it() {
        let error = Outer(std::io::Error::from_raw_os_error(2));
        assert_eq!(super::chain(&error), "cannot open /x: no such file or directory");
        let error = Outer(std::io::Error::other("Our own words (os error 2)"));
        assert_eq!(super::chain(&error), "cannot open /x: Our own words (os error 2)");
    }
}

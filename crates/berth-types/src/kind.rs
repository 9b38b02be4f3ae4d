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
        text.push_str(&next.to_string());
        cause = next.source();
    }
    text
}

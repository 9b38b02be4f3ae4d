//! A client of the engine's API over a unix or TCP socket.
//!
//! One connection serves one request, so that a client object can be shared and a stream never
//! blocks another call. Errors carry the engine's own message.

#![forbid(unsafe_code)]

mod connect;
mod endpoint;
mod error;
mod hijack;
mod query;
mod request;

pub use endpoint::{Endpoint, TlsFiles};
pub use error::ClientError;
pub use hijack::{Hijacked, Input, Output};
pub use query::Query;
pub use request::{Body, Client, Stream};

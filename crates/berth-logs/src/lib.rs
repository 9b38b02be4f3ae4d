//! Container logs: Docker's `json-file` format, written by the watcher and read by the daemon.
//!
//! ```text
//! containers/<id>/
//!   <id>-json.log        the live file, one JSON object a line
//!   <id>-json.log.1      the newest rotated file; `.1.gz` with `compress`
//!   <id>-json.log.2 …    older ones, at most `max-file` files with the live one
//! ```
//!
//! [`Writer`] and [`Reader`] never share memory: they may be in different processes, and either may
//! die between any two system calls. A writer that finds an unfinished last line (its predecessor
//! was killed in the middle of a write) ends it with a newline before it goes on; a reader skips
//! what is not a whole JSON line. Everything is synchronous; [`Reader::wait`] blocks for at most the
//! time given, so that an async caller runs it on a blocking thread with a stop flag.

#![forbid(unsafe_code)]

mod entry;
mod error;
mod files;
mod json;
mod options;
mod reader;
mod writer;

pub use entry::{Entry, Stream};
pub use error::LogError;
pub use files::compress;
pub use options::{Described, JsonFileOptions, LogDriver};
pub use reader::{ReadOptions, Reader, Wait};
pub use writer::{Writer, WriterOptions};

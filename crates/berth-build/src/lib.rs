//! Dockerfiles: from their text to instructions, and what those do to an image's configuration.
//!
//! Pure: nothing here touches a file, a store or the network. What an instruction does to a file
//! system is the engine's part.
//!
//! | module | what |
//! |---|---|
//! | [`parse`] | a whole Dockerfile: its stages, their steps, where each stands |
//! | [`instruction`] | what an instruction says |
//! | [`words`] | quotes, escapes and `$NAME` |
//! | [`args`] | `ARG`: which are known where, and with which value |
//! | [`apply`] | what an instruction does to a configuration, and the words for it in the history |
//! | [`ignore`] | `.dockerignore` |
//! | [`glob`] | Go's `path.Match` |
//!
//! A Dockerfile goes three ways, as in Docker: lines ([`lines`]) become nodes, whose syntax is
//! checked for the whole file first ([`node`]), and nodes become instructions.

#![forbid(unsafe_code)]

pub mod apply;
pub mod args;
mod error;
mod flags;
pub mod glob;
mod health;
pub mod ignore;
pub mod instruction;
pub mod lines;
mod mount;
pub mod node;
pub mod parse;
mod ports;
mod quote;
mod read;
pub mod words;

pub use error::{BuildError, SyntaxError};
pub use instruction::{Instruction, Step};
pub use parse::{Dockerfile, Stage};

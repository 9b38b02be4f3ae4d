//! Registries: the distribution protocol as a client, with Docker's words for what goes wrong.
//!
//! Knows HTTP and the protocol, and no store: blobs go into files that the caller names and come
//! from streams that the caller makes.
//!
//! | module | what |
//! |---|---|
//! | [`endpoint`] | from the name of a registry to the addresses to try, and how far each is trusted |
//! | [`auth`] | credentials of clients, and the tokens that they are exchanged for |
//! | [`session`] | one registry with one client's credentials: everything is asked through it |
//! | [`manifest`] | what an image is made of, and the choice among platforms |
//! | [`download`] | one blob into a file: resumed, verified, tried again |
//! | [`upload`] | one blob out of a stream: found there, mounted, or sent, and again from where it was cut |
//!
//! Everything is async and may be dropped at any point; what a download has got by then stays in
//! its file.

#![forbid(unsafe_code)]

pub mod auth;
mod body;
mod challenge;
mod clients;
mod content;
pub mod download;
pub mod endpoint;
mod error;
pub mod fetch;
mod login;
pub mod manifest;
mod outgoing;
pub mod search;
pub mod session;
mod tls;
mod transport;
pub mod upload;

pub use auth::{Credentials, KnownRegistries};
pub use clients::Clients;
pub use content::{Fetched, Named};
pub use endpoint::{Endpoint, Purpose, RegistryOptions};
pub use error::{ErrorCode, RegistryError};
pub use login::{LoggedIn, login};
pub use manifest::{Descriptor, Manifest, Platform};
pub use outgoing::Outgoing;
pub use session::{Limits, Session};

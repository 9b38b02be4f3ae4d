//! The edge: Docker's HTTP API over an [`Engine`].
//!
//! A handler parses, calls one method of the engine, and answers. Status codes are known in
//! `error.rs` only. The list of all routes is in `routes/mod.rs`.
//!
//! [`router`] makes the service, [`serve_connection`] runs it on one connection of any kind.

#![forbid(unsafe_code)]

mod answer;
mod app;
mod error;
mod extract;
mod hijack;
mod linger;
mod route;
mod routes;
mod serve;
mod upload;

use berth_engine::Engine;

pub use app::{App, ServerInfo};
pub use serve::serve_connection;

/// What monitoring systems read, and nothing else: `GET /metrics`.
pub fn metrics(engine: Engine, info: &ServerInfo) -> App<Engine> {
    App::new(engine, routes::metrics::routes(), info)
}

/// The whole API over this engine.
pub fn router(engine: Engine, info: &ServerInfo) -> App<Engine> {
    App::new(engine, routes::all(), info)
}

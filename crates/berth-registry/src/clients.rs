//! Clients of HTTP, kept with their connections for the next session at the same address.
//!
//! A connection is nobody's: who asks is said in each request. A client's certificate is the
//! address's, and a client is not used any more once the files that it was made of have changed.

use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use reqwest::Client;
use reqwest::redirect::Policy;
use rustls::ClientConfig;

use crate::RegistryError;
use crate::endpoint::Endpoint;
use crate::tls::{self, Files, Stamp, Trust};

/// How many are kept.
const MOST: usize = 8;
/// How long one is kept: the system's authorities are read when it is made.
const LIFE: Duration = Duration::from_mins(10);
/// How many connections of one client wait to be used again.
const IDLE: usize = 16;
/// How long it may take to connect.
pub(crate) const CONNECT: Duration = Duration::from_secs(30);
/// How many redirects are followed.
const REDIRECTS: usize = 10;

/// Clients of HTTP, by where they lead and whom they trust.
#[derive(Debug, Default)]
pub struct Clients(Mutex<Vec<Kept>>);

#[derive(Debug)]
struct Kept {
    key: Key,
    client: Client,
    made: Instant,
}

/// What a client is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Key {
    url: String,
    is_insecure: bool,
    files: Vec<Stamp>,
}

impl Clients {
    /// A client for this address, which may have connections to it.
    pub(crate) async fn of(
        &self,
        endpoint: &Endpoint,
        certs_dir: &Path,
    ) -> Result<Client, RegistryError> {
        let dir = certs_dir.join(endpoint.host());
        let files = tls::off_thread(move || Files::read(&dir)).await?;
        let key = Key {
            url: endpoint.url.to_string(),
            is_insecure: endpoint.is_insecure,
            files: files.stamps(),
        };
        if let Some(client) = self.kept(&key) {
            return Ok(client);
        }
        let trust = if endpoint.is_insecure { Trust::Anybody } else { Trust::Signed };
        let config = tls::off_thread(move || tls::with(&files, trust)).await?;
        let client = build(endpoint, config)?;
        self.keep(Kept { key, client: client.clone(), made: Instant::now() });
        Ok(client)
    }

    fn kept(&self, key: &Key) -> Option<Client> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|kept| kept.made.elapsed() < LIFE);
        all.iter().find(|kept| kept.key == *key).map(|kept| kept.client.clone())
    }

    /// The oldest gives way.
    fn keep(&self, kept: Kept) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|other| other.key.url != kept.key.url);
        if all.len() >= MOST {
            all.remove(0);
        }
        all.push(kept);
    }
}

/// It waits for answers without end: how long they may take differs, and is for those to say that ask.
fn build(endpoint: &Endpoint, config: ClientConfig) -> Result<Client, RegistryError> {
    let is_secure = endpoint.url.scheme() == "https" && !endpoint.is_insecure;
    let mut builder = Client::builder()
        .tls_backend_preconfigured(config)
        .user_agent(concat!("berth/", env!("CARGO_PKG_VERSION")))
        .pool_max_idle_per_host(IDLE)
        .connect_timeout(CONNECT)
        .redirect(Policy::custom(move |attempt| {
            if attempt.previous().len() > REDIRECTS {
                attempt.error("stopped after 10 redirects")
            } else if is_secure && attempt.url().scheme() != "https" {
                attempt.error("a redirect away from https is not followed")
            } else {
                attempt.follow()
            }
        }));
    // As Go: a proxy is never asked for this very host.
    let host = endpoint.url.host_str().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
    if host == "localhost" || address.is_ok_and(|address| address.is_loopback()) {
        builder = builder.no_proxy();
    }
    builder.build().map_err(|error| RegistryError::Trust {
        path: endpoint.url.to_string(),
        reason: error.to_string(),
    })
}

//! The addresses of a registry, in Docker's order.

use std::sync::Arc;

use berth_registry::upload::Target;
use berth_registry::{Clients, Credentials, Endpoint, Purpose, RegistryError, Session};

use super::RegistryConfig;
use super::error::{RegistryUseError, is_worth_another_address};
use super::shown::{Repositories, Shown};
use crate::engine::Engine;
use crate::error::EngineError;

/// What is left to try of a registry.
pub(super) struct Addresses {
    config: RegistryConfig,
    credentials: Credentials,
    clients: Arc<Clients>,
    left: std::vec::IntoIter<Endpoint>,
    is_mirror: bool,
    /// One of them answered over TLS; then none is asked without.
    has_tls: bool,
    last: Option<EngineError>,
}

impl Engine {
    /// The addresses of a registry.
    pub(super) async fn addresses(
        &self,
        domain: &str,
        purpose: Purpose,
        credentials: Credentials,
    ) -> Result<Addresses, EngineError> {
        let config = self.reloadable().registry;
        let endpoints = config.options.endpoints(domain, purpose).await;
        let endpoints = endpoints.map_err(RegistryUseError::Registry)?;
        let left = endpoints.into_iter();
        let clients = Arc::clone(self.registries().clients());
        Ok(Addresses {
            config,
            credentials,
            clients,
            left,
            is_mirror: false,
            has_tls: false,
            last: None,
        })
    }
}

impl Addresses {
    /// The address where a repository has lately been open to everybody, without asking it again. Nobody's
    /// credentials are shown there: it may be without TLS, and be no longer what it was.
    pub(super) async fn open_one(&self, known: &Repositories, repository: &str) -> Option<Target> {
        for endpoint in self.left.as_slice().iter().filter(|endpoint| !endpoint.is_mirror) {
            let is_open = |shown: Shown| shown.looks && shown.is_open;
            if !known.of(&endpoint.address(repository)).is_some_and(is_open) {
                continue;
            }
            let (certs, limits) = (&self.config.options.certs_dir, self.config.limits.clone());
            let session = Session::assume(&self.clients, endpoint.clone(), certs, limits).await;
            let session = Arc::new(session.ok()?);
            return Some(Target { session, repository: repository.to_owned() });
        }
        None
    }

    /// The next one that answers.
    pub(super) async fn next(&mut self) -> Option<Arc<Session>> {
        loop {
            let endpoint = self.left.next()?;
            let is_tls = endpoint.url.scheme() == "https";
            if !is_tls && self.has_tls {
                continue;
            }
            self.is_mirror = endpoint.is_mirror;
            // A mirror is not told the password for the registry that it mirrors.
            let shown =
                if endpoint.is_mirror { Credentials::default() } else { self.credentials.clone() };
            let url = endpoint.url.to_string();
            let limits = self.config.limits.clone();
            let certs = &self.config.options.certs_dir;
            match Session::open(&self.clients, endpoint, certs, shown, limits).await {
                Ok(session) => {
                    self.has_tls |= is_tls;
                    return Some(Arc::new(session));
                }
                Err(error) => {
                    tracing::info!(url, %error, "no registry there");
                    self.last = Some(RegistryUseError::Registry(error).into());
                }
            }
        }
    }

    /// Takes a failure for that of this address alone, or gives it back.
    pub(super) fn note(&mut self, error: EngineError) -> Result<(), EngineError> {
        if !is_worth_another_address(&error, self.is_mirror) {
            return Err(error);
        }
        tracing::info!(%error, "trying the registry's next address");
        self.last = Some(error);
        Ok(())
    }

    /// Why none of them did.
    pub(super) fn failure(self, domain: &str) -> EngineError {
        let reason = || "it has no address".to_owned();
        let none = || RegistryError::Address { text: domain.to_owned(), reason: reason() };
        self.last.unwrap_or_else(|| RegistryUseError::Registry(none()).into())
    }
}

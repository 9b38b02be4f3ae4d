//! TLS for TCP listeners.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use super::config::Config;

/// Why TLS cannot be offered.
#[derive(Debug, thiserror::Error)]
pub(super) enum TlsError {
    #[error("could not read {what} {:?}", .path.display())]
    Pem { what: &'static str, path: PathBuf, source: rustls_pki_types::pem::Error },
    #[error("no certificate in {:?}", .path.display())]
    Empty { path: PathBuf },
    #[error("invalid TLS configuration")]
    Setup { source: rustls::Error },
    #[error("invalid CA certificate for TLS")]
    Verifier { source: rustls::server::VerifierBuilderError },
}

/// The acceptor that the settings ask for; `None` without TLS.
pub(super) fn acceptor(config: &Config) -> Result<Option<TlsAcceptor>, TlsError> {
    if !config.tls {
        return Ok(None);
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let chain = certificates("TLS certificate", Path::new(&config.tls_cert))?;
    let key_path = Path::new(&config.tls_key);
    let key = PrivateKeyDer::from_pem_file(key_path).map_err(|source| TlsError::Pem {
        what: "TLS key",
        path: key_path.to_owned(),
        source,
    })?;
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|source| TlsError::Setup { source })?;
    let builder = if config.tls_verify {
        let mut roots = RootCertStore::empty();
        for certificate in certificates("CA certificate", Path::new(&config.tls_ca_cert))? {
            roots.add(certificate).map_err(|source| TlsError::Setup { source })?;
        }
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .map_err(|source| TlsError::Verifier { source })?;
        builder.with_client_cert_verifier(verifier)
    } else {
        builder.with_no_client_auth()
    };
    let server =
        builder.with_single_cert(chain, key).map_err(|source| TlsError::Setup { source })?;
    Ok(Some(TlsAcceptor::from(Arc::new(server))))
}

fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = |source| TlsError::Pem { what, path: path.to_owned(), source };
    let certificates: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(path).map_err(pem)?.collect();
    let certificates = certificates.map_err(pem)?;
    if certificates.is_empty() {
        return Err(TlsError::Empty { path: path.to_owned() });
    }
    Ok(certificates)
}

/// Whether an accept error is the client's, so that the listener goes on at once.
pub(super) fn is_clients_fault(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}

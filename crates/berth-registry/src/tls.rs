//! Whom a registry's certificate must be signed by, and what it is shown of ours.
//!
//! ```text
//! <certs>/<host[:port]>/*.crt    authorities beside the system's
//! <certs>/<host[:port]>/x.cert   a certificate to show, with its key x.key
//! ```

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use crate::RegistryError;

/// Runs what reads files where it may block.
pub(crate) async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, RegistryError> + Send + 'static,
) -> Result<T, RegistryError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is about to end; nobody waits for this any more.
            Err(_cancelled) => std::future::pending().await,
        },
    }
}

/// The settings for a server that is no registry: what the system believes, and nothing is shown.
pub(crate) fn plain() -> Result<ClientConfig, RegistryError> {
    with(&Files::default(), Trust::Signed)
}

/// The settings of TLS for one registry.
pub(crate) fn with(files: &Files, trust: Trust) -> Result<ClientConfig, RegistryError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let versions = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("the provider knows the versions that are safe");
    let verified = match trust {
        Trust::Anybody => {
            versions.dangerous().with_custom_certificate_verifier(Arc::new(Anybody { provider }))
        }
        Trust::Signed => versions.with_root_certificates(authorities(files)?),
    };
    match &files.identity {
        None => Ok(verified.with_no_client_auth()),
        Some((certificate, key)) => {
            let chain = certificates(certificate)?;
            let secret = PrivateKeyDer::from_pem_file(key).map_err(|error| bad(key, &error))?;
            verified.with_client_auth_cert(chain, secret).map_err(|error| bad(certificate, &error))
        }
    }
}

/// Whose certificates are believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trust {
    /// Those that an authority signed.
    Signed,
    /// All; for registries that the settings call insecure.
    Anybody,
}

/// What is in a registry's directory.
#[derive(Debug, Default)]
pub(crate) struct Files {
    authorities: Vec<PathBuf>,
    /// The certificate to show, and its key.
    identity: Option<(PathBuf, PathBuf)>,
}

/// A file as it was at some time; another one when it was written since.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stamp {
    path: PathBuf,
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

impl Stamp {
    /// `None` for a file that is gone: reading it tells more.
    fn of(path: &Path) -> Option<Self> {
        let file = std::fs::metadata(path).ok()?;
        let changed = (file.ctime(), file.ctime_nsec());
        Some(Self { path: path.to_owned(), inode: file.ino(), size: file.size(), changed })
    }
}

impl Files {
    /// What tells these files from what they may become.
    pub(crate) fn stamps(&self) -> Vec<Stamp> {
        let identity = self.identity.iter().flat_map(|(certificate, key)| [certificate, key]);
        self.authorities.iter().chain(identity).filter_map(|path| Stamp::of(path)).collect()
    }

    pub(crate) fn read(dir: &Path) -> Result<Self, RegistryError> {
        let mut files = Self::default();
        let entries = match std::fs::read_dir(dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(files),
            Err(error) => return Err(bad(dir, &error)),
        };
        let mut paths = Vec::new();
        for entry in entries {
            paths.push(entry.map_err(|error| bad(dir, &error))?.path());
        }
        paths.sort();
        let shown = |path: &Path| path.file_name().unwrap_or_default().display().to_string();
        let missing = |path: &Path, reason: String| RegistryError::Certificate {
            path: path.display().to_string(),
            reason,
        };
        for path in &paths {
            let beside = |extension: &str| path.with_extension(extension);
            match path.extension().and_then(std::ffi::OsStr::to_str) {
                Some("crt") => files.authorities.push(path.clone()),
                Some("cert") if !paths.contains(&beside("key")) => {
                    let (key, own) = (shown(&beside("key")), shown(path));
                    let reason = format!(
                        "missing key {key} for client certificate {own}. CA certificates must use \
                         the extension .crt"
                    );
                    return Err(missing(dir, reason));
                }
                Some("cert") => files.identity = Some((path.clone(), beside("key"))),
                Some("key") if !paths.contains(&beside("cert")) => {
                    let (certificate, own) = (shown(&beside("cert")), shown(path));
                    let reason = format!("missing client certificate {certificate} for key {own}");
                    return Err(missing(dir, reason));
                }
                _ => {}
            }
        }
        Ok(files)
    }
}

fn authorities(files: &Files) -> Result<RootCertStore, RegistryError> {
    let mut roots = RootCertStore::empty();
    let system = rustls_native_certs::load_native_certs();
    for error in &system.errors {
        tracing::debug!(%error, "one of the system's certificates cannot be read");
    }
    let (_added, ignored) = roots.add_parsable_certificates(system.certs);
    tracing::trace!(ignored, "authorities of the system");
    for path in &files.authorities {
        for certificate in certificates(path)? {
            roots.add(certificate).map_err(|error| bad(path, &error))?;
        }
    }
    Ok(roots)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, RegistryError> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    read.map_err(|error| bad(path, &error))
}

fn bad(path: &Path, error: &dyn std::fmt::Display) -> RegistryError {
    RegistryError::Trust { path: path.display().to_string(), reason: error.to_string() }
}

/// Believes every certificate. What is signed with it must still be right.
#[derive(Debug)]
struct Anybody {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

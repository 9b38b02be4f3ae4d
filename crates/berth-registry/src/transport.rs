//! What the network says, in the words that Go has for it: people search for them.

use std::error::Error;
use std::io;

use reqwest::Url;

use crate::RegistryError;

/// A request that got no answer, or lost it.
pub(crate) fn failed(verb: &str, url: &Url, error: &reqwest::Error) -> RegistryError {
    let verb = verb.to_owned();
    RegistryError::Transport { verb, url: url.to_string(), reason: reason(url, error) }
}

/// A request that was not answered in time.
pub(crate) fn silent(verb: &str, url: &Url) -> RegistryError {
    let reason = "operation timed out".to_owned();
    RegistryError::Transport { verb: verb.to_owned(), url: url.to_string(), reason }
}

/// Whether a connection that stood was closed before an answer came.
pub(crate) fn is_closed(error: &reqwest::Error) -> bool {
    error.is_request() && !error.is_connect() && !error.is_timeout()
}

fn reason(url: &Url, error: &(dyn Error + 'static)) -> String {
    let mut cause = Some(error);
    let mut last = String::new();
    while let Some(one) = cause {
        if let Some(words) = known(url, one) {
            return words;
        }
        last = one.to_string();
        let inner = one.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        cause = match inner {
            Some(inner) => Some(inner as &(dyn Error + 'static)),
            None => one.source(),
        };
    }
    last
}

fn known(url: &Url, error: &(dyn Error + 'static)) -> Option<String> {
    if let Some(error) = error.downcast_ref::<rustls::Error>() {
        return Some(tls_reason(error));
    }
    if let Some(error) = error.downcast_ref::<reqwest::Error>()
        && error.is_timeout()
        && error.is_connect()
    {
        return Some(format!("dial tcp {}: i/o timeout", address(url)));
    }
    let error = error.downcast_ref::<io::Error>()?;
    if error.to_string().starts_with("failed to lookup address information") {
        let host = url.host_str().unwrap_or_default();
        return Some(format!("dial tcp: lookup {host}: no such host"));
    }
    let code = error.raw_os_error()?;
    let words = berth_types::kind::chain(&io::Error::from_raw_os_error(code));
    let words = words.split(" (os error").next().unwrap_or_default().to_lowercase();
    Some(match error.kind() {
        io::ErrorKind::ConnectionRefused
        | io::ErrorKind::HostUnreachable
        | io::ErrorKind::NetworkUnreachable
        | io::ErrorKind::TimedOut => format!("dial tcp {}: connect: {words}", address(url)),
        _ => words,
    })
}

fn tls_reason(error: &rustls::Error) -> String {
    use rustls::CertificateError as Bad;
    match error {
        rustls::Error::InvalidMessage(_) => {
            "http: server gave HTTP response to HTTPS client".to_owned()
        }
        rustls::Error::InvalidCertificate(Bad::UnknownIssuer) => {
            "x509: certificate signed by unknown authority".to_owned()
        }
        rustls::Error::InvalidCertificate(Bad::Expired | Bad::ExpiredContext { .. }) => {
            "x509: certificate has expired or is not yet valid".to_owned()
        }
        other => format!("tls: {other}"),
    }
}

/// The host and the port that was dialled.
fn address(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port_or_known_default().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

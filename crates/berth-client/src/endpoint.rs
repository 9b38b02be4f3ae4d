//! Where the engine listens.

use std::fmt;
use std::path::PathBuf;

use crate::ClientError;

/// Where the engine listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// A unix socket.
    Unix(PathBuf),
    /// Host and port, with TLS when files are given.
    Tcp {
        /// Name or address, IPv6 without brackets.
        host: String,
        /// The port.
        port: u16,
        /// TLS, if it is to be used.
        tls: Option<TlsFiles>,
    },
}

/// The files for TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The authorities that may have signed the engine's certificate.
    pub ca: PathBuf,
    /// This client's certificate and key, if it has them.
    pub identity: Option<(PathBuf, PathBuf)>,
}

impl Endpoint {
    /// Reads `unix:///path` or `tcp://host:port`.
    pub fn parse(text: &str, tls: Option<TlsFiles>) -> Result<Self, ClientError> {
        let bad = || ClientError::Host { host: text.to_owned() };
        let (proto, address) = text.split_once("://").ok_or_else(bad)?;
        match proto {
            "unix" if address.starts_with('/') => Ok(Self::Unix(PathBuf::from(address))),
            "tcp" | "http" | "https" => {
                let address = address.trim_end_matches('/');
                let (host, port) = match address.rsplit_once(':') {
                    Some((host, port)) if !port.contains(']') => {
                        (host, port.parse().map_err(|_unread| bad())?)
                    }
                    _ => (address, if tls.is_some() { 2376 } else { 2375 }),
                };
                let host = host.trim_start_matches('[').trim_end_matches(']');
                let host = if host.is_empty() { "127.0.0.1" } else { host };
                Ok(Self::Tcp { host: host.to_owned(), port, tls })
            }
            _ => Err(bad()),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp { host, port, .. } if host.contains(':') => {
                write!(f, "tcp://[{host}]:{port}")
            }
            Self::Tcp { host, port, .. } => write!(f, "tcp://{host}:{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        #[rustfmt::skip]
        let table = [
            ("unix:///run/berth.sock", Some("unix:///run/berth.sock")),
            ("tcp://localhost",        Some("tcp://localhost:2375")),
            ("tcp://:99",              Some("tcp://127.0.0.1:99")),
            ("tcp://[::1]:99/",        Some("tcp://[::1]:99")),
            ("tcp://a:b",              None),
            ("unix://relative",        None),
            ("ssh://a",                None),
            ("nonsense",               None),
        ];
        for (text, expected) in table {
            let got = Endpoint::parse(text, None).ok().map(|endpoint| endpoint.to_string());
            assert_eq!(got.as_deref(), expected, "{text}");
        }
    }
}

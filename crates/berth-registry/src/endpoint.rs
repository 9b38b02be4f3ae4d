//! From the name of a registry to the addresses to try, and how far each is trusted.

use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use reqwest::Url;

use crate::RegistryError;

/// The registry of names without one.
pub const DOCKER_IO: &str = "docker.io";
/// Where that registry is.
const DOCKER_IO_URL: &str = "https://registry-1.docker.io";
/// What `docker login` calls it.
pub const INDEX_SERVER: &str = "https://index.docker.io/v1/";
/// Networks that are trusted without TLS whatever the settings say.
const TRUSTED: [&str; 2] = ["127.0.0.0/8", "::1/128"];

/// Which registries are mirrored, and which are trusted without TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistryOptions {
    /// Mirrors of Docker's registry, in the order in which they are tried.
    pub mirrors: Vec<String>,
    /// `host[:port]` or a network.
    pub insecure: Vec<String>,
    /// Directory of certificates, one directory in it for each registry.
    pub certs_dir: PathBuf,
}

impl Default for RegistryOptions {
    fn default() -> Self {
        Self { mirrors: Vec::new(), insecure: Vec::new(), certs_dir: "/etc/docker/certs.d".into() }
    }
}

/// What a registry is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Reading: mirrors will do.
    Pull,
    /// Writing, or whether credentials are good.
    Push,
}

/// An address to try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Without a path, `https://registry-1.docker.io/`.
    pub url: Url,
    /// Whether it is a copy, so that what it does not have may be elsewhere.
    pub is_mirror: bool,
    /// Whether its certificate is believed whatever it is.
    pub is_insecure: bool,
}

impl Endpoint {
    /// The address of a path below `/v2/`.
    pub(crate) fn at(&self, path: &str) -> Url {
        let mut url = self.url.clone();
        url.set_path(&format!("{}/v2/{path}", self.url.path().trim_end_matches('/')));
        url
    }

    /// The address of a repository: what distinguishes it from all others.
    pub fn address(&self, repository: &str) -> String {
        self.at(repository).into()
    }

    /// `host[:port]`, the name of its certificates' directory.
    pub(crate) fn host(&self) -> String {
        let host = self.url.host_str().unwrap_or_default();
        self.url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
    }
}

impl RegistryOptions {
    /// The addresses to try for a registry, in order.
    pub async fn endpoints(
        &self,
        domain: &str,
        purpose: Purpose,
    ) -> Result<Vec<Endpoint>, RegistryError> {
        let mut endpoints = Vec::new();
        if [DOCKER_IO, "index.docker.io"].contains(&domain) {
            let mirrors = self.mirrors.iter().filter(|_| purpose == Purpose::Pull);
            for mirror in mirrors {
                let url = parse(mirror)?;
                let host =
                    Endpoint { url: url.clone(), is_mirror: true, is_insecure: false }.host();
                let is_insecure = self.is_insecure(&host).await;
                endpoints.push(Endpoint { url, is_mirror: true, is_insecure });
            }
            let url = parse(DOCKER_IO_URL)?;
            endpoints.push(Endpoint { url, is_mirror: false, is_insecure: false });
            return Ok(endpoints);
        }
        let is_insecure = self.is_insecure(domain).await;
        let schemes: &[&str] = if is_insecure { &["https", "http"] } else { &["https"] };
        for scheme in schemes {
            let url = parse(&format!("{scheme}://{domain}"))?;
            endpoints.push(Endpoint { url, is_mirror: false, is_insecure });
        }
        Ok(endpoints)
    }

    /// Whether a registry is trusted without TLS.
    pub async fn is_insecure(&self, domain: &str) -> bool {
        if self.insecure.iter().any(|name| name == domain) {
            return true;
        }
        let networks = self.insecure_networks();
        let host = host_of(domain);
        if let Ok(address) = host.parse::<IpAddr>() {
            return networks.iter().any(|network| network.contains(&address));
        }
        match tokio::net::lookup_host((host, 0)).await {
            Ok(mut addresses) => addresses
                .any(|address| networks.iter().any(|network| network.contains(&address.ip()))),
            Err(error) => {
                tracing::debug!(domain, %error, "no address; taken for a registry with TLS");
                false
            }
        }
    }

    /// The networks that are trusted without TLS, sorted as `docker info` shows them.
    pub fn insecure_networks(&self) -> Vec<IpNet> {
        let fixed = TRUSTED.iter().map(|text| text.parse().expect("a network"));
        let mut networks: Vec<IpNet> = fixed.rev().collect();
        for network in self.insecure.iter().filter_map(|text| text.parse().ok()) {
            if !networks.contains(&network) {
                networks.push(network);
            }
        }
        networks
    }

    /// The registries that are trusted by name.
    pub fn insecure_names(&self) -> impl Iterator<Item = &str> {
        self.insecure.iter().map(String::as_str).filter(|text| text.parse::<IpNet>().is_err())
    }
}

/// The host without its port, and without an address's brackets.
fn host_of(domain: &str) -> &str {
    let host = match domain.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => domain,
    };
    host.trim_start_matches('[').trim_end_matches(']')
}

fn parse(text: &str) -> Result<Url, RegistryError> {
    Url::parse(text).map_err(|error| RegistryError::Address {
        text: text.to_owned(),
        reason: error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of each address: where, whether a mirror, whether insecure.
    type Addresses<'a> = &'a [(&'a str, bool, bool)];

    #[tokio::test]
    async fn registries_are_looked_for_where_docker_looks() {
        let options = RegistryOptions {
            mirrors: vec!["https://mirror.example/".to_owned(), "http://10.1.2.3:5000/".to_owned()],
            insecure: vec!["reg.example:5000".to_owned(), "10.1.0.0/16".to_owned()],
            ..RegistryOptions::default()
        };
        #[rustfmt::skip]
        let table: &[(&str, Purpose, Addresses<'_>)] = &[
            // domain, why, and of each address: where, a mirror, insecure
            ("docker.io", Purpose::Pull, &[
                ("https://mirror.example/",       true,  false),
                ("http://10.1.2.3:5000/",         true,  true),
                ("https://registry-1.docker.io/", false, false),
            ]),
            ("docker.io",        Purpose::Push, &[("https://registry-1.docker.io/", false, false)]),
            ("127.0.0.1:5000",   Purpose::Pull, &[("https://127.0.0.1:5000/", false, true), ("http://127.0.0.1:5000/", false, true)]),
            ("[::1]:5000",       Purpose::Push, &[("https://[::1]:5000/", false, true), ("http://[::1]:5000/", false, true)]),
            ("reg.example:5000", Purpose::Pull, &[("https://reg.example:5000/", false, true), ("http://reg.example:5000/", false, true)]),
            ("10.1.9.9",         Purpose::Pull, &[("https://10.1.9.9/", false, true), ("http://10.1.9.9/", false, true)]),
            ("10.2.9.9:80",      Purpose::Pull, &[("https://10.2.9.9:80/", false, false)]),
            ("localhost:5000",   Purpose::Pull, &[("https://localhost:5000/", false, true), ("http://localhost:5000/", false, true)]),
        ];
        for (domain, purpose, expected) in table {
            let got = options.endpoints(domain, *purpose).await.unwrap();
            let got: Vec<_> =
                got.iter().map(|e| (e.url.as_str(), e.is_mirror, e.is_insecure)).collect();
            assert_eq!(got, *expected, "{domain}");
        }
    }
}

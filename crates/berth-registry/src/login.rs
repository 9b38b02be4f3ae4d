//! `docker login`: whether a registry takes these credentials.

use reqwest::{Method, StatusCode, Url};

use crate::auth::Credentials;
use crate::body;
use crate::clients::Clients;
use crate::endpoint::{INDEX_SERVER, Purpose, RegistryOptions};
use crate::error::RegistryError;
use crate::session::{Limits, Session};

/// What a registry said to good credentials.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LoggedIn {
    /// A token to keep in the place of the password; empty for none.
    pub identity: String,
}

/// Shows credentials to the registry that they are for.
pub async fn login(
    options: &RegistryOptions,
    credentials: Credentials,
    limits: Limits,
) -> Result<LoggedIn, RegistryError> {
    let server = Some(&*credentials.serveraddress).filter(|text| !text.is_empty());
    let domain = domain_of(server.unwrap_or(INDEX_SERVER))?;
    let clients = Clients::default();
    let mut last = None;
    let mut is_with_tls = false;
    for endpoint in options.endpoints(&domain, Purpose::Push).await? {
        if is_with_tls && endpoint.url.scheme() == "http" {
            continue;
        }
        let is_secure = endpoint.url.scheme() == "https";
        let (certs, own) = (&options.certs_dir, credentials.clone());
        let opened = Session::open(&clients, endpoint, certs, own, limits.clone()).await;
        let result = match opened {
            Ok(session) => {
                is_with_tls |= is_secure;
                show(&session).await
            }
            Err(error) => Err(error),
        };
        match result {
            Ok(done) => return Ok(done),
            Err(error) => {
                tracing::info!(domain, %error, "login failed");
                last = Some(error);
            }
        }
    }
    Err(last.unwrap_or(RegistryError::Server { text: domain }))
}

async fn show(session: &Session) -> Result<LoggedIn, RegistryError> {
    let url = session.endpoint().at("");
    let scopes = Vec::new();
    let response = session.ask(Method::GET, url.clone(), &scopes, |request| request).await?;
    match response.status() {
        StatusCode::OK => Ok(LoggedIn { identity: session.auth().identity().unwrap_or_default() }),
        status => {
            let status = body::spoken(status);
            Err(RegistryError::Login { url: url.to_string(), status })
        }
    }
}

/// The registry in what a client calls one: a name, or a URL with a path.
fn domain_of(text: &str) -> Result<String, RegistryError> {
    let bad = || RegistryError::Server { text: text.to_owned() };
    let full = if text.contains("://") { text.to_owned() } else { format!("https://{text}") };
    let url = Url::parse(&full).map_err(|_unread| bad())?;
    let host = url.host_str().ok_or_else(bad)?;
    Ok(url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_registry_is_found_in_what_clients_call_it() {
        #[rustfmt::skip]
        let table = [
            (INDEX_SERVER,               Some("index.docker.io")),
            ("reg.example:5000",         Some("reg.example:5000")),
            ("http://reg.example/v2/",   Some("reg.example")),
            ("https://[::1]:5000",       Some("[::1]:5000")),
            ("a b",                      None),
        ];
        for (text, expected) in table {
            assert_eq!(domain_of(text).ok().as_deref(), expected, "{text}");
        }
    }
}

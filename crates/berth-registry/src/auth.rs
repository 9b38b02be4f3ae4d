//! Credentials of clients, and the tokens that registries have them exchanged for.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::{GeneralPurpose, STANDARD};
use base64::engine::{DecodePaddingMode, GeneralPurposeConfig};
use reqwest::{RequestBuilder, Url};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::challenge::Challenge;
use crate::endpoint::{DOCKER_IO, INDEX_SERVER};
use crate::error::RegistryError;
use crate::session::Http;
use crate::{body, transport};

/// What the token of a session is called by, as Docker calls itself.
const CLIENT_ID: &str = "docker";
/// How long a token lives that does not say; the distribution project's.
const DEFAULT_LIFE: u64 = 60;
/// How long a token is believed to live, in seconds.
const LONGEST_LIFE: u64 = 24 * 60 * 60;
/// The largest answer of a token server.
const TOKEN_MOST: u64 = 1 << 20;

/// base64url as Go writes it, and what other clients send in its place.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Who a client is at a registry: Docker's `AuthConfig`.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Credentials {
    /// The name.
    pub username: String,
    /// The password.
    pub password: String,
    /// Name and password as one text in base64, for clients that send them so.
    pub auth: String,
    /// The registry they are for, as the client calls it.
    pub serveraddress: String,
    /// A token that stands for the password and is exchanged for others.
    pub identitytoken: String,
    /// A token that is shown to the registry as it is.
    pub registrytoken: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("username", &self.username).finish_non_exhaustive()
    }
}

impl Credentials {
    /// Reads the header `X-Registry-Auth`: base64 of JSON, nothing for nobody.
    pub fn from_header(text: &str) -> Result<Self, RegistryError> {
        Ok(from_header::<Self>("X-Registry-Auth", text)?.unwrap_or_default().completed())
    }

    /// With name and password, where the client sent them as one text.
    #[must_use]
    pub fn completed(self) -> Self {
        let mut read = self;
        if read.username.is_empty()
            && let Ok(pair) = STANDARD.decode(&read.auth)
            && let Ok(pair) = String::from_utf8(pair)
            && let Some((name, password)) = pair.split_once(':')
        {
            name.clone_into(&mut read.username);
            password.trim_end_matches('\0').clone_into(&mut read.password);
        }
        read
    }

    pub(crate) fn has_password(&self) -> bool {
        !self.username.is_empty() && !self.password.is_empty()
    }
}

/// Who a client is at several registries.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KnownRegistries(BTreeMap<String, Credentials>);

impl KnownRegistries {
    /// Reads the header `X-Registry-Config`: base64 of JSON, credentials by what the client calls
    /// their registry.
    pub fn from_header(text: &str) -> Result<Self, RegistryError> {
        let read = from_header::<BTreeMap<_, _>>("X-Registry-Config", text)?;
        Ok(Self(read.unwrap_or_default()))
    }

    /// The credentials for a registry; nobody's when there are none.
    pub fn of(&self, domain: &str) -> Credentials {
        let by_name = if domain == DOCKER_IO { INDEX_SERVER } else { domain };
        // Clients of old call registries by their URLs.
        let by_host = || self.0.iter().find(|(name, _)| host_of(name) == host_of(by_name));
        let found = self.0.get(by_name).or_else(|| by_host().map(|(_, found)| found));
        found.cloned().unwrap_or_default().completed()
    }
}

/// What is between the scheme and the path.
fn host_of(name: &str) -> &str {
    let name = name.strip_prefix("https://").or(name.strip_prefix("http://")).unwrap_or(name);
    name.split('/').next().unwrap_or_default()
}

fn from_header<T: DeserializeOwned>(
    header: &'static str,
    text: &str,
) -> Result<Option<T>, RegistryError> {
    let bad = |reason: String| RegistryError::AuthHeader { header, reason };
    let text = text.replace('+', "-").replace('/', "_");
    let json = LENIENT.decode(text).map_err(|error| bad(error.to_string()))?;
    if json.is_empty() {
        return Ok(None);
    }
    serde_json::from_slice(&json).map_err(|error| bad(error.to_string()))
}

/// What a request may do: `repository:library/alpine:pull`. Several, when blobs are mounted.
pub(crate) type Scopes = Vec<String>;

/// One session's way of saying who asks.
#[derive(Debug)]
pub(crate) struct Auth {
    credentials: Credentials,
    /// The registry's challenges; the first that we can answer counts.
    challenges: Mutex<Vec<Challenge>>,
    tokens: Mutex<HashMap<Scopes, Token>>,
    fetching: tokio::sync::Mutex<()>,
    /// What the token server gave in the place of the password, for `docker login`.
    identity: Mutex<Option<String>>,
}

#[derive(Debug, Clone)]
struct Token {
    text: String,
    until: Instant,
}

/// A request that says who asks.
#[derive(Debug)]
pub(crate) struct Signed {
    pub(crate) request: RequestBuilder,
    /// The token in it, if it came from a token server.
    pub(crate) token: Option<String>,
}

impl Auth {
    pub(crate) fn new(credentials: Credentials, challenges: Vec<Challenge>) -> Self {
        Self {
            credentials,
            challenges: Mutex::new(challenges),
            tokens: Mutex::default(),
            fetching: tokio::sync::Mutex::default(),
            identity: Mutex::default(),
        }
    }

    /// Whether the registry has not asked who asks.
    pub(crate) fn is_open(&self) -> bool {
        lock(&self.challenges).is_empty()
    }

    /// Takes over the challenges of a refusal. Whether they are worth another try.
    pub(crate) fn challenged(
        &self,
        scopes: &Scopes,
        token: Option<&str>,
        challenges: Vec<Challenge>,
    ) -> bool {
        // Another request may have been refused for the same token, and may have a new one by now.
        let mut tokens = lock(&self.tokens);
        if let Some(refused) = token
            && tokens.get(scopes).is_some_and(|kept| kept.text == refused)
        {
            tokens.remove(scopes);
        }
        drop(tokens);
        let mut known = lock(&self.challenges);
        if challenges.is_empty() || (token.is_none() && *known == challenges) {
            return false;
        }
        *known = challenges;
        true
    }

    /// Adds to a request who asks.
    pub(crate) async fn sign(
        &self,
        http: &Http,
        scopes: &Scopes,
        request: RequestBuilder,
    ) -> Result<Signed, RegistryError> {
        let with = |request| Signed { request, token: None };
        if !self.credentials.registrytoken.is_empty() {
            return Ok(with(request.bearer_auth(&self.credentials.registrytoken)));
        }
        let challenges = lock(&self.challenges).clone();
        if let Some(bearer) = challenges.iter().find(|one| one.scheme == "bearer") {
            let token = self.token(http, bearer, scopes).await?;
            return Ok(Signed { request: request.bearer_auth(&token), token: Some(token) });
        }
        if challenges.iter().any(|one| one.scheme == "basic") {
            if !self.credentials.has_password() {
                return Err(RegistryError::NoCredentials);
            }
            let Credentials { username, password, .. } = &self.credentials;
            return Ok(with(request.basic_auth(username, Some(password))));
        }
        Ok(with(request))
    }

    /// What stands for the password from here on, if the token server gave something.
    pub(crate) fn identity(&self) -> Option<String> {
        lock(&self.identity).clone()
    }

    async fn token(
        &self,
        http: &Http,
        challenge: &Challenge,
        scopes: &Scopes,
    ) -> Result<String, RegistryError> {
        // Of requests that begin together one fetches it.
        let _turn = self.fetching.lock().await;
        let known = lock(&self.tokens).get(scopes).cloned();
        if let Some(token) = known.filter(|token| token.until > Instant::now()) {
            return Ok(token.text);
        }
        let parameter = |name: &str| challenge.parameters.get(name).map_or("", String::as_str);
        let realm = Url::parse(parameter("realm")).map_err(|error| RegistryError::Address {
            text: parameter("realm").to_owned(),
            reason: error.to_string(),
        })?;
        let request = self.token_request(http, realm.clone(), parameter("service"), scopes);
        let sent = request.timeout(http.limits.stall).send().await;
        let response = sent.map_err(|error| transport::failed("Get", &realm, &error))?;
        if !response.status().is_success() {
            return Err(body::error(response, http.limits.stall).await);
        }
        let text = body::whole(response, "a token", TOKEN_MOST, http.limits.stall).await?;
        let answer: TokenAnswer =
            serde_json::from_slice(&text).map_err(|_unread| RegistryError::NoToken)?;
        if let Some(identity) = answer.refresh_token.filter(|token| !token.is_empty()) {
            *lock(&self.identity) = Some(identity);
        }
        let text =
            [answer.token, answer.access_token].into_iter().flatten().find(|t| !t.is_empty());
        let text = text.ok_or(RegistryError::NoToken)?;
        // A little early, so that it does not end on its way.
        let life = answer.expires_in.unwrap_or(DEFAULT_LIFE).max(DEFAULT_LIFE) * 9 / 10;
        let until = Instant::now() + Duration::from_secs(life.min(LONGEST_LIFE));
        lock(&self.tokens).insert(scopes.clone(), Token { text: text.clone(), until });
        Ok(text)
    }

    /// A refresh token is posted; otherwise the token is fetched, with the password if there is one.
    fn token_request(
        &self,
        http: &Http,
        mut realm: Url,
        service: &str,
        scopes: &Scopes,
    ) -> RequestBuilder {
        let Credentials { username, password, identitytoken, .. } = &self.credentials;
        if !identitytoken.is_empty() {
            let mut form = Url::parse("form:").expect("a URL");
            form.query_pairs_mut()
                .append_pair("client_id", CLIENT_ID)
                .append_pair("grant_type", "refresh_token")
                .append_pair("refresh_token", identitytoken)
                .append_pair("scope", &scopes.join(" "))
                .append_pair("service", service);
            let form = form.query().unwrap_or_default().to_owned();
            let request = http.client.post(realm).body(form);
            return request.header("Content-Type", "application/x-www-form-urlencoded");
        }
        {
            let mut query = realm.query_pairs_mut();
            if self.credentials.has_password() {
                query.append_pair("account", username);
                if scopes.is_empty() {
                    query.append_pair("client_id", CLIENT_ID).append_pair("offline_token", "true");
                }
            }
            for scope in scopes {
                query.append_pair("scope", scope);
            }
            if !service.is_empty() {
                query.append_pair("service", service);
            }
        }
        let request = http.client.get(realm);
        if self.credentials.has_password() {
            return request.basic_auth(username, Some(password));
        }
        request
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
    refresh_token: Option<String>,
    expires_in: Option<u64>,
}

/// Every change under these locks is one statement, so a panic leaves them whole.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_is_read_as_clients_write_it() {
        #[rustfmt::skip]
        let table = [
            // header                                            name   password
            ("",                                                 "",    ""),
            ("e30=",                                             "",    ""),
            ("e30",                                              "",    ""),
            ("bnVsbA==",                                         "",    ""),
            // {"username":"u","password":"p??>"} both ways
            ("eyJ1c2VybmFtZSI6InUiLCJwYXNzd29yZCI6InA_Pz4ifQ==", "u",   "p??>"),
            ("eyJ1c2VybmFtZSI6InUiLCJwYXNzd29yZCI6InA/Pz4ifQ==", "u",   "p??>"),
            // {"auth":"dTpwOnE="}
            ("eyJhdXRoIjoiZFRwd09uRT0ifQ==",                     "u",   "p:q"),
        ];
        for (header, name, password) in table {
            let got = Credentials::from_header(header).unwrap();
            assert_eq!((&*got.username, &*got.password), (name, password), "{header}");
        }
        for bad in ["%%%", "eyJ", "MQ=="] {
            assert!(Credentials::from_header(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn each_registry_has_its_own_credentials() {
        let json = r#"{"https://index.docker.io/v1/":{"username":"hub"},"a:5000":{"auth":"dTpw"},
                       "https://old.example/v1/":{"username":"old"}}"#;
        let known = KnownRegistries::from_header(&STANDARD.encode(json)).unwrap();
        #[rustfmt::skip]
        let table = [
            ("docker.io",   "hub"),
            ("a:5000",      "u"),
            ("old.example", "old"),
            ("a",           ""),
            ("v1",          ""),
        ];
        for (domain, name) in table {
            assert_eq!(known.of(domain).username, name, "{domain}");
        }
        assert_eq!(KnownRegistries::from_header("").unwrap(), KnownRegistries::default());
        assert!(KnownRegistries::from_header("MQ==").is_err());
    }

    #[test]
    fn secrets_are_not_printed() {
        let secret = Credentials { password: "hunter2".to_owned(), ..Credentials::default() };
        assert!(!format!("{secret:?}").contains("hunter2"));
    }
}

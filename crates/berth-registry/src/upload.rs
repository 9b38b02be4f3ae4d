//! One blob out of a stream: found there already, mounted from another repository, or sent.

use std::sync::Arc;

use berth_types::Digest;
use bytes::Bytes;
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE, LOCATION, RANGE};
use reqwest::{Method, Response, StatusCode, Url};

use crate::body;
use crate::content::Named;
use crate::error::RegistryError;
use crate::outgoing::Outgoing;
use crate::session::{Access, Session};

/// The repository that is written to.
#[derive(Debug, Clone)]
pub struct Target {
    /// The registry.
    pub session: Arc<Session>,
    /// The repository there.
    pub repository: String,
}

/// An upload that has begun.
#[derive(Debug, Clone)]
pub struct Upload {
    location: Url,
    scopes: Vec<String>,
}

/// What became of a wish to mount.
#[derive(Debug)]
pub enum Begun {
    /// The blob is there, and nothing needs to be sent.
    Mounted,
    /// It is not, and may be sent.
    Upload(Upload),
}

impl Target {
    fn scopes(&self) -> Vec<String> {
        vec![Access::Push.of(&self.repository)]
    }

    /// Where the repository is.
    pub fn address(&self) -> String {
        self.session.endpoint().address(&self.repository)
    }

    /// How long a blob is, if it is there.
    pub async fn has(&self, digest: &Digest) -> Result<Option<u64>, RegistryError> {
        self.session.blob_size(&self.repository, digest, &self.scopes()).await
    }

    /// What a tag leads to, if the registry says so.
    pub async fn named(&self, tag: &str) -> Result<Option<Named>, RegistryError> {
        self.session.manifest_named(&self.repository, tag, &self.scopes()).await
    }

    /// Begins an upload; with `mount`, tells where on the same registry the blob may be found.
    pub async fn begin(&self, mount: Option<(&Digest, &str)>) -> Result<Begun, RegistryError> {
        let mut url = self.session.endpoint().at(&format!("{}/blobs/uploads/", self.repository));
        let mut scopes = self.scopes();
        if let Some((digest, from)) = mount {
            let mut query = url.query_pairs_mut();
            query.append_pair("mount", digest.as_str()).append_pair("from", from);
            drop(query);
            scopes.push(Access::Pull.of(from));
        }
        let asked = self
            .session
            .ask(Method::POST, url.clone(), &scopes, |request| request.header(CONTENT_LENGTH, 0));
        let good = [StatusCode::ACCEPTED, StatusCode::CREATED];
        let response = self.session.expect(asked.await?, &good).await?;
        if response.status() == StatusCode::CREATED {
            return Ok(Begun::Mounted);
        }
        Ok(Begun::Upload(Upload { location: location(&url, &response)?, scopes: self.scopes() }))
    }

    /// Sends a body into an upload; where to go on. Cannot be tried again with the same body.
    pub async fn send(&self, upload: Upload, body: Outgoing) -> Result<Upload, RegistryError> {
        let Upload { location: url, scopes } = upload;
        let request = self.session.request(Method::PATCH, url.clone());
        let request = request.header(CONTENT_TYPE, "application/octet-stream");
        let response = self.session.send(&Method::PATCH, &url, &scopes, request, body).await?;
        // Registries of an older draft say 204.
        let good = [StatusCode::ACCEPTED, StatusCode::NO_CONTENT, StatusCode::CREATED];
        let response = self.session.expect(response, &good).await?;
        Ok(Upload { location: location(&url, &response)?, scopes })
    }

    /// Where an upload that was cut goes on, and after how many bytes; `None` when the registry cannot
    /// tell, and the blob is sent anew.
    pub async fn resume(&self, upload: Upload) -> Result<Option<(Upload, u64)>, RegistryError> {
        let Upload { location: url, scopes } = upload;
        let asked = self.session.ask(Method::GET, url.clone(), &scopes, |request| request);
        let response = asked.await?;
        let range = response.headers().get(RANGE).and_then(|text| text.to_str().ok());
        let (true, Some(kept)) = (response.status().is_success(), range.and_then(kept)) else {
            return Ok(None);
        };
        // An address that is not repeated stays.
        let location = location(&url, &response).unwrap_or(url);
        Ok(Some((Upload { location, scopes }, kept)))
    }

    /// Ends an upload: the registry checks that it has the digest.
    pub async fn finish(&self, upload: Upload, digest: &Digest) -> Result<(), RegistryError> {
        let Upload { location: mut url, scopes } = upload;
        url.query_pairs_mut().append_pair("digest", digest.as_str());
        let asked = self.session.ask(Method::PUT, url, &scopes, |request| {
            request.header(CONTENT_LENGTH, 0).header(CONTENT_TYPE, "application/octet-stream")
        });
        let good = [StatusCode::CREATED, StatusCode::NO_CONTENT, StatusCode::ACCEPTED];
        self.session.expect(asked.await?, &good).await.map(drop)
    }

    /// Sends a small blob whole: a configuration.
    pub async fn send_whole(&self, digest: &Digest, bytes: Vec<u8>) -> Result<(), RegistryError> {
        match self.begin(None).await? {
            Begun::Mounted => Ok(()),
            Begun::Upload(upload) => {
                let upload = self.send(upload, Outgoing::whole(bytes)).await?;
                self.finish(upload, digest).await
            }
        }
    }

    /// Gives up an upload. The registry forgets it by itself some time, so a failure is no matter.
    pub async fn cancel(&self, upload: Upload) {
        let Upload { location, scopes } = upload;
        let asked = self.session.ask(Method::DELETE, location, &scopes, |request| request).await;
        if let Err(error) = asked {
            tracing::debug!(%error, "an upload is left to the registry");
        }
    }

    /// Puts a manifest under a tag, or under its digest.
    pub async fn put_manifest(
        &self,
        reference: &str,
        media_type: &str,
        manifest: &Bytes,
    ) -> Result<(), RegistryError> {
        let url = self.session.endpoint().at(&format!("{}/manifests/{reference}", self.repository));
        let scopes = self.scopes();
        let asked = self.session.ask(Method::PUT, url, &scopes, |request| {
            request.header(CONTENT_TYPE, media_type).body(manifest.clone())
        });
        let response = asked.await?;
        if response.status().is_success() {
            return Ok(());
        }
        Err(body::error(response, self.session.limits().stall).await)
    }
}

/// How many bytes a registry has that says `0-41`. `0-0` is said of none as well as of one.
fn kept(range: &str) -> Option<u64> {
    let last = range.trim().trim_start_matches("bytes=").strip_prefix("0-")?;
    last.parse::<u64>().ok().filter(|last| *last > 0)?.checked_add(1)
}

/// Where the registry wants the next part; relative addresses are allowed.
fn location(from: &Url, response: &Response) -> Result<Url, RegistryError> {
    let text = response.headers().get(LOCATION).and_then(|text| text.to_str().ok());
    let text = text.ok_or(RegistryError::NoLocation)?;
    from.join(text).map_err(|error| RegistryError::Address {
        text: text.to_owned(),
        reason: error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_registry_has_of_an_upload_is_read_from_its_range() {
        #[rustfmt::skip]
        let table = [
            ("0-41",       Some(42)),
            ("bytes=0-41", Some(42)),
            ("0-0",        None),
            ("1-41",       None),
            ("0-",         None),
            ("41",         None),
            ("0-18446744073709551615", None),
        ];
        for (range, expected) in table {
            assert_eq!(kept(range), expected, "{range}");
        }
    }
}

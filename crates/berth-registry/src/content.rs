//! Reading: manifests, tags, small blobs, and whether a blob is there.

use berth_types::Digest;
use reqwest::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, LINK};
use reqwest::{Method, RequestBuilder, Response, StatusCode, Url};
use serde::Deserialize;

use crate::body;
use crate::error::RegistryError;
use crate::manifest::{ACCEPTED, Descriptor, MAX_MANIFEST, Manifest};
use crate::session::{Access, Session};

/// The largest page of a list of tags.
const TAGS_MOST: u64 = 16 << 20;
/// The header in which a registry says what a manifest's digest is.
static CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
/// How many pages of tags are read.
const PAGES: usize = 1000;

/// A manifest as it came.
#[derive(Debug, Clone)]
pub struct Fetched {
    /// What it is called by, with the media type that it came as.
    pub descriptor: Descriptor,
    /// What is in it.
    pub manifest: Manifest,
}

impl Session {
    /// The manifest with this tag, or with this digest, which it then must have. `image` is for
    /// the words of a refusal.
    pub async fn manifest(
        &self,
        repository: &str,
        reference: &str,
        image: &str,
    ) -> Result<Fetched, RegistryError> {
        let (media_type, body) = self.manifest_bytes(repository, reference).await?;
        let digest = Digest::of(&body);
        if let Ok(expected) = Digest::parse(reference)
            && expected != digest
        {
            return Err(RegistryError::ManifestDigest { digest: expected });
        }
        let manifest = Manifest::parse(&media_type, &body, image)?;
        let media_type = match &manifest {
            Manifest::Image(image) => image.media_type.clone(),
            Manifest::Index(_) => media_type,
        };
        let size = body.len() as u64;
        Ok(Fetched {
            descriptor: Descriptor { media_type, size, digest, platform: None },
            manifest,
        })
    }

    async fn manifest_bytes(
        &self,
        repository: &str,
        reference: &str,
    ) -> Result<(String, Vec<u8>), RegistryError> {
        let url = self.endpoint().at(&format!("{repository}/manifests/{reference}"));
        let scopes = vec![Access::Pull.of(repository)];
        let asked = self.ask(Method::GET, url, &scopes, accepting);
        let asked = asked.await.map_err(|error| match error {
            // Docker looks for a tag before it asks for it, and people search for its words.
            RegistryError::Token { url, cause, .. } if Digest::parse(reference).is_err() => {
                RegistryError::Token { verb: "Head".to_owned(), url, cause }
            }
            other => other,
        });
        let response = self.expect(asked?, &[StatusCode::OK]).await?;
        let media_type = header(&response, &CONTENT_TYPE).unwrap_or_default().to_owned();
        let stall = self.limits().stall;
        Ok((media_type, body::whole(response, "a manifest", MAX_MANIFEST, stall).await?))
    }

    /// A blob that is taken whole: a configuration. Its digest is the caller's to check.
    pub async fn small_blob(
        &self,
        repository: &str,
        digest: &Digest,
        most: u64,
    ) -> Result<Vec<u8>, RegistryError> {
        let url = self.endpoint().at(&format!("{repository}/blobs/{digest}"));
        let scopes = vec![Access::Pull.of(repository)];
        let response = self.ask(Method::GET, url, &scopes, |request| request).await?;
        let response = self.expect(response, &[StatusCode::OK]).await?;
        body::whole(response, "an image's configuration", most, self.limits().stall).await
    }

    /// Every tag of a repository, in the registry's order.
    pub async fn tags(&self, repository: &str) -> Result<Vec<String>, RegistryError> {
        #[derive(Deserialize)]
        struct Page {
            tags: Option<Vec<String>>,
        }
        let scopes = vec![Access::Pull.of(repository)];
        let mut url = self.endpoint().at(&format!("{repository}/tags/list"));
        let mut tags = Vec::new();
        for _ in 0..PAGES {
            let response = self.ask(Method::GET, url.clone(), &scopes, |request| request).await?;
            let response = self.expect(response, &[StatusCode::OK]).await?;
            let next = header(&response, &LINK).and_then(|link| next_page(&url, link));
            let stall = self.limits().stall;
            let body = body::whole(response, "a list of tags", TAGS_MOST, stall).await?;
            let page: Page = serde_json::from_slice(&body)
                .map_err(|error| RegistryError::BadManifest { reason: error.to_string() })?;
            tags.extend(page.tags.unwrap_or_default());
            match next {
                Some(next) => url = next,
                None => break,
            }
        }
        Ok(tags)
    }

    /// What a tag leads to, if the registry says so: a word, which nothing else is built on.
    pub(crate) async fn manifest_named(
        &self,
        repository: &str,
        tag: &str,
        scopes: &Vec<String>,
    ) -> Result<Option<Named>, RegistryError> {
        let url = self.endpoint().at(&format!("{repository}/manifests/{tag}"));
        let asked = self.ask(Method::HEAD, url, scopes, accepting);
        let response = asked.await?;
        if response.status() != StatusCode::OK {
            return Ok(None);
        }
        let text = |name| header(&response, name);
        let digest = text(&CONTENT_DIGEST).and_then(|text| Digest::parse(text).ok());
        let media_type = text(&CONTENT_TYPE).unwrap_or_default().to_owned();
        Ok(digest.map(|digest| Named { digest, media_type }))
    }

    /// How long a blob is, if it is there.
    pub(crate) async fn blob_size(
        &self,
        repository: &str,
        digest: &Digest,
        scopes: &Vec<String>,
    ) -> Result<Option<u64>, RegistryError> {
        let url = self.endpoint().at(&format!("{repository}/blobs/{digest}"));
        let response = self.ask(Method::HEAD, url, scopes, |request| request).await?;
        if response.status() == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let response = self.expect(response, &[StatusCode::OK]).await?;
        let length = header(&response, &CONTENT_LENGTH);
        Ok(length.and_then(|text| text.parse().ok()))
    }
}

/// With every media type of manifests that we read.
fn accepting(request: RequestBuilder) -> RequestBuilder {
    ACCEPTED.iter().fold(request, |request, media_type| request.header(ACCEPT, *media_type))
}

/// A manifest's name, as a registry tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// The digest that it says the manifest has.
    pub digest: Digest,
    /// The media type that it would come as.
    pub media_type: String,
}

fn header<'a>(response: &'a Response, name: &reqwest::header::HeaderName) -> Option<&'a str> {
    response.headers().get(name)?.to_str().ok()
}

/// The address in `Link: </v2/…>; rel="next"`, if it is on the same host.
fn next_page(from: &Url, link: &str) -> Option<Url> {
    let (address, parameters) = link.trim().strip_prefix('<')?.split_once('>')?;
    if !parameters.replace(['"', ' '], "").contains("rel=next") {
        return None;
    }
    let next = from.join(address).ok()?;
    (next.origin() == from.origin() && next != *from).then_some(next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_on_the_same_host() {
        let from = Url::parse("https://r/v2/a/tags/list").unwrap();
        #[rustfmt::skip]
        let table = [
            (r#"</v2/a/tags/list?last=x&n=1>; rel="next""#, Some("https://r/v2/a/tags/list?last=x&n=1")),
            ("</v2/a/tags/list?last=x>; rel=next",           Some("https://r/v2/a/tags/list?last=x")),
            (r#"</v2/a/tags/list?last=x>; rel="prev""#,     None),
            (r#"<https://evil/>; rel="next""#,              None),
            (r#"</v2/a/tags/list>; rel="next""#,            None),
            ("next",                                        None),
        ];
        for (link, expected) in table {
            let got = next_page(&from, link);
            assert_eq!(got.as_ref().map(Url::as_str), expected, "{link}");
        }
    }
}

//! `docker login`, and looking at a registry without pulling.

use berth_api::filters::Filters;
use berth_api::registry::{DescriptorAnswer, DistributionInspect, LoginAnswer, SearchResult};
use berth_images::ImageError;
use berth_registry::manifest::MAX_MANIFEST;
use berth_registry::search;
use berth_registry::{Credentials, Fetched, Manifest, Platform, Purpose, RegistryError, Session};
use berth_types::Digest;
use berth_types::reference::Reference;

use super::RegistryConfig;
use super::error::RegistryUseError;
use crate::engine::Engine;
use crate::error::EngineError;

impl Engine {
    /// Shows credentials to the registry that they are for.
    pub async fn log_in(&self, credentials: Credentials) -> Result<LoginAnswer, EngineError> {
        let config = self.reloadable().registry;
        let logged_in = berth_registry::login(&config.options, credentials, config.limits).await;
        let answer = logged_in.map_err(RegistryUseError::Asked)?;
        let status = "Login Succeeded".to_owned();
        Ok(LoginAnswer { identity_token: answer.identity, status })
    }

    /// Repositories of a registry, named in `term` or Docker's, that are about what the rest of
    /// `term` says.
    pub async fn search_images(
        &self,
        term: &str,
        limit: i64,
        filters: Filters,
        credentials: &Credentials,
    ) -> Result<Vec<SearchResult>, EngineError> {
        let filters = filters.accept(&["is-automated", "is-official", "stars"])?;
        let wanted = |key: &str| -> Result<Option<bool>, EngineError> {
            Ok(if filters.contains(key) { Some(filters.boolean(key, false)?) } else { None })
        };
        let (automated, official) = (wanted("is-automated")?, wanted("is-official")?);
        let mut stars = 0;
        for text in filters.get("stars") {
            let bad = |_not_a_number| RegistryUseError::Stars { text: text.to_owned() };
            let least = text.parse().map_err(bad)?;
            stars = std::cmp::max(stars, least);
        }
        let RegistryConfig { options, limits, .. } = self.reloadable().registry;
        let found = search::search(&options, credentials, &limits, term, limit).await;
        let found = found.map_err(RegistryUseError::Asked)?;
        let is_wanted = |one: &search::Found| {
            one.star_count >= stars
                && automated.is_none_or(|wanted| one.is_automated == wanted)
                && official.is_none_or(|wanted| one.is_official == wanted)
        };
        let told = |one: search::Found| SearchResult {
            star_count: one.star_count,
            is_official: one.is_official,
            name: one.name.unwrap_or_default(),
            is_automated: one.is_automated,
            description: one.description.unwrap_or_default(),
        };
        Ok(found.into_iter().filter(is_wanted).map(told).collect())
    }

    /// What a registry has under a name.
    pub async fn inspect_distribution(
        &self,
        name: &str,
        credentials: Credentials,
    ) -> Result<DistributionInspect, EngineError> {
        let reference = Reference::parse(name).map_err(ImageError::from)?.with_default_tag();
        let domain = reference.domain();
        let mut addresses = self.addresses(domain, Purpose::Push, credentials).await?;
        while let Some(session) = addresses.next().await {
            match look(&session, &reference).await {
                Ok(found) => return Ok(found),
                Err(error) => addresses.note(RegistryUseError::Asked(error).into())?,
            }
        }
        Err(addresses.failure(domain))
    }
}

async fn look(
    session: &Session,
    reference: &Reference,
) -> Result<DistributionInspect, RegistryError> {
    let wanted = reference.digest().map(Digest::as_str).or(reference.tag()).unwrap_or_default();
    let full = reference.to_string();
    let Fetched { descriptor, manifest } =
        session.manifest(reference.path(), wanted, &full).await?;
    let platforms: Vec<Platform> = match manifest {
        Manifest::Index(index) => {
            index.manifests.into_iter().map(|one| one.platform.unwrap_or_default()).collect()
        }
        Manifest::Image(image) => {
            let digest = &image.config.digest;
            let config = session.small_blob(reference.path(), digest, MAX_MANIFEST).await?;
            match serde_json::from_slice::<Platform>(&config) {
                Ok(platform) if !platform.os.is_empty() || !platform.architecture.is_empty() => {
                    vec![platform]
                }
                _ => Vec::new(),
            }
        }
    };
    let platforms = platforms.iter().map(serde_json::to_value).filter_map(Result::ok).collect();
    Ok(DistributionInspect {
        descriptor: DescriptorAnswer {
            media_type: descriptor.media_type,
            digest: descriptor.digest,
            size: descriptor.size,
        },
        platforms,
    })
}

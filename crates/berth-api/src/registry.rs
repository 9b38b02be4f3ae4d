//! Registries: logging in, and looking at what they have.

use berth_types::Digest;
use serde::Serialize;
use serde_json::Value;

/// The answer to `POST /auth`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct LoginAnswer {
    /// A token to keep in the place of the password; empty for none.
    pub identity_token: String,
    /// `Login Succeeded`.
    pub status: String,
}

/// A repository in the answer to `GET /images/search`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SearchResult {
    /// How many like it.
    pub star_count: i64,
    /// Whether Docker keeps it.
    pub is_official: bool,
    /// What it is pulled by.
    pub name: String,
    /// Whether the registry builds it.
    pub is_automated: bool,
    /// What its owner says of it.
    pub description: String,
}

/// The answer to `GET /distribution/{name}/json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct DistributionInspect {
    /// The manifest or the list of manifests.
    pub descriptor: DescriptorAnswer,
    /// What it runs on.
    pub platforms: Vec<Value>,
}

/// A blob or manifest by what it is called.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DescriptorAnswer {
    /// What it is.
    pub media_type: String,
    /// What its bytes hash to.
    pub digest: Digest,
    /// How long it is.
    pub size: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_have_dockers_names() {
        let login = LoginAnswer { identity_token: String::new(), status: "ok".to_owned() };
        assert_eq!(serde_json::to_string(&login).unwrap(), r#"{"IdentityToken":"","Status":"ok"}"#);
        let digest = Digest::of(b"");
        let found = DistributionInspect {
            descriptor: DescriptorAnswer { media_type: "a/b".to_owned(), digest, size: 0 },
            platforms: Vec::new(),
        };
        let text = serde_json::to_string(&found).unwrap();
        assert!(
            text.starts_with(r#"{"Descriptor":{"mediaType":"a/b","digest":"sha256:"#),
            "{text}"
        );
        assert!(text.ends_with(r#","size":0},"Platforms":[]}"#), "{text}");
    }
}

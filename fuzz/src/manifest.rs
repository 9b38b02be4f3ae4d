//! Manifests as registries send them: the media type, a newline, the document.
//!
//! Promised for every input: no panic; an image's manifest is written out and read again as the same.

use anyhow::ensure;
use berth_registry::Manifest;
use berth_registry::manifest::Platform;

use crate::Target;
use crate::random::Random;

/// The target `manifest`.
#[derive(Debug)]
pub(crate) struct Document;

#[rustfmt::skip]
const WORDS: &[&str] = &[
    "{", "}", "[", "]", ",", ":", "\"", "null", "0", "-1", "1e999", "18446744073709551616", "true", "\n",
    "\"schemaVersion\":2,", "\"schemaVersion\":1,", "\"mediaType\":\"\",", "\"config\":{},", "\"layers\":[],",
    "\"manifests\":[],", "\"platform\":{\"os\":\"linux\",\"architecture\":\"amd64\"},", "\"digest\":\"sha256:\",",
    "\"size\":5,", "\"urls\":[\"x\"],", "application/vnd.oci.image.index.v1+json", "text/plain; charset=utf-8",
    "application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json", "\\u0000", "\\ud800", "é", "\0",
];

impl Target for Document {
    fn corpus(&self) -> anyhow::Result<Vec<Vec<u8>>> {
        crate::files("manifest")
    }

    fn mutate(&self, random: &mut Random, input: &mut Vec<u8>, corpus: &[Vec<u8>]) {
        crate::mutate::text(random, input, corpus, WORDS);
    }

    fn run(&mut self, input: &[u8], _round: u64) -> anyhow::Result<bool> {
        let end = input.iter().position(|&byte| byte == b'\n').unwrap_or(input.len());
        let media_type = String::from_utf8_lossy(&input[..end]);
        let body = input.get(end + 1..).unwrap_or_default();
        match Manifest::parse(&media_type, body, "a/b:1") {
            Err(_refused) => Ok(false),
            Ok(Manifest::Index(index)) => {
                let wanted = Platform {
                    os: "linux".to_owned(),
                    architecture: "amd64".to_owned(),
                    ..Platform::default()
                };
                if let Ok(chosen) = index.choose(&wanted) {
                    ensure!(index.manifests.contains(chosen), "it chose what is not there");
                }
                Ok(true)
            }
            Ok(Manifest::Image(image)) => {
                let written = serde_json::to_vec(&image)?;
                let again = Manifest::parse(&image.media_type, &written, "a/b:1")?;
                ensure!(again == Manifest::Image(image), "it reads as another one");
                Ok(true)
            }
        }
    }
}

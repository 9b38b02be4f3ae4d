//! A registry in memory, and images for it.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::{Arc, Mutex};

use berth_types::Digest;
use serde_json::{Value, json};
use testkit::http::{Reply, Request, Server};

pub(crate) const DOCKER: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub(crate) const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub(crate) const OCI: &str = "application/vnd.oci.image.manifest.v1+json";

type Fault = dyn Fn(&Request) -> Option<Reply> + Send + Sync;
type Cut = dyn Fn(&Request) -> Option<usize> + Send + Sync;

/// A registry, until it is dropped.
pub(crate) struct Registry {
    pub(crate) server: Server,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// By repository and digest.
    blobs: BTreeMap<(String, String), Vec<u8>>,
    /// By repository and tag or digest: media type and bytes.
    manifests: BTreeMap<(String, String), (String, Vec<u8>)>,
    uploads: BTreeMap<String, Vec<u8>>,
    next: u32,
    fault: Option<Arc<Fault>>,
    cut: Option<Arc<Cut>>,
}

impl Registry {
    pub(crate) fn new() -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        let answer = {
            let state = Arc::clone(&state);
            move |request: &Request| {
                let fault = state.lock().unwrap().fault.clone();
                let said = fault.and_then(|fault| fault(request));
                said.unwrap_or_else(|| state.lock().unwrap().answer(request))
            }
        };
        let limit = {
            let state = Arc::clone(&state);
            move |request: &Request| {
                let cut = state.lock().unwrap().cut.clone();
                cut.and_then(|cut| cut(request))
            }
        };
        let server = Server::start_cutting(answer, limit);
        Self { server, state }
    }

    /// `127.0.0.1:PORT/name`.
    pub(crate) fn name(&self, name: &str) -> String {
        format!("{}/{name}", self.server.host())
    }

    /// Has the registry answer with something else where `fault` says so.
    pub(crate) fn set_fault(
        &self,
        fault: impl Fn(&Request) -> Option<Reply> + Send + Sync + 'static,
    ) {
        self.state.lock().unwrap().fault = Some(Arc::new(fault));
    }

    /// Has the registry hang up after so many bytes of a body.
    pub(crate) fn set_cut(&self, cut: impl Fn(&Request) -> Option<usize> + Send + Sync + 'static) {
        self.state.lock().unwrap().cut = Some(Arc::new(cut));
    }

    /// Loses every blob, and every manifest too unless they are kept.
    pub(crate) fn wipe(&self, keeps_manifests: bool) {
        let mut state = self.state.lock().unwrap();
        state.blobs.clear();
        if !keeps_manifests {
            state.manifests.clear();
        }
    }

    /// The digests of a repository's blobs, sorted.
    pub(crate) fn blobs(&self, repository: &str) -> Vec<String> {
        let state = self.state.lock().unwrap();
        let own = state.blobs.keys().filter(|(own, _)| own == repository);
        own.map(|(_, digest)| digest.clone()).collect()
    }

    pub(crate) fn heal(&self) {
        self.state.lock().unwrap().fault = None;
    }

    pub(crate) fn put(&self, repository: &str, image: &Image) {
        let mut state = self.state.lock().unwrap();
        for blob in image.blobs.iter().chain([&image.config]) {
            let key = (repository.to_owned(), Digest::of(blob).to_string());
            state.blobs.insert(key, blob.clone());
        }
        drop(state);
        self.put_manifest(repository, "1", image.media_type, &image.manifest);
    }

    pub(crate) fn put_manifest(&self, repository: &str, tag: &str, media_type: &str, bytes: &[u8]) {
        let mut state = self.state.lock().unwrap();
        for name in [tag.to_owned(), Digest::of(bytes).to_string()] {
            let stored = (media_type.to_owned(), bytes.to_vec());
            state.manifests.insert((repository.to_owned(), name), stored);
        }
    }

    /// Media type and bytes.
    pub(crate) fn manifest(&self, repository: &str, tag: &str) -> (String, Value) {
        let state = self.state.lock().unwrap();
        let (media_type, bytes) = &state.manifests[&(repository.to_owned(), tag.to_owned())];
        (media_type.clone(), serde_json::from_slice(bytes).unwrap())
    }

    pub(crate) fn manifest_bytes(&self, repository: &str, tag: &str) -> Vec<u8> {
        let state = self.state.lock().unwrap();
        state.manifests[&(repository.to_owned(), tag.to_owned())].1.clone()
    }

    pub(crate) fn blob(&self, repository: &str, digest: &str) -> Vec<u8> {
        self.state.lock().unwrap().blobs[&(repository.to_owned(), digest.to_owned())].clone()
    }

    /// The requests since so many, without pings.
    pub(crate) fn lines_since(&self, before: usize) -> Vec<String> {
        let lines = self.server.lines().into_iter().skip(before);
        lines.filter(|line| line != "GET /v2/").collect()
    }
}

impl State {
    fn answer(&mut self, request: &Request) -> Reply {
        let path = request.path.strip_prefix("/v2/").unwrap_or_default();
        if path.is_empty() {
            return Reply::new(200, "{}");
        }
        if let Some(repository) = path.strip_suffix("/tags/list") {
            let tags: Vec<_> = self
                .manifests
                .keys()
                .filter(|(own, tag)| own == repository && !tag.contains(':'))
                .map(|(_, tag)| tag.clone())
                .collect();
            return match &tags[..] {
                [] => error(404, "NAME_UNKNOWN", "repository name not known to registry"),
                tags => Reply::new(200, json!({ "tags": tags }).to_string()),
            };
        }
        if let Some((repository, name)) = path.split_once("/manifests/") {
            return self.manifest(request, repository, name);
        }
        if let Some((repository, id)) = path.split_once("/blobs/uploads/") {
            return self.upload(request, repository, id);
        }
        let Some((repository, digest)) = path.split_once("/blobs/") else {
            return error(404, "UNSUPPORTED", "no such thing");
        };
        match self.blobs.get(&(repository.to_owned(), digest.to_owned())) {
            Some(blob) => ranged(request, blob),
            None => error(404, "BLOB_UNKNOWN", "blob unknown to registry"),
        }
    }

    fn manifest(&mut self, request: &Request, repository: &str, name: &str) -> Reply {
        if request.method == "PUT" {
            let media_type = request.header("content-type").unwrap_or_default().to_owned();
            let manifest: Value = serde_json::from_slice(&request.body).unwrap();
            let layers = manifest["layers"].as_array().into_iter().flatten();
            let has = |blob: &Value| {
                let digest = blob["digest"].as_str().unwrap_or_default().to_owned();
                self.blobs.contains_key(&(repository.to_owned(), digest))
            };
            // Docker's own names each one that it misses.
            let missing = layers.chain([&manifest["config"]]).filter(|blob| !has(blob));
            let unknown = |blob: &Value| json!({ "code": "MANIFEST_BLOB_UNKNOWN", "message": "blob unknown to registry", "detail": blob["digest"] });
            let errors: Vec<_> = missing.map(unknown).collect();
            if !errors.is_empty() {
                return Reply::new(400, json!({ "errors": errors }).to_string());
            }
            for name in [name.to_owned(), Digest::of(&request.body).to_string()] {
                let stored = (media_type.clone(), request.body.clone());
                self.manifests.insert((repository.to_owned(), name), stored);
            }
            return Reply::new(201, "");
        }
        match self.manifests.get(&(repository.to_owned(), name.to_owned())) {
            Some((media_type, bytes)) => {
                let digest = Digest::of(bytes).to_string();
                let reply = Reply::new(200, bytes.clone()).with("Docker-Content-Digest", digest);
                reply.with("Content-Type", media_type.clone())
            }
            None => error(404, "MANIFEST_UNKNOWN", "manifest unknown"),
        }
    }

    fn upload(&mut self, request: &Request, repository: &str, id: &str) -> Reply {
        let parameter = |name: &str| {
            let pairs = request.query.split('&').filter_map(|pair| pair.split_once('='));
            let found = pairs.into_iter().find(|(own, _)| *own == name);
            found.map(|(_, value)| value.replace("%3A", ":").replace("%2F", "/"))
        };
        match &*request.method {
            "POST" => {
                if let (Some(digest), Some(from)) = (parameter("mount"), parameter("from"))
                    && let Some(blob) = self.blobs.get(&(from, digest.clone())).cloned()
                {
                    self.blobs.insert((repository.to_owned(), digest), blob);
                    return Reply::new(201, "");
                }
                self.next += 1;
                let id = format!("u{}", self.next);
                self.uploads.insert(id.clone(), Vec::new());
                Reply::new(202, "").with("Location", format!("/v2/{repository}/blobs/uploads/{id}"))
            }
            "GET" => match self.uploads.get(id) {
                Some(upload) => Reply::new(204, "")
                    .with("Range", format!("0-{}", upload.len().saturating_sub(1))),
                None => error(404, "BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry"),
            },
            "PATCH" => match self.uploads.get_mut(id) {
                Some(upload) => {
                    upload.extend_from_slice(&request.body);
                    Reply::new(202, "").with("Location", request.path.clone())
                }
                None => error(404, "BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry"),
            },
            "PUT" => {
                let digest = parameter("digest").unwrap_or_default();
                let upload = self.uploads.remove(id).unwrap_or_default();
                if Digest::of(&upload).as_str() != digest {
                    return error(400, "DIGEST_INVALID", "provided digest did not match");
                }
                self.blobs.insert((repository.to_owned(), digest), upload);
                Reply::new(201, "")
            }
            _ => Reply::new(204, ""),
        }
    }
}

/// A blob, or the rest of it.
pub(crate) fn ranged(request: &Request, blob: &[u8]) -> Reply {
    let range = request.header("range").and_then(|text| text.strip_prefix("bytes="));
    match range.and_then(|text| text.trim_end_matches('-').parse::<usize>().ok()) {
        Some(start) => Reply::new(206, &blob[start..])
            .with("Content-Range", format!("bytes {start}-{}/{}", blob.len() - 1, blob.len())),
        None => Reply::new(200, blob),
    }
}

pub(crate) fn error(status: u16, code: &str, message: &str) -> Reply {
    let body = json!({ "errors": [{ "code": code, "message": message, "detail": {} }] });
    Reply::new(status, body.to_string())
}

/// An image as a registry has it.
#[derive(Debug, Clone)]
pub(crate) struct Image {
    pub(crate) media_type: &'static str,
    pub(crate) config: Vec<u8>,
    pub(crate) blobs: Vec<Vec<u8>>,
    pub(crate) manifest: Vec<u8>,
}

impl Image {
    /// One layer with one file for each content.
    pub(crate) fn new(media_type: &'static str, contents: &[&[u8]]) -> Self {
        let tars: Vec<_> = contents.iter().map(|content| tar(content)).collect();
        Self::of_tars(media_type, &tars)
    }

    fn of_tars(media_type: &'static str, tars: &[Vec<u8>]) -> Self {
        let diffs: Vec<Digest> = tars.iter().map(|tar| Digest::of(tar)).collect();
        let config = json!({
            "architecture": architecture(), "os": "linux",
            "config": { "Cmd": ["true"], "Labels": { "kept": "as it is" } },
            "rootfs": { "type": "layers", "diff_ids": diffs },
        });
        let blobs: Vec<_> = tars.iter().map(|tar| gzip(tar)).collect();
        Self::of_parts(media_type, config.to_string().into_bytes(), blobs)
    }

    pub(crate) fn of_parts(media_type: &'static str, config: Vec<u8>, blobs: Vec<Vec<u8>>) -> Self {
        let (config_type, layer_type) = if media_type == OCI {
            (
                "application/vnd.oci.image.config.v1+json",
                "application/vnd.oci.image.layer.v1.tar+gzip",
            )
        } else {
            (
                "application/vnd.docker.container.image.v1+json",
                "application/vnd.docker.image.rootfs.diff.tar.gzip",
            )
        };
        let describe = |media_type: &str, bytes: &[u8]| json!({ "mediaType": media_type, "size": bytes.len(), "digest": Digest::of(bytes) });
        let layers: Vec<_> = blobs.iter().map(|blob| describe(layer_type, blob)).collect();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": media_type,
            "config": describe(config_type, &config), "layers": layers,
        });
        let manifest = manifest.to_string().into_bytes();
        Self { media_type, config, blobs, manifest }
    }

    /// With something changed in its manifest.
    pub(crate) fn with(&self, change: impl FnOnce(&mut Value)) -> Self {
        let mut manifest = serde_json::from_slice(&self.manifest).unwrap();
        change(&mut manifest);
        Self { manifest: manifest.to_string().into_bytes(), ..self.clone() }
    }

    pub(crate) fn id(&self) -> String {
        Digest::of(&self.config).to_string()
    }

    pub(crate) fn digest(&self) -> Digest {
        Digest::of(&self.manifest)
    }

    /// What the layers are called in messages.
    pub(crate) fn shorts(&self) -> Vec<String> {
        self.blobs.iter().map(|blob| Digest::of(blob).short().to_owned()).collect()
    }
}

pub(crate) fn tar(content: &[u8]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_mode(0o644);
    header.set_size(content.len() as u64);
    let name = format!("file-{}", Digest::of(content).short());
    tar.append_data(&mut header, name, content).unwrap();
    tar.into_inner().unwrap()
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(bytes).unwrap();
    gzip.finish().unwrap()
}

pub(crate) fn architecture() -> &'static str {
    berth_images::config::host_architecture()
}

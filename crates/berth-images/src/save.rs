//! `docker save`: one archive that is both an OCI layout and a docker-archive.
//!
//! ```text
//! blobs/sha256/<hex>   configurations, manifests, layers as they came in
//! index.json           the OCI index
//! manifest.json        the same for Docker
//! oci-layout
//! repositories         the same for Docker before 1.10; only when something has a name
//! ```
//!
//! Everything but the layers is made beforehand, and every layer's length is known beforehand, so
//! the archive streams with a small buffer. What goes wrong before the first byte is an ordinary
//! error; a layer that turns out damaged later cuts the archive short.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::sync::Arc;

use berth_db::OptionalExtension;
use berth_types::reference::Reference;
use berth_types::{ChainId, Digest, ImageId, Timestamp};
use serde::Serialize;

use crate::hold::Hold;
use crate::store::{Wanted, load, lookup, note_tar_size, references_of_name, search};
use crate::{Image, ImageError, ImageStore};

const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";
const LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar";
const LAYOUT: &[u8] = br#"{"imageLayoutVersion": "1.0.0"}"#;
const BUFFER: usize = 1 << 18;

/// An archive that is ready to go out.
#[derive(Debug)]
pub struct Saving {
    store: Arc<ImageStore>,
    images: Vec<ImageId>,
    /// Blobs by their digest.
    blobs: BTreeMap<Digest, Blob>,
    /// The files beside them, by name.
    files: BTreeMap<&'static str, Vec<u8>>,
    /// The time of the directories: that of the first image.
    time: u64,
    _hold: Hold,
}

#[derive(Debug)]
struct Blob {
    time: u64,
    content: Content,
}

#[derive(Debug)]
enum Content {
    Bytes(Vec<u8>),
    Layer { chain: ChainId, size: u64 },
}

/// An image, and the names it is saved under.
struct Chosen {
    image: Image,
    names: Vec<Reference>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: &'static str,
    digest: Digest,
    size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    annotations: Option<BTreeMap<&'static str, String>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Manifest<'a> {
    schema_version: u8,
    media_type: &'static str,
    config: Descriptor,
    layers: &'a [Descriptor],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Index {
    schema_version: u8,
    media_type: &'static str,
    manifests: Vec<Descriptor>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Item {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent: Option<ImageId>,
    layer_sources: BTreeMap<Digest, Descriptor>,
}

impl ImageStore {
    /// Prepares an archive of these images: by name with all tags of the repository, by name and
    /// tag, or by id without names.
    pub fn save(self: &Arc<Self>, names: &[String]) -> Result<Saving, ImageError> {
        let chosen = self.choose(names)?;
        let mut tops = Vec::new();
        for choice in &chosen {
            tops.push(choice.image.config.top_chain().ok_or(ImageError::EmptyExport)?);
        }
        let hold = Hold::take(self, "save", &tops)?;
        let mut build = Build::default();
        for choice in &chosen {
            build.add(self, choice, &chosen)?;
        }
        Ok(Saving {
            store: Arc::clone(self),
            images: chosen.iter().map(|choice| choice.image.id.clone()).collect(),
            time: chosen.first().map_or(0, |choice| time_of(&choice.image)),
            files: build.files()?,
            blobs: build.blobs,
            _hold: hold,
        })
    }

    fn choose(&self, names: &[String]) -> Result<Vec<Chosen>, ImageError> {
        self.db.read(|conn| {
            let here = self.at(conn);
            let mut chosen: Vec<Chosen> = Vec::new();
            let mut add = |id: &ImageId, asked: &str, name: Option<Reference>| {
                let known = chosen.iter().position(|choice| choice.image.id == *id);
                let at = known.unwrap_or(chosen.len());
                if known.is_none() {
                    let not_found = || ImageError::NotFound { name: asked.to_owned() };
                    let image = load(here, id)?.ok_or_else(not_found)?;
                    chosen.push(Chosen { image, names: Vec::new() });
                }
                if let Some(name) = name.filter(|name| name.digest().is_none())
                    && !chosen[at].names.contains(&name)
                {
                    chosen[at].names.push(name);
                }
                Ok::<_, ImageError>(())
            };
            for asked in names {
                match Wanted::parse(asked)? {
                    Wanted::Id(id) => add(&id, id.as_str(), None)?,
                    Wanted::Name(name) if name.familiar_name() == "sha256" => {
                        add(&search(here, asked)??, asked, None)?;
                    }
                    Wanted::Name(name) if name.is_name_only() => {
                        let all = references_of_name(here, &name)?;
                        if all.is_empty() {
                            add(&search(here, asked)??, asked, None)?;
                        }
                        for (reference, id) in all {
                            add(&id, asked, Some(reference))?;
                        }
                    }
                    Wanted::Name(name) => {
                        let id = lookup(here, &name)?.ok_or(ImageError::NoReference)?;
                        add(&id, asked, Some(name))?;
                    }
                }
            }
            Ok(chosen)
        })
    }

    /// How long the tar of a layer is; read once when nobody noted it.
    pub(crate) fn tar_size(&self, chain: &ChainId) -> Result<u64, ImageError> {
        let noted: Option<i64> = self.db.read(|conn| {
            Ok::<_, ImageError>(
                conn.query_row(
                    "SELECT bytes FROM layer_tars WHERE chain = ?1",
                    [chain.as_str()],
                    |row| row.get(0),
                )
                .optional()?,
            )
        })?;
        if let Some(size) = noted.and_then(|size| u64::try_from(size).ok()) {
            return Ok(size);
        }
        let mut tar = self.layers.tar_stream(chain)?;
        let size = io::copy(&mut tar, &mut io::sink()).map_err(ImageError::ReadLayer)?;
        self.db.write(|tx| note_tar_size(tx, chain, size))?;
        Ok(size)
    }
}

/// The parts of an archive while they come together.
#[derive(Default)]
struct Build {
    blobs: BTreeMap<Digest, Blob>,
    manifests: Vec<Descriptor>,
    items: Vec<Item>,
    repositories: BTreeMap<String, BTreeMap<String, String>>,
}

impl Build {
    fn add(
        &mut self,
        store: &ImageStore,
        choice: &Chosen,
        all: &[Chosen],
    ) -> Result<(), ImageError> {
        let Chosen { image, names } = choice;
        let time = time_of(image);
        let mut layers = Vec::new();
        for (chain, diff) in image.config.chains().iter().zip(image.config.diff_ids()) {
            let digest = diff.digest().clone();
            let size = store.tar_size(chain)?;
            let content = Content::Layer { chain: chain.clone(), size };
            self.blobs.entry(digest.clone()).or_insert(Blob { time, content });
            layers.push(Descriptor { media_type: LAYER_TYPE, digest, size, annotations: None });
        }
        let config = image.id.digest().clone();
        let raw = image.config.raw().to_vec();
        let manifest = json(&Manifest {
            schema_version: 2,
            media_type: MANIFEST_TYPE,
            config: Descriptor {
                media_type: CONFIG_TYPE,
                digest: config.clone(),
                size: raw.len() as u64,
                annotations: None,
            },
            layers: &layers,
        })?;
        self.blobs.insert(config.clone(), Blob { time, content: Content::Bytes(raw) });
        self.index(names, &manifest);
        let top = layers.last().map(|layer| layer.digest.hex().to_owned()).unwrap_or_default();
        for name in names {
            let tags = self.repositories.entry(name.familiar_name()).or_default();
            tags.insert(name.tag().unwrap_or_default().to_owned(), top.clone());
        }
        let tags: Vec<String> = names.iter().map(Reference::familiar).collect();
        let is_saved = |parent: &ImageId| all.iter().any(|other| other.image.id == *parent);
        self.items.push(Item {
            config: blob_path(&config),
            repo_tags: (!tags.is_empty()).then_some(tags),
            layers: layers.iter().map(|layer| blob_path(&layer.digest)).collect(),
            parent: image.parent.clone().filter(is_saved),
            layer_sources: layers.into_iter().map(|layer| (layer.digest.clone(), layer)).collect(),
        });
        let digest = Digest::of(&manifest);
        self.blobs.insert(digest, Blob { time: 0, content: Content::Bytes(manifest) });
        Ok(())
    }

    /// One line of the index for each name, or one without.
    fn index(&mut self, names: &[Reference], manifest: &[u8]) {
        let descriptor = |annotations| Descriptor {
            media_type: MANIFEST_TYPE,
            digest: Digest::of(manifest),
            size: manifest.len() as u64,
            annotations,
        };
        if names.is_empty() {
            self.manifests.push(descriptor(None));
        }
        for name in names {
            let tag = name.tag().unwrap_or_default().to_owned();
            self.manifests.push(descriptor(Some(BTreeMap::from([
                ("io.containerd.image.name", name.to_string()),
                ("org.opencontainers.image.ref.name", tag),
            ]))));
        }
    }

    fn files(&mut self) -> Result<BTreeMap<&'static str, Vec<u8>>, ImageError> {
        let manifests = std::mem::take(&mut self.manifests);
        let index = Index { schema_version: 2, media_type: INDEX_TYPE, manifests };
        let mut files = BTreeMap::from([
            ("index.json", json(&index)?),
            ("manifest.json", line(json(&self.items)?)),
            ("oci-layout", LAYOUT.to_vec()),
        ]);
        if !self.repositories.is_empty() {
            files.insert("repositories", line(json(&self.repositories)?));
        }
        Ok(files)
    }
}

impl Saving {
    /// The images in it.
    pub fn images(&self) -> &[ImageId] {
        &self.images
    }

    /// Writes the archive.
    pub fn write_to(&self, out: &mut dyn Write) -> Result<(), ImageError> {
        for directory in ["blobs/", "blobs/sha256/"] {
            let header = header(directory, tar::EntryType::Directory, 0o755, 0, self.time)?;
            out.write_all(header.as_bytes()).map_err(ImageError::Send)?;
        }
        for (digest, blob) in &self.blobs {
            let name = blob_path(digest);
            match &blob.content {
                Content::Bytes(bytes) => write_bytes(out, &name, bytes, blob.time)?,
                Content::Layer { chain, size } => {
                    self.write_layer(out, &name, chain, *size, blob.time)?;
                }
            }
        }
        for (name, bytes) in &self.files {
            write_bytes(out, name, bytes, 0)?;
        }
        out.write_all(&[0; 1024]).map_err(ImageError::Send)?;
        out.flush().map_err(ImageError::Send)
    }

    fn write_layer(
        &self,
        out: &mut dyn Write,
        name: &str,
        chain: &ChainId,
        size: u64,
        time: u64,
    ) -> Result<(), ImageError> {
        let header = header(name, tar::EntryType::Regular, 0o644, size, time)?;
        let mut tar = self.store.layers.tar_stream(chain)?;
        out.write_all(header.as_bytes()).map_err(ImageError::Send)?;
        let mut buffer = vec![0; BUFFER];
        let mut got = 0;
        // The last read, which finds nothing more, is the one that verifies the whole.
        while let read @ 1.. = tar.read(&mut buffer).map_err(ImageError::ReadLayer)? {
            got += read as u64;
            if got > size {
                break;
            }
            out.write_all(&buffer[..read]).map_err(ImageError::Send)?;
        }
        if got != size {
            let chain = chain.to_string();
            return Err(ImageError::TarSize { chain, expected: size, got });
        }
        pad(out, size)
    }
}

fn write_bytes(out: &mut dyn Write, name: &str, bytes: &[u8], time: u64) -> Result<(), ImageError> {
    let size = bytes.len() as u64;
    let header = header(name, tar::EntryType::Regular, 0o644, size, time)?;
    out.write_all(header.as_bytes()).map_err(ImageError::Send)?;
    out.write_all(bytes).map_err(ImageError::Send)?;
    pad(out, size)
}

fn header(
    name: &str,
    kind: tar::EntryType,
    mode: u32,
    size: u64,
    time: u64,
) -> Result<tar::Header, ImageError> {
    let mut header = tar::Header::new_ustar();
    header.set_path(name).map_err(ImageError::Send)?;
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(size);
    header.set_mtime(time);
    header.set_cksum();
    Ok(header)
}

fn pad(out: &mut dyn Write, size: u64) -> Result<(), ImageError> {
    let zeros = [0; 512];
    let missing = usize::try_from((512 - size % 512) % 512).expect("less than a block");
    out.write_all(&zeros[..missing]).map_err(ImageError::Send)
}

fn blob_path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// The image's own time; the epoch when it has none, or one before it.
fn time_of(image: &Image) -> u64 {
    let created = image.config.created().map_or(0, Timestamp::unix);
    u64::try_from(created).unwrap_or(0)
}

fn json<T: Serialize>(value: &T) -> Result<Vec<u8>, ImageError> {
    serde_json::to_vec(value).map_err(ImageError::Config)
}

fn line(mut json: Vec<u8>) -> Vec<u8> {
    json.push(b'\n');
    json
}

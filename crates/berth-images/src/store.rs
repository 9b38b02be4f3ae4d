//! The records: images, and the names that point at them.

use std::collections::BTreeMap;
use std::sync::Arc;

use berth_db::{Conn, Db, OptionalExtension, Row, Schema, Tx, params};
use berth_layers::{LayerStore, Removed};
use berth_types::reference::{self, Reference};
use berth_types::{ChainId, Digest, ImageId, Timestamp};

use crate::{ImageConfig, ImageError};

/// The tables of the image store.
pub const SCHEMA: Schema = Schema {
    name: "images",
    migrations: &[
        "
        CREATE TABLE images (
            id            TEXT PRIMARY KEY,
            config        BLOB NOT NULL,
            created       INTEGER,
            parent        TEXT REFERENCES images (id) ON DELETE SET NULL,
            last_tagged   TEXT,
            built_locally INTEGER NOT NULL DEFAULT 0,
            top_chain     TEXT
        );
        CREATE INDEX images_by_parent ON images (parent);
        CREATE TABLE tags (
            reference TEXT PRIMARY KEY,
            name      TEXT NOT NULL,
            tag       TEXT,
            digest    TEXT,
            image     TEXT NOT NULL REFERENCES images (id)
        ) WITHOUT ROWID;
        CREATE INDEX tags_by_image ON tags (image);
        CREATE INDEX tags_by_name ON tags (name);
        CREATE TABLE layer_tars (
            chain TEXT PRIMARY KEY,
            bytes INTEGER NOT NULL
        ) WITHOUT ROWID;
        CREATE TABLE image_holds (
            owner TEXT NOT NULL,
            chain TEXT NOT NULL,
            PRIMARY KEY (owner, chain)
        ) WITHOUT ROWID;
    ",
        V2,
        V3,
    ],
};

/// An image is where its layers are: each driver has images and names of its own. Until then the
/// layers' driver is the one that has them; an image without layers goes to any.
const V2: &str = "
    CREATE TABLE images_2 (
        driver        TEXT NOT NULL,
        id            TEXT NOT NULL,
        config        BLOB NOT NULL,
        created       INTEGER,
        parent        TEXT,
        last_tagged   TEXT,
        built_locally INTEGER NOT NULL DEFAULT 0,
        top_chain     TEXT,
        PRIMARY KEY (driver, id)
    );
    INSERT INTO images_2
        SELECT coalesce(r.driver, (SELECT min(driver) FROM layer_realisations), 'overlay2'),
               i.id, i.config, i.created, i.parent, i.last_tagged, i.built_locally, i.top_chain
        FROM images i LEFT JOIN layer_realisations r ON r.chain_id = i.top_chain;
    CREATE TABLE tags_2 (
        driver    TEXT NOT NULL,
        reference TEXT NOT NULL,
        name      TEXT NOT NULL,
        tag       TEXT,
        digest    TEXT,
        image     TEXT NOT NULL,
        PRIMARY KEY (driver, reference),
        FOREIGN KEY (driver, image) REFERENCES images_2 (driver, id)
    ) WITHOUT ROWID;
    INSERT INTO tags_2
        SELECT i.driver, t.reference, t.name, t.tag, t.digest, t.image
        FROM tags t JOIN images_2 i ON i.id = t.image;
    CREATE TABLE image_holds_2 (
        driver TEXT NOT NULL,
        owner  TEXT NOT NULL,
        chain  TEXT NOT NULL,
        PRIMARY KEY (driver, owner, chain)
    ) WITHOUT ROWID;
    INSERT INTO image_holds_2
        SELECT r.driver, h.owner, h.chain
        FROM image_holds h JOIN layer_realisations r ON r.chain_id = h.chain;
    DROP TABLE tags;
    DROP TABLE images;
    DROP TABLE image_holds;
    ALTER TABLE images_2 RENAME TO images;
    ALTER TABLE tags_2 RENAME TO tags;
    ALTER TABLE image_holds_2 RENAME TO image_holds;
    CREATE INDEX images_by_parent ON images (driver, parent);
    CREATE INDEX tags_by_image ON tags (driver, image);
    CREATE INDEX tags_by_name ON tags (driver, name);
";

/// How images came, and what registries call their layers.
const V3: &str = "
    ALTER TABLE images ADD COLUMN media_type TEXT;
    CREATE TABLE layer_blobs (
        diff       TEXT NOT NULL,
        repository TEXT NOT NULL,
        digest     TEXT NOT NULL,
        size       INTEGER NOT NULL,
        media_type TEXT NOT NULL,
        seen       INTEGER NOT NULL,
        PRIMARY KEY (diff, repository, digest)
    ) WITHOUT ROWID;
";

/// A connection, and the driver whose images are meant.
#[derive(Clone, Copy)]
pub(crate) struct At<'a> {
    conn: &'a Conn,
    driver: &'a str,
}

impl std::ops::Deref for At<'_> {
    type Target = Conn;

    fn deref(&self) -> &Conn {
        self.conn
    }
}

impl At<'_> {
    pub(crate) fn driver(&self) -> &str {
        self.driver
    }
}

/// An image as recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// The digest of the configuration.
    pub id: ImageId,
    /// The configuration.
    pub config: Arc<ImageConfig>,
    /// The image it was made of here, if any.
    pub parent: Option<ImageId>,
    /// When a name was last given to it here.
    pub last_tagged: Option<Timestamp>,
    /// Whether it was made here by a build or a commit.
    pub built_locally: bool,
}

/// An image to be recorded.
#[derive(Debug, Clone)]
pub struct NewImage {
    /// The configuration.
    pub config: ImageConfig,
    /// The image it was made of here.
    pub parent: Option<ImageId>,
    /// Whether it was made here by a build or a commit.
    pub built_locally: bool,
}

/// The image store. Calls block; they may come from any thread.
///
/// Images and names are those of the layers' driver; other drivers' are not seen and not touched.
///
/// Lookups and lists read records only. What changes records takes the transaction, so that a
/// use case commits once.
#[derive(Debug)]
pub struct ImageStore {
    pub(crate) db: Arc<Db>,
    pub(crate) layers: Arc<LayerStore>,
}

impl ImageStore {
    /// Opens the store over the layers that its images need.
    pub fn open(db: Arc<Db>, layers: Arc<LayerStore>) -> Self {
        Self { db, layers }
    }

    /// The images of this store's driver, as `conn` sees them.
    pub(crate) fn at<'a>(&'a self, conn: &'a Conn) -> At<'a> {
        At { conn, driver: self.layers.driver().name() }
    }

    /// Finds an image as clients name it: by name (`:latest` when it has neither tag nor digest),
    /// then by id or the unambiguous beginning of one, `sha256:` before it or not.
    pub fn resolve(&self, name: &str) -> Result<Image, ImageError> {
        self.db.read(|conn| resolve(self.at(conn), name))
    }

    /// The image of this id.
    pub fn get(&self, id: &ImageId) -> Result<Option<Image>, ImageError> {
        self.db.read(|conn| load(self.at(conn), id))
    }

    /// Every image, in the order of ids.
    pub fn all(&self) -> Result<Vec<Image>, ImageError> {
        self.db.read(|conn| all(self.at(conn)))
    }

    /// How many images there are, intermediate ones included.
    pub fn count(&self) -> Result<u64, ImageError> {
        self.db.read(|conn| {
            let at = self.at(conn);
            let count = "SELECT count(*) FROM images WHERE driver = ?1";
            Ok(at.query_row(count, [at.driver], |row| row.get::<_, i64>(0))?.unsigned_abs())
        })
    }

    /// How many images other drivers have.
    pub fn count_elsewhere(&self) -> Result<u64, ImageError> {
        self.db.read(|conn| {
            let at = self.at(conn);
            let count = "SELECT count(*) FROM images WHERE driver <> ?1";
            Ok(at.query_row(count, [at.driver], |row| row.get::<_, i64>(0))?.unsigned_abs())
        })
    }

    /// How many images each driver has.
    pub fn count_by_driver(&self) -> Result<Vec<(String, u64)>, ImageError> {
        self.db.read(|conn| {
            let mut statement =
                conn.prepare("SELECT driver, count(*) FROM images GROUP BY driver")?;
            let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get::<_, i64>(1)?)))?;
            let counts: Vec<(String, i64)> = rows.collect::<Result<_, _>>()?;
            Ok(counts.into_iter().map(|(name, count)| (name, count.unsigned_abs())).collect())
        })
    }

    /// In a copy of the records: forgets what other drivers have.
    pub fn forget_elsewhere(&self, tx: &Tx<'_>) -> Result<(), ImageError> {
        let driver = self.layers.driver().name();
        for table in ["tags", "image_holds", "images"] {
            tx.execute(&format!("DELETE FROM {table} WHERE driver <> ?1"), [driver])?;
        }
        Ok(())
    }

    /// The names of every image, sorted.
    pub fn all_references(&self) -> Result<BTreeMap<ImageId, Vec<Reference>>, ImageError> {
        self.db.read(|conn| all_references(self.at(conn)))
    }

    /// The names of one image, sorted.
    pub fn references(&self, id: &ImageId) -> Result<Vec<Reference>, ImageError> {
        self.db.read(|conn| references(self.at(conn), id))
    }

    /// The images with a tag in this repository, sorted by it.
    pub fn tagged(&self, repository: &Reference) -> Result<Vec<(Reference, Image)>, ImageError> {
        self.db.read(|conn| {
            let here = self.at(conn);
            let mut found = Vec::new();
            for (name, id) in references_of_name(here, repository)? {
                if name.tag().is_some()
                    && let Some(image) = load(here, &id)?
                {
                    found.push((name, image));
                }
            }
            Ok(found)
        })
    }

    /// The images that were made of this one here.
    pub fn children(&self, id: &ImageId) -> Result<Vec<ImageId>, ImageError> {
        self.db.read(|conn| children(self.at(conn), id))
    }

    /// The images that were made of this one here; without one, those that were made here of none.
    pub fn made_of(&self, parent: Option<&ImageId>) -> Result<Vec<Image>, ImageError> {
        self.db.read(|conn| {
            let at = self.at(conn);
            let columns = at
                .prepare_cached(&format!(
                    "SELECT {COLUMNS} FROM images \
                     WHERE driver = ?1 AND parent IS ?2 AND (?2 IS NOT NULL OR built_locally)"
                ))?
                .query_map(params![at.driver, parent.map(ImageId::as_str)], Columns::read)?
                .collect::<Result<Vec<_>, _>>()?;
            columns.into_iter().map(Columns::image).collect()
        })
    }

    /// Notes that an image that came from elsewhere was made of this one.
    pub fn adopt(&self, id: &ImageId, parent: &ImageId) -> Result<(), ImageError> {
        self.db.write(|tx| set_parent(self.at(tx), id, parent))
    }

    /// What a container of this image shows as its image: the name it was asked for while
    /// that still points at the image, else the id.
    pub fn display_name(&self, asked: &str, id: &ImageId) -> Result<String, ImageError> {
        let holds = match Wanted::parse(asked) {
            Ok(Wanted::Name(reference)) => {
                let found = self.db.read(|conn| lookup(self.at(conn), &reference))?;
                found.is_some_and(|found| found == *id)
            }
            Ok(Wanted::Id(_)) | Err(_) => true,
        };
        Ok(if holds { asked.to_owned() } else { id.to_string() })
    }

    /// Records an image and that it needs its layers, which must be recorded by then.
    ///
    /// An image that is there stays as it is, but takes a parent or the mark of a local build
    /// that it did not have.
    pub fn record(&self, tx: &Tx<'_>, new: &NewImage) -> Result<ImageId, ImageError> {
        let id = new.config.id();
        let top = new.config.top_chain();
        let driver = self.layers.driver().name();
        let added = tx
            .prepare_cached(
                "INSERT INTO images \
                 (driver, id, config, created, parent, built_locally, top_chain) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT (driver, id) DO NOTHING",
            )?
            .execute(params![
                driver,
                id.as_str(),
                new.config.raw(),
                new.config.created().map(Timestamp::unix),
                new.parent.as_ref().map(ImageId::as_str),
                new.built_locally,
                top.as_ref().map(ChainId::as_str),
            ])?;
        if added == 0 {
            tx.execute(
                "UPDATE images SET parent = coalesce(?3, parent), \
                 built_locally = max(built_locally, ?4) WHERE driver = ?1 AND id = ?2",
                params![
                    driver,
                    id.as_str(),
                    new.parent.as_ref().map(ImageId::as_str),
                    new.built_locally
                ],
            )?;
        } else if let Some(top) = &top {
            self.layers.retain(tx, top, &owner(&id))?;
        }
        Ok(id)
    }

    /// Removes an image's record, and those of the layers that nothing else needs. The names go
    /// first; children lose their parent. Give the result to [`LayerStore::purge`].
    pub(crate) fn forget(&self, tx: &Tx<'_>, id: &ImageId) -> Result<Vec<Removed>, ImageError> {
        let this = [self.layers.driver().name(), id.as_str()];
        let asked = "SELECT top_chain FROM images WHERE driver = ?1 AND id = ?2";
        let top: Option<Option<String>> = tx.query_row(asked, this, |row| row.get(0)).optional()?;
        tx.execute("UPDATE images SET parent = NULL WHERE driver = ?1 AND parent = ?2", this)?;
        tx.execute("DELETE FROM images WHERE driver = ?1 AND id = ?2", this)?;
        let Some(Some(top)) = top else { return Ok(Vec::new()) };
        let top = ChainId::parse(&top).map_err(|_bad| damaged(id.as_str()))?;
        self.release_layers(tx, &top, &owner(id))
    }

    pub(crate) fn release_layers(
        &self,
        tx: &Tx<'_>,
        top: &ChainId,
        owner: &str,
    ) -> Result<Vec<Removed>, ImageError> {
        let removed = self.layers.release(tx, top, owner)?;
        for chain in removed.iter().filter_map(|layer| layer.chain.as_ref()) {
            if self.layers.is_known(tx, chain)? {
                // Another driver has it.
                continue;
            }
            tx.execute("DELETE FROM layer_tars WHERE chain = ?1", [chain.as_str()])?;
        }
        Ok(removed)
    }
}

/// Notes that the image was made of this one here.
pub(crate) fn set_parent(at: At<'_>, id: &ImageId, parent: &ImageId) -> Result<(), ImageError> {
    at.execute(
        "UPDATE images SET parent = ?3 WHERE driver = ?1 AND id = ?2",
        params![at.driver, id.as_str(), parent.as_str()],
    )?;
    Ok(())
}

/// Notes how long a layer's tar is, which a later `save` must know beforehand.
pub(crate) fn note_tar_size(tx: &Tx<'_>, chain: &ChainId, bytes: u64) -> Result<(), ImageError> {
    tx.prepare_cached(
        "INSERT INTO layer_tars (chain, bytes) VALUES (?1, ?2) ON CONFLICT (chain) DO NOTHING",
    )?
    .execute(params![chain.as_str(), i64::try_from(bytes).unwrap_or(i64::MAX)])?;
    Ok(())
}

/// What the layer store calls an image that needs a layer.
pub(crate) fn owner(id: &ImageId) -> String {
    format!("image:{id}")
}

/// What a client's name for an image means.
pub(crate) enum Wanted {
    /// A whole id, with or without `sha256:`.
    Id(ImageId),
    /// A name; its text may also be the beginning of an id.
    Name(Reference),
}

impl Wanted {
    pub(crate) fn parse(text: &str) -> Result<Self, ImageError> {
        if reference::is_id(text) {
            let digest = Digest::from_hex(text).map_err(reference::ReferenceError::from)?;
            return Ok(Self::Id(digest.into()));
        }
        match Digest::parse(text) {
            Ok(digest) => Ok(Self::Id(digest.into())),
            Err(_) => Ok(Self::Name(Reference::parse(text)?)),
        }
    }

    /// The name in "No such image": with a tag, or the whole id.
    pub(crate) fn shown(&self) -> String {
        match self {
            Self::Id(id) => id.to_string(),
            Self::Name(reference) => reference.clone().with_default_tag().familiar(),
        }
    }
}

/// Finds an image as clients name it, see [`ImageStore::resolve`].
pub(crate) fn resolve(at: At<'_>, name: &str) -> Result<Image, ImageError> {
    let wanted = Wanted::parse(name)?;
    let not_found = || ImageError::NotFound { name: wanted.shown() };
    let id = match &wanted {
        Wanted::Id(id) => Some(id.clone()),
        Wanted::Name(reference) => match lookup(at, reference)? {
            Some(id) => Some(id),
            // Docker takes an ambiguous beginning for an unknown image here.
            None => search(at, name)?.ok(),
        },
    };
    load(at, &id.ok_or_else(not_found)?)?.ok_or_else(not_found)
}

/// What a name is recorded under: with `latest` when it has nothing, and by its digest alone
/// when it has one.
pub(crate) fn key(reference: &Reference) -> Reference {
    match reference.digest() {
        Some(digest) => reference.with_digest(digest.clone()),
        None => reference.clone().with_default_tag(),
    }
}

/// The image that a name points at.
pub(crate) fn lookup(at: At<'_>, reference: &Reference) -> Result<Option<ImageId>, ImageError> {
    let id: Option<String> = at
        .prepare_cached("SELECT image FROM tags WHERE driver = ?1 AND reference = ?2")?
        .query_row(params![at.driver, key(reference).to_string()], |row| row.get(0))
        .optional()?;
    id.map(|id| parse_id(&id)).transpose()
}

/// The image whose id begins so. `Err` inside: none, or several.
pub(crate) fn search(at: At<'_>, term: &str) -> Result<Result<ImageId, ImageError>, ImageError> {
    let not_found = || ImageError::NotFound { name: term.to_owned() };
    let hex = term.strip_prefix("sha256:").unwrap_or(term);
    let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if hex.is_empty() || hex.len() > 64 || !hex.bytes().all(is_hex) {
        return Ok(Err(not_found()));
    }
    let mut found = at
        .prepare_cached(
            "SELECT id FROM images WHERE driver = ?1 AND id >= ?2 AND id < ?3 ORDER BY id LIMIT 2",
        )?
        .query_map(params![at.driver, format!("sha256:{hex}"), format!("sha256:{hex}g")], |row| {
            row.get::<_, String>(0)
        })?
        .collect::<Result<Vec<_>, _>>()?;
    Ok(match (found.pop(), found.is_empty()) {
        (Some(id), true) => Ok(parse_id(&id)?),
        (Some(_), false) => Err(ImageError::Ambiguous),
        (None, _) => Err(not_found()),
    })
}

const COLUMNS: &str = "id, config, parent, last_tagged, built_locally";

/// The image of this id.
pub(crate) fn load(at: At<'_>, id: &ImageId) -> Result<Option<Image>, ImageError> {
    let columns = at
        .prepare_cached(&format!("SELECT {COLUMNS} FROM images WHERE driver = ?1 AND id = ?2"))?
        .query_row([at.driver, id.as_str()], Columns::read)
        .optional()?;
    columns.map(Columns::image).transpose()
}

pub(crate) fn all(at: At<'_>) -> Result<Vec<Image>, ImageError> {
    at.prepare_cached(&format!("SELECT {COLUMNS} FROM images WHERE driver = ?1 ORDER BY id"))?
        .query_map([at.driver], Columns::read)?
        .map(|columns| columns?.image())
        .collect()
}

pub(crate) fn references(at: At<'_>, id: &ImageId) -> Result<Vec<Reference>, ImageError> {
    at.prepare_cached(
        "SELECT reference FROM tags WHERE driver = ?1 AND image = ?2 ORDER BY reference",
    )?
    .query_map([at.driver, id.as_str()], |row| row.get::<_, String>(0))?
    .map(|text| parse_reference(&text?))
    .collect()
}

/// The names of a repository, each with its image, sorted.
pub(crate) fn references_of_name(
    at: At<'_>,
    name: &Reference,
) -> Result<Vec<(Reference, ImageId)>, ImageError> {
    at.prepare_cached(
        "SELECT reference, image FROM tags WHERE driver = ?1 AND name = ?2 ORDER BY reference",
    )?
    .query_map(params![at.driver, name.name()], |row| {
        Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?))
    })?
    .map(|row| {
        let (reference, id) = row?;
        Ok((parse_reference(&reference)?, parse_id(&id)?))
    })
    .collect()
}

pub(crate) fn all_references(at: At<'_>) -> Result<BTreeMap<ImageId, Vec<Reference>>, ImageError> {
    let mut all: BTreeMap<ImageId, Vec<Reference>> = BTreeMap::new();
    let mut statement = at
        .prepare_cached("SELECT image, reference FROM tags WHERE driver = ?1 ORDER BY reference")?;
    let rows = statement
        .query_map([at.driver], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))?;
    for row in rows {
        let (id, text) = row?;
        all.entry(parse_id(&id)?).or_default().push(parse_reference(&text)?);
    }
    Ok(all)
}

pub(crate) fn children(at: At<'_>, id: &ImageId) -> Result<Vec<ImageId>, ImageError> {
    at.prepare_cached("SELECT id FROM images WHERE driver = ?1 AND parent = ?2 ORDER BY id")?
        .query_map([at.driver, id.as_str()], |row| row.get::<_, String>(0))?
        .map(|id| parse_id(&id?))
        .collect()
}

/// A row as SQLite gives it.
struct Columns {
    id: String,
    config: Vec<u8>,
    parent: Option<String>,
    last_tagged: Option<String>,
    built_locally: bool,
}

impl Columns {
    fn read(row: &Row<'_>) -> Result<Self, berth_db::sql::Error> {
        Ok(Self {
            id: row.get(0)?,
            config: row.get(1)?,
            parent: row.get(2)?,
            last_tagged: row.get(3)?,
            built_locally: row.get(4)?,
        })
    }

    fn image(self) -> Result<Image, ImageError> {
        let id = parse_id(&self.id)?;
        let config = ImageConfig::parse(self.config)?;
        if config.id() != id {
            return Err(damaged(&self.id));
        }
        Ok(Image {
            id,
            config: Arc::new(config),
            parent: self.parent.as_deref().map(parse_id).transpose()?,
            last_tagged: self.last_tagged.as_deref().and_then(Timestamp::parse),
            built_locally: self.built_locally,
        })
    }
}

fn parse_id(text: &str) -> Result<ImageId, ImageError> {
    Digest::parse(text).map(ImageId::from).map_err(|_bad| damaged(text))
}

fn parse_reference(text: &str) -> Result<Reference, ImageError> {
    Reference::parse(text).map_err(|_bad| damaged(text))
}

fn damaged(id: &str) -> ImageError {
    ImageError::Damaged { id: id.to_owned() }
}

//! The tables, and the statements on them.

use std::collections::BTreeMap;

use berth_db::sql::types::Type;
use berth_db::{Conn, DbError, OptionalExtension as _, Row, Schema, Tx, params, sql};
use berth_storage::StorageDriver;
use berth_types::{ChainId, ContainerId, DiffId, LayerId, Timestamp};

use crate::{Layer, LayerError, Removed, RwLayer};

/// The tables of the layer store.
pub const SCHEMA: Schema = Schema { name: "layers", migrations: &[V1, V2, V3, V4] };

/// `layers` says what a layer is, `layer_realisations` where a driver has it and how large it is
/// there, `layer_refs` who outside this crate needs it there. Child layers and containers' layers need
/// their parent without a row there. `layer_intents` names the layers of drivers that must not
/// outlive the operation (`make`) or the process (`remove`) they belong to.
const V1: &str = "
CREATE TABLE layers (
    chain_id TEXT PRIMARY KEY,
    diff_id  TEXT NOT NULL,
    parent   TEXT REFERENCES layers (chain_id),
    depth    INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX layers_by_parent ON layers (parent);

CREATE TABLE layer_realisations (
    chain_id   TEXT NOT NULL REFERENCES layers (chain_id),
    driver     TEXT NOT NULL,
    layer_id   TEXT NOT NULL UNIQUE,
    size       INTEGER NOT NULL,
    chain_size INTEGER NOT NULL,
    created    TEXT NOT NULL,
    PRIMARY KEY (chain_id, driver)
) WITHOUT ROWID;

CREATE TABLE layer_refs (
    chain_id TEXT NOT NULL REFERENCES layers (chain_id),
    owner    TEXT NOT NULL,
    PRIMARY KEY (chain_id, owner)
) WITHOUT ROWID;
CREATE INDEX layer_refs_by_owner ON layer_refs (owner);

CREATE TABLE rw_layers (
    container_id TEXT PRIMARY KEY,
    driver       TEXT NOT NULL,
    mount_id     TEXT NOT NULL UNIQUE,
    parent       TEXT REFERENCES layers (chain_id),
    size         INTEGER,
    storage_opt  TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX rw_layers_by_parent ON rw_layers (parent);

CREATE TABLE layer_intents (
    layer_id TEXT PRIMARY KEY,
    driver   TEXT NOT NULL,
    kind     TEXT NOT NULL CHECK (kind IN ('make', 'remove')),
    ingest   TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX layer_intents_by_ingest ON layer_intents (ingest);
";

/// A reference counts on one driver: what another one keeps is none of its business.
const V2: &str = "
CREATE TABLE layer_refs_2 (
    chain_id TEXT NOT NULL,
    driver   TEXT NOT NULL,
    owner    TEXT NOT NULL,
    PRIMARY KEY (chain_id, driver, owner),
    FOREIGN KEY (chain_id, driver) REFERENCES layer_realisations (chain_id, driver)
) WITHOUT ROWID;
INSERT INTO layer_refs_2
    SELECT f.chain_id, r.driver, f.owner
    FROM layer_refs f JOIN layer_realisations r ON r.chain_id = f.chain_id;
DROP TABLE layer_refs;
ALTER TABLE layer_refs_2 RENAME TO layer_refs;
CREATE INDEX layer_refs_by_owner ON layer_refs (driver, owner);
";

/// What a repair could not mend, until a source of it turns up.
const V3: &str = "
CREATE TABLE layer_damage (
    chain_id TEXT NOT NULL,
    driver   TEXT NOT NULL,
    trouble  TEXT NOT NULL,
    noted    TEXT NOT NULL,
    PRIMARY KEY (chain_id, driver),
    FOREIGN KEY (chain_id, driver)
        REFERENCES layer_realisations (chain_id, driver) ON DELETE CASCADE
) WITHOUT ROWID;
";

/// Of layers that were recorded before, it is not known: they may have some.
const V4: &str = "ALTER TABLE layers ADD COLUMN capabilities INTEGER NOT NULL DEFAULT 1";

const LAYER: &str = "SELECT l.chain_id, l.diff_id, l.parent, r.size, r.chain_size, l.depth, \
                     r.created, r.layer_id, l.capabilities \
                     FROM layers l JOIN layer_realisations r ON r.chain_id = l.chain_id";
const RW: &str = "SELECT container_id, driver, mount_id, parent, size, storage_opt FROM rw_layers";

/// Owners of references that an ingest holds begin with this.
pub(crate) const INGEST_OWNER: &str = "ingest:";

/// A text column that must parse.
fn column<T>(row: &Row<'_>, at: usize, parse: impl Fn(&str) -> Option<T>) -> sql::Result<T> {
    let text: String = row.get(at)?;
    parse(&text).ok_or_else(|| {
        sql::Error::FromSqlConversionFailure(at, Type::Text, "not in its form".into())
    })
}

fn optional<T>(
    row: &Row<'_>,
    at: usize,
    parse: impl Fn(&str) -> Option<T>,
) -> sql::Result<Option<T>> {
    if row.get::<_, Option<String>>(at)?.is_none() {
        return Ok(None);
    }
    column(row, at, parse).map(Some)
}

fn chain_id(text: &str) -> Option<ChainId> {
    ChainId::parse(text).ok()
}

fn layer_id(text: &str) -> Option<LayerId> {
    LayerId::parse(text).ok()
}

fn size_column(row: &Row<'_>, at: usize) -> sql::Result<u64> {
    let size: i64 = row.get(at)?;
    Ok(u64::try_from(size).unwrap_or(0))
}

fn to_sql_size(size: u64) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}

fn layer(row: &Row<'_>) -> sql::Result<Layer> {
    Ok(Layer {
        chain: column(row, 0, chain_id)?,
        diff: column(row, 1, |text| DiffId::parse(text).ok())?,
        parent: optional(row, 2, chain_id)?,
        size: size_column(row, 3)?,
        chain_size: size_column(row, 4)?,
        depth: row.get(5)?,
        created: column(row, 6, Timestamp::parse)?,
        layer: column(row, 7, layer_id)?,
        capabilities: row.get(8)?,
    })
}

fn rw_layer(row: &Row<'_>) -> sql::Result<RwLayer> {
    let size: Option<i64> = row.get(4)?;
    Ok(RwLayer {
        container: column(row, 0, |text| ContainerId::parse(text).ok())?,
        driver: row.get(1)?,
        mount: column(row, 2, layer_id)?,
        parent: optional(row, 3, chain_id)?,
        size: size.map(|size| u64::try_from(size).unwrap_or(0)),
        storage_opt: column(row, 5, |text| serde_json::from_str(text).ok())?,
    })
}

/// All rows of a statement.
fn rows<T>(
    conn: &Conn,
    statement: &str,
    values: impl sql::Params,
    read: impl FnMut(&Row<'_>) -> sql::Result<T>,
) -> Result<Vec<T>, DbError> {
    let mut prepared = conn.prepare_cached(statement)?;
    let found = prepared.query_map(values, read)?;
    Ok(found.collect::<sql::Result<_>>()?)
}

fn run(conn: &Conn, statement: &str, values: impl sql::Params) -> Result<usize, DbError> {
    Ok(conn.prepare_cached(statement)?.execute(values)?)
}

pub(crate) fn get(conn: &Conn, driver: &str, chain: &ChainId) -> Result<Option<Layer>, DbError> {
    let mut found =
        conn.prepare_cached(&format!("{LAYER} WHERE r.driver = ?1 AND l.chain_id = ?2"))?;
    Ok(found.query_row(params![driver, chain.as_str()], layer).optional()?)
}

pub(crate) fn list(conn: &Conn, driver: &str) -> Result<Vec<Layer>, DbError> {
    rows(
        conn,
        &format!("{LAYER} WHERE r.driver = ?1 ORDER BY l.depth, l.chain_id"),
        [driver],
        layer,
    )
}

/// Whether any driver has the layer.
pub(crate) fn is_known(conn: &Conn, chain: &ChainId) -> Result<bool, DbError> {
    let mut found = conn.prepare_cached("SELECT 1 FROM layers WHERE chain_id = ?1")?;
    Ok(found.exists([chain.as_str()])?)
}

pub(crate) fn insert(tx: &Tx<'_>, driver: &str, new: &Layer) -> Result<(), DbError> {
    run(
        tx,
        "INSERT INTO layers (chain_id, diff_id, parent, depth, capabilities) \
         VALUES (?1, ?2, ?3, ?4, ?5) \
         ON CONFLICT DO NOTHING",
        params![
            new.chain.as_str(),
            new.diff.as_str(),
            new.parent.as_ref().map(ChainId::as_str),
            new.depth,
            new.capabilities
        ],
    )?;
    run(
        tx,
        "INSERT INTO layer_realisations (chain_id, driver, layer_id, size, chain_size, created) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        params![
            new.chain.as_str(),
            driver,
            new.layer.as_str(),
            to_sql_size(new.size),
            to_sql_size(new.chain_size),
            new.created.to_string()
        ],
    )?;
    Ok(())
}

/// Records a layer's own size anew, and that of everything on top of it.
pub(crate) fn set_size(tx: &Tx<'_>, driver: &str, layer: &Layer, size: u64) -> Result<(), DbError> {
    let here = params![layer.chain.as_str(), driver, to_sql_size(size), to_sql_size(layer.size)];
    run(
        tx,
        "WITH RECURSIVE above (chain_id) AS ( \
             SELECT ?1 UNION \
             SELECT l.chain_id FROM layers l JOIN above a ON l.parent = a.chain_id) \
         UPDATE layer_realisations SET chain_size = chain_size + ?3 - ?4 \
         WHERE driver = ?2 AND chain_id IN (SELECT chain_id FROM above)",
        here,
    )?;
    run(
        tx,
        "UPDATE layer_realisations SET size = ?3 WHERE chain_id = ?1 AND driver = ?2",
        params![layer.chain.as_str(), driver, to_sql_size(size)],
    )?;
    Ok(())
}

pub(crate) fn note_damage(
    tx: &Tx<'_>,
    driver: &str,
    chain: &ChainId,
    trouble: &str,
) -> Result<(), DbError> {
    run(
        tx,
        "INSERT INTO layer_damage (chain_id, driver, trouble, noted) VALUES (?1, ?2, ?3, ?4) \
         ON CONFLICT (chain_id, driver) DO UPDATE SET trouble = excluded.trouble",
        [chain.as_str(), driver, trouble, &Timestamp::now().to_string()],
    )?;
    Ok(())
}

pub(crate) fn forget_damage(tx: &Tx<'_>, driver: &str, chain: &ChainId) -> Result<(), DbError> {
    let here = [chain.as_str(), driver];
    run(tx, "DELETE FROM layer_damage WHERE chain_id = ?1 AND driver = ?2", here)?;
    Ok(())
}

/// What is noted of each layer.
pub(crate) fn all_damage(conn: &Conn, driver: &str) -> Result<BTreeMap<ChainId, String>, DbError> {
    let noted = "SELECT chain_id, trouble FROM layer_damage WHERE driver = ?1";
    let found = rows(conn, noted, [driver], |row| Ok((column(row, 0, chain_id)?, row.get(1)?)))?;
    Ok(found.into_iter().collect())
}

pub(crate) fn is_damaged(conn: &Conn, driver: &str, chain: &ChainId) -> Result<bool, DbError> {
    let mut found =
        conn.prepare_cached("SELECT 1 FROM layer_damage WHERE chain_id = ?1 AND driver = ?2")?;
    Ok(found.exists([chain.as_str(), driver])?)
}

pub(crate) fn retain(
    tx: &Tx<'_>,
    driver: &str,
    chain: &ChainId,
    owner: &str,
) -> Result<(), DbError> {
    run(
        tx,
        "INSERT INTO layer_refs (chain_id, driver, owner) VALUES (?1, ?2, ?3) \
         ON CONFLICT DO NOTHING",
        [chain.as_str(), driver, owner],
    )?;
    Ok(())
}

pub(crate) fn release(
    tx: &Tx<'_>,
    driver: &str,
    chain: &ChainId,
    owner: &str,
) -> Result<(), DbError> {
    run(
        tx,
        "DELETE FROM layer_refs WHERE chain_id = ?1 AND driver = ?2 AND owner = ?3",
        [chain.as_str(), driver, owner],
    )?;
    Ok(())
}

/// The layers that ingests hold: of one, or of all when `owner` is the bare prefix.
pub(crate) fn leases(
    conn: &Conn,
    driver: &str,
    owner: &str,
) -> Result<Vec<(ChainId, String)>, DbError> {
    rows(
        conn,
        "SELECT chain_id, owner FROM layer_refs \
         WHERE driver = ?1 AND owner >= ?2 AND owner < ?2 || x'7f'",
        [driver, owner],
        |row| Ok((column(row, 0, chain_id)?, row.get(1)?)),
    )
}

/// Removes the records of `chain` and of what is below it on one driver, as far as nobody needs
/// them there, and notes the intent to remove the bytes. Child first. What the layer is stays on
/// record while another driver has it.
pub(crate) fn collect(
    tx: &Tx<'_>,
    driver: &dyn StorageDriver,
    chain: &ChainId,
) -> Result<Vec<Removed>, LayerError> {
    let (driver, has_templates) = (driver.name(), driver.mounts_to_fill());
    let mut removed = Vec::new();
    let mut next = Some(chain.clone());
    while let Some(chain) = next {
        let here = [chain.as_str(), driver];
        let needed: bool = tx
            .prepare_cached(
                "SELECT EXISTS (SELECT 1 FROM layer_refs WHERE chain_id = ?1 AND driver = ?2) \
                     OR EXISTS (SELECT 1 FROM layers c JOIN layer_realisations r \
                                ON r.chain_id = c.chain_id AND r.driver = ?2 \
                                WHERE c.parent = ?1) \
                     OR EXISTS (SELECT 1 FROM rw_layers WHERE parent = ?1 AND driver = ?2)",
            )
            .and_then(|mut asked| asked.query_row(here, |row| row.get(0)))
            .map_err(DbError::from)?;
        if needed {
            break;
        }
        let Some(layer) = get(tx, driver, &chain)? else { break };
        if has_templates {
            let template = layer.layer.init();
            intend_removal(tx, driver, &template)?;
            removed.push(Removed { chain: None, layer: template });
        }
        intend_removal(tx, driver, &layer.layer)?;
        run(tx, "DELETE FROM layer_realisations WHERE chain_id = ?1 AND driver = ?2", here)?;
        run(
            tx,
            "DELETE FROM layers WHERE chain_id = ?1 \
             AND NOT EXISTS (SELECT 1 FROM layer_realisations WHERE chain_id = ?1)",
            [chain.as_str()],
        )?;
        removed.push(Removed { chain: Some(chain), layer: layer.layer });
        next = layer.parent;
    }
    Ok(removed)
}

/// How many image layers each other driver has.
pub(crate) fn count_elsewhere(conn: &Conn, driver: &str) -> Result<Vec<(String, u64)>, DbError> {
    rows(
        conn,
        "SELECT driver, count(*) FROM layer_realisations WHERE driver <> ?1 \
         GROUP BY driver ORDER BY driver",
        [driver],
        |row| Ok((row.get(0)?, size_column(row, 1)?)),
    )
}

/// The other drivers that have layers on record.
pub(crate) fn elsewhere(conn: &Conn, driver: &str) -> Result<Vec<String>, DbError> {
    rows(
        conn,
        "SELECT DISTINCT driver FROM layer_realisations WHERE driver <> ?1 \
         UNION SELECT DISTINCT driver FROM rw_layers WHERE driver <> ?1 ORDER BY 1",
        [driver],
        |row| row.get(0),
    )
}

/// Forgets what other drivers have, and every intent.
pub(crate) fn forget_elsewhere(tx: &Tx<'_>, driver: &str) -> Result<(), DbError> {
    for table in ["layer_refs", "rw_layers", "layer_damage", "layer_realisations"] {
        run(tx, &format!("DELETE FROM {table} WHERE driver <> ?1"), [driver])?;
    }
    run(
        tx,
        "DELETE FROM layers WHERE chain_id NOT IN (SELECT chain_id FROM layer_realisations)",
        [],
    )?;
    run(tx, "DELETE FROM layer_intents", [])?;
    Ok(())
}

pub(crate) fn intend_making(
    tx: &Tx<'_>,
    driver: &str,
    ingest: &str,
    layer: &LayerId,
) -> Result<(), DbError> {
    run(
        tx,
        "INSERT INTO layer_intents (layer_id, driver, kind, ingest) VALUES (?1, ?2, 'make', ?3)",
        [layer.as_str(), driver, ingest],
    )?;
    Ok(())
}

pub(crate) fn intend_removal(tx: &Tx<'_>, driver: &str, layer: &LayerId) -> Result<(), DbError> {
    run(
        tx,
        "INSERT INTO layer_intents (layer_id, driver, kind, ingest) \
         VALUES (?1, ?2, 'remove', '') ON CONFLICT (layer_id) DO UPDATE SET kind = 'remove'",
        [layer.as_str(), driver],
    )?;
    Ok(())
}

pub(crate) fn forget_intent(tx: &Tx<'_>, layer: &LayerId) -> Result<(), DbError> {
    run(tx, "DELETE FROM layer_intents WHERE layer_id = ?1", [layer.as_str()])?;
    Ok(())
}

/// The layers of an ingest that are not recorded.
pub(crate) fn intents_of(conn: &Conn, ingest: &str) -> Result<Vec<LayerId>, DbError> {
    rows(conn, "SELECT layer_id FROM layer_intents WHERE ingest = ?1", [ingest], |row| {
        column(row, 0, layer_id)
    })
}

pub(crate) fn removals(conn: &Conn, driver: &str) -> Result<Vec<LayerId>, DbError> {
    rows(
        conn,
        "SELECT layer_id FROM layer_intents WHERE driver = ?1 AND kind = 'remove'",
        [driver],
        |row| column(row, 0, layer_id),
    )
}

pub(crate) fn all_intents(conn: &Conn, driver: &str) -> Result<Vec<LayerId>, DbError> {
    rows(conn, "SELECT layer_id FROM layer_intents WHERE driver = ?1", [driver], |row| {
        column(row, 0, layer_id)
    })
}

pub(crate) fn rw(conn: &Conn, container: &ContainerId) -> Result<Option<RwLayer>, DbError> {
    let mut found = conn.prepare_cached(&format!("{RW} WHERE container_id = ?1"))?;
    Ok(found.query_row([container.as_str()], rw_layer).optional()?)
}

pub(crate) fn list_rw(conn: &Conn) -> Result<Vec<RwLayer>, DbError> {
    rows(conn, &format!("{RW} ORDER BY container_id"), [], rw_layer)
}

pub(crate) fn insert_rw(tx: &Tx<'_>, new: &RwLayer) -> Result<(), DbError> {
    let options = serde_json::to_string(&new.storage_opt).unwrap_or_else(|_| "{}".to_owned());
    run(
        tx,
        "INSERT INTO rw_layers (container_id, driver, mount_id, parent, size, storage_opt) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        params![
            new.container.as_str(),
            new.driver,
            new.mount.as_str(),
            new.parent.as_ref().map(ChainId::as_str),
            new.size.map(to_sql_size),
            options
        ],
    )?;
    Ok(())
}

pub(crate) fn delete_rw(tx: &Tx<'_>, container: &ContainerId) -> Result<(), DbError> {
    run(tx, "DELETE FROM rw_layers WHERE container_id = ?1", [container.as_str()])?;
    Ok(())
}

pub(crate) fn set_rw_size(
    tx: &Tx<'_>,
    container: &ContainerId,
    size: Option<u64>,
) -> Result<bool, DbError> {
    let changed = run(
        tx,
        "UPDATE rw_layers SET size = ?2 WHERE container_id = ?1",
        params![container.as_str(), size.map(to_sql_size)],
    )?;
    Ok(changed > 0)
}

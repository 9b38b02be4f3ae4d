//! The rows of the volume tables.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;

use berth_db::{Conn, DbError, OptionalExtension as _, Row, Tx, params};
use berth_types::Timestamp;

use super::{Volume, VolumeRef};

const COLUMNS: &str = "name, driver, labels, options, created, anonymous";

pub(super) fn one(conn: &Conn, name: &str) -> Result<Option<Volume>, DbError> {
    let sql = format!("SELECT {COLUMNS} FROM volumes WHERE name = ?1");
    let mut statement = conn.prepare_cached(&sql)?;
    statement.query_row([name], |row| Ok(read(row))).optional()?.transpose()
}

pub(super) fn all(conn: &Conn) -> Result<Vec<Volume>, DbError> {
    let sql = format!("SELECT {COLUMNS} FROM volumes");
    let mut statement = conn.prepare_cached(&sql)?;
    let rows = statement.query_map([], |row| Ok(read(row)))?;
    rows.map(|row| row?).collect()
}

fn read(row: &Row<'_>) -> Result<Volume, DbError> {
    Ok(Volume {
        name: row.get(0)?,
        driver: row.get(1)?,
        labels: read_map(&row.get::<_, String>(2)?)?,
        options: read_map(&row.get::<_, String>(3)?)?,
        created: Timestamp::from_unix(row.get(4)?, 0).unwrap_or_default(),
        anonymous: row.get(5)?,
        mountpoint: PathBuf::new(),
    })
}

fn read_map(json: &str) -> Result<BTreeMap<String, String>, DbError> {
    serde_json::from_str(json).or(Err(DbError::Damaged { table: "volumes" }))
}

pub(super) fn insert(tx: &Tx<'_>, volume: &Volume) -> Result<(), DbError> {
    let json = |map| serde_json::to_string(map).expect("a map of texts is JSON");
    tx.prepare_cached(
        "INSERT INTO volumes (name, driver, labels, options, created, anonymous) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?
    .execute(params![
        volume.name,
        volume.driver,
        json(&volume.labels),
        json(&volume.options),
        volume.created.unix(),
        volume.anonymous
    ])?;
    Ok(())
}

pub(super) fn delete(tx: &Tx<'_>, name: &str) -> Result<(), DbError> {
    tx.prepare_cached("DELETE FROM volumes WHERE name = ?1")?.execute([name])?;
    Ok(())
}

/// The containers that refer to a volume, each once.
pub(super) fn users(conn: &Conn, name: &str) -> Result<Vec<String>, DbError> {
    let mut statement = conn.prepare_cached(
        "SELECT DISTINCT container FROM volume_refs WHERE volume = ?1 ORDER BY container",
    )?;
    let rows = statement.query_map([name], |row| row.get(0))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

pub(super) fn used_names(conn: &Conn) -> Result<HashSet<String>, DbError> {
    let mut statement = conn.prepare_cached("SELECT DISTINCT volume FROM volume_refs")?;
    let rows = statement.query_map([], |row| row.get(0))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// How many containers refer to each volume that is referred to.
pub(super) fn use_counts(conn: &Conn) -> Result<HashMap<String, i64>, DbError> {
    let mut statement = conn.prepare_cached(
        "SELECT volume, COUNT(DISTINCT container) FROM volume_refs GROUP BY volume",
    )?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

pub(super) fn refs(conn: &Conn) -> Result<Vec<VolumeRef>, DbError> {
    let mut statement = conn.prepare_cached(
        "SELECT volume, container, destination FROM volume_refs \
         ORDER BY volume, container, destination",
    )?;
    let rows = statement.query_map([], |row| {
        Ok(VolumeRef { volume: row.get(0)?, container: row.get(1)?, destination: row.get(2)? })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

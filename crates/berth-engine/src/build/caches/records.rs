//! The rows of the table of caches.

use berth_db::{Conn, DbError, Schema, Tx, params};
use berth_types::{HexId, Timestamp};

use super::{Cache, Key};

/// The table of caches of builds.
pub const SCHEMA: Schema = Schema {
    name: "builds",
    migrations: &["CREATE TABLE build_caches (
        id TEXT PRIMARY KEY,
        name TEXT NOT NULL,
        base TEXT NOT NULL,
        created INTEGER NOT NULL,
        used INTEGER NOT NULL,
        uses INTEGER NOT NULL
    ) WITHOUT ROWID"],
};

/// Every cache, in the order of their last use.
pub(super) fn all(conn: &Conn) -> Result<Vec<Cache>, DbError> {
    let mut statement = conn.prepare_cached(
        "SELECT id, name, base, created, used, uses FROM build_caches ORDER BY used, id",
    )?;
    let rows = statement.query_map([], |row| {
        let id: String = row.get(0)?;
        let key = Key { name: row.get(1)?, base: row.get(2)? };
        Ok((id, key, (row.get(3)?, row.get(4)?), row.get(5)?))
    })?;
    rows.map(|row| {
        let (id, key, (created, used), uses) = row?;
        let time = |seconds| Timestamp::from_unix(seconds, 0).unwrap_or_default();
        let (created, used) = (time(created), time(used));
        let damaged = |_bad| DbError::Damaged { table: "build_caches" };
        Ok(Cache { id: HexId::parse(&id).map_err(damaged)?, key, created, used, uses })
    })
    .collect()
}

pub(super) fn insert(tx: &Tx<'_>, cache: &Cache) -> Result<(), DbError> {
    let insert = "INSERT INTO build_caches (id, name, base, created, used, uses) \
                  VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
    tx.prepare_cached(insert)?.execute(params![
        cache.id.as_str(),
        cache.key.name,
        cache.key.base,
        cache.created.unix(),
        cache.used.unix(),
        cache.uses
    ])?;
    Ok(())
}

/// Counts a use.
pub(super) fn touch(tx: &Tx<'_>, id: &HexId, now: Timestamp) -> Result<(), DbError> {
    tx.prepare_cached("UPDATE build_caches SET used = ?2, uses = uses + 1 WHERE id = ?1")?
        .execute(params![id.as_str(), now.unix()])?;
    Ok(())
}

pub(super) fn delete(tx: &Tx<'_>, id: &HexId) -> Result<(), DbError> {
    tx.prepare_cached("DELETE FROM build_caches WHERE id = ?1")?.execute([id.as_str()])?;
    Ok(())
}

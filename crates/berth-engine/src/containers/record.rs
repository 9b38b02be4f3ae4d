//! What is kept of a container, and its table.

use std::path::{Path, PathBuf};

use berth_api::container::{ContainerConfig, HostConfig};
use berth_db::{Conn, DbError, Schema, Tx, params};
use berth_types::{ContainerId, ImageId, Timestamp};
use berth_volumes::mounts::ContainerMount;
use serde::{Deserialize, Serialize};

use super::state::{Policy, State};

/// The table of containers.
pub const SCHEMA: Schema = Schema {
    name: "containers",
    migrations: &[
        "CREATE TABLE containers (
            id TEXT PRIMARY KEY,
            name TEXT NOT NULL UNIQUE,
            record TEXT NOT NULL,
            state TEXT NOT NULL
        ) WITHOUT ROWID",
        // Containers of another storage driver are not seen, so their names are free.
        "CREATE TABLE containers_2 (
            id TEXT PRIMARY KEY,
            driver TEXT NOT NULL,
            name TEXT NOT NULL,
            record TEXT NOT NULL,
            state TEXT NOT NULL,
            UNIQUE (driver, name)
        ) WITHOUT ROWID;
        INSERT INTO containers_2
            SELECT id, json_extract(record, '$.driver'), name, record, state FROM containers;
        DROP TABLE containers;
        ALTER TABLE containers_2 RENAME TO containers;",
    ],
};

/// What is known of a container from its creation on.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    /// Its id.
    pub id: ContainerId,
    /// Its name, without the slash that Docker's API puts before it.
    pub name: String,
    /// When it was made.
    pub created: Timestamp,
    /// The program that its init runs.
    pub path: String,
    /// The program's arguments.
    pub args: Vec<String>,
    /// Its image; `None` when it was made without one.
    pub image: Option<ImageId>,
    /// The image as the creator named it.
    pub image_ref: String,
    /// The image's architecture, for the API's `Platform`.
    pub platform: String,
    /// The storage driver that holds its layer.
    pub driver: String,
    /// The configuration, the image's merged in.
    pub config: ContainerConfig,
    /// How the host treats it.
    pub host: HostConfig,
    /// What is mounted into it.
    pub mounts: Vec<ContainerMount>,
    /// Its network, as asked for.
    pub network: berth_networks::Requested,
    /// Where its log file is; empty when it has none.
    pub log_path: PathBuf,
    /// Whether it belongs to a step of a build that is under way, and goes with it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub of_build: bool,
}

impl Record {
    /// Makes the paths of the container's own files those of this data root, wherever it was when
    /// the container was made.
    pub fn move_to(&mut self, data_root: &Path) {
        if let Some(name) = self.log_path.file_name() {
            let dir = data_root.join("containers").join(self.id.as_str());
            self.log_path = dir.join(name);
        }
        for mount in &mut self.mounts {
            let is_volume = mount.kind == berth_volumes::mounts::MountKind::Volume;
            if is_volume && mount.source.ends_with("_data") {
                mount.source = data_root.join("volumes").join(&mount.volume).join("_data");
            }
        }
    }

    /// How it wants to be treated when it ends.
    pub fn policy(&self) -> Policy<'_> {
        Policy { restart: &self.host.restart_policy, auto_remove: self.host.auto_remove }
    }

    /// The signal that stops it, by name or number.
    pub fn stop_signal(&self) -> &str {
        if self.config.stop_signal.is_empty() { "SIGTERM" } else { &self.config.stop_signal }
    }
}

/// Adds a container.
pub(crate) fn insert(tx: &Tx<'_>, record: &Record, state: &State) -> Result<(), DbError> {
    let insert = "INSERT INTO containers (id, driver, name, record, state) \
                  VALUES (?1, ?2, ?3, ?4, ?5)";
    let Record { id, driver, name, .. } = record;
    tx.prepare_cached(insert)?.execute(params![
        id.as_str(),
        driver,
        name,
        json(record),
        json(state)
    ])?;
    Ok(())
}

/// Keeps a container's new state.
pub(crate) fn set_state(tx: &Tx<'_>, id: &ContainerId, state: &State) -> Result<(), DbError> {
    tx.prepare_cached("UPDATE containers SET state = ?2 WHERE id = ?1")?
        .execute(params![id.as_str(), json(state)])?;
    Ok(())
}

/// Keeps a container's changed record (renamed, updated).
pub(crate) fn set_record(tx: &Tx<'_>, record: &Record) -> Result<(), DbError> {
    tx.prepare_cached("UPDATE containers SET name = ?2, record = ?3 WHERE id = ?1")?
        .execute(params![record.id.as_str(), record.name, json(record)])?;
    Ok(())
}

/// Forgets a container.
pub(crate) fn delete(tx: &Tx<'_>, id: &ContainerId) -> Result<(), DbError> {
    tx.prepare_cached("DELETE FROM containers WHERE id = ?1")?.execute([id.as_str()])?;
    Ok(())
}

/// The containers whose layers are on other storage drivers than this one.
pub(crate) fn elsewhere(conn: &Conn, driver: &str) -> Result<Vec<ContainerId>, DbError> {
    let mut statement = conn.prepare("SELECT id FROM containers WHERE driver <> ?1")?;
    let rows = statement.query_map([driver], |row| row.get::<_, String>(0))?;
    rows.map(|id| ContainerId::parse(&id?).map_err(|_bad| DbError::Damaged { table: "containers" }))
        .collect()
}

/// Forgets them; gives which they were.
pub(crate) fn forget_elsewhere(tx: &Tx<'_>, driver: &str) -> Result<Vec<ContainerId>, DbError> {
    let forgotten = elsewhere(tx, driver)?;
    tx.execute("DELETE FROM containers WHERE driver <> ?1", [driver])?;
    Ok(forgotten)
}

/// How many these are.
pub(crate) fn count_elsewhere(conn: &Conn, driver: &str) -> Result<u64, DbError> {
    let count = "SELECT count(*) FROM containers WHERE driver <> ?1";
    Ok(conn.query_row(count, [driver], |row| row.get::<_, i64>(0))?.unsigned_abs())
}

/// How many containers each storage driver has.
pub(crate) fn count_by_driver(conn: &Conn) -> Result<Vec<(String, u64)>, DbError> {
    let mut statement = conn.prepare("SELECT driver, count(*) FROM containers GROUP BY driver")?;
    let rows =
        statement.query_map([], |row| Ok((row.get(0)?, row.get::<_, i64>(1)?.unsigned_abs())))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Every container of a storage driver.
pub(crate) fn all(conn: &Conn, driver: &str) -> Result<Vec<(Record, State)>, DbError> {
    let mut statement = conn.prepare("SELECT record, state FROM containers WHERE driver = ?1")?;
    let rows = statement.query_map([driver], |row| Ok((row.get(0)?, row.get(1)?)))?;
    rows.map(|row| {
        let (record, state): (String, String) = row?;
        let damaged = |_: serde_json::Error| DbError::Damaged { table: "containers" };
        let record = serde_json::from_str(&record).map_err(damaged)?;
        Ok((record, serde_json::from_str(&state).map_err(damaged)?))
    })
    .collect()
}

fn json<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("records are plain data with string keys")
}

//! The record database: one SQLite file, one writer, a few readers.
//!
//! Every store owns its tables and hands in a [`Schema`]; a use case that touches several stores
//! does so inside one [`Db::write`], so that either all of it is recorded or none.
//!
//! The file is in WAL mode with `synchronous=FULL`: when [`Db::write`] returns `Ok`, the change
//! survives a power cut. Calls block; they may come from any thread.
//!
//! On a full disk the database goes on: its log has its blocks beforehand ([`Db::open`]).
//!
//! What it is *not*: it knows no store, and no watcher opens it.

#![forbid(unsafe_code)]

mod error;
mod migrate;
mod wal;

use std::ffi::CStr;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rusqlite::OpenFlags;
use rusqlite::config::DbConfig;

pub use error::DbError;
pub use migrate::Schema;
pub use rusqlite::types::{
    FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, Value, ValueRef,
};
pub use rusqlite::{self as sql, OptionalExtension, Row, named_params, params};

/// A transaction that may write. Dereferences to a `rusqlite` connection.
pub type Tx<'a> = rusqlite::Transaction<'a>;

/// A connection that reads a consistent state.
pub type Conn = rusqlite::Connection;

/// How many idle reading connections are kept.
const IDLE_READERS: usize = 2;

/// An open record database.
pub struct Db {
    path: PathBuf,
    writer: Mutex<Conn>,
    readers: Mutex<Vec<Conn>>,
}

impl fmt::Debug for Db {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Db").field("path", &self.path).finish_non_exhaustive()
    }
}

/// Makes the log of a database, empty and as a database of berth has it, where there is none: a copy of
/// one is written into it. Before anybody opens the database.
pub fn create_log(path: &Path) -> std::io::Result<()> {
    wal::create(path)
}

impl Db {
    /// Opens the database at `path`, creates it when missing, and brings every schema up to date.
    ///
    /// Refuses a file that a newer version wrote, and one that SQLite finds damaged.
    pub fn open(path: &Path, schemas: &[&Schema]) -> Result<Self, DbError> {
        if let Err(error) = wal::create(path) {
            tracing::warn!(%error, "{}: its log may need blocks when the disk is full", path.display());
        }
        let mut writer = open_file(path).map_err(|e| DbError::open(path, e))?;
        configure(&writer).map_err(|e| DbError::open(path, e))?;
        migrate::run(&mut writer, schemas)?;
        if let Err(error) = wal::reserve(path) {
            let path = path.display();
            tracing::warn!(%error, "{path}: when the disk is full, nothing can be removed either");
        }
        Ok(Self {
            path: path.to_owned(),
            writer: Mutex::new(writer),
            readers: Mutex::new(Vec::new()),
        })
    }

    /// Runs `work` in the one writing transaction and commits it when it returns `Ok`.
    ///
    /// Only SQL belongs inside: other writers wait meanwhile.
    pub fn write<T, E: From<DbError>>(
        &self,
        work: impl FnOnce(&Tx<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        let mut writer = lock(&self.writer);
        let tx = writer
            .transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)
            .map_err(DbError::from)?;
        let value = work(&tx)?;
        tx.commit().map_err(DbError::from)?;
        Ok(value)
    }

    /// Runs `work` on a reading connection, beside the writer.
    pub fn read<T, E: From<DbError>>(
        &self,
        work: impl FnOnce(&Conn) -> Result<T, E>,
    ) -> Result<T, E> {
        let idle = lock(&self.readers).pop();
        let reader = match idle {
            Some(reader) => reader,
            None => self.open_reader()?,
        };
        let result = work(&reader);
        let mut readers = lock(&self.readers);
        if readers.len() < IDLE_READERS {
            readers.push(reader);
        }
        result
    }

    /// Writes a copy of the whole database to the new file `to`, as it is once `prepare` is committed:
    /// nothing else is written in between. Other writers wait.
    pub fn snapshot<T, E: From<DbError>>(
        &self,
        to: &Path,
        prepare: impl FnOnce(&Tx<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        let mut writer = lock(&self.writer);
        let tx = writer
            .transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)
            .map_err(DbError::from)?;
        let value = prepare(&tx)?;
        tx.commit().map_err(DbError::from)?;
        let to = to.to_string_lossy();
        writer.execute("VACUUM INTO ?1", [&*to]).map_err(DbError::from)?;
        Ok(value)
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Copies the log back into the main file and empties it, at a clean stop: the file alone is
    /// the database then. The log keeps its length.
    pub fn checkpoint(&self) -> Result<(), DbError> {
        let writer = lock(&self.writer);
        let (busy, frames, copied): (bool, i64, i64) =
            writer.query_row("PRAGMA wal_checkpoint(RESTART)", [], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?))
            })?;
        if !busy
            && frames == copied
            && let Err(error) = wal::clear(&self.path)
        {
            tracing::warn!(%error, "the database's log stays, and belongs to it");
        }
        Ok(())
    }

    fn open_reader(&self) -> Result<Conn, DbError> {
        let reader = open_file(&self.path).map_err(|e| DbError::open(&self.path, e))?;
        reader.busy_timeout(BUSY).map_err(DbError::from)?;
        reader.pragma_update(None, "query_only", true).map_err(DbError::from)?;
        keep_log(&reader)?;
        reader.pragma_update(None, "cache_size", CACHE_KIB).map_err(DbError::from)?;
        Ok(reader)
    }
}

const BUSY: std::time::Duration = std::time::Duration::from_secs(5);
/// SQLite's page cache for each connection, in KiB (negative by SQLite's rule).
const CACHE_KIB: i64 = -512;

/// SQLite's files for one process: others are locked out, and the index of the log is in memory.
/// As a mapped file (`-shm`) it would end the process with SIGBUS when a page of it is written to on
/// a full btrfs. Connections of this process share the index as they would the file.
const ONE_PROCESS: &CStr = c"unix-excl";

fn open_file(path: &Path) -> Result<Conn, rusqlite::Error> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    Conn::open_with_flags_and_vfs(path, flags, ONE_PROCESS)
}

fn configure(conn: &Conn) -> Result<(), rusqlite::Error> {
    conn.busy_timeout(BUSY)?;
    conn.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    conn.pragma_update(None, "synchronous", "FULL")?;
    conn.pragma_update(None, "foreign_keys", "ON")?;
    keep_log(conn)?;
    conn.pragma_update(None, "cache_size", CACHE_KIB)?;
    conn.set_prepared_statement_cache_capacity(64);
    Ok(())
}

/// The last one to close the database would remove its log.
fn keep_log(conn: &Conn) -> Result<(), rusqlite::Error> {
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).map(drop)
}

/// A panic in a closure cannot leave half a transaction (it is rolled back on drop), so a
/// poisoned lock is safe to enter.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;

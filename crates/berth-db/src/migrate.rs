//! Numbered migrations, one row of bookkeeping for each schema.

use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};

use crate::DbError;

/// The tables of one store.
#[derive(Debug)]
pub struct Schema {
    /// The store's name, never changed.
    pub name: &'static str,
    /// Migration `n` (from 1) brings the tables from version `n - 1` to `n`. Only ever appended to.
    pub migrations: &'static [&'static str],
}

pub(crate) fn run(conn: &mut Connection, schemas: &[&Schema]) -> Result<(), DbError> {
    let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    tx.execute_batch(
        "CREATE TABLE IF NOT EXISTS schema_versions \
         (name TEXT PRIMARY KEY, version INTEGER NOT NULL) WITHOUT ROWID",
    )?;
    for schema in schemas {
        let found: Option<u32> = tx
            .query_row(
                "SELECT version FROM schema_versions WHERE name = ?1",
                [schema.name],
                |row| row.get(0),
            )
            .optional()?;
        let known = u32::try_from(schema.migrations.len()).expect("few migrations");
        let found = found.unwrap_or(0);
        if found > known {
            return Err(DbError::TooNew { schema: schema.name, found, known });
        }
        if found == known {
            continue;
        }
        for migration in &schema.migrations[found as usize..] {
            tx.execute_batch(migration)?;
        }
        tx.execute(
            "INSERT INTO schema_versions (name, version) VALUES (?1, ?2) \
             ON CONFLICT (name) DO UPDATE SET version = excluded.version",
            params![schema.name, known],
        )?;
    }
    tx.commit()?;
    Ok(())
}

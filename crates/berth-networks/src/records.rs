//! The records of the predefined networks.

use std::collections::BTreeMap;

use berth_db::{Conn, DbError, OptionalExtension as _, Schema, Tx, params};
use berth_types::{HexId, Timestamp};
use ipnet::Ipv4Net;

use crate::store::Network;
use crate::{BridgeConfig, NetworkError};

/// The table of the networks.
pub const SCHEMA: Schema = Schema {
    name: "networks",
    migrations: &["CREATE TABLE networks (
        name TEXT PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        driver TEXT NOT NULL,
        subnet TEXT,
        created INTEGER NOT NULL
    ) WITHOUT ROWID"],
};

/// Name and driver.
const PREDEFINED: [(&str, &str); 3] = [("bridge", "bridge"), ("host", "host"), ("none", "null")];

/// Makes the records that are missing and answers all, by name. With `--bridge none` there is no
/// network `bridge`.
pub(crate) fn ensure(tx: &Tx<'_>, config: &BridgeConfig) -> Result<Vec<Network>, NetworkError> {
    let mut networks = Vec::new();
    for (name, driver) in PREDEFINED {
        let (id, created) = match find(tx, name)? {
            Some(found) => found,
            None => insert(tx, name, driver)?,
        };
        networks.push(Network {
            name: name.to_owned(),
            id,
            driver: driver.to_owned(),
            created,
            subnet: None,
            gateway: None,
            options: if name == "bridge" { bridge_options(config) } else { BTreeMap::new() },
        });
    }
    Ok(networks)
}

fn find(tx: &Tx<'_>, name: &str) -> Result<Option<(HexId, Timestamp)>, DbError> {
    let mut statement = tx.prepare_cached("SELECT id, created FROM networks WHERE name = ?1")?;
    let row = statement
        .query_row([name], |row| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?)))
        .optional()?;
    let Some((id, created)) = row else { return Ok(None) };
    let id = HexId::parse(&id).or(Err(DbError::Damaged { table: "networks" }))?;
    let nanos = i32::try_from(created.rem_euclid(NANOS)).unwrap_or_default();
    let created = Timestamp::from_unix(created.div_euclid(NANOS), nanos).unwrap_or_default();
    Ok(Some((id, created)))
}

const NANOS: i64 = 1_000_000_000;

fn insert(tx: &Tx<'_>, name: &str, driver: &str) -> Result<(HexId, Timestamp), DbError> {
    let (id, created) = (HexId::random(), Timestamp::now());
    tx.execute(
        "INSERT INTO networks (name, id, driver, created) VALUES (?1, ?2, ?3, ?4)",
        params![name, id.as_str(), driver, created.unix_nanos()],
    )?;
    Ok((id, created))
}

/// As `docker network inspect bridge` shows them.
fn bridge_options(config: &BridgeConfig) -> BTreeMap<String, String> {
    let mtu = if config.mtu == 0 { 1500 } else { config.mtu };
    let options = [
        ("default_bridge", "true".to_owned()),
        ("enable_icc", config.icc.to_string()),
        ("enable_ip_masquerade", config.masquerade.to_string()),
        ("host_binding_ipv4", "0.0.0.0".to_owned()),
        ("name", config.device.clone().unwrap_or_default()),
    ];
    let mut shown: BTreeMap<String, String> = options
        .into_iter()
        .map(|(key, value)| (format!("com.docker.network.bridge.{key}"), value))
        .collect();
    shown.insert("com.docker.network.driver.mtu".to_owned(), mtu.to_string());
    shown
}

/// The addresses that the bridge had last.
pub(crate) fn subnet(conn: &Conn) -> Result<Option<Ipv4Net>, DbError> {
    let text: Option<String> = conn
        .query_row("SELECT subnet FROM networks WHERE name = 'bridge'", [], |row| row.get(0))
        .optional()?
        .flatten();
    Ok(text.and_then(|text| text.parse().ok()))
}

pub(crate) fn set_subnet(tx: &Tx<'_>, subnet: Ipv4Net) -> Result<(), DbError> {
    let sql = "UPDATE networks SET subnet = ?1 WHERE name = 'bridge'";
    tx.execute(sql, [subnet.to_string()])?;
    Ok(())
}

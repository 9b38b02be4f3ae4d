//! The thin pool below the layers, for drivers that have one: who is told that it fills, and what is
//! refused then.

use std::collections::BTreeMap;
use std::path::PathBuf;

use berth_storage::{Level, PoolUsage, Space, ThinPool};
use berth_types::size::parse_ram;
use serde_json::{Value, json};

use crate::blocking::blocking;
use crate::engine::Engine;
use crate::error::EngineError;

/// How a pool is made larger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExtendRequest {
    /// By a disk.
    Disk {
        /// Its path.
        device: PathBuf,
        /// Whether what is on it is given up.
        wipe: bool,
    },
    /// By making its files so large, in bytes.
    Files {
        /// The one with the data.
        data: Option<u64>,
        /// The one with the pool's own records.
        metadata: Option<u64>,
    },
}

impl ExtendRequest {
    /// Of what a client wrote; empty is what it did not.
    pub fn parse(
        device: &str,
        wipe: bool,
        size: &str,
        metadata_size: &str,
    ) -> Result<Self, EngineError> {
        let bytes = |text: &str| match text {
            "" => Ok(None),
            text => {
                let invalid = || EngineError::PoolSize { text: text.to_owned() };
                let bytes = parse_ram(text).ok().and_then(|bytes| u64::try_from(bytes).ok());
                bytes.filter(|&bytes| bytes > 0).map(Some).ok_or_else(invalid)
            }
        };
        let (data, metadata) = (bytes(size)?, bytes(metadata_size)?);
        match (device, data, metadata) {
            ("", None, None) => Err(EngineError::ExtendByWhat),
            ("", data, metadata) => Ok(Self::Files { data, metadata }),
            (device, None, None) => Ok(Self::Disk { device: device.into(), wipe }),
            _ => Err(EngineError::ExtendByWhat),
        }
    }
}

impl Engine {
    /// Makes an event of each change of the pool's level.
    pub(crate) fn watch_pool(&self) {
        if let Some(pool) = self.layers().driver().thin_pool() {
            let (events, id) = (self.events().clone(), self.id().to_owned());
            pool.on_change(Box::new(move |usage| {
                let action = format!("thin-pool-{}", usage.level.name());
                events.publish_map("daemon", &action, &id, attributes(usage));
            }));
        }
    }

    /// Refuses where no new layers are made, before anything is fetched for them.
    pub(crate) async fn check_room(&self) -> Result<(), EngineError> {
        let engine = self.clone();
        blocking(move || match engine.layers().driver().thin_pool() {
            Some(pool) => Ok(pool.check_room()?),
            None => Ok(()),
        })
        .await
    }

    /// What `docker info` warns of.
    pub(crate) fn pool_warning(&self) -> Option<String> {
        let usage = self.layers().driver().thin_pool()?.usage();
        match usage {
            Ok(usage) => warning(&usage),
            Err(error) => Some(format!(
                "WARNING: the thin pool has failed: {}",
                berth_types::kind::chain(&error)
            )),
        }
    }

    /// Makes the pool larger: by a disk, or by making the files that it lies on larger. Gives how full
    /// it is then.
    pub async fn extend_pool(&self, request: ExtendRequest) -> Result<Value, EngineError> {
        let engine = self.clone();
        blocking(move || {
            let pool = engine.thin_pool()?;
            match request {
                ExtendRequest::Disk { device, wipe } => pool.extend(&device, wipe)?,
                ExtendRequest::Files { data, metadata } => pool.grow(data, metadata)?,
            }
            Ok(json(&pool.usage()?))
        })
        .await
    }

    /// How full the pool is, and the files that it lies on.
    pub async fn pool_status(&self) -> Result<Value, EngineError> {
        let engine = self.clone();
        blocking(move || {
            let pool = engine.thin_pool()?;
            let layout = pool.layout();
            let mut status = json(&pool.usage()?);
            status["DataFile"] = json!(layout.data);
            status["MetadataFile"] = json!(layout.metadata);
            Ok(status)
        })
        .await
    }

    pub(super) fn thin_pool(&self) -> Result<&dyn ThinPool, EngineError> {
        let driver = self.layers().driver();
        driver.thin_pool().ok_or_else(|| EngineError::NoPool { driver: driver.name().to_owned() })
    }

    /// How full the pool is; `null` for other drivers, and for one that does not say.
    pub(super) fn pool_usage(&self) -> Value {
        let Some(pool) = self.layers().driver().thin_pool() else { return Value::Null };
        pool.usage().map_or(Value::Null, |usage| json(&usage))
    }
}

fn attributes(usage: &PoolUsage) -> BTreeMap<String, String> {
    let (what, space) = usage.fuller();
    let mut all = BTreeMap::from([
        ("pool".to_owned(), usage.name.clone()),
        ("fuller".to_owned(), what.to_owned()),
        ("used".to_owned(), space.used.to_string()),
        ("room".to_owned(), space.room.to_string()),
    ]);
    if let Some(seconds) = space.seconds_to_full {
        all.insert("secondsToFull".to_owned(), seconds.to_string());
    }
    all
}

fn warning(usage: &PoolUsage) -> Option<String> {
    let (what, space) = usage.fuller();
    let percent = space.permille() / 10;
    let name = &usage.name;
    let rest = match usage.level {
        Level::Normal => return None,
        Level::Warning => "",
        Level::Stop => ", and takes no new images or containers",
        Level::Full => ", and writes fail",
        Level::Failed => ", and takes no writes until it is checked",
    };
    Some(format!(
        "WARNING: thin pool {name}: {percent}% of the room for its {what} is in use{rest}"
    ))
}

fn json(usage: &PoolUsage) -> Value {
    let space = |space: &Space| {
        json!({
            "Used": space.used,
            "Total": space.total,
            "Room": space.room,
            "Permille": space.permille(),
            "SecondsToFull": space.seconds_to_full,
        })
    };
    json!({
        "Name": usage.name,
        "BlockSize": usage.block,
        "Level": usage.level.name(),
        "Data": space(&usage.data),
        "Metadata": space(&usage.metadata),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(level: Level) -> PoolUsage {
        let data = Space { used: 60, total: 100, room: 40, seconds_to_full: None };
        let metadata = Space { used: 9, total: 10, room: 1, seconds_to_full: Some(90) };
        PoolUsage { name: "p".to_owned(), block: 65536, level, data, metadata }
    }

    #[test]
    fn a_pool_that_fills_is_warned_of() {
        let begin = "WARNING: thin pool p: 90% of the room for its metadata is in use";
        #[rustfmt::skip]
        let table = [
            (Level::Normal,  None),
            (Level::Warning, Some("")),
            (Level::Stop,    Some(", and takes no new images or containers")),
            (Level::Full,    Some(", and writes fail")),
            (Level::Failed,  Some(", and takes no writes until it is checked")),
        ];
        for (level, rest) in table {
            assert_eq!(warning(&usage(level)), rest.map(|rest| format!("{begin}{rest}")));
        }
    }

    #[test]
    fn a_pool_is_extended_by_a_disk_or_by_its_files() {
        let parse = |device, size, metadata| {
            ExtendRequest::parse(device, true, size, metadata).map_err(|error| error.to_string())
        };
        let disk = ExtendRequest::Disk { device: "/dev/sdb".into(), wipe: true };
        assert_eq!(parse("/dev/sdb", "", ""), Ok(disk));
        let files = ExtendRequest::Files { data: Some(200 << 30), metadata: None };
        assert_eq!(parse("", "200GB", ""), Ok(files));
        let files = ExtendRequest::Files { data: None, metadata: Some(4 << 20) };
        assert_eq!(parse("", "", "4m"), Ok(files));
        let either = "a thin pool is extended by a device, or by sizes of its files";
        for (device, size) in [("", ""), ("/dev/sdb", "1G")] {
            assert_eq!(parse(device, size, ""), Err(either.to_owned()));
        }
        for size in ["x", "-1", "0"] {
            assert_eq!(parse("", size, ""), Err(format!("invalid size of a thin pool: {size}")));
        }
    }

    #[test]
    fn events_say_what_is_fuller_and_json_says_all() {
        let pairs = [
            ("pool", "p"),
            ("fuller", "metadata"),
            ("used", "9"),
            ("room", "1"),
            ("secondsToFull", "90"),
        ];
        let expected = pairs.map(|(key, value)| (key.to_owned(), value.to_owned()));
        assert_eq!(attributes(&usage(Level::Stop)), BTreeMap::from(expected));
        let expected = json!({
            "Name": "p", "BlockSize": 65536, "Level": "stop",
            "Data": { "Used": 60, "Total": 100, "Room": 40, "Permille": 600, "SecondsToFull": null },
            "Metadata": { "Used": 9, "Total": 10, "Room": 1, "Permille": 900, "SecondsToFull": 90 },
        });
        assert_eq!(json(&usage(Level::Stop)), expected);
    }
}

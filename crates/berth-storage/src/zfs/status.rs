//! What `docker info` shows, in Docker's order.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use berth_types::kind::chain;

use super::error::ZfsError;
use super::set::Set;

/// How long `docker info` waits. The commands of a pool whose disks are gone may not end at all.
const PATIENCE: Duration = Duration::from_secs(10);

/// What was known last.
#[derive(Debug, Default)]
pub(super) struct Status {
    known: Mutex<Known>,
    answered: Condvar,
}

#[derive(Debug, Default)]
struct Known {
    lines: Vec<(&'static str, String)>,
    is_asked: bool,
    /// Somebody has waited in vain.
    is_late: bool,
}

impl Set {
    /// The lines, as of now; of a pool that does not answer, as of the last time that it did.
    pub(super) fn describe(this: &Arc<Self>) -> Vec<(String, String)> {
        let status = &this.status;
        let mut known = status.known.lock().unwrap_or_else(PoisonError::into_inner);
        if !known.is_asked {
            let set = Arc::clone(this);
            let ask = std::thread::Builder::new().name("zfs-status".to_owned());
            match ask.spawn(move || set.answer()) {
                Ok(_) => known.is_asked = true,
                Err(error) => tracing::warn!(%error, "the pool is not asked how it is"),
            }
        }
        let patience = if known.is_late { Duration::ZERO } else { PATIENCE };
        let waited = status.answered.wait_timeout_while(known, patience, |known| known.is_asked);
        let (mut known, _) = waited.unwrap_or_else(PoisonError::into_inner);
        known.is_late = known.is_asked;
        known.lines.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect()
    }

    fn answer(&self) {
        let lines = self.ask();
        let mut known = self.status.known.lock().unwrap_or_else(PoisonError::into_inner);
        *known = Known { lines, is_asked: false, is_late: false };
        self.status.answered.notify_all();
    }

    fn ask(&self) -> Vec<(&'static str, String)> {
        let pool = self.dataset.pool();
        let (name, health) = match self.runner.zpool(&["list", "-H", "-o", "health", pool]) {
            Ok(health) => (pool.to_owned(), health.trim().to_owned()),
            Err(error) => {
                let error = chain(&error);
                let name = format!("error while getting pool information {error}");
                (name, "not available".to_owned())
            }
        };
        let mut lines = vec![
            ("Zpool", name),
            ("Zpool Health", health),
            ("Parent Dataset", self.dataset.to_string()),
        ];
        match self.properties() {
            Ok(properties) => lines.extend(properties),
            Err(error) => tracing::warn!(error = chain(&error), "the dataset does not answer"),
        }
        lines
    }

    fn properties(&self) -> Result<Vec<(&'static str, String)>, ZfsError> {
        let names = "used,available,quota,compression";
        let text =
            self.runner.zfs(&["get", "-H", "-p", "-o", "value", names, self.dataset.as_str()])?;
        let values: Vec<&str> = text.lines().collect();
        let [used, available, quota, compression] = values[..] else {
            return Err(ZfsError::Answer { command: "zfs get", line: text });
        };
        let quota = if quota == "0" { "no" } else { quota };
        let pairs = [
            ("Space Used By Parent", used),
            ("Space Available", available),
            ("Parent Quota", quota),
            ("Compression", compression),
        ];
        Ok(pairs.into_iter().map(|(key, value)| (key, value.to_owned())).collect())
    }
}

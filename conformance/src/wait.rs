//! Waiting for what should come to be.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

const NAP: Duration = Duration::from_millis(20);

/// Asks again until the answer is as wanted, or patience ends.
pub(crate) fn within(
    patience: Duration,
    what: &str,
    mut is_so: impl FnMut() -> Result<bool>,
) -> Result<()> {
    let until = Instant::now() + patience;
    while !is_so()? {
        if Instant::now() > until {
            bail!("it did not come to be that {what}");
        }
        std::thread::sleep(NAP);
    }
    Ok(())
}

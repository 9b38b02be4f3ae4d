//! `--selinux-enabled`. As in Docker it changes nothing where the host's SELinux is off: labels are
//! accepted and without effect.

use std::path::Path;

use crate::error::EngineError;

/// Where the kernel's policy is mounted, when there is one.
const POLICY: &str = "/sys/fs/selinux";
/// `SELINUX_MAGIC`.
const MAGIC: u64 = 0xf97c_ff8c;

/// Warns where SELinux is off, in Docker's words; where it is on, containers would have to be labelled,
/// which libcontainer 0.7.0 cannot do.
pub(crate) fn check(enabled: bool) -> Result<(), EngineError> {
    check_at(enabled, Path::new(POLICY))
}

fn check_at(enabled: bool, policy: &Path) -> Result<(), EngineError> {
    if !enabled {
        return Ok(());
    }
    if is_policy(policy) {
        return Err(EngineError::Selinux);
    }
    tracing::warn!("Docker could not enable SELinux on the host system");
    Ok(())
}

fn is_policy(path: &Path) -> bool {
    rustix::fs::statfs(path).is_ok_and(|fs| u64::try_from(fs.f_type) == Ok(MAGIC))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selinux_is_asked_for_in_vain_where_it_is_off() {
        let nothing = Path::new("/nonexistent");
        for (enabled, place) in [(false, nothing), (true, nothing), (true, Path::new("/proc"))] {
            assert!(check_at(enabled, place).is_ok(), "{enabled} {}", place.display());
        }
        assert_eq!(
            EngineError::Selinux.to_string(),
            "selinux-enabled is not supported by this version of berth where the host's SELinux is on"
        );
    }
}

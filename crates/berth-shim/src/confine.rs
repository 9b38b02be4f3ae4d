//! What a process of the container gives up right before its program is looked for: capabilities,
//! and the system calls that its filter refuses.
//!
//! libcontainer could do both, but it compiles the filter anew for each process, which takes longer
//! than all the rest; the daemon compiles it once. Without `no_new_privs` a filter can only be
//! installed while `CAP_SYS_ADMIN` is held, so both are done here, one after the other.

use std::fs;
use std::path::Path;

use berth_sys::caps;
use berth_sys::seccomp::Filter;

use crate::error::ShimError;
use crate::state;

/// What is given up.
#[derive(Debug)]
pub(crate) struct Confinement {
    capabilities: u64,
    filter: Option<Filter>,
}

impl Confinement {
    /// To be read while the bundle can still be seen. `seccomp` is the flags of the filter that there
    /// must be.
    pub(crate) fn read(
        bundle: &Path,
        capabilities: u64,
        seccomp: Option<u32>,
    ) -> Result<Self, ShimError> {
        let path = bundle.join(state::SECCOMP);
        let read = |flags| Filter::new(&fs::read(&path)?, flags);
        let filter = seccomp.map(read).transpose().map_err(ShimError::file("read", &path))?;
        Ok(Self { capabilities, filter })
    }

    /// Gives it up, for good.
    pub(crate) fn put_on(&self, no_new_privileges: bool) -> Result<(), ShimError> {
        let filter = || match &self.filter {
            Some(filter) => filter.install().map_err(ShimError::system("install the filter")),
            None => Ok(()),
        };
        let limit =
            || caps::limit_to(self.capabilities).map_err(ShimError::system("drop capabilities"));
        // A filter may refuse what giving up capabilities takes: where it can come last, it does.
        if no_new_privileges {
            limit().and_then(|()| filter())
        } else {
            filter().and_then(|()| limit())
        }
    }
}

//! What this build is.

use std::collections::BTreeMap;

use berth_api::ApiVersion;
use berth_api::daemon::{Component, Platform, Version};

/// The version that clients see.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Docker's clients print a Go version; this engine has none.
const NO_GO: &str = "none (Rust)";

/// What `docker version` shows of the server.
pub(crate) fn version() -> Version {
    let arch = berth_images::config::host_architecture();
    let kernel = kernel();
    let commit = option_env!("BERTH_GIT_COMMIT").unwrap_or("unknown");
    let built = option_env!("BERTH_BUILD_TIME").unwrap_or("");
    let details = [
        ("ApiVersion", ApiVersion::MAX.to_string()),
        ("Arch", arch.to_owned()),
        ("BuildTime", built.to_owned()),
        ("Experimental", "false".to_owned()),
        ("GitCommit", commit.to_owned()),
        ("GoVersion", NO_GO.to_owned()),
        ("KernelVersion", kernel.clone()),
        ("MinAPIVersion", ApiVersion::MIN.to_string()),
        ("Os", "linux".to_owned()),
    ];
    let details: BTreeMap<String, String> =
        details.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    Version {
        platform: Platform { name: "berth".to_owned() },
        components: vec![Component {
            name: "Engine".to_owned(),
            version: VERSION.to_owned(),
            details,
        }],
        version: VERSION.to_owned(),
        api_version: ApiVersion::MAX.to_string(),
        min_api_version: ApiVersion::MIN.to_string(),
        git_commit: commit.to_owned(),
        go_version: NO_GO.to_owned(),
        os: "linux".to_owned(),
        arch: arch.to_owned(),
        kernel_version: kernel,
        experimental: false,
        build_time: built.to_owned(),
    }
}

/// The running kernel's release.
pub(crate) fn kernel() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

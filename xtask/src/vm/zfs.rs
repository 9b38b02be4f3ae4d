//! `cargo xtask vm zfs`: gives the machine's kernel the modules of ZFS.
//!
//! No distribution may ship them built, so Debian's `zfs-dkms` builds them, which takes some minutes.
//! They lie beside the kernel's own in the cache and fit that kernel alone:
//!
//! ```text
//! <cache>/<release>_<package version>/lib/modules/<release>/extra/zfs-<version>/*.ko
//! ```
//!
//! Tests never come here: where the modules are not in the cache, those of ZFS are skipped by name.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use super::kernel::{self, Kernel};
use crate::{run, ui};

const SOURCE: &str = "zfs-dkms";
/// Asked when the package is installed; whoever gave this command has read it.
const NOTE: &str = "zfs-dkms zfs-dkms/note-incompatible-licenses note true\n";

/// Installs what builds the modules, has them built, and puts them into the cache.
pub(super) fn run() -> Result<()> {
    super::prepare(None)?;
    let cache = kernel::cache()?;
    let lock = kernel::lock(&cache)?;
    let kernel = Kernel::ensure(&cache)?;
    drop(lock);
    let Some(version) = candidate()? else {
        bail!(
            "apt knows no package {SOURCE}: it is in Debian's component contrib, which the package sources \
             of this machine do not name"
        );
    };
    let modules = kernel.modules.as_deref().context("a kernel of the cache has modules")?;
    let dest = modules.join(kernel.release()).join(format!("extra/zfs-{version}"));
    if !dest.is_dir() {
        let built = build(kernel.release(), &version)?;
        let _lock = kernel::lock(&cache)?;
        copy(&built, &dest)?;
        let tree = modules.ancestors().nth(2).context("a kernel has a directory")?;
        run::output(Command::new("/sbin/depmod").arg("-b").arg(tree).arg(kernel.release()))?;
    }
    ui::line(&format!("virtual machines have ZFS {version}: {}", dest.display()));
    Ok(())
}

/// The version that apt would install, as dkms calls it.
fn candidate() -> Result<Option<String>> {
    let policy = run::output(Command::new("apt-cache").args(["policy", SOURCE]))?;
    Ok(version(&policy))
}

fn version(policy: &str) -> Option<String> {
    let line = policy.lines().find_map(|line| line.trim().strip_prefix("Candidate: "))?;
    let upstream = line.rsplit_once('-').map_or(line, |(upstream, _)| upstream);
    (upstream != "(none)").then(|| upstream.to_owned())
}

/// Gives the directory with the modules.
fn build(release: &str, version: &str) -> Result<PathBuf> {
    let built = Path::new("/lib/modules").join(release).join("updates/dkms");
    if !built.join("zfs.ko").is_file() {
        ui::line(&format!("building ZFS {version} for {release}, which takes some minutes"));
        let mut answers = Command::new("debconf-set-selections").stdin(Stdio::piped()).spawn()?;
        answers.stdin.take().context("a pipe")?.write_all(NOTE.as_bytes())?;
        answers.wait()?;
        let headers = format!("linux-headers-{release}");
        let mut apt = Command::new("apt-get");
        apt.args(["install", "-y", "-qq", "--no-install-recommends"]);
        apt.args([headers.as_str(), "dkms", SOURCE, "zfsutils-linux"]);
        // Nothing is started: this machine's kernel is another one.
        apt.env("DEBIAN_FRONTEND", "noninteractive").env("RUNLEVEL", "1");
        run::output(&mut apt)?;
    }
    if !built.join("zfs.ko").is_file() {
        // The package was there before the headers were.
        let module = format!("zfs/{version}");
        run::output(Command::new("dkms").args(["install", &module, "-k", release]))?;
    }
    Ok(built)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let new = to.with_extension("new");
    std::fs::create_dir_all(&new)?;
    for entry in std::fs::read_dir(from)? {
        let path = entry?.path();
        if let Some(name) = path.file_name().filter(|_| path.extension().is_some_and(is_module)) {
            std::fs::copy(&path, new.join(name))?;
        }
    }
    Ok(std::fs::rename(new, to)?)
}

fn is_module(extension: &std::ffi::OsStr) -> bool {
    extension == "ko"
}

#[cfg(test)]
mod tests {
    use super::version;

    #[test]
    fn the_version_is_what_dkms_calls_it() {
        #[rustfmt::skip]
        let table = [
            ("zfs-dkms:\n  Installed: (none)\n  Candidate: 2.1.11-1+deb12u1\n", Some("2.1.11")),
            ("zfs-dkms:\n  Installed: (none)\n  Candidate: (none)\n",            None),
            ("",                                                                None),
        ];
        for (policy, expected) in table {
            assert_eq!(version(policy).as_deref(), expected, "{policy:?}");
        }
    }
}

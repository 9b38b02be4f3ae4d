//! Debian's kernel for cloud machines, downloaded and unpacked into a cache, never installed.
//!
//! ```text
//! <cache>/
//! ├── lock                            held while anything here is made or removed
//! ├── <release>_<package version>/
//! │   ├── boot/vmlinuz-<release>
//! │   └── lib/modules/<release>/      with depmod's lists; `extra/` as `vm zfs` made it
//! ├── .new-<pid>/                     being unpacked
//! └── run-<pid>/                      a machine that runs
//! ```

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::{run, ui};

/// Depends on the package of the kernel that Debian takes at the moment.
const META: &str = "linux-image-cloud-amd64";
const PREFIX: &str = "linux-image-";
const NEW: &str = ".new-";

/// An unpacked kernel.
#[derive(Debug)]
pub(super) struct Kernel {
    pub(super) image: PathBuf,
    /// The directory that holds a directory for the kernel's release; `None` where everything is built
    /// in.
    pub(super) modules: Option<PathBuf>,
    release: String,
}

/// A package and its version.
#[derive(Debug, PartialEq, Eq)]
struct Package {
    name: String,
    version: String,
}

impl Package {
    fn release(&self) -> &str {
        self.name.strip_prefix(PREFIX).unwrap_or(&self.name)
    }

    fn key(&self) -> String {
        // A colon (of an epoch) would end a path in lists of paths.
        format!("{}_{}", self.release(), self.version.replace(':', "-"))
    }
}

impl Kernel {
    /// The kernel that apt would install, or the newest in the cache if apt knows none. The caller
    /// holds the cache's lock.
    pub(super) fn ensure(cache: &Path) -> Result<Self> {
        clear(cache)?;
        let mut wanted = wanted()?;
        if wanted.is_none() && cached(cache)?.is_none() {
            update()?;
            wanted = self::wanted()?;
        }
        let Some(package) = wanted else {
            let found = cached(cache)?;
            return found.with_context(|| format!("apt knows no package {META}"));
        };
        if let Some(found) = Self::at(&cache.join(package.key())) {
            return Ok(found);
        }
        ui::line(&format!(
            "downloading {} {}: the kernel of virtual machines",
            package.name, package.version
        ));
        if download(cache, &package).is_ok() {
            return Self::at(&cache.join(package.key())).context("the kernel's package is broken");
        }
        // Most likely the package lists are old: a kernel that was replaced is gone.
        update()?;
        let package = self::wanted()?.with_context(|| format!("apt knows no package {META}"))?;
        download(cache, &package)?;
        Self::at(&cache.join(package.key())).context("the kernel's package is broken")
    }

    /// One that somebody else built, with everything that a machine needs in it.
    pub(super) fn given(image: &Path) -> Self {
        Self { image: image.to_owned(), modules: None, release: String::new() }
    }

    /// As `uname -r` says it.
    pub(super) fn release(&self) -> &str {
        &self.release
    }

    fn at(dir: &Path) -> Option<Self> {
        let name = dir.file_name()?.to_str()?;
        let release = name.split_once('_')?.0.to_owned();
        let image = dir.join("boot").join(format!("vmlinuz-{release}"));
        let modules = Some(dir.join("lib/modules"));
        image.is_file().then_some(Self { image, modules, release })
    }

    /// The files of these modules and of those that they depend on, in an order in which they can
    /// be loaded. What is built into the kernel is not among them.
    pub(super) fn in_order(&self, names: &[&str]) -> Result<Vec<PathBuf>> {
        let Some(modules) = &self.modules else { return Ok(Vec::new()) };
        let dir = modules.join(&self.release);
        let list = dir.join("modules.dep");
        let text = std::fs::read_to_string(&list)
            .with_context(|| format!("cannot read {}", list.display()))?;
        let files = in_order(&text, names);
        Ok(files.into_iter().map(|file| dir.join(file)).collect())
    }
}

/// `modules.dep` has a line for each module: its file, a colon, and the files it depends on, the
/// deepest last.
fn in_order<'a>(list: &'a str, names: &[&str]) -> Vec<&'a str> {
    let lines = list.lines().filter_map(|line| line.split_once(':'));
    let by_name: BTreeMap<String, (&str, &str)> = lines
        .filter_map(|(file, needs)| {
            let name = file.rsplit('/').next()?.split('.').next()?;
            Some((name.replace('-', "_"), (file, needs)))
        })
        .collect();
    let mut order: Vec<&str> = Vec::new();
    for (file, needs) in names.iter().filter_map(|name| by_name.get(*name)) {
        for file in needs.split_whitespace().rev().chain([*file]) {
            if !order.contains(&file) {
                order.push(file);
            }
        }
    }
    order
}

fn wanted() -> Result<Option<Package>> {
    // It fails when the lists are empty.
    let shown = Command::new("apt-cache").args(["show", "--no-all-versions", META]).output()?;
    Ok(dependency(&String::from_utf8_lossy(&shown.stdout)))
}

/// The exact dependency of [`META`].
fn dependency(shown: &str) -> Option<Package> {
    let depends = shown.lines().find_map(|line| line.strip_prefix("Depends: "))?;
    let image = depends.split(", ").find(|name| name.starts_with(PREFIX))?;
    let (name, version) = image.split_once(" (= ")?;
    Some(Package { name: name.to_owned(), version: version.trim_end_matches(')').to_owned() })
}

fn update() -> Result<()> {
    run::output(Command::new("apt-get").args(["update", "-qq"])).map(|_| ())
}

fn download(cache: &Path, package: &Package) -> Result<()> {
    let new = cache.join(format!("{NEW}{}", std::process::id()));
    let tree = new.join("tree");
    std::fs::create_dir_all(&tree)?;
    let exact = format!("{}={}", package.name, package.version);
    let mut apt = Command::new("apt-get");
    // As root, for the user that apt would rather be cannot write here.
    apt.args(["download", "-qq", "-o", "APT::Sandbox::User=root", &exact]).current_dir(&new);
    run::output(&mut apt)?;
    let mut packages = std::fs::read_dir(&new)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "deb"));
    let deb = packages.next().context("apt-get download brought nothing")?;
    run::output(Command::new("dpkg-deb").arg("-x").arg(deb).arg(&tree))?;
    run::output(Command::new("/sbin/depmod").arg("-b").arg(&tree).arg(package.release()))?;
    std::fs::rename(&tree, cache.join(package.key()))?;
    Ok(std::fs::remove_dir_all(&new)?)
}

/// Removes what downloads left that did not end.
fn clear(cache: &Path) -> Result<()> {
    for entry in std::fs::read_dir(cache)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(NEW) {
            std::fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

/// The kernel unpacked last.
fn cached(cache: &Path) -> Result<Option<Kernel>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(cache)? {
        let entry = entry?;
        if let Some(kernel) = Kernel::at(&entry.path()) {
            found.push((entry.metadata()?.modified()?, kernel));
        }
    }
    found.sort_by_key(|(time, _)| *time);
    Ok(found.pop().map(|(_, kernel)| kernel))
}

/// The directory that keeps kernels between runs.
pub(super) fn cache() -> Result<PathBuf> {
    let dir = std::env::var_os("BERTH_VM_CACHE")
        .map_or_else(|| run::target().join("vm-cache"), PathBuf::from);
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let dir = dir.canonicalize()?;
    if dir.to_str().is_none_or(|path| path.contains([' ', ','])) {
        bail!("qemu cannot use {}: set BERTH_VM_CACHE to a plainer path", dir.display());
    }
    Ok(dir)
}

/// Keeps others from the cache while it is held.
pub(super) fn lock(cache: &Path) -> Result<File> {
    let lock = File::create(cache.join("lock"))?;
    lock.lock()?;
    Ok(lock)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_come_after_what_they_need() {
        let list = "kernel/a/virtio-pci.ko: kernel/b/virtio.ko kernel/c/virtio_ring.ko\n\
                    kernel/b/virtio.ko: kernel/c/virtio_ring.ko\n\
                    kernel/c/virtio_ring.ko:\n\
                    kernel/d/virtiofs.ko: kernel/e/fuse.ko kernel/b/virtio.ko kernel/c/virtio_ring.ko\n";
        let order = in_order(list, &["virtio_pci", "builtin", "virtiofs"]);
        let wanted = ["c/virtio_ring", "b/virtio", "a/virtio-pci", "e/fuse", "d/virtiofs"];
        assert_eq!(order, wanted.map(|name| format!("kernel/{name}.ko")));
    }

    #[test]
    fn the_kernel_is_what_the_meta_package_depends_on() {
        let shown = "Package: linux-image-cloud-amd64\nVersion: 6.1.9-2\n\
                     Depends: linux-image-6.1.0-7-cloud-amd64 (= 6.1.9-2)\nSize: 1504\n";
        let package = dependency(shown).unwrap();
        assert_eq!(package.key(), "6.1.0-7-cloud-amd64_6.1.9-2");
        assert_eq!(dependency(""), None);
    }
}

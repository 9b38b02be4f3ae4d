//! What this machine has, and installing what is missing.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

use crate::{run, ui};

/// Something a build or a test needs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Need {
    /// A file that proves it is there, or a program's name.
    pub(crate) proof: &'static str,
    /// The Debian package that brings it.
    pub(crate) package: &'static str,
    /// What it is for.
    pub(crate) why: &'static str,
}

/// What building takes.
pub(crate) const BUILD: &[Need] = &[
    Need { proof: "cc", package: "gcc", why: "SQLite and zstd are compiled from their sources" },
    Need {
        proof: "/usr/include/seccomp.h",
        package: "libseccomp-dev",
        why: "system call filters of containers",
    },
];

/// What the quickstart takes besides.
pub(crate) const RUN: &[Need] = &[Need {
    proof: "/bin/busybox",
    package: "busybox-static",
    why: "the content of the quickstart's image",
}];

/// What the tests take besides.
pub(crate) const TEST: &[Need] = &[
    Need { proof: "/bin/busybox", package: "busybox-static", why: "the content of test images" },
    Need { proof: "nft", package: "nftables", why: "masquerade on the bridge" },
    Need { proof: "skopeo", package: "skopeo", why: "an independent witness of archives" },
    Need { proof: "docker-registry", package: "docker-registry", why: "a registry to pull from" },
    Need { proof: "ps", package: "procps", why: "docker top" },
    Need { proof: "attr", package: "attr", why: "extended attributes in archives" },
    Need { proof: "openssl", package: "openssl", why: "certificates for the API over TLS" },
    Need { proof: "ip", package: "iproute2", why: "network namespaces of the tests" },
    Need { proof: "mkfs.ext4", package: "e2fsprogs", why: "file systems for the drivers' tests" },
    Need { proof: "mkfs.xfs", package: "xfsprogs", why: "file systems for the drivers' tests" },
    Need {
        proof: "mkfs.btrfs",
        package: "btrfs-progs",
        why: "file systems for the drivers' tests",
    },
    Need { proof: "fuse-overlayfs", package: "fuse-overlayfs", why: "the driver of its name" },
];

/// What a virtual machine takes.
pub(crate) const VM: &[Need] = &[
    Need { proof: "qemu-system-x86_64", package: "qemu-system-x86", why: "virtual machines" },
    Need {
        proof: "/usr/lib/qemu/virtiofsd",
        package: "qemu-system-common",
        why: "files of virtual machines",
    },
    Need { proof: "modprobe", package: "kmod", why: "kernel modules of virtual machines" },
    Need { proof: "setpriv", package: "util-linux", why: "machines that end with this program" },
    Need { proof: "/bin/busybox", package: "busybox-static", why: "the start of virtual machines" },
];

/// What tests in a virtual machine take besides.
pub(crate) const VM_TEST: &[Need] = &[
    Need { proof: "mkfs.ext4", package: "e2fsprogs", why: "file systems with quotas in tests" },
    Need { proof: "mkfs.xfs", package: "xfsprogs", why: "file systems with quotas in tests" },
    Need { proof: "lvcreate", package: "lvm2", why: "thin pools that berth makes by LVM" },
    Need {
        proof: "thin_check",
        package: "thin-provisioning-tools",
        why: "thin pools that berth makes by LVM",
    },
    Need {
        proof: "dmeventd",
        package: "dmeventd",
        why: "LVM's monitoring of those, in the machine",
    },
    Need {
        proof: "/lib/systemd/systemd-udevd",
        package: "udev",
        why: "thin devices beside a udev daemon, in the virtual machine alone",
    },
];

/// What recording disks in a virtual machine takes besides.
pub(crate) const CUTS: &[Need] = &[
    Need { proof: "mkfs.btrfs", package: "btrfs-progs", why: "a disk to be recorded" },
    Need { proof: "strace", package: "strace", why: "a daemon without one of its syncs" },
];

/// Whether a need is met.
pub(crate) fn has(need: &Need) -> bool {
    if need.proof.starts_with('/') {
        return Path::new(need.proof).metadata().is_ok();
    }
    on_path(need.proof)
}

/// Whether a program is on the path; the directories for administrators count too.
pub(crate) fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let extra = ["/usr/sbin", "/sbin"].map(std::path::PathBuf::from);
    std::env::split_paths(&path)
        .chain(extra)
        .any(|dir| dir.join(program).metadata().is_ok_and(|found| found.is_file()))
}

/// Whether this process is root.
pub(crate) fn is_root() -> bool {
    run::output(Command::new("id").arg("-u")).is_ok_and(|id| id.trim() == "0")
}

/// Installs what is missing with apt, and says what and why; where that is impossible it says what
/// to install by hand.
pub(crate) fn ensure(needs: &[Need]) -> Result<()> {
    let missing: Vec<&Need> = needs.iter().filter(|need| !has(need)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let packages: Vec<&str> = missing.iter().map(|need| need.package).collect();
    if !on_path("apt-get") {
        bail!(
            "please install these packages (or what your system calls them): {}",
            packages.join(" ")
        );
    }
    for need in &missing {
        ui::line(&format!("installing {}: {}", need.package, need.why));
    }
    let mut apt = if is_root() {
        Command::new("apt-get")
    } else if on_path("sudo") {
        let mut sudo = Command::new("sudo");
        sudo.arg("apt-get");
        sudo
    } else {
        bail!("not root, and no sudo; as root run: apt-get install {}", packages.join(" "));
    };
    apt.env("DEBIAN_FRONTEND", "noninteractive");
    let args = ["install", "-y", "-qq", "--no-install-recommends"];
    let install = |apt: &mut Command| run::output(apt.args(args).args(&packages)).map(|_| ());
    if install(&mut apt).is_ok() {
        return Ok(());
    }
    // Most likely the package lists are old or missing.
    let mut update = Command::new(apt.get_program());
    if apt.get_program() == "sudo" {
        update.arg("apt-get");
    }
    run::output(update.args(["update", "-qq"]))?;
    let mut again = Command::new(apt.get_program());
    if apt.get_program() == "sudo" {
        again.arg("apt-get");
    }
    again.env("DEBIAN_FRONTEND", "noninteractive");
    install(&mut again)
}

//! The archive that the kernel unpacks into its first root, in cpio's `newc` form: busybox, the
//! modules that reach the files of the host, and what is to be done.

use std::path::Path;

use anyhow::{Context as _, Result};

use super::kernel::Kernel;

/// What reaches the root, the disks and the ports. What they depend on comes along.
const MODULES: &[&str] =
    &["virtio_pci", "virtio_blk", "virtio_console", "virtio_rng", "virtiofs", "overlay"];
/// The job's place in the machine, until process 1 has read it.
pub(super) const JOB: &str = "berth-vm.json";
const INIT: &[u8] = include_bytes!("init.sh");
const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const FILE: u32 = 0o100_644;

/// The archive for one run. `program` is this program's path, on the host as in the machine.
pub(super) fn build(kernel: &Kernel, program: &Path, job: &str) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for dir in ["bin", "dev", "lib", "lower", "proc", "root", "rw", "sys"] {
        archive.add(dir, DIRECTORY, b"");
    }
    let busybox = std::fs::read("/bin/busybox").context("cannot read /bin/busybox")?;
    archive.add("bin/busybox", PROGRAM, &busybox);
    archive.add("init", PROGRAM, INIT);
    archive.add(JOB, FILE, job.as_bytes());
    archive.add("program", FILE, program.display().to_string().as_bytes());
    if let Some(modules) = &kernel.modules {
        archive.add("modules-of", FILE, modules.display().to_string().as_bytes());
    }
    let mut order = String::new();
    for module in kernel.in_order(MODULES)? {
        let name = module.file_name().context("a module has a name")?.to_string_lossy();
        let content =
            std::fs::read(&module).with_context(|| format!("cannot read {}", module.display()))?;
        archive.add(&format!("lib/{name}"), FILE, &content);
        order.push_str(&name);
        order.push('\n');
    }
    archive.add("modules", FILE, order.as_bytes());
    Ok(archive.finish())
}

#[derive(Debug, Default)]
struct Archive {
    bytes: Vec<u8>,
    files: u32,
}

impl Archive {
    fn add(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.files += 1;
        let number = self.files;
        self.entry(name, number, mode, content);
    }

    fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, 0, b"");
        self.bytes
    }

    fn entry(&mut self, name: &str, number: u32, mode: u32, content: &[u8]) {
        let length = |bytes: usize| u32::try_from(bytes).expect("entries are some megabytes");
        // Number, mode, owner, group, links, time, size, four device numbers, length of the name
        // with its zero, checksum.
        let size = length(content.len());
        let fields = [number, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, length(name.len() + 1), 0];
        self.bytes.extend(b"070701");
        for field in fields {
            self.bytes.extend(format!("{field:08x}").bytes());
        }
        self.bytes.extend(name.bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_as_cpio_writes_them() {
        let mut archive = Archive::default();
        archive.add("etc/a", FILE, b"hello");
        let text = String::from_utf8(archive.finish()).unwrap();
        let wanted = "070701\
            00000001000081a4000000000000000000000001000000000000000500000000000000000000000000000000\
            0000000600000000etc/a\0hello\0\0\0\
            070701\
            0000000000000000000000000000000000000001000000000000000000000000000000000000000000000000\
            0000000b00000000TRAILER!!!\0\0\0\0";
        assert_eq!(text, wanted);
    }
}

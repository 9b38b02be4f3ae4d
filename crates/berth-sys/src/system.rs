//! The machine as a whole.

use std::io;

/// Bytes of memory that the machine has.
pub fn total_memory() -> u64 {
    let info = rustix::system::sysinfo();
    // The field's width differs between architectures.
    #[expect(clippy::useless_conversion, reason = "c_ulong is 32 bits wide on some architectures")]
    let total = u64::from(info.totalram);
    total.saturating_mul(u64::from(info.mem_unit))
}

/// Processors that this process may run on.
pub fn cpu_count() -> io::Result<usize> {
    Ok(std::thread::available_parallelism()?.get())
}

/// The kernel's release, for example `6.1.0-18-amd64`.
pub fn kernel_release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

/// The machine's architecture as the kernel calls it, for example `x86_64`.
pub fn machine() -> String {
    rustix::system::uname().machine().to_string_lossy().into_owned()
}

/// The host's name.
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_has_memory_and_processors() {
        assert!(total_memory() > 1 << 20);
        assert!(cpu_count().unwrap() > 0);
        assert!(kernel_release().starts_with(|c: char| c.is_ascii_digit()));
    }
}

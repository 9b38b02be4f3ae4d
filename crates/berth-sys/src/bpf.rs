//! Device rules of a version 2 cgroup: loading a BPF program and attaching it.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};

const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_ATTACH: libc::c_int = 8;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
const BPF_F_ALLOW_MULTI: u32 = 2;
/// Longest program that the kernel takes from a process without `CAP_BPF`; plenty for rules.
const MAX_INSTRUCTIONS: usize = 4096;

/// `union bpf_attr` as `BPF_PROG_LOAD` reads it, up to `expected_attach_type`.
#[repr(C)]
#[derive(Default)]
struct LoadAttr {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
}

/// `union bpf_attr` as `BPF_PROG_ATTACH` reads it.
#[repr(C)]
#[derive(Default)]
struct AttachAttr {
    target_fd: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
    replace_bpf_fd: u32,
}

fn address<T>(pointer: *const T) -> u64 {
    pointer.expose_provenance() as u64
}

fn unsigned(fd: RawFd) -> u32 {
    u32::try_from(fd).expect("an open descriptor is not negative")
}

/// Loads a cgroup device program: instructions of eight bytes as the kernel defines them
/// (`struct bpf_insn`), in this machine's byte order. The verifier's words are in the error.
pub fn load_device_program(instructions: &[u64]) -> io::Result<OwnedFd> {
    if instructions.is_empty() || instructions.len() > MAX_INSTRUCTIONS {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "bad length of a device program"));
    }
    match try_load(instructions, None) {
        Ok(fd) => Ok(fd),
        Err(first) => {
            // Asked for only on failure: a log costs memory, and one that is too small is
            // itself an error.
            let mut log = vec![0_u8; 64 * 1024];
            if let Ok(fd) = try_load(instructions, Some(&mut log)) {
                return Ok(fd);
            }
            let end = log.iter().position(|&byte| byte == 0).unwrap_or(log.len());
            let words = String::from_utf8_lossy(&log[..end]);
            match words.trim().lines().last() {
                None => Err(first),
                Some(last) => Err(io::Error::new(first.kind(), format!("{first} ({last})"))),
            }
        }
    }
}

fn try_load(instructions: &[u64], log: Option<&mut Vec<u8>>) -> io::Result<OwnedFd> {
    let license = c"Apache-2.0";
    let mut attr = LoadAttr {
        prog_type: BPF_PROG_TYPE_CGROUP_DEVICE,
        insn_cnt: u32::try_from(instructions.len()).map_err(io::Error::other)?,
        insns: address(instructions.as_ptr()),
        license: address(license.as_ptr()),
        expected_attach_type: BPF_CGROUP_DEVICE,
        ..LoadAttr::default()
    };
    attr.prog_name[..13].copy_from_slice(b"berth_devices");
    if let Some(log) = log {
        attr.log_level = 1;
        attr.log_size = u32::try_from(log.len()).map_err(io::Error::other)?;
        attr.log_buf = log.as_mut_ptr().expose_provenance() as u64;
    }
    // SAFETY: `attr` is a fully initialised prefix of union bpf_attr without padding, and its true
    // size is given, so the kernel reads nothing beyond it. The addresses in it point to
    // `instructions` (`insn_cnt` values of eight bytes), to a C string and to `log` (writable,
    // `log_size` bytes); all three outlive the call, after which the kernel keeps no pointer.
    let raw = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_LOAD,
            &raw const attr,
            std::mem::size_of::<LoadAttr>(),
        )
    };
    if raw < 0 {
        return Err(io::Error::last_os_error());
    }
    let raw = RawFd::try_from(raw).map_err(io::Error::other)?;
    // SAFETY: BPF_PROG_LOAD returned a new descriptor that nobody else knows.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// Attaches a loaded program to a cgroup directory, beside those already there: an access is
/// allowed only if all of them allow it. It stays until the cgroup is removed.
pub fn attach_device_program(cgroup: impl AsFd, program: impl AsFd) -> io::Result<()> {
    let attr = AttachAttr {
        target_fd: unsigned(cgroup.as_fd().as_raw_fd()),
        attach_bpf_fd: unsigned(program.as_fd().as_raw_fd()),
        attach_type: BPF_CGROUP_DEVICE,
        attach_flags: BPF_F_ALLOW_MULTI,
        ..AttachAttr::default()
    };
    // SAFETY: `attr` is a fully initialised prefix of union bpf_attr without padding or pointers,
    // and its true size is given; both descriptors are borrowed and so open during the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_ATTACH,
            &raw const attr,
            std::mem::size_of::<AttachAttr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instruction(code: u8, registers: u8, immediate: i32) -> u64 {
        let mut bytes = [0; 8];
        bytes[0] = code;
        bytes[1] = registers;
        bytes[4..].copy_from_slice(&immediate.to_ne_bytes());
        u64::from_ne_bytes(bytes)
    }

    #[test]
    fn root_a_program_is_loaded_and_a_bad_one_is_refused_with_the_verifiers_words() {
        if !testkit::is_root() {
            return testkit::skip(
                "root_a_program_is_loaded_and_a_bad_one_is_refused_with_the_verifiers_words",
                "root",
            );
        }
        // r0 = 1; exit
        let allow_all = [instruction(0xb7, 0, 1), instruction(0x95, 0, 0)];
        match load_device_program(&allow_all) {
            Ok(program) => drop(program),
            // A kernel without cgroup BPF refuses the type.
            Err(error) => assert_eq!(error.raw_os_error(), Some(libc::EINVAL)),
        }
        // exit without a result
        assert!(load_device_program(&[instruction(0x95, 0, 0)]).is_err());
        assert!(load_device_program(&[]).is_err());
    }
}

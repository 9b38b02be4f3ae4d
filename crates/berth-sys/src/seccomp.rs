//! Installing a seccomp filter that was compiled elsewhere.

use std::io;

const SECCOMP_SET_MODE_FILTER: libc::c_uint = 1;
/// The kernel's own limit (`BPF_MAXINSNS`).
const MAX_INSTRUCTIONS: usize = 4096;
const INSTRUCTION: usize = size_of::<libc::sock_filter>();

/// A classic BPF program, as `seccomp(2)` takes it.
#[derive(Debug, Clone)]
pub struct Filter {
    instructions: Vec<libc::sock_filter>,
    flags: u32,
}

impl Filter {
    /// From the instructions as the kernel has them in memory (`struct sock_filter`, this machine's
    /// byte order), and `SECCOMP_FILTER_FLAG_…` bits.
    pub fn new(program: &[u8], flags: u32) -> io::Result<Self> {
        let (words, rest) = program.as_chunks::<INSTRUCTION>();
        if words.is_empty() || words.len() > MAX_INSTRUCTIONS || !rest.is_empty() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "bad length of a filter"));
        }
        let instructions = words
            .iter()
            .map(|&[code0, code1, jt, jf, k0, k1, k2, k3]| libc::sock_filter {
                code: u16::from_ne_bytes([code0, code1]),
                jt,
                jf,
                k: u32::from_ne_bytes([k0, k1, k2, k3]),
            })
            .collect();
        Ok(Self { instructions, flags })
    }

    /// Filters the calls of this thread, and of what it executes, from now on. Needs
    /// `CAP_SYS_ADMIN` in the thread's user namespace, or `no_new_privs`.
    pub fn install(&self) -> io::Result<()> {
        let program = libc::sock_fprog {
            len: u16::try_from(self.instructions.len()).map_err(io::Error::other)?,
            filter: self.instructions.as_ptr().cast_mut(),
        };
        // SAFETY: `program` points at `len` instructions that live in `self` for the whole call,
        // and the kernel only reads them.
        let result = unsafe {
            libc::syscall(
                libc::SYS_seccomp,
                SECCOMP_SET_MODE_FILTER,
                self.flags,
                std::ptr::from_ref(&program),
            )
        };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RET_ALLOW: [u8; 8] = [0x06, 0, 0, 0, 0, 0, 0xff, 0x7f];

    #[test]
    fn programs_of_a_wrong_length_are_refused() {
        for bytes in [vec![], vec![0; 7], vec![0; 8 * 4097]] {
            assert!(Filter::new(&bytes, 0).is_err(), "{}", bytes.len());
        }
    }

    #[test]
    fn instructions_keep_their_bytes() {
        let filter = Filter::new(&RET_ALLOW, 4).unwrap();
        let [only] = filter.instructions.as_slice() else { panic!("{filter:?}") };
        let expected = u32::from_ne_bytes([0, 0, 0xff, 0x7f]);
        assert_eq!((only.code, only.jt, only.jf, only.k), (6, 0, 0, expected));
        assert_eq!(filter.flags, 4);
    }
}

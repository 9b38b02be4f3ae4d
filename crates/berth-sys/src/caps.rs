//! The capabilities of this process.

use std::io;

use rustix::io::Errno;
use rustix::thread::{CapabilitySet, remove_capability_from_bounding_set, set_capabilities};

/// Capability sets as bit masks; bit n is capability number n.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CapabilitySets {
    /// What it can do now.
    pub effective: u64,
    /// What it may make effective.
    pub permitted: u64,
    /// What it and its descendants can ever get.
    pub bounding: u64,
    /// What survives an exec by way of file capabilities.
    pub inheritable: u64,
    /// What survives any exec.
    pub ambient: u64,
}

impl CapabilitySets {
    /// Whether capability `number` is effective.
    pub fn has(&self, number: u32) -> bool {
        number < 64 && self.effective & (1 << number) != 0
    }
}

/// The sets of this process.
pub fn own() -> io::Result<CapabilitySets> {
    parse(&std::fs::read_to_string("/proc/self/status")?)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no capabilities in status"))
}

/// Takes everything but `keep` from this thread, for good: bounding, effective and permitted are
/// `keep`, inheritable and ambient are empty. Needs `CAP_SETPCAP`; to be called with all that is
/// permitted made effective.
pub fn limit_to(keep: u64) -> io::Result<()> {
    for number in 0..u64::BITS {
        let one = 1_u64 << number;
        if keep & one != 0 {
            continue;
        }
        match remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(one)) {
            Ok(()) => {}
            // One more than the kernel knows.
            Err(Errno::INVAL) => break,
            Err(errno) => return Err(errno.into()),
        }
    }
    let kept = CapabilitySet::from_bits_retain(keep);
    let sets = rustix::thread::CapabilitySets {
        effective: kept,
        permitted: kept,
        inheritable: CapabilitySet::empty(),
    };
    // What is no longer inheritable is no longer ambient.
    Ok(set_capabilities(None, sets)?)
}

fn parse(status: &str) -> Option<CapabilitySets> {
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        u64::from_str_radix(line.trim(), 16).ok()
    };
    Some(CapabilitySets {
        effective: field("CapEff:")?,
        permitted: field("CapPrm:")?,
        bounding: field("CapBnd:")?,
        inheritable: field("CapInh:")?,
        ambient: field("CapAmb:")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETPCAP: u32 = 8;

    /// In a thread of its own, for a thread cannot get back what it gave away.
    #[test]
    fn root_capabilities_are_given_up_for_good() {
        if !own().unwrap().has(SETPCAP) {
            testkit::skip("root_capabilities_are_given_up_for_good", "needs CAP_SETPCAP");
            return;
        }
        let keep = 1 << 0 | 1 << 5;
        let left = std::thread::spawn(move || {
            limit_to(keep).unwrap();
            let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
            parse(&status).unwrap()
        });
        let expected = CapabilitySets {
            effective: keep,
            permitted: keep,
            bounding: keep,
            inheritable: 0,
            ambient: 0,
        };
        assert_eq!(left.join().unwrap(), expected);
    }

    #[test]
    fn sets_are_read_from_status() {
        let status = "Name:\tx\nCapInh:\t0000000000000001\nCapPrm:\t000001fffeffffff\n\
                      CapEff:\t000001fffeffffff\nCapBnd:\t000001ffffffffff\nCapAmb:\t0000000000000000\n";
        let expected = CapabilitySets {
            effective: 0x1ff_feff_ffff,
            permitted: 0x1ff_feff_ffff,
            bounding: 0x1ff_ffff_ffff,
            inheritable: 1,
            ambient: 0,
        };
        let got = parse(status).unwrap();
        assert_eq!(got, expected);
        assert!(got.has(21));
        assert!(!got.has(24));
        assert!(!got.has(64));
        own().unwrap();
    }
}

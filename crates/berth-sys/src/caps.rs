//! The capabilities of this process.

use std::io;

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

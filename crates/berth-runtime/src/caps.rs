//! Linux capabilities: names, what this daemon holds, and Docker's `--cap-add` and `--cap-drop`.

/// Why a capability was refused. The texts are Docker's, word for word.
#[expect(missing_docs, reason = "the messages name the fields")]
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CapError {
    #[error("unknown capability: {name:?}")]
    Unknown { name: String },
    #[error(
        "capability not supported by your kernel or not available in the current environment: {name:?}"
    )]
    Unavailable { name: String },
}

/// Every capability, at the index that is its number in the kernel.
pub const NAMES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// What a container has when nothing is said, in Docker's order.
pub const DEFAULT: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

const ALL: &str = "ALL";

/// A set of capabilities, one bit each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CapSet(u64);

impl CapSet {
    /// From the kernel's bits.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The set of these names; names that the kernel does not have are none.
    pub fn of(names: &[String]) -> Self {
        let bit = |name: &String| NAMES.iter().position(|known| known == name);
        Self(names.iter().filter_map(bit).fold(0, |bits, bit| bits | 1 << bit))
    }

    /// The kernel's bits.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Every capability there is.
    pub const fn full() -> Self {
        Self((1 << NAMES.len()) - 1)
    }

    /// The hexadecimal number after `key:` in the text of `/proc/PID/status`.
    pub fn parse_status(status: &str, key: &str) -> Option<Self> {
        let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
        u64::from_str_radix(line.trim(), 16).ok().map(Self)
    }

    /// Whether `name` (with `CAP_`) is in it.
    pub fn has(self, name: &str) -> bool {
        NAMES.iter().position(|known| *known == name).is_some_and(|bit| self.0 & (1 << bit) != 0)
    }

    /// The names, in the kernel's order.
    pub fn names(self) -> Vec<String> {
        NAMES
            .iter()
            .enumerate()
            .filter(|(bit, _)| self.0 & (1 << bit) != 0)
            .map(|(_, name)| (*name).to_owned())
            .collect()
    }
}

/// Upper case, with `CAP_`, and known and available; `ALL` stays.
fn normalize(names: &[String], available: CapSet) -> Result<Vec<String>, CapError> {
    names
        .iter()
        .map(|name| {
            let mut name = name.to_uppercase();
            if name == ALL {
                return Ok(name);
            }
            if !name.starts_with("CAP_") {
                name.insert_str(0, "CAP_");
            }
            if !NAMES.contains(&name.as_str()) {
                return Err(CapError::Unknown { name });
            }
            if !available.has(&name) {
                return Err(CapError::Unavailable { name });
            }
            Ok(name)
        })
        .collect()
}

/// What a container gets. `available` is what the daemon itself holds.
///
/// A default capability that the daemon does not hold is left out, for the kernel would refuse it;
/// one that was asked for by name is an error.
pub fn resolve(
    add: &[String],
    drop: &[String],
    privileged: bool,
    available: CapSet,
) -> Result<Vec<String>, CapError> {
    if privileged {
        return Ok(available.names());
    }
    let drop = normalize(drop, available)?;
    let add = normalize(add, available)?;
    let all = |list: &[String]| list.iter().any(|name| name == ALL);
    let mut caps: Vec<String> = if all(&add) {
        return Ok(available.names().into_iter().filter(|name| !drop.contains(name)).collect());
    } else if all(&drop) {
        Vec::new()
    } else {
        DEFAULT
            .iter()
            .map(|name| (*name).to_owned())
            .filter(|name| available.has(name) && !drop.contains(name))
            .collect()
    };
    for name in add {
        if !caps.contains(&name) {
            caps.push(name);
        }
    }
    Ok(caps)
}

#[cfg(test)]
mod tests {
    use super::*;

    type Case<'a> = (&'a [&'a str], &'a [&'a str], bool, Result<Vec<String>, CapError>);

    fn strings(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn capabilities_are_added_and_dropped_as_docker_does() {
        let no_resource = CapSet::from_bits(CapSet::full().0 & !(1 << 24));
        let unknown = |name: &str| Err(CapError::Unknown { name: name.to_owned() });
        let default_without = |gone: &[&str]| {
            Ok(strings(&DEFAULT).into_iter().filter(|c| !gone.contains(&c.as_str())).collect())
        };
        let default_with = |more: &[&str]| Ok([strings(&DEFAULT), strings(more)].concat());
        #[rustfmt::skip]
        let table: &[Case<'_>] = &[
            // add                      drop                  privileged
            (&[],                       &[],                   false, default_with(&[])),
            (&["NET_ADMIN"],            &[],                   false, default_with(&["CAP_NET_ADMIN"])),
            (&["cap_sys_ptrace"],       &[],                   false, default_with(&["CAP_SYS_PTRACE"])),
            (&["CAP_CHOWN"],            &[],                   false, default_with(&[])),
            (&[],                       &["mknod", "CAP_KILL"], false, default_without(&["CAP_MKNOD", "CAP_KILL"])),
            (&["NET_RAW"],              &["ALL"],              false, Ok(strings(&["CAP_NET_RAW"]))),
            (&[],                       &["all"],              false, Ok(Vec::new())),
            (&["ALL"],                  &[],                   false, Ok(no_resource.names())),
            (&["ALL"],                  &["ALL"],              false, Ok(no_resource.names())),
            (&[],                       &[],                   true,  Ok(no_resource.names())),
            (&["NOPE"],                 &[],                   false, unknown("CAP_NOPE")),
            (&[],                       &["CAP_X"],            false, unknown("CAP_X")),
            (&["SYS_RESOURCE"],         &[],                   false, Err(CapError::Unavailable { name: "CAP_SYS_RESOURCE".to_owned() })),
        ];
        for (add, drop, privileged, expected) in table {
            let got = resolve(&strings(add), &strings(drop), *privileged, no_resource);
            assert_eq!(&got, expected, "add {add:?} drop {drop:?}");
        }
        assert_eq!(
            CapError::Unknown { name: "CAP_NOPE".to_owned() }.to_string(),
            "unknown capability: \"CAP_NOPE\""
        );
    }

    #[test]
    fn sets_are_read_from_proc() {
        let status = "Name:\tx\nCapPrm:\t000001ffffffffff\nCapEff:\t000001fffeffffff\n";
        let eff = CapSet::parse_status(status, "CapEff").unwrap();
        assert!(!eff.has("CAP_SYS_RESOURCE") && eff.has("CAP_CHECKPOINT_RESTORE"));
        assert_eq!(CapSet::parse_status(status, "CapPrm"), Some(CapSet::full()));
        assert_eq!(CapSet::parse_status(status, "CapBnd"), None);
    }
}

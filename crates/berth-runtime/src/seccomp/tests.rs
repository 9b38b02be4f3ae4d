use super::*;
use crate::caps::DEFAULT;

fn default_caps() -> Vec<String> {
    DEFAULT.iter().map(|cap| (*cap).to_owned()).collect()
}

fn around<'a>(caps: &'a [String], arch: &'a str) -> Circumstances<'a> {
    Circumstances { caps, arch, kernel: (6, 1) }
}

/// The rules for one call.
fn rules_of(filter: &Value, call: &str) -> Vec<Value> {
    let rules = filter["syscalls"].as_array().unwrap().iter();
    rules
        .filter(|rule| rule["names"].as_array().unwrap().iter().any(|name| name == call))
        .map(|rule| {
            let mut rule = rule.clone();
            rule.as_object_mut().unwrap().remove("names");
            rule
        })
        .collect()
}

#[test]
fn the_default_profile_depends_on_capabilities_and_machine() {
    let plain = default_caps();
    let admin = [default_caps(), vec!["CAP_SYS_ADMIN".to_owned()]].concat();
    let allow = json!({"action": "SCMP_ACT_ALLOW"});
    let cloned = |index| {
        json!({"action": "SCMP_ACT_ALLOW", "args": [
            {"index": index, "value": 0x7e02_0000, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"},
        ]})
    };
    let no_clone3 = json!({"action": "SCMP_ACT_ERRNO", "errnoRet": 38});
    let not_vsock = json!({"action": "SCMP_ACT_ALLOW", "args": [
        {"index": 0, "value": 40, "valueTwo": 0, "op": "SCMP_CMP_NE"},
    ]});
    #[rustfmt::skip]
    let table: &[(&str, &[String], &str, Vec<Value>)] = &[
        ("mkdir",       &plain, "amd64", vec![allow.clone()]),
        ("clone",       &plain, "amd64", vec![cloned(0)]),
        ("clone",       &plain, "s390x", vec![cloned(1)]),
        ("clone",       &admin, "amd64", vec![allow.clone()]),
        ("clone3",      &plain, "amd64", vec![no_clone3]),
        ("clone3",      &admin, "arm64", vec![allow.clone()]),
        ("socket",      &plain, "amd64", vec![not_vsock]),
        ("mount",       &plain, "amd64", vec![]),
        ("mount",       &admin, "amd64", vec![allow.clone()]),
        ("chroot",      &plain, "amd64", vec![allow.clone()]),
        ("chroot",      &[],    "amd64", vec![]),
        ("ptrace",      &plain, "amd64", vec![allow.clone()]),
        ("arch_prctl",  &plain, "amd64", vec![allow.clone()]),
        ("arch_prctl",  &plain, "arm64", vec![]),
        ("keyctl",      &admin, "amd64", vec![]),
        ("kexec_load",  &admin, "amd64", vec![]),
        ("io_uring_setup", &admin, "amd64", vec![]),
    ];
    for (call, caps, arch, expected) in table {
        let filter = builtin(around(caps, arch)).unwrap().unwrap();
        assert_eq!(&rules_of(&filter, call), expected, "{call} on {arch}");
    }
    let old = Circumstances { kernel: (4, 4), ..around(&plain, "amd64") };
    assert_eq!(rules_of(&builtin(old).unwrap().unwrap(), "ptrace"), Vec::<Value>::new());
}

#[test]
fn the_filter_covers_the_other_programs_of_a_machine() {
    #[rustfmt::skip]
    let table = [
        ("amd64",   json!(["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"])),
        ("arm64",   json!(["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"])),
        ("riscv64", json!(["SCMP_ARCH_RISCV64"])),
        ("ppc64le", json!([])),
    ];
    for (arch, expected) in table {
        let filter = builtin(around(&[], arch)).unwrap().unwrap();
        assert_eq!(filter["architectures"], expected, "{arch}");
        assert_eq!(filter["defaultAction"], "SCMP_ACT_ERRNO");
        assert_eq!(filter["defaultErrnoRet"], 1);
    }
}

#[test]
fn filters_are_what_the_oci_specification_says() {
    let filter = builtin(around(&default_caps(), "amd64")).unwrap().unwrap();
    let parsed: oci_spec::runtime::LinuxSeccomp = serde_json::from_value(filter.clone()).unwrap();
    let count = filter["syscalls"].as_array().unwrap().len();
    assert_eq!(parsed.syscalls().as_ref().unwrap().len(), count);
    assert_eq!(parsed.architectures().as_ref().unwrap().len(), 3);
}

#[test]
fn profiles_of_clients() {
    let translate = |text: &str| {
        custom(text, around(&default_caps(), "amd64")).map_err(|e| berth_types::kind::chain(&e))
    };
    let kill = json!({
        "defaultAction": "SCMP_ACT_ALLOW", "architectures": [],
        "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_KILL"}],
    });
    #[rustfmt::skip]
    let table: &[(&str, Result<Option<Value>, &str>)] = &[
        ("{}",                                          Ok(None)),
        (r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"name":"mkdir","action":"SCMP_ACT_KILL","args":null}]}"#,
                                                        Ok(Some(kill.clone()))),
        (r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir"],"action":"SCMP_ACT_KILL","includes":{},"excludes":{"minKernel":"7.0"}}]}"#,
                                                        Ok(Some(kill))),
        (r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86"],"archMap":[{"architecture":"SCMP_ARCH_X86_64"}]}"#,
                                                        Err("both 'architectures' and 'archMap' are specified in the seccomp profile, use either 'architectures' or 'archMap'")),
        (r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"name":"a","names":["b"],"action":"SCMP_ACT_KILL"}]}"#,
                                                        Err("both 'name' and 'names' are specified in the seccomp profile, use either 'name' or 'names'")),
        (r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["b"]}]}"#,
                                                        Err("a rule of the seccomp profile has no action: [\"b\"]")),
        (r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["b"],"action":"SCMP_ACT_LOG","includes":{"minKernel":"x"}}]}"#,
                                                        Err("invalid kernel version: \"x\"")),
        (r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["b"],"action":"SCMP_ACT_NOTIFY"}]}"#,
                                                        Err("seccomp action SCMP_ACT_NOTIFY is not supported by this version of berth")),
        ("not json",                                    Err("decoding seccomp profile failed: expected ident at line 1 column 2")),
    ];
    for (text, expected) in table {
        let expected = expected.clone().map_err(str::to_owned);
        assert_eq!(translate(text), expected, "{text}");
    }
}

/// What the filter does with a call on this machine: the program is run by hand.
fn verdict(program: &[u8], number: u32, args: [u64; 6]) -> u32 {
    const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;
    let mut data = Vec::new();
    for word in [number, AUDIT_ARCH_X86_64, 0, 0] {
        data.extend(word.to_le_bytes());
    }
    data.extend(args.iter().flat_map(|arg| arg.to_le_bytes()));
    let (mut at, mut accumulator) = (0_usize, 0_u32);
    loop {
        let [code0, code1, yes, no, k0, k1, k2, k3] = program.as_chunks::<8>().0[at];
        let operand = u32::from_le_bytes([k0, k1, k2, k3]);
        let jump = |condition: bool| at + 1 + usize::from(if condition { yes } else { no });
        at = match u16::from_le_bytes([code0, code1]) {
            0x20 => {
                let from = operand as usize;
                accumulator = u32::from_le_bytes(data[from..from + 4].try_into().unwrap());
                at + 1
            }
            0x54 => {
                accumulator &= operand;
                at + 1
            }
            0x05 => at + 1 + operand as usize,
            0x15 => jump(accumulator == operand),
            0x25 => jump(accumulator > operand),
            0x35 => jump(accumulator >= operand),
            0x06 => return operand,
            other => panic!("instruction {other:#x}"),
        };
    }
}

#[test]
#[cfg(target_arch = "x86_64")]
fn the_compiled_filter_decides_as_the_profile_says() {
    const ALLOW: u32 = 0x7fff_0000;
    const ERRNO: u32 = 0x0005_0000;
    const NO_SUCH_CALL: u32 = ERRNO | 0x26;
    const X32: u32 = 0x4000_0000;
    const NEW_USER: u64 = 0x1000_0000;
    const AF_VSOCK: u64 = 40;
    let caps = default_caps();
    let filter = filter(None, Circumstances { caps: &caps, arch: "amd64", kernel: (6, 1) });
    let filter = filter.unwrap().unwrap();
    #[rustfmt::skip]
    let table: &[(&str, u32, u64, u32)] = &[
        ("read",              0, 0,        ALLOW),
        ("mkdir",            83, 0,        ALLOW),
        ("mount",           165, 0,        ERRNO | 1),
        ("keyctl",          250, 0,        ERRNO | 1),
        ("clone, a thread",  56, 0x003d_0f00, ALLOW),
        ("clone, a user namespace", 56, NEW_USER, ERRNO | 1),
        ("clone3",          435, 0,        NO_SUCH_CALL),
        ("socket, inet",     41, 2,        ALLOW),
        ("socket, vsock",    41, AF_VSOCK, ERRNO | 1),
        ("personality, Linux", 135, 0,     ALLOW),
        ("personality, SVr4", 135, 1,      ERRNO | 1),
        ("fchmodat2",       452, 0,        ALLOW),
        ("fchmodat2 of x32", X32 + 452, 0, ALLOW),
        ("lsm_list_modules", 461, 0,       ERRNO | 1),
        ("one to come",     600, 0,        NO_SUCH_CALL),
        ("one to come of x32", X32 + 600, 0, NO_SUCH_CALL),
    ];
    for &(call, number, first, expected) in table {
        let got = verdict(&filter.program, number, [first, 0, 0, 0, 0, 0]);
        assert_eq!(got, expected, "{call}: {got:#x}");
    }
    assert_eq!(filter.flags, 0);
}

#[test]
fn a_filter_is_compiled_once() {
    let caps = default_caps();
    let around = around(&caps, native_arch());
    let first = filter(None, around).unwrap().unwrap();
    let again = filter(None, around).unwrap().unwrap();
    assert!(std::sync::Arc::ptr_eq(&first, &again));
    let fewer = filter(None, Circumstances { caps: &[], ..around }).unwrap().unwrap();
    assert_ne!(first.program, fewer.program);
}

#[test]
fn filters_that_cannot_be_compiled_are_refused() {
    #[rustfmt::skip]
    let table = [
        (json!({"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_LOG"]}), Ok(2)),
        (json!({"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_X"]}),
                                            Err("unknown seccomp flag \"SECCOMP_FILTER_FLAG_X\"")),
        (json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X"]}),
                                            Err("the seccomp filter cannot be compiled")),
        (json!({"defaultAction": "SCMP_ACT_X"}), Err("the seccomp filter cannot be compiled")),
    ];
    for (oci, expected) in table {
        let got = compile(oci.clone()).map(|filter| filter.flags);
        assert_eq!(
            got.map_err(|error| error.to_string()),
            expected.map_err(str::to_owned),
            "{oci}"
        );
    }
}

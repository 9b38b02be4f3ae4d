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
            {"index": index, "value": 0, "valueTwo": 0x7e02_0000, "op": "SCMP_CMP_MASKED_EQ"},
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

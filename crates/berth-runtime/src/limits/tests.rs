use super::*;
use crate::caps::CapSet;
use crate::cgroup::Cgroups;

fn config(json: Value) -> HostConfig {
    serde_json::from_value(json).unwrap()
}

#[test]
fn bad_limits_are_refused_in_dockers_words() {
    #[rustfmt::skip]
    let table = [
        (json!({"Memory": 1024}),                            "Minimum memory limit allowed is 6MB"),
        (json!({"Memory": -1}),                              "Minimum memory limit allowed is 6MB"),
        (json!({"Memory": 8 << 20, "MemorySwap": 7 << 20}),  "Minimum memoryswap limit should be larger than memory limit, see usage"),
        (json!({"MemorySwap": 8 << 20}),                     "You should always set the Memory limit when using Memoryswap limit, see usage"),
        (json!({"MemorySwappiness": 101}),                   "Invalid value: 101, valid memory swappiness range is 0-100"),
        (json!({"MemoryReservation": 5}),                    "Minimum memory reservation allowed is 6MB"),
        (json!({"Memory": 8 << 20, "MemoryReservation": 9 << 20}), "Minimum memory limit can not be less than memory reservation limit, see usage"),
        (json!({"NanoCpus": 1, "CpuPeriod": 5}),             "Conflicting options: Nano CPUs and CPU Period cannot both be set"),
        (json!({"NanoCpus": 1, "CpuQuota": 5}),              "Conflicting options: Nano CPUs and CPU Quota cannot both be set"),
        (json!({"NanoCpus": 5_000_000_000_i64}),             "range of CPUs is from 0.01 to 4.00, as there are only 4 CPUs available"),
        (json!({"NanoCpus": -1}),                            "range of CPUs is from 0.01 to 4.00, as there are only 4 CPUs available"),
        (json!({"CpuShares": -2}),                           "invalid CPU shares (-2): value must be a positive integer"),
        (json!({"CpuPeriod": 999}),                          "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)"),
        (json!({"CpuQuota": 999}),                           "CPU cfs quota can not be less than 1ms (i.e. 1000)"),
        (json!({"CpuRealtimePeriod": 5, "CpuRealtimeRuntime": 6}), "cpu real-time runtime cannot be higher than cpu real-time period"),
        (json!({"CpusetCpus": "0-9"}),                       "Requested CPUs are not available - requested 0-9, available: 0-3"),
        (json!({"CpusetCpus": "x"}),                         "Invalid value x for cpuset cpus: invalid format: x"),
        (json!({"CpusetMems": "1"}),                         "Requested memory nodes are not available - requested 1, available: 0"),
        (json!({"BlkioWeight": 5}),                          "Range of blkio weight is from 10 to 1000"),
        (json!({"IOMaximumIOps": 5}),                        "invalid option: QoS maximum IOPs configuration is not supported on linux"),
        (json!({"IOMaximumBandwidth": 5}),                   "invalid option: QoS maximum bandwidth configuration is not supported on linux"),
    ];
    for (given, text) in table {
        let error = adapt(&mut config(given.clone()), &Host::full(), Purpose::Create).unwrap_err();
        assert_eq!(error.to_string(), text, "{given}");
    }
}

#[test]
fn what_the_machine_cannot_limit_is_discarded_with_a_warning() {
    let lacking = Cgroups::detect_nothing();
    let host = Host { cgroups: lacking, ..Host::full() };
    let mut given = config(json!({
        "Memory": 8 << 20, "MemorySwap": -1, "PidsLimit": 5, "CpuShares": 3, "OomKillDisable": true,
        "BlkioWeight": 1, "CpusetCpus": "99", "BlkioDeviceReadBps": [{"Path": "/dev/x", "Rate": 1}],
    }));
    let warnings = adapt(&mut given, &host, Purpose::Create).unwrap();
    assert_eq!(
        warnings,
        [
            "Your kernel does not support memory limit capabilities or the cgroup is not mounted. Limitation discarded.",
            "Your kernel does not support OomKillDisable. OomKillDisable discarded.",
            "Your kernel does not support PIDs limit capabilities or the cgroup is not mounted. PIDs limit discarded.",
            "Your kernel does not support CPU shares or the cgroup is not mounted. Shares discarded.",
            "Your kernel does not support cpuset or the cgroup is not mounted. Cpuset discarded.",
            "Your kernel does not support Block I/O weight or the cgroup is not mounted. Weight discarded.",
            "Your kernel does not support BPS Block I/O read limit or the cgroup is not mounted. Block I/O BPS read limit discarded.",
        ]
    );
    assert_eq!(to_oci(&given).unwrap(), json!({}));
}

#[test]
fn limits_have_their_oci_form() {
    #[rustfmt::skip]
    let table = [
        (json!({}),                                     json!({})),
        (json!({"Memory": 8 << 20, "MemorySwap": 16 << 20, "MemoryReservation": 7 << 20}),
         json!({"memory": {"limit": 8 << 20, "swap": 16 << 20, "reservation": 7 << 20}})),
        (json!({"Memory": 8 << 20, "MemorySwap": -1}),  json!({"memory": {"limit": 8 << 20}})),
        (json!({"OomKillDisable": false, "MemorySwappiness": 0}),
         json!({"memory": {"disableOOMKiller": false, "swappiness": 0}})),
        (json!({"NanoCpus": 1_500_000_000}),            json!({"cpu": {"period": 100_000, "quota": 150_000}})),
        (json!({"CpuShares": 512, "CpuQuota": -1, "CpusetCpus": "0,1"}),
         json!({"cpu": {"shares": 512, "quota": -1, "cpus": "0,1"}})),
        (json!({"PidsLimit": 0}),                       json!({"pids": {"limit": -1}})),
        (json!({"PidsLimit": 50}),                      json!({"pids": {"limit": 50}})),
        (json!({"BlkioWeight": 300, "BlkioDeviceReadIOps": [{"Path": "/dev/null", "Rate": 9}]}),
         json!({"blockIO": {"weight": 300, "throttleReadIOPSDevice": [{"major": 1, "minor": 3, "rate": 9}]}})),
    ];
    for (given, expected) in table {
        let mut given = config(given);
        assert_eq!(
            adapt(&mut given, &Host::full(), Purpose::Create).unwrap(),
            Vec::<String>::new()
        );
        assert_eq!(to_oci(&given).unwrap(), expected, "{given:?}");
    }
    let missing = config(json!({"BlkioWeightDevice": [{"Path": "/dev/nope", "Weight": 10}]}));
    assert_eq!(to_oci(&missing).unwrap_err().to_string(), "stat /dev/nope");
}

#[test]
fn ulimits_are_checked_and_lowered_to_what_the_daemon_may() {
    let limit = |name: &str, soft, hard| Ulimit { name: name.to_owned(), soft, hard };
    #[rustfmt::skip]
    let refused = [
        (limit("as", 1, 1),         "invalid ulimit type: as"),
        (limit("nofile", 5, 4),     "ulimit soft limit must be less than or equal to hard limit: 5 > 4"),
        (limit("nofile", -1, 4),    "ulimit soft limit must be less than or equal to hard limit: soft: -1 (unlimited), hard: 4"),
    ];
    for (limit, text) in refused {
        assert_eq!(check_ulimits(&[limit]).unwrap_err().to_string(), text);
    }
    let mut host = Host { hard_limits: [("nofile", 1000)].into(), ..Host::full() };
    let given = [limit("nofile", -1, -1), limit("core", 0, -1)];
    check_ulimits(&given).unwrap();
    let mut warnings = Vec::new();
    let list = |soft: u64, hard: u64| {
        vec![
            json!({"type": "RLIMIT_NOFILE", "soft": soft, "hard": hard}),
            json!({"type": "RLIMIT_CORE", "soft": 0, "hard": u64::MAX}),
        ]
    };
    assert_eq!(rlimits(&given, &host, &mut warnings), list(u64::MAX, u64::MAX));
    assert_eq!(warnings, Vec::<String>::new());
    host.caps = CapSet::from_bits(0);
    assert_eq!(rlimits(&given, &host, &mut warnings), list(1000, 1000));
    assert_eq!(
        warnings,
        [
            "The hard limit -1 of ulimit nofile is above the daemon's own, which it may not raise. Lowered to 1000."
        ]
    );
}

#[test]
fn the_oom_score_is_raised_to_what_the_daemon_may() {
    let strong = Host::full();
    let weak = Host { caps: CapSet::from_bits(0), oom_score_adj: -100, ..Host::full() };
    for (host, wanted, expected, warned) in
        [(&strong, -500, -500, 0), (&weak, -500, -100, 1), (&weak, 0, 0, 0), (&weak, 700, 700, 0)]
    {
        let mut warnings = Vec::new();
        let config = HostConfig { oom_score_adj: wanted, ..HostConfig::default() };
        assert_eq!(oom_score_adj(&config, host, &mut warnings), expected, "{wanted}");
        assert_eq!(warnings.len(), warned, "{warnings:?}");
    }
}

#[test]
fn lists_of_numbers() {
    #[rustfmt::skip]
    let table: &[(&str, Option<&[u32]>)] = &[
        ("",            Some(&[])),
        ("0-2,5",       Some(&[0, 1, 2, 5])),
        ("3",           Some(&[3])),
        ("2-1",         None),
        ("a",           None),
        ("1,,2",        None),
        ("0-4294967295", None),
    ];
    for (text, expected) in table {
        let expected = expected.map(|list| list.iter().copied().collect());
        assert_eq!(parse_list(text), expected, "{text}");
    }
}

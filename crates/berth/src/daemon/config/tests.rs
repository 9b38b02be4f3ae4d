//! Tables for the settings: messages of Docker, and that nothing is read and ignored.

use berth_types::kind::chain;

use super::keys::{KEYS, Kind, Slot};
use super::*;

fn flags(args: &[&str]) -> Flags {
    let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
    Flags::parse(&args).unwrap()
}

/// Loads with `text` as the configuration file; `FILE` in a message stands for its path.
fn load(text: &str, args: &[&str]) -> Result<Config, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("daemon.json");
    berth_fs::atomic::write(&path, text.as_bytes()).unwrap();
    let path = path.to_str().unwrap();
    let mut all = vec!["--config-file", path];
    all.extend(args);
    let loaded = Config::load(&flags(&all));
    loaded
        .map(|(config, _keys)| Config { file: DEFAULT_FILE.to_owned(), ..config })
        .map_err(|error| chain(&error).replace(path, "FILE"))
}

fn default_loaded() -> Config {
    Config { hosts: vec![DEFAULT_HOST.to_owned()], ..Config::default() }
}

#[test]
fn files_are_refused_in_dockers_words() {
    #[rustfmt::skip]
    let table: &[(&str, &[&str], &str)] = &[
        (r#"{"debug":true,}"#,              &[], "invalid character '}' looking for beginning of object key string"),
        (r#"{"debug":true"#,                &[], "unexpected end of JSON input"),
        ("[1]",                             &[], "json: cannot unmarshal array into Go value of type map[string]interface {}"),
        (r#"{"storage-opts":"dm.x=y"}"#,    &[], "json: cannot unmarshal string into Go struct field Config.storage-opts of type []string"),
        (r#"{"labels":[1]}"#,               &[], "json: cannot unmarshal number into Go struct field Config.labels of type string"),
        (r#"{"debug":"yes"}"#,              &[], "json: cannot unmarshal string into Go struct field Config.debug of type bool"),
        (r#"{"mtu":1.5}"#,                  &[], "json: cannot unmarshal number 1.5 into Go struct field Config.mtu of type int"),
        (r#"{"data-root":{"x":1}}"#,        &[], "the following directives don't match any configuration option: x"),
        (r#"{"foo":1,"bar":2}"#,            &[], "the following directives don't match any configuration option: foo, bar"),
        (r#"{"Debug":true}"#,               &[], "the following directives don't match any configuration option: Debug"),
        (r#"{"label":["a=b"]}"#,            &[], "the following directives don't match any configuration option: label"),
        (r#"{"graph":"/x"}"#,               &[], "the following directives don't match any configuration option: graph"),
        (r#"{"userns-remap":1}"#,           &[], "json: cannot unmarshal number into Go struct field Config.userns-remap of type string"),
        (r#"{"proxies":{"http-proxy":"x"}}"#, &[], "http-proxy is not supported by this version of berth"),
        (r#"{"icc":false}"#,                &[], "icc is not supported by this version of berth"),
        (r#"{"storage-driver":"devicemapper"}"#, &["--storage-driver=overlay2"],
            "the following directives are specified both as a flag and in the configuration file: \
             storage-driver: (from flag: overlay2, from file: devicemapper)"),
        (r#"{"hosts":["tcp://127.0.0.1:2376","unix:///run/x.sock"],"debug":true}"#, &["-H", "fd://", "-D"],
            "the following directives are specified both as a flag and in the configuration file: \
             debug: (from flag: true, from file: true), \
             hosts: (from flag: [fd://], from file: [tcp://127.0.0.1:2376 unix:///run/x.sock])"),
        (r#"{"log-opts":{"max-size":"1m"}}"#, &["--log-opt", "max-file=2"],
            "the following directives are specified both as a flag and in the configuration file: \
             log-opts: (from flag: map[max-file:2], from file: map[max-size:1m])"),
    ];
    for (text, args, message) in table {
        let expected = format!("unable to configure the Docker daemon with file FILE: {message}");
        assert_eq!(load(text, args), Err(expected), "{text}");
    }
}

#[test]
fn values_are_refused_in_dockers_words() {
    #[rustfmt::skip]
    let table = [
        (r#"{"log-level":"x"}"#,                    "invalid logging level: x"),
        (r#"{"dns":["x"]}"#,                        "IP address is not correctly formatted: x"),
        (r#"{"dns-search":["a b"]}"#,               "a b is not a valid domain"),
        (r#"{"labels":["x"]}"#,                     "bad attribute format: x"),
        (r#"{"labels":["a=1","a=2"]}"#,             "conflict labels for a=1 and a=2"),
        (r#"{"default-ipc-mode":"x"}"#,             "default IPC mode setting (x) is invalid; use \"shareable\" or \"private\""),
        (r#"{"bridge":"br0","bip":"10.0.0.1/24"}"#, "You specified -b & --bip, mutually exclusive options. Please specify only one"),
        (r#"{"bip":"x"}"#,                          "invalid CIDR address: x"),
        (r#"{"hosts":["foo://x"]}"#,                "invalid bind address (foo://x): unsupported proto 'foo'"),
        (r#"{"log-driver":"nope"}"#,                "logger: no log driver named 'nope' is registered"),
        (r#"{"log-driver":"syslog"}"#,              "log-driver syslog is not supported by this version of berth"),
        (r#"{"log-opts":{"x":"1"}}"#,               "unknown log opt 'x' for json-file log driver"),
        (r#"{"tlscert":"/x.pem"}"#,                 "tlscert has no effect without tls or tlsverify"),
        (r#"{"data-root":"x"}"#,                    "data-root must be an absolute path, not \"x\""),
    ];
    for (text, message) in table {
        let prefix = "merged configuration validation from file and command line flags failed";
        assert_eq!(load(text, &[]), Err(format!("{prefix}: {message}")), "{text}");
    }
}

#[test]
fn a_named_file_must_be_there_and_the_default_one_need_not() {
    let missing = Config::load(&flags(&["--config-file=/nonexistent/daemon.json"])).unwrap_err();
    assert_eq!(
        chain(&missing),
        "unable to configure the Docker daemon with file /nonexistent/daemon.json: \
         open /nonexistent/daemon.json: no such file or directory"
    );
    let mut config = Config::default();
    let applied = file::apply(&mut config, "/nonexistent/daemon.json", false, &Flags::default());
    assert!(matches!(applied, Ok(None)));
    assert_eq!(config, Config::default());
}

#[test]
fn empty_files_and_zero_values_leave_the_defaults() {
    for text in
        ["", " \n", "{}", "null", r#"{"mtu":0,"data-root":"","labels":[],"log-level":null}"#]
    {
        assert_eq!(load(text, &[]), Ok(default_loaded()), "{text}");
    }
    let off = load(r#"{"live-restore":false,"iptables":false}"#, &[]).unwrap();
    assert_eq!(off, Config { live_restore: false, iptables: false, ..default_loaded() });
    let grouped = load(r#"{"any-group":{"debug":true}}"#, &[]).unwrap();
    assert_eq!(grouped, Config { debug: true, ..default_loaded() });
}

#[test]
fn command_lines() {
    #[rustfmt::skip]
    let table: &[(&[&str], &str)] = &[
        (&["--foo"],             "unknown flag: --foo"),
        (&["-z"],                "unknown shorthand flag: 'z' in -z"),
        (&["--debug=x"],         r#"invalid argument "x" for "-D, --debug" flag: strconv.ParseBool: parsing "x": invalid syntax"#),
        (&["--mtu", "x"],        r#"invalid argument "x" for "--mtu" flag: strconv.ParseInt: parsing "x": invalid syntax"#),
        (&["--data-root"],       "flag needs an argument: --data-root"),
        (&["-H"],                "flag needs an argument: 'H' in -H"),
        (&["--label", "a"],      r#"invalid argument "a" for "--label" flag: bad attribute format: a"#),
        (&["-H", "foo://x"],     r#"invalid argument "foo://x" for "-H, --host" flag: invalid bind address (foo://x): unsupported proto 'foo'"#),
        (&["--default-ulimit", "nofile=2:1"],
            r#"invalid argument "nofile=2:1" for "--default-ulimit" flag: ulimit soft limit must be less than or equal to hard limit: 2 > 1"#),
        (&["extra"],             r#""berth daemon" accepts no arguments."#),
        (&["--=x"],              "bad flag syntax: --=x"),
    ];
    for (args, message) in table {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        let error = Flags::parse(&args).unwrap_err().to_string();
        assert_eq!(error, format!("{message}\nSee 'berth daemon --help'."), "{args:?}");
    }
    let config = Config::load(&flags(&[
        "-Dlwarn",
        "-H=tcp://:1234",
        "-Hunix:///x.sock",
        "-H",
        "tcp://127.0.0.1:1234",
        "--live-restore=false",
        "--default-ulimit",
        "nofile=10:20",
        "--default-shm-size=128m",
        "--shutdown-timeout=-1",
    ]))
    .map(|(config, _keys)| config);
    let expected = Config {
        debug: true,
        log_level: "warn".to_owned(),
        hosts: vec!["tcp://127.0.0.1:1234".to_owned(), "unix:///x.sock".to_owned()],
        live_restore: false,
        ulimits: [("nofile".to_owned(), (10, 20))].into(),
        shm_size: 128 << 20,
        shutdown_timeout: -1,
        ..Config::default()
    };
    assert_eq!(config.unwrap(), expected);
    assert_eq!(expected.shutdown_timeout(), None);
}

#[test]
fn refused_flags_are_refused_by_name() {
    for key in KEYS.iter().filter(|key| !key.flag.is_empty()) {
        let Slot::Refused(kind) = key.slot else { continue };
        let value = match kind {
            Kind::Bool => "true",
            Kind::Int | Kind::Size => "1",
            Kind::Text | Kind::List | Kind::Map => "x",
        };
        let error = Config::load(&flags(&[&format!("--{}={value}", key.flag)])).unwrap_err();
        let expected = format!("{} is not supported by this version of berth", key.flag);
        assert_eq!(chain(&error), expected);
    }
}

/// Every key of Docker's documentation, in its order.
#[rustfmt::skip]
const DOCUMENTED: &[&str] = &[
    "storage-driver", "storage-opts", "data-root", "exec-root", "pidfile", "hosts", "group", "debug", "log-level",
    "log-format", "raw-logs", "log-driver", "log-opts", "authorization-plugins", "labels", "live-restore",
    "max-concurrent-downloads", "max-concurrent-uploads", "max-download-attempts", "shutdown-timeout",
    "insecure-registries", "registry-mirrors", "allow-nondistributable-artifacts", "default-runtime", "runtimes",
    "default-shm-size", "default-ipc-mode", "default-cgroupns-mode", "default-ulimits", "features", "builder",
    "experimental", "userns-remap", "bip", "bip6", "fixed-cidr", "fixed-cidr-v6", "default-gateway",
    "default-gateway-v6", "mtu", "icc", "ip", "ipv6", "iptables", "ip6tables", "ip-forward", "ip-masq",
    "userland-proxy", "userland-proxy-path", "bridge", "default-address-pools", "default-network-opts", "dns",
    "dns-opts", "dns-search", "tls", "tlsverify", "tlscacert", "tlscert", "tlskey", "exec-opts", "cgroup-parent",
    "init", "init-path", "seccomp-profile", "selinux-enabled", "no-new-privileges", "cpu-rt-period",
    "cpu-rt-runtime", "oom-score-adjust", "metrics-addr", "swarm-default-advertise-addr",
    "node-generic-resources", "network-control-plane-mtu", "network-diagnostic-port", "cluster-store",
    "cluster-advertise", "cluster-store-opts", "containerd", "containerd-namespace",
    "containerd-plugins-namespace", "cri-containerd", "cdi-spec-dirs", "http-proxy", "https-proxy", "no-proxy",
    "host-gateway-ip", "host-gateway-ips", "deprecated-key-path",
];

/// What Docker does not have.
const OWN: [&str; 1] = ["max-image-layers"];

#[test]
fn the_table_is_dockers_documentation() {
    let mut table: Vec<_> = KEYS.iter().map(|key| key.json).filter(|key| !key.is_empty()).collect();
    table.sort_unstable();
    let mut documented = DOCUMENTED.to_vec();
    documented.extend(OWN);
    documented.sort_unstable();
    assert_eq!(table, documented);
    let mut flags: Vec<_> = KEYS.iter().map(|key| key.flag).filter(|key| !key.is_empty()).collect();
    let count = flags.len();
    flags.sort_unstable();
    flags.dedup();
    assert_eq!(flags.len(), count, "a flag stands twice");
}

/// A value that is not the default, as JSON and as a flag's value; `None` where the key is refused.
fn sample(json: &str, slot: Slot) -> Option<(String, String)> {
    let same = |value: &str| Some((format!("{value:?}"), value.to_owned()));
    match (json, slot) {
        ("log-level", _) => same("warn"),
        ("log-format", _) => same("json"),
        ("log-driver", _) => same("none"),
        ("default-ipc-mode", _) => same("shareable"),
        ("default-cgroupns-mode", _) => same("host"),
        ("bip", _) => same("10.9.8.7/24"),
        ("hosts", _) => Some(("[\"unix:///x.sock\"]".to_owned(), "unix:///x.sock".to_owned())),
        ("dns", _) => Some(("[\"10.0.0.1\"]".to_owned(), "10.0.0.1".to_owned())),
        ("insecure-registries", _) => Some(("[\"r:5000\"]".to_owned(), "r:5000".to_owned())),
        ("registry-mirrors", _) => Some(("[\"https://m/\"]".to_owned(), "https://m/".to_owned())),
        ("dns-search", _) => Some(("[\"example.org\"]".to_owned(), "example.org".to_owned())),
        ("log-opts", _) => Some(("{\"max-size\":\"1m\"}".to_owned(), "max-size=1m".to_owned())),
        (_, Slot::Bool(field)) => {
            let value = (!*field(&mut Config::default())).to_string();
            Some((value.clone(), value))
        }
        (_, Slot::Int(_)) => Some(("7".to_owned(), "7".to_owned())),
        (_, Slot::Size(_)) => Some(("\"1m\"".to_owned(), "1m".to_owned())),
        (_, Slot::Text(_)) => same("/x"),
        (_, Slot::List(_)) => Some(("[\"a=b\"]".to_owned(), "a=b".to_owned())),
        (_, Slot::Map(_)) => Some(("{\"a\":\"b\"}".to_owned(), "a=b".to_owned())),
        (_, Slot::Ulimits(_)) => Some((
            "{\"nofile\":{\"Name\":\"nofile\",\"Soft\":1,\"Hard\":2}}".to_owned(),
            "nofile=1:2".to_owned(),
        )),
        (_, Slot::Fixed(..) | Slot::Refused(_)) => None,
    }
}

#[test]
fn every_key_that_works_reaches_the_settings_from_file_and_flag() {
    for key in KEYS.iter().filter(|key| !key.json.is_empty()) {
        let Some((json, flag)) = sample(key.json, key.slot) else { continue };
        // TLS files need TLS itself.
        let tls = key.json.starts_with("tlsc") || key.json == "tlskey";
        let extra: &[&str] = if tls { &["--tls"] } else { &[] };
        let base = load("{}", extra).unwrap();
        let from_file = load(&format!("{{{:?}: {json}}}", key.json), extra).unwrap();
        assert_ne!(from_file, base, "{} is read and ignored", key.json);
        let given = format!("--{}={flag}", key.flag);
        let args: Vec<&str> = extra.iter().copied().chain([given.as_str()]).collect();
        assert_eq!(load("{}", &args).unwrap(), from_file, "{} and its flag differ", key.json);
    }
}

#[test]
fn every_setting_of_the_engine_comes_from_the_settings() {
    let text = r#"{"data-root":"/d","exec-root":"/e","storage-driver":"vfs","storage-opts":["a=b"],"bip":"10.9.8.7/24",
        "mtu":1400,"ip-masq":false,"iptables":false,"ip-forward":false,"dns":["10.0.0.1"],"dns-search":["example.org"],
        "dns-opts":["ndots:1"],"labels":["x=y"],"live-restore":false,"shutdown-timeout":7,"experimental":true,
        "debug":true,"log-opts":{"max-size":"1m"},"default-shm-size":4096,
        "default-ipc-mode":"shareable","default-cgroupns-mode":"host",
        "default-ulimits":{"nofile":{"Name":"nofile","Soft":1,"Hard":2}},"init":true,"init-path":"/i",
        "cgroup-parent":"/c","no-new-privileges":true,"selinux-enabled":true,"max-image-layers":200}"#;
    let config = load(text, &[]).unwrap().engine(PathBuf::from("/s"), vec!["1.2.3.4:5".to_owned()]);
    let expected = EngineConfig {
        storage_driver: "vfs".to_owned(),
        storage_opts: vec!["a=b".to_owned()],
        bridge: "berth0".to_owned(),
        bip: Some("10.9.8.7/24".to_owned()),
        mtu: Some(1400),
        ip_masq: false,
        iptables: false,
        ip_forward: false,
        dns: vec!["10.0.0.1".parse().unwrap()],
        dns_search: vec!["example.org".to_owned()],
        dns_opts: vec!["ndots:1".to_owned()],
        labels: vec!["x=y".to_owned()],
        live_restore: false,
        shutdown_timeout: Some(Duration::from_secs(7)),
        experimental: true,
        debug: true,
        log_driver: "json-file".to_owned(),
        log_opts: [("max-size".to_owned(), "1m".to_owned())].into(),
        shm_size: 4096,
        ipc_mode: "shareable".to_owned(),
        cgroupns_mode: "host".to_owned(),
        ulimits: [("nofile".to_owned(), (1, 2))].into(),
        init: true,
        init_path: "/i".to_owned(),
        cgroup_parent: "/c".to_owned(),
        no_new_privileges: true,
        selinux_enabled: true,
        max_image_layers: 200,
        plain_tcp: vec!["1.2.3.4:5".to_owned()],
        ..EngineConfig::new("/d".into(), "/e".into(), "/s".into())
    };
    assert_eq!(format!("{config:?}"), format!("{expected:?}"));
}

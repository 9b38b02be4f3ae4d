use berth_types::IdMap;

use super::*;
use crate::caps::CapSet;

const SH: &str = r#"{"Cmd": ["sh"]}"#;

/// Builds with these settings; `change` may alter the rest of the input.
fn try_built(
    config: &str,
    host_config: &Value,
    change: impl FnOnce(&mut SpecInput<'_>),
) -> Result<Built, RuntimeError> {
    let config: ContainerConfig = serde_json::from_str(config).unwrap();
    let mut host_config: HostConfig = serde_json::from_value(host_config.clone()).unwrap();
    let host = Host::full();
    crate::validate::fill_defaults(&mut host_config, &host);
    let accounts = Accounts::new("root:x:0:0::/root:\nweb:x:9:10::/web:\n", "media:x:11:web\n");
    let mut input = SpecInput {
        id: "ID",
        config: &config,
        host_config: &host_config,
        root: Path::new("/root"),
        mounts: &[],
        hostname: "box",
        network: Network::New,
        users: None,
        join_ipc: None,
        join_pid: None,
        shm: None,
        etc: EtcFiles::default(),
        accounts: &accounts,
        link_env: &[],
        cgroup_parent: "",
        default_init: false,
        init_binary: None,
        default_seccomp: None,
        default_no_new_privileges: false,
        host: &host,
    };
    change(&mut input);
    build(&input)
}

fn built(host_config: &Value) -> Built {
    try_built(SH, host_config, |_| {}).unwrap()
}

fn namespaces_of(built: &Built) -> Vec<String> {
    let list = built.spec["linux"]["namespaces"].as_array().unwrap();
    list.iter()
        .map(|ns| match ns["path"].as_str() {
            Some(path) => format!("{}={path}", ns["type"].as_str().unwrap()),
            None => ns["type"].as_str().unwrap().to_owned(),
        })
        .collect()
}

/// `dockerd` 20.10.24 wrote the golden file for `docker run --network none --hostname box t sleep 100`;
/// ids and directories were replaced, its hook and its list of calls taken out.
#[test]
fn a_default_container_is_the_one_of_dockerd() {
    let mut golden: Value =
        serde_json::from_str(include_str!("golden/dockerd-20.10-default.json")).unwrap();
    let etc = |file: &str| Some(PathBuf::from(format!("/containers/ID/{file}")));
    let config = r#"{"Cmd": ["sleep", "100"], "Hostname": "box"}"#;
    let host = json!({"CgroupnsMode": "host"});
    let built = try_built(config, &host, |input| {
        input.etc = EtcFiles {
            hosts: etc("hosts"),
            hostname: etc("hostname"),
            resolv_conf: etc("resolv.conf"),
        };
        input.cgroup_parent = "/docker";
    });
    let Built { mut spec, filter, .. } = built.unwrap();
    assert_eq!(spec["linux"]["sysctl"], golden["linux"]["sysctl"]);
    spec["linux"]["seccomp"] = filter.unwrap().oci.clone();
    spec["linux"]["seccomp"].as_object_mut().unwrap().remove("syscalls");

    // What differs on purpose: newer masks, the home directory that runc adds later, limits of
    // zero that say nothing, and what libcontainer needs.
    let process = golden["process"].as_object_mut().unwrap();
    process.remove("oomScoreAdj");
    process["env"].as_array_mut().unwrap().push(json!("HOME=/root"));
    process.insert("terminal".to_owned(), json!(false));
    process.insert("rlimits".to_owned(), json!([]));
    golden["root"]["readonly"] = json!(false);
    golden["ociVersion"] = json!("1.2.0");
    let linux = golden["linux"].as_object_mut().unwrap();
    linux["seccomp"]["defaultErrnoRet"] = json!(1);
    linux["resources"]
        .as_object_mut()
        .unwrap()
        .retain(|key, _| key == "devices" || key == "memory");
    linux["maskedPaths"].as_array_mut().unwrap().insert(2, json!("/proc/interrupts"));
    linux["maskedPaths"].as_array_mut().unwrap().push(json!("/sys/devices/virtual/powercap"));
    linux.insert("rootfsPropagation".to_owned(), json!("private"));
    linux.insert("devices".to_owned(), json!([]));
    assert_eq!(spec, golden);
}

#[test]
fn every_specification_is_read_by_the_oci_types() {
    for host_config in [
        json!({}),
        json!({"Privileged": true, "Memory": 64 << 20, "NanoCpus": 1_500_000_000}),
        json!({"ReadonlyRootfs": true, "Tmpfs": {"/run": "size=1m"}, "IpcMode": "host",
               "Ulimits": [{"Name": "nofile", "Soft": 10, "Hard": -1}], "PidsLimit": 9,
               "Devices": [{"PathOnHost": "/dev/null", "PathInContainer": "/dev/nix", "CgroupPermissions": "rw"}],
               "DeviceCgroupRules": ["b 8:* r"], "Annotations": {"a": "b"}}),
    ] {
        let spec = built(&host_config).spec;
        let parsed: Result<oci_spec::runtime::Spec, _> = serde_json::from_value(spec);
        assert!(parsed.is_ok(), "{host_config}: {parsed:?}");
    }
}

#[test]
fn namespaces() {
    let plain = ["mount", "network", "uts", "pid", "ipc", "cgroup"];
    #[rustfmt::skip]
    let table: &[(Value, &[&str])] = &[
        (json!({}),                         &plain),
        (json!({"PidMode": "host"}),        &["mount", "network", "uts", "ipc", "cgroup"]),
        (json!({"IpcMode": "host"}),        &["mount", "network", "uts", "pid", "cgroup"]),
        (json!({"UTSMode": "host"}),        &["mount", "network", "pid", "ipc", "cgroup"]),
        (json!({"CgroupnsMode": "host"}),   &plain[..5]),
        (json!({"IpcMode": "none"}),        &plain),
    ];
    for (host_config, expected) in table {
        assert_eq!(&namespaces_of(&built(host_config)), expected, "{host_config}");
    }
    let joined = try_built(SH, &json!({}), |input| {
        input.network = Network::Join("/n".into());
        input.join_ipc = Some("/i".into());
        input.join_pid = Some("/p".into());
    });
    let joined = joined.unwrap();
    assert_eq!(
        namespaces_of(&joined),
        ["mount", "network=/n", "uts", "pid=/p", "ipc=/i", "cgroup"]
    );
    assert_eq!(joined.spec["linux"]["sysctl"], json!({}), "another's network is left alone");
    let host = try_built(SH, &json!({"UTSMode": "host"}), |input| input.network = Network::Host);
    let host = host.unwrap();
    assert_eq!(namespaces_of(&host), ["mount", "pid", "ipc", "cgroup"]);
    assert_eq!(host.spec.get("hostname"), None);
}

#[test]
fn arguments_are_entrypoint_and_command() {
    let no_command = || Err("no command specified".to_owned());
    let strings = |args: &[&str]| Ok(args.iter().map(|arg| (*arg).to_owned()).collect());
    #[rustfmt::skip]
    let table: &[(Value, Result<Vec<String>, String>)] = &[
        (json!({"Cmd": ["sh", "-c", "x"]}),                 strings(&["sh", "-c", "x"])),
        (json!({"Entrypoint": ["/e", "a"], "Cmd": ["b"]}),  strings(&["/e", "a", "b"])),
        (json!({"Entrypoint": "/e"}),                       strings(&["/e"])),
        (json!({"Entrypoint": [], "Cmd": ["b"]}),           strings(&["b"])),
        (json!({"Entrypoint": [""], "Cmd": ["b"]}),         no_command()),
        (json!({}),                                         no_command()),
        (json!({"Cmd": ["a\u{0}"]}),                        Err("an argument contains a NUL byte: \"a\\0\"".to_owned())),
    ];
    for (config, expected) in table {
        let parsed: ContainerConfig = serde_json::from_value(config.clone()).unwrap();
        assert_eq!(&args(&parsed).map_err(|error| error.to_string()), expected, "{config}");
    }
}

#[test]
fn an_init_is_put_in_front_only_where_it_makes_sense() {
    let with = |host_config: Value, binary: Option<&'static str>| {
        try_built(SH, &host_config, |input| input.init_binary = binary.map(Path::new))
            .map(|built| built.spec["process"]["args"].clone())
            .map_err(|error| error.to_string())
    };
    let no_init = "no init binary was found on this host: install the package tini, or give its path with --init-path";
    #[rustfmt::skip]
    let table = [
        (json!({"Init": true}),                     Some("/usr/bin/tini"), Ok(json!(["/sbin/docker-init", "--", "sh"]))),
        (json!({"Init": true, "PidMode": "host"}),  None,                  Ok(json!(["sh"]))),
        (json!({"Init": false}),                    None,                  Ok(json!(["sh"]))),
        (json!({"Init": true}),                     None,                  Err(no_init.to_owned())),
    ];
    for (host_config, binary, expected) in table {
        assert_eq!(with(host_config.clone(), binary), expected, "{host_config}");
    }
    let built = try_built(SH, &json!({"Init": true}), |i| i.init_binary = Some(Path::new("/t")));
    let mounts = built.unwrap().spec["mounts"].clone();
    assert_eq!(
        mounts.as_array().unwrap().last().unwrap(),
        &json!({"destination": "/sbin/docker-init", "type": "bind", "source": "/t", "options": ["rbind", "ro", "rprivate"]})
    );
}

#[test]
fn privileged_containers_have_everything_the_daemon_has() {
    let Built { spec, device_rules, caps, filter, .. } = built(&json!({"Privileged": true}));
    assert_eq!(device_rules, [Rule::parse("a *:* rwm").unwrap()]);
    let linux = &spec["linux"];
    assert_eq!(linux["resources"]["devices"], json!([{"allow": true, "access": "rwm"}]));
    assert_eq!((&linux["maskedPaths"], &linux["readonlyPaths"]), (&json!([]), &json!([])));
    assert_eq!((caps, filter), (CapSet::full(), None));
    assert_eq!(spec["process"]["capabilities"]["bounding"], json!(CapSet::full().names()));
    let null = json!({"path": "/dev/null", "type": "c", "major": 1, "minor": 3});
    let nodes = linux["devices"].as_array().unwrap();
    let same = |node: &Value| null.as_object().unwrap().iter().all(|(key, v)| &node[key] == v);
    assert_eq!(nodes.iter().filter(|node| same(node)).count(), 1);
}

#[test]
fn security_options_reach_the_specification() {
    #[rustfmt::skip]
    let table: &[(Value, &str, Option<Value>)] = &[
        (json!({"SecurityOpt": ["no-new-privileges"]}),      "/process/noNewPrivileges", Some(json!(true))),
        (json!({"SecurityOpt": ["no-new-privileges=false"]}), "/process/noNewPrivileges", None),
        (json!({}),                                          "/process/noNewPrivileges", None),
        (json!({"SecurityOpt": ["apparmor=x"]}),             "/process/apparmorProfile", None),
        (json!({"SecurityOpt": ["systempaths=unconfined"]}), "/linux/maskedPaths", Some(json!([]))),
        (json!({"MaskedPaths": [], "ReadonlyPaths": ["/x"]}), "/linux/maskedPaths", Some(json!([]))),
        (json!({"MaskedPaths": [], "ReadonlyPaths": ["/x"]}), "/linux/readonlyPaths", Some(json!(["/x"]))),
        (json!({"Sysctls": {"net.ipv4.ip_unprivileged_port_start": "7"}}),
                                    "/linux/sysctl/net.ipv4.ip_unprivileged_port_start", Some(json!("7"))),
    ];
    for (host_config, pointer, expected) in table {
        let spec = built(host_config).spec;
        assert_eq!(spec.pointer(pointer), expected.as_ref(), "{host_config} {pointer}");
    }
}

#[test]
fn the_filter_is_that_of_the_container_or_of_the_daemon_or_dockers() {
    let profile = r#"seccomp={"defaultAction":"SCMP_ACT_ALLOW","syscalls":[]}"#;
    let allow = json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": [], "syscalls": []});
    let log = r#"{"defaultAction":"SCMP_ACT_LOG","syscalls":[]}"#;
    #[rustfmt::skip]
    let table: &[(Value, Option<&str>, Option<&str>)] = &[
        (json!({"SecurityOpt": ["seccomp=unconfined"]}),        None,               None),
        (json!({"SecurityOpt": [profile]}),                     None,               Some("SCMP_ACT_ALLOW")),
        (json!({"SecurityOpt": [profile], "Privileged": true}), None,               Some("SCMP_ACT_ALLOW")),
        (json!({"Privileged": true}),                           Some(log),          None),
        (json!({}),                                             Some("unconfined"), None),
        (json!({}),                                             Some(log),          Some("SCMP_ACT_LOG")),
        (json!({"SecurityOpt": [profile]}),                     Some(log),          Some("SCMP_ACT_ALLOW")),
        (json!({"SecurityOpt": ["seccomp=builtin"]}),           Some(log),          Some("SCMP_ACT_ERRNO")),
        (json!({}),                                             None,               Some("SCMP_ACT_ERRNO")),
    ];
    for (host_config, of_daemon, expected) in table {
        let built = try_built(SH, host_config, |input| input.default_seccomp = *of_daemon).unwrap();
        let action = built.filter.as_ref().map(|filter| filter.oci["defaultAction"].clone());
        let shown = action.as_ref().map(|action| action.as_str().unwrap());
        assert_eq!(shown, *expected, "{host_config} {of_daemon:?}");
    }
    let filter = built(&json!({"SecurityOpt": [profile]})).filter.unwrap();
    assert_eq!(filter.oci, allow);
}

#[test]
fn version_one_control_groups_are_read_only_unless_they_shall_not_be() {
    let mut host = Host::full();
    host.cgroups.mode = crate::cgroup::Mode::V1;
    host.cgroups.mounts = [("memory".to_owned(), PathBuf::from("/sys/fs/cgroup/memory"))].into();
    let host: &'static Host = Box::leak(Box::new(host));
    let read_only = json!(["/sys/fs/cgroup/memory"]);
    #[rustfmt::skip]
    let table = [
        (json!({"ReadonlyPaths": []}),                                          read_only),
        (json!({"ReadonlyPaths": [], "Privileged": true}),                      json!([])),
        (json!({"ReadonlyPaths": [], "SecurityOpt": ["writable-cgroups=true"]}), json!([])),
    ];
    for (host_config, expected) in table {
        let built = try_built(SH, &host_config, |input| input.host = host).unwrap();
        assert_eq!(built.spec["linux"]["readonlyPaths"], expected, "{host_config}");
    }
}

#[test]
fn the_rest_of_the_settings() {
    let config = r#"{"Cmd": ["sh"], "User": "web", "Tty": true, "WorkingDir": "/a/../b",
        "Env": ["PATH=/x"], "Domainname": "example.org"}"#;
    let host_config =
        json!({"GroupAdd": ["77"], "ConsoleSize": [24, 80], "Annotations": {"k": "v"}});
    let spec = try_built(config, &host_config, |_| {}).unwrap().spec;
    let process = &spec["process"];
    assert_eq!(process["user"], json!({"uid": 9, "gid": 10, "additionalGids": [10, 11, 77]}));
    assert_eq!(process["env"], json!(["PATH=/x", "HOSTNAME=box", "TERM=xterm", "HOME=/web"]));
    assert_eq!(process["cwd"], "/b");
    assert_eq!(process["consoleSize"], json!({"height": 24, "width": 80}));
    assert_eq!(
        (&spec["domainname"], &spec["annotations"]),
        (&json!("example.org"), &json!({"k": "v"}))
    );

    #[rustfmt::skip]
    let table = [
        ("",            "",         "/berth/ID"),
        ("",            "/docker",  "/docker/ID"),
        ("my/group/",   "/docker",  "/my/group/ID"),
        ("/",           "",         "/ID"),
    ];
    for (parent, daemon, expected) in table {
        let host_config = json!({ "CgroupParent": parent });
        let built = try_built(SH, &host_config, |input| input.cgroup_parent = daemon).unwrap();
        assert_eq!(built.cgroups_path, expected);
        assert_eq!(built.spec["linux"]["cgroupsPath"], expected);
    }
    let error = try_built(SH, &json!({"Tmpfs": {"/a/": ""}}), |input| {
        input.mounts = Box::leak(Box::new([ResolvedMount::bind("/etc", "/a")]));
    });
    assert_eq!(error.unwrap_err().to_string(), "Duplicate mount point: /a");
}

#[test]
fn own_mounts_win_over_the_files_of_etc_and_shm_can_come_from_outside() {
    let places = |host_config: Value, shm: Option<&str>| -> Vec<String> {
        let mounts = [ResolvedMount::bind("/mine", "/etc/hosts")];
        let built = try_built(SH, &host_config, |input| {
            input.etc.hosts = Some("/theirs".into());
            input.etc.hostname = Some("/name".into());
            input.shm = shm.map(PathBuf::from);
            input.mounts = Box::leak(Box::new(mounts));
        });
        let spec = built.unwrap().spec;
        let list = spec["mounts"].as_array().unwrap().iter();
        list.filter(|mount| mount["type"] == "bind")
            .map(|mount| {
                format!(
                    "{}={}",
                    mount["destination"].as_str().unwrap(),
                    mount["source"].as_str().unwrap()
                )
            })
            .collect()
    };
    assert_eq!(places(json!({}), None), ["/etc/hosts=/mine", "/etc/hostname=/name"]);
    assert_eq!(
        places(json!({"IpcMode": "shareable"}), Some("/shm")),
        ["/etc/hosts=/mine", "/etc/hostname=/name", "/dev/shm=/shm"]
    );
    assert_eq!(places(json!({"IpcMode": "host"}), None).last().unwrap(), "/dev/shm=/dev/shm");
}

#[test]
fn a_user_namespace_binds_devices_and_has_no_range_for_pings() {
    let map = IdMap::from_subordinate(&[(100_000, 1000)]);
    // The closures' inputs may live as long as they like.
    let ids: &'static IdMaps = Box::leak(Box::new(IdMaps { uids: map.clone(), gids: map }));
    let host = json!({
        "Devices": [{"PathOnHost": "/dev/null", "PathInContainer": "/dev/nix", "CgroupPermissions": "rw"}],
    });
    let users = || Users { namespace: PathBuf::from("/proc/1/ns/user"), ids };
    let built = try_built(SH, &host, |input| input.users = Some(users())).unwrap();
    let namespaces = namespaces_of(&built);
    assert!(namespaces.contains(&"user=/proc/1/ns/user".to_owned()), "{namespaces:?}");
    assert_eq!(built.spec["linux"]["devices"], json!([]));
    let mounts = built.spec["mounts"].as_array().unwrap();
    let device = mounts.iter().find(|mount| mount["destination"] == "/dev/nix").unwrap();
    assert_eq!(device["source"], "/dev/null");
    let sysctls = built.spec["linux"]["sysctl"].as_object().unwrap();
    assert!(!sysctls.contains_key("net.ipv4.ping_group_range"), "{sysctls:?}");
    #[rustfmt::skip]
    let refused = [
        (r#"{"Cmd": ["sh"], "User": "1000"}"#,      json!({}), "cannot set uid to unmapped user in user namespace"),
        (r#"{"Cmd": ["sh"], "User": "999:1000"}"#,  json!({}), "cannot set gid to unmapped user in user namespace"),
        (SH,                            json!({"GroupAdd": ["1000"]}), "setgroups: invalid argument"),
    ];
    for (config, host, reason) in refused {
        let got = try_built(config, &host, |input| input.users = Some(users())).unwrap_err();
        assert_eq!(got.to_string(), format!("unable to setup user: {reason}"));
        assert!(try_built(config, &host, |_| {}).is_ok(), "{config}");
    }
}

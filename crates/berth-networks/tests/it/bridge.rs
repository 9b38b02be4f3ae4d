//! Containers on the bridge: they reach each other, and leave nothing behind.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use berth_api::container::EndpointSettings;
use berth_db::Db;
use berth_networks::{
    BridgeConfig, DnsConfig, Mode, NetworkFilter, Networks, NetworksConfig, Plug, SCHEMA, Sandbox,
};
use berth_sys::netns;
use berth_types::ContainerId;

const DEVICE: &str = "berth0";

/// Runs `work` in a fresh network namespace that plays the host, with a directory.
fn on_a_host(test: &str, work: impl FnOnce(&Path) + Send) {
    if !testkit::is_root() {
        return testkit::skip(test, "root");
    }
    let dir = tempfile::tempdir().unwrap();
    let host = dir.path().join("host-netns");
    if let Err(error) = netns::create(&host) {
        return testkit::skip(test, &format!("a network namespace ({error})"));
    }
    let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        netns::within(&host, || {
            work(dir.path());
            Ok(())
        })
    }));
    netns::remove(&host).unwrap();
    match done {
        Ok(result) => result.unwrap(),
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

fn open(dir: &Path, bridge: BridgeConfig) -> Networks {
    let db = Arc::new(Db::open(&dir.join("berth.db"), &[&SCHEMA]).unwrap());
    let config = NetworksConfig { exec_root: dir.join("exec"), bridge, dns: DnsConfig::default() };
    Networks::open(config, db).unwrap()
}

fn plug(networks: &Networks, container: &ContainerId, mode: Mode) -> Sandbox {
    networks.connect(&Plug { container, mode, mac: "", keep_ipv6: false, namespace: None }).unwrap()
}

/// The interfaces of the calling thread's namespace.
fn interfaces() -> Vec<String> {
    let text = std::fs::read_to_string("/proc/thread-self/net/dev").unwrap();
    let mut names: Vec<String> = text
        .lines()
        .skip(2)
        .filter_map(|line| line.split_once(':'))
        .map(|(name, _)| name.trim().to_owned())
        .filter(|name| name == "lo" || name.starts_with("eth") || name.starts_with("berth"))
        .collect();
    names.sort();
    names
}

/// The veth pairs of those who left go in the background.
fn assert_settles(expected: &[&str]) {
    let end = Instant::now() + Duration::from_secs(20);
    while interfaces() != expected && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(interfaces(), expected);
}

fn files(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// What arrives at a server in one namespace when a client in the other connects and writes.
fn talk(server: &Path, address: Ipv4Addr, client: &Path) -> io::Result<(String, SocketAddr)> {
    let (ready, listening) = mpsc::channel();
    std::thread::scope(|scope| {
        let heard = scope.spawn(|| {
            netns::within(server, || {
                let listener = TcpListener::bind((address, 8080))?;
                ready.send(()).unwrap();
                let (mut stream, from) = listener.accept()?;
                let mut text = String::new();
                stream.read_to_string(&mut text)?;
                Ok((text, from))
            })
        });
        listening.recv().unwrap();
        netns::within(client, || {
            let to = SocketAddr::from((address, 8080));
            TcpStream::connect_timeout(&to, Duration::from_secs(5))?.write_all(b"hello")
        })?;
        heard.join().unwrap()
    })
}

#[test]
fn root_containers_on_the_bridge_reach_each_other_and_leave_nothing() {
    on_a_host("root_containers_on_the_bridge_reach_each_other_and_leave_nothing", |dir| {
        let networks = open(dir, BridgeConfig { filter: false, ..BridgeConfig::default() });
        assert_eq!(networks.start().unwrap(), [""; 0]);
        assert_eq!(networks.start().unwrap(), [""; 0]);
        let (one, two) = (ContainerId::random(), ContainerId::random());
        let first = plug(&networks, &one, Mode::Bridge);
        let second = plug(&networks, &two, Mode::Bridge);
        let address = Ipv4Addr::new(172, 17, 0, 2);
        assert_eq!(first.endpoint.address, Some(address));
        assert_eq!(first.endpoint.mac, "02:42:ac:11:00:02");
        assert_eq!(second.endpoint.address, Some(Ipv4Addr::new(172, 17, 0, 3)));
        let (ns1, ns2) = (first.namespace.unwrap(), second.namespace.unwrap());
        assert_eq!(netns::within(&ns1, || Ok(interfaces())).unwrap(), ["eth0", "lo"]);
        let (text, from) = talk(&ns1, address, &ns2).unwrap();
        assert_eq!((text.as_str(), from.ip()), ("hello", Ipv4Addr::new(172, 17, 0, 3).into()));
        let gateway = networks.gateway().unwrap();
        let host = TcpListener::bind((gateway, 9090)).unwrap();
        netns::within(&ns2, || TcpStream::connect((gateway, 9090)).map(drop)).unwrap();
        drop(host);
        let members: Vec<ContainerId> = networks
            .endpoints(&networks.of_mode(Mode::Bridge).id)
            .into_iter()
            .map(|endpoint| endpoint.container)
            .collect();
        assert_eq!(members.len(), 2);
        networks.disconnect(&one).unwrap();
        assert_eq!(networks.disconnect(&one).unwrap(), None);
        let third = ContainerId::random();
        assert_eq!(plug(&networks, &third, Mode::Bridge).endpoint.address, Some(address));
        networks.disconnect(&two).unwrap();
        networks.disconnect(&third).unwrap();
        assert_settles(&[DEVICE, "lo"]);
        assert_eq!(files(&dir.join("exec/netns")), [""; 0]);
        assert_eq!(files(&dir.join("exec/endpoints")), [""; 0]);
    });
}

#[test]
fn root_none_has_only_loopback_and_host_has_no_namespace() {
    on_a_host("root_none_has_only_loopback_and_host_has_no_namespace", |dir| {
        let networks = open(dir, BridgeConfig { device: None, ..BridgeConfig::default() });
        let (none, host) = (ContainerId::random(), ContainerId::random());
        let sandbox = plug(&networks, &none, Mode::None);
        let path = sandbox.namespace.unwrap();
        assert_eq!(netns::within(&path, || Ok(interfaces())).unwrap(), ["lo"]);
        netns::within(&path, || {
            let listener = TcpListener::bind("127.0.0.1:0")?;
            TcpStream::connect(listener.local_addr()?).map(drop)
        })
        .unwrap();
        assert_eq!(plug(&networks, &host, Mode::Host).namespace, None);
        let bridge = ContainerId::random();
        let wanted = Plug {
            container: &bridge,
            mode: Mode::Bridge,
            mac: "",
            keep_ipv6: false,
            namespace: None,
        };
        assert_eq!(
            networks.connect(&wanted).unwrap_err().to_string(),
            "the bridge network is disabled (--bridge none)"
        );
        let settings = networks.settings(&none, Mode::None, &EndpointSettings::default());
        assert_eq!(settings.sandbox_key, path.display().to_string());
        assert_eq!((settings.ip_address.as_str(), settings.endpoint_id.as_str()), ("", ""));
        assert_eq!(settings.networks.keys().collect::<Vec<_>>(), ["none"]);
        networks.disconnect(&none).unwrap();
        networks.disconnect(&host).unwrap();
        assert_eq!(files(&dir.join("exec/netns")), [""; 0]);
    });
}

#[test]
fn root_masquerade_is_one_table_of_our_own() {
    const TEST: &str = "root_masquerade_is_one_table_of_our_own";
    if Command::new("nft").arg("--version").output().is_err() {
        return testkit::skip(TEST, "nft");
    }
    on_a_host(TEST, |dir| {
        let networks = open(dir, BridgeConfig::default());
        assert_eq!(networks.start().unwrap(), [""; 0]);
        networks.start().unwrap();
        let listed = Command::new("nft").args(["list", "ruleset"]).output().unwrap();
        assert_eq!(
            String::from_utf8_lossy(&listed.stdout),
            "table ip berth.berth0 {\n\tchain postrouting {\n\t\ttype nat hook postrouting \
             priority srcnat; policy accept;\n\t\tip saddr 172.17.0.0/16 oifname != \"berth0\" \
             masquerade\n\t}\n}\n"
        );
        let forward = std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap();
        assert_eq!(forward.trim(), "1");
    });
}

#[test]
fn root_fault_a_restart_keeps_the_living_and_clears_the_dead() {
    on_a_host("root_fault_a_restart_keeps_the_living_and_clears_the_dead", |dir| {
        let bridge = BridgeConfig { filter: false, ..BridgeConfig::default() };
        let networks = open(dir, bridge.clone());
        let (dead, alive) = (ContainerId::random(), ContainerId::random());
        plug(&networks, &dead, Mode::Bridge);
        let kept = plug(&networks, &alive, Mode::Bridge).endpoint;
        let network = networks.of_mode(Mode::Bridge).id;
        drop(networks);
        std::fs::create_dir_all(dir.join("exec/netns")).unwrap();
        netns::create(&dir.join("exec/netns/0123456789ab")).unwrap();
        let networks = open(dir, bridge);
        assert_eq!(networks.of_mode(Mode::Bridge).id, network, "ids are made once");
        let cleared = networks.recover(std::slice::from_ref(&alive)).unwrap().cleared;
        assert_eq!(cleared, [dead.to_string(), "0123456789ab".to_owned()]);
        assert_eq!(networks.recover(std::slice::from_ref(&alive)).unwrap().cleared, [""; 0]);
        assert_eq!(networks.endpoint(&alive), Some(kept.clone()));
        assert_eq!(networks.endpoint(&dead), None);
        assert_settles(&[DEVICE, &kept.interface, "lo"]);
        let third = ContainerId::random();
        let given = plug(&networks, &third, Mode::Bridge).endpoint.address;
        assert_eq!(given, Some(Ipv4Addr::new(172, 17, 0, 2)));
        networks.disconnect(&third).unwrap();
        networks.disconnect(&alive).unwrap();
        assert_settles(&[DEVICE, "lo"]);
    });
}

#[test]
fn root_fault_a_bridge_that_was_deleted_is_made_again() {
    on_a_host("root_fault_a_bridge_that_was_deleted_is_made_again", |dir| {
        let networks = open(dir, BridgeConfig { filter: false, ..BridgeConfig::default() });
        let (one, two) = (ContainerId::random(), ContainerId::random());
        plug(&networks, &one, Mode::Bridge);
        networks.disconnect(&one).unwrap();
        let deleted = Command::new("ip").args(["link", "del", DEVICE]).status();
        if deleted.is_err() {
            let test = "root_fault_a_bridge_that_was_deleted_is_made_again";
            return testkit::skip(test, "the ip command");
        }
        plug(&networks, &two, Mode::Bridge);
        networks.disconnect(&two).unwrap();
        assert_settles(&[DEVICE, "lo"]);
    });
}

#[test]
fn root_connecting_takes_milliseconds() {
    on_a_host("root_connecting_takes_milliseconds", |dir| {
        let networks = open(dir, BridgeConfig { filter: false, ..BridgeConfig::default() });
        networks.start().unwrap();
        let mut times = Vec::new();
        for _ in 0..20 {
            let container = ContainerId::random();
            let start = Instant::now();
            plug(&networks, &container, Mode::Bridge);
            let connected = start.elapsed();
            let start = Instant::now();
            networks.disconnect(&container).unwrap();
            times.push((connected, start.elapsed()));
        }
        times.sort();
        // No assertion: a loaded machine is slow. The figure is for whoever runs it.
        eprintln!("connect, disconnect (median of 20): {:?}", times[10]);
    });
}

#[test]
fn networks_are_found_as_docker_finds_them() {
    let dir = tempfile::tempdir().unwrap();
    let networks = open(dir.path(), BridgeConfig::default());
    let all = networks.list(&NetworkFilter::default());
    let names: Vec<&str> = all.iter().map(|network| network.name.as_str()).collect();
    assert_eq!(names, ["bridge", "host", "none"]);
    let host = &all[1];
    assert_eq!(&networks.find("host").unwrap(), host);
    assert_eq!(&networks.find(host.id.as_str()).unwrap(), host);
    assert_eq!(&networks.find(host.id.short()).unwrap(), host);
    assert_eq!(networks.find("mine").unwrap_err().to_string(), "network mine not found");
    assert_eq!(networks.find("").unwrap_err().to_string(), "network  not found");
}

//! Creating, finding, using and removing volumes.

use std::collections::BTreeMap;

use berth_db::DbError;
use berth_volumes::mounts::{Request, resolve};
use berth_volumes::{
    ANONYMOUS_LABEL, NewVolume, PruneFilter, Pruned, VolumeError, VolumeFilter, VolumeRef,
};

use crate::kit::{Kit, named, put};

fn text(result: Result<impl Sized, VolumeError>) -> String {
    result.err().map(|error| berth_types::kind::chain(&error)).unwrap_or_default()
}

fn refer(kit: &Kit, container: &str, binds: &[&str]) {
    let binds: Vec<String> = binds.iter().map(|&bind| bind.to_owned()).collect();
    let mounts = resolve(&Request {
        binds: &binds,
        mounts: &[],
        tmpfs: &BTreeMap::new(),
        volumes: &[],
        volumes_from: &[],
        volume_driver: "",
        data_root: kit.dir(),
    })
    .unwrap();
    kit.db.write(|tx| kit.store.add_refs(tx, container, &mounts)).unwrap();
}

#[test]
fn a_volume_survives_a_restart_with_its_labels() {
    let kit = Kit::new();
    let labels: BTreeMap<String, String> = [("a".to_owned(), "1".to_owned())].into();
    let new = NewVolume { labels: labels.clone(), ..named("data") };
    let (made, is_new) = kit.store.create(&new).unwrap();
    assert!(is_new);
    assert_eq!((made.driver.as_str(), &made.labels), ("local", &labels));
    assert_eq!(made.mountpoint, kit.root().join("data/_data"));
    let kit = kit.reopened();
    assert_eq!(kit.store.get("data").unwrap(), made);
    assert_eq!(kit.tree(), ["data", "data/_data"]);
}

#[test]
fn creating_a_volume_again_answers_the_first() {
    let kit = Kit::new();
    let (first, _) = kit.store.create(&named("data")).unwrap();
    let again = NewVolume {
        labels: [("x".to_owned(), String::new())].into(),
        driver: "local".to_owned(),
        ..named("data")
    };
    assert_eq!(kit.store.create(&again).unwrap(), (first, false));
    let other = NewVolume { driver: "plug".to_owned(), ..named("data") };
    assert_eq!(
        text(kit.store.create(&other)),
        "create data: driver 'local' already has volume 'data': volume name must be unique"
    );
    let unknown = NewVolume { driver: "plug".to_owned(), ..named("data2") };
    assert_eq!(
        text(kit.store.create(&unknown)),
        "create data2: error looking up volume plugin plug: plugin \"plug\" not found"
    );
    assert_eq!(kit.tree(), ["data", "data/_data"]);
}

#[test]
fn a_volume_without_a_name_is_anonymous() {
    let kit = Kit::new();
    let (volume, _) = kit.store.create(&NewVolume::default()).unwrap();
    assert_eq!(volume.name.len(), 64);
    assert!(volume.anonymous);
    assert_eq!(volume.labels, [(ANONYMOUS_LABEL.to_owned(), String::new())].into());
}

#[test]
fn a_directory_without_a_record_is_a_volume() {
    let kit = Kit::new();
    std::fs::create_dir_all(kit.root().join("found/_data")).unwrap();
    std::fs::create_dir_all(kit.root().join("no-volume")).unwrap();
    kit.store.create(&named("data")).unwrap();
    assert_eq!(kit.names(), ["data", "found"]);
    let found = kit.store.get("found").unwrap();
    assert_eq!((found.driver.as_str(), found.labels.len()), ("local", 0));
    assert!(!kit.store.create(&named("found")).unwrap().1);
    kit.store.remove("found").unwrap();
    assert_eq!(kit.tree(), ["data", "data/_data", "no-volume"]);
}

#[test]
fn remove_answers_as_docker_does() {
    let kit = Kit::new();
    kit.store.create(&named("data")).unwrap();
    refer(&kit, "c2", &["data:/a"]);
    refer(&kit, "c1", &["data:/a", "data:/b"]);
    assert_eq!(text(kit.store.remove("nope")), "get nope: no such volume");
    assert_eq!(text(kit.store.remove("../x")), "get ../x: no such volume");
    assert_eq!(text(kit.store.remove("data")), "remove data: volume is in use - [c1, c2]");
    let expected =
        [("c1", "/a"), ("c1", "/b"), ("c2", "/a")].map(|(container, destination)| VolumeRef {
            volume: "data".to_owned(),
            container: container.to_owned(),
            destination: destination.to_owned(),
        });
    assert_eq!(kit.store.refs().unwrap(), expected);
    let forget = |container| kit.db.write(|tx| kit.store.remove_refs(tx, container)).unwrap();
    forget("c1");
    forget("c2");
    kit.store.remove("data").unwrap();
    assert_eq!(kit.tree(), [""; 0]);
    assert_eq!(text(kit.store.get("data")), "get data: no such volume");
}

#[test]
fn a_stage_that_is_not_recorded_leaves_nothing() {
    let kit = Kit::new();
    let staged = kit.store.stage(&[named("one"), named("two"), named("one")]).unwrap();
    assert_eq!(kit.tree().len(), 4);
    drop(staged);
    assert_eq!(kit.tree(), [""; 0]);
    assert_eq!(
        text(kit.store.stage(&[named("one"), named("x")])),
        "create x: volume name is too short, names should be at least two alphanumeric characters"
    );
    assert_eq!(kit.tree(), [""; 0]);
}

#[test]
fn many_volumes_are_made_with_one_transaction() {
    let kit = Kit::new();
    let staged = kit.store.stage(&[named("one"), named("two"), named("one")]).unwrap();
    kit.db
        .write(|tx| {
            kit.store.record(tx, &staged)?;
            Ok::<_, VolumeError>(())
        })
        .unwrap();
    let made = kit.store.publish(staged).unwrap();
    let news: Vec<(&str, bool)> = made.iter().map(|(v, new)| (v.name.as_str(), *new)).collect();
    assert_eq!(news, [("one", true), ("two", true), ("one", false)]);
    assert_eq!(kit.tree(), ["one", "one/_data", "two", "two/_data"]);
}

#[test]
fn a_transaction_that_fails_makes_no_volume() {
    let kit = Kit::new();
    let staged = kit.store.stage(&[named("one")]).unwrap();
    let failed = kit.db.write(|tx| {
        kit.store.record(tx, &staged)?;
        Err::<(), _>(VolumeError::Db(DbError::Damaged { table: "test" }))
    });
    assert!(failed.is_err());
    drop(staged);
    assert_eq!(kit.names(), [""; 0]);
    assert!(kit.store.create(&named("one")).unwrap().1);
    assert_eq!(kit.tree(), ["one", "one/_data"]);
}

#[test]
fn prune_takes_what_nobody_uses() {
    let kit = Kit::new();
    let (anonymous, _) = kit.store.create(&NewVolume::default()).unwrap();
    kit.store.create(&named("data")).unwrap();
    kit.store.create(&named("used")).unwrap();
    refer(&kit, "c1", &["used:/a"]);
    put(&anonymous.mountpoint.join("f"), "12345");
    std::fs::hard_link(anonymous.mountpoint.join("f"), anonymous.mountpoint.join("g")).unwrap();
    put(&kit.root().join("data/_data/f"), "123");
    assert_eq!(kit.store.usage(&anonymous).unwrap(), Some(5));
    let pruned = kit.store.prune(&PruneFilter::default()).unwrap();
    assert_eq!(pruned, Pruned { removed: vec![anonymous.name], reclaimed: 5 });
    let all = PruneFilter::parse(&[("all".to_owned(), vec!["1".to_owned()])].into(), false);
    let pruned = kit.store.prune(&all.unwrap()).unwrap();
    assert_eq!(pruned, Pruned { removed: vec!["data".to_owned()], reclaimed: 3 });
    assert_eq!(kit.names(), ["used"]);
    let dangling = VolumeFilter::parse(&[("dangling".to_owned(), vec!["1".to_owned()])].into());
    assert_eq!(kit.store.list(&dangling.unwrap()).unwrap(), []);
}

#[test]
fn a_volume_whose_directory_is_gone_cannot_be_mounted() {
    let kit = Kit::new();
    let (volume, _) = kit.store.create(&named("data")).unwrap();
    assert_eq!(kit.store.attach("data", "c1").unwrap(), volume.mountpoint);
    std::fs::remove_dir_all(kit.root().join("data")).unwrap();
    let path = volume.mountpoint.display();
    assert_eq!(
        text(kit.store.attach("data", "c1")),
        format!(
            "error while mounting volume '{path}': stat {path}: No such file or directory (os \
             error 2)"
        )
    );
    kit.store.remove("data").unwrap();
}

#[test]
fn root_a_volume_with_options_is_mounted_while_it_is_used() {
    if !testkit::is_root() {
        return testkit::skip("root_a_volume_with_options_is_mounted_while_it_is_used", "root");
    }
    let kit = Kit::new();
    let options = [("type", "tmpfs"), ("device", "tmpfs"), ("o", "size=1m,uid=1000")];
    let options = options.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    let (volume, _) = kit.store.create(&NewVolume { options, ..named("mem") }).unwrap();
    let data = volume.mountpoint.clone();
    let is_mounted = || berth_sys::mount::is_mount_point(&data).unwrap();
    assert!(!is_mounted());
    kit.store.attach("mem", "c1").unwrap();
    kit.store.attach("mem", "c2").unwrap();
    kit.store.attach("mem", "c2").unwrap();
    put(&data.join("f"), "x");
    kit.store.detach("mem", "c1").unwrap();
    kit.store.detach("mem", "c1").unwrap();
    assert!(is_mounted());
    refer(&kit, "c2", &["mem:/a"]);
    let kit = kit.reopened();
    kit.store.recover(&["c2".to_owned()]).unwrap();
    assert!(is_mounted());
    kit.store.detach("mem", "c2").unwrap();
    assert!(!is_mounted());
    kit.store.attach("mem", "c2").unwrap();
    let kit = kit.reopened();
    kit.store.recover(&[]).unwrap();
    assert!(!is_mounted());
    assert_eq!(kit.tree(), ["mem", "mem/_data", "mem/opts.json"]);
}

#[test]
fn root_a_mount_that_fails_says_what_was_mounted() {
    if !testkit::is_root() {
        return testkit::skip("root_a_mount_that_fails_says_what_was_mounted", "root");
    }
    let kit = Kit::new();
    let options = [("type", "none"), ("device", "/no/such/berth"), ("o", "bind")];
    let options = options.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    let (volume, _) = kit.store.create(&NewVolume { options, ..named("bound") }).unwrap();
    let path = volume.mountpoint.display();
    assert_eq!(
        text(kit.store.attach("bound", "c1")),
        format!(
            "error while mounting volume '{path}': failed to mount local volume: mount \
             /no/such/berth:{path}, data: bind: no such file or directory"
        )
    );
}

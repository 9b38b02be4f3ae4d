use std::collections::BTreeMap;
use std::path::Path;

use berth_api::container::{BindOptions, TmpfsOptions, VolumeOptions};
use berth_types::Owner;

use super::*;

/// What a test gives; the rest is empty.
#[derive(Default)]
struct Given<'a> {
    binds: &'a [&'a str],
    mounts: Vec<Mount>,
    tmpfs: &'a [&'a str],
    volumes: &'a [&'a str],
    from: Vec<(&'a str, Vec<ContainerMount>)>,
    driver: &'a str,
}

fn resolved(given: Given<'_>) -> Result<Vec<ContainerMount>, String> {
    let owned = |list: &[&str]| list.iter().map(|&text| text.to_owned()).collect::<Vec<_>>();
    let tmpfs: BTreeMap<String, String> =
        given.tmpfs.iter().map(|&path| (path.to_owned(), String::new())).collect();
    let from: Vec<(VolumesFrom, Vec<ContainerMount>)> = given
        .from
        .into_iter()
        .map(|(spec, mounts)| (VolumesFrom::parse(spec).unwrap(), mounts))
        .collect();
    resolve(&Request {
        binds: &owned(given.binds),
        mounts: &given.mounts,
        tmpfs: &tmpfs,
        volumes: &owned(given.volumes),
        volumes_from: &from,
        volume_driver: given.driver,
        data_root: Path::new("/var/lib/berth-test"),
    })
    .map_err(|error| berth_types::kind::chain(&error))
}

/// Kind, volume or source, destination, mode, access, propagation, copy: enough to compare by eye.
fn shown(mount: &ContainerMount) -> String {
    let what = match mount.kind {
        MountKind::Bind => format!("bind {}", mount.source.display()),
        MountKind::Volume if mount.anonymous => {
            assert_eq!(mount.volume.len(), 64, "{}", mount.volume);
            "volume *".to_owned()
        }
        MountKind::Volume => format!("volume {}", mount.volume),
        MountKind::Tmpfs => format!("tmpfs {}", mount.tmpfs_options.join(",")),
    };
    let access = if mount.rw { "rw" } else { "ro" };
    let copy = if mount.copy { " copy" } else { "" };
    let ContainerMount { destination, mode, propagation, .. } = mount;
    format!("{what} {destination} [{mode}] {access} {propagation}{copy}")
}

fn all_shown(given: Given<'_>) -> Result<Vec<String>, String> {
    resolved(given).map(|mounts| mounts.iter().map(shown).collect())
}

#[test]
fn binds_are_read_as_docker_reads_them() {
    let spec = |spec: &str| format!("invalid volume specification: '{spec}'");
    let config = |text: &str, kind: &str, cause: &str| {
        format!("{}: invalid mount config for type \"{kind}\": {cause}", spec(text))
    };
    #[rustfmt::skip]
    let table: &[(&str, Result<&str, String>)] = &[
        ("/a",              Ok("volume * /a [] rw  copy")),
        ("/a/../b/",        Ok("volume * /b [] rw  copy")),
        ("data:/a",         Ok("volume data /a [] rw  copy")),
        ("data:/a:ro",      Ok("volume data /a [ro] ro  copy")),
        ("data:/a:nocopy",  Ok("volume data /a [nocopy] rw ")),
        ("data:/a:z,ro",    Ok("volume data /a [z,ro] ro  copy")),
        ("/s:/a",           Ok("bind /s /a [] rw rprivate")),
        ("/s/./t:/a:ro",    Ok("bind /s/t /a [ro] ro rprivate")),
        ("/s:/a:rslave",    Ok("bind /s /a [rslave] rw rslave")),
        ("/s:/a:cached",    Ok("bind /s /a [cached] rw rprivate")),
        ("rel/path:/x",     Ok("volume rel/path /x [] rw  copy")),
        ("",                Err(spec(""))),
        (":/a",             Err(spec(":/a"))),
        ("/a:ro",           Err(spec("/a:ro"))),
        ("/a:",             Err(spec("/a:"))),
        ("a:b:c:d",         Err(spec("a:b:c:d"))),
        ("/s:/a:ro,rw",     Err("invalid mode: ro,rw".to_owned())),
        ("/s:/a:foo",       Err("invalid mode: foo".to_owned())),
        ("/s:/a:default",   Err("invalid mode: default".to_owned())),
        ("x",               Err(config("x", "volume", "invalid mount path: 'x' mount path must be absolute"))),
        ("/s:a",            Err(config("/s:a", "bind", "invalid mount path: 'a' mount path must be absolute"))),
        ("data:/",          Err(config("data:/", "volume", "invalid specification: destination can't be '/'"))),
        ("/s:/a/..",        Err(config("/s:/a/..", "bind", "invalid specification: destination can't be '/'"))),
        ("data:/a:shared",  Err(config("data:/a:shared", "volume", "field BindOptions must not be specified"))),
        ("/s:/a:nocopy",    Err(config("/s:/a:nocopy", "bind", "field VolumeOptions must not be specified"))),
        ("data::ro",        Err(config("data::ro", "volume", "field Target must not be empty"))),
        ("C:\\x:/y",        Err("invalid mode: /y".to_owned())),
        ("/var/lib/berth-test/volumes:/a:private", Err(
            "invalid mount config: must use either propagation mode \"rslave\" or \"rshared\" when \
             mount source is within the daemon root, daemon root: \"/var/lib/berth-test\", bind mount \
             source: \"/var/lib/berth-test/volumes\", propagation: \"private\"".to_owned())),
    ];
    for (bind, expected) in table {
        let got = all_shown(Given { binds: &[bind], ..Given::default() });
        let expected = expected.clone().map(|text| vec![text.to_owned()]);
        assert_eq!(got, expected, "{bind:?}");
    }
}

fn mount(kind: &str, source: &str, target: &str) -> Mount {
    Mount {
        kind: kind.to_owned(),
        source: source.to_owned(),
        target: target.to_owned(),
        ..Mount::default()
    }
}

fn with_bind(options: BindOptions, read_only: bool) -> Mount {
    Mount { bind_options: Some(options), read_only, ..mount("bind", "/tmp", "/a") }
}

fn with_volume(options: VolumeOptions, source: &str) -> Mount {
    Mount { volume_options: Some(options), ..mount("volume", source, "/a") }
}

fn with_tmpfs(size_bytes: i64, mode: u32, option: Option<&str>) -> Mount {
    let options = option.map(|word| vec![vec![word.to_owned()].into()]).unwrap_or_default();
    let options = TmpfsOptions { size_bytes, mode, options: options.into() };
    Mount { tmpfs_options: Some(options), ..mount("tmpfs", "", "/a") }
}

#[test]
fn mounts_are_read_as_docker_reads_them() {
    let config =
        |kind: &str, cause: &str| Err(format!("invalid mount config for type \"{kind}\": {cause}"));
    let ok = |text: &str| Ok(text.to_owned());
    let unsupported = |what: &str| Err(format!("{what} is not supported by this version of berth"));
    let read_only = |mount: Mount| Mount { read_only: true, ..mount };
    let bind = BindOptions::default;
    let volume = VolumeOptions::default;
    #[rustfmt::skip]
    let table: Vec<(Mount, Result<String, String>)> = vec![
        (mount("volume", "data", "/a"),            ok("volume data /a [] rw  copy")),
        (read_only(mount("volume", "data", "/a")), ok("volume data /a [] ro  copy")),
        (mount("volume", "", "/a"),                ok("volume * /a [] rw  copy")),
        (with_volume(VolumeOptions { no_copy: true, ..volume() }, "d1"), ok("volume d1 /a [] rw ")),
        (mount("bind", "/tmp", "/a"),              ok("bind /tmp /a [] rw rprivate")),
        (with_bind(BindOptions { propagation: "rshared".to_owned(), ..bind() }, false), ok("bind /tmp /a [] rw rshared")),
        (mount("tmpfs", "", "/a"),                 ok("tmpfs noexec,nosuid,nodev,rprivate /a [] rw ")),
        (with_tmpfs(1 << 20, 0o770, None),         ok("tmpfs noexec,nosuid,nodev,rprivate,mode=770,size=1m /a [] rw ")),
        (with_tmpfs(0, 0, Some("exec")),           ok("tmpfs nosuid,nodev,rprivate,exec /a [] rw ")),
        (with_tmpfs(0, 0, Some("suid")),           config("tmpfs", "invalid option: suid")),
        (mount("tmpfs", "/x", "/a"),               config("tmpfs", "field Source must not be specified")),
        (mount("volume", "data", ""),              config("volume", "field Target must not be empty")),
        (mount("volume", "data", "/"),             config("volume", "invalid specification: destination can't be '/'")),
        (mount("volume", "data", "a"),             config("volume", "invalid mount path: 'a' mount path must be absolute")),
        (read_only(mount("volume", "", "/a")),     config("volume", "must not set ReadOnly mode when using anonymous volumes")),
        (with_volume(VolumeOptions { subpath: "s".to_owned(), ..volume() }, ""),     config("volume", "must not set Subpath when using anonymous volumes")),
        (with_volume(VolumeOptions { subpath: "../s".to_owned(), ..volume() }, "d1"), config("volume", "subpath must be a relative path within the volume")),
        (with_volume(VolumeOptions { subpath: "s".to_owned(), ..volume() }, "d1"),   unsupported("VolumeOptions.Subpath")),
        (Mount { bind_options: Some(bind()), ..mount("volume", "d1", "/a") },        config("volume", "field BindOptions must not be specified")),
        (Mount { volume_options: Some(volume()), ..mount("bind", "/tmp", "/a") },    config("bind", "field VolumeOptions must not be specified")),
        (mount("bind", "", "/a"),                  config("bind", "field Source must not be empty")),
        (mount("bind", "tmp", "/a"),               config("bind", "invalid mount path: 'tmp' mount path must be absolute")),
        (mount("bind", "/no/such/berth", "/a"),    config("bind", "bind source path does not exist: /no/such/berth")),
        (with_bind(BindOptions { propagation: "x".to_owned(), ..bind() }, false),             config("bind", "invalid propagation mode: x")),
        (with_bind(BindOptions { read_only_non_recursive: true, ..bind() }, false),           config("bind", "mount options conflict: !ReadOnly && BindOptions.ReadOnlyNonRecursive")),
        (mount("image", "im", "/a"),               unsupported("mount type image")),
        (mount("cluster", "c", "/a"),              unsupported("mount type cluster")),
        (mount("npipe", "x", "/a"),                config("npipe", "mount type unknown")),
        (mount("", "x", "/a"),                     config("", "mount type unknown")),
    ];
    for (given, expected) in table {
        let text = format!("{given:?}");
        let got = all_shown(Given { mounts: vec![given], ..Given::default() });
        assert_eq!(got, expected.map(|text| vec![text]), "{text}");
    }
}

#[test]
fn two_mounts_at_one_place_are_refused() {
    let duplicate = |path: &str| Err(format!("Duplicate mount point: {path}"));
    let data = || vec![mount("volume", "data", "/a")];
    #[rustfmt::skip]
    let table = [
        (Given { binds: &["b1:/a", "b2:/a/"], ..Given::default() },                   duplicate("/a")),
        (Given { binds: &["b1:/a"], tmpfs: &["/a"], ..Given::default() },             duplicate("/a")),
        (Given { binds: &["b1:/a"], mounts: data(), ..Given::default() },             duplicate("/a")),
        (Given { mounts: [data(), data()].concat(), ..Given::default() },             duplicate("/a")),
        (Given { mounts: data(), tmpfs: &["/a"], ..Given::default() },                Ok(vec!["volume data /a [] rw  copy".to_owned()])),
    ];
    for (given, expected) in table {
        assert_eq!(all_shown(given), expected);
    }
}

#[test]
fn own_mounts_win_over_inherited_ones_and_those_over_the_images() {
    let inherited = resolved(Given {
        binds: &["theirs:/a", "theirs2:/b:ro", "/host:/c", "theirs3:/d"],
        ..Given::default()
    })
    .unwrap();
    let later = resolved(Given { binds: &["later:/d"], ..Given::default() }).unwrap();
    let got = all_shown(Given {
        binds: &["own:/a", "own2:/x/y"],
        volumes: &["/b", "/d", "/e", "rel", "/t"],
        tmpfs: &["/t"],
        from: vec![("c1:ro", inherited), ("c2", later)],
        ..Given::default()
    });
    let expected = [
        "volume own /a [] rw  copy",
        "volume theirs2 /b [] ro ",
        "bind /host /c [] ro rprivate",
        "volume later /d [] rw ",
        "volume * /e [] rw  copy",
        "volume * /rel [] rw  copy",
        "volume own2 /x/y [] rw  copy",
    ];
    assert_eq!(got.unwrap(), expected);
}

#[test]
fn the_volume_driver_is_for_binds_and_image_volumes() {
    let got = resolved(Given {
        binds: &["data:/a", "/host:/b"],
        mounts: vec![mount("volume", "m1", "/c")],
        volumes: &["/d"],
        driver: "plug",
        ..Given::default()
    });
    let drivers: Vec<String> = got.unwrap().into_iter().map(|mount| mount.driver).collect();
    assert_eq!(drivers, ["plug", "", "", "plug"]);
}

#[test]
fn volumes_from_specs() {
    let read = |container: &str, mode: &str, rw| {
        Ok(VolumesFrom { container: container.to_owned(), mode: mode.to_owned(), rw })
    };
    let bad = |mode: &str| Err(format!("invalid mode: {mode}"));
    #[rustfmt::skip]
    let table = [
        ("c1",        read("c1", "rw", true)),
        ("c1:ro",     read("c1", "ro", false)),
        ("c1:z",      read("c1", "z", true)),
        ("c1:nocopy", bad("nocopy")),
        ("c1:rslave", bad("rslave")),
        ("c1:x",      bad("x")),
        ("",          Err("volumes-from specification cannot be an empty string".to_owned())),
    ];
    for (spec, expected) in table {
        assert_eq!(VolumesFrom::parse(spec).map_err(|e| e.to_string()), expected, "{spec:?}");
    }
}

#[test]
fn a_local_volume_without_a_mode_shows_z_unless_it_is_the_images() {
    let volume = Volume {
        name: "data".to_owned(),
        driver: "local".to_owned(),
        labels: BTreeMap::new(),
        options: BTreeMap::new(),
        created: berth_types::Timestamp::zero(),
        anonymous: false,
        mountpoint: PathBuf::from("/v/data/_data"),
    };
    let mut mounts =
        resolved(Given { binds: &["data:/a", "data:/b:ro"], volumes: &["/c"], ..Given::default() })
            .unwrap();
    for mount in &mut mounts {
        mount.set_volume(&volume);
    }
    let points: Vec<MountPoint> = mounts.iter().map(ContainerMount::point).collect();
    let modes: Vec<&str> = points.iter().map(|point| point.mode.as_str()).collect();
    assert_eq!(modes, ["z", "ro", ""]);
    let expected = MountPoint {
        kind: "volume".to_owned(),
        name: "data".to_owned(),
        source: "/v/data/_data".to_owned(),
        destination: "/a".to_owned(),
        driver: "local".to_owned(),
        mode: "z".to_owned(),
        rw: true,
        propagation: String::new(),
    };
    assert_eq!(points[0], expected);
}

#[test]
fn a_missing_bind_source_is_made_only_for_v() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("a/b");
    let bind = format!("{}:/x", source.display());
    let mounts = resolved(Given { binds: &[&bind], ..Given::default() }).unwrap();
    mounts[0].ensure_source(Owner::ROOT).unwrap();
    assert!(source.is_dir());
    let strict =
        ContainerMount { create_source: false, source: dir.path().join("c"), ..mounts[0].clone() };
    assert_eq!(
        strict.ensure_source(Owner::ROOT).unwrap_err().to_string(),
        format!(
            "invalid mount config for type \"bind\": bind source path does not exist: {}",
            dir.path().join("c").display()
        )
    );
}

//! Whose data root it is: what is refused, what is taken over, and what is set aside.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::kit::{Dirs, picture, put};

const HEX: &str = "5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef";

#[test]
fn root_a_foreign_data_root_is_refused_and_not_a_byte_changes() {
    let Some(dirs) = Dirs::new("root_a_foreign_data_root_is_refused_and_not_a_byte_changes") else {
        return;
    };
    let root = dirs.data_root();
    // As dockerd leaves it, in berth's own places too.
    put(&root.join("engine-id"), b"5b0d");
    put(&root.join("image/overlay2/repositories.json"), b"{\"Repositories\":{}}");
    put(&root.join(format!("overlay2/{HEX}/diff/etc/passwd")), b"root");
    put(&root.join(format!("overlay2/{HEX}/link")), b"ABCDEFGHIJKLMNOPQRSTUVWXYZ");
    put(&root.join(format!("containers/{HEX}/config.v2.json")), b"{}");
    put(&root.join("volumes/data/_data/file"), b"precious");
    put(&root.join("volumes/metadata.db"), b"bolt");
    put(&root.join("network/files/local-kv.db"), b"bolt");
    for empty in ["tmp", "buildkit", "plugins", "runtimes", "swarm", "trust"] {
        fs::create_dir_all(root.join(empty)).unwrap();
    }
    check_refused(&dirs, "is not empty and was not made by berth");
}

#[test]
fn root_any_stranger_in_the_data_root_is_refused_and_not_a_byte_changes() {
    let Some(dirs) =
        Dirs::new("root_any_stranger_in_the_data_root_is_refused_and_not_a_byte_changes")
    else {
        return;
    };
    #[rustfmt::skip]
    let table: &[(&str, &[u8])] = &[
        ("readme",                  b"mine"),
        (".hidden",                 b"mine"),
        // Names of berth's, but with something in them, or without berth's lock.
        ("volumes/data/_data/file", b"precious"),
        ("containers/x/y",          b"precious"),
        ("berth.db",                b"no lock beside it"),
        ("version",                 b"{\"engine\":\"other\",\"format\":1}"),
    ];
    for (name, content) in table {
        let root = dirs.data_root();
        put(&root.join(name), content);
        check_refused(&dirs, "is not empty and was not made by berth");
        fs::remove_dir_all(root).unwrap();
    }
}

#[test]
fn root_a_real_dockerds_data_root_is_refused_and_not_a_byte_changes() {
    let test = "root_a_real_dockerds_data_root_is_refused_and_not_a_byte_changes";
    let Some(dirs) = Dirs::new(test) else { return };
    let needs = ["dockerd", "unshare"];
    if let Some(missing) = needs.into_iter().find(|program| !is_on_path(program)) {
        return testkit::skip(test, missing);
    }
    if let Err(why) = run_dockerd_once(&dirs.data_root()) {
        return testkit::skip(test, &format!("a dockerd that starts here ({why})"));
    }
    check_refused(&dirs, "is not empty and was not made by berth");
}

#[test]
fn root_a_data_root_without_its_database_is_refused_and_not_a_byte_changes() {
    let Some(dirs) =
        Dirs::new("root_a_data_root_without_its_database_is_refused_and_not_a_byte_changes")
    else {
        return;
    };
    dirs.open().unwrap().import(b"precious");
    let root = dirs.data_root();
    for name in ["berth.db", "berth.db-wal", "berth.db-shm"] {
        match fs::remove_file(root.join(name)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => panic!("{error}"),
            _ => {}
        }
    }
    check_refused(&dirs, "berth.db is missing");
}

#[test]
fn root_a_data_root_of_a_newer_version_is_refused_and_not_a_byte_changes() {
    let Some(dirs) =
        Dirs::new("root_a_data_root_of_a_newer_version_is_refused_and_not_a_byte_changes")
    else {
        return;
    };
    drop(dirs.open().unwrap());
    put(&dirs.data_root().join("version"), b"{\"engine\":\"berth\",\"format\":3}\n");
    check_refused(&dirs, "has format 3");
    put(&dirs.data_root().join("version"), b"{\"engine\":");
    check_refused(&dirs, "cannot be understood");
}

#[test]
fn root_a_second_engine_on_the_same_root_is_refused() {
    let Some(dirs) = Dirs::new("root_a_second_engine_on_the_same_root_is_refused") else { return };
    let first = dirs.open().unwrap();
    let images = first.import(b"first");
    let refusal = dirs.refusal();
    let expected = format!("another daemon uses the data root {}", dirs.data_root().display());
    assert!(refusal.starts_with(&expected), "{refusal}");
    assert_eq!(first.images(), images);
    drop(first);
    assert_eq!(dirs.open().unwrap().images(), images);
}

#[test]
fn root_what_an_interrupted_first_start_leaves_is_taken_over() {
    let Some(dirs) = Dirs::new("root_what_an_interrupted_first_start_leaves_is_taken_over") else {
        return;
    };
    let root = dirs.data_root();
    #[rustfmt::skip]
    let table: &[(&[&str], &[&str])] = &[
        // files                                       directories
        (&[],                                          &[]),
        (&[],                                          &["lost+found"]),
        (&["lock"],                                    &[]),
        (&["lock"],                                    &["tmp", "containers"]),
        (&["lock", "berth.db"],                        &["tmp", "containers", "layers", "volumes", "lost+found"]),
        (&["lock", "berth.db", "berth.db-journal"],    &["tmp", "containers", "layers", "volumes", "lost+found"]),
        (&["lock", ".berth-tmp-7-0"],                  &["tmp", "containers", "layers", "volumes", "lost+found"]),
    ];
    for (files, directories) in table {
        fs::create_dir_all(&root).unwrap();
        for directory in *directories {
            fs::create_dir(root.join(directory)).unwrap();
        }
        for file in *files {
            put(&root.join(file), b"");
        }
        let images = dirs.open().unwrap_or_else(|error| panic!("{files:?}: {error}")).import(b"x");
        assert_eq!(images.len(), 1, "{files:?}");
        assert_eq!(names(&root, ".berth-tmp-"), Vec::<String>::new(), "{files:?}");
        fs::remove_dir_all(&root).unwrap();
    }
}

#[test]
fn root_what_no_record_knows_is_moved_to_lost_and_found_and_never_deleted() {
    let Some(dirs) =
        Dirs::new("root_what_no_record_knows_is_moved_to_lost_and_found_and_never_deleted")
    else {
        return;
    };
    let images = dirs.open().unwrap().import(b"known");
    let root = dirs.data_root();
    let layer = if root.join("overlay2").is_dir() { "overlay2" } else { "vfs/dir" };
    put(&root.join(format!("{layer}/{HEX}/diff/file")), b"precious layer");
    put(&root.join(format!("layers/{HEX}/tar-split.json.gz")), b"precious records");
    put(&root.join(format!("containers/{HEX}/{HEX}-json.log")), b"precious log");
    // Read twice, the second time there is nothing to do.
    for _ in 0..2 {
        assert_eq!(dirs.open().unwrap().images(), images);
        let aside = root.join("lost+found");
        let found: Vec<Vec<u8>> =
            picture(&aside).into_values().map(|entry| entry.content().to_vec()).collect();
        for content in ["precious layer", "precious records", "precious log"] {
            assert!(found.iter().any(|found| found == content.as_bytes()), "{content}");
        }
        assert_eq!(fs::read_dir(&aside).unwrap().count(), 3);
        assert_eq!(names(&root.join("containers"), HEX), Vec::<String>::new());
    }
}

#[test]
fn root_opening_again_changes_nothing_of_what_was_acknowledged() {
    let Some(dirs) = Dirs::new("root_opening_again_changes_nothing_of_what_was_acknowledged")
    else {
        return;
    };
    let images = dirs.open().unwrap().import(b"kept");
    let root = dirs.data_root();
    for part in ["overlay2", "vfs", "layers", "volumes", "lost+found", "engine-id", "version"] {
        let part = root.join(part);
        if !part.try_exists().unwrap() {
            continue;
        }
        let mut before = picture(&part);
        assert_eq!(dirs.open().unwrap().images(), images);
        let mut after = picture(&part);
        if part.is_dir() {
            // The driver tries out in its home what the kernel can do, which changes the home's time.
            assert!(before.remove(&part).is_some() && after.remove(&part).is_some());
        }
        assert_eq!(after, before, "{}", part.display());
    }
}

fn check_refused(dirs: &Dirs, why: &str) {
    let before = picture(&dirs.data_root());
    let refusal = dirs.refusal();
    assert!(refusal.contains(why), "{refusal}");
    assert!(refusal.contains(&dirs.data_root().display().to_string()), "{refusal}");
    let after = picture(&dirs.data_root());
    let changed: Vec<_> = before
        .iter()
        .filter(|(path, entry)| after.get(*path) != Some(entry))
        .map(|(path, _)| path)
        .chain(after.keys().filter(|path| !before.contains_key(*path)))
        .collect();
    assert!(changed.is_empty(), "{changed:?} changed");
}

/// The names in a directory that begin so.
fn names(dir: &Path, prefix: &str) -> Vec<String> {
    let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name());
    let names = names.map(|name| name.to_string_lossy().into_owned());
    names.filter(|name| name.starts_with(prefix)).collect()
}

fn is_on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

/// Lets a dockerd fill the data root, in a network of its own, and ends it.
fn run_dockerd_once(data_root: &Path) -> Result<(), String> {
    let run = tempfile::tempdir().unwrap();
    let socket = run.path().join("sock");
    let log = fs::File::create(run.path().join("log")).unwrap();
    let mut command = Command::new("unshare");
    command.args(["--net", "dockerd", "--bridge=none", "--iptables=false", "--data-root"]);
    command.arg(data_root).arg("--exec-root").arg(run.path().join("exec"));
    command.arg("--pidfile").arg(run.path().join("pid"));
    command.arg("--config-file").arg(run.path().join("none.json"));
    command.arg(format!("--host=unix://{}", socket.display()));
    put(&run.path().join("none.json"), b"{}");
    command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    let mut child = command.spawn().unwrap();
    let begun = Instant::now();
    let mut serves = false;
    while begun.elapsed() < Duration::from_secs(30) && child.try_wait().unwrap().is_none() {
        if answers(&socket) {
            serves = true;
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let pid = rustix::process::Pid::from_child(&child);
    match rustix::process::kill_process(pid, rustix::process::Signal::TERM) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => {}
        Err(error) => panic!("{error}"),
    }
    child.wait().unwrap();
    let log = fs::read_to_string(run.path().join("log")).unwrap_or_default();
    let last = log.lines().last().unwrap_or_default().to_owned();
    if serves { Ok(()) } else { Err(last) }
}

fn answers(socket: &Path) -> bool {
    use std::io::{Read as _, Write as _};
    let ask = || -> std::io::Result<bool> {
        let mut stream = std::os::unix::net::UnixStream::connect(socket)?;
        stream.write_all(b"GET /_ping HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n\r\n")?;
        let mut head = [0; 12];
        stream.read_exact(&mut head)?;
        Ok(&head == b"HTTP/1.1 200")
    };
    ask().unwrap_or(false)
}

/// Mode, user and group of a directory.
fn owner(path: &Path) -> (u32, u32, u32) {
    use std::os::unix::fs::MetadataExt as _;
    let meta = fs::metadata(path).unwrap();
    (meta.mode() & 0o7777, meta.uid(), meta.gid())
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
}

#[test]
fn root_remapped_users_have_a_data_root_of_their_own() {
    let test = "root_remapped_users_have_a_data_root_of_their_own";
    let Some(dirs) = Dirs::new(test) else { return };
    // The mapped root must be able to pass.
    set_mode(dirs.data_root().parent().unwrap(), 0o711);
    let first = dirs.open_remapped(100_000).unwrap();
    let images = first.import(b"remapped");
    drop(first);
    let own = dirs.remapped_root(100_000);
    for path in [dirs.data_root(), own.clone(), own.join("containers")] {
        assert_eq!(owner(&path), (0o710, 0, 100_000), "{}", path.display());
    }
    assert_eq!(
        fs::read_to_string(own.join("version")).unwrap(),
        "{\"engine\":\"berth\",\"format\":2,\"ids\":\"shifted\"}\n"
    );
    // Another range, and none, are beside it and see nothing of it.
    assert!(dirs.open_remapped(300_000).unwrap().images().is_empty());
    let plain = dirs.open().unwrap();
    assert!(plain.images().is_empty());
    plain.import(b"plain");
    drop(plain);
    assert_eq!(dirs.open_remapped(100_000).unwrap().images(), images);

    let mut config = dirs.config();
    config.data_root.clone_from(&own);
    let refusal = |config| match Dirs::open_config(config) {
        Ok(_) => panic!("not refused"),
        Err(error) => berth_types::kind::chain(&error),
    };
    assert_eq!(
        refusal(config),
        format!(
            "the layers in {} are for remapped ids: start with --userns-remap (nothing in it was \
             changed)",
            own.display()
        )
    );
}

#[test]
fn root_remapped_users_stay_out_of_foreign_and_closed_directories() {
    let test = "root_remapped_users_stay_out_of_foreign_and_closed_directories";
    let Some(dirs) = Dirs::new(test) else { return };
    let refusal = || match dirs.open_remapped(100_000) {
        Ok(_) => panic!("not refused"),
        Err(error) => berth_types::kind::chain(&error),
    };
    let closed = dirs.data_root().parent().unwrap().to_owned();
    set_mode(&closed, 0o700);
    assert_eq!(
        refusal(),
        format!(
            "a subdirectory in your graphroot path ({}) restricts access to the remapped root \
             uid/gid; please fix by allowing 'o+x' permissions on existing directories",
            closed.display()
        )
    );
    assert!(!dirs.data_root().try_exists().unwrap());
    set_mode(&closed, 0o711);
    put(&dirs.data_root().join("image/overlay2/repositories.json"), b"{}");
    let before = picture(&dirs.data_root());
    assert!(refusal().contains("was not made by berth"), "{}", refusal());
    assert_eq!(picture(&dirs.data_root()), before);
}

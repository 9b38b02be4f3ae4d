//! Archives that a real dockerd and skopeo made.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use berth_types::Digest;
use serde_json::Value;

use crate::archives::unpack;
use crate::fixture::{Root, on_each_driver};

const BUSYBOX: &str = "/bin/busybox";

/// A dockerd of its own, ended and removed with the test.
struct Dockerd {
    dir: tempfile::TempDir,
    child: Child,
}

impl Dockerd {
    fn start() -> Option<Self> {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let at = |name: &str| dir.path().join(name);
        let log = fs::File::create(at("log")).unwrap();
        let child = Command::new("dockerd")
            .arg("--data-root")
            .arg(at("data"))
            .arg("--exec-root")
            .arg(at("exec"))
            .arg("--pidfile")
            .arg(at("pid"))
            .arg("--host")
            .arg(format!("unix://{}", at("sock").display()))
            .args(["--bridge", "none", "--iptables=false", "--storage-driver", "vfs"])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .ok()?;
        let dockerd = Self { dir, child };
        let deadline = Instant::now() + Duration::from_mins(1);
        while Instant::now() < deadline {
            if dockerd.docker(&["version"]).status.success() {
                return Some(dockerd);
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        None
    }

    fn docker(&self, args: &[&str]) -> Output {
        let host = format!("unix://{}", self.dir.path().join("sock").display());
        Command::new("docker").args(["--host", &host]).args(args).output().unwrap()
    }

    fn must(&self, args: &[&str]) -> String {
        let output = self.docker(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        let pid = self.child.id().to_string();
        let ended = Command::new("kill").arg(&pid).status().and_then(|_| self.child.wait());
        assert!(ended.is_ok(), "dockerd {pid} did not end");
    }
}

fn has(program: &str) -> bool {
    let which = Command::new("sh").arg("-c").arg(format!("command -v {program}")).output();
    which.is_ok_and(|output| output.status.success())
}

/// A small root file system with links, modes and names that need long headers.
fn root_tar(dir: &Path) -> PathBuf {
    let tree = dir.join("tree");
    fs::create_dir_all(tree.join("bin")).unwrap();
    fs::copy(BUSYBOX, tree.join("bin/busybox")).unwrap();
    std::os::unix::fs::symlink("busybox", tree.join("bin/sh")).unwrap();
    fs::hard_link(tree.join("bin/busybox"), tree.join("bin/ls")).unwrap();
    let long = tree.join("d".repeat(90)).join("f".repeat(120));
    fs::create_dir_all(long.parent().unwrap()).unwrap();
    fs::File::create(long).unwrap();
    let tar = dir.join("root.tar");
    let made = Command::new("tar").arg("-C").arg(&tree).arg("-cf").arg(&tar).arg(".").status();
    assert!(made.unwrap().success());
    tar
}

fn save(root: &Root, name: &str) -> Vec<u8> {
    let mut archive = Vec::new();
    root.images.save(&[name.to_owned()]).unwrap().write_to(&mut archive).unwrap();
    archive
}

/// The layers of a docker-archive, base first, and its configuration.
fn contents(archive: &[u8]) -> (Vec<Vec<u8>>, Vec<u8>) {
    let files: BTreeMap<String, Vec<u8>> = unpack(archive);
    let manifest: Value = serde_json::from_slice(&files["manifest.json"]).unwrap();
    let file = |name: &Value| files[name.as_str().unwrap()].clone();
    let layers = manifest[0]["Layers"].as_array().unwrap().iter().map(file).collect();
    (layers, file(&manifest[0]["Config"]))
}

#[test]
fn root_archives_of_dockerd_and_skopeo_go_in_and_out_bit_for_bit() {
    const TEST: &str = "root_archives_of_dockerd_and_skopeo_go_in_and_out_bit_for_bit";
    for (program, need) in [("dockerd", "dockerd"), ("docker", "docker CLI"), ("skopeo", "skopeo")]
    {
        if !testkit::is_root() || !has(program) || !Path::new(BUSYBOX).is_file() {
            testkit::skip(TEST, &format!("root, {need} and a static {BUSYBOX}"));
            return;
        }
    }
    let Some(dockerd) = Dockerd::start() else {
        testkit::skip(TEST, "a dockerd that starts");
        return;
    };
    let dir = dockerd.dir.path();
    let tar = root_tar(dir);
    dockerd.must(&["import", "--change", "CMD [\"sh\"]", tar.to_str().unwrap(), "base:1"]);
    let container = dockerd.must(&["create", "base:1"]);
    dockerd.must(&["cp", tar.to_str().unwrap(), &format!("{container}:/copied")]);
    dockerd.must(&["commit", "--change", "LABEL a=b", &container, "app:1"]);
    dockerd.must(&["tag", "app:1", "app:2"]);
    let saved = dir.join("app.tar");
    dockerd.must(&["save", "--output", saved.to_str().unwrap(), "app"]);
    let inspected: Value =
        serde_json::from_str(&dockerd.must(&["image", "inspect", "app:1"])).unwrap();
    let id = inspected[0]["Id"].as_str().unwrap();
    let archive = fs::read(&saved).unwrap();
    let (layers, config) = contents(&archive);
    assert_eq!(layers.len(), 2);

    let oci = dir.join("oci.tar");
    let copied = Command::new("skopeo")
        .args(["--insecure-policy", "copy", "--quiet"])
        .arg(format!("docker-archive:{}:app:1", saved.display()))
        .arg(format!("oci-archive:{}:app:3", oci.display()))
        .status();
    assert!(copied.unwrap().success());
    let oci = fs::read(oci).unwrap();
    let skopeo = dir.join("skopeo.tar");

    on_each_driver(TEST, |root| {
        let loaded = root.load(&archive).unwrap();
        assert_eq!(loaded.lines(), ["Loaded image: app:1\n", "Loaded image: app:2\n"]);
        assert_eq!(loaded.images[0].id.as_str(), id);
        let out = save(root, "app:1");
        assert!(contents(&out) == (layers.clone(), config.clone()));

        // skopeo reads what goes out, as either format, and gives the same configuration.
        fs::remove_file(&skopeo).or_else(|_missing| fs::metadata(dir).map(|_| ())).unwrap();
        let mut file = fs::File::create(&skopeo).unwrap();
        std::io::Write::write_all(&mut file, &out).unwrap();
        for format in ["docker-archive", "oci-archive"] {
            let config_of = Command::new("skopeo")
                .args(["--insecure-policy", "inspect", "--config", "--raw"])
                .arg(format!("{format}:{}", skopeo.display()))
                .output()
                .unwrap();
            let text = String::from_utf8_lossy(&config_of.stderr).into_owned();
            assert_eq!(Digest::of(&config_of.stdout).as_str(), id, "{format}: {text}");
        }
        dockerd.must(&["rmi", "app:2"]);
        let answer = dockerd.must(&["load", "--input", skopeo.to_str().unwrap()]);
        assert_eq!(answer, "Loaded image: app:1");
        dockerd.must(&["tag", "app:1", "app:2"]);

        for name in ["app:1", "app:2"] {
            root.remove(name, false).unwrap();
        }
        assert_eq!(root.layers.list().unwrap(), []);
        let loaded = root.load(&oci).unwrap();
        assert_eq!(loaded.lines(), ["Loaded image: app:3\n"]);
        let config = &root.images.get(&loaded.images[0].id).unwrap().unwrap().config;
        assert_eq!(config.diff_ids().len(), 2);
        let (again, _) = contents(&save(root, "app:3"));
        assert!(again == layers);
    });
}

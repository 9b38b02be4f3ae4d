//! "Configure loop-lvm mode", "Resize a loop-lvm thin pool", "Image and container layers on-disk".

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use super::Step;
use super::host::{self, DATA_ROOT, Host, info, sh, write};
use super::transcript::{Difference, LEVEL, LIBRARY, ORDER, VERSION, compare, differs};
use crate::kill::fixture;

pub(super) const STEPS: &[Step] = &[
    ("loop-lvm: it does not start with a daemon.json that is no JSON", bad_json),
    ("loop-lvm: docker info of a new pool is the guide's", configure),
    ("loop-lvm: the files of docker info are found by the guide's grep", loop_files),
    ("loop-lvm: a running container is mounted where the guide says", mounts),
    ("loop-lvm: metadata/ and mnt/ hold what the guide says", on_disk),
    ("loop-lvm: resized with the system's programs", resize_by_hand),
    ("loop-lvm: resized with the device tool", resize),
    ("loop-lvm: an image of a container, just before the power is cut", settle),
];

pub(super) const AFTER_POWER_CUT: &[Step] = &[
    ("loop-lvm: after a power cut the engine finds its pool, and everything in it", found_again),
    ("loop-lvm: a stopped engine leaves no device", stopped),
];

/// Between number and unit there is no space any more, in Docker's later versions: see [`compare`].
const INFO: &str = "\
Containers: 0
  Running: 0
  Paused: 0
  Stopped: 0
Images: 0
Server Version: 17.03.1-ce
Storage Driver: devicemapper
Pool Name: docker-202:1-8413957-pool
Pool Blocksize: 65.54 kB
Base Device Size: 10.74 GB
Backing Filesystem: xfs
Data file: /dev/loop0
Metadata file: /dev/loop1
Data Space Used: 11.8 MB
Data Space Total: 107.4 GB
Data Space Available: 7.44 GB
Metadata Space Used: 581.6 kB
Metadata Space Total: 2.147 GB
Metadata Space Available: 2.147 GB
Thin Pool Minimum Free Space: 10.74 GB
Udev Sync Supported: true
Deferred Removal Enabled: false
Deferred Deletion Enabled: false
Deferred Deleted Device Count: 0
Data loop file: /var/lib/docker/devicemapper/data
Metadata loop file: /var/lib/docker/devicemapper/metadata
Library Version: 1.02.135-RHEL7 (2016-11-16)
";

const MACHINE: &str = "the machine's own figure";
const OWN_DIR: &str = "the guide leaves a directory out: the driver's home has one of its own name";

const INFO_DIFFERS: &[Difference] = &[
    VERSION,
    differs(
        "Pool Name: docker-202:1-8413957-pool",
        "Pool Name: docker-{}:{}-{}-pool",
        "the data root's device and inode",
    ),
    differs("Data file: /dev/loop0", "", ORDER),
    differs("", "Data file: /dev/loop{}", ORDER),
    differs("Metadata file: /dev/loop1", "", ORDER),
    differs("", "Metadata file: /dev/loop{}", ORDER),
    differs("Data Space Used: 11.8 MB", "Data Space Used: {}MB", "what mkfs writes"),
    differs("Data Space Available: 7.44 GB", "Data Space Available: {}GB", MACHINE),
    differs(
        "Metadata Space Used: 581.6 kB",
        "Metadata Space Used: {}MB",
        "today's kernel reserves bitmaps for all of it",
    ),
    differs(
        "Metadata Space Available: 2.147 GB",
        "Metadata Space Available: {}GB",
        "no more than the disk below has",
    ),
    differs("Udev Sync Supported: true", "", ORDER),
    differs("", "Udev Sync Supported: true", ORDER),
    differs(
        "Deferred Removal Enabled: false",
        "Deferred Removal Enabled: true",
        "18.09 switches it on where the kernel can",
    ),
    differs(
        "Deferred Deletion Enabled: false",
        "Deferred Deletion Enabled: true",
        "18.09 switches it on where the kernel can",
    ),
    differs("Data loop file: /var/lib/docker/devicemapper/data", "", ORDER),
    differs("", "Data loop file: /var/lib/docker/devicemapper/devicemapper/data", OWN_DIR),
    differs("Metadata loop file: /var/lib/docker/devicemapper/metadata", "", ORDER),
    differs("", "Metadata loop file: /var/lib/docker/devicemapper/devicemapper/metadata", OWN_DIR),
    LIBRARY,
    LEVEL,
];

const DAEMON: &str = "{\n  \"storage-driver\": \"devicemapper\"\n}\n";
const HOME: &str = "/var/lib/docker/devicemapper";
/// Where the loop files are; the guide's listings call it [`HOME`].
const FILES: &str = "/var/lib/docker/devicemapper/devicemapper";

fn bad_json(host: &mut Host) -> Result<()> {
    sh(&format!("rm -rf {DATA_ROOT}"))?;
    host::configure("{ \"storage-driver\": \"devicemapper\"")?;
    let said = host.start_refused()?;
    let words = "unable to configure the Docker daemon with file /etc/docker/daemon.json";
    ensure!(said.contains(words), "{said}");
    Ok(())
}

fn configure(host: &mut Host) -> Result<()> {
    host::configure(DAEMON)?;
    host.start()?;
    compare(INFO, INFO_DIFFERS, &info()?)
}

fn loop_files(_: &mut Host) -> Result<()> {
    let guide = "Data loop file: /var/lib/docker/devicemapper/data\n\
                 Metadata loop file: /var/lib/docker/devicemapper/metadata\n";
    let differences = [
        differs(
            "Data loop file: /var/lib/docker/devicemapper/data",
            "Data loop file: /var/lib/docker/devicemapper/devicemapper/data",
            OWN_DIR,
        ),
        differs(
            "Metadata loop file: /var/lib/docker/devicemapper/metadata",
            "Metadata loop file: /var/lib/docker/devicemapper/devicemapper/metadata",
            OWN_DIR,
        ),
    ];
    compare(guide, &differences, &sh("docker info |grep 'loop file'")?)
}

fn mounts(_: &mut Host) -> Result<()> {
    write("/var/lib/busybox.tar", &fixture::busybox_layer()?)?;
    sh("docker import /var/lib/busybox.tar busybox")?;
    sh("docker run -d --network none --name kept busybox \
         sh -c 'echo kept >/file; sync; exec sleep 1000'")?;
    let guide = "/dev/xvda1 on /var/lib/docker/devicemapper type xfs \
                 (rw,relatime,seclabel,attr2,inode64,noquota)";
    let differences = [differs(
        guide,
        "/dev/mapper/docker-{}-{} on /var/lib/docker/devicemapper/mnt/{} type xfs ({})",
        "Docker 17.03 mounts its home on itself to make it private; what runs is what can be seen \
         here",
    )];
    compare(guide, &differences, &sh("mount |grep devicemapper")?)
}

fn on_disk(_: &mut Host) -> Result<()> {
    let names = |dir: &str| -> Result<BTreeSet<String>> {
        Ok(sh(&format!("ls {HOME}/{dir}"))?.lines().map(str::to_owned).collect())
    };
    let records = names("metadata")?;
    for name in &records {
        let text = sh(&format!("cat {HOME}/metadata/{name}"))?;
        serde_json::from_str::<Value>(&text).with_context(|| format!("{name}: {text}"))?;
    }
    // The base device, the set of devices, and the change under way are no layers.
    let of_pool = ["base", "deviceset-metadata", "transaction-metadata"].map(str::to_owned);
    let layers: BTreeSet<_> = records.difference(&BTreeSet::from(of_pool)).cloned().collect();
    ensure!(layers.len() == 4, "image, its template, container and its first layer: {layers:?}");
    let points = names("mnt")?;
    ensure!(points == layers, "{points:?} for {layers:?}");
    let shown = not_empty()?;
    let [shown] = &shown[..] else { bail!("one container runs, and shows its files: {shown:?}") };
    let files = sh(&format!("ls {HOME}/mnt/{shown}"))?;
    ensure!(files.lines().any(|name| name == "file"), "{files}");
    Ok(())
}

/// The mount points in which there is something.
fn not_empty() -> Result<Vec<String>> {
    let found = sh(&format!("cd {HOME}/mnt && find . -mindepth 2 -maxdepth 2"))?;
    let points = found.lines().filter_map(|path| path.split('/').nth(1)).map(str::to_owned);
    Ok(points.collect::<BTreeSet<_>>().into_iter().collect())
}

fn resize_by_hand(_: &mut Host) -> Result<()> {
    let list = format!("ls -lh {FILES}/");
    let when = "the day of the listing";
    let guide = "total 1175492\n\
                 -rw----- 1 root root 100G Mar 30 05:22 data\n\
                 -rw----- 1 root root 2.0G Mar 31 11:17 metadata\n";
    let differences = [
        differs("total 1175492", "total {}", MACHINE),
        differs(
            "-rw----- 1 root root 100G Mar 30 05:22 data",
            "-rw------- 1 root root 100G {} {} {} data",
            when,
        ),
        differs(
            "-rw----- 1 root root 2.0G Mar 31 11:17 metadata",
            "-rw------- 1 root root 2.0G {} {} {} metadata",
            when,
        ),
    ];
    compare(guide, &differences, &sh(&list)?)?;
    sh(&format!("truncate -s 200G {FILES}/data"))?;
    let data = sh(&list)?;
    ensure!(data.contains(" 200G "), "{data}");
    let device = sh("docker info |awk '/Data file:/ {print $3}'")?.trim().to_owned();
    let size = format!("echo $[ $(blockdev --getsize64 {device}) / 1024 / 1024 / 1024 ]");
    let before = sh(&size)?;
    // The engine may have seen the file grow.
    ensure!(matches!(before.trim(), "100" | "200"), "{before}");
    ensure!(sh(&format!("losetup -c {device}; {size}"))?.trim() == "200");
    let name = sh("dmsetup status | grep 'thin-pool' | awk -F ': ' '{print $1}'")?;
    let name = name.trim();
    let table = sh(&format!("dmsetup table {name}"))?;
    let sectors = table.split(' ').nth(1).context("a table")?;
    ensure!(matches!(sectors, "209715200" | "419430400"), "{table}");
    let reloaded = table.trim().replace(sectors, "419430400");
    let guide = "0 419430400 thin-pool 7:1 7:0 128 32768 1 skip_block_zeroing";
    let numbers = "the loop devices that were free";
    let differences =
        [differs(guide, "0 419430400 thin-pool 7:{} 7:{} 128 32768 1 skip_block_zeroing", numbers)];
    compare(guide, &differences, &reloaded)?;
    for step in ["suspend", &format!("reload --table '{reloaded}'"), "resume"] {
        let (verb, rest) = step.split_once(' ').unwrap_or((step, ""));
        sh(&format!("dmsetup {verb} {name} {rest}"))?;
    }
    has_total("214.7GB")
}

fn resize(_: &mut Host) -> Result<()> {
    sh("berth storage device resize 300GB")?;
    has_total("322.1GB")?;
    ensure!(sh("docker inspect -f '{{.State.Running}}' kept")?.trim() == "true");
    Ok(())
}

fn has_total(total: &str) -> Result<()> {
    let info = info()?;
    ensure!(info.contains(&format!("Data Space Total: {total}\n")), "{info}");
    Ok(())
}

/// What was acknowledged lasts; of what containers write that is what they synced.
fn settle(_: &mut Host) -> Result<()> {
    sh("docker commit kept kept-image && docker create --name waiting kept-image true")?;
    Ok(())
}

fn found_again(host: &mut Host) -> Result<()> {
    host::configure(DAEMON)?;
    host.start()?;
    has_total("322.1GB")?;
    let names = sh("docker ps -a --format '{{.Names}}' | sort | xargs")?;
    ensure!(names.trim() == "kept waiting", "{names}");
    for container in ["kept", "waiting"] {
        let content = sh(&format!("docker cp {container}:/file - | tar -xO"))?;
        ensure!(content == "kept\n", "{container}: {content:?}");
    }
    let shown = not_empty()?;
    ensure!(shown.is_empty(), "no container runs: {shown:?}");
    sh("docker start kept")?;
    sh("berth storage check --deep")?;
    let tree = sh("lsblk -rno NAME,TYPE /dev/loop0 /dev/loop1")?;
    ensure!(tree.matches("-pool dm").count() == 2, "{tree}");
    Ok(())
}

fn stopped(host: &mut Host) -> Result<()> {
    sh("docker rm -f kept waiting")?;
    host.stop()?;
    let left = sh("dmsetup ls; losetup -a")?;
    ensure!(left.trim() == "No devices found", "{left}");
    sh(&format!("rm -rf {DATA_ROOT}"))?;
    Ok(())
}

//! "Configure direct-lvm mode", by the engine and by hand, "Resize a direct-lvm thin pool", "Activate the
//! devicemapper after reboot", and what `lsblk` shows.

use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::fs::FallocateFlags;

use super::Step;
use super::host::{self, DATA_ROOT, Host, info, sh, write};
use super::transcript::{Difference, LEVEL, LIBRARY, ORDER, VERSION, compare, differs};
use crate::kill::fixture;
use crate::wait;

pub(super) const STEPS: &[Step] = &[
    ("direct-lvm: the engine configures a disk by the guide's daemon.json", automatic),
    ("direct-lvm: what was configured once cannot be changed", unchangeable),
    ("direct-lvm: a thin pool by hand, command by command", by_hand),
    ("direct-lvm: docker info of it is the guide's", configure),
    ("direct-lvm: lsblk shows the guide's tree", tree),
    ("direct-lvm: a container on it", container),
    ("direct-lvm: a disk is added while it runs", add_disk),
    ("direct-lvm: LVM extends a pool that fills, and fstrim gives back what was deleted", filled),
    ("direct-lvm: resized while it runs", resize),
];

pub(super) const AFTER_REBOOT: &[Step] = &[
    ("direct-lvm: after a reboot without LVM's programs the guide's cure is named", cure),
    ("direct-lvm: the cure brings everything back", cured),
    ("direct-lvm: with LVM's programs the engine activates the pool by itself", by_itself),
];

const DAEMON: &str = r#"{
  "storage-driver": "devicemapper",
  "storage-opts": [
    "dm.thinpooldev=/dev/mapper/docker-thinpool",
    "dm.use_deferred_removal=true",
    "dm.use_deferred_deletion=true"
  ]
}
"#;
/// How long LVM may take to notice: it looks every ten seconds.
const PATIENCE: Duration = Duration::from_mins(1);
const PROFILE: &str = "\
activation {
    thin_pool_autoextend_threshold=80
    thin_pool_autoextend_percent=20
}
";
const SMALL: &str = "a disk of 2 GiB, where the guide's has 100";
const OWN_DISK: &str = "the machine's disk";
const LATER_LVM: &str = "LVM's later words";

/// As the guide's daemon.json has it, with a disk and one option.
fn automatic_json(host: &Host, percent: u32) -> String {
    format!(
        r#"{{
  "storage-driver": "devicemapper",
  "storage-opts": [
    "dm.directlvm_device={}",
    "dm.thinp_percent={percent}",
    "dm.thinp_metapercent=1",
    "dm.thinp_autoextend_threshold=80",
    "dm.thinp_autoextend_percent=20",
    "dm.directlvm_device_force=false"
  ]
}}
"#,
        host.disks[0]
    )
}

fn automatic(host: &mut Host) -> Result<()> {
    for disk in &host.disks {
        // Whatever an earlier test left; file systems and zfs have something at the end too.
        sh(&format!(
            "wipefs -qaf {disk} && for at in 0 $(($(blockdev --getsize64 {disk}) / 1048576 - 4)); do \
             dd if=/dev/zero of={disk} bs=1M count=4 seek=$at status=none; done"
        ))?;
    }
    host::configure(&automatic_json(host, 95))?;
    host.start()?;
    let info = info()?;
    ensure!(info.contains("Pool Name: docker-thinpool\n"), "{info}");
    ensure!(!info.contains("loop file"), "{info}");
    monitored()?;
    let profile = sh("cat /etc/lvm/profile/docker-thinpool.profile")?;
    let words = |text: &str| text.split_whitespace().collect::<String>();
    ensure!(words(&profile) == words(PROFILE), "{profile}");
    Ok(())
}

/// The guide's check that the pool is extended by LVM when it fills.
fn monitored() -> Result<()> {
    let guide = "\
LV      VG      Attr      LSize  Pool Origin Data%  Meta%  Move Log Cpy%Sync Convert Monitor
thinpool docker twi -a-t--- 95.00g          0.00   0.01
monitord
";
    let differences = [
        differs(
            "thinpool docker twi -a-t--- 95.00g 0.00 0.01",
            "thinpool docker twi-a{}t--- {}g {} {} monitored",
            SMALL,
        ),
        differs("monitord", "", "the last column, wrapped in the guide"),
    ];
    compare(guide, &differences, &sh("lvs -o+seg_monitor")?)
}

fn unchangeable(host: &mut Host) -> Result<()> {
    host.stop()?;
    host::configure(&automatic_json(host, 90))?;
    let said = host.start_refused()?;
    ensure!(said.contains("changing direct-lvm config is not supported"), "{said}");
    host::configure(&automatic_json(host, 95))?;
    host.start()?;
    host.stop()?;
    sh(&format!("vgremove -qq -f docker && pvremove -qq {}", host.disks[0]))?;
    sh("rm -f /etc/lvm/profile/docker-thinpool.profile")?;
    Ok(())
}

fn by_hand(host: &mut Host) -> Result<()> {
    let disk = &host.disks[0];
    let created = "Physical volume \"/dev/xvdf\" successfully created.";
    compare(
        created,
        &[differs(created, "Physical volume \"/dev/{}\" successfully created.", OWN_DISK)],
        &sh(&format!("pvcreate {disk}"))?,
    )?;
    compare(
        "Volume group \"docker\" successfully created",
        &[],
        &sh(&format!("vgcreate docker {disk}"))?,
    )?;
    let volumes = [("thinpool", "95%VG"), ("thinpoolmeta", "1%VG")];
    for (name, size) in volumes {
        compare(
            &format!("Logical volume \"{name}\" created."),
            &[],
            &sh(&format!("lvcreate --wipesignatures y -n {name} docker -l {size}"))?,
        )?;
    }
    let guide = "\
WARNING: Converting logical volume docker/thinpool and docker/thinpoolmeta to
thin pool's data and metadata volumes with metadata wiping.
THIS WILL DESTROY CONTENT OF LOGICAL VOLUME (filesystem etc.)
Converted docker/thinpool to thin pool.
";
    let differences = [
        differs(
            "",
            "Thin pool volume with chunk size 512.00 KiB can address at most {} TiB of data.",
            LATER_LVM,
        ),
        differs(
            "WARNING: Converting logical volume docker/thinpool and docker/thinpoolmeta to",
            "WARNING: Converting docker/thinpool and docker/thinpoolmeta to thin pool's data and \
             metadata volumes with metadata wiping.",
            LATER_LVM,
        ),
        differs(
            "thin pool's data and metadata volumes with metadata wiping.",
            "",
            "wrapped in the guide",
        ),
        differs(
            "Converted docker/thinpool to thin pool.",
            "Converted docker/thinpool and docker/thinpoolmeta to thin pool.",
            LATER_LVM,
        ),
    ];
    let convert = "lvconvert -y --zero n -c 512K --thinpool docker/thinpool \
                   --poolmetadata docker/thinpoolmeta 2>&1";
    compare(guide, &differences, &sh(convert)?)?;
    write_profile()?;
    compare(
        "Logical volume docker/thinpool changed.",
        &[],
        &sh("lvchange --metadataprofile docker-thinpool docker/thinpool")?,
    )?;
    monitored()?;
    // What was there before is put aside.
    sh(
        "rm -rf /var/lib/docker.bk; mkdir /var/lib/docker.bk && mv /var/lib/docker/* /var/lib/docker.bk",
    )?;
    Ok(())
}

fn write_profile() -> Result<()> {
    write("/etc/lvm/profile/docker-thinpool.profile", PROFILE.as_bytes())
}

const BLANK: &str = "18.09 leaves out what is blank";
const USED: &str = "what mkfs writes";

const INFO: &str = "\
Containers: 0
  Running: 0
  Paused: 0
  Stopped: 0
Images: 0
Server Version: 17.03.1-ce
Storage Driver: devicemapper
  Pool Name: docker-thinpool
  Pool Blocksize: 524.3 kB
  Base Device Size: 10.74 GB
  Backing Filesystem: xfs
  Data file:
  Metadata file:
  Data Space Used: 19.92 MB
  Data Space Total: 102 GB
  Data Space Available: 102 GB
  Metadata Space Used: 147.5 kB
  Metadata Space Total: 1.07 GB
  Metadata Space Available: 1.069 GB
  Thin Pool Minimum Free Space: 10.2 GB
  Udev Sync Supported: true
  Deferred Removal Enabled: true
  Deferred Deletion Enabled: true
  Deferred Deleted Device Count: 0
  Library Version: 1.02.135-RHEL7 (2016-11-16)
";

const INFO_DIFFERS: &[Difference] = &[
    VERSION,
    differs("Data file:", "", BLANK),
    differs("Metadata file:", "", BLANK),
    differs("Data Space Used: 19.92 MB", "Data Space Used: {}MB", USED),
    differs("Data Space Total: 102 GB", "Data Space Total: 2.034GB", SMALL),
    differs("Data Space Available: 102 GB", "Data Space Available: 1.{}GB", SMALL),
    differs("Metadata Space Used: 147.5 kB", "Metadata Space Used: {}MB", "LVM 2.03 reserves more"),
    differs("Metadata Space Total: 1.07 GB", "Metadata Space Total: 20.97MB", SMALL),
    differs("Metadata Space Available: 1.069 GB", "Metadata Space Available: {}MB", SMALL),
    differs(
        "Thin Pool Minimum Free Space: 10.2 GB",
        "Thin Pool Minimum Free Space: 203.4MB",
        SMALL,
    ),
    differs("Udev Sync Supported: true", "", ORDER),
    differs("", "Udev Sync Supported: true", ORDER),
    LIBRARY,
    LEVEL,
];

fn configure(host: &mut Host) -> Result<()> {
    host::configure(DAEMON)?;
    host.start()?;
    compare(INFO, INFO_DIFFERS, &info()?)?;
    sh("rm -rf /var/lib/docker.bk")?;
    Ok(())
}

fn tree(host: &mut Host) -> Result<()> {
    let guide = "\
NAME                                MAJ:MIN RM  SIZE RO TYPE MOUNTPOINT
xvda                                202:0    0   8G  0 disk
  xvda1                             202:1    0   8G  0 part /
xvdf                                202:80   0 100G  0 disk
  docker-thinpool_tmeta             253:0    0 1020M  0 lvm
  docker-thinpool                   253:2    0   95G  0 lvm
  docker-thinpool_tdata             253:1    0   95G  0 lvm
  docker-thinpool                   253:2    0   95G  0 lvm
";
    let lines = "util-linux 2.38 draws lines, and the kernel has its own number";
    let differences = [
        differs(
            "NAME MAJ:MIN RM SIZE RO TYPE MOUNTPOINT",
            "NAME MAJ:MIN RM SIZE RO TYPE MOUNTPOINTS",
            "util-linux 2.38 calls it so",
        ),
        differs("xvda 202:0 0 8G 0 disk", "", "the data root's disk is not looked at"),
        differs("xvda1 202:1 0 8G 0 part /", "", "the data root's disk is not looked at"),
        differs("xvdf 202:80 0 100G 0 disk", "vd{} {}:{} 0 2G 0 disk", OWN_DISK),
        differs(
            "docker-thinpool_tmeta 253:0 0 1020M 0 lvm",
            "{}docker-thinpool_tmeta {}:0 0 20M 0 lvm",
            lines,
        ),
        differs(
            "docker-thinpool_tdata 253:1 0 95G 0 lvm",
            "{}docker-thinpool_tdata {}:1 0 1.9G 0 lvm",
            lines,
        ),
        differs("docker-thinpool 253:2 0 95G 0 lvm", "{}docker-thinpool {}:2 0 1.9G 0 lvm", lines),
    ];
    // "| `-" is drawn before the pool below the first of two.
    let drawn = sh(&format!("lsblk {} | sed 's/^| `-/`-/'", host.disks[0]))?;
    compare(guide, &differences, &drawn)
}

fn container(_: &mut Host) -> Result<()> {
    write("/var/lib/busybox.tar", &fixture::busybox_layer()?)?;
    sh("docker import /var/lib/busybox.tar busybox")?;
    sh("docker run -d --network none --restart always --name kept busybox \
         sh -c 'echo kept >>/file; exec sleep 1000'")?;
    let mounted = sh("mount |grep devicemapper")?;
    ensure!(mounted.starts_with("/dev/mapper/docker-"), "{mounted}");
    Ok(())
}

fn add_disk(host: &mut Host) -> Result<()> {
    let (first, second) = (&host.disks[0], &host.disks[1]);
    let shown = sh("pvdisplay |grep -e 'PV Name' -e 'VG Name'")?;
    compare(
        "PV Name          /dev/xvdf\nVG Name          docker",
        &[differs("PV Name /dev/xvdf", "PV Name /dev/{}", OWN_DISK)],
        &shown,
    )?;
    ensure!(shown.contains(first.as_str()), "{shown}");
    let created = "Physical volume \"/dev/xvdg\" successfully created.";
    compare(
        "Physical volume \"/dev/xvdg\" successfully created.\n\
         Volume group \"docker\" successfully extended",
        &[differs(created, "Physical volume \"/dev/{}\" successfully created.", OWN_DISK)],
        &sh(&format!("vgextend docker {second}"))?,
    )
}

/// "LVM monitors the thin pool": from `thin_pool_autoextend_threshold` on it adds
/// `thin_pool_autoextend_percent` of what the pool has.
fn filled(_: &mut Host) -> Result<()> {
    const FILE: u64 = 1_650 << 20;
    let total = "lvs --noheadings --units m --nosuffix -o lv_size docker/thinpool";
    let size = || -> Result<f64> { Ok(sh(total)?.trim().parse()?) };
    let used = || -> Result<f64> {
        Ok(sh("lvs --noheadings -o data_percent docker/thinpool")?.trim().parse()?)
    };
    let before = size()?;
    let mount = sh("mount |grep 'devicemapper/mnt'")?;
    let place = mount.split_whitespace().nth(2).context("a mount point")?;
    let path = Path::new(place).join("big");
    let file = std::fs::File::create_new(&path)?;
    rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, FILE)?;
    // The pool gives out 512 KiB for the first byte in them.
    for at in (0..FILE).step_by(512 << 10) {
        file.write_all_at(&[1], at)?;
    }
    file.sync_all()?;
    wait::within(PATIENCE, "LVM has extended the pool", || {
        Ok(size()? > before * 1.15 && used()? < 80.0)
    })?;
    let info = info()?;
    ensure!(!info.contains("Data Space Total: 2.034GB\n"), "the engine has not seen it: {info}");
    std::fs::remove_file(&path)?;
    drop(file);
    // xfs frees what was deleted in the background.
    wait::within(PATIENCE, "what was deleted is free again", || {
        sh(&format!("fstrim {place}"))?;
        Ok(used()? < 20.0)
    })
}

fn resize(_: &mut Host) -> Result<()> {
    let changed = "Size of logical volume docker/thinpool_tdata changed from 95.00 GiB (24319 \
                   extents) to 198.00 GiB (50688 extents).";
    let resized = "Logical volume docker/thinpool_tdata successfully resized.";
    compare(
        &format!("{changed}\n{resized}"),
        &[
            differs(
                "Size of logical volume docker/thinpool_tdata changed from 95.00 GiB (24319 \
                 extents) to 198.00 GiB (50688 extents).",
                "Size of logical volume docker/thinpool_tdata changed from {} GiB ({} extents) to \
                 3.95 GiB (1012 extents).",
                "disks of 2 GiB, and LVM has extended it before",
            ),
            differs(
                "Logical volume docker/thinpool_tdata successfully resized.",
                "Logical volume docker/thinpool successfully resized.",
                LATER_LVM,
            ),
        ],
        &sh("lvextend -l+100%FREE -n docker/thinpool")?,
    )?;
    let info = info()?;
    ensure!(info.contains("Data Space Total: 4.245GB\n"), "{info}");
    ensure!(sh("docker inspect -f '{{.State.Running}}' kept")?.trim() == "true");
    // What it wrote lasts once it is synced, as on any disk.
    sh("docker exec kept busybox sync")?;
    Ok(())
}

fn cure(host: &mut Host) -> Result<()> {
    host::configure(DAEMON)?;
    write_profile()?;
    // The pool's kernel module is found all the same.
    sh("mkdir -p /run/programs && ln -sf \"$(command -v modprobe)\" /run/programs/")?;
    host.set_path(Some("/run/programs"));
    let said = host.start_refused()?;
    host.set_path(None);
    let words = "devmapper: Non existing device docker-thinpool (a volume that is not active: \
                 lvchange -ay docker/thinpool)";
    ensure!(said.contains(words), "{said}");
    Ok(())
}

fn cured(host: &mut Host) -> Result<()> {
    sh("lvchange -ay docker/thinpool")?;
    found_again(host)
}

fn by_itself(host: &mut Host) -> Result<()> {
    // Containers live on while the engine is stopped.
    sh("docker stop -t 0 kept")?;
    host.stop()?;
    // A device whose removal is deferred goes when its last user has.
    sh(
        "for try in $(seq 50); do lvchange -an docker/thinpool 2>/dev/null && exit; sleep 0.2; done; \
        dmsetup ls --tree; dmsetup info -c; lvchange -an docker/thinpool",
    )?;
    found_again(host)?;
    sh("docker rm -f kept")?;
    host.stop()?;
    sh(&format!("rm -rf {DATA_ROOT} && vgremove -qq -f docker"))?;
    Ok(())
}

fn found_again(host: &mut Host) -> Result<()> {
    host.start()?;
    let info = info()?;
    ensure!(info.contains("Data Space Total: 4.245GB\n"), "{info}");
    let content = sh("docker cp kept:/file - | tar -xO")?;
    ensure!(content.starts_with("kept\n"), "{content:?}");
    sh("berth storage check --deep")?;
    monitored()
}

//! Pools whose devices are lost, and pools that are another home's.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use berth_sys::dm::{self, Control, Line, Removal, Suspension};
use berth_sys::loopdev::LoopDevice;
use berth_types::LayerId;

use super::super::records::{Device, Records, Role, Transaction};
use super::{Devicemapper, disk, opts};
use crate::suite::{content, layer, listed, rw, same};
use crate::{Access, Mounted, StorageDriver as _, StorageError};

/// Formatted in a moment.
const TINY: [&str; 2] = ["dm.basesize=64M", "dm.fs=ext4"];

fn open(home: &Path, more: &[&str]) -> Result<Devicemapper, StorageError> {
    Devicemapper::open(home, &opts(&[&TINY, more].concat()))
}

fn refused(opened: Result<Devicemapper, StorageError>) -> String {
    berth_types::kind::chain(&opened.expect_err("it must not open"))
}

fn line(sectors: u64, target: &str, params: &str) -> Line {
    Line { start: 0, length: sectors, target: target.to_owned(), params: params.to_owned() }
}

/// A device of the test's own, by a table.
struct Made {
    control: Control,
    name: &'static str,
}

impl Made {
    fn new(name: &'static str, table: &Line) -> Self {
        let control = Control::open().unwrap();
        control.create(name).unwrap();
        let this = Self { control, name };
        this.serve(table);
        this
    }

    /// Has the device served by something else.
    fn serve(&self, table: &Line) {
        self.control.load(self.name, std::slice::from_ref(table)).unwrap();
        self.control.suspend(self.name, Suspension::NoFlush).unwrap();
        self.control.resume(self.name).unwrap();
    }

    fn number(&self) -> String {
        number(self.control.info(self.name).unwrap().unwrap().device)
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        let removed = self.control.remove(self.name, Removal::Deferred);
        assert!(removed.is_ok() || std::thread::panicking(), "{removed:?}");
    }
}

fn number(device: u64) -> String {
    format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device))
}

/// A loop device of a new file, and its length in sectors.
fn loop_device(path: &Path, mebibytes: u64) -> (LoopDevice, u64) {
    testkit::load_module("loop");
    File::create(path).unwrap().set_len(mebibytes << 20).unwrap();
    (LoopDevice::attach(path).unwrap(), mebibytes << 11)
}

/// An empty thin pool of the test's own, and what it lies on.
fn pool(dir: &Path, name: &'static str) -> (Made, [LoopDevice; 2]) {
    testkit::load_module("dm_thin_pool");
    let (metadata, _) = loop_device(&dir.join(format!("{name}-metadata")), 4);
    let (data, sectors) = loop_device(&dir.join(format!("{name}-data")), 256);
    let below = [number(metadata.device()), number(data.device())].join(" ");
    let params = format!("{below} 128 0 1 skip_block_zeroing");
    (Made::new(name, &line(sectors, "thin-pool", &params)), [metadata, data])
}

#[test]
fn vm_devicemapper_a_deleted_loop_file_is_held_by_its_device_until_it_is_copied_back() {
    let test = "vm_devicemapper_a_deleted_loop_file_is_held_by_its_device_until_it_is_copied_back";
    if !testkit::in_vm(test) {
        return;
    }
    let disk = disk();
    let home = disk.path().join("devicemapper");
    let more = ["dm.loopdatasize=64M", "dm.loopmetadatasize=4M"];
    let driver = open(&home, &more).unwrap();
    let kept = layer(&driver, None, &["kept"]);
    let file = home.join("devicemapper/data");
    let device = driver.set.pool.parts.as_ref().unwrap().data.path().to_owned();
    let pool = driver.set.pool.name.clone();
    fs::remove_file(&file).unwrap();
    drop(driver);
    let control = Control::open().unwrap();
    assert!(control.info(&pool).unwrap().is_some(), "its data would go with it");
    let (device, path) = (device.display(), file.display());
    let expected = format!(
        "data loopback file {path} not found: {device} still has its content, as long as the \
         machine runs; copy it back (cp --sparse=always {device} {path}), let go of the pool \
         (dmsetup remove {pool}), and start again"
    );
    assert_eq!(refused(open(&home, &more)), expected);
    let mut copy = Command::new("cp");
    copy.arg("--sparse=always").arg(device.to_string()).arg(&file);
    assert!(copy.status().unwrap().success());
    assert!(
        refused(open(&home, &more)).contains("is on other devices than"),
        "it still has its own"
    );
    control.remove(&pool, Removal::Now).unwrap();
    let driver = open(&home, &more).unwrap();
    assert_eq!(content(&driver, &kept), same(&["kept"]));
}

#[test]
fn vm_devicemapper_devices_below_that_fail_cost_no_layer() {
    if !testkit::in_vm("vm_devicemapper_devices_below_that_fail_cost_no_layer") {
        return;
    }
    let disk = disk();
    let home = disk.path().join("devicemapper");
    let (metadata, metadata_sectors) = loop_device(&disk.path().join("metadata"), 4);
    let (data, sectors) = loop_device(&disk.path().join("data"), 256);
    let linear = |device: &LoopDevice, sectors| {
        line(sectors, "linear", &format!("{} 0", number(device.device())))
    };
    let whole = [linear(&metadata, metadata_sectors), linear(&data, sectors)];
    let below =
        [Made::new("berth-below-metadata", &whole[0]), Made::new("berth-below-data", &whole[1])];
    let more = [
        "dm.metadatadev=/dev/mapper/berth-below-metadata",
        "dm.datadev=/dev/mapper/berth-below-data",
    ];
    let driver = open(&home, &more).unwrap();
    let kept = layer(&driver, None, &["kept"]);
    driver.sync().unwrap();
    drop(driver);

    // The data: what is written is refused, and the writer is told.
    let driver = open(&home, &more).unwrap();
    let written = LayerId::random();
    driver.create(&written, Some(&kept), &rw()).unwrap();
    {
        let plan = driver.prepare(&written, Access::Write).unwrap();
        let mounted = Mounted::new(plan).unwrap();
        below[1].serve(&line(sectors, "error", ""));
        let written = File::create(mounted.root().join("new"))
            .and_then(|mut file| file.write_all(&vec![1; 1 << 20]).and_then(|()| file.sync_all()));
        written.expect_err("the disk is gone");
    }
    drop(driver);
    below[1].serve(&whole[1]);
    let driver = open(&home, &more).unwrap();
    assert_eq!(content(&driver, &kept), same(&["kept"]));
    driver.remove(&written).unwrap();
    driver.reap().unwrap();

    // The metadata: nothing is made, and that is said.
    let pool = driver.set.pool.name.clone();
    below[0].serve(&line(metadata_sectors, "error", ""));
    let create = || driver.create(&LayerId::random(), Some(&kept), &rw());
    // The first may meet the failure in the middle.
    create().expect_err("nothing can be recorded");
    let text = create().unwrap_err().to_string();
    let expected = format!(
        "devmapper: thin pool {pool} has failed: what it lies on cannot be read or written (see \
         the kernel's log); stop the daemon, bring that back, and start again"
    );
    assert_eq!(text, expected);
    assert_eq!(driver.status(), [("Pool Name".to_owned(), pool)]);
    assert_eq!(listed(&driver).len(), 1);
    drop(driver);
    refused(open(&home, &more));
    below[0].serve(&whole[0]);
    let driver = open(&home, &more).unwrap();
    assert_eq!(content(&driver, &kept), same(&["kept"]));
    let next = layer(&driver, Some(&kept), &["next"]);
    assert_eq!(content(&driver, &next), same(&["kept", "next"]));
}

#[test]
fn vm_devicemapper_nothing_is_deleted_from_the_pool_of_another_home() {
    if !testkit::in_vm("vm_devicemapper_nothing_is_deleted_from_the_pool_of_another_home") {
        return;
    }
    let disk = disk();
    let (own, other) = (disk.path().join("own"), disk.path().join("other"));
    let _below = [pool(disk.path(), "berth-own"), pool(disk.path(), "berth-other")];
    let on = |home: &Path, pool: &str| open(home, &[&format!("dm.thinpooldev={pool}")]);
    let kept = layer(&on(&own, "berth-own").unwrap(), None, &["own"]);
    let driver = on(&other, "berth-other").unwrap();
    let theirs = layer(&driver, None, &["theirs"]);
    let device = driver.set.device(&Role::Layer(theirs.clone())).unwrap().unwrap();
    let open_transaction_id = driver.set.state().transaction + 1;
    drop(driver);
    // As if a change had been interrupted whose number is just that of the other pool.
    let records = Records::open(&own).unwrap();
    let begun = records.transaction().unwrap().unwrap();
    let device_id = device.device_id;
    let interrupted = Transaction { open_transaction_id, device_hash: kept.to_string(), device_id };
    records.set_transaction(&interrupted).unwrap();
    let text = refused(on(&own, "berth-other"));
    assert!(text.contains("Possibly using a different thin pool"), "{text}");
    assert_eq!(records.transaction().unwrap(), Some(interrupted));
    records.set_transaction(&begun).unwrap();
    assert!(refused(on(&own, "berth-other")).contains("Possibly using a different thin pool"));
    assert_eq!(content(&on(&other, "berth-other").unwrap(), &theirs), same(&["theirs"]));
    assert_eq!(content(&on(&own, "berth-own").unwrap(), &kept), same(&["own"]));

    // One that counts nothing, and a home that was stopped while it made its base device.
    let foreign = pool(disk.path(), "berth-foreign");
    foreign.0.control.message("berth-foreign", 0, "create_thin 1").unwrap();
    let thin =
        Made::new("berth-foreign-1", &line(8192, "thin", &format!("{} 1", foreign.0.number())));
    let write = || File::options().write(true).open(dm::path("berth-foreign-1"));
    write()
        .and_then(|mut file| file.write_all(b"precious").and_then(|()| file.sync_all()))
        .unwrap();
    let home = disk.path().join("new");
    fs::create_dir(&home).unwrap();
    let records = Records::open(&home).unwrap();
    let begun =
        |id| Transaction { open_transaction_id: id, device_hash: String::new(), device_id: 1 };
    records.set_transaction(&begun(1)).unwrap();
    let used = "devmapper: Unable to take ownership of thin-pool (berth-foreign) that already has \
                used data blocks";
    assert_eq!(refused(on(&home, "berth-foreign")), used);
    let unfinished = Device {
        device_id: 1,
        size: 64 << 20,
        transaction_id: 1,
        initialized: false,
        deleted: false,
    };
    records.set_device(&Role::Base, &unfinished).unwrap();
    assert_eq!(refused(on(&home, "berth-foreign")), used);
    // Another home's base device, where this one's is not finished.
    let old = "devmapper: Unable to take ownership of thin-pool (berth-own) with non-zero \
               transaction ID";
    assert_eq!(refused(on(&home, "berth-own")), old);
    // An empty pool in the place of the one that the records speak of.
    let records = Records::open(&own).unwrap();
    records.set_transaction(&Transaction { device_id: 9, ..begun(0) }).unwrap();
    let empty = pool(disk.path(), "berth-empty");
    let expected = format!(
        "devmapper: thin pool berth-empty does not have the base device that is recorded in {}: it \
         is another pool",
        records.dir().display()
    );
    assert_eq!(refused(on(&own, "berth-empty")), expected);
    drop((thin, empty));
    assert_eq!(content(&on(&own, "berth-own").unwrap(), &kept), same(&["own"]));
}

//! A data root on a disk without a free byte: the daemon shows what there is, ends it and removes it, also
//! when it was killed and started there; and with room again everything works.

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use testkit::Filler;

use super::fixture::{self, CONTENT, Image};
use super::lab::{self, load};
use super::random::Random;
use crate::client::{Client, Request};
use crate::daemon::BerthDaemon;

/// How many creations may still find room.
const LUCK: u32 = 100;

pub(super) fn overlay2_on_ext4(seed: u64) -> Result<()> {
    fill("overlay2", "ext4", seed)
}

pub(super) fn overlay2_on_xfs(seed: u64) -> Result<()> {
    fill("overlay2", "xfs", seed)
}

pub(super) fn vfs_on_xfs(seed: u64) -> Result<()> {
    fill("vfs", "xfs", seed)
}

pub(super) fn btrfs_on_btrfs(seed: u64) -> Result<()> {
    fill("btrfs", "btrfs", seed)
}

fn fill(driver: &str, kind: &str, seed: u64) -> Result<()> {
    let mut daemon = BerthDaemon::prepare(&format!("berth-full-{driver}-{kind}"))?;
    daemon.put_on(kind)?;
    let flag = format!("--storage-driver={driver}");
    daemon.set_flags(&["--bridge=none", &flag]);
    daemon.restart()?;
    // btrfs keeps room for names when there is none for data.
    let done = run(&mut daemon, seed, kind != "btrfs");
    done.with_context(|| format!("the daemon's last words:\n{}", daemon.end_of_log()))
}

fn run(daemon: &mut BerthDaemon, seed: u64, has_one_room: bool) -> Result<()> {
    let api = Client::new(&daemon.socket());
    let mut random = Random::new(seed);
    let kept = Image::new("kept:1", 2, 128 << 10, &mut random)?;
    let surplus = Image::plain("surplus:1", 3, 128 << 10, &mut random)?;
    load(&api, &[kept.clone(), surplus.clone()])?;
    let sleeper = json!({ "Cmd": ["sleep", "1000"] });
    let [first, second] = ["first", "second"].map(|name| run_one(&api, name, &sleeper));
    let (first, second) = (first?, second?);
    let mut ended = Vec::new();
    for number in 0..3 {
        let script = json!({ "Cmd": ["sh", "-c", "echo written > /work/note; echo told"] });
        let id = lab::create(&api, &format!("ended{number}"), lab::container(&script))?;
        ensure!(lab::run_to_end(&api, &id)? == 0, "it did not end well");
        ended.push(id);
    }

    let mut filler = Filler::below(daemon.data_root());
    if has_one_room {
        be_refused(&api)?;
        filler.take_all();
    }
    look(&api, &[&first, &second], &ended)?;
    let answer = api.send(&load_of("more:1", &mut random)?)?;
    ensure!(!answer.text().contains("Loaded image"), "loaded without room: {}", answer.text());
    stop(&api, &first)?;
    api.delete(&format!("/containers/{}", ended[0]))?;
    filler.take_all();

    daemon.kill9()?;
    filler.take_all();
    daemon.restart().context("a start without room")?;
    let ended = [&ended[1..], std::slice::from_ref(&first)].concat();
    look(&api, &[&second], &ended)?;
    stop(&api, &second)?;
    filler.take_all();
    api.delete("/images/surplus:1").context("an image")?;
    api.delete(&format!("/containers/{}", ended[0])).context("a container")?;
    filler.take_all();
    api.post("/containers/prune", Value::Null).context("prune")?;
    let left = api.get("/containers/json?all=1")?;
    ensure!(left == json!([]), "left after a prune: {left}");
    drop(filler);

    lab::check_image(&api, &kept)?;
    load(&api, &[surplus])?;
    let id = lab::create(&api, "after", lab::container(&json!({ "Cmd": ["true"] })))?;
    ensure!(lab::run_to_end(&api, &id)? == 0, "it does not end well with room again");
    let file = lab::file_in(&api, &id, &format!("/{CONTENT}"))?;
    ensure!(file == kept.content, "the image's file is damaged");
    let told = api.post("/berth/storage/check?deep=1", Value::Null)?.text();
    ensure!(told.contains("\"Findings\":0"), "{told}");
    daemon.stop()?;
    daemon.restart()?;
    ensure!(api.get("/containers/json?all=1")?.as_array().map_or(0, Vec::len) == 1, "lost");
    daemon.stop()
}

fn run_one(api: &Client, name: &str, config: &Value) -> Result<String> {
    let id = lab::create(api, name, lab::container(config))?;
    api.post(&format!("/containers/{id}/start"), Value::Null)?;
    Ok(id)
}

fn load_of(name: &str, random: &mut Random) -> Result<Request> {
    let image = Image::plain(name, 2, 64 << 10, random)?;
    Ok(Request::post_tar("/images/load?quiet=1", fixture::archive(&[image])?))
}

/// Creates containers until there is no room for one, and removes them.
fn be_refused(api: &Client) -> Result<()> {
    let config = lab::container(&json!({ "Cmd": ["true"] }));
    let mut made = Vec::new();
    for number in 0..LUCK {
        let path = format!("/containers/create?name=lucky{number}");
        let answer = api.send(&Request::post(path, config.clone()))?;
        if answer.is_success() {
            let id = answer.json()?["Id"].as_str().context("no id")?.to_owned();
            made.push(id);
            continue;
        }
        let text = answer.text().to_lowercase();
        let said = ["no space left on device", "disk is full"].iter().any(|s| text.contains(s));
        ensure!(answer.status == 500 && said, "{} {text}", answer.status);
        let there = api.find(&format!("/containers/lucky{number}/json"))?;
        ensure!(there.is_none(), "refused, and there: {there:?}");
        for id in &made {
            api.delete(&format!("/containers/{id}")).context("one that found room")?;
        }
        return Ok(());
    }
    bail!("{LUCK} containers found room on a full disk")
}

/// Everything that only looks.
fn look(api: &Client, running: &[&String], ended: &[String]) -> Result<()> {
    let all = api.get("/containers/json?all=1&size=1")?;
    let count = all.as_array().map_or(0, Vec::len);
    ensure!(count == running.len() + ended.len(), "{count} containers: {all}");
    for id in running {
        let shown = api.get(&format!("/containers/{id}/json?size=1"))?;
        ensure!(shown["State"]["Status"] == "running", "{}", shown["State"]);
        api.get(&format!("/containers/{id}/top"))?;
    }
    for id in ended {
        let shown = api.get(&format!("/containers/{id}/json"))?;
        ensure!(shown["State"]["Running"] == false, "{}", shown["State"]);
        api.bytes(&format!("/containers/{id}/logs?stdout=1"))?;
        api.get(&format!("/containers/{id}/changes"))?;
    }
    for path in ["/images/json", "/images/kept:1/json", "/info", "/system/df", "/volumes"] {
        api.get(path).with_context(|| path.to_owned())?;
    }
    Ok(())
}

fn stop(api: &Client, id: &str) -> Result<()> {
    api.post(&format!("/containers/{id}/stop?t=0"), Value::Null).context("stop")?;
    let state = api.get(&format!("/containers/{id}/json"))?["State"].clone();
    ensure!(state["Status"] == "exited", "{state}");
    Ok(())
}

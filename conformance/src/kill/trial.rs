//! One operation each: what is made ready for it, the request, and what must be found afterwards.
//!
//! An acknowledged operation must be there. One that was not acknowledged must be there in whole or
//! not at all. After the check everything of the trial is removed, so that the next begins with an
//! engine as it was.

mod build;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::fixture::{self, Image};
use super::lab::{self, Lab};
use crate::client::Request;
use crate::needs::on_path;
use build::Built;

/// What the daemon is killed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Op {
    Load,
    Create,
    Start,
    Rm,
    Commit,
    Rmi,
    Pull,
    Build,
    Push,
}

impl Op {
    pub(super) const ALL: [Self; 9] = [
        Self::Load,
        Self::Create,
        Self::Start,
        Self::Rm,
        Self::Commit,
        Self::Rmi,
        Self::Pull,
        Self::Build,
        Self::Push,
    ];

    /// What this machine lacks for it.
    pub(super) fn lacks(self) -> Option<&'static str> {
        let is_missing = matches!(self, Self::Pull | Self::Push) && !on_path("docker-registry");
        is_missing.then_some("docker-registry")
    }

    /// Whether it records layers, and so passes the named steps.
    pub(super) fn has_steps(self) -> bool {
        self != Self::Push
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Load => "load",
            Self::Create => "create",
            Self::Start => "start",
            Self::Rm => "rm",
            Self::Commit => "commit",
            Self::Rmi => "rmi",
            Self::Pull => "pull",
            Self::Build => "build",
            Self::Push => "push",
        }
    }
}

/// An operation that is ready to be asked for.
#[derive(Debug)]
pub(super) struct Trial {
    pub(super) request: Request,
    subject: Subject,
}

/// What the operation is done to, and all that must be known to check it.
#[derive(Debug)]
enum Subject {
    Load { images: Vec<Image> },
    Create { name: String },
    Start { id: String },
    Rm { id: String, before: Value, content: String, was_running: bool },
    Commit { id: String, name: String, content: String, is_running: bool },
    Rmi { image: Image },
    Pull { image: Image, again: Request },
    Build(Built),
    Push { image: Image, again: Request },
}

/// What is done in the containers of trials.
const BEGUN: &str = "echo begun; cat";

impl Trial {
    /// Makes everything ready. The kind of the subject changes with `number`.
    pub(super) fn prepare(lab: &mut Lab, op: Op, number: u32) -> Result<Self> {
        let name = format!("{}-{number}", op.name());
        match op {
            Op::Load => load(lab, &name, number),
            Op::Create => Ok(create(&name)),
            Op::Start => start(lab, &name, number),
            Op::Rm => rm(lab, &name, number),
            Op::Commit => commit(lab, &name, number),
            Op::Rmi => rmi(lab, &name, number),
            Op::Pull => pull(lab, &name),
            Op::Build => build::prepare(lab, &name),
            Op::Push => push(lab, &name),
        }
    }

    /// Checks what the restarted engine has of it, and removes it.
    pub(super) fn settle(&self, lab: &Lab, acknowledged: bool) -> Result<()> {
        match &self.subject {
            Subject::Load { images } => settle_load(lab, images, acknowledged),
            Subject::Create { name } => settle_create(lab, name, acknowledged),
            Subject::Start { id } => settle_start(lab, id, acknowledged),
            Subject::Rm { id, before, content, was_running } => {
                let gone = lab.api.find(&format!("/containers/{id}/json"))?.is_none();
                ensure!(gone || !acknowledged, "removed, but still there");
                if gone { Ok(()) } else { settle_rm(lab, id, before, content, *was_running) }
            }
            Subject::Commit { id, name, content, is_running } => {
                settle_commit(lab, id, name, content, *is_running, acknowledged)
            }
            Subject::Rmi { image } => settle_rmi(lab, image, acknowledged),
            Subject::Pull { image, again } => settle_pull(lab, image, again, acknowledged),
            Subject::Build(built) => built.settle(lab, acknowledged),
            Subject::Push { image, again } => settle_push(lab, image, again, acknowledged),
        }
    }
}

fn load(lab: &mut Lab, name: &str, number: u32) -> Result<Trial> {
    const BYTES: usize = 1 << 20;
    let mut images = vec![lab.image.sibling(&format!("{name}:1"), 3, BYTES, &mut lab.random)?];
    if number % 2 == 1 {
        // Two images that share nothing but the first layer, in one archive: both or none.
        images.push(lab.image.sibling(&format!("{name}:2"), 2, BYTES / 2, &mut lab.random)?);
    }
    let request = Request::post_tar("/images/load", fixture::archive(&images)?);
    let images = images.into_iter().map(Image::without_bytes).collect();
    Ok(Trial { request, subject: Subject::Load { images } })
}

fn settle_load(lab: &Lab, images: &[Image], acknowledged: bool) -> Result<()> {
    let mut there = 0;
    for image in images {
        let named = lab.api.find(&format!("/images/{}/json", image.names[0]))?;
        let by_id = lab.api.find(&format!("/images/{}/json", image.id))?;
        ensure!(named.is_some() == by_id.is_some(), "{} has an id or a name only", image.names[0]);
        there += usize::from(named.is_some());
    }
    ensure!(there == images.len() || there == 0, "{there} of {} images", images.len());
    ensure!(there > 0 || !acknowledged, "loaded, but not there");
    if there == 0 {
        return Ok(());
    }
    for image in images {
        lab::check_image(&lab.api, image)?;
        lab.api.delete(&format!("/images/{}", image.names[0]))?;
    }
    Ok(())
}

fn create(name: &str) -> Trial {
    let body = lab::container(&json!({
        "Cmd": ["sh", "-c", "cat /data/note /content/file0 > /work/all; exit 3"],
        "Labels": { "trial": name },
        // An anonymous volume that is filled from the image, and a named one.
        "Volumes": { "/content": {} },
        "HostConfig": { "Binds": [format!("{name}:/data")] },
    }));
    let request = Request::post(format!("/containers/create?name={name}"), body);
    Trial { request, subject: Subject::Create { name: name.to_owned() } }
}

fn settle_create(lab: &Lab, name: &str, acknowledged: bool) -> Result<()> {
    let api = &lab.api;
    let Some(shown) = api.find(&format!("/containers/{name}/json"))? else {
        ensure!(!acknowledged, "created, but not there");
        // The volume is recorded together with its container.
        ensure!(api.find(&format!("/volumes/{name}"))?.is_none(), "its volume is there alone");
        return Ok(());
    };
    let id = shown["Id"].as_str().context("no id")?;
    super::disk::remember(id);
    ensure!(shown["Image"] == lab.image.id, "of image {}", shown["Image"]);
    ensure!(shown["Config"]["Labels"]["trial"] == name, "labels {}", shown["Config"]["Labels"]);
    ensure!(shown["State"]["Status"] == "created", "its state is {}", shown["State"]);
    let mounts = shown["Mounts"].as_array().map_or(0, Vec::len);
    ensure!(mounts == 2, "{mounts} mounts");
    let content = lab::file_in(api, id, &lab::content_path())?;
    ensure!(content == lab.image.content, "the anonymous volume has not the image's content");
    lab::put_file(api, id, "/data", "note", b"noted")?;
    ensure!(lab::run_to_end(api, id)? == 3, "it does not run");
    api.delete(&format!("/containers/{id}?v=1"))?;
    api.delete(&format!("/volumes/{name}")).map(drop)
}

fn start(lab: &Lab, name: &str, number: u32) -> Result<Trial> {
    let mut more = json!({ "Cmd": ["sh", "-c", BEGUN], "OpenStdin": true });
    if number % 2 == 1 {
        more["Volumes"] = json!({ "/content": {} });
        more["HostConfig"] = json!({ "Memory": 64 << 20, "NetworkMode": lab.network });
    }
    let id = lab::create(&lab.api, name, lab::container(&more))?;
    let request = Request::post(format!("/containers/{id}/start"), Value::Null);
    Ok(Trial { request, subject: Subject::Start { id } })
}

fn settle_start(lab: &Lab, id: &str, acknowledged: bool) -> Result<()> {
    let api = &lab.api;
    let state = api.get(&format!("/containers/{id}/json"))?["State"].clone();
    if state["Running"] == true {
        lab::birth(lab::pid_of(api, id)?).context("it has no process")?;
    } else {
        ensure!(!acknowledged, "started, but {state}");
        let is_new = state["Status"] == "created" && state["Pid"] == 0;
        ensure!(is_new, "neither started nor as it was: {state}");
        api.post(&format!("/containers/{id}/start"), Value::Null)?;
    }
    // Once, whichever start it was.
    lab::wait_for_log(api, id, "begun\n")?;
    let exec = lab::exec(api, id, &["echo", "inside"])?;
    ensure!(exec == (b"inside\n".to_vec(), 0), "exec gave {exec:?}");
    api.delete(&format!("/containers/{id}?force=1&v=1")).map(drop)
}

fn rm(lab: &mut Lab, name: &str, number: u32) -> Result<Trial> {
    let was_running = number % 2 == 1;
    let script = if was_running { BEGUN } else { "echo begun; exit 5" };
    let more = json!({
        "Cmd": ["sh", "-c", script], "OpenStdin": was_running,
        "HostConfig": { "NetworkMode": if was_running { lab.network } else { "none" } },
    });
    let id = lab::create(&lab.api, name, lab::container(&more))?;
    let content = lab.random.bytes(10_000);
    lab::put_file(&lab.api, &id, "/work", "data", &content)?;
    if was_running {
        lab.api.post(&format!("/containers/{id}/start"), Value::Null)?;
    } else {
        ensure!(lab::run_to_end(&lab.api, &id)? == 5, "it does not run");
    }
    let before = lab.api.get(&format!("/containers/{id}/json"))?;
    let request = Request::delete(format!("/containers/{id}?force={}", u8::from(was_running)));
    let content = fixture::sha256(&content);
    Ok(Trial { request, subject: Subject::Rm { id, before, content, was_running } })
}

/// The container is still there: as it was, or killed and not yet removed.
fn settle_rm(lab: &Lab, id: &str, before: &Value, content: &str, was_running: bool) -> Result<()> {
    let api = &lab.api;
    let after = api.get(&format!("/containers/{id}/json"))?;
    let is_ended = after["State"]["Status"] == "exited" && after["State"]["ExitCode"] == 137;
    if !(was_running && is_ended) {
        lab::same(before, &after)?;
    }
    ensure!(lab::file_in(api, id, "/work/data")? == content, "its file has changed");
    if !was_running {
        ensure!(lab::run_to_end(api, id)? == 5, "it does not run again");
    }
    api.delete(&format!("/containers/{id}?force=1")).map(drop)
}

fn commit(lab: &mut Lab, name: &str, number: u32) -> Result<Trial> {
    let is_running = number % 2 == 1;
    let script = if is_running { BEGUN } else { "echo begun; exit 5" };
    let more = json!({ "Cmd": ["sh", "-c", script], "OpenStdin": is_running });
    let id = lab::create(&lab.api, name, lab::container(&more))?;
    let content = lab.random.bytes(1 << 20);
    lab::put_file(&lab.api, &id, "/work", "data", &content)?;
    if is_running {
        lab.api.post(&format!("/containers/{id}/start"), Value::Null)?;
    } else {
        ensure!(lab::run_to_end(&lab.api, &id)? == 5, "it does not run");
    }
    let path = format!("/commit?container={id}&repo={name}&tag=1&comment=trial");
    let content = fixture::sha256(&content);
    let name = format!("{name}:1");
    Ok(Trial {
        request: Request::post(path, Value::Null),
        subject: Subject::Commit { id, name, content, is_running },
    })
}

fn settle_commit(
    lab: &Lab,
    id: &str,
    name: &str,
    content: &str,
    is_running: bool,
    acknowledged: bool,
) -> Result<()> {
    let api = &lab.api;
    if is_running {
        // A commit freezes it; nobody may notice.
        lab::pid_of(api, id).context("the committed container")?;
        let exec = lab::exec(api, id, &["echo", "inside"])?;
        ensure!(exec == (b"inside\n".to_vec(), 0), "exec gave {exec:?}");
    }
    ensure!(lab::file_in(api, id, "/work/data")? == content, "the container's file has changed");
    match api.find(&format!("/images/{name}/json"))? {
        None => ensure!(!acknowledged, "committed, but not there"),
        Some(shown) => check_committed(lab, name, content, &shown)?,
    }
    api.delete(&format!("/containers/{id}?force=1")).map(drop)
}

fn check_committed(lab: &Lab, name: &str, content: &str, shown: &Value) -> Result<()> {
    let api = &lab.api;
    let (id, layers) = fixture::read_saved(&api.bytes(&format!("/images/{name}/get"))?)?;
    ensure!(shown["Id"] == id, "{} was saved as {id}", shown["Id"]);
    ensure!(shown["RootFS"]["Layers"] == json!(layers), "other layers were saved");
    ensure!(layers.starts_with(&lab.image.diff_ids), "it does not stand on its parent");
    ensure!(layers.len() == lab.image.diff_ids.len() + 1, "{} layers", layers.len());
    ensure!(shown["Comment"] == "trial", "comment {}", shown["Comment"]);
    let copy = lab::create(api, "copy", json!({ "Image": name, "Cmd": ["true"] }))?;
    ensure!(lab::file_in(api, &copy, "/work/data")? == content, "its file is another one");
    api.delete(&format!("/containers/{copy}"))?;
    api.delete(&format!("/images/{name}")).map(drop)
}

fn rmi(lab: &mut Lab, name: &str, number: u32) -> Result<Trial> {
    let name = format!("{name}:1");
    let mut image = lab.image.sibling(&name, 2, 256 << 10, &mut lab.random)?;
    lab::load(&lab.api, std::slice::from_ref(&image))?;
    let mut path = format!("/images/{name}");
    if number % 2 == 1 {
        // Two names that go together, or not at all.
        let other = name.replace(":1", ":2");
        let (repo, tag) = other.split_once(':').context("a name with a tag")?;
        lab.api.post(&format!("/images/{name}/tag?repo={repo}&tag={tag}"), Value::Null)?;
        image.names.push(other);
        path = format!("/images/{}?force=1", image.id);
    }
    let image = image.without_bytes();
    Ok(Trial { request: Request::delete(path), subject: Subject::Rmi { image } })
}

fn settle_rmi(lab: &Lab, image: &Image, acknowledged: bool) -> Result<()> {
    if lab.api.find(&format!("/images/{}/json", image.id))?.is_none() {
        for name in &image.names {
            let named = lab.api.find(&format!("/images/{name}/json"))?;
            ensure!(named.is_none(), "{name} outlives its image");
        }
        return Ok(());
    }
    ensure!(!acknowledged, "removed, but still there");
    lab::check_image(&lab.api, image)?;
    for name in &image.names {
        lab.api.delete(&format!("/images/{name}"))?;
    }
    Ok(())
}

fn pull(lab: &mut Lab, name: &str) -> Result<Trial> {
    let repository = format!("{}/{name}", lab.registry()?);
    let name = format!("{repository}:1");
    let image = lab.image.sibling(&name, 4, 512 << 10, &mut lab.random)?;
    lab::load(&lab.api, std::slice::from_ref(&image))?;
    lab.api.post(&format!("/images/{repository}/push?tag=1"), Value::Null)?;
    remove_pulled(lab, &image)?;
    let path = format!("/images/create?fromImage={repository}&tag=1");
    let (request, again) = (Request::post(&*path, Value::Null), Request::post(&*path, Value::Null));
    let image = image.without_bytes();
    Ok(Trial { request, subject: Subject::Pull { image, again } })
}

/// Whatever came of it: the same pull succeeds, and leaves nothing but the image.
fn settle_pull(lab: &Lab, image: &Image, again: &Request, acknowledged: bool) -> Result<()> {
    let named = lab.api.find(&format!("/images/{}/json", image.names[0]))?;
    let by_id = lab.api.find(&format!("/images/{}/json", image.id))?;
    ensure!(named.is_some() == by_id.is_some(), "{} has an id or a name only", image.names[0]);
    ensure!(named.is_some() || !acknowledged, "pulled, but not there");
    if named.is_some() {
        lab::check_image(&lab.api, image)?;
    }
    lab.api.expect(again).context("pulled again")?;
    lab::check_image(&lab.api, image)?;
    let checked = lab.api.post("/berth/storage/check?deep=1", Value::Null)?.text();
    ensure!(checked.contains("\"Findings\":0"), "a check says {checked}");
    let downloads = lab.daemon.data_root().join("downloads");
    let left = std::fs::read_dir(&downloads)?.count();
    ensure!(left == 0, "{left} files in {}", downloads.display());
    remove_pulled(lab, image)
}

fn push(lab: &mut Lab, name: &str) -> Result<Trial> {
    let repository = format!("{}/{name}", lab.registry()?);
    let image = lab.image.sibling(&format!("{repository}:1"), 4, 512 << 10, &mut lab.random)?;
    lab::load(&lab.api, std::slice::from_ref(&image))?;
    let path = format!("/images/{repository}/push?tag=1");
    let (request, again) = (Request::post(&*path, Value::Null), Request::post(&*path, Value::Null));
    let image = image.without_bytes();
    Ok(Trial { request, subject: Subject::Push { image, again } })
}

/// What was pushed can be pulled. What may not have been is pushed again, over what is there of it.
fn settle_push(lab: &Lab, image: &Image, again: &Request, acknowledged: bool) -> Result<()> {
    lab::check_image(&lab.api, image)?;
    if !acknowledged {
        lab.api.expect(again).context("pushed again")?;
    }
    remove_pulled(lab, image)?;
    let (repository, tag) = image.names[0].rsplit_once(':').context("a name with a tag")?;
    let path = format!("/images/create?fromImage={repository}&tag={tag}");
    lab.api.post(&path, Value::Null).context("pulled")?;
    lab::check_image(&lab.api, image)?;
    let checked = lab.api.post("/berth/storage/check?deep=1", Value::Null)?.text();
    ensure!(checked.contains("\"Findings\":0"), "a check says {checked}");
    remove_pulled(lab, image)
}

/// By its id: it has the name that it was pulled by, and that with its digest.
fn remove_pulled(lab: &Lab, image: &Image) -> Result<()> {
    lab.api.delete(&format!("/images/{}?force=1", image.id)).map(drop)
}

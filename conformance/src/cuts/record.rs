//! A daemon at work on recorded disks.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Map, Value, json};

use super::expected::{Kind, Marks};
use super::{Lab, NAMELESS, Options, list, syncs};
use crate::client::Client;
use crate::daemon::BerthDaemon;
use crate::kill::fixture::{CONTENT, Image};
use crate::kill::lab;
use crate::kill::random::Random;
use crate::ui;

/// Rounds of operations. Between them the daemon is stopped, started, killed and started again.
const ROUNDS: u64 = 2;
/// The label of containers that stay.
const KEPT: &str = "kept";
/// After it, what was removed is being deleted.
const BACKGROUND: Duration = Duration::from_millis(400);
const LAYERS: usize = 3;
const LAYER_BYTES: usize = 96 << 10;

/// Records each lab that this machine can have, the labs side by side.
pub(super) fn run(options: &Options) -> Result<()> {
    let (possible, missing): (Vec<&Lab>, Vec<&Lab>) =
        options.labs.iter().partition(|lab| lab.missing().is_none());
    for lab in missing {
        ui::detail(&format!("{}: not recorded: {}", lab.name(), lab.missing().unwrap_or_default()));
    }
    std::thread::scope(|scope| {
        let works: Vec<_> =
            possible.iter().map(|&lab| (lab, scope.spawn(|| record(lab, options)))).collect();
        for (lab, work) in works {
            let done = work.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            done.with_context(|| lab.name())?;
        }
        Ok(())
    })
}

fn record(lab: &Lab, options: &Options) -> Result<()> {
    // Declared first: where this fails, the daemon ends before its disk does.
    let attached;
    let mut daemon = BerthDaemon::prepare(&lab.path_name())?;
    lab.format(&lab.path)?;
    attached = lab.attach(&lab.path, daemon.data_root())?;
    let flags = lab.flags();
    daemon.set_flags(&flags.iter().map(String::as_str).collect::<Vec<_>>());
    if let Some(sync) = options.without {
        syncs::leave_out(sync, lab, &attached, &mut daemon)?;
    }
    daemon.restart()?;
    let api = Client::new(&daemon.socket());
    let marks = Marks::on(&lab.path)?;
    let mut work = Work { api, marks, random: Random::new(options.seed) };
    work.settle_in()?;
    for round in 0..ROUNDS {
        work.round(round).with_context(|| format!("round {round}"))?;
        daemon.stop()?;
        if round + 1 < ROUNDS {
            daemon.restart()?;
            daemon.kill9()?;
            daemon.restart()?;
        }
    }
    let mut done = format!("{}: recorded", lab.name());
    if let Some(sync) = options.without {
        let count = syncs::count(&daemon)?;
        ensure!(count > 0, "the daemon never asked for the sync {}", sync.name);
        done = format!("{done} without {}, {count} times", sync.name);
    }
    ui::detail(&done);
    attached.detach()
}

/// A daemon at work.
struct Work {
    api: Client,
    marks: Marks,
    random: Random,
}

impl Work {
    /// What stays for the whole time.
    fn settle_in(&mut self) -> Result<()> {
        self.load("kept:1", None)?;
        self.create("keeper", "kept:1", &[KEPT])
    }

    /// Everything that layers are made and removed by.
    fn round(&mut self, round: u64) -> Result<()> {
        let name = |what: &str| format!("{what}{round}");
        let image = |what: &str| format!("{what}{round}:1");
        let base = self.load(&image("a"), None)?;
        self.load(&image("b"), Some(&base))?;
        self.create(&name("c"), &image("a"), &[])?;
        self.write(&name("c"))?;
        self.commit(&name("c"), &name("k"))?;
        self.create(&name("d"), &image("k"), &[])?;
        self.write(&name("d"))?;
        self.commit(&name("d"), &name("l"))?;
        self.create(&name("e"), &image("l"), &[KEPT])?;
        self.create(&name("h"), &image("b"), &[])?;
        self.remove_container(&name("c"))?;
        self.load(&image("i"), None)?;
        self.remove_image(&image("i"))?;
        std::thread::sleep(BACKGROUND);
        self.load(&image("f"), Some(&base))?;
        self.remove_container(&name("d"))?;
        self.remove_image(&image("f"))?;
        self.load(&image("f"), Some(&base))?;
        self.prune_containers()?;
        self.prune_images()?;
        self.load(&image("g"), None)?;
        Ok(())
    }

    fn load(&mut self, name: &str, sibling: Option<&Image>) -> Result<Image> {
        let image = match sibling {
            None => Image::plain(name, LAYERS, LAYER_BYTES, &mut self.random)?,
            Some(base) => base.sibling(name, LAYERS - 1, LAYER_BYTES, &mut self.random)?,
        };
        let facts = json!({ "id": image.id, "layers": image.diff_ids });
        self.marks.make(Kind::Images, name, facts.clone(), || {
            lab::load(&self.api, std::slice::from_ref(&image))?;
            Ok(facts)
        })?;
        Ok(image)
    }

    fn create(&mut self, name: &str, image: &str, labels: &[&str]) -> Result<()> {
        let labels: Value = labels.iter().map(|label| ((*label).to_owned(), json!(""))).collect();
        let body = json!({
            "Image": image, "Labels": labels, "HostConfig": { "NetworkMode": "none" },
        });
        self.marks.make(Kind::Containers, name, Value::Null, || {
            let id = lab::create(&self.api, name, body)?;
            let content = lab::file_in(&self.api, name, &format!("/{CONTENT}"))?;
            Ok(json!({ "id": id, "content": content }))
        })
    }

    /// Copies something into a container. What of that lasts is the kernel's business.
    fn write(&mut self, container: &str) -> Result<()> {
        let content = self.random.bytes(LAYER_BYTES);
        lab::put_file(&self.api, container, "/", "written", &content)
    }

    fn commit(&mut self, container: &str, repository: &str) -> Result<()> {
        self.marks.make(Kind::Images, &format!("{repository}:1"), Value::Null, || {
            let path = format!("/commit?container={container}&repo={repository}&tag=1");
            let made = self.api.post(&path, json!({}))?.json()?;
            let facts = facts(&self.api, &format!("{repository}:1"))?;
            ensure!(facts["id"] == made["Id"], "committed as {}", made["Id"]);
            Ok(facts)
        })
    }

    fn remove_container(&mut self, name: &str) -> Result<()> {
        self.marks.remove(Kind::Containers, &[name.to_owned()], || {
            self.api.delete(&format!("/containers/{name}"))?;
            Ok(Map::new())
        })
    }

    fn remove_image(&mut self, name: &str) -> Result<()> {
        self.marks.remove(Kind::Images, &[name.to_owned()], || {
            self.api.delete(&format!("/images/{name}"))?;
            Ok(Map::new())
        })
    }

    /// Removes all containers without a label.
    fn prune_containers(&mut self) -> Result<()> {
        let mut names = self.marks.names(Kind::Containers);
        names.retain(|name| name != "keeper" && !name.starts_with('e'));
        let prune = format!("/containers/prune?filters=%7B%22label!%22%3A%5B%22{KEPT}%22%5D%7D");
        self.marks.remove(Kind::Containers, &names, || {
            self.api.post(&prune, Value::Null)?;
            Ok(Map::new())
        })
    }

    /// Removes all images that no container has. Those below others lose their names only.
    fn prune_images(&mut self) -> Result<()> {
        let containers = self.api.get("/containers/json?all=1")?;
        let used = |name: &str| list(&containers).any(|container| container["Image"] == name);
        let mut names = self.marks.names(Kind::Images);
        names.retain(|name| !used(name));
        let prune = "/images/prune?filters=%7B%22dangling%22%3A%5B%22false%22%5D%7D";
        self.marks.remove(Kind::Images, &names, || {
            self.api.post(prune, Value::Null)?;
            let images = self.api.get("/images/json?all=1")?;
            let nameless =
                list(&images).filter(|image| list(&image["RepoTags"]).all(|tag| tag == NAMELESS));
            let facts_of = |image: &Value| {
                let id = image["Id"].as_str().context("an image has an id")?;
                Ok((id.to_owned(), facts(&self.api, id)?))
            };
            nameless.map(facts_of).collect()
        })
    }
}

fn facts(api: &Client, image: &str) -> Result<Value> {
    let shown = api.get(&format!("/images/{image}/json"))?;
    Ok(json!({ "id": shown["Id"], "layers": shown["RootFS"]["Layers"] }))
}

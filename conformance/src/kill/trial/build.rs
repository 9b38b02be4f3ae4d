//! A build: stages beside each other, files of the client, a cache, commands.

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::{Lab, Subject, Trial, lab};
use crate::client::Request;
use crate::kill::lab::PATIENCE;

/// What is asked for, and how to ask for it again.
#[derive(Debug)]
pub(super) struct Built {
    name: String,
    /// What the copied file says, which no other build's does.
    mark: String,
    path: String,
    context: Vec<u8>,
}

pub(super) fn prepare(lab: &mut Lab, name: &str) -> Result<Trial> {
    let mark = format!("{:016x}", lab.random.next());
    let content = lab.random.bytes(256 << 10);
    let file = format!(
        "FROM kept:1 AS one\nLABEL mark={mark}\nRUN echo {mark} >/one\n\
         FROM kept:1 AS two\nLABEL mark={mark}\nCOPY content /two\n\
         RUN --mount=type=cache,target=/cache echo {mark} >>/cache/log; cp /cache/log /log\n\
         FROM kept:1\nWORKDIR /w/{mark}\nCOPY --from=one /one .\nCOPY --from=two /two .\n\
         RUN cat one; rm -r /content\nCMD [\"cat\", \"one\"]\n"
    );
    let mut tar = tar::Builder::new(Vec::new());
    for (name, bytes) in [("Dockerfile", file.as_bytes()), ("content", &content)] {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(bytes.len() as u64);
        tar.append_data(&mut header, name, bytes)?;
    }
    let built = Built {
        name: name.to_owned(),
        mark,
        path: format!("/build?t={name}&networkmode=none&rm=1"),
        context: tar.into_inner()?,
    };
    Ok(Trial { request: built.request(), subject: Subject::Build(built) })
}

impl Built {
    fn request(&self) -> Request {
        Request::post_tar(&*self.path, self.context.clone())
    }

    /// Whatever came of it: no container is left, the same build succeeds, and goes on where it was cut
    /// off; it gives what an acknowledged one gave.
    pub(super) fn settle(&self, lab: &Lab, acknowledged: bool) -> Result<()> {
        self.wait_for_no_containers(lab)?;
        let first = self.id(lab)?;
        ensure!(first.is_some() || !acknowledged, "built, but not there");
        let said = self.build(lab).context("built again")?;
        let second = self.id(lab)?.context("built again, but not there")?;
        if let Some(first) = first {
            ensure!(first == second, "{first} was built, and then {second}");
            ensure!(!said.contains("Running in"), "built, but not cached: {said}");
        }
        let third = (self.build(lab)?, self.id(lab)?);
        ensure!(third.1.as_ref() == Some(&second), "{second} was built, and then {:?}", third.1);
        ensure!(!third.0.contains("Running in"), "not cached: {}", third.0);
        self.check_content(lab)?;
        let checked = lab.api.post("/berth/storage/check?deep=1", Value::Null)?.text();
        ensure!(checked.contains("\"Findings\":0"), "a check says {checked}");
        self.remove(lab)
    }

    fn build(&self, lab: &Lab) -> Result<String> {
        let said = lab.api.expect(&self.request())?.text();
        ensure!(said.contains("Successfully tagged"), "{said}");
        Ok(said)
    }

    fn id(&self, lab: &Lab) -> Result<Option<String>> {
        let shown = lab.api.find(&format!("/images/{}/json", self.name))?;
        Ok(shown.and_then(|image| Some(image["Id"].as_str()?.to_owned())))
    }

    fn wait_for_no_containers(&self, lab: &Lab) -> Result<()> {
        let begun = Instant::now();
        loop {
            let all = lab.api.get("/containers/json?all=1")?;
            let left = all.as_array().into_iter().flatten().filter(|container| {
                let id = container["Image"].as_str().unwrap_or_default();
                id != "kept:1"
                    || container["Command"].as_str().unwrap_or_default().contains(&self.mark)
            });
            let left: Vec<&Value> = left.collect();
            if left.is_empty() {
                return Ok(());
            }
            ensure!(begun.elapsed() < PATIENCE, "left behind: {left:?}");
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }

    /// The image runs, and has what was copied into it.
    fn check_content(&self, lab: &Lab) -> Result<()> {
        let body = json!({ "Image": self.name, "HostConfig": { "NetworkMode": "none" } });
        let id = lab::create(&lab.api, &format!("{}-run", self.name), body)?;
        let code = lab::run_to_end(&lab.api, &id)?;
        ensure!(code == 0, "the image's command ended with {code}");
        lab::wait_for_log(&lab.api, &id, &format!("{}\n", self.mark))?;
        lab.api.delete(&format!("/containers/{id}?force=1"))?;
        Ok(())
    }

    fn remove(&self, lab: &Lab) -> Result<()> {
        lab.api.delete(&format!("/images/{}", self.name))?;
        lab.api
            .post("/images/prune?filters=%7B%22dangling%22%3A%5B%22true%22%5D%7D", Value::Null)?;
        lab.api.post("/build/prune", Value::Null)?;
        let images = lab.api.get("/images/json?all=1")?;
        let left = images.as_array().map_or(0, Vec::len);
        ensure!(left == 1, "{left} images are left: {images}");
        Ok(())
    }
}

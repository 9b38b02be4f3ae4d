//! An engine with things in it that must survive whatever happens, and the checks that they did.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use super::disk;
use super::fixture::{self, CONTENT, Image};
use super::random::Random;
use crate::client::{Client, Request, unframe};
use crate::daemon::BerthDaemon;
use crate::registry::{self, Registries};

/// How long something that must happen may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
const NAP: Duration = Duration::from_millis(5);

/// Counts for ever, a line every 20 ms.
const COUNTER: &str = "i=0; while :; do i=$((i+1)); echo $i; usleep 20000; done";

/// An engine and what lives in it all the time.
#[derive(Debug)]
pub(super) struct Lab {
    /// Started by the first trial that needs it.
    registries: Option<Registries>,
    pub(super) daemon: BerthDaemon,
    pub(super) api: Client,
    pub(super) random: Random,
    /// The image that everything is made of.
    pub(super) image: Image,
    /// A container that writes numbers, and its state as it was when it was started.
    counter: Running,
    /// A container that repeats what it is told.
    echo: Running,
    /// A container that has ended, as inspect showed it, and the digest of the file in it.
    keeper: (Value, String),
    image_inspect: Value,
    /// The last number that was seen of the counter.
    counted: u64,
    /// The network that containers can be on; `none` where this machine has no other.
    pub(super) network: &'static str,
    /// How long the daemon took to come up, each time.
    pub(super) starts: Vec<Duration>,
}

#[derive(Debug)]
struct Running {
    id: String,
    pid: u64,
    /// When the kernel started it, which tells it from another process with its number.
    born: String,
    /// Its address, its ports: what inspect says of its network.
    network: Value,
}

impl Lab {
    /// A new engine on new directories.
    pub(super) fn new(name: &str, seed: u64) -> Result<Self> {
        disk::forget_all();
        let mut random = Random::new(seed);
        let mut daemon = BerthDaemon::prepare(name)?;
        let has_bridge = daemon.set_namespace().is_ok();
        if !has_bridge {
            daemon.set_flags(&["--bridge=none"]);
        }
        daemon.restart()?;
        let api = Client::new(&daemon.socket());
        let image = Image::new("kept:1", 2, 128 << 10, &mut random)?;
        load(&api, std::slice::from_ref(&image))?;
        let counter = run(&api, "counter", &json!({ "Cmd": ["sh", "-c", COUNTER] }))?;
        let network = if has_bridge { "default" } else { "none" };
        let echo = run(
            &api,
            "echo",
            &json!({
                "Cmd": ["cat"], "OpenStdin": true, "HostConfig": { "NetworkMode": network }
            }),
        )?;
        let content = random.bytes(20_000);
        let body = container(&json!({ "Cmd": ["sh", "-c", "echo kept > /work/note; exit 5"] }));
        let keeper = create(&api, "keeper", body)?;
        let tar = fixture::tar_of("data", &content)?;
        let put =
            Request { method: "PUT", ..Request::post_tar(archive_path(&keeper, "/work"), tar) };
        api.expect(&put)?;
        ensure!(run_to_end(&api, &keeper)? == 5, "the keeper did not end with 5");
        let image_inspect = api.get("/images/kept:1/json")?;
        let mut lab = Self {
            registries: None,
            keeper: (api.get(&format!("/containers/{keeper}/json"))?, fixture::sha256(&content)),
            daemon,
            api,
            random,
            image: image.clone(),
            counter,
            echo,
            image_inspect,
            counted: 0,
            network,
            starts: Vec::new(),
        };
        lab.check()?;
        Ok(lab)
    }

    /// The address of a registry beside the engine.
    pub(super) fn registry(&mut self) -> Result<&'static str> {
        if self.registries.is_none() {
            let flag = self.daemon.namespace_flag();
            self.registries = Some(Registries::start(flag.as_deref())?);
        }
        Ok(registry::OPEN)
    }

    /// Starts the daemon again after it was killed. `steps` is where it notes named steps, and how
    /// long it stays in each.
    pub(super) fn restart(&mut self, steps: Option<(&str, Duration)>) -> Result<()> {
        self.daemon.kill9()?;
        match steps {
            None => self.daemon.set_env(&[]),
            Some((file, pause)) => {
                let pause = pause.as_millis().to_string();
                self.daemon.set_env(&[("BERTH_STEPS", file), ("BERTH_STEPS_PAUSE_MS", &pause)]);
            }
        }
        let took = self.daemon.restart()?;
        self.starts.push(took);
        Ok(())
    }

    /// Everything that was acknowledged when the engine was new is there, byte for byte, what ran
    /// runs on, and the directories hold nothing that the engine does not know.
    pub(super) fn check(&mut self) -> Result<()> {
        self.check_counter().context("the counter")?;
        self.check_echo().context("the echo")?;
        self.check_keeper().context("the keeper")?;
        self.check_image().context("the image")?;
        self.check_disk()
    }

    /// The directories hold nothing that the engine does not know. Deleting happens in the background, so
    /// it gets a little time.
    pub(super) fn check_disk(&self) -> Result<()> {
        let begun = Instant::now();
        loop {
            let strangers = disk::strangers(&self.daemon, &self.api)?;
            if strangers.is_empty() {
                return Ok(());
            }
            if begun.elapsed() > PATIENCE {
                bail!("left behind: {}", strangers.join(", "));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn check_counter(&mut self) -> Result<()> {
        self.counter.runs_on(&self.api)?;
        let seen = self.numbers("")?;
        ensure!(seen > 0 && seen >= self.counted, "saw {} before, {seen} now", self.counted);
        self.counted = seen;
        let exec = exec(&self.api, &self.counter.id, &["sh", "-c", "echo inside; exit 4"])?;
        ensure!(exec == (b"inside\n".to_vec(), 4), "exec gave {exec:?}");
        // Those who follow get everything from the first number on, and what comes next.
        let path = format!("/containers/{}/logs?stdout=1&follow=1", self.counter.id);
        let wanted = format!("\n{}\n", seen + 2);
        let text = self.api.follow(&path)?.read_until(|out| contains(out, wanted.as_bytes()));
        in_sequence(&text)?;
        ensure!(contains(&text, wanted.as_bytes()), "{} does not come", seen + 2);
        Ok(())
    }

    /// Reads the counter's whole log, and gives the last number.
    fn numbers(&self, query: &str) -> Result<u64> {
        let path = format!("/containers/{}/logs?stdout=1{query}", self.counter.id);
        in_sequence(&unframe(&self.api.bytes(&path)?))
    }

    fn check_echo(&mut self) -> Result<()> {
        self.echo.runs_on(&self.api)?;
        let path = format!("/containers/{}/attach?stream=1&stdin=1&stdout=1", self.echo.id);
        let mut stream = self.api.hijack(&path, Value::Null)?;
        let word = format!("{:016x}\n", self.random.next());
        stream.write(word.as_bytes())?;
        let heard = stream.read_until(|out| out.len() >= word.len());
        ensure!(
            heard == word.as_bytes(),
            "said {word:?}, heard {:?}",
            String::from_utf8_lossy(&heard)
        );
        Ok(())
    }

    fn check_keeper(&self) -> Result<()> {
        let (before, content) = &self.keeper;
        let id = before["Id"].as_str().unwrap_or_default();
        same(before, &self.api.get(&format!("/containers/{id}/json"))?)?;
        ensure!(file_in(&self.api, id, "/work/data")? == *content, "its file has changed");
        let note = fixture::sha256(b"kept\n");
        ensure!(file_in(&self.api, id, "/work/note")? == note, "what it wrote has changed");
        Ok(())
    }

    fn check_image(&self) -> Result<()> {
        same(&self.image_inspect, &self.api.get("/images/kept:1/json")?)?;
        check_image(&self.api, &self.image)
    }

    /// Reads the counter's log from another thread's point of view: until the connection is cut.
    pub(super) fn follow_counter(&self) -> Result<crate::client::Stream> {
        self.api.follow(&format!("/containers/{}/logs?stdout=1&follow=1", self.counter.id))
    }
}

impl Running {
    fn of(api: &Client, id: &str) -> Result<Self> {
        let pid = pid_of(api, id)?;
        let network = api.get(&format!("/containers/{id}/json"))?["NetworkSettings"].clone();
        let born = birth(pid).context("it ended at once")?;
        Ok(Self { id: id.to_owned(), pid, born, network })
    }

    fn runs_on(&self, api: &Client) -> Result<()> {
        let shown = api.get(&format!("/containers/{}/json", self.id))?;
        let state = &shown["State"];
        same(&self.network, &shown["NetworkSettings"]).context("its network")?;
        ensure!(state["Status"] == "running" && state["Pid"] == self.pid, "its state is {state}");
        ensure!(birth(self.pid).as_ref() == Some(&self.born), "its process is another one");
        Ok(())
    }
}

/// The number of a container's first process; fails when it does not run.
pub(super) fn pid_of(api: &Client, id: &str) -> Result<u64> {
    let state = &api.get(&format!("/containers/{id}/json"))?["State"];
    match (state["Status"].as_str(), state["Pid"].as_u64()) {
        (Some("running"), Some(pid)) if pid > 0 => Ok(pid),
        _ => bail!("its state is {state}"),
    }
}

/// When a process was started, in the kernel's ticks; `None` when there is none, or only what its
/// parent has not waited for.
pub(super) fn birth(pid: u64) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    if matches!(*fields.first()?, "Z" | "X") {
        return None;
    }
    fields.get(19).map(|&ticks| ticks.to_owned())
}

/// The numbers from 1 on, each on a line, none lost or doubled; gives the last whole one.
pub(super) fn in_sequence(text: &[u8]) -> Result<u64> {
    let text = String::from_utf8_lossy(text);
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let mut last = 0;
    for line in whole.lines() {
        ensure!(line.parse() == Ok(last + 1), "{line:?} comes after {last}");
        last += 1;
    }
    Ok(last)
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

/// Fails unless both are equal, and says where they differ first.
pub(crate) fn same(before: &Value, after: &Value) -> Result<()> {
    if let (Value::Object(old), Value::Object(new)) = (before, after) {
        for key in old.keys().chain(new.keys()) {
            let (old, new) = (old.get(key), new.get(key));
            if old != new {
                same(old.unwrap_or(&Value::Null), new.unwrap_or(&Value::Null))
                    .with_context(|| key.clone())?;
            }
        }
    }
    ensure!(before == after, "was {before}, is {after}");
    Ok(())
}

/// A create request's body of the image of the lab.
pub(super) fn container(more: &Value) -> Value {
    let mut body = json!({ "Image": "kept:1", "HostConfig": { "NetworkMode": "none" } });
    merge(&mut body, more);
    body
}

fn merge(into: &mut Value, more: &Value) {
    match (into, more) {
        (Value::Object(into), Value::Object(more)) => {
            for (key, value) in more {
                merge(into.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (into, more) => *into = more.clone(),
    }
}

/// Creates a container and gives its id.
pub(crate) fn create(api: &Client, name: &str, body: Value) -> Result<String> {
    let made = api.post(&format!("/containers/create?name={name}"), body)?.json()?;
    let id = made["Id"].as_str().context("no id")?;
    disk::remember(id);
    Ok(id.to_owned())
}

fn run(api: &Client, name: &str, more: &Value) -> Result<Running> {
    let id = create(api, name, container(more))?;
    api.post(&format!("/containers/{id}/start"), Value::Null)?;
    Running::of(api, &id)
}

/// Starts a container, waits for its end, and gives its exit code.
pub(super) fn run_to_end(api: &Client, id: &str) -> Result<i64> {
    api.post(&format!("/containers/{id}/start"), Value::Null)?;
    wait(api, id)
}

/// Waits until a container has ended and gives its exit code.
pub(super) fn wait(api: &Client, id: &str) -> Result<i64> {
    let ended = api.post(&format!("/containers/{id}/wait"), Value::Null)?.json()?;
    ended["StatusCode"].as_i64().context("no status code")
}

/// Waits for `what` to be true of a container's state.
pub(super) fn wait_for_state(
    api: &Client,
    id: &str,
    what: &str,
    is_so: impl Fn(&Value) -> bool,
) -> Result<Value> {
    let begun = Instant::now();
    loop {
        let state = api.get(&format!("/containers/{id}/json"))?["State"].clone();
        if is_so(&state) {
            return Ok(state);
        }
        ensure!(begun.elapsed() < PATIENCE, "not {what}: {state}");
        std::thread::sleep(NAP);
    }
}

/// Runs a program in a container; gives what it wrote and its exit code.
pub(super) fn exec(api: &Client, id: &str, command: &[&str]) -> Result<(Vec<u8>, i64)> {
    let body = json!({ "Cmd": command, "AttachStdout": true, "AttachStderr": true });
    let made = api.post(&format!("/containers/{id}/exec"), body)?.json()?;
    let exec = made["Id"].as_str().context("no id")?;
    let path = format!("/exec/{exec}/start");
    let output = api.hijack(&path, json!({ "Detach": false }))?.read_until(|_| false);
    let begun = Instant::now();
    loop {
        let state = api.get(&format!("/exec/{exec}/json"))?;
        if state["Running"] == false {
            return Ok((output, state["ExitCode"].as_i64().context("no exit code")?));
        }
        ensure!(begun.elapsed() < PATIENCE, "the exec does not end");
        std::thread::sleep(NAP);
    }
}

fn archive_path(id: &str, path: &str) -> String {
    format!("/containers/{id}/archive?path={path}")
}

/// The digest of a file in a container.
pub(crate) fn file_in(api: &Client, id: &str, path: &str) -> Result<String> {
    let tar = api.bytes(&archive_path(id, path))?;
    Ok(fixture::sha256(&fixture::only_file(&tar)?))
}

/// Puts a file into a container.
pub(crate) fn put_file(
    api: &Client,
    id: &str,
    dir: &str,
    name: &str,
    content: &[u8],
) -> Result<()> {
    let tar = fixture::tar_of(name, content)?;
    let put = Request { method: "PUT", ..Request::post_tar(archive_path(id, dir), tar) };
    api.expect(&put).map(drop)
}

/// Loads images by one archive.
pub(crate) fn load(api: &Client, images: &[Image]) -> Result<()> {
    api.expect(&Request::post_tar("/images/load?quiet=1", fixture::archive(images)?)).map(drop)
}

/// An image is there as it was loaded: by name, by id, and by every byte of its layers.
pub(crate) fn check_image(api: &Client, image: &Image) -> Result<()> {
    for name in &image.names {
        let shown = api.get(&format!("/images/{name}/json"))?;
        ensure!(shown["Id"] == image.id, "{name} is {}", shown["Id"]);
        ensure!(shown["RootFS"]["Layers"] == json!(image.diff_ids), "{name} has other layers");
        let saved = fixture::read_saved(&api.bytes(&format!("/images/{name}/get"))?)?;
        let expected = (image.id.clone(), image.diff_ids.clone());
        ensure!(saved == expected, "{name} was saved as {saved:?}, not as {expected:?}");
    }
    Ok(())
}

/// The path in a container of the random file that each test image has.
pub(super) fn content_path() -> String {
    format!("/{CONTENT}")
}

/// Waits until a container has written exactly this.
pub(super) fn wait_for_log(api: &Client, id: &str, expected: &str) -> Result<()> {
    let begun = Instant::now();
    loop {
        let bytes = api.bytes(&format!("/containers/{id}/logs?stdout=1&stderr=1"))?;
        let text = String::from_utf8_lossy(&unframe(&bytes)).into_owned();
        if text == expected {
            return Ok(());
        }
        let may_come = expected.starts_with(&text) && begun.elapsed() < PATIENCE;
        ensure!(may_come, "wrote {text:?} and not {expected:?}");
        std::thread::sleep(NAP);
    }
}

//! What holds of containers over any storage driver.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::engine::Engine;

pub(super) fn changes(engine: &mut Engine) -> Result<()> {
    let container = engine.run("echo new >/file; rm /bin/cat", &json!({}))?;
    ensure!(container.wait()? == 0, "{}", container.output()?);
    let mut found = engine.api().get(&container.path("/changes"))?;
    let found = found.as_array_mut().context("a list")?;
    found.sort_by_key(|change| change["Path"].to_string());
    let expected = json!([
        { "Path": "/bin", "Kind": 0 }, { "Path": "/bin/cat", "Kind": 2 }, { "Path": "/file", "Kind": 1 },
    ]);
    ensure!(Value::from(found.clone()) == expected, "{found:?}");
    let id = container.path("").replace("/containers/", "");
    engine.api().post(&format!("/commit?container={id}&repo=committed"), json!({}))?;
    let run = json!({
        "Image": "committed", "Cmd": ["sh", "-c", "read x </file; echo $x; ls /bin/cat"], "Tty": true,
        "HostConfig": { "NetworkMode": "none" },
    });
    let second = engine.run_config(&run)?;
    second.wait()?;
    let output = second.output()?;
    ensure!(output.starts_with("new\n") && output.contains("No such file"), "{output}");
    drop(second);
    engine.api().delete("/images/committed").map(drop)
}

pub(super) fn outlives(engine: &mut Engine) -> Result<()> {
    let container = engine.run("echo kept >/file; sleep 1000", &json!({}))?.leave();
    engine.kill_and_restart()?;
    let container = engine.container(container);
    ensure!(container.state()?["Running"] == true, "{}", container.state()?);
    container.post("/kill", Value::Null)?;
    container.wait()?;
    let found = engine.api().get(&container.path("/changes"))?.to_string();
    ensure!(found.contains("/file"), "{found}");
    // Its layer is mounted again, where that takes an activation too.
    container.post("/start", Value::Null)?;
    ensure!(container.state()?["Running"] == true, "{}", container.state()?);
    Ok(())
}

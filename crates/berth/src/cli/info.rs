//! `info` and `version`.

use std::fmt::Write as _;

use berth_client::{Client, Query};
use berth_types::size;
use serde_json::{Value, json};

use super::args::FormatArgs;
use super::error::CliError;
use super::{template, ui};

pub(super) async fn info(client: &Client, args: FormatArgs) -> Result<u8, CliError> {
    let info: Value = client.get(&["info"], &Query::new()).await?;
    match args.format.as_deref().map(str::trim) {
        Some("json") => ui::line(&serde_json::to_string(&info)?)?,
        Some(format) => ui::line(&template::render(format, &info)?)?,
        None => {
            ui::text(&format!(
                "Client:\n Version:    {}\n Context:    default\n Debug Mode: false\n\nServer:\n",
                env!("CARGO_PKG_VERSION")
            ))?;
            ui::line(&server_lines(&info))?;
            for warning in info["Warnings"].as_array().into_iter().flatten() {
                ui::error(warning.as_str().unwrap_or_default());
            }
        }
    }
    Ok(0)
}

/// A line of `info`: its heading and where the value is. Absent and empty values have no line.
const FIELDS_BEFORE: &[(&str, &str)] =
    &[("Server Version", "/ServerVersion"), ("Storage Driver", "/Driver")];
const FIELDS_DRIVERS: &[(&str, &str)] = &[
    ("Logging Driver", "/LoggingDriver"),
    ("Cgroup Driver", "/CgroupDriver"),
    ("Cgroup Version", "/CgroupVersion"),
];
const FIELDS_RUNTIME: &[(&str, &str)] = &[
    ("Default Runtime", "/DefaultRuntime"),
    ("Init Binary", "/InitBinary"),
    ("containerd version", "/ContainerdCommit/ID"),
    ("runc version", "/RuncCommit/ID"),
    ("init version", "/InitCommit/ID"),
];
const FIELDS_HOST: &[(&str, &str)] = &[
    ("Kernel Version", "/KernelVersion"),
    ("Operating System", "/OperatingSystem"),
    ("OSType", "/OSType"),
    ("Architecture", "/Architecture"),
    ("CPUs", "/NCPU"),
];

fn server_lines(info: &Value) -> String {
    let mut text = String::new();
    let count = |name: &str| info[name].as_i64().unwrap_or_default();
    let mut line = |line: String| writeln!(text, " {line}").expect("writing to memory");
    line(format!("Containers: {}", count("Containers")));
    line(format!(" Running: {}", count("ContainersRunning")));
    line(format!(" Paused: {}", count("ContainersPaused")));
    line(format!(" Stopped: {}", count("ContainersStopped")));
    line(format!("Images: {}", count("Images")));
    let fields = |fields: &[(&str, &str)], line: &mut dyn FnMut(String)| {
        for (heading, path) in fields {
            let value = info.pointer(path).map(template::go_display).unwrap_or_default();
            if !value.is_empty() && value != "<no value>" {
                line(format!("{heading}: {value}"));
            }
        }
    };
    fields(FIELDS_BEFORE, &mut line);
    for pair in info["DriverStatus"].as_array().into_iter().flatten() {
        let cell = |index: usize| pair[index].as_str().unwrap_or_default();
        line(format!(" {}: {}", cell(0), cell(1)));
    }
    fields(FIELDS_DRIVERS, &mut line);
    line("Plugins:".to_owned());
    for (heading, name) in [("Volume", "Volume"), ("Network", "Network"), ("Log", "Log")] {
        let names = info["Plugins"][name].as_array().map(Vec::as_slice).unwrap_or_default();
        let names: Vec<&str> = names.iter().filter_map(Value::as_str).collect();
        line(format!(" {heading}: {}", names.join(" ")));
    }
    if let Some(state) = info["Swarm"]["LocalNodeState"].as_str() {
        line(format!("Swarm: {state}"));
    }
    let runtimes = info["Runtimes"].as_object();
    let runtimes: Vec<&str> =
        runtimes.map(|all| all.keys().map(String::as_str).collect()).unwrap_or_default();
    if !runtimes.is_empty() {
        line(format!("Runtimes: {}", runtimes.join(" ")));
    }
    fields(FIELDS_RUNTIME, &mut line);
    security_lines(info, &mut line);
    fields(FIELDS_HOST, &mut line);
    #[expect(clippy::cast_precision_loss, reason = "four digits are shown")]
    let memory = count("MemTotal") as f64;
    line(format!("Total Memory: {}", size::binary(memory)));
    fields(&[("Name", "/Name"), ("ID", "/ID"), ("Docker Root Dir", "/DockerRootDir")], &mut line);
    line(format!("Debug Mode: {}", info["Debug"] == true));
    if info["Debug"] == true {
        line(format!(" File Descriptors: {}", count("NFd")));
        line(format!(" Goroutines: {}", count("NGoroutines")));
        line(format!(" System Time: {}", info["SystemTime"].as_str().unwrap_or_default()));
        line(format!(" EventsListeners: {}", count("NEventsListener")));
    }
    list_lines("Labels", info["Labels"].as_array(), &mut line);
    line(format!("Experimental: {}", info["ExperimentalBuild"] == true));
    list_lines(
        "Insecure Registries",
        info.pointer("/RegistryConfig/InsecureRegistryCIDRs").and_then(Value::as_array),
        &mut line,
    );
    line(format!("Live Restore Enabled: {}", info["LiveRestoreEnabled"] == true));
    text
}

fn security_lines(info: &Value, line: &mut dyn FnMut(String)) {
    let options = info["SecurityOptions"].as_array().map(Vec::as_slice).unwrap_or_default();
    if options.is_empty() {
        return;
    }
    line("Security Options:".to_owned());
    for option in options.iter().filter_map(Value::as_str) {
        for (index, part) in option.split(',').enumerate() {
            let (key, value) = part.split_once('=').unwrap_or(("name", part));
            if index == 0 {
                line(format!(" {value}"));
            } else {
                let mut heading = key.to_owned();
                if let Some(first) = heading.get_mut(..1) {
                    first.make_ascii_uppercase();
                }
                line(format!("  {heading}: {value}"));
            }
        }
    }
}

fn list_lines(heading: &str, items: Option<&Vec<Value>>, line: &mut dyn FnMut(String)) {
    let Some(items) = items.filter(|items| !items.is_empty()) else { return };
    line(format!("{heading}:"));
    for item in items.iter().filter_map(Value::as_str) {
        line(format!(" {item}"));
    }
}

/// Prints this program's version also where no daemon answers.
pub(super) async fn version(
    client: Result<Client, CliError>,
    args: &FormatArgs,
) -> Result<u8, CliError> {
    let (server, failure) = match client {
        Ok(client) => {
            let server: Value = client.get(&["version"], &Query::new()).await?;
            (Some((server, client.api_version())), None)
        }
        Err(error) => (None, Some(error)),
    };
    let api = server.as_ref().map_or("1.51".to_owned(), |(_, api)| api.clone());
    let own = json!({
        "Version": env!("CARGO_PKG_VERSION"),
        "ApiVersion": api,
        "Os": std::env::consts::OS,
        "Arch": arch(),
        "Context": "default",
    });
    let server = server.map_or(Value::Null, |(server, _)| server);
    match args.format.as_deref().map(str::trim) {
        Some("json") => {
            ui::line(&serde_json::to_string(&json!({"Client": own, "Server": server}))?)?;
        }
        Some(format) => {
            let both = json!({"Client": own, "Server": server});
            ui::line(&template::render(format, &both)?)?;
        }
        None => {
            ui::text(&client_lines(&own))?;
            if !server.is_null() {
                ui::text(&format!("\n{}", version_lines(&server)))?;
            }
        }
    }
    failure.map_or(Ok(0), Err)
}

fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn client_lines(own: &Value) -> String {
    let cell = |name: &str| own[name].as_str().unwrap_or_default();
    format!(
        "Client:\n Version:           {}\n API version:       {}\n OS/Arch:           {}/{}\n \
         Context:           {}\n",
        cell("Version"),
        cell("ApiVersion"),
        cell("Os"),
        cell("Arch"),
        cell("Context")
    )
}

fn version_lines(server: &Value) -> String {
    let platform = server["Platform"]["Name"].as_str().unwrap_or_default();
    let mut text =
        if platform.is_empty() { "Server:\n".to_owned() } else { format!("Server: {platform}\n") };
    let mut line = |heading: &str, value: &str| {
        writeln!(text, "  {heading:<18}{value}").expect("writing to memory");
    };
    let mut components = String::new();
    for component in server["Components"].as_array().into_iter().flatten() {
        let details = &component["Details"];
        let detail = |name: &str| details[name].as_str().unwrap_or_default();
        let name = component["Name"].as_str().unwrap_or_default();
        let version = component["Version"].as_str().unwrap_or_default();
        if name == "Engine" {
            line("Version:", version);
            let least = detail("MinAPIVersion");
            line("API version:", &format!("{} (minimum version {least})", detail("ApiVersion")));
            line("Git commit:", detail("GitCommit"));
            line("Built:", detail("BuildTime"));
            line("OS/Arch:", &format!("{}/{}", detail("Os"), detail("Arch")));
            line("Experimental:", detail("Experimental"));
            continue;
        }
        writeln!(components, " {name}:\n  {:<18}{version}", "Version:").expect("writing to memory");
        for (key, value) in details.as_object().into_iter().flatten() {
            let heading = format!("{key}:");
            writeln!(components, "  {heading:<18}{}", value.as_str().unwrap_or_default())
                .expect("writing to memory");
        }
    }
    let engine = text.replacen('\n', "\n Engine:\n", 1);
    engine + &components
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn info_prints_the_lines_of_the_guide() {
        let info = json!({
            "Containers": 3, "ContainersRunning": 1, "ContainersStopped": 2, "Images": 2,
            "ServerVersion": "1", "Driver": "overlay2",
            "DriverStatus": [["Backing Filesystem", "extfs"], ["Supports d_type", "true"]],
            "LoggingDriver": "json-file", "Plugins": {"Volume": ["local"], "Network": ["bridge", "host"], "Log": ["json-file"]},
            "Swarm": {"LocalNodeState": "inactive"}, "SecurityOptions": ["name=seccomp,profile=builtin"],
            "NCPU": 2, "MemTotal": 4_294_967_296_i64, "DockerRootDir": "/var/lib/berth",
            "Labels": ["a=b"], "LiveRestoreEnabled": true, "KernelVersion": "6.1",
        });
        let expected = " Containers: 3\n  Running: 1\n  Paused: 0\n  Stopped: 2\n Images: 2\n \
            Server Version: 1\n Storage Driver: overlay2\n  Backing Filesystem: extfs\n  Supports d_type: true\n \
            Logging Driver: json-file\n Plugins:\n  Volume: local\n  Network: bridge host\n  Log: json-file\n \
            Swarm: inactive\n Security Options:\n  seccomp\n   Profile: builtin\n Kernel Version: 6.1\n CPUs: 2\n \
            Total Memory: 4GiB\n Docker Root Dir: /var/lib/berth\n Debug Mode: false\n Labels:\n  a=b\n \
            Experimental: false\n Live Restore Enabled: true\n";
        assert_eq!(server_lines(&info), expected);
    }
}

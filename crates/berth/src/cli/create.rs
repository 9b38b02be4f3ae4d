//! `run` and `create`: from options to a container.

use std::path::PathBuf;

use berth_client::{Body, Client, ClientError, Query};
use hyper::Method;
use serde_json::{Map, Value, json};

use super::create_args::{ContainerOptions, CreateCommand, RunCommand};
use super::error::CliError;
use super::streams::{self, End, Plan};
use super::terminal::stdin_is_terminal;
use super::ui;

/// Docker's exit status for what fails before the container's own program runs.
const FAILED: u8 = 125;

pub(super) async fn run(client: &Client, args: Box<RunCommand>) -> Result<u8, CliError> {
    foreground_or_detached(client, *args).await.map_err(|error| {
        let status = if error.status == 1 { FAILED } else { error.status };
        CliError { message: format!("berth: {}", error.message), status }
    })
}

async fn foreground_or_detached(client: &Client, args: RunCommand) -> Result<u8, CliError> {
    let options = &args.options;
    let wants = Attached::of(options, args.detach)?;
    if options.tty && wants.stdin && !stdin_is_terminal() {
        return Err(CliError::new("the input device is not a TTY"));
    }
    let id = create(client, options, wants).await?;
    let plan = Plan { tty: options.tty, stdin: wants.stdin, detach_keys: args.detach_keys.clone() };
    let start = Query::new().optional("detachKeys", args.detach_keys.as_deref());
    let start_path = ["containers", id.as_str(), "start"];
    if args.detach {
        client.post_empty(&start_path, &start, Body::Empty).await.map_err(start_error)?;
        ui::line(&id)?;
        return Ok(0);
    }
    let query = streams::attach_query(&plan, wants.stdout, wants.stderr);
    let hijacked = client.hijack(&["containers", &id, "attach"], &query, Body::Empty).await?;
    let until = Query::new().with("condition", if options.rm { "removed" } else { "next-exit" });
    let mut waiting =
        client.stream(Method::POST, &["containers", &id, "wait"], &until, Body::Empty).await?;
    if let Err(error) = client.post_empty(&start_path, &start, Body::Empty).await {
        return Err(start_error(error));
    }
    match streams::foreground(client, &id, hijacked, &plan, args.sig_proxy).await? {
        End::Detached => Ok(0),
        End::Output => streams::wait_status(&mut waiting).await,
    }
}

/// Docker takes the exit status of a failed start from the words of the message.
fn start_error(error: ClientError) -> CliError {
    let text = error.message();
    let has = |part: &str| text.contains(part);
    let status = if has("executable file not found") || has("no such file or directory") {
        127
    } else if has("permission denied") || has("is a directory") {
        126
    } else {
        FAILED
    };
    CliError::from(error).with_status(status)
}

pub(super) async fn create_only(client: &Client, args: Box<CreateCommand>) -> Result<u8, CliError> {
    let wants = Attached::of(&args.options, false)?;
    let id = create(client, &args.options, wants).await?;
    ui::line(&id)?;
    Ok(0)
}

/// The streams that the command attaches to.
#[derive(Debug, Clone, Copy)]
struct Attached {
    stdin: bool,
    stdout: bool,
    stderr: bool,
}

impl Attached {
    fn of(options: &ContainerOptions, detach: bool) -> Result<Self, CliError> {
        if detach {
            if !options.attach.is_empty() {
                return Err(CliError::new("Conflicting options: -a and -d"));
            }
            return Ok(Self { stdin: false, stdout: false, stderr: false });
        }
        if options.attach.is_empty() {
            return Ok(Self { stdin: options.interactive, stdout: true, stderr: true });
        }
        let mut attached = Self { stdin: false, stdout: false, stderr: false };
        for name in &options.attach {
            match name.to_ascii_lowercase().as_str() {
                "stdin" => attached.stdin = true,
                "stdout" => attached.stdout = true,
                "stderr" => attached.stderr = true,
                _ => {
                    return Err(CliError::new(format!(
                        "invalid argument \"{name}\" for \"-a, --attach\" flag: \
                         valid streams are STDIN, STDOUT and STDERR"
                    )));
                }
            }
        }
        Ok(attached)
    }
}

async fn create(
    client: &Client,
    options: &ContainerOptions,
    wants: Attached,
) -> Result<String, CliError> {
    if let Some(path) = &options.cidfile
        && path.try_exists()?
    {
        return Err(CliError::new(format!(
            "container ID file found, make sure the other container isn't running or delete {}",
            path.display()
        )));
    }
    let body = body(options, wants)?;
    let query = Query::new()
        .optional("name", options.name.as_deref())
        .optional("platform", options.platform.as_deref());
    let path = ["containers", "create"];
    let made: Value = match client.post(&path, &query, Body::json(&body)?).await {
        Err(error) if error.is_not_found() => {
            ui::error(&format!("Unable to find image '{}' locally", options.args[0]));
            return Err(error.into());
        }
        answer => answer?,
    };
    for warning in made["Warnings"].as_array().into_iter().flatten() {
        ui::error(&format!("WARNING: {}", warning.as_str().unwrap_or_default()));
    }
    let id = made["Id"].as_str().unwrap_or_default().to_owned();
    if let Some(path) = &options.cidfile {
        use std::io::Write as _;
        std::fs::File::create_new(path)?.write_all(id.as_bytes())?;
    }
    Ok(id)
}

/// The request that describes the container.
fn body(options: &ContainerOptions, wants: Attached) -> Result<Value, CliError> {
    let (image, command) = options.args.split_first().ok_or_else(|| CliError::new("no image"))?;
    let mut labels = pairs(&lines_of(&options.label_file)?);
    labels.extend(pairs(&options.label));
    let (binds, volumes) = split_volumes(&options.volume);
    let mut body = json!({
        "Image": image,
        "Hostname": options.hostname.clone().unwrap_or_default(),
        "Domainname": options.domainname.clone().unwrap_or_default(),
        "User": options.user.clone().unwrap_or_default(),
        "AttachStdin": wants.stdin,
        "AttachStdout": wants.stdout,
        "AttachStderr": wants.stderr,
        "OpenStdin": options.interactive,
        "StdinOnce": wants.stdin,
        "Tty": options.tty,
        "Env": environment(&options.env, &options.env_file)?,
        "Cmd": if command.is_empty() { Value::Null } else { json!(command) },
        "Labels": labels,
        "Volumes": volumes,
        "WorkingDir": options.workdir.clone().unwrap_or_default(),
        "HostConfig": host_config(options, &binds)?,
        "NetworkingConfig": {},
    });
    // An empty entry point clears the image's.
    if let Some(entrypoint) = &options.entrypoint {
        body["Entrypoint"] = json!([entrypoint]);
    }
    if let Some(signal) = &options.stop_signal {
        body["StopSignal"] = json!(signal);
    }
    if let Some(seconds) = options.stop_timeout {
        body["StopTimeout"] = json!(seconds);
    }
    Ok(body)
}

fn host_config(options: &ContainerOptions, binds: &[String]) -> Result<Value, CliError> {
    let tmpfs: Map<String, Value> = options
        .tmpfs
        .iter()
        .map(|text| text.split_once(':').unwrap_or((text, "")))
        .map(|(path, options)| (path.to_owned(), json!(options)))
        .collect();
    let mounts: Result<Vec<Value>, CliError> =
        options.mount.iter().map(|text| mount(text)).collect();
    let devices: Vec<Value> = options.device.iter().map(|text| device(text)).collect();
    let storage: Map<String, Value> = pairs(&options.storage_opt);
    let mut config = json!({
        "AutoRemove": options.rm,
        "Binds": if binds.is_empty() { Value::Null } else { json!(binds) },
        "Mounts": mounts?,
        "Tmpfs": tmpfs,
        "VolumesFrom": options.volumes_from,
        "NetworkMode": options.network.as_deref().unwrap_or("default"),
        "RestartPolicy": restart_policy(options.restart.as_deref())?,
        "CapAdd": options.cap_add,
        "CapDrop": options.cap_drop,
        "SecurityOpt": options.security_opt,
        "Privileged": options.privileged,
        "ReadonlyRootfs": options.read_only,
        "Init": if options.init { Value::Bool(true) } else { Value::Null },
        "Devices": devices,
        "Sysctls": pairs(&options.sysctl),
        "GroupAdd": options.group_add,
        "ExtraHosts": options.add_host,
        "Dns": options.dns,
        "DnsOptions": options.dns_option,
        "DnsSearch": options.dns_search,
        "IpcMode": options.ipc.clone().unwrap_or_default(),
        "PidMode": options.pid.clone().unwrap_or_default(),
        "UTSMode": options.uts.clone().unwrap_or_default(),
        "UsernsMode": options.userns.clone().unwrap_or_default(),
        "LogConfig": {
            "Type": options.log_driver.clone().unwrap_or_default(),
            "Config": pairs(&options.log_opt),
        },
        "StorageOpt": if storage.is_empty() { Value::Null } else { json!(storage) },
    });
    if let (Some(config), Value::Object(resources)) = (config.as_object_mut(), resources(options)?)
    {
        config.extend(resources);
    }
    Ok(config)
}

/// The part of the host configuration that limits what a container may use.
fn resources(options: &ContainerOptions) -> Result<Value, CliError> {
    let ulimits: Result<Vec<Value>, CliError> =
        options.ulimit.iter().map(|text| ulimit(text)).collect();
    let size = |text: &Option<String>| text.as_deref().map_or(Ok(0), bytes);
    let memory_swap = match options.memory_swap.as_deref() {
        Some("-1") => -1,
        _ => size(&options.memory_swap)?,
    };
    Ok(json!({
        "Memory": size(&options.memory)?,
        "MemoryReservation": size(&options.memory_reservation)?,
        "MemorySwap": memory_swap,
        "ShmSize": size(&options.shm_size)?,
        "NanoCpus": options.cpus.as_deref().map_or(Ok(0), nano_cpus)?,
        "CpuShares": options.cpu_shares.unwrap_or(0),
        "CpuPeriod": options.cpu_period.unwrap_or(0),
        "CpuQuota": options.cpu_quota.unwrap_or(0),
        "CpusetCpus": options.cpuset_cpus.clone().unwrap_or_default(),
        "CpusetMems": options.cpuset_mems.clone().unwrap_or_default(),
        "CgroupParent": options.cgroup_parent.clone().unwrap_or_default(),
        "CgroupnsMode": options.cgroupns.clone().unwrap_or_default(),
        "PidsLimit": options.pids_limit.unwrap_or(0),
        "OomScoreAdj": options.oom_score_adj.unwrap_or(0),
        "OomKillDisable": options.oom_kill_disable,
        "Ulimits": ulimits?,
    }))
}

/// `KEY=VALUE` texts as an object.
pub(super) fn pairs(texts: &[String]) -> Map<String, Value> {
    let pair = |text: &String| {
        let (key, value) = text.split_once('=').unwrap_or((text, ""));
        (key.to_owned(), json!(value))
    };
    texts.iter().map(pair).collect()
}

/// Variables of files and options; a name alone takes this program's value.
pub(super) fn environment(env: &[String], files: &[PathBuf]) -> Result<Vec<String>, CliError> {
    let mut all = Vec::new();
    for text in lines_of(files)?.into_iter().chain(env.iter().cloned()) {
        if text.contains('=') {
            all.push(text);
        } else if let Ok(value) = std::env::var(&text) {
            all.push(format!("{text}={value}"));
        } else if env.contains(&text) {
            // Docker unsets a variable of the image this way.
            all.push(text);
        }
    }
    Ok(all)
}

fn lines_of(files: &[PathBuf]) -> Result<Vec<String>, CliError> {
    let mut lines = Vec::new();
    for path in files {
        let text = std::fs::read_to_string(path)
            .map_err(|error| CliError::new(format!("open {}: {error}", path.display())))?;
        let useful = text.lines().map(str::trim_start);
        lines.extend(
            useful.filter(|line| !line.is_empty() && !line.starts_with('#')).map(str::to_owned),
        );
    }
    Ok(lines)
}

/// `-v` with a source is a bind, without one an anonymous volume.
fn split_volumes(texts: &[String]) -> (Vec<String>, Map<String, Value>) {
    let mut binds = Vec::new();
    let mut volumes = Map::new();
    for text in texts {
        match text.split_once(':') {
            None => {
                volumes.insert(text.clone(), json!({}));
            }
            Some((source, rest)) => match source {
                // The daemon does not know this program's directory.
                "." | ".." => binds.push(format!("{}:{rest}", absolute(source))),
                _ if source.starts_with("./") || source.starts_with("../") => {
                    binds.push(format!("{}:{rest}", absolute(source)));
                }
                _ => binds.push(text.clone()),
            },
        }
    }
    (binds, volumes)
}

fn absolute(path: &str) -> String {
    std::path::absolute(path).map_or_else(|_| path.to_owned(), |path| path.display().to_string())
}

/// `--mount type=volume,source=data,target=/data,readonly`.
fn mount(text: &str) -> Result<Value, CliError> {
    let bad = |reason: String| {
        CliError::new(format!("invalid argument \"{text}\" for \"--mount\" flag: {reason}"))
    };
    let mut mount = json!({"Type": "volume"});
    for field in text.split(',') {
        let (name, value) = field.split_once('=').unwrap_or((field, ""));
        let truth = matches!(value, "" | "1" | "true");
        match name.to_ascii_lowercase().as_str() {
            "type" => mount["Type"] = json!(value.to_ascii_lowercase()),
            "source" | "src" if value.starts_with('.') => mount["Source"] = json!(absolute(value)),
            "source" | "src" => mount["Source"] = json!(value),
            "target" | "dst" | "destination" => mount["Target"] = json!(value),
            "readonly" | "ro" => mount["ReadOnly"] = json!(truth),
            "bind-propagation" => mount["BindOptions"]["Propagation"] = json!(value),
            "volume-nocopy" => mount["VolumeOptions"]["NoCopy"] = json!(truth),
            "volume-subpath" => mount["VolumeOptions"]["Subpath"] = json!(value),
            "volume-driver" => mount["VolumeOptions"]["DriverConfig"]["Name"] = json!(value),
            "volume-label" => {
                let (key, value) = value.split_once('=').unwrap_or((value, ""));
                mount["VolumeOptions"]["Labels"][key] = json!(value);
            }
            "tmpfs-size" => mount["TmpfsOptions"]["SizeBytes"] = json!(bytes(value)?),
            "tmpfs-mode" => {
                let mode = u32::from_str_radix(value, 8)
                    .map_err(|_unread| bad(format!("invalid value for tmpfs-mode: {value}")))?;
                mount["TmpfsOptions"]["Mode"] = json!(mode);
            }
            other if field.contains('=') => {
                return Err(bad(format!("unexpected key '{other}' in '{field}'")));
            }
            _ => return Err(bad(format!("invalid field '{field}' must be a key=value pair"))),
        }
    }
    if mount["Target"].as_str().is_none_or(str::is_empty) {
        return Err(bad("target is required".to_owned()));
    }
    Ok(mount)
}

fn restart_policy(text: Option<&str>) -> Result<Value, CliError> {
    let text = text.unwrap_or("no");
    let (name, count) = text.split_once(':').unwrap_or((text, "0"));
    let count: i64 = count.parse().map_err(|_unread| {
        CliError::new("invalid restart policy format: maximum retry count must be an integer")
    })?;
    Ok(json!({"Name": name, "MaximumRetryCount": count}))
}

fn ulimit(text: &str) -> Result<Value, CliError> {
    let bad = || CliError::new(format!("invalid ulimit argument: {text}"));
    let (name, limits) = text.split_once('=').ok_or_else(bad)?;
    let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
    let soft: i64 = soft.parse().map_err(|_unread| bad())?;
    let hard: i64 = hard.parse().map_err(|_unread| bad())?;
    Ok(json!({"Name": name, "Soft": soft, "Hard": hard}))
}

/// `/dev/host[:/dev/inside[:rwm]]`.
fn device(text: &str) -> Value {
    let mut parts = text.split(':');
    let host = parts.next().unwrap_or_default();
    let is_mode = |part: &str| !part.is_empty() && part.bytes().all(|b| b"rwm".contains(&b));
    let (inside, mode) = match (parts.next(), parts.next()) {
        (Some(mode), None) if is_mode(mode) => (host, mode),
        (Some(inside), mode) => (inside, mode.unwrap_or("rwm")),
        (None, _) => (host, "rwm"),
    };
    json!({"PathOnHost": host, "PathInContainer": inside, "CgroupPermissions": mode})
}

fn bytes(text: &str) -> Result<i64, CliError> {
    berth_types::size::parse_ram(text).map_err(|error| CliError::new(error.to_string()))
}

/// `1.5` processors as billionths, exactly.
fn nano_cpus(text: &str) -> Result<i64, CliError> {
    let bad = || CliError::new(format!("failed to parse {text} as a rational number"));
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(fraction) || (whole.is_empty() && fraction.is_empty()) {
        return Err(bad());
    }
    if fraction.trim_end_matches('0').len() > 9 {
        return Err(CliError::new("value is too precise"));
    }
    let padded = format!("{whole:0>1}{fraction:0<9.9}");
    padded.parse().map_err(|_unread| bad())
}

#[cfg(test)]
#[path = "create/tests.rs"]
mod tests;

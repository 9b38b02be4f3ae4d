//! The OCI process of `docker exec`.

use berth_api::container::{ContainerConfig, HostConfig};
use berth_types::IdMaps;
use serde_json::{Value, json};

use crate::caps::{self, CapSet};
use crate::error::RuntimeError;
use crate::host::Host;
use crate::limits;
use crate::mounts::clean;
use crate::security::{Security, UNCONFINED};
use crate::spec::{check_mapped, merge_env, set_home};
use crate::user::{Accounts, User};
use crate::validate::{check_env, check_working_dir};

/// Docker's exit code of an exec that could not be started, but for its program.
const NOT_STARTED: i32 = 126;

/// What an exec is made of.
#[derive(Debug, Clone)]
pub struct ExecInput<'a> {
    /// The container's settings.
    pub config: &'a ContainerConfig,
    /// Its host-side settings.
    pub host_config: &'a HostConfig,
    /// The container's own process: `process` of its specification.
    pub container_process: &'a Value,
    /// The program and its arguments.
    pub args: &'a [String],
    /// `--user`; empty for the container's.
    pub user: &'a str,
    /// `--privileged`.
    pub privileged: bool,
    /// `--env`.
    pub env: &'a [String],
    /// `--workdir`; empty for the container's.
    pub working_dir: &'a str,
    /// `--tty`.
    pub tty: bool,
    /// Height and width of the terminal; zero for the kernel's default.
    pub console_size: (u16, u16),
    /// The root's account files. Needed with `user` only.
    pub accounts: &'a Accounts,
    /// What ids of the container are on the host.
    pub ids: &'a IdMaps,
    /// The machine.
    pub host: &'a Host,
}

/// Checks what can be checked when an exec is created.
pub fn validate(args: &[String], env: &[String], working_dir: &str) -> Result<(), RuntimeError> {
    if args.first().is_none_or(String::is_empty) {
        return Err(RuntimeError::invalid("No exec command specified"));
    }
    check_env(env)?;
    check_working_dir(working_dir)
}

/// What the watcher makes a process of.
#[derive(Debug, Clone, PartialEq)]
pub struct ExecProcess {
    /// Its OCI form, without the capabilities.
    pub spec: Value,
    /// The capabilities.
    pub caps: CapSet,
}

/// Makes the process.
pub fn build(input: &ExecInput<'_>) -> Result<ExecProcess, RuntimeError> {
    validate(input.args, input.env, input.working_dir)?;
    let container = input.container_process;
    let mut env: Vec<String> = strings(&container["env"]);
    let user = if input.user.is_empty() {
        container["user"].clone()
    } else {
        let user = input.accounts.resolve(input.user, &input.host_config.group_add)?;
        check_mapped(&user, input.ids, NOT_STARTED)?;
        // The container's HOME is its own user's, unless the settings name one.
        if !input.config.env.iter().any(|var| var.starts_with("HOME=")) {
            env.retain(|var| !var.starts_with("HOME="));
            set_home(&mut env, &user.home);
        }
        user_to_oci(&user)
    };
    if input.tty && !env.iter().any(|var| var.starts_with("TERM=")) {
        env.push("TERM=xterm".to_owned());
    }
    let caps = if input.privileged {
        input.host.caps
    } else {
        let HostConfig { cap_add, cap_drop, privileged, .. } = input.host_config;
        CapSet::of(&caps::resolve(cap_add, cap_drop, *privileged, input.host.caps)?)
    };
    let cwd = match input.working_dir {
        "" => container["cwd"].as_str().unwrap_or("/").to_owned(),
        dir => clean(dir),
    };
    let mut ignored = Vec::new();
    let rlimits = limits::rlimits(&input.host_config.ulimits, input.host, &mut ignored);
    let mut process = json!({
        "terminal": input.tty,
        "user": user,
        "args": input.args,
        "env": merge_env(env, input.env),
        "cwd": cwd,
        "rlimits": rlimits,
    });
    let (height, width) = input.console_size;
    if input.tty && height > 0 && width > 0 {
        process["consoleSize"] = json!({ "height": height, "width": width });
    }
    if container["noNewPrivileges"] == true {
        process["noNewPrivileges"] = json!(true);
    }
    if let Some(profile) = Security::parse(input.host_config)?.apparmor
        && input.host.apparmor
        && profile != UNCONFINED
    {
        process["apparmorProfile"] = json!(profile);
    }
    Ok(ExecProcess { spec: process, caps })
}

fn strings(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

pub(crate) fn user_to_oci(user: &User) -> Value {
    json!({ "uid": user.uid, "gid": user.gid, "additionalGids": user.groups })
}

/// Nothing inheritable and nothing ambient, as Docker since 20.10.14.
pub(crate) fn capabilities(caps: &[String]) -> Value {
    json!({ "bounding": caps, "effective": caps, "permitted": caps })
}

#[cfg(test)]
mod tests {
    use super::*;

    const KILL: CapSet = CapSet::from_bits(0b10_0000);

    fn check(change: impl FnOnce(&mut ExecInput<'_>)) -> Result<ExecProcess, String> {
        let config = ContainerConfig::default();
        let host_config = HostConfig {
            cap_drop: vec!["ALL".to_owned()].into(),
            cap_add: vec!["KILL".to_owned()].into(),
            ..HostConfig::default()
        };
        let container = json!({
            "user": {"uid": 5, "gid": 6, "additionalGids": [6]}, "cwd": "/srv",
            "env": ["PATH=/bin", "HOME=/home/five"],
        });
        let accounts = Accounts::new("web:x:9:10::/web:\n", "media:x:11:web\n");
        let host = Host { caps: KILL, ..Host::full() };
        let args = ["id".to_owned()];
        let mut input = ExecInput {
            config: &config,
            host_config: &host_config,
            container_process: &container,
            args: &args,
            user: "",
            privileged: false,
            env: &[],
            working_dir: "",
            tty: false,
            console_size: (0, 0),
            accounts: &accounts,
            ids: &IdMaps::default(),
            host: &host,
        };
        change(&mut input);
        build(&input).map_err(|error| error.to_string())
    }

    #[test]
    fn an_exec_is_like_its_container_unless_told_otherwise() {
        let plain = json!({
            "terminal": false, "user": {"uid": 5, "gid": 6, "additionalGids": [6]},
            "args": ["id"], "env": ["PATH=/bin", "HOME=/home/five"], "cwd": "/srv",
            "rlimits": [],
        });
        assert_eq!(check(|_| {}), Ok(ExecProcess { spec: plain.clone(), caps: KILL }));
        let mut other = plain;
        other["terminal"] = json!(true);
        other["consoleSize"] = json!({"height": 24, "width": 80});
        other["user"] = json!({"uid": 9, "gid": 10, "additionalGids": [10, 11]});
        other["env"] = json!(["PATH=/sbin", "HOME=/web", "TERM=xterm", "A=b"]);
        other["cwd"] = json!("/tmp");
        let env = ["A=b".to_owned(), "PATH=/sbin".to_owned()];
        let got = check(|input| {
            input.user = "web";
            input.tty = true;
            input.console_size = (24, 80);
            input.working_dir = "/tmp/./x/..";
            // The closure's input outlives neither; leak nothing, borrow a static list.
            input.env = Box::leak(Box::new(env));
        });
        assert_eq!(got, Ok(ExecProcess { spec: other, caps: KILL }));
    }

    #[test]
    fn bad_execs_are_refused() {
        assert_eq!(check(|input| input.args = &[]), Err("No exec command specified".to_owned()));
        assert_eq!(
            check(|input| input.user = "nobody"),
            Err("unable to find user nobody: no matching entries in passwd file".to_owned())
        );
        assert_eq!(
            check(|input| input.working_dir = "x"),
            Err("the working directory 'x' is invalid, it needs to be an absolute path".to_owned())
        );
    }
}

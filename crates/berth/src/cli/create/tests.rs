//! Tables for the options of `run` and `create`.

use clap::Parser as _;

use super::*;
use crate::cli::args::{Cli, Command};

fn run_body(args: &[&str]) -> Value {
    let args = ["berth", "run"].into_iter().chain(args.iter().copied());
    let Command::Run(run) = Cli::try_parse_from(args).unwrap().command else {
        panic!("not a run");
    };
    let wants = Attached::of(&run.options, run.detach).unwrap();
    body(&run.options, wants).unwrap()
}

#[test]
fn options_end_at_the_image() {
    #[rustfmt::skip]
    let table: &[(&[&str], &str, Value)] = &[
        (&["img"],                                "img", Value::Null),
        (&["img", "-c", "x"],                     "img", json!(["-c", "x"])),
        (&["--rm", "img", "sh", "-it", "--rm"],   "img", json!(["sh", "-it", "--rm"])),
        (&["-it", "img", "--help"],               "img", json!(["--help"])),
        (&["--", "img", "-h"],                    "img", json!(["-h"])),
    ];
    for (args, image, command) in table {
        let body = run_body(args);
        assert_eq!((&body["Image"], &body["Cmd"]), (&json!(image), command), "{args:?}");
    }
}

#[test]
fn options_reach_the_request() {
    #[rustfmt::skip]
    let table: &[(&[&str], &str, Value)] = &[
        (&["-h", "web"],                        "/Hostname",                 json!("web")),
        (&["-it"],                              "/Tty",                      json!(true)),
        (&["-it"],                              "/OpenStdin",                json!(true)),
        (&["-d"],                               "/AttachStdout",             json!(false)),
        (&["-a", "stdout"],                     "/AttachStderr",             json!(false)),
        (&["-e", "A=b", "-e", "C=d=e"],         "/Env",                      json!(["A=b", "C=d=e"])),
        (&["-l", "a=b", "--label", "c"],        "/Labels",                   json!({"a": "b", "c": ""})),
        (&["--entrypoint", ""],                 "/Entrypoint",               json!([""])),
        (&["-v", "/data", "-v", "d:/d:ro"],     "/Volumes",                  json!({"/data": {}})),
        (&["-v", "/data", "-v", "d:/d:ro"],     "/HostConfig/Binds",         json!(["d:/d:ro"])),
        (&["-m", "64m"],                        "/HostConfig/Memory",        json!(64 << 20)),
        (&["--memory-swap", "-1"],              "/HostConfig/MemorySwap",    json!(-1)),
        (&["--cpus", "1.5"],                    "/HostConfig/NanoCpus",      json!(1_500_000_000)),
        (&["--cpus=.25"],                       "/HostConfig/NanoCpus",      json!(250_000_000)),
        (&["--pids-limit", "-1"],               "/HostConfig/PidsLimit",     json!(-1)),
        (&["--restart", "on-failure:3"],        "/HostConfig/RestartPolicy", json!({"Name": "on-failure", "MaximumRetryCount": 3})),
        (&["--tmpfs", "/t:size=1m"],            "/HostConfig/Tmpfs",         json!({"/t": "size=1m"})),
        (&["--ulimit", "nofile=1:2"],           "/HostConfig/Ulimits",       json!([{"Name": "nofile", "Soft": 1, "Hard": 2}])),
        (&["--net", "none"],                    "/HostConfig/NetworkMode",   json!("none")),
        (&["--device", "/dev/a:r"],             "/HostConfig/Devices",       json!([{"PathOnHost": "/dev/a", "PathInContainer": "/dev/a", "CgroupPermissions": "r"}])),
        (&["--mount", "type=bind,src=/a,dst=/b,readonly"], "/HostConfig/Mounts",
            json!([{"Type": "bind", "Source": "/a", "Target": "/b", "ReadOnly": true}])),
        (&["--stop-timeout", "3"],              "/StopTimeout",              json!(3)),
    ];
    for (args, pointer, expected) in table {
        let all: Vec<&str> = args.iter().copied().chain(["img"]).collect();
        assert_eq!(run_body(&all).pointer(pointer), Some(expected), "{args:?}");
    }
}

#[test]
fn bad_options_are_refused() {
    let message = |error: CliError| error.message;
    let prefix = |text: &str| format!("invalid argument \"{text}\" for \"--mount\" flag: ");
    #[rustfmt::skip]
    let table = [
        (mount("type=bind,x=y").map_err(message),       prefix("type=bind,x=y") + "unexpected key 'x' in 'x=y'"),
        (mount("type=bind").map_err(message),           prefix("type=bind") + "target is required"),
        (mount("x").map_err(message),                   prefix("x") + "invalid field 'x' must be a key=value pair"),
        (ulimit("x").map_err(message),                  "invalid ulimit argument: x".to_owned()),
        (nano_cpus("x").map(Value::from).map_err(message), "failed to parse x as a rational number".to_owned()),
        (nano_cpus("0.1234567891").map(Value::from).map_err(message), "value is too precise".to_owned()),
    ];
    for (got, expected) in table {
        assert_eq!(got, Err(expected));
    }
}

#[test]
fn the_exit_status_of_a_failed_start_is_dockers() {
    #[rustfmt::skip]
    let table = [
        ("exec: \"x\": executable file not found in $PATH: unknown", 127),
        ("exec /x: permission denied",                               126),
        ("something else",                                           125),
    ];
    for (message, status) in table {
        let error = ClientError::Daemon { status: 400, message: message.to_owned() };
        assert_eq!(start_error(error).status, status, "{message}");
    }
}

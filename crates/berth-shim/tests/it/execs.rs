//! More processes in a running container.

use std::io::Write as _;
use std::net::Shutdown;

use berth_shim_proto::{Event, ExecRequest, Failure, Request, Response};

use crate::bundle::{Watcher, bundle, exec_request, read_all, unframe};

fn running(test: &str) -> Option<Watcher> {
    let watcher = bundle(test, &["sleep", "600"])?.create();
    watcher.order(&Request::Start);
    Some(watcher)
}

fn stop(watcher: Watcher) {
    let events = watcher.subscribe();
    watcher.order(&Request::Signal { signal: 9, exec: None, all: false });
    assert_eq!(watcher.end(events).1.exit_code, 137);
}

/// Output and exit code of an attached exec.
fn exec(watcher: &Watcher, request: ExecRequest) -> (String, String, i32) {
    let mut events = watcher.subscribe();
    let id = request.id.clone();
    let (response, stream) = watcher.ask(&Request::Exec(request));
    assert!(matches!(response, Response::ExecStarted { pid } if pid > 0), "{response:?}");
    let (stdout, stderr) = unframe(&read_all(&stream));
    let Event::ExecExited { exec, exit } = events.next() else { panic!("no end of the exec") };
    assert_eq!(exec, id);
    (stdout, stderr, exit.exit_code)
}

#[test]
fn root_execs_have_output_exit_code_filter_and_capabilities() {
    let test = "root_execs_have_output_exit_code_filter_and_capabilities";
    let Some(watcher) = running(test) else { return };
    let request = exec_request("one", &["sh", "-c", "echo out; echo err >&2; exit 5"]);
    assert_eq!(exec(&watcher, request), ("out\n".to_owned(), "err\n".to_owned(), 5));
    let request = exec_request("two", &["env"]);
    let env = "PATH=/bin\nZED=1\nALPHA=2\nHOME=/root\n".to_owned();
    assert_eq!(exec(&watcher, request), (env, String::new(), 0));
    let request = exec_request("three", &["mkdir", "/made"]);
    let refused = "mkdir: can't create directory '/made': Operation not permitted\n".to_owned();
    assert_eq!(exec(&watcher, request), (String::new(), refused, 1));
    let mut request = exec_request("four", &["sh", "-c", "id -u; id -g; echo x > /dev/stdout"]);
    request.process["user"] = serde_json::json!({ "uid": 1000, "gid": 1000 });
    assert_eq!(exec(&watcher, request), ("1000\n1000\nx\n".to_owned(), String::new(), 0));
    let request =
        exec_request("five", &["grep", "-E", "^(Cap|NoNew|Seccomp:)", "/proc/self/status"]);
    let sets = "CapInh:\t0000000000000000\nCapPrm:\t0000000000000020\nCapEff:\t0000000000000020\n\
                CapBnd:\t0000000000000020\nCapAmb:\t0000000000000000\nNoNewPrivs:\t0\nSeccomp:\t2\n";
    assert_eq!(exec(&watcher, request), (sets.to_owned(), String::new(), 0));
    let Response::State(state) = watcher.ask(&Request::State).0 else { panic!("no state") };
    assert_eq!(state.execs, [""; 0]);
    stop(watcher);
}

#[test]
fn root_execs_that_cannot_be_run_fail_in_runcs_words() {
    let test = "root_execs_that_cannot_be_run_fail_in_runcs_words";
    let Some(watcher) = running(test) else { return };
    #[rustfmt::skip]
    let table = [
        ("nope",        "/",     127, r#"exec: "nope": executable file not found in $PATH"#),
        ("/nope",       "/",     127, r#"exec: "/nope": stat /nope: no such file or directory"#),
        ("/etc/passwd", "/",     126, r#"exec: "/etc/passwd": permission denied"#),
        ("true",        "/nope", 126, r#"chdir to cwd ("/nope") set in config.json failed: no such file or directory"#),
    ];
    for (program, cwd, exit_code, message) in table {
        let mut request = exec_request("x", &[program]);
        request.process["cwd"] = cwd.into();
        let expected = Response::Failed(Failure { exit_code, message: message.to_owned() });
        assert_eq!(watcher.ask(&Request::Exec(request)).0, expected);
    }
    stop(watcher);
}

/// A descriptor of the host's that is open while the working directory is entered would lead there.
#[test]
fn root_no_descriptor_leads_an_exec_out_of_the_container() {
    let test = "root_no_descriptor_leads_an_exec_out_of_the_container";
    let Some(watcher) = running(test) else { return };
    for number in 0..32 {
        let mut request = exec_request("x", &["true"]);
        request.process["cwd"] = format!("/proc/self/fd/{number}").into();
        let answer = watcher.ask(&Request::Exec(request)).0;
        let Response::Failed(failure) = answer else { panic!("{number}: {answer:?}") };
        assert_eq!(failure.exit_code, 126, "{number}: {failure:?}");
    }
    stop(watcher);
}

#[test]
fn root_an_exec_has_its_limits_and_groups() {
    let test = "root_an_exec_has_its_limits_and_groups";
    let Some(watcher) = running(test) else { return };
    let script = "ulimit -n; ulimit -Hc; id -G; grep NoNew /proc/self/status; pwd";
    let mut request = exec_request("x", &["sh", "-c", script]);
    request.process["rlimits"] = serde_json::json!([
        { "type": "RLIMIT_NOFILE", "soft": 77, "hard": 99 },
        { "type": "RLIMIT_CORE", "soft": 0, "hard": 512 },
    ]);
    request.process["user"] =
        serde_json::json!({ "uid": 1000, "gid": 1001, "additionalGids": [7, 8] });
    request.process["noNewPrivileges"] = true.into();
    request.process["cwd"] = "/etc".into();
    let out = "77\n1\n1001 7 8\nNoNewPrivs:\t1\n/etc\n".to_owned();
    assert_eq!(exec(&watcher, request), (out, String::new(), 0));
    stop(watcher);
}

#[test]
fn root_an_exec_reads_input_until_its_client_half_closes() {
    let test = "root_an_exec_reads_input_until_its_client_half_closes";
    let Some(watcher) = running(test) else { return };
    let mut request = exec_request("in", &["cat"]);
    request.attach = [true, true, true];
    let (response, mut stream) = watcher.ask(&Request::Exec(request));
    assert!(matches!(response, Response::ExecStarted { .. }), "{response:?}");
    stream.write_all(b"through").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(unframe(&read_all(&stream)).0, "through");
    stop(watcher);
}

#[test]
fn root_an_exec_has_a_terminal_of_its_own_and_can_be_signalled() {
    let test = "root_an_exec_has_a_terminal_of_its_own_and_can_be_signalled";
    let Some(watcher) = running(test) else { return };
    let mut events = watcher.subscribe();
    let mut request = exec_request("tty", &["sh", "-c", "stty size; exec sleep 600"]);
    request.tty = true;
    request.console_size = (10, 20);
    let (response, mut stream) = watcher.ask(&Request::Exec(request));
    assert!(matches!(response, Response::ExecStarted { .. }), "{response:?}");
    let mut text = [0; 7];
    std::io::Read::read_exact(&mut stream, &mut text).unwrap();
    assert_eq!(&text, b"10 20\r\n");
    let exec = Some("tty".to_owned());
    watcher.order(&Request::Resize { exec: exec.clone(), height: 1, width: 2 });
    watcher.order(&Request::Signal { signal: 15, exec, all: false });
    let Event::ExecExited { exit, .. } = events.next() else { panic!("no end of the exec") };
    assert_eq!(exit.exit_code, 143);
    assert_eq!(read_all(&stream), b"");
    stop(watcher);
}

#[test]
fn root_detached_execs_run_and_end_with_the_container() {
    let test = "root_detached_execs_run_and_end_with_the_container";
    let Some(watcher) = running(test) else { return };
    let mut request = exec_request("background", &["sleep", "600"]);
    request.attach = [false; 3];
    let (response, stream) = watcher.ask(&Request::Exec(request));
    assert!(matches!(response, Response::ExecStarted { .. }), "{response:?}");
    assert_eq!(read_all(&stream), b"", "the connection of a detached exec ends");
    let Response::State(state) = watcher.ask(&Request::State).0 else { panic!("no state") };
    assert_eq!(state.execs, ["background"]);
    let mut events = watcher.subscribe();
    watcher.order(&Request::Signal { signal: 9, exec: None, all: false });
    let Event::ExecExited { exec, exit } = events.next() else { panic!("no end of the exec") };
    assert_eq!((exec.as_str(), exit.exit_code), ("background", 137));
    assert_eq!(watcher.end(events).1.exit_code, 137);
}

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::thread;

use berth_shim_proto::{ExitRecord, Failure};
use tempfile::TempDir;

use super::*;

const EXIT: ExitRecord = ExitRecord { exit_code: 3, oom_killed: false, at_unix_nanos: 5 };

fn bundle() -> (TempDir, Bundle) {
    let dir = tempfile::tempdir().unwrap();
    let bundle = Bundle::new(dir.path(), &"ab".repeat(32));
    fs::create_dir_all(bundle.dir()).unwrap();
    (dir, bundle)
}

#[expect(clippy::disallowed_methods, reason = "a test's own scratch files")]
fn put(bundle: &Bundle, name: &str, text: &str) {
    fs::write(bundle.dir().join(name), text).unwrap();
}

/// A watcher that answers each connection with the next of these, and hands back what it heard.
fn serve(bundle: &Bundle, answers: Vec<String>) -> thread::JoinHandle<Vec<Request>> {
    let dir = File::open(bundle.dir()).unwrap();
    let path = format!("/proc/self/fd/{}/{SOCKET}", dir.as_raw_fd());
    let listener = UnixListener::bind(path).unwrap();
    thread::spawn(move || {
        let mut heard = Vec::new();
        for answer in answers {
            let (mut stream, _) = listener.accept().unwrap();
            heard.push(serde_json::from_slice(&read_line(&mut stream).unwrap()).unwrap());
            stream.write_all(answer.as_bytes()).unwrap();
        }
        heard
    })
}

fn line(response: &Response) -> String {
    format!("{}\n", serde_json::to_string(response).unwrap())
}

#[test]
fn requests_are_answered_and_streams_begin_right_after_the_answer() {
    let (_dir, bundle) = bundle();
    let handle = ShimHandle::new(bundle.id(), bundle.dir());
    let failure = Failure { exit_code: 127, message: "exec: \"x\": no".to_owned() };
    let state = State { pid: 7, started: true, paused: false, exit: None, execs: vec![] };
    let exec = ExecRequest {
        id: "e".to_owned(),
        process: serde_json::json!({}),
        capabilities: 0,
        tty: false,
        console_size: (0, 0),
        attach: [false, true, false],
    };
    let events = [Event::Oom, Event::Exited(EXIT)];
    let event_lines: String =
        events.iter().map(|event| serde_json::to_string(event).unwrap() + "\n").collect();
    let server = serve(
        &bundle,
        vec![
            line(&Response::Ok),
            line(&Response::Failed(failure.clone())),
            line(&Response::State(state.clone())),
            line(&Response::Ok) + "raw bytes",
            line(&Response::ExecStarted { pid: 9 }) + "x",
            line(&Response::Ok) + &event_lines,
            "nonsense\n".to_owned(),
            line(&Response::Ok),
        ],
    );
    handle.start().unwrap();
    match handle.signal(15, Target::Exec("e")) {
        Err(RuntimeError::Failed(got)) => assert_eq!(got, failure),
        other => panic!("{other:?}"),
    }
    assert_eq!(handle.state().unwrap(), state);
    let mut text = String::new();
    let streams = Streams { stdin: true, stdout: true, stderr: false };
    handle.attach(streams).unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "raw bytes");
    assert_eq!(handle.exec(&exec).unwrap().0, 9);
    let got: Vec<Event> = handle.subscribe().unwrap().map(Result::unwrap).collect();
    assert_eq!(got, events);
    let nonsense = handle.resize(None, 24, 80).unwrap_err().to_string();
    assert!(nonsense.contains("makes no sense"), "{nonsense}");
    assert!(matches!(handle.state(), Err(RuntimeError::Protocol { .. })));
    let heard = server.join().unwrap();
    assert_eq!(heard.len(), 8);
    assert_eq!(heard[1], Request::Signal { signal: 15, exec: Some("e".to_owned()), all: false });
    assert_eq!(heard[3], Request::Attach { stdin: true, stdout: true, stderr: false });
    assert!(matches!(handle.start(), Err(RuntimeError::Unreachable { .. })), "nobody is there");
}

#[test]
fn sockets_are_reached_through_paths_of_any_length() {
    let dir = tempfile::tempdir().unwrap();
    let deep = dir.path().join("d".repeat(100));
    let bundle = Bundle::new(&deep, &"ab".repeat(32));
    fs::create_dir_all(bundle.dir()).unwrap();
    let server = serve(&bundle, vec![line(&Response::Ok)]);
    ShimHandle::new(bundle.id(), bundle.dir()).start().unwrap();
    assert_eq!(server.join().unwrap(), [Request::Start]);
}

#[test]
fn what_is_left_of_a_container_is_found() {
    let (_dir, bundle) = bundle();
    assert_eq!(bundle.find().unwrap(), Found::Lost);
    // Our own pid is alive, but not this bundle's watcher.
    put(&bundle, "shim.pid", &std::process::id().to_string());
    assert_eq!(bundle.find().unwrap(), Found::Lost);
    put(&bundle, "exit.json", &serde_json::to_string(&EXIT).unwrap());
    assert_eq!(bundle.find().unwrap(), Found::Ended(EXIT));

    let mut sleeper = std::process::Command::new("sh")
        .args(["-c", "echo ready; read x"])
        .arg(bundle.dir())
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    // Until it runs its program, it may have no arguments to show.
    read_line(sleeper.stdout.as_mut().unwrap()).unwrap();
    put(&bundle, "shim.pid", &sleeper.id().to_string());
    assert_eq!(bundle.find().unwrap(), Found::Ended(EXIT), "alive, but it does not listen");
    let _server = serve(&bundle, vec![]);
    let expected = Found::Alive(ShimHandle::new(bundle.id(), bundle.dir()));
    // The listener is closed as soon as its thread has ended, so bind one that stays.
    fs::remove_file(bundle.dir().join(SOCKET)).unwrap();
    let dir = File::open(bundle.dir()).unwrap();
    let _listener =
        UnixListener::bind(format!("/proc/self/fd/{}/{SOCKET}", dir.as_raw_fd())).unwrap();
    assert_eq!(bundle.find().unwrap(), expected);
    drop(sleeper.stdin.take());
    sleeper.wait().unwrap();

    put(&bundle, "exit.json", "{");
    assert!(matches!(bundle.find(), Err(RuntimeError::Record { .. })));
}

/// A watcher as a shell script.
fn script(dir: &Path, body: &str) -> PathBuf {
    let path = dir.join("watcher");
    // A writer that is still open in a forked test thread would make it "text file busy".
    let status = std::process::Command::new("sh")
        .args(["-c", "printf '#!/bin/sh\\n%s\\n' \"$1\" > \"$2\"", "sh", body])
        .arg(&path)
        .status()
        .unwrap();
    assert!(status.success());
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

#[test]
fn the_watchers_first_word_decides() {
    let (dir, bundle) = bundle();
    let failed = r#"{"result":"failed","exit_code":127,"message":"exec: no"}"#;
    let created = r#"{"result":"created","shim_pid":5,"pid":6}"#;
    let short = Duration::from_millis(300);
    let id = bundle.id().to_owned();
    #[rustfmt::skip]
    let table = [
        (format!("echo '{created}'"),           Ok(Pids { shim: 5, init: 6 })),
        (format!("echo '{created}'; (exec >&-; sleep 1) &"), Ok(Pids { shim: 5, init: 6 })),
        (format!("echo '{failed}'"),            Err("exec: no".to_owned())),
        ("echo boom >&2".to_owned(),            Err(format!("the watcher of container {id} ended before it answered: boom"))),
        ("exec sleep 5".to_owned(),             Err(format!("the watcher of container {id} did not answer within 0 s"))),
        ("echo what".to_owned(),                Err(format!("the watcher of container {id} gave an answer that makes no sense: expected value at line 1 column 1"))),
    ];
    for (body, expected) in table {
        put(&bundle, "shim.log", "");
        let watcher = script(dir.path(), &body);
        let timeout = if body.starts_with("exec") { short } else { ANSWER_TIMEOUT };
        // A script cannot be executed through a descriptor that closes.
        let got = create(&Program::where_it_is(&watcher), &bundle, timeout);
        let got = got.map(|(_, pids)| pids).map_err(|error| error.to_string());
        assert_eq!(got, expected, "{body}");
    }
    let (missing, error) = Program::open(&dir.path().join("nope"));
    assert!(error.is_some());
    let missing = create(&missing, &bundle, short).unwrap_err();
    assert!(matches!(missing, RuntimeError::Spawn { .. }));
}

#[test]
fn bundles_are_listed_and_removed() {
    let (dir, bundle) = bundle();
    put(&bundle, "exit.json", "{}");
    fs::create_dir_all(bundle.dir().join("state/x")).unwrap();
    std::os::unix::fs::symlink("/etc", bundle.dir().join("state/link")).unwrap();
    assert_eq!(bundles(dir.path()).unwrap(), std::slice::from_ref(&bundle));
    bundle.remove().unwrap();
    bundle.remove().unwrap();
    assert_eq!(bundles(dir.path()).unwrap(), []);
    assert_eq!(bundles(&dir.path().join("nowhere")).unwrap(), []);
}

//! Attached clients, standard input, terminals.

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::time::Duration;

use berth_shim_proto::{LogTarget, Request};

use crate::bundle::{bundle, read_all, unframe, wait_until};

#[test]
fn root_a_client_that_attached_before_the_start_gets_everything() {
    let test = "root_a_client_that_attached_before_the_start_gets_everything";
    let Some(bundle) = bundle(test, &["sh", "-c", "echo a; echo b >&2; echo -n c"]) else { return };
    let watcher = bundle.create();
    let (events, first, second) =
        (watcher.subscribe(), watcher.attach(false), watcher.attach(false));
    watcher.order(&Request::Start);
    for client in [first, second] {
        assert_eq!(unframe(&read_all(&client)), ("a\nc".to_owned(), "b\n".to_owned()));
    }
    let (bundle, _) = watcher.end(events);
    assert_eq!(bundle.log().len(), 3);
}

#[test]
fn root_half_closed_input_ends_the_containers_when_it_is_once() {
    let test = "root_half_closed_input_ends_the_containers_when_it_is_once";
    let Some(mut bundle) = bundle(test, &["cat"]) else { return };
    (bundle.config.open_stdin, bundle.config.stdin_once) = (true, true);
    let watcher = bundle.create();
    let (events, mut client) = (watcher.subscribe(), watcher.attach(true));
    client.write_all(b"early ").unwrap();
    watcher.order(&Request::Start);
    let long = "x".repeat(300_000);
    let text = format!("{long}\nend\n");
    let sent = text.clone();
    let mut writer = client.try_clone().unwrap();
    let thread = std::thread::spawn(move || {
        writer.write_all(sent.as_bytes()).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let (stdout, stderr) = unframe(&read_all(&client));
    thread.join().unwrap();
    assert!(stdout == format!("early {text}") && stderr.is_empty(), "{} bytes", stdout.len());
    assert_eq!(watcher.end(events).1.exit_code, 0);
}

#[test]
fn root_open_input_survives_its_clients_when_it_is_not_once() {
    let test = "root_open_input_survives_its_clients_when_it_is_not_once";
    let Some(mut bundle) = bundle(test, &["head", "-n", "2"]) else { return };
    bundle.config.open_stdin = true;
    let watcher = bundle.create();
    let events = watcher.subscribe();
    watcher.order(&Request::Start);
    for (index, line) in ["one\n", "two\n"].into_iter().enumerate() {
        let mut client = watcher.attach(true);
        client.write_all(line.as_bytes()).unwrap();
        if index == 0 {
            client.shutdown(Shutdown::Write).unwrap();
            assert_eq!(read_all(&client), b"", "Docker lets such a client go");
        } else {
            assert_eq!(unframe(&read_all(&client)).0, "one\ntwo\n");
        }
    }
    assert_eq!(watcher.end(events).1.exit_code, 0);
}

#[test]
fn root_without_open_input_it_is_empty() {
    let test = "root_without_open_input_it_is_empty";
    let Some(bundle) = bundle(test, &["sh", "-c", "cat; echo done"]) else { return };
    let (bundle, _) = bundle.create().run();
    assert_eq!(bundle.text(), "done\n");
}

#[test]
fn root_a_terminal_echoes_has_a_size_and_can_be_resized() {
    let test = "root_a_terminal_echoes_has_a_size_and_can_be_resized";
    let script = "tty; stty size; read line; stty size; exit 3";
    let Some(mut bundle) = bundle(test, &["sh", "-c", script]) else { return };
    bundle.config.tty = true;
    bundle.config.open_stdin = true;
    bundle.config.console_size = (33, 101);
    bundle.spec["process"]["terminal"] = true.into();
    let watcher = bundle.create();
    let (events, mut client) = (watcher.subscribe(), watcher.attach(true));
    watcher.order(&Request::Start);
    wait_until("the size was printed", || watcher.bundle.text().contains("33 101"));
    watcher.order(&Request::Resize { exec: None, height: 24, width: 80 });
    client.write_all(b"go\r").unwrap();
    let expected = "/dev/pts/0\r\n33 101\r\ngo\r\n24 80\r\n";
    assert_eq!(String::from_utf8(read_all(&client)).unwrap(), expected);
    let (bundle, exit) = watcher.end(events);
    assert_eq!((bundle.text().as_str(), exit.exit_code), (expected, 3));
}

#[test]
fn root_a_slow_client_gets_all_of_it_and_a_dead_one_holds_nothing_up() {
    let test = "root_a_slow_client_gets_all_of_it_and_a_dead_one_holds_nothing_up";
    // Five megabytes: more than all buffers on the way.
    let script = "head -c 5000000 /dev/zero; echo end >&2";
    let Some(mut bundle) = bundle(test, &["sh", "-c", script]) else { return };
    bundle.config.log = LogTarget::None;
    let watcher = bundle.create();
    let (events, mut slow, dead) =
        (watcher.subscribe(), watcher.attach(false), watcher.attach(false));
    watcher.order(&Request::Start);
    let mut first = [0; 1000];
    slow.read_exact(&mut first).unwrap();
    std::thread::sleep(Duration::from_millis(200));
    drop(dead);
    let mut bytes = first.to_vec();
    bytes.extend(read_all(&slow));
    let (stdout, stderr) = unframe(&bytes);
    assert_eq!((stdout.len(), stderr.as_str()), (5_000_000, "end\n"));
    assert_eq!(watcher.end(events).1.exit_code, 0);
}

#[test]
fn root_the_end_is_told_while_a_client_still_reads() {
    let test = "root_the_end_is_told_while_a_client_still_reads";
    let Some(bundle) = bundle(test, &["head", "-c", "400000", "/dev/zero"]) else { return };
    let watcher = bundle.create();
    let (mut events, client) = (watcher.subscribe(), watcher.attach(false));
    watcher.order(&Request::Start);
    assert_eq!(events.exit().exit_code, 0);
    watcher.bundle.assert_clean();
    assert_eq!(unframe(&read_all(&client)).0.len(), 400_000);
    wait_until("the watcher ends", || !crate::bundle::alive(watcher.shim_pid));
}

//! Commands that stream: exec, attach, start, logs, and the foreground of run.

use berth_client::{Body, Client, Hijacked, Query};
use hyper::Method;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::args::{AttachArgs, ExecArgs, LogsArgs, StartArgs};
use super::error::{CliError, each};
use super::terminal::{self, DetachScanner, RawMode};
use super::ui::{self, To};
use super::{create, terminal::stdin_is_terminal};

/// How a stream came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The output ended.
    Output,
    /// The detach keys were typed.
    Detached,
}

/// What is streamed, and how.
#[derive(Debug)]
pub(super) struct Plan {
    /// The process has a terminal.
    pub(super) tty: bool,
    /// This program's stdin goes to it.
    pub(super) stdin: bool,
    /// The keys that detach, where they are not Docker's.
    pub(super) detach_keys: Option<String>,
}

/// Passes bytes both ways until the output ends or the user detaches.
pub(super) async fn pump(hijacked: Hijacked, plan: &Plan) -> Result<End, CliError> {
    let Hijacked { mut output, input, .. } = hijacked;
    let raw =
        if plan.tty && plan.stdin && stdin_is_terminal() { Some(RawMode::enter()?) } else { None };
    let (detached, mut on_detach) = oneshot::channel::<()>();
    let scanner = match (plan.tty, plan.stdin) {
        (true, true) => {
            Some(DetachScanner::new(plan.detach_keys.as_deref()).map_err(CliError::new)?)
        }
        _ => None,
    };
    let sending = tokio::spawn(send_stdin(input, plan.stdin, scanner, detached));
    let receiving = async {
        let mut frames = Frames::default();
        let mut buffer = vec![0; 32 << 10];
        loop {
            let count = output.read(&mut buffer).await?;
            if count == 0 {
                return Ok::<_, CliError>(());
            }
            if plan.tty {
                ui::bytes(To::Out, &buffer[..count]).await?;
            } else {
                frames.print(&buffer[..count]).await?;
            }
        }
    };
    let ended = tokio::select! {
        done = receiving => done.map(|()| End::Output),
        Ok(()) = &mut on_detach => Ok(End::Detached),
    };
    sending.abort();
    drop(raw);
    if matches!(ended, Ok(End::Detached)) {
        ui::error("read escape sequence");
    }
    ended
}

async fn send_stdin(
    mut input: berth_client::Input,
    wanted: bool,
    mut scanner: Option<DetachScanner>,
    detached: oneshot::Sender<()>,
) {
    if !wanted {
        // The half that is not used stays open: closing it would end what others attached.
        std::future::pending::<()>().await;
    }
    let mut stdin = tokio::io::stdin();
    let mut buffer = vec![0; 32 << 10];
    while let Ok(count @ 1..) = stdin.read(&mut buffer).await {
        let (forward, done) = match &mut scanner {
            Some(scanner) => scanner.feed(&buffer[..count]),
            None => (buffer[..count].to_vec(), false),
        };
        if input.write(&forward).await.is_err() {
            break;
        }
        if done {
            if detached.send(()).is_ok() {
                std::future::pending::<()>().await;
            }
            return;
        }
    }
    // The output tells what became of the process; an engine that left is seen there.
    if input.close().await.is_err() {
        ui::error("stdin could not be closed");
    }
    std::future::pending::<()>().await;
}

/// Takes framed output apart: a byte that names the stream, three zeros, the length, the bytes.
#[derive(Debug, Default)]
pub(super) struct Frames {
    header: Vec<u8>,
    left: usize,
}

const HEADER: usize = 8;

impl Frames {
    async fn print(&mut self, bytes: &[u8]) -> Result<(), CliError> {
        for (to, part) in self.split(bytes)? {
            ui::bytes(to, part).await?;
        }
        Ok(())
    }

    fn split<'a>(&mut self, mut bytes: &'a [u8]) -> Result<Vec<(To, &'a [u8])>, CliError> {
        let mut parts = Vec::new();
        while !bytes.is_empty() {
            if self.left == 0 {
                let take = (HEADER - self.header.len() % HEADER).min(bytes.len());
                if self.header.len() == HEADER {
                    self.header.clear();
                }
                self.header.extend_from_slice(&bytes[..take]);
                bytes = &bytes[take..];
                if let [kind, _, _, _, a, b, c, d] = self.header[..] {
                    if kind > 3 {
                        return Err(CliError::new(format!("Unrecognized input header: {kind}")));
                    }
                    self.left = u32::from_be_bytes([a, b, c, d]) as usize;
                }
                continue;
            }
            let (part, rest) = bytes.split_at(self.left.min(bytes.len()));
            self.left -= part.len();
            bytes = rest;
            match self.header[0] {
                2 => parts.push((To::Err, part)),
                3 => {
                    let text = String::from_utf8_lossy(part);
                    return Err(CliError::new(format!("error from daemon in stream: {text}")));
                }
                _ => parts.push((To::Out, part)),
            }
        }
        Ok(parts)
    }
}

/// Keeps the size of the terminal inside as it is outside.
pub(super) fn follow_size(client: &Client, parts: [String; 2]) -> JoinHandle<()> {
    let client = client.clone();
    tokio::spawn(async move {
        let Ok(mut changes) = signal(SignalKind::window_change()) else { return };
        // The process may not be there yet at the first try.
        let mut tries = 5;
        loop {
            if let Some((rows, columns)) = terminal::size() {
                let query = Query::new().with("h", rows.to_string()).with("w", columns.to_string());
                let parts = [parts[0].as_str(), parts[1].as_str(), "resize"];
                let sent = client.post_empty(&parts, &query, Body::Empty).await;
                if sent.is_err() && tries > 0 {
                    tries -= 1;
                    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                    continue;
                }
            }
            if changes.recv().await.is_none() {
                return;
            }
        }
    })
}

/// Sends the signals that this program gets to the container.
pub(super) fn proxy_signals(client: &Client, id: &str) -> JoinHandle<()> {
    const PROXIED: [i32; 7] = [1, 2, 3, 10, 12, 15, 18];
    let (client, id) = (client.clone(), id.to_owned());
    let (sender, mut received) = tokio::sync::mpsc::unbounded_channel();
    for number in PROXIED {
        let sender = sender.clone();
        let Ok(mut stream) = signal(SignalKind::from_raw(number)) else { continue };
        drop(tokio::spawn(async move {
            while stream.recv().await.is_some() && sender.send(number).is_ok() {}
        }));
    }
    tokio::spawn(async move {
        while let Some(number) = received.recv().await {
            let query = Query::new().with("signal", number.to_string());
            let sent = client.post_empty(&["containers", &id, "kill"], &query, Body::Empty).await;
            if let Err(error) = sent
                && !error.is_not_found()
                && error.status() != Some(409)
            {
                ui::error(&error.message());
            }
        }
    })
}

pub(super) async fn exec(client: &Client, args: ExecArgs) -> Result<u8, CliError> {
    let Some((name, command)) = args.args.split_first() else {
        return Err(CliError::new("no command"));
    };
    if args.tty && args.interactive && !args.detach && !stdin_is_terminal() {
        return Err(CliError::new("the input device is not a TTY"));
    }
    let no_query = Query::new();
    let container: Value = client.get(&["containers", name, "json"], &no_query).await?;
    let id = container["Id"].as_str().unwrap_or(name).to_owned();
    let attach = !args.detach;
    let body = json!({
        "User": args.user.unwrap_or_default(),
        "Privileged": args.privileged,
        "Tty": args.tty,
        "AttachStdin": args.interactive && attach,
        "AttachStdout": attach,
        "AttachStderr": attach,
        "DetachKeys": args.detach_keys.clone().unwrap_or_default(),
        "Env": create::environment(&args.env, &args.env_file)?,
        "WorkingDir": args.workdir.unwrap_or_default(),
        "Cmd": command,
    });
    let made: Value =
        client.post(&["containers", &id, "exec"], &no_query, Body::json(&body)?).await?;
    let exec = made["Id"].as_str().unwrap_or_default().to_owned();
    let mut start = json!({"Detach": args.detach, "Tty": args.tty});
    if args.tty
        && let Some((rows, columns)) = terminal::size()
    {
        start["ConsoleSize"] = json!([rows, columns]);
    }
    let start = Body::json(&start)?;
    if args.detach {
        client.post_empty(&["exec", &exec, "start"], &no_query, start).await?;
        return Ok(0);
    }
    let hijacked = client.hijack(&["exec", &exec, "start"], &no_query, start).await?;
    let size = (args.tty && terminal::stdout_is_terminal())
        .then(|| follow_size(client, ["exec".to_owned(), exec.clone()]));
    let plan =
        Plan { tty: args.tty, stdin: args.interactive, detach_keys: args.detach_keys.clone() };
    let ended = pump(hijacked, &plan).await;
    if let Some(size) = size {
        size.abort();
    }
    if ended? == End::Detached {
        return Ok(0);
    }
    let state: Value = client.get(&["exec", &exec, "json"], &no_query).await?;
    Ok(status_of(&state["ExitCode"]))
}

/// An exit status as a process can have it.
pub(super) fn status_of(value: &Value) -> u8 {
    value.as_i64().map_or(0, |code| u8::try_from(code & 0xff).unwrap_or(1))
}

pub(super) async fn attach(client: &Client, args: AttachArgs) -> Result<u8, CliError> {
    let no_query = Query::new();
    let container: Value = client.get(&["containers", &args.container, "json"], &no_query).await?;
    let refused = [
        ("Running", false, "cannot attach to a stopped container, start it first"),
        ("Paused", true, "cannot attach to a paused container, unpause it first"),
        ("Restarting", true, "cannot attach to a restarting container, wait until it is running"),
    ];
    for (state, wrong, message) in refused {
        if container["State"][state].as_bool() == Some(wrong) {
            return Err(CliError::new(message));
        }
    }
    let id = container["Id"].as_str().unwrap_or(&args.container);
    let plan = Plan {
        tty: container["Config"]["Tty"] == true,
        stdin: !args.no_stdin && container["Config"]["OpenStdin"] == true,
        detach_keys: args.detach_keys,
    };
    let mut waiting =
        client.stream(Method::POST, &["containers", id, "wait"], &no_query, Body::Empty).await?;
    let hijacked = client
        .hijack(&["containers", id, "attach"], &attach_query(&plan, true, true), Body::Empty)
        .await?;
    let ended = foreground(client, id, hijacked, &plan, args.sig_proxy).await?;
    if ended == End::Detached {
        return Ok(0);
    }
    wait_status(&mut waiting).await
}

/// The parameters of `attach`.
pub(super) fn attach_query(plan: &Plan, stdout: bool, stderr: bool) -> Query {
    Query::new()
        .with("stream", "1")
        .flag("stdin", plan.stdin)
        .flag("stdout", stdout)
        .flag("stderr", stderr)
        .optional("detachKeys", plan.detach_keys.as_deref())
}

/// [`pump`] with the signals and the size of the terminal.
pub(super) async fn foreground(
    client: &Client,
    id: &str,
    hijacked: Hijacked,
    plan: &Plan,
    sig_proxy: bool,
) -> Result<End, CliError> {
    let mut helpers = Vec::new();
    if sig_proxy {
        helpers.push(proxy_signals(client, id));
    }
    if plan.tty && terminal::stdout_is_terminal() {
        helpers.push(follow_size(client, ["containers".to_owned(), id.to_owned()]));
    }
    let ended = pump(hijacked, plan).await;
    for helper in helpers {
        helper.abort();
    }
    ended
}

/// The exit status that `wait` answers with.
pub(super) async fn wait_status(answer: &mut berth_client::Stream) -> Result<u8, CliError> {
    let mut text = Vec::new();
    while let Some(bytes) = answer.next().await? {
        text.extend_from_slice(&bytes);
    }
    let answer: Value = serde_json::from_slice(&text)?;
    match answer["Error"]["Message"].as_str() {
        Some(message) if !message.is_empty() => Err(CliError::new(message).with_status(125)),
        _ => Ok(status_of(&answer["StatusCode"])),
    }
}

pub(super) async fn start(client: &Client, args: StartArgs) -> Result<u8, CliError> {
    let query = Query::new().optional("detachKeys", args.detach_keys.as_deref());
    if !args.attach && !args.interactive {
        return each(&args.names, async |name| {
            client.post_empty(&["containers", name, "start"], &query, Body::Empty).await?;
            Ok(ui::line(name)?)
        })
        .await;
    }
    let [name] = &args.names[..] else {
        return Err(CliError::new("you cannot start and attach multiple containers at once"));
    };
    let no_query = Query::new();
    let container: Value = client.get(&["containers", name, "json"], &no_query).await?;
    let id = container["Id"].as_str().unwrap_or(name);
    let plan = Plan {
        tty: container["Config"]["Tty"] == true,
        stdin: args.interactive && container["Config"]["OpenStdin"] == true,
        detach_keys: args.detach_keys,
    };
    let attach = attach_query(&plan, true, true);
    let hijacked = client.hijack(&["containers", id, "attach"], &attach, Body::Empty).await?;
    let removed = container["HostConfig"]["AutoRemove"] == true;
    let until = Query::new().with("condition", if removed { "removed" } else { "next-exit" });
    let mut waiting =
        client.stream(Method::POST, &["containers", id, "wait"], &until, Body::Empty).await?;
    client.post_empty(&["containers", id, "start"], &query, Body::Empty).await?;
    match foreground(client, id, hijacked, &plan, true).await? {
        End::Detached => Ok(0),
        End::Output => wait_status(&mut waiting).await,
    }
}

pub(super) async fn logs(client: &Client, args: LogsArgs) -> Result<u8, CliError> {
    let no_query = Query::new();
    let container: Value = client.get(&["containers", &args.container, "json"], &no_query).await?;
    let id = container["Id"].as_str().unwrap_or(&args.container);
    let query = Query::new()
        .with("stdout", "1")
        .with("stderr", "1")
        .flag("follow", args.follow)
        .flag("timestamps", args.timestamps)
        .flag("details", args.details)
        .with("tail", &args.tail)
        .optional("since", time(args.since.as_deref())?)
        .optional("until", time(args.until.as_deref())?);
    let mut stream =
        client.stream(Method::GET, &["containers", id, "logs"], &query, Body::Empty).await?;
    let tty = container["Config"]["Tty"] == true;
    let mut frames = Frames::default();
    while let Some(bytes) = stream.next().await? {
        if tty {
            ui::bytes(To::Out, &bytes).await?;
        } else {
            frames.print(&bytes).await?;
        }
    }
    Ok(0)
}

/// A time of the command line as the API takes it.
fn time(text: Option<&str>) -> Result<Option<String>, CliError> {
    let Some(text) = text else { return Ok(None) };
    let now = berth_types::Timestamp::now();
    let time = berth_types::duration::parse_time_filter(text, now)
        .map_err(|error| CliError::new(error.to_string()))?;
    let nanos = time.unix_nanos().rem_euclid(1_000_000_000);
    Ok(Some(format!("{}.{nanos:09}", time.unix())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_taken_apart_wherever_the_reads_cut_them() {
        let mut bytes = Vec::new();
        for (kind, text) in [(1, "out"), (2, "err"), (1, ""), (1, "more")] {
            bytes.extend([kind, 0, 0, 0]);
            bytes.extend(u32::try_from(text.len()).unwrap().to_be_bytes());
            bytes.extend(text.as_bytes());
        }
        for step in 1..=bytes.len() {
            let (mut out, mut err) = (Vec::new(), Vec::new());
            let mut frames = Frames::default();
            for read in bytes.chunks(step) {
                for (to, part) in frames.split(read).unwrap() {
                    if to == To::Out { out.extend(part) } else { err.extend(part) }
                }
            }
            assert_eq!((out.as_slice(), err.as_slice()), (&b"outmore"[..], &b"err"[..]), "{step}");
        }
    }

    #[test]
    fn an_error_frame_ends_the_stream_with_its_text() {
        let error = Frames::default().split(b"\x03\0\0\0\0\0\0\x02no").unwrap_err();
        assert_eq!(error.message, "error from daemon in stream: no");
    }
}

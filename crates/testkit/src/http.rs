//! A small HTTP server for tests of clients: it says what it is told to, also what no good server
//! would. One request for each connection.

use std::io::{self, BufRead as _, BufReader, Read, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A request as it came.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// `GET` and the like.
    pub method: String,
    /// Without the query.
    pub path: String,
    /// What follows `?`; empty for nothing.
    pub query: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// The whole body.
    pub body: Vec<u8>,
}

impl Request {
    /// The first header of this name, in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str())
    }

    /// `GET /path?query`.
    pub fn line(&self) -> String {
        let mark = if self.query.is_empty() { "" } else { "?" };
        format!("{} {}{mark}{}", self.method, self.path, self.query)
    }
}

/// What is answered.
#[derive(Debug, Clone, Default)]
pub struct Reply {
    /// 200 and the like.
    pub status: u16,
    /// Beside the length.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
    /// What `Content-Length` says where that is not the body's.
    pub claims: Option<u64>,
    /// The connection is closed after so many bytes of the body.
    pub cut: Option<usize>,
    /// So much time passes before each of so many bytes of the body.
    pub drip: Option<(usize, Duration)>,
    /// Nothing is answered before this is set.
    pub gate: Option<Arc<Gate>>,
    /// The gate is in the body, after so many bytes.
    pub gate_at: usize,
}

impl Reply {
    /// A status and a body.
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, body: body.into(), ..Self::default() }
    }

    /// With one more header.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }
}

/// Closed until somebody opens it.
#[derive(Debug, Default)]
pub struct Gate {
    open: AtomicBool,
    waiting: AtomicBool,
}

impl Gate {
    /// Opens it for good.
    pub fn open(&self) {
        self.open.store(true, Ordering::Release);
    }

    /// Waits until an answer stands before it.
    pub fn wait_for_somebody(&self) {
        while !self.waiting.load(Ordering::Acquire) {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn pass(&self, stopping: &AtomicBool) {
        self.waiting.store(true, Ordering::Release);
        while !self.open.load(Ordering::Acquire) && !stopping.load(Ordering::Acquire) {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// A server on a port of its own on the loopback, until it is dropped.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Request>>>,
    stopping: Arc<AtomicBool>,
}

type Handler = dyn Fn(&Request) -> Reply + Send + Sync;
/// After how many bytes of a request's body the server hangs up.
type Limit = dyn Fn(&Request) -> Option<usize> + Send + Sync;

impl Server {
    /// Answers with what `handler` says.
    pub fn start(handler: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        Self::start_cutting(handler, |_| None)
    }

    /// Hangs up after so many bytes of a body as `limit` says, which is shown the request without its
    /// body. `handler` is shown what came, and what it says is not sent.
    pub fn start_cutting(
        handler: impl Fn(&Request) -> Reply + Send + Sync + 'static,
        limit: impl Fn(&Request) -> Option<usize> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port on the loopback");
        let address = listener.local_addr().expect("a bound port");
        let seen = Arc::new(Mutex::new(Vec::new()));
        let stopping = Arc::new(AtomicBool::new(false));
        let handler: Arc<Handler> = Arc::new(handler);
        let limit: Arc<Limit> = Arc::new(limit);
        std::thread::spawn({
            let (seen, stopping) = (Arc::clone(&seen), Arc::clone(&stopping));
            move || {
                for stream in listener.incoming() {
                    if stopping.load(Ordering::Acquire) {
                        return;
                    }
                    let Ok(stream) = stream else { continue };
                    let (seen, stopping) = (Arc::clone(&seen), Arc::clone(&stopping));
                    let (handler, limit) = (Arc::clone(&handler), Arc::clone(&limit));
                    std::thread::spawn(move || {
                        // Clients of hostile servers hang up, and that is no failure here.
                        drop(serve(stream, (&*handler, &*limit), &seen, &stopping));
                    });
                }
            }
        });
        Self { address, seen, stopping }
    }

    /// `127.0.0.1:PORT`.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// Every request until now, as [`Request::line`].
    pub fn lines(&self) -> Vec<String> {
        self.seen().iter().map(Request::line).collect()
    }

    /// Every request until now.
    pub fn seen(&self) -> MutexGuard<'_, Vec<Request>> {
        lock(&self.seen)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Release);
        // Wakes the listener, so that it sees that it shall end.
        drop(TcpStream::connect(self.address));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn serve(
    stream: TcpStream,
    (handler, limit): (&Handler, &Limit),
    seen: &Mutex<Vec<Request>>,
    stopping: &AtomicBool,
) -> io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut is_cut = false;
    let request = match read(&mut reader, limit, &mut is_cut) {
        Ok(Some(request)) => request,
        Ok(None) => return Ok(()),
        // A client that speaks something else, such as TLS.
        Err(_) => return write(stream, &Request::default(), &Reply::new(400, ""), stopping),
    };
    lock(seen).push(request.clone());
    let reply = handler(&request);
    if is_cut { Ok(()) } else { write(stream, &request, &reply, stopping) }
}

fn read(
    reader: &mut BufReader<TcpStream>,
    limit: &Limit,
    is_cut: &mut bool,
) -> io::Result<Option<Request>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace().map(str::to_owned);
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let mut request =
        Request { method, path: path.to_owned(), query: query.to_owned(), ..Request::default() };
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        request.headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let most = limit(&request);
    if request.header("transfer-encoding").is_some_and(|coding| coding.contains("chunked")) {
        loop {
            let mut size = String::new();
            reader.read_line(&mut size)?;
            let size = u64::from_str_radix(size.trim(), 16).map_err(io::Error::other)?;
            reader.take(size).read_to_end(&mut request.body)?;
            reader.read_line(&mut String::new())?;
            if size == 0 {
                break;
            }
            if let Some(most) = most.filter(|most| request.body.len() >= *most) {
                request.body.truncate(most);
                *is_cut = true;
                break;
            }
        }
    } else if let Some(length) = request.header("content-length") {
        let length = length.parse().map_err(io::Error::other)?;
        reader.take(length).read_to_end(&mut request.body)?;
    }
    Ok(Some(request))
}

fn write(
    mut stream: TcpStream,
    request: &Request,
    reply: &Reply,
    stopping: &AtomicBool,
) -> io::Result<()> {
    let length = reply.claims.unwrap_or(reply.body.len() as u64);
    let mut head = format!("HTTP/1.1 {} Said\r\nConnection: close\r\n", reply.status);
    for (name, value) in &reply.headers {
        head.extend([name, ": ", value, "\r\n"]);
    }
    head.extend(["Content-Length: ", &length.to_string(), "\r\n\r\n"]);
    let is_head = request.method == "HEAD";
    let mut body = if is_head { &[][..] } else { &reply.body[..] };
    if let Some(most) = reply.cut {
        body = &body[..most.min(body.len())];
    }
    if let Some(gate) = &reply.gate {
        let (before, after) = body.split_at(reply.gate_at.min(body.len()));
        if reply.gate_at > 0 {
            stream.write_all(head.as_bytes())?;
            stream.write_all(before)?;
            stream.flush()?;
            head.clear();
        }
        gate.pass(stopping);
        body = after;
    }
    stream.write_all(head.as_bytes())?;
    if let Some((dripping, pause)) = reply.drip {
        let (slow, rest) = body.split_at(dripping.min(body.len()));
        for byte in slow {
            if stopping.load(Ordering::Acquire) {
                return Ok(());
            }
            std::thread::sleep(pause);
            stream.write_all(std::slice::from_ref(byte))?;
        }
        body = rest;
    }
    stream.write_all(body)?;
    stream.shutdown(std::net::Shutdown::Write)?;
    // What the client still sends is taken, or closing would take the answer from it.
    io::copy(&mut stream, &mut io::sink()).map(drop)
}

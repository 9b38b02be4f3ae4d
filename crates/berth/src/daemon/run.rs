//! From checked settings to a daemon that serves, and back down again.

use std::io;
use std::path::{Path, PathBuf};

use berth_engine::{Engine, EngineConfig, EngineError};
use berth_http::ServerInfo;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::accept;
use super::config::{Config, Flags};
use super::listen::{self, ListenError, Listener};
use super::logging::{self, LevelSwitch};
use super::notify::notify_or_warn;
use super::pidfile::{Pidfile, PidfileError};
use super::reload::reload;
use super::remap::{self, RemapError};
use super::tls::{self, TlsError};

/// Why the daemon did not start.
#[derive(Debug, thiserror::Error)]
pub(super) enum StartError {
    #[error("berth daemon needs to be started with root privileges")]
    NotRoot,
    #[error("failed to set up the log")]
    Log(#[source] tracing_subscriber::util::TryInitError),
    #[error("failed to start daemon, ensure berth is not running or delete {}", .path.display())]
    Pidfile { path: PathBuf, source: PidfileError },
    #[error("failed to start daemon")]
    Tls(#[source] TlsError),
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error(transparent)]
    Remap(#[from] RemapError),
    #[error("berth-shim is neither beside this program nor named by BERTH_SHIM")]
    NoShim,
    #[error("failed to start daemon")]
    Engine(#[source] EngineError),
    #[error("failed to start daemon: {what}")]
    System { what: &'static str, source: io::Error },
}

/// Requests that wait for stores at the same time; each may cost a thread.
const BLOCKING_THREADS: usize = 32;
/// Signals to end until the daemon no longer waits for anything.
const SIGNALS_UNTIL_FORCED: u32 = 3;

/// Serves until a signal says otherwise.
pub(super) fn run(config: Config, flags: Flags) -> Result<(), StartError> {
    if !rustix::process::geteuid().is_root() {
        return Err(StartError::NotRoot);
    }
    let level =
        logging::init(config.effective_level(), &config.log_format).map_err(StartError::Log)?;
    let shim = find_shim().ok_or(StartError::NoShim)?;
    let tls = tls::acceptor(&config).map_err(StartError::Tls)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(BLOCKING_THREADS)
        .thread_name("berth")
        .enable_all()
        .build()
        .map_err(|source| StartError::System { what: "threads", source })?;
    // Whoever finds the process by its pidfile or its socket may send a signal at once.
    let signals = runtime.block_on(async { Signals::listen() });
    let signals = signals.map_err(|source| StartError::System { what: "signals", source })?;
    let pidfile = Path::new(&config.pidfile);
    let _pidfile = Pidfile::create(pidfile)
        .map_err(|source| StartError::Pidfile { path: pidfile.to_owned(), source })?;
    let listeners = listen::open_all(&config.hosts, &config.group)?;
    let _sockets = Sockets::of(&listeners);
    let metrics = listen::open_metrics(&config.metrics_addr)?;
    let plain_tcp = plain_tcp(&listeners, &config);
    let mut engine = config.engine(shim, plain_tcp);
    remap::apply(&config.userns_remap, &mut engine)?;
    let sockets = Open { api: listeners, metrics, tls };
    let served = runtime.block_on(serve(config, flags, engine, sockets, signals, level));
    // Requests that still stream to clients must not hold the end up.
    runtime.shutdown_background();
    served
}

/// What clients connect to.
struct Open {
    api: Vec<Listener>,
    metrics: Option<Listener>,
    tls: Option<tokio_rustls::TlsAcceptor>,
}

async fn serve(
    mut config: Config,
    flags: Flags,
    engine: EngineConfig,
    sockets: Open,
    mut signals: Signals,
    level: LevelSwitch,
) -> Result<(), StartError> {
    let shown: Vec<String> = sockets.api.iter().map(|one| one.shown().to_owned()).collect();
    let engine = Engine::open(engine).await.map_err(StartError::Engine)?;
    tracing::info!("Daemon has completed initialization");
    let info = ServerInfo {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        experimental: config.experimental,
    };
    let app = berth_http::router(engine.clone(), &info);
    let clients = CancellationToken::new();
    let listening = |source| StartError::System { what: "listeners", source };
    let mut accepting =
        accept::start(sockets.api, sockets.tls.as_ref(), &app, &clients).map_err(listening)?;
    if let Some(metrics) = sockets.metrics {
        tracing::info!("metrics API listening on {}", metrics.shown());
        let app = berth_http::metrics(engine.clone(), &info);
        accepting.extend(accept::start(vec![metrics], None, &app, &clients).map_err(listening)?);
    }
    for name in shown {
        tracing::info!("API listen on {name}");
    }
    notify_or_warn("READY=1");
    loop {
        match signals.next().await {
            Signal::End(name) => {
                tracing::info!("Processing signal '{name}'");
                break;
            }
            Signal::Reload => {
                notify_or_warn("RELOADING=1");
                reload(&engine, &mut config, &flags, &level);
                notify_or_warn("READY=1");
            }
            Signal::Dump => tracing::info!("SIGUSR1: berth has no stacks to write"),
        }
    }
    notify_or_warn("STOPPING=1");
    for listener in accepting {
        listener.abort();
    }
    clients.cancel();
    tokio::select! {
        () = engine.shutdown() => tracing::info!("Daemon shutdown complete"),
        () = signals.forced() => tracing::warn!("Forcing daemon shutdown without cleanup"),
    }
    Ok(())
}

/// What a signal asks for.
#[derive(Debug, Clone, Copy)]
enum Signal {
    End(&'static str),
    Reload,
    Dump,
}

#[derive(Debug)]
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    hang_up: tokio::signal::unix::Signal,
    user: tokio::signal::unix::Signal,
    // Held so that a closed log pipe does not end the daemon.
    _pipe: tokio::signal::unix::Signal,
}

impl Signals {
    fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
            user: signal(SignalKind::user_defined1())?,
            _pipe: signal(SignalKind::pipe())?,
        })
    }

    async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.terminate.recv() => Signal::End("terminated"),
            _ = self.interrupt.recv() => Signal::End("interrupt"),
            _ = self.hang_up.recv() => Signal::Reload,
            _ = self.user.recv() => Signal::Dump,
        }
    }

    /// Returns once the administrator has insisted.
    async fn forced(&mut self) {
        let mut seen = 1;
        while seen < SIGNALS_UNTIL_FORCED {
            if matches!(self.next().await, Signal::End(_)) {
                seen += 1;
            }
        }
    }
}

/// The socket files of this daemon, removed on drop.
#[derive(Debug)]
struct Sockets(Vec<PathBuf>);

impl Sockets {
    fn of(listeners: &[Listener]) -> Self {
        let own = |listener: &Listener| match listener {
            Listener::Unix { path, .. } => path.clone(),
            Listener::Tcp { .. } => None,
        };
        Self(listeners.iter().filter_map(own).collect())
    }
}

impl Drop for Sockets {
    fn drop(&mut self) {
        for path in &self.0 {
            match std::fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(%error, path = %path.display(), "socket not removed");
                }
                _ => {}
            }
        }
    }
}

/// The watcher's program: named by the environment, or beside this one.
fn find_shim() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("BERTH_SHIM").filter(|path| !path.is_empty()) {
        return Some(PathBuf::from(path));
    }
    let own = std::env::current_exe().ok()?;
    let beside = own.parent()?.join("berth-shim");
    beside.is_file().then_some(beside)
}

/// The addresses that are served without TLS, each with a warning in the log.
fn plain_tcp(listeners: &[Listener], config: &Config) -> Vec<String> {
    let mut plain = Vec::new();
    for listener in listeners {
        let Listener::Tcp { shown, .. } = listener else { continue };
        if config.tls && config.tls_verify {
            continue;
        }
        if config.tls {
            tracing::warn!("the API on https://{shown} does not verify its clients");
        } else {
            tracing::warn!(
                "the API on http://{shown} is open to everybody who can reach it, and gives them root"
            );
            plain.push(shown.clone());
        }
    }
    plain
}

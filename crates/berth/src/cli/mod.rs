//! The commands: each parses, talks to the engine, and prints through [`ui`].

mod args;
mod containers;
mod create;
mod create_args;
mod error;
mod images;
mod info;
mod inspect;
mod lifecycle;
mod messages;
mod storage;
mod streams;
mod table;
mod template;
mod terminal;
mod ui;
mod volumes;

use std::process::ExitCode;

use berth_client::{Client, Endpoint, TlsFiles};
use clap::Parser as _;

use args::{Cli, Command, Connection};
use error::CliError;

/// Docker's exit status for a command line that is not understood, and for failures of `run` itself.
const USAGE: u8 = 125;

/// Runs the program with all its arguments.
pub(crate) fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let status = if error.use_stderr() { USAGE } else { 0 };
            match error.print() {
                Ok(()) | Err(_) => return ExitCode::from(status),
            }
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            ui::error(&error.to_string());
            return ExitCode::FAILURE;
        }
    };
    let done = runtime.block_on(dispatch(cli));
    // A thread may still wait for standard input.
    runtime.shutdown_background();
    match done {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            if !error.message.is_empty() {
                ui::error(&error.message);
            }
            ExitCode::from(error.status)
        }
    }
}

async fn dispatch(cli: Cli) -> Result<u8, CliError> {
    let connection = &cli.connection;
    if let Command::Version(args) = &cli.command {
        return info::version(connect(connection).await, args).await;
    }
    if let Command::Storage(args) = &cli.command
        && let Some(done) = storage::without_daemon(args)
    {
        return done;
    }
    let is_run = matches!(&cli.command, Command::Run(_) | Command::Create(_));
    let client = connect(connection)
        .await
        .map_err(|error| if is_run { error.with_status(USAGE) } else { error })?;
    let client = &client;
    match cli.command {
        Command::Run(args) => create::run(client, args).await,
        Command::Create(args) => create::create_only(client, args).await,
        Command::Exec(args) => streams::exec(client, args).await,
        Command::Attach(args) => streams::attach(client, args).await,
        Command::Start(args) => streams::start(client, args).await,
        Command::Logs(args) => streams::logs(client, args).await,
        Command::Ps(args) => containers::ps(client, args).await,
        Command::Top(args) => containers::top(client, args).await,
        Command::Diff(args) => containers::diff(client, args).await,
        Command::Stop(args) => lifecycle::stop(client, "stop", args).await,
        Command::Restart(args) => lifecycle::stop(client, "restart", args).await,
        Command::Kill(args) => lifecycle::kill(client, args).await,
        Command::Rm(args) => lifecycle::rm(client, args).await,
        Command::Wait(args) => lifecycle::wait(client, args).await,
        Command::Rename(args) => lifecycle::rename(client, args).await,
        Command::Commit(args) => images::commit(client, args).await,
        Command::Images(args) => images::list(client, args).await,
        Command::Rmi(args) => images::rmi(client, args).await,
        Command::Tag(args) => images::tag(client, args).await,
        Command::Load(args) => images::load(client, args).await,
        Command::Save(args) => images::save(client, args).await,
        Command::Import(args) => images::import(client, args).await,
        Command::Inspect(args) => inspect::inspect(client, args).await,
        Command::Info(args) => info::info(client, args).await,
        Command::Version(_) => Ok(0),
        Command::Volume(args) => volumes::volume(client, args).await,
        Command::Storage(args) => storage::storage(client, args).await,
        Command::System(args) => volumes::system(client, args).await,
        Command::Container(args) => lifecycle::container(client, args).await,
        Command::Daemon => Err(CliError::new("`daemon` must be the first argument")),
    }
}

async fn connect(connection: &Connection) -> Result<Client, CliError> {
    let host = connection
        .host
        .clone()
        .or_else(|| variable("BERTH_HOST"))
        .or_else(|| variable("DOCKER_HOST"))
        .unwrap_or_else(|| "unix:///run/berth.sock".to_owned());
    let tls = connection.tls_files();
    Ok(Client::connect(Endpoint::parse(&host, tls)?).await?)
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

impl Connection {
    fn tls_files(&self) -> Option<TlsFiles> {
        if !self.tls_verify && variable("DOCKER_TLS_VERIFY").is_none() {
            return None;
        }
        let directory = variable("DOCKER_CERT_PATH")
            .or_else(|| Some(format!("{}/.docker", variable("HOME")?)))
            .unwrap_or_default();
        let file = |given: &Option<std::path::PathBuf>, name: &str| {
            given.clone().unwrap_or_else(|| format!("{directory}/{name}").into())
        };
        let (certificate, key) = (file(&self.tls_cert, "cert.pem"), file(&self.tls_key, "key.pem"));
        let identity = certificate.is_file().then_some((certificate, key));
        Some(TlsFiles { ca: file(&self.tls_ca_cert, "ca.pem"), identity })
    }
}

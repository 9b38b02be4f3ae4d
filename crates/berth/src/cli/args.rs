//! The command line, by Docker's names.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use super::create_args::{CreateCommand, RunCommand};
use super::storage::StorageArgs;

/// A container engine whose storage you can trust.
#[derive(Debug, Parser)]
#[command(name = "berth", version, max_term_width = 100, args_override_self = true)]
pub(super) struct Cli {
    #[command(flatten)]
    pub(super) connection: Connection,
    #[command(subcommand)]
    pub(super) command: Command,
}

/// Where the daemon is.
#[derive(Debug, Args)]
pub(super) struct Connection {
    /// Daemon socket to connect to (also `BERTH_HOST`, `DOCKER_HOST`)
    #[arg(short = 'H', long)]
    pub(super) host: Option<String>,
    /// Use TLS and verify the daemon
    #[arg(long = "tlsverify")]
    pub(super) tls_verify: bool,
    /// Trust certificates signed only by this CA
    #[arg(long = "tlscacert", value_name = "FILE")]
    pub(super) tls_ca_cert: Option<PathBuf>,
    /// Path to the TLS certificate
    #[arg(long = "tlscert", value_name = "FILE")]
    pub(super) tls_cert: Option<PathBuf>,
    /// Path to the TLS key
    #[arg(long = "tlskey", value_name = "FILE")]
    pub(super) tls_key: Option<PathBuf>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Create and run a new container from an image
    #[command(disable_help_flag = true, after_help = RUN_EXAMPLES)]
    Run(Box<RunCommand>),
    /// Create a new container
    #[command(
        disable_help_flag = true,
        after_help = "Example:\n  berth create --name web debian sleep 60"
    )]
    Create(Box<CreateCommand>),
    /// Execute a command in a running container
    #[command(after_help = "Examples:\n  berth exec web ls /\n  berth exec -it web sh")]
    Exec(ExecArgs),
    /// List containers
    #[command(
        alias = "list",
        after_help = "Examples:\n  berth ps -a\n  berth ps -s --filter status=running\n  berth ps --format '{{.ID}} {{.Status}}'"
    )]
    Ps(PsArgs),
    /// Fetch the logs of a container
    #[command(
        after_help = "Examples:\n  berth logs -f web\n  berth logs --tail 20 --since 10m web"
    )]
    Logs(LogsArgs),
    /// Attach to a running container
    #[command(after_help = "Example:\n  berth attach web    (Ctrl-p Ctrl-q leaves it running)")]
    Attach(AttachArgs),
    /// Start one or more stopped containers
    #[command(after_help = "Examples:\n  berth start web\n  berth start -ai shell")]
    Start(StartArgs),
    /// Stop one or more running containers
    #[command(after_help = "Example:\n  berth stop -t 3 web db")]
    Stop(StopArgs),
    /// Restart one or more containers
    #[command(after_help = "Example:\n  berth restart web")]
    Restart(StopArgs),
    /// Kill one or more running containers
    #[command(after_help = "Example:\n  berth kill -s HUP web")]
    Kill(KillArgs),
    /// Remove one or more containers
    #[command(after_help = "Example:\n  berth rm -f -v web")]
    Rm(RmArgs),
    /// Block until containers stop, then print their exit codes
    #[command(after_help = "Example:\n  berth wait job")]
    Wait(Names),
    /// Rename a container
    #[command(after_help = "Example:\n  berth rename old new")]
    Rename(RenameArgs),
    /// Display the running processes of a container
    #[command(after_help = "Example:\n  berth top web -o pid,comm")]
    Top(TopArgs),
    /// Inspect changes to files or directories on a container's file system
    #[command(after_help = "Example:\n  berth diff web")]
    Diff(OneContainer),
    /// Create a new image from a container's changes
    #[command(after_help = "Example:\n  berth commit -m 'with tools' web web:tools")]
    Commit(CommitArgs),
    /// List images
    #[command(after_help = "Examples:\n  berth images\n  berth images --filter dangling=true -q")]
    Images(ImagesArgs),
    /// Remove one or more images
    #[command(after_help = "Example:\n  berth rmi debian:12")]
    Rmi(RmiArgs),
    /// Create a tag that refers to an image
    #[command(after_help = "Example:\n  berth tag debian:12 base:latest")]
    Tag(TagArgs),
    /// Load images from a tar archive or stdin
    #[command(
        after_help = "Examples:\n  berth load -i debian.tar\n  gzip -dc debian.tar.gz | berth load"
    )]
    Load(LoadArgs),
    /// Save images to a tar archive (to stdout by default)
    #[command(after_help = "Example:\n  berth save -o debian.tar debian:12")]
    Save(SaveArgs),
    /// Import the contents of a tarball as the file system of an image
    #[command(after_help = "Example:\n  berth import root.tar base:1")]
    Import(ImportArgs),
    /// Return low-level information on objects
    #[command(
        after_help = "Examples:\n  berth inspect web\n  berth inspect -f '{{.State.Pid}}' web"
    )]
    Inspect(InspectArgs),
    /// Display system-wide information
    #[command(after_help = "Example:\n  berth info -f '{{.Driver}}'")]
    Info(FormatArgs),
    /// Show the versions of this program and the daemon
    #[command(after_help = "Example:\n  berth version")]
    Version(FormatArgs),
    /// Manage volumes
    #[command(after_help = "Examples:\n  berth volume create data\n  berth volume ls -q")]
    Volume(VolumeArgs),
    /// Look after the storage below images and containers
    #[command(
        after_help = "Examples:\n  berth storage info\n  berth storage check --deep\n  berth storage repair\n  berth storage backup /mnt/backup/monday"
    )]
    Storage(StorageArgs),
    /// Manage the engine
    #[command(after_help = "Example:\n  berth system df")]
    System(SystemArgs),
    /// Manage containers
    #[command(after_help = "Example:\n  berth container prune -f")]
    Container(ContainerArgs),
    /// Run the container engine (`berth daemon --help` lists its flags)
    Daemon,
}

const RUN_EXAMPLES: &str = "Examples:\n  berth run --rm -it debian bash\n  \
    berth run -d --name web -v data:/data web:1 serve --port 80\n  \
    berth run --rm --memory 64m --network none debian true";

/// Containers by name.
#[derive(Debug, Args)]
pub(super) struct Names {
    /// Containers
    #[arg(required = true, value_name = "CONTAINER")]
    pub(super) names: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct OneContainer {
    pub(super) container: String,
}

#[derive(Debug, Args)]
pub(super) struct ExecArgs {
    /// Run the command in the background
    #[arg(short, long)]
    pub(super) detach: bool,
    /// Override the key sequence for detaching
    #[arg(long)]
    pub(super) detach_keys: Option<String>,
    /// Set environment variables
    #[arg(short, long)]
    pub(super) env: Vec<String>,
    /// Read in a file of environment variables
    #[arg(long)]
    pub(super) env_file: Vec<PathBuf>,
    /// Keep stdin open even if not attached
    #[arg(short, long)]
    pub(super) interactive: bool,
    /// Give extended privileges to the command
    #[arg(long)]
    pub(super) privileged: bool,
    /// Allocate a pseudo-TTY
    #[arg(short, long)]
    pub(super) tty: bool,
    /// Username or UID (`<name|uid>[:<group|gid>]`)
    #[arg(short, long)]
    pub(super) user: Option<String>,
    /// Working directory inside the container
    #[arg(short, long)]
    pub(super) workdir: Option<String>,
    /// Container, command and its arguments
    #[arg(required = true, num_args = 2.., trailing_var_arg = true, value_name = "CONTAINER COMMAND [ARG]")]
    pub(super) args: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct PsArgs {
    /// Show all containers (default shows just running)
    #[arg(short, long)]
    pub(super) all: bool,
    /// Filter output based on conditions provided
    #[arg(short, long)]
    pub(super) filter: Vec<String>,
    /// `json`, or a template of `{{.Field}}`, with `table` in front for headings
    #[arg(long)]
    pub(super) format: Option<String>,
    /// Show n last created containers (includes all states)
    #[arg(short = 'n', long, default_value_t = -1, allow_negative_numbers = true)]
    pub(super) last: i64,
    /// Show the latest created container (includes all states)
    #[arg(short, long)]
    pub(super) latest: bool,
    /// Don't truncate output
    #[arg(long)]
    pub(super) no_trunc: bool,
    /// Only display container IDs
    #[arg(short, long)]
    pub(super) quiet: bool,
    /// Display total file sizes
    #[arg(short, long)]
    pub(super) size: bool,
}

#[derive(Debug, Args)]
pub(super) struct LogsArgs {
    /// Show extra details provided to logs
    #[arg(long)]
    pub(super) details: bool,
    /// Follow log output
    #[arg(short, long)]
    pub(super) follow: bool,
    /// Show logs since a time or relative to now (`42m`)
    #[arg(long)]
    pub(super) since: Option<String>,
    /// Number of lines to show from the end of the logs
    #[arg(short = 'n', long, default_value = "all")]
    pub(super) tail: String,
    /// Show timestamps
    #[arg(short, long)]
    pub(super) timestamps: bool,
    /// Show logs before a time or relative to now (`42m`)
    #[arg(long)]
    pub(super) until: Option<String>,
    pub(super) container: String,
}

#[derive(Debug, Args)]
pub(super) struct AttachArgs {
    /// Override the key sequence for detaching
    #[arg(long)]
    pub(super) detach_keys: Option<String>,
    /// Do not attach stdin
    #[arg(long)]
    pub(super) no_stdin: bool,
    /// Proxy all received signals to the process
    #[arg(long, default_value = "true", num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub(super) sig_proxy: bool,
    pub(super) container: String,
}

#[derive(Debug, Args)]
pub(super) struct StartArgs {
    /// Attach stdout and stderr, forward signals
    #[arg(short, long)]
    pub(super) attach: bool,
    /// Override the key sequence for detaching
    #[arg(long)]
    pub(super) detach_keys: Option<String>,
    /// Attach the container's stdin
    #[arg(short, long)]
    pub(super) interactive: bool,
    /// Containers
    #[arg(required = true, value_name = "CONTAINER")]
    pub(super) names: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct StopArgs {
    /// Signal to send to the container
    #[arg(short, long)]
    pub(super) signal: Option<String>,
    /// Seconds to wait before killing the container
    #[arg(short, long, visible_alias = "time", allow_negative_numbers = true)]
    pub(super) timeout: Option<i64>,
    /// Containers
    #[arg(required = true, value_name = "CONTAINER")]
    pub(super) names: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct KillArgs {
    /// Signal to send to the container
    #[arg(short, long)]
    pub(super) signal: Option<String>,
    /// Containers
    #[arg(required = true, value_name = "CONTAINER")]
    pub(super) names: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct RmArgs {
    /// Force the removal of a running container (uses SIGKILL)
    #[arg(short, long)]
    pub(super) force: bool,
    /// Remove the specified link
    #[arg(short, long)]
    pub(super) link: bool,
    /// Remove anonymous volumes associated with the container
    #[arg(short, long)]
    pub(super) volumes: bool,
    /// Containers
    #[arg(required = true, value_name = "CONTAINER")]
    pub(super) names: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct RenameArgs {
    pub(super) container: String,
    pub(super) new_name: String,
}

#[derive(Debug, Args)]
pub(super) struct TopArgs {
    pub(super) container: String,
    /// Options for `ps`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(super) options: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct CommitArgs {
    /// Author
    #[arg(short, long)]
    pub(super) author: Option<String>,
    /// Apply Dockerfile instruction to the created image
    #[arg(short, long)]
    pub(super) change: Vec<String>,
    /// Commit message
    #[arg(short, long)]
    pub(super) message: Option<String>,
    /// Pause container during commit
    #[arg(short, long, default_value = "true", num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub(super) pause: bool,
    pub(super) container: String,
    pub(super) reference: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct ImagesArgs {
    /// Show all images (default hides intermediate images)
    #[arg(short, long)]
    pub(super) all: bool,
    /// Show digests
    #[arg(long)]
    pub(super) digests: bool,
    /// Filter output based on conditions provided
    #[arg(short, long)]
    pub(super) filter: Vec<String>,
    /// `json`, or a template of `{{.Field}}`, with `table` in front for headings
    #[arg(long)]
    pub(super) format: Option<String>,
    /// Don't truncate output
    #[arg(long)]
    pub(super) no_trunc: bool,
    /// Only show image IDs
    #[arg(short, long)]
    pub(super) quiet: bool,
    /// Only this repository, or repository and tag
    #[arg(value_name = "REPOSITORY[:TAG]")]
    pub(super) reference: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct RmiArgs {
    /// Force removal of the image
    #[arg(short, long)]
    pub(super) force: bool,
    /// Do not delete untagged parents
    #[arg(long)]
    pub(super) no_prune: bool,
    /// Images
    #[arg(required = true, value_name = "IMAGE")]
    pub(super) names: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct TagArgs {
    pub(super) source: String,
    pub(super) target: String,
}

#[derive(Debug, Args)]
pub(super) struct LoadArgs {
    /// Read from tar archive file, instead of stdin
    #[arg(short, long)]
    pub(super) input: Option<PathBuf>,
    /// Suppress the load output
    #[arg(short, long)]
    pub(super) quiet: bool,
}

#[derive(Debug, Args)]
pub(super) struct SaveArgs {
    /// Write to a file, instead of stdout
    #[arg(short, long)]
    pub(super) output: Option<PathBuf>,
    /// Images
    #[arg(required = true, value_name = "IMAGE")]
    pub(super) names: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct ImportArgs {
    /// Apply Dockerfile instruction to the created image
    #[arg(short, long)]
    pub(super) change: Vec<String>,
    /// Set commit message for imported image
    #[arg(short, long)]
    pub(super) message: Option<String>,
    /// Set platform if server is multi-platform capable
    #[arg(long)]
    pub(super) platform: Option<String>,
    /// A file, a URL, or - for stdin
    pub(super) source: String,
    pub(super) reference: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct InspectArgs {
    /// `json`, or a template of `{{.Field}}` and `{{json .Field}}`
    #[arg(short, long)]
    pub(super) format: Option<String>,
    /// Display total file sizes if the type is container
    #[arg(short, long)]
    pub(super) size: bool,
    /// Only inspect objects of the given type
    #[arg(long = "type", value_parser = ["container", "image", "network", "volume"])]
    pub(super) kind: Option<String>,
    /// Objects
    #[arg(required = true, value_name = "NAME|ID")]
    pub(super) names: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct FormatArgs {
    /// `json`, or a template of `{{.Field}}` and `{{json .Field}}`
    #[arg(short, long)]
    pub(super) format: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct VolumeArgs {
    #[command(subcommand)]
    pub(super) command: VolumeCommand,
}

#[derive(Debug, Subcommand)]
pub(super) enum VolumeCommand {
    /// Create a volume
    Create {
        /// Specify volume driver name
        #[arg(short, long, default_value = "local")]
        driver: String,
        /// Set metadata for a volume
        #[arg(long)]
        label: Vec<String>,
        /// Set driver specific options
        #[arg(short, long)]
        opt: Vec<String>,
        name: Option<String>,
    },
    /// List volumes
    #[command(alias = "list")]
    Ls {
        /// Provide filter values
        #[arg(short, long)]
        filter: Vec<String>,
        /// `json`, or a template of `{{.Field}}`, with `table` in front for headings
        #[arg(long)]
        format: Option<String>,
        /// Only display volume names
        #[arg(short, long)]
        quiet: bool,
    },
    /// Display detailed information on volumes
    Inspect {
        /// `json`, or a template of `{{.Field}}` and `{{json .Field}}`
        #[arg(short, long)]
        format: Option<String>,
        #[arg(required = true, value_name = "VOLUME")]
        names: Vec<String>,
    },
    /// Remove volumes
    #[command(alias = "remove")]
    Rm {
        /// Force the removal
        #[arg(short, long)]
        force: bool,
        #[arg(required = true, value_name = "VOLUME")]
        names: Vec<String>,
    },
}

#[derive(Debug, Args)]
pub(super) struct SystemArgs {
    #[command(subcommand)]
    pub(super) command: SystemCommand,
}

#[derive(Debug, Subcommand)]
pub(super) enum SystemCommand {
    /// Show disk usage
    Df {
        /// `json`, or a template of `{{.Field}}`, with `table` in front for headings
        #[arg(long)]
        format: Option<String>,
    },
}

#[derive(Debug, Args)]
pub(super) struct ContainerArgs {
    #[command(subcommand)]
    pub(super) command: ContainerCommand,
}

#[derive(Debug, Subcommand)]
pub(super) enum ContainerCommand {
    /// Remove all stopped containers
    Prune {
        /// Provide filter values
        #[arg(long)]
        filter: Vec<String>,
        /// Do not prompt for confirmation
        #[arg(short, long)]
        force: bool,
    },
}

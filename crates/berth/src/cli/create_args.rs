//! The options of `run` and `create`.

use std::path::PathBuf;

use clap::Args;

/// `berth run`.
#[derive(Debug, Args)]
pub(super) struct RunCommand {
    /// Run container in background and print container ID
    #[arg(short, long)]
    pub(super) detach: bool,
    /// Override the key sequence for detaching a container
    #[arg(long)]
    pub(super) detach_keys: Option<String>,
    /// Proxy received signals to the process
    #[arg(long, default_value = "true", num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub(super) sig_proxy: bool,
    #[command(flatten)]
    pub(super) options: ContainerOptions,
}

/// `berth create`.
#[derive(Debug, Args)]
pub(super) struct CreateCommand {
    #[command(flatten)]
    pub(super) options: ContainerOptions,
}

/// What a container is made of.
#[derive(Debug, Args, Default)]
pub(super) struct ContainerOptions {
    /// Print usage
    #[arg(long, action = clap::ArgAction::HelpLong)]
    help: Option<bool>,
    /// Add a custom host-to-IP mapping (host:ip)
    #[arg(long)]
    pub(super) add_host: Vec<String>,
    /// Attach to stdin, stdout or stderr
    #[arg(short, long)]
    pub(super) attach: Vec<String>,
    /// Add Linux capabilities
    #[arg(long)]
    pub(super) cap_add: Vec<String>,
    /// Drop Linux capabilities
    #[arg(long)]
    pub(super) cap_drop: Vec<String>,
    /// Optional parent cgroup for the container
    #[arg(long)]
    pub(super) cgroup_parent: Option<String>,
    /// Cgroup namespace to use (host|private)
    #[arg(long)]
    pub(super) cgroupns: Option<String>,
    /// Write the container ID to the file
    #[arg(long)]
    pub(super) cidfile: Option<PathBuf>,
    /// Limit CPU CFS period
    #[arg(long)]
    pub(super) cpu_period: Option<i64>,
    /// Limit CPU CFS quota
    #[arg(long)]
    pub(super) cpu_quota: Option<i64>,
    /// CPU shares (relative weight)
    #[arg(short = 'c', long)]
    pub(super) cpu_shares: Option<i64>,
    /// Number of CPUs
    #[arg(long)]
    pub(super) cpus: Option<String>,
    /// CPUs in which to allow execution (0-3, 0,1)
    #[arg(long)]
    pub(super) cpuset_cpus: Option<String>,
    /// MEMs in which to allow execution (0-3, 0,1)
    #[arg(long)]
    pub(super) cpuset_mems: Option<String>,
    /// Add a host device to the container
    #[arg(long)]
    pub(super) device: Vec<String>,
    /// Set custom DNS servers
    #[arg(long)]
    pub(super) dns: Vec<String>,
    /// Set DNS options
    #[arg(long)]
    pub(super) dns_option: Vec<String>,
    /// Set custom DNS search domains
    #[arg(long)]
    pub(super) dns_search: Vec<String>,
    /// Container NIS domain name
    #[arg(long)]
    pub(super) domainname: Option<String>,
    /// Overwrite the default ENTRYPOINT of the image
    #[arg(long)]
    pub(super) entrypoint: Option<String>,
    /// Set environment variables
    #[arg(short, long)]
    pub(super) env: Vec<String>,
    /// Read in a file of environment variables
    #[arg(long)]
    pub(super) env_file: Vec<PathBuf>,
    /// Add additional groups to join
    #[arg(long)]
    pub(super) group_add: Vec<String>,
    /// Container host name
    #[arg(short = 'h', long)]
    pub(super) hostname: Option<String>,
    /// Run an init inside the container that forwards signals and reaps processes
    #[arg(long)]
    pub(super) init: bool,
    /// Keep stdin open even if not attached
    #[arg(short, long)]
    pub(super) interactive: bool,
    /// IPC mode to use
    #[arg(long)]
    pub(super) ipc: Option<String>,
    /// Set meta data on a container
    #[arg(short, long)]
    pub(super) label: Vec<String>,
    /// Read in a line delimited file of labels
    #[arg(long)]
    pub(super) label_file: Vec<PathBuf>,
    /// Logging driver for the container
    #[arg(long)]
    pub(super) log_driver: Option<String>,
    /// Log driver options
    #[arg(long)]
    pub(super) log_opt: Vec<String>,
    /// Memory limit
    #[arg(short, long)]
    pub(super) memory: Option<String>,
    /// Memory soft limit
    #[arg(long)]
    pub(super) memory_reservation: Option<String>,
    /// Swap limit equal to memory plus swap: '-1' to enable unlimited swap
    #[arg(long, allow_hyphen_values = true)]
    pub(super) memory_swap: Option<String>,
    /// Attach a file system mount to the container
    #[arg(long)]
    pub(super) mount: Vec<String>,
    /// Assign a name to the container
    #[arg(long)]
    pub(super) name: Option<String>,
    /// Connect a container to a network
    #[arg(long, visible_alias = "net")]
    pub(super) network: Option<String>,
    /// Disable the OOM killer
    #[arg(long)]
    pub(super) oom_kill_disable: bool,
    /// Tune host's OOM preferences (-1000 to 1000)
    #[arg(long, allow_negative_numbers = true)]
    pub(super) oom_score_adj: Option<i64>,
    /// PID namespace to use
    #[arg(long)]
    pub(super) pid: Option<String>,
    /// Tune container pids limit (set -1 for unlimited)
    #[arg(long, allow_negative_numbers = true)]
    pub(super) pids_limit: Option<i64>,
    /// Set platform if server is multi-platform capable
    #[arg(long)]
    pub(super) platform: Option<String>,
    /// Give extended privileges to this container
    #[arg(long)]
    pub(super) privileged: bool,
    /// Mount the container's root file system as read only
    #[arg(long)]
    pub(super) read_only: bool,
    /// Restart policy to apply when a container exits
    #[arg(long)]
    pub(super) restart: Option<String>,
    /// Remove the container and its anonymous volumes when it exits
    #[arg(long)]
    pub(super) rm: bool,
    /// Security options
    #[arg(long)]
    pub(super) security_opt: Vec<String>,
    /// Size of /dev/shm
    #[arg(long)]
    pub(super) shm_size: Option<String>,
    /// Signal to stop the container
    #[arg(long)]
    pub(super) stop_signal: Option<String>,
    /// Timeout (in seconds) to stop a container
    #[arg(long, allow_negative_numbers = true)]
    pub(super) stop_timeout: Option<i64>,
    /// Storage driver options for the container
    #[arg(long)]
    pub(super) storage_opt: Vec<String>,
    /// Sysctl options
    #[arg(long)]
    pub(super) sysctl: Vec<String>,
    /// Mount a tmpfs directory
    #[arg(long)]
    pub(super) tmpfs: Vec<String>,
    /// Allocate a pseudo-TTY
    #[arg(short, long)]
    pub(super) tty: bool,
    /// Ulimit options
    #[arg(long)]
    pub(super) ulimit: Vec<String>,
    /// Username or UID (`<name|uid>[:<group|gid>]`)
    #[arg(short, long)]
    pub(super) user: Option<String>,
    /// User namespace to use
    #[arg(long)]
    pub(super) userns: Option<String>,
    /// UTS namespace to use
    #[arg(long)]
    pub(super) uts: Option<String>,
    /// Bind mount a volume
    #[arg(short, long)]
    pub(super) volume: Vec<String>,
    /// Mount volumes from the specified containers
    #[arg(long)]
    pub(super) volumes_from: Vec<String>,
    /// Working directory inside the container
    #[arg(short, long)]
    pub(super) workdir: Option<String>,
    /// Image, command and its arguments
    #[arg(required = true, num_args = 1.., trailing_var_arg = true, value_name = "IMAGE [COMMAND] [ARG]")]
    pub(super) args: Vec<String>,
}

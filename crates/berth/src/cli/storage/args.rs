//! The words after `berth storage`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

#[derive(Debug, Args)]
pub(in crate::cli) struct StorageArgs {
    #[command(subcommand)]
    pub(in crate::cli) command: StorageCommand,
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum StorageCommand {
    /// Show the storage driver, its file system, and what images, containers and volumes take
    #[command(after_help = INFO_HELP)]
    Info {
        /// `json`, or a template of `{{.Field}}` and `{{json .Field}}`
        #[arg(short, long)]
        format: Option<String>,
    },
    /// Hold the records of all layers against what is on the disk; changes nothing
    #[command(after_help = "Exit status: 0 when all is in order, 1 when something was found.\n\n\
                      Example:\n  berth storage check --deep --format json")]
    Check {
        /// Read every byte of every image layer, too, and compare it with its digest
        #[arg(long)]
        deep: bool,
        /// `json`: every finding, and what was looked at, as an object on a line
        #[arg(long, value_parser = ["json"])]
        format: Option<String>,
    },
    /// Check all layers and mend what is found, of what is left in the data root
    #[command(after_help = REPAIR_HELP)]
    Repair {
        /// Read every byte of every image layer, too, and mend what is not as its digest says
        #[arg(long)]
        deep: bool,
        /// Only say what would be done
        #[arg(long)]
        dry_run: bool,
        /// `json`: what is done about each finding, and what it came to, as an object on a line
        #[arg(long, value_parser = ["json"])]
        format: Option<String>,
    },
    /// Copy the data root while the daemon runs: images, containers, volumes
    #[command(after_help = BACKUP_HELP)]
    Backup {
        /// Copy the content of volumes, too; without it a restored volume is empty
        #[arg(long, default_value = "true", num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set)]
        volumes: bool,
        /// Freeze each container while what it writes is copied
        #[arg(long, default_value = "true", num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set)]
        pause: bool,
        /// `json`: what was copied, as an object
        #[arg(long, value_parser = ["json"])]
        format: Option<String>,
        /// A new or empty directory on the daemon's machine, outside its data root
        #[arg(value_name = "DEST")]
        dest: String,
    },
    /// Make the thin pool of the devicemapper driver larger, while containers run
    #[command(after_help = EXTEND_HELP)]
    Extend(ExtendArgs),
    /// Look after the thin devices of the devicemapper driver
    #[command(after_help = DEVICE_HELP)]
    Device(DeviceArgs),
    /// Make a data root of a backup, while no daemon uses it
    #[command(after_help = RESTORE_HELP)]
    Restore {
        /// The data root to make: a new or empty directory
        #[arg(long, default_value = "/var/lib/berth")]
        data_root: PathBuf,
        /// `json`: what was restored, as an object
        #[arg(long, value_parser = ["json"])]
        format: Option<String>,
        /// A backup that `berth storage backup` made
        #[arg(value_name = "BACKUP")]
        source: PathBuf,
    },
}

#[derive(Debug, Args)]
pub(in crate::cli) struct DeviceArgs {
    #[command(subcommand)]
    pub(in crate::cli) command: DeviceCommand,
}

/// As the tool of that name does for Docker's driver, but while the daemon runs.
#[derive(Debug, Subcommand)]
pub(in crate::cli) enum DeviceCommand {
    /// Show the pool: how full it is, and the files that it lies on
    #[command(after_help = "Example:\n  berth storage device status")]
    Status {
        /// As an object
        #[arg(long)]
        json: bool,
    },
    /// List the devices on the pool, and whose they are
    #[command(after_help = "Example:\n  berth storage device list")]
    List {
        /// As a list of objects
        #[arg(long)]
        json: bool,
    },
    /// Show a device, and how much of the pool it has
    #[command(after_help = "Example:\n  berth storage device device 3f2a9c")]
    Device {
        /// As an object
        #[arg(long)]
        json: bool,
        /// Its id, or the beginning of that
        #[arg(value_name = "ID")]
        id: String,
    },
    /// Make the file with the pool's data larger
    #[command(after_help = "Example:\n  berth storage device resize 200GB")]
    Resize {
        /// The new size; units are powers of 1024
        #[arg(value_name = "SIZE")]
        size: String,
    },
    /// Make a copy of a device as it is at this moment
    #[command(
        after_help = "The copy takes room only as far as the original changes. It stays until \
        it is removed; restarts and\nprunes leave it alone.\n\n\
        Example:\n  berth storage device snap before-upgrade 3f2a9c"
    )]
    Snap {
        /// The name of the copy; its id is snapshot-NAME
        #[arg(value_name = "NAME")]
        name: String,
        /// The device
        #[arg(value_name = "ID")]
        id: String,
    },
    /// Remove devices that nobody needs
    #[command(
        after_help = "Snapshots, devices set aside, and layers that no record knows. What an \
        image or a container has is\nrefused: remove that.\n\n\
        Example:\n  berth storage device remove snapshot-before-upgrade"
    )]
    Remove {
        /// The devices
        #[arg(required = true, value_name = "ID")]
        ids: Vec<String>,
    },
    /// Mount a device to be read, on the daemon's machine, until it is unmounted
    #[command(
        after_help = "The files of a layer are in DIR/rootfs. A container that runs goes on. End it with\n\
        umount(8).\n\n\
        Example:\n  berth storage device mount snapshot-before-upgrade /mnt"
    )]
    Mount {
        /// The device
        #[arg(value_name = "ID")]
        id: String,
        /// A directory that is there
        #[arg(value_name = "DIR")]
        dir: PathBuf,
    },
}

const DEVICE_HELP: &str = "Examples:\n  berth storage device status\n  berth storage device list\n  \
    berth storage device snap before-upgrade 3f2a9c";

/// By a disk or by sizes.
#[derive(Debug, Args)]
pub(in crate::cli) struct ExtendArgs {
    /// A disk of the daemon's machine that the pool's volume group gets
    #[arg(long, required_unless_present_any = ["size", "metadata_size"], conflicts_with_all = ["size", "metadata_size"])]
    pub(in crate::cli) device: Option<String>,
    /// Wipe the disk, whatever is on it
    #[arg(long, requires = "device")]
    pub(in crate::cli) force: bool,
    /// The new size of the file with the pool's data, for example 200G
    #[arg(long)]
    pub(in crate::cli) size: Option<String>,
    /// The new size of the file with the pool's own records
    #[arg(long)]
    pub(in crate::cli) metadata_size: Option<String>,
    /// How full the pool is then, as an object
    #[arg(long)]
    pub(in crate::cli) json: bool,
}

const EXTEND_HELP: &str = "A pool of LVM (direct-lvm) gets a disk: it becomes a physical volume, joins \
    the volume group, and the pool is\nextended by all that is free there, its metadata in \
    proportion. A disk that is mounted or belongs to a volume\ngroup is refused, and one that has \
    anything on it unless --force is given. Stopped in the middle, it is\ngiven once more and goes \
    on from there. A pool on files (loop-lvm) gets larger files, which take no room\nbefore it is \
    used.\n\n\
    Examples:\n  berth storage extend --device /dev/sdc\n  berth storage extend --size 200G\n  \
    berth storage extend --metadata-size 4G";

const BACKUP_HELP: &str = "What is recorded is copied as it is at one moment. A container's files and \
    a volume are copied as they\nare when their turn comes, while the containers that write to them \
    are frozen; with --pause=false nothing\nis frozen, and what is written meanwhile is in the copy \
    or not, as after a power cut. Volumes that are\nmounted from elsewhere (NFS, for example) and bind \
    mounts are not copied, nor is what other storage drivers\nhave. Data is shared with the original \
    where the file system can (reflinks, btrfs snapshots); a backup that\nshould survive the disk \
    belongs on another one. The copy is made as DEST.partial and gets its name when\nall of it is \
    on the disk.\n\n\
    Examples:\n  berth storage backup /mnt/backup/monday\n  \
    berth storage backup --volumes=false --pause=false /mnt/backup/images";

const RESTORE_HELP: &str = "The backup is copied and stays as it is. Containers that ran when it was \
    made are started by their restart\npolicies, as after a power cut. Start the daemon with the storage \
    driver of the backup, which is the one it\nchooses by itself unless it is vfs.\n\n\
    Examples:\n  berth storage restore /mnt/backup/monday\n  \
    berth storage restore --data-root /srv/berth /mnt/backup/monday";

const INFO_HELP: &str = "SIZE is by Docker's rule, as `docker system df` and `docker ps -s` have it: \
    the lengths of files, each inode\nonce. ALLOCATED is what is taken on the disk: blocks, of hard \
    links and of files that are the same in\nsnapshots once. It is measured in the background and may \
    be some time old; the age is shown.\n\n\
    Examples:\n  berth storage info\n  berth storage info --format '{{json .FileSystem}}'";

const REPAIR_HELP: &str = "Broken links are made anew. A damaged image layer is filled again where \
    the same content is in another layer\nor with another storage driver of this data root, and \
    checked against its digest before it takes the place\nof the damaged one. Nothing is deleted: \
    what was damaged, and layers that no record knows, are moved to\nlost+found in the data root. \
    What cannot be mended is noted, with the images and containers that need\nit: the next \
    `berth load` of such an image fills the layer again. Containers that run go on with what they\n\
    have mounted until they are restarted.\n\n\
    Exit status: 0 when nothing is left to do, 1 when something is.\n\n\
    Examples:\n  berth storage repair --deep --dry-run\n  berth storage repair --deep";

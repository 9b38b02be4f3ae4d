//! The daemon's `dm.…` options.

use std::path::PathBuf;

use crate::StorageError;
use crate::options::{key_value, parse_bool, parse_int, parse_size, parse_uint};

const GIB: u64 = 1 << 30;
/// What Docker gives the base device, and the loop files.
pub(super) const BASE_SIZE: u64 = 10 * GIB;
const DATA_SIZE: u64 = 100 * GIB;
const METADATA_SIZE: u64 = 2 * GIB;
/// 64 KiB.
const BLOCK: u64 = 128;
const MIN_FREE: u64 = 10;
const WARN_LEVEL: u64 = 80;
const LOG_LEVEL: i64 = 2;

/// A file system that layers may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fs {
    Xfs,
    Ext4,
}

impl Fs {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Xfs => "xfs",
            Self::Ext4 => "ext4",
        }
    }

    pub(super) fn of_name(name: &str) -> Option<Self> {
        [Self::Xfs, Self::Ext4].into_iter().find(|fs| fs.name() == name)
    }
}

/// All of them; `None` and empty is what was not given.
#[expect(clippy::struct_field_names, reason = "they have Docker's names")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Options {
    /// The name of a pool that somebody else makes.
    pub(super) thin_pool: Option<String>,
    pub(super) data_device: Option<PathBuf>,
    pub(super) metadata_device: Option<PathBuf>,
    pub(super) lvm: Lvm,
    pub(super) base_size: Option<u64>,
    pub(super) data_size: u64,
    pub(super) metadata_size: u64,
    pub(super) fs: Option<Fs>,
    pub(super) mkfs_args: Vec<String>,
    pub(super) mount_options: Vec<String>,
    /// The pool's blocks, in sectors.
    pub(super) block: u64,
    pub(super) discard: Option<bool>,
    pub(super) override_udev: bool,
    pub(super) deferred_removal: Option<bool>,
    pub(super) deferred_deletion: Option<bool>,
    /// Per cent of the pool that must be free for a new layer.
    pub(super) min_free: u64,
    /// At which part of the pool in use, in per cent, somebody is told, and no new layers are made; 0
    /// is never.
    pub(super) warn_level: Option<u64>,
    pub(super) stop_level: Option<u64>,
    pub(super) when_full: Option<WhenFull>,
    /// As given: the kernel reads it.
    pub(super) xfs_retries: Option<String>,
    pub(super) log_level: i64,
}

/// What a full pool does with writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WhenFull {
    /// They wait for a minute (the kernel's `no_space_timeout`), then fail.
    Queue,
    /// They fail at once.
    Error,
}

/// Marks of how full a pool is, in per cent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Levels {
    /// From here on somebody is told.
    pub(super) warn: Option<u64>,
    /// From here on no new layers are made.
    pub(super) stop: Option<u64>,
}

/// What an administrator asks of an automatic direct-lvm; 0 is what was not given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Lvm {
    pub(super) device: String,
    pub(super) force: bool,
    pub(super) percent: u64,
    pub(super) metadata_percent: u64,
    pub(super) extend_percent: u64,
    pub(super) extend_threshold: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            thin_pool: None,
            data_device: None,
            metadata_device: None,
            lvm: Lvm::default(),
            base_size: None,
            data_size: DATA_SIZE,
            metadata_size: METADATA_SIZE,
            fs: None,
            mkfs_args: Vec::new(),
            mount_options: Vec::new(),
            block: BLOCK,
            discard: None,
            override_udev: false,
            deferred_removal: None,
            deferred_deletion: None,
            min_free: MIN_FREE,
            warn_level: None,
            stop_level: None,
            when_full: None,
            xfs_retries: None,
            log_level: LOG_LEVEL,
        }
    }
}

impl Options {
    pub(super) fn parse(options: &[String]) -> Result<Self, StorageError> {
        let mut this = Self::default();
        for option in options {
            let (key, value) = key_value(option)?;
            this.set(&key, value)?;
        }
        this.lvm.check(&this)?;
        this.check_own()?;
        Ok(this)
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), StorageError> {
        let text = || Some(value.to_owned());
        match key {
            "dm.basesize" => self.base_size = Some(bytes(value)?),
            "dm.loopdatasize" => self.data_size = bytes(value)?,
            "dm.loopmetadatasize" => self.metadata_size = bytes(value)?,
            "dm.fs" => {
                let unknown = || option(format!("devmapper: Unsupported filesystem {value}"));
                self.fs = Some(Fs::of_name(value).ok_or_else(unknown)?);
            }
            "dm.mkfsarg" => self.mkfs_args.push(value.to_owned()),
            "dm.mountopt" => self.mount_options.extend(value.split(',').map(str::to_owned)),
            "dm.metadatadev" => self.metadata_device = Some(value.into()),
            "dm.datadev" => self.data_device = Some(value.into()),
            "dm.thinpooldev" => {
                let name = value.strip_prefix("/dev/mapper/").unwrap_or(value);
                self.thin_pool = Some(name.to_owned());
            }
            "dm.blkdiscard" => self.discard = Some(parse_bool(value)?),
            "dm.blocksize" => self.block = block(value)?,
            "dm.override_udev_sync_check" => self.override_udev = parse_bool(value)?,
            "dm.use_deferred_removal" => self.deferred_removal = Some(parse_bool(value)?),
            "dm.use_deferred_deletion" => self.deferred_deletion = Some(parse_bool(value)?),
            "dm.min_free_space" => self.min_free = min_free(value)?,
            "dm.berth_warn_level" => self.warn_level = Some(percent(key, value, Most::Less)?),
            "dm.berth_stop_level" => self.stop_level = Some(percent(key, value, Most::All)?),
            "dm.berth_when_full" => {
                self.when_full = Some(match value {
                    "queue" => WhenFull::Queue,
                    "error" => WhenFull::Error,
                    _ => {
                        let text =
                            format!("dm.berth_when_full must be queue or error, not {value}");
                        return Err(option(text));
                    }
                });
            }
            "dm.xfs_nospace_max_retries" => {
                parse_uint(value, u64::MAX)?;
                self.xfs_retries = text();
            }
            "dm.directlvm_device" => value.clone_into(&mut self.lvm.device),
            "dm.directlvm_device_force" => self.lvm.force = parse_bool(value)?,
            "dm.thinp_percent" => self.lvm.percent = percent(key, value, Most::Less)?,
            "dm.thinp_metapercent" => self.lvm.metadata_percent = percent(key, value, Most::Less)?,
            "dm.thinp_autoextend_percent" => {
                self.lvm.extend_percent = percent(key, value, Most::All)?;
            }
            "dm.thinp_autoextend_threshold" => {
                self.lvm.extend_threshold = percent(key, value, Most::All)?;
            }
            "dm.libdm_log_level" => {
                self.log_level = in_words(key, value, parse_int(value))?;
                if !(2..=7).contains(&self.log_level) {
                    let text = "dm.libdm_log_level must be in range [2,7]";
                    return Err(option(text.to_owned()));
                }
            }
            _ => return Err(option(format!("devmapper: Unknown option {key}"))),
        }
        Ok(())
    }

    /// What is berth's own must agree with the rest.
    fn check_own(&self) -> Result<(), StorageError> {
        let levels = [self.warn_level, self.stop_level].map(|level| level.filter(|&at| at > 0));
        if let [Some(warn), Some(stop)] = levels
            && warn >= stop
        {
            let text = "dm.berth_warn_level must be less than dm.berth_stop_level";
            return Err(option(text.to_owned()));
        }
        if self.when_full.is_some() && (self.thin_pool.is_some() || !self.lvm.device.is_empty()) {
            let text = "dm.berth_when_full is for pools on files or on dm.datadev; a volume of LVM is \
                        told by lvchange --errorwhenfull";
            return Err(option(text.to_owned()));
        }
        Ok(())
    }

    /// The marks that count. What `dm.min_free_space` leaves is where new layers stop.
    pub(super) fn levels(&self) -> Levels {
        let stop = match self.stop_level {
            Some(given) => given,
            None if self.min_free == 0 => 0,
            None => 100 - self.min_free,
        };
        let given = |level: u64| Some(level).filter(|&level| level > 0);
        Levels { warn: given(self.warn_level.unwrap_or(WARN_LEVEL)), stop: given(stop) }
    }

    /// How often xfs writes again what the pool had no room for. Else it does for ever, and whoever
    /// waits for it with it.
    pub(super) fn xfs_retries(&self) -> Option<&str> {
        let at_once = (self.when_full == Some(WhenFull::Error)).then_some("0");
        self.xfs_retries.as_deref().or(at_once)
    }

    /// Whether a removed layer's blocks are given up one by one: not worth it on whole disks.
    pub(super) fn discards(&self) -> bool {
        self.discard.unwrap_or(self.data_device.is_none() && self.thin_pool.is_none())
    }

    /// Whether devices are removed, and layers deleted, when their last user is gone, on a kernel
    /// that can do that or not.
    pub(super) fn deferred(&self, kernel_can: bool) -> Result<Deferred, StorageError> {
        let removal = self.deferred_removal.unwrap_or(kernel_can);
        let deletion = self.deferred_deletion.unwrap_or(kernel_can);
        if removal && !kernel_can {
            return Err(option(
                "devmapper: Deferred removal can not be enabled as kernel does not support it"
                    .to_owned(),
            ));
        }
        if deletion && !removal {
            return Err(option(
                "devmapper: Deferred deletion can not be enabled as deferred removal is not \
                 enabled. Enable deferred removal using --storage-opt \
                 dm.use_deferred_removal=true parameter"
                    .to_owned(),
            ));
        }
        Ok(Deferred { removal, deletion })
    }
}

/// What is done when the last user is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Deferred {
    pub(super) removal: bool,
    pub(super) deletion: bool,
}

impl Lvm {
    fn check(&self, all: &Options) -> Result<(), StorageError> {
        if *self == Self::default() {
            return Ok(());
        }
        let refused = |text: &str| Err(option(text.to_owned()));
        if self.device.is_empty() {
            return refused(
                "must provide device path in `dm.directlvm_device` in order to configure \
                 direct-lvm",
            );
        }
        if (self.percent == 0) != (self.metadata_percent == 0) {
            return refused(
                "must set both `dm.thinp_percent` and `dm.thinp_metapercent` if either is \
                 specified",
            );
        }
        if self.percent + self.metadata_percent > 100 {
            return refused(
                "combined `dm.thinp_percent` and `dm.thinp_metapercent` must not be greater than \
                 100",
            );
        }
        if all.thin_pool.is_some() {
            return refused("cannot setup direct-lvm when `dm.thinpooldev` is also specified");
        }
        Ok(())
    }
}

/// What a percentage may be at most.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Most {
    Less,
    All,
}

fn percent(key: &str, value: &str, most: Most) -> Result<u64, StorageError> {
    let number = value.strip_suffix('%').unwrap_or(value);
    let number = in_words(key, value, parse_uint(number, u64::from(u32::MAX)))?;
    if number > 100 || (most == Most::Less && number == 100) {
        return Err(option(format!("{key} must be greater than 0 and less than 100")));
    }
    Ok(number)
}

fn min_free(value: &str) -> Result<u64, StorageError> {
    let Some(number) = value.strip_suffix('%') else {
        let text = "devmapper: Option dm.min_free_space requires % suffix";
        return Err(option(text.to_owned()));
    };
    let number = parse_uint(number, u64::from(u32::MAX))?;
    if number >= 100 {
        let text = format!("devmapper: Invalid value {value} for option dm.min_free_space");
        return Err(option(text));
    }
    Ok(number)
}

/// In sectors. The kernel takes nothing else, and would say so long after.
fn block(value: &str) -> Result<u64, StorageError> {
    let size = bytes(value)?;
    if !(64 << 10..=1 << 30).contains(&size) || !size.is_multiple_of(64 << 10) {
        return Err(option(format!(
            "dm.blocksize must be a multiple of 64K between 64K and 1G, not {value}"
        )));
    }
    Ok(size / 512)
}

fn bytes(value: &str) -> Result<u64, StorageError> {
    Ok(u64::try_from(parse_size(value)?).unwrap_or(0))
}

fn in_words<T>(key: &str, value: &str, parsed: Result<T, StorageError>) -> Result<T, StorageError> {
    parsed.map_err(|error| option(format!("could not parse `{key}={value}`: {error}")))
}

fn option(text: String) -> StorageError {
    StorageError::Option(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(options: &[&str]) -> Result<Options, String> {
        let options: Vec<String> = options.iter().map(|&option| option.to_owned()).collect();
        Options::parse(&options).map_err(|error| error.to_string())
    }

    #[test]
    fn wrong_options_are_refused_in_dockers_words() {
        #[rustfmt::skip]
        let table: &[(&[&str], &str)] = &[
            (&["foo"],                        "Unable to parse key/value option: foo"),
            (&["dm.foo=1"],                   "devmapper: Unknown option dm.foo"),
            (&["overlay2.size=1G"],           "devmapper: Unknown option overlay2.size"),
            (&["dm.basesize=x"],              "invalid size: 'x'"),
            (&["dm.loopdatasize=-1"],         "invalid size: '-1'"),
            (&["dm.fs=btrfs"],                "devmapper: Unsupported filesystem btrfs"),
            (&["dm.blkdiscard=yes"],          "strconv.ParseBool: parsing \"yes\": invalid syntax"),
            (&["dm.blocksize=1K"],            "dm.blocksize must be a multiple of 64K between 64K and 1G, not 1K"),
            (&["dm.blocksize=96K"],           "dm.blocksize must be a multiple of 64K between 64K and 1G, not 96K"),
            (&["dm.override_udev_sync_check="], "strconv.ParseBool: parsing \"\": invalid syntax"),
            (&["dm.min_free_space=10"],       "devmapper: Option dm.min_free_space requires % suffix"),
            (&["dm.min_free_space=100%"],     "devmapper: Invalid value 100% for option dm.min_free_space"),
            (&["dm.min_free_space=x%"],       "strconv.ParseUint: parsing \"x\": invalid syntax"),
            (&["dm.xfs_nospace_max_retries=-1"], "strconv.ParseUint: parsing \"-1\": invalid syntax"),
            (&["dm.libdm_log_level=x"],       "could not parse `dm.libdm_log_level=x`: strconv.ParseInt: parsing \"x\": invalid syntax"),
            (&["dm.libdm_log_level=1"],       "dm.libdm_log_level must be in range [2,7]"),
            (&["dm.libdm_log_level=8"],       "dm.libdm_log_level must be in range [2,7]"),
            (&["dm.thinp_percent=100"],       "dm.thinp_percent must be greater than 0 and less than 100"),
            (&["dm.thinp_metapercent=100%"],  "dm.thinp_metapercent must be greater than 0 and less than 100"),
            (&["dm.thinp_percent=x"],         "could not parse `dm.thinp_percent=x`: strconv.ParseUint: parsing \"x\": invalid syntax"),
            (&["dm.thinp_autoextend_percent=101"], "dm.thinp_autoextend_percent must be greater than 0 and less than 100"),
            (&["dm.thinp_autoextend_threshold=101"], "dm.thinp_autoextend_threshold must be greater than 0 and less than 100"),
            (&["dm.berth_warn_level=100"],    "dm.berth_warn_level must be greater than 0 and less than 100"),
            (&["dm.berth_stop_level=101%"],   "dm.berth_stop_level must be greater than 0 and less than 100"),
            (&["dm.berth_warn_level=90", "dm.berth_stop_level=90"], "dm.berth_warn_level must be less than dm.berth_stop_level"),
            (&["dm.berth_when_full=wait"],    "dm.berth_when_full must be queue or error, not wait"),
            (&["dm.berth_when_full=error", "dm.thinpooldev=p"],
             "dm.berth_when_full is for pools on files or on dm.datadev; a volume of LVM is told by lvchange --errorwhenfull"),
            (&["dm.thinp_percent=95"],        "must provide device path in `dm.directlvm_device` in order to configure direct-lvm"),
            (&["dm.directlvm_device_force=1"], "must provide device path in `dm.directlvm_device` in order to configure direct-lvm"),
            (&["dm.directlvm_device=/dev/x", "dm.thinp_percent=95"],
             "must set both `dm.thinp_percent` and `dm.thinp_metapercent` if either is specified"),
            (&["dm.directlvm_device=/dev/x", "dm.thinp_percent=95", "dm.thinp_metapercent=6"],
             "combined `dm.thinp_percent` and `dm.thinp_metapercent` must not be greater than 100"),
            (&["dm.directlvm_device=/dev/x", "dm.thinpooldev=p"],
             "cannot setup direct-lvm when `dm.thinpooldev` is also specified"),
        ];
        for (options, text) in table {
            assert_eq!(parse(options), Err((*text).to_owned()), "{options:?}");
        }
    }

    #[test]
    fn levels_have_defaults_and_can_be_switched_off() {
        #[rustfmt::skip]
        let table: &[(&[&str], Option<u64>, Option<u64>)] = &[
            (&[],                                                   Some(80), Some(90)),
            (&["dm.min_free_space=25%"],                            Some(80), Some(75)),
            (&["dm.min_free_space=0%"],                             Some(80), None),
            (&["dm.berth_stop_level=95%"],                          Some(80), Some(95)),
            (&["dm.berth_warn_level=0", "dm.berth_stop_level=0"],   None,     None),
            (&["dm.berth_warn_level=60", "dm.berth_stop_level=100"], Some(60), Some(100)),
        ];
        for (options, warn, stop) in table {
            let levels = parse(options).unwrap().levels();
            assert_eq!((levels.warn, levels.stop), (*warn, *stop), "{options:?}");
        }
    }

    #[test]
    fn options_are_read_as_docker_reads_them() {
        assert_eq!(parse(&[]), Ok(Options::default()));
        let options = [
            "DM.BaseSize = 20G",
            "dm.mkfsarg=-I",
            "dm.mkfsarg=size=512",
            "dm.mountopt=nodiscard",
            "dm.mountopt=noatime,nodev",
            "dm.thinpooldev=/dev/mapper/docker-thinpool",
            "dm.blocksize=512K",
            "dm.min_free_space=0%",
            "dm.xfs_nospace_max_retries=0",
        ];
        let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
        let expected = Options {
            thin_pool: Some("docker-thinpool".to_owned()),
            base_size: Some(20 * GIB),
            mkfs_args: words(&["-I", "size=512"]),
            mount_options: words(&["nodiscard", "noatime", "nodev"]),
            block: 1024,
            min_free: 0,
            xfs_retries: Some("0".to_owned()),
            ..Options::default()
        };
        assert_eq!(parse(&options), Ok(expected));
        let lvm = parse(&[
            "dm.directlvm_device=/dev/x",
            "dm.thinp_percent=90%",
            "dm.thinp_metapercent=2",
        ]);
        let expected =
            Lvm { device: "/dev/x".to_owned(), percent: 90, metadata_percent: 2, ..Lvm::default() };
        assert_eq!(lvm.unwrap().lvm, expected);
    }

    #[test]
    fn defaults_depend_on_the_pool_and_on_the_kernel() {
        for (options, discards) in [
            (&[][..], true),
            (&["dm.thinpooldev=p"], false),
            (&["dm.datadev=/dev/x"], false),
            (&["dm.thinpooldev=p", "dm.blkdiscard=true"], true),
            (&["dm.blkdiscard=0"], false),
            // Set after the options are read.
            (&["dm.directlvm_device=/dev/x"], true),
        ] {
            assert_eq!(parse(options).unwrap().discards(), discards, "{options:?}");
        }
        let both = |removal, deletion| Ok(Deferred { removal, deletion });
        let trap = "devmapper: Deferred deletion can not be enabled as deferred removal is not \
                    enabled. Enable deferred removal using --storage-opt \
                    dm.use_deferred_removal=true parameter";
        let kernel = "devmapper: Deferred removal can not be enabled as kernel does not support it";
        #[rustfmt::skip]
        let table: &[(&[&str], bool, Result<Deferred, &str>)] = &[
            (&[],                                                             true,  both(true, true)),
            (&[],                                                             false, both(false, false)),
            (&["dm.use_deferred_removal=false"],                              true,  Err(trap)),
            (&["dm.use_deferred_deletion=false"],                             true,  both(true, false)),
            (&["dm.use_deferred_removal=false", "dm.use_deferred_deletion=false"], true, both(false, false)),
            (&["dm.use_deferred_removal=true"],                               false, Err(kernel)),
            (&["dm.use_deferred_deletion=true"],                              false, Err(trap)),
        ];
        for (options, kernel_can, expected) in table {
            let got = parse(options).unwrap().deferred(*kernel_can);
            let expected = expected.map_err(str::to_owned);
            assert_eq!(got.map_err(|error| error.to_string()), expected, "{options:?}");
        }
    }
}

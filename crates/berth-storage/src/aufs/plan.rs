//! The text of a mount.

use std::path::{Path, PathBuf};

use berth_sys::mount::{APPEND, AUFS, XINO_MORE};
use berth_types::LayerId;

use super::layout::DIFF;
use super::probe::Abilities;
use crate::MountPlan;

/// What is the same for all mounts of one home.
#[derive(Debug)]
pub(super) struct Mounts {
    home: PathBuf,
    abilities: Abilities,
    page_size: usize,
}

/// The longest path of a home that is in each branch's name.
const LONGEST: usize = 1024;

impl Mounts {
    pub(super) fn new(home: &Path, abilities: Abilities) -> Self {
        Self { home: home.to_owned(), abilities, page_size: rustix::param::page_size() }
    }

    /// Describes the mount at `target` of a layer over those that it stands on, nearest first.
    ///
    /// What does not fit into a page is added by remounts.
    pub(super) fn plan(
        &self,
        id: &LayerId,
        lowers: &[LayerId],
        is_written: bool,
        target: PathBuf,
    ) -> MountPlan {
        let diff = self.home.join(DIFF);
        // aufs would read these characters as its own, and names that start at the home's directory
        // have none of them.
        let plain = diff
            .to_str()
            .filter(|text| text.len() <= LONGEST && !text.contains([':', ',', '=', '\\']));
        let prefix = plain.map_or_else(String::new, |diff| format!("{diff}/"));
        let mut fixed =
            vec!["dio".to_owned(), format!("xino={}/aufs.xino", self.abilities.xino.display())];
        if !self.abilities.links {
            // Else two names would be one file until the mount ends, and two files from then on.
            fixed.push("noplink".to_owned());
        }
        if self.abilities.dirperm1 {
            fixed.push("dirperm1".to_owned());
        }
        let room = self.page_size - XINO_MORE;
        let room = fixed.iter().fold(room, |room, option| room - 1 - option.len());
        let mut branches = format!("br:{prefix}{id}={}", if is_written { "rw" } else { "ro+wh" });
        let mut more = Vec::new();
        for lower in lowers {
            let branch = format!("{prefix}{lower}=ro+wh");
            // With the byte that ends it.
            if more.is_empty() && branches.len() + 1 + branch.len() < room {
                branches.push(':');
                branches.push_str(&branch);
            } else {
                more.push(format!("{APPEND}{branch}"));
            }
        }
        let mut options = vec![branches];
        options.append(&mut fixed);
        options.append(&mut more);
        if !is_written {
            options.push("ro".to_owned());
        }
        MountPlan {
            fs_type: AUFS.to_owned(),
            source: PathBuf::from("none"),
            target,
            work_dir: plain.is_none().then_some(diff),
            options,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(digit: char) -> LayerId {
        LayerId::parse(&digit.to_string().repeat(64)).unwrap()
    }

    fn mounts(home: &str, dirperm1: bool) -> Mounts {
        let abilities =
            Abilities { backing: "extfs", dirperm1, xino: "/dev/shm".into(), links: dirperm1 };
        let mut mounts = Mounts::new(Path::new(home), abilities);
        mounts.page_size = 4096;
        mounts
    }

    fn target() -> PathBuf {
        PathBuf::from("/h/mnt/x")
    }

    #[test]
    fn the_text_of_a_mount_is_dockers() {
        let (a, b, c) = ("a".repeat(64), "b".repeat(64), "c".repeat(64));
        let xino = "xino=/dev/shm/aufs.xino";
        let init = id('a').init();
        let lowers = [id('b'), id('c')];
        #[rustfmt::skip]
        let table: [(_, &[LayerId], _, _, Vec<String>); 4] = [
            (id('a'), &lowers[..1], true,  true,
                vec![format!("br:/h/diff/{a}=rw:/h/diff/{b}=ro+wh"), "dio".into(), xino.into(), "dirperm1".into()]),
            (id('a'), &lowers,      true,  false,
                vec![format!("br:/h/diff/{a}=rw:/h/diff/{b}=ro+wh:/h/diff/{c}=ro+wh"), "dio".into(), xino.into(), "noplink".into()]),
            (id('a'), &lowers[..1], false, true,
                vec![format!("br:/h/diff/{a}=ro+wh:/h/diff/{b}=ro+wh"), "dio".into(), xino.into(), "dirperm1".into(), "ro".into()]),
            (init,    &lowers[..1], true,  false,
                vec![format!("br:/h/diff/{a}-init=rw:/h/diff/{b}=ro+wh"), "dio".into(), xino.into(), "noplink".into()]),
        ];
        for (id, lowers, is_written, dirperm1, options) in table {
            let plan = mounts("/h", dirperm1).plan(&id, lowers, is_written, target());
            let expected = MountPlan {
                fs_type: "aufs".to_owned(),
                source: "none".into(),
                target: target(),
                work_dir: None,
                options,
            };
            assert_eq!(plan, expected);
        }
    }

    #[test]
    fn a_home_whose_name_aufs_would_take_apart_is_named_by_the_working_directory() {
        let (a, b) = ("a".repeat(64), "b".repeat(64));
        let long = format!("/{}", "h".repeat(1100));
        for home in ["/h:x", "/h,x", "/h=x", "/h\\x", &long] {
            let plan = mounts(home, false).plan(&id('a'), &[id('b')], true, target());
            assert_eq!(plan.work_dir, Some(Path::new(home).join("diff")));
            assert_eq!(plan.options[0], format!("br:{a}=rw:{b}=ro+wh"));
        }
    }

    #[test]
    fn what_a_page_does_not_hold_is_added_later_in_order() {
        let lowers: Vec<_> = (0..126).map(|_| LayerId::random()).collect();
        let plan = mounts("/var/lib/berth/aufs", true).plan(&id('a'), &lowers, false, target());
        let data = |options: &[String]| berth_sys::mount::data_len(options);
        let at = plan.options.iter().position(|option| option.starts_with("append:")).unwrap();
        assert!(data(&plan.options[..at]) + XINO_MORE < 4096);
        assert!(
            data(&plan.options[..=at]) + XINO_MORE - "append:".len() >= 4096,
            "the page is full"
        );
        let named: Vec<String> = plan
            .options
            .iter()
            .flat_map(|option| {
                option.trim_start_matches("br:").trim_start_matches("append:").split(':')
            })
            .filter_map(|branch| branch.strip_suffix("=ro+wh"))
            .map(|path| path.rsplit('/').next().unwrap().to_owned())
            .collect();
        let expected: Vec<_> =
            std::iter::once(&id('a')).chain(&lowers).map(|id| id.as_str().to_owned()).collect();
        assert_eq!(named, expected);
        assert_eq!(plan.options.last().unwrap(), "ro");
    }
}

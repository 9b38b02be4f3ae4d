//! One entry of an archive.

use crate::tar::sparse::Extent;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Kind {
    /// A regular file.
    #[default]
    File,
    /// Another name for an earlier entry.
    HardLink,
    /// A symbolic link.
    Symlink,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A directory.
    Directory,
    /// A named pipe.
    Fifo,
    /// A global PAX header, which describes nothing that is extracted.
    Global,
    /// A type flag that has no agreed meaning.
    Other(u8),
}

/// A point in time as archives have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, PartialOrd, Ord)]
pub struct Time {
    /// Seconds since 1970.
    pub seconds: i64,
    /// Nanoseconds on top, below 10^9.
    pub nanos: u32,
}

/// What an archive says about one file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Entry {
    /// The name, exactly as in the archive.
    pub path: Vec<u8>,
    /// What a link points to.
    pub link: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Permission, set-id and sticky bits.
    pub mode: u32,
    /// Owner.
    pub uid: u64,
    /// Group.
    pub gid: u64,
    /// Size of a regular file once extracted, holes included; 0 for everything else.
    pub size: u64,
    /// Modification time.
    pub mtime: Time,
    /// Access time, if given.
    pub atime: Option<Time>,
    /// Major and minor number of a device.
    pub device: (u32, u32),
    /// Extended attributes, in the archive's order.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// For a sparse file: where its data goes.
    pub sparse: Option<Vec<Extent>>,
}

impl Entry {
    /// The name for messages.
    pub fn name(&self) -> String {
        String::from_utf8_lossy(&self.path).into_owned()
    }

    pub(super) fn clear(&mut self) {
        self.path.clear();
        self.link.clear();
        self.xattrs.clear();
        self.kind = Kind::File;
        self.mode = 0;
        self.uid = 0;
        self.gid = 0;
        self.size = 0;
        self.mtime = Time::default();
        self.atime = None;
        self.device = (0, 0);
        self.sparse = None;
    }
}

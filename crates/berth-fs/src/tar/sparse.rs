//! Sparse files: GNU's old header form and the PAX forms 0.0, 0.1 and 1.0.

use crate::tar::BLOCK;
use crate::tar::header::{Reason, number};
use crate::tar::pax::decimal;

/// A piece of data in a sparse file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Where it starts in the extracted file.
    pub offset: u64,
    /// How long it is.
    pub length: u64,
}

/// Most pieces of one file.
const MAX_EXTENTS: usize = 1 << 16;

/// What `GNU.sparse.*` records say.
#[derive(Debug, Default)]
pub(super) struct PaxSparse {
    major: Option<u64>,
    minor: Option<u64>,
    pub(super) name: Option<Vec<u8>>,
    size: Option<u64>,
    real_size: Option<u64>,
    blocks: Option<u64>,
    map: Vec<u64>,
    has_map: bool,
}

/// Where the map of a sparse file is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum MapPlace {
    /// In the PAX header (0.0 and 0.1).
    Header(Vec<Extent>),
    /// At the start of the file's data (1.0).
    Data,
}

impl PaxSparse {
    pub(super) fn take(&mut self, field: &[u8], value: &[u8]) -> Result<(), Reason> {
        match field {
            b"major" => self.major = Some(decimal(value)?),
            b"minor" => self.minor = Some(decimal(value)?),
            b"name" => {
                if value.contains(&0) {
                    return Err("a PAX name contains a NUL");
                }
                self.name = (!value.is_empty()).then(|| value.to_vec());
            }
            b"size" => self.size = Some(decimal(value)?),
            b"realsize" => self.real_size = Some(decimal(value)?),
            b"numblocks" => self.blocks = Some(decimal(value)?),
            b"map" => {
                self.has_map = true;
                self.map.clear();
                for number in value.split(|&byte| byte == b',') {
                    self.push(decimal(number)?)?;
                }
            }
            b"offset" => {
                if !self.map.len().is_multiple_of(2) {
                    return Err("a sparse map is malformed");
                }
                self.has_map = true;
                self.push(decimal(value)?)?;
            }
            b"numbytes" => {
                if self.map.len().is_multiple_of(2) {
                    return Err("a sparse map is malformed");
                }
                self.push(decimal(value)?)?;
            }
            _ => {}
        }
        Ok(())
    }

    fn push(&mut self, number: u64) -> Result<(), Reason> {
        if self.map.len() >= 2 * MAX_EXTENTS {
            return Err("a sparse map is too long");
        }
        self.map.push(number);
        Ok(())
    }

    /// Whether the entry is sparse, and if so: where its map is and how large the file becomes.
    pub(super) fn place(&self) -> Result<Option<(MapPlace, u64)>, Reason> {
        let size = self.real_size.or(self.size);
        let place = match (self.major, self.minor) {
            (Some(1), Some(0)) => MapPlace::Data,
            (None | Some(0), None | Some(0 | 1)) if self.has_map => {
                let map = pairs(&self.map)?;
                if self.blocks.is_some_and(|blocks| blocks != map.len() as u64) {
                    return Err("a sparse map is malformed");
                }
                MapPlace::Header(map)
            }
            // Go ignores versions that it does not know; the file is then taken as it is stored.
            _ => return Ok(None),
        };
        Ok(Some((place, size.ok_or("a sparse file has no size")?)))
    }
}

fn pairs(numbers: &[u64]) -> Result<Vec<Extent>, Reason> {
    if !numbers.len().is_multiple_of(2) {
        return Err("a sparse map is malformed");
    }
    Ok(numbers.chunks_exact(2).map(|pair| Extent { offset: pair[0], length: pair[1] }).collect())
}

/// Checks that a map is in order, inside the file, and accounts for exactly the stored bytes.
pub(super) fn check(map: &[Extent], size: u64, stored: u64) -> Result<(), Reason> {
    const BAD: Reason = "a sparse map is malformed";
    let mut end = 0;
    let mut total: u64 = 0;
    for extent in map {
        if extent.offset < end {
            return Err(BAD);
        }
        end = extent.offset.checked_add(extent.length).ok_or(BAD)?;
        total = total.checked_add(extent.length).ok_or(BAD)?;
    }
    if end > size || total != stored || i64::try_from(size).is_err() {
        return Err(BAD);
    }
    Ok(())
}

/// Adds the pieces that a block of the old GNU form lists; says whether another block follows.
pub(super) fn add_old_gnu(
    fields: &[u8],
    extended: u8,
    map: &mut Vec<Extent>,
) -> Result<bool, Reason> {
    for pair in fields.chunks_exact(24) {
        if pair[0] == 0 {
            break;
        }
        if map.len() >= MAX_EXTENTS {
            return Err("a sparse map is too long");
        }
        let field = |bytes| u64::try_from(number(bytes)?).ok().ok_or("a sparse map is malformed");
        map.push(Extent { offset: field(&pair[..12])?, length: field(&pair[12..])? });
    }
    Ok(extended > 0)
}

/// The old GNU form's first pieces, in the header; then the flag, then the real size.
pub(super) fn old_gnu_header(
    block: &[u8; BLOCK],
    map: &mut Vec<Extent>,
) -> Result<(bool, u64), Reason> {
    let more = add_old_gnu(&block[386..482], block[482], map)?;
    let size = u64::try_from(number(&block[483..495])?).ok().ok_or("the size is negative")?;
    Ok((more, size))
}

/// Collects the numbers of a 1.0 map, which stands in decimal lines at the start of the data.
#[derive(Debug, Default)]
pub(super) struct DataMap {
    numbers: Vec<u64>,
    line: Vec<u8>,
    count: Option<u64>,
}

impl DataMap {
    /// Takes the next block; says whether the map is complete.
    pub(super) fn take(&mut self, block: &[u8; BLOCK]) -> Result<bool, Reason> {
        for &byte in block {
            if byte != b'\n' {
                if self.line.len() > 20 {
                    return Err("a sparse map is malformed");
                }
                self.line.push(byte);
                continue;
            }
            let number = decimal(&self.line).ok().ok_or("a sparse map is malformed")?;
            self.line.clear();
            match self.count {
                None if number > MAX_EXTENTS as u64 => return Err("a sparse map is too long"),
                None => self.count = Some(number),
                Some(_) => self.numbers.push(number),
            }
            if self.is_complete() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn is_complete(&self) -> bool {
        self.count.is_some_and(|count| self.numbers.len() as u64 == 2 * count)
    }

    pub(super) fn finish(self) -> Result<Vec<Extent>, Reason> {
        pairs(&self.numbers)
    }
}

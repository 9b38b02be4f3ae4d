//! Block devices, whatever serves them.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use rustix::ioctl::{Getter, Opcode, Setter, ioctl, opcode};

/// `BLKGETSIZE64`, whose number was made with the wrong type.
const GET_SIZE: Opcode = opcode::read::<usize>(0x12, 114);
/// `BLKDISCARD`.
const DISCARD: Opcode = opcode::none(0x12, 119);

/// Bytes.
pub fn size(device: impl AsFd) -> io::Result<u64> {
    // SAFETY: BLKGETSIZE64 writes one u64, whatever its number says.
    unsafe { Ok(ioctl(device, Getter::<GET_SIZE, u64>::new())?) }
}

/// Gives up everything that is on the device.
pub fn discard_all(device: &File) -> io::Result<()> {
    let range = [0, size(device)?];
    // SAFETY: BLKDISCARD reads two u64, a start and a length, and keeps no pointer to them.
    unsafe { Ok(ioctl(device, Setter::<DISCARD, [u64; 2]>::new(range))?) }
}

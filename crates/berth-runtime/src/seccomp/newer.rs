//! System calls that are newer than the profile, or newer than the libseccomp that compiled it.
//!
//! A C library that finds a new call missing (`ENOSYS`) goes an older way; one that is refused it
//! (`EPERM`) gives up. So a call beyond all that a profile names does not exist for the container,
//! as runc has it, and what a profile allows is allowed even if libseccomp has no number for it.
//! Both is decided by a few instructions in front of libseccomp's program, which does not notice.

use std::collections::BTreeMap;

use libseccomp::{ScmpAction, ScmpArch, ScmpSyscall};

/// Calls that libseccomp 2.5 does not know. From number 424 on all machines of Linux have the same
/// numbers, which is where these come from: the kernel's `scripts/syscall.tbl`.
#[rustfmt::skip]
const NUMBERS: &[(&str, u32)] = &[
    ("set_mempolicy_home_node", 450), ("cachestat", 451),         ("fchmodat2", 452),
    ("map_shadow_stack", 453),        ("futex_wake", 454),        ("futex_wait", 455),
    ("futex_requeue", 456),           ("statmount", 457),         ("listmount", 458),
    ("lsm_get_self_attr", 459),       ("lsm_set_self_attr", 460), ("lsm_list_modules", 461),
    ("mseal", 462),                   ("setxattrat", 463),        ("getxattrat", 464),
    ("listxattrat", 465),             ("removexattrat", 466),     ("open_tree_attr", 467),
    ("file_getattr", 468),            ("file_setattr", 469),
];

const LOAD_NUMBER: [u8; 8] = instruction(0x20, 0, 0, 0);
const LOAD_ARCH: [u8; 8] = instruction(0x20, 0, 0, 4);
const JUMP_IF_EQUAL: u16 = 0x15;
const JUMP_IF_GREATER: u16 = 0x25;
const RETURN: u16 = 0x06;
const ALLOW: u32 = 0x7fff_0000;
const NO_SUCH_CALL: u32 = 0x0005_0000 | 0x26;
/// Set in the numbers of x32's calls, which come with x86-64's machine number.
const X32_BIT: u32 = 0x4000_0000;

/// What is known of the machines of one audit number.
#[derive(Debug, Default)]
struct Machine {
    /// The highest number that the profile names.
    last: u32,
    /// The same with [`X32_BIT`] set.
    last_x32: Option<u32>,
}

/// Gathers the profile's names.
#[derive(Debug, Default)]
pub(super) struct Newer {
    machines: BTreeMap<u32, Machine>,
    archs: Vec<ScmpArch>,
    allowed: Vec<u32>,
}

impl Newer {
    /// Of a filter for these machines.
    pub(super) fn new(archs: Vec<ScmpArch>) -> Self {
        Self { archs, ..Self::default() }
    }

    /// A call that the profile names.
    pub(super) fn see(&mut self, name: &str) {
        let newer = NUMBERS.iter().find(|(known, _)| *known == name).map(|(_, number)| *number);
        for &arch in &self.archs {
            let Some(audit) = audit_number(arch) else { continue };
            let known = ScmpSyscall::from_name_by_arch(name, arch).ok();
            let known = known.and_then(|call| u32::try_from(call.as_raw_syscall()).ok());
            let x32 = if arch == ScmpArch::X32 { X32_BIT } else { 0 };
            let Some(number) = known.or(newer.map(|number| number | x32)) else { continue };
            let machine = self.machines.entry(audit).or_default();
            if arch == ScmpArch::X32 {
                machine.last_x32 = Some(number.max(machine.last_x32.unwrap_or(X32_BIT)));
            } else {
                machine.last = machine.last.max(number);
            }
        }
    }

    /// A call without a number in libseccomp, and what the profile says of it.
    pub(super) fn decide(&mut self, name: &str, action: ScmpAction, unconditional: bool) {
        let known = NUMBERS.iter().find(|(known, _)| *known == name);
        if let Some((_, number)) = known
            && action == ScmpAction::Allow
            && unconditional
        {
            self.allowed.push(*number);
        }
    }

    /// The instructions that come before the program; empty for machines that are not known here.
    pub(super) fn prefix(&self) -> Vec<u8> {
        let mut program = Vec::new();
        for (&audit, machine) in &self.machines {
            let body = self.body(machine);
            let Ok(length) = u8::try_from(body.len()) else { return Vec::new() };
            program.push(LOAD_ARCH);
            program.push(instruction(JUMP_IF_EQUAL, 0, length, audit));
            program.extend(body);
        }
        program.concat()
    }

    /// Decides, or falls through to its end.
    fn body(&self, machine: &Machine) -> Vec<[u8; 8]> {
        let mut body = vec![LOAD_NUMBER];
        for &number in &self.allowed {
            for bit in [Some(0), machine.last_x32.map(|_| X32_BIT)].into_iter().flatten() {
                body.push(instruction(JUMP_IF_EQUAL, 0, 1, number | bit));
                body.push(instruction(RETURN, 0, 0, ALLOW));
            }
        }
        let refuse = instruction(RETURN, 0, 0, NO_SUCH_CALL);
        if let Some(last) = machine.last_x32 {
            // Beyond x32's last; if not, and not x32's at all, beyond the machine's own last.
            body.push(instruction(JUMP_IF_GREATER, 2, 0, last));
            body.push(instruction(JUMP_IF_GREATER, 2, 0, X32_BIT - 1));
            body.push(instruction(JUMP_IF_GREATER, 0, 1, machine.last));
        } else {
            body.push(instruction(JUMP_IF_GREATER, 0, 1, machine.last));
        }
        body.push(refuse);
        body
    }
}

const fn instruction(code: u16, yes: u8, no: u8, operand: u32) -> [u8; 8] {
    let code = code.to_ne_bytes();
    let operand = operand.to_ne_bytes();
    [code[0], code[1], yes, no, operand[0], operand[1], operand[2], operand[3]]
}

/// The kernel's `AUDIT_ARCH_…`; `None` for machines that nobody has tried.
fn audit_number(arch: ScmpArch) -> Option<u32> {
    Some(match arch {
        ScmpArch::X8664 | ScmpArch::X32 => 0xc000_003e,
        ScmpArch::X86 => 0x4000_0003,
        ScmpArch::Aarch64 => 0xc000_00b7,
        ScmpArch::Arm => 0x4000_0028,
        ScmpArch::Riscv64 => 0xc000_00f3,
        _ => return None,
    })
}

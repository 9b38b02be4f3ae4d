//! Device rules as a program of type `BPF_PROG_TYPE_CGROUP_DEVICE`.
//!
//! Version 2 control groups have no device controller; a program decides instead. It gets a
//! pointer (in r1) to `struct bpf_cgroup_dev_ctx { u32 access_type; u32 major; u32 minor; }`,
//! where the lower half of `access_type` is the kind (1 block, 2 character) and the upper half the wish
//! (1 mknod, 2 read, 4 write), and returns 1 to allow.
//!
//! The rules are tried last to first and the first that covers the whole wish decides: the same as
//! "the last rule wins" of version 1.

use super::{Kind, Perms, Rule};

/// One instruction as the kernel reads it: opcode, registers, jump offset, constant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the kernel's")]
pub struct Insn {
    pub code: u8,
    pub dst: u8,
    pub src: u8,
    pub off: i16,
    pub imm: i32,
}

const LDX_W: u8 = 0x61;
const AND32_K: u8 = 0x54;
const RSH32_K: u8 = 0x74;
const MOV32_X: u8 = 0xbc;
const MOV64_K: u8 = 0xb7;
const JEQ_K: u8 = 0x15;
const JNE_X: u8 = 0x5d;
const JNE_K: u8 = 0x55;
const EXIT: u8 = 0x95;

const R0: u8 = 0;
const R1: u8 = 1;
const KIND: u8 = 2;
const WISH: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

const BLOCK: i32 = 1;
const CHAR: i32 = 2;
const MKNOD: i32 = 1;
const READ: i32 = 2;
const WRITE: i32 = 4;

impl Insn {
    const fn new(code: u8, dst: u8, src: u8, off: i16, imm: i32) -> Self {
        Self { code, dst, src, off, imm }
    }

    /// The eight bytes, in this machine's byte order.
    pub fn to_bytes(self) -> [u8; 8] {
        let [off0, off1] = self.off.to_ne_bytes();
        let [imm0, imm1, imm2, imm3] = self.imm.to_ne_bytes();
        let registers = if cfg!(target_endian = "little") {
            self.dst | (self.src << 4)
        } else {
            (self.dst << 4) | self.src
        };
        [self.code, registers, off0, off1, imm0, imm1, imm2, imm3]
    }
}

/// The program for these rules. Without a rule that matches, access is denied.
pub fn program(rules: &[Rule]) -> Vec<Insn> {
    let mut out = vec![
        Insn::new(LDX_W, KIND, R1, 0, 0),
        Insn::new(AND32_K, KIND, 0, 0, 0xffff),
        Insn::new(LDX_W, WISH, R1, 0, 0),
        Insn::new(RSH32_K, WISH, 0, 0, 16),
        Insn::new(LDX_W, MAJOR, R1, 4, 0),
        Insn::new(LDX_W, MINOR, R1, 8, 0),
    ];
    for rule in rules.iter().rev() {
        let block = block_for(rule);
        let everything = block.len() == 2;
        out.extend(block);
        if everything {
            // Nothing after it could be reached, and the kernel refuses dead code.
            return out;
        }
    }
    out.extend(answer(false));
    out
}

/// The same as words, as `berth_sys` loads them.
pub fn program_words(rules: &[Rule]) -> Vec<u64> {
    program(rules).into_iter().map(|insn| u64::from_ne_bytes(insn.to_bytes())).collect()
}

/// The same as bytes, in this machine's order.
pub fn program_bytes(rules: &[Rule]) -> Vec<u8> {
    program(rules).into_iter().flat_map(Insn::to_bytes).collect()
}

fn answer(allow: bool) -> [Insn; 2] {
    [Insn::new(MOV64_K, R0, 0, 0, i32::from(allow)), Insn::new(EXIT, 0, 0, 0, 0)]
}

/// Tests that jump past the answer, and the answer.
fn block_for(rule: &Rule) -> Vec<Insn> {
    let mut tests: Vec<Insn> = Vec::new();
    match rule.kind {
        Kind::All => {}
        Kind::Block => tests.push(Insn::new(JNE_K, KIND, 0, 0, BLOCK)),
        Kind::Char => tests.push(Insn::new(JNE_K, KIND, 0, 0, CHAR)),
    }
    if rule.perms != Perms::ALL {
        tests.push(Insn::new(MOV32_X, R1, WISH, 0, 0));
        if rule.allow {
            // All that is wished must be allowed: nothing is left of it without the allowed bits.
            tests.push(Insn::new(AND32_K, R1, 0, 0, mask(rule.perms)));
            tests.push(Insn::new(JNE_X, R1, WISH, 0, 0));
        } else {
            // One denied bit among the wished is enough: skip when none of them is.
            tests.push(Insn::new(AND32_K, R1, 0, 0, mask(rule.perms)));
            tests.push(Insn::new(JEQ_K, R1, 0, 0, 0));
        }
    }
    for (register, number) in [(MAJOR, rule.major), (MINOR, rule.minor)] {
        if let Some(number) = number {
            tests.push(Insn::new(JNE_K, register, 0, 0, number.cast_signed()));
        }
    }
    let mut block = tests;
    block.extend(answer(rule.allow));
    let len = block.len();
    for (at, insn) in block.iter_mut().enumerate() {
        if matches!(insn.code, JNE_X | JNE_K | JEQ_K) {
            // A block has at most nine instructions.
            insn.off = i16::try_from(len - at - 1).unwrap_or(i16::MAX);
        }
    }
    block
}

fn mask(perms: Perms) -> i32 {
    [(perms.mknod, MKNOD), (perms.read, READ), (perms.write, WRITE)]
        .into_iter()
        .filter_map(|(has, bit)| has.then_some(bit))
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::{default_rules, runtime_rules};

    /// Name, rules, kind, wish, major, minor, answer.
    type Case<'a> = (&'a str, &'a [Rule], i32, i32, u32, u32, bool);

    /// Runs the program as the kernel would; `None` when it leaves its bounds.
    fn run(program: &[Insn], kind: i32, wish: i32, major: u32, minor: u32) -> Option<bool> {
        let context = [(wish << 16 | kind).cast_unsigned(), major, minor];
        let mut regs = [0u64; 11];
        let mut pc = 0usize;
        loop {
            let Insn { code, dst, src, off, imm } = *program.get(pc)?;
            let (dst, src) = (usize::from(dst), usize::from(src));
            pc += 1;
            let sign_extended = i64::from(imm).cast_unsigned();
            let jump = match code {
                LDX_W => {
                    regs[dst] = u64::from(context[usize::try_from(off).ok()? / 4]);
                    false
                }
                AND32_K => {
                    regs[dst] = (regs[dst] & u64::from(imm.cast_unsigned())) & 0xffff_ffff;
                    false
                }
                RSH32_K => {
                    regs[dst] = (regs[dst] & 0xffff_ffff) >> imm;
                    false
                }
                MOV32_X => {
                    regs[dst] = regs[src] & 0xffff_ffff;
                    false
                }
                MOV64_K => {
                    regs[dst] = sign_extended;
                    false
                }
                JNE_X => regs[dst] != regs[src],
                JNE_K => regs[dst] != sign_extended,
                JEQ_K => regs[dst] == sign_extended,
                EXIT => return Some(regs[0] == 1),
                _ => return None,
            };
            if jump {
                pc += usize::try_from(off).ok()?;
            }
        }
    }

    #[test]
    fn the_program_decides_as_the_last_matching_rule_says() {
        let docker = [default_rules(), runtime_rules()].concat();
        let mut extra = docker.clone();
        extra.push(Rule::parse("b 8:* rm").unwrap());
        let privileged = [Rule::everything(true)];
        let deny_write = [
            Rule::everything(true),
            Rule {
                allow: false,
                perms: Perms::parse("w").unwrap(),
                ..Rule::parse("c 1:3 w").unwrap()
            },
        ];
        #[rustfmt::skip]
        let table: &[Case<'_>] = &[
            ("null",                &docker,     CHAR,  READ | WRITE, 1, 3,   true),
            ("full",                &docker,     CHAR,  READ,         1, 7,   true),
            ("fuse",                &docker,     CHAR,  READ | WRITE, 10, 229, false),
            ("mknod fuse",          &docker,     CHAR,  MKNOD,        10, 229, true),
            ("kmsg",                &docker,     CHAR,  READ,         1, 11,  false),
            ("disk",                &docker,     BLOCK, READ,         8, 0,   false),
            ("mknod disk",          &docker,     BLOCK, MKNOD,        8, 0,   true),
            ("a terminal",          &docker,     CHAR,  READ | WRITE, 136, 9, true),
            ("disk, rule",          &extra,      BLOCK, READ,         8, 5,   true),
            ("disk, beyond rule",   &extra,      BLOCK, READ | WRITE, 8, 5,   false),
            ("char of same number", &extra,      CHAR,  READ,         8, 5,   false),
            ("privileged",          &privileged, BLOCK, READ | WRITE, 8, 0,   true),
            ("one bit denied",      &deny_write, CHAR,  READ | WRITE, 1, 3,   false),
            ("other bits",          &deny_write, CHAR,  READ,         1, 3,   true),
            ("no rule",             &[],         CHAR,  READ,         1, 3,   false),
        ];
        for (name, rules, kind, wish, major, minor, expected) in table {
            let got = run(&program(rules), *kind, *wish, *major, *minor);
            assert_eq!(got, Some(*expected), "{name}");
        }
    }

    #[test]
    fn no_instruction_is_dead_and_bytes_are_the_kernels() {
        let program = program(&[Rule::everything(false), Rule::everything(true)]);
        assert_eq!(program.len(), 6 + 2, "rules before a rule for everything are never reached");
        let bytes = program_bytes(&[]);
        assert_eq!(bytes.len(), 8 * 8);
        if cfg!(target_endian = "little") {
            assert_eq!(
                bytes[..16],
                [0x61, 0x12, 0, 0, 0, 0, 0, 0, 0x54, 2, 0, 0, 0xff, 0xff, 0, 0]
            );
        }
    }
}

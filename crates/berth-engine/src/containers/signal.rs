//! Signals by Docker's names.

use crate::error::ContainerError;

/// Names and numbers on Linux, except MIPS and SPARC, where berth does not run.
const NAMES: &[(&str, i32)] = &[
    ("ABRT", 6),
    ("ALRM", 14),
    ("BUS", 7),
    ("CHLD", 17),
    ("CLD", 17),
    ("CONT", 18),
    ("FPE", 8),
    ("HUP", 1),
    ("ILL", 4),
    ("INT", 2),
    ("IO", 29),
    ("IOT", 6),
    ("KILL", 9),
    ("PIPE", 13),
    ("POLL", 29),
    ("PROF", 27),
    ("PWR", 30),
    ("QUIT", 3),
    ("SEGV", 11),
    ("STKFLT", 16),
    ("STOP", 19),
    ("SYS", 31),
    ("TERM", 15),
    ("TRAP", 5),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("USR1", 10),
    ("USR2", 12),
    ("VTALRM", 26),
    ("WINCH", 28),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("RTMIN", 34),
    ("RTMAX", 64),
];

/// The number of a signal given by number or name, with or without `SIG`, in any case.
pub(crate) fn parse(text: &str) -> Result<i32, ContainerError> {
    let bad = || ContainerError::Signal { signal: text.to_owned() };
    if let Ok(number) = text.parse::<i32>() {
        return if (1..=64).contains(&number) { Ok(number) } else { Err(bad()) };
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(&(_, number)) = NAMES.iter().find(|(known, _)| *known == name) {
        return Ok(number);
    }
    let offset = |digits: &str| digits.parse::<i32>().ok();
    let number = if let Some(up) = name.strip_prefix("RTMIN+") {
        offset(up).filter(|up| (1..=15).contains(up)).map(|up| 34 + up)
    } else if let Some(down) = name.strip_prefix("RTMAX-") {
        offset(down).filter(|down| (1..=14).contains(down)).map(|down| 64 - down)
    } else {
        None
    };
    number.ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals() {
        #[rustfmt::skip]
        let table = [
            ("9",           Some(9)),
            ("KILL",        Some(9)),
            ("sigterm",     Some(15)),
            ("SIGRTMIN+3",  Some(37)),
            ("RTMAX-1",     Some(63)),
            ("RTMIN+16",    None),
            ("0",           None),
            ("65",          None),
            ("-1",          None),
            ("NOSUCH",      None),
            ("",            None),
        ];
        for (text, number) in table {
            assert_eq!(parse(text).ok(), number, "{text:?}");
        }
        assert_eq!(parse("X").unwrap_err().to_string(), "Invalid signal: X");
    }
}

//! The packet filter: masquerade for the bridge, and `--icc=false`.
//!
//! One atomic `nft` ruleset in a table of our own, made anew at each start; where there is no
//! `nft`, `iptables` rules that are added when missing.

use std::io::{self, Write as _};
use std::process::{Command, Output, Stdio};

use ipnet::Ipv4Net;

use crate::BridgeConfig;

/// Installs the rules; answers a warning when that is not possible.
pub(crate) fn apply(device: &str, subnet: Ipv4Net, config: &BridgeConfig) -> Option<String> {
    match with_nft(&nft_ruleset(device, subnet, config)) {
        Ok(()) => return None,
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Some(format!("WARNING: no masquerade for {device}: nft: {error}"));
        }
        Err(_) => {}
    }
    for rule in iptables_rules(device, subnet, config) {
        match with_iptables(&rule) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Some(format!(
                    "WARNING: no masquerade for {device}: containers reach nothing beyond this \
                     host (install the package nftables or iptables)"
                ));
            }
            Err(error) => {
                return Some(format!("WARNING: no masquerade for {device}: iptables: {error}"));
            }
        }
    }
    None
}

/// The table of one bridge: several daemons do not touch each other's.
fn table(device: &str) -> String {
    let safe = |c: char| if c.is_ascii_alphanumeric() || c == '.' { c } else { '_' };
    format!("berth.{}", device.chars().map(safe).collect::<String>())
}

fn nft_ruleset(device: &str, subnet: Ipv4Net, config: &BridgeConfig) -> String {
    let table = table(device);
    let masquerade = format!(
        " chain postrouting {{\n  type nat hook postrouting priority 100; policy accept;\n  \
         ip saddr {subnet} oifname != \"{device}\" masquerade\n }}\n"
    );
    let isolate = format!(
        " chain forward {{\n  type filter hook forward priority 0; policy accept;\n  \
         iifname \"{device}\" oifname \"{device}\" drop\n }}\n"
    );
    format!(
        "add table ip {table}\ndelete table ip {table}\ntable ip {table} {{\n{}{}}}\n",
        if config.masquerade { &masquerade } else { "" },
        if config.icc { "" } else { &isolate },
    )
}

/// Table, chain and the words of each rule.
fn iptables_rules(
    device: &str,
    subnet: Ipv4Net,
    config: &BridgeConfig,
) -> Vec<(&'static str, &'static str, Vec<String>)> {
    let words = |text: &str| text.split(' ').map(str::to_owned).collect();
    let mut rules = Vec::new();
    if config.masquerade {
        let rule = words(&format!("-s {subnet} ! -o {device} -j MASQUERADE"));
        rules.push(("nat", "POSTROUTING", rule));
    }
    if !config.icc {
        rules.push(("filter", "FORWARD", words(&format!("-i {device} -o {device} -j DROP"))));
    }
    rules
}

fn with_nft(ruleset: &str) -> io::Result<()> {
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut stdin = child.stdin.take().expect("stdin is a pipe");
    let written = stdin.write_all(ruleset.as_bytes());
    drop(stdin);
    let output = child.wait_with_output()?;
    // When nft ends early its own words say more than the broken pipe.
    check(&output).and(written)
}

fn with_iptables(rule: &(&str, &str, Vec<String>)) -> io::Result<()> {
    let (table, chain, words) = rule;
    let run = |action: &str| {
        Command::new("iptables")
            .args(["-w", "-t", table, action, chain])
            .args(words)
            .stdin(Stdio::null())
            .output()
    };
    if run("-C")?.status.success() { Ok(()) } else { check(&run("-A")?) }
}

fn check(output: &Output) -> io::Result<()> {
    if output.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(words.lines().next().unwrap_or("failed without a word").to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ruleset_has_what_the_configuration_asks_for() {
        let subnet = "172.17.0.0/16".parse().unwrap();
        let config = BridgeConfig { icc: false, ..BridgeConfig::default() };
        assert_eq!(
            nft_ruleset("berth-0", subnet, &config),
            "add table ip berth.berth_0\ndelete table ip berth.berth_0\n\
             table ip berth.berth_0 {\n chain postrouting {\n  \
             type nat hook postrouting priority 100; policy accept;\n  \
             ip saddr 172.17.0.0/16 oifname != \"berth-0\" masquerade\n }\n \
             chain forward {\n  type filter hook forward priority 0; policy accept;\n  \
             iifname \"berth-0\" oifname \"berth-0\" drop\n }\n}\n"
        );
        let rules = iptables_rules("br", subnet, &config);
        let shown: Vec<String> =
            rules.iter().map(|(t, c, words)| format!("{t} {c} {}", words.join(" "))).collect();
        assert_eq!(
            shown,
            [
                "nat POSTROUTING -s 172.17.0.0/16 ! -o br -j MASQUERADE",
                "filter FORWARD -i br -o br -j DROP"
            ]
        );
    }
}

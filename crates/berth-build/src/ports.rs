//! The ports that `EXPOSE` names: `[[address:]host:]container[-end][/proto]`.

use std::net::IpAddr;

use crate::SyntaxError;

/// The container's ports as `80/tcp`.
pub(crate) fn parse(spec: &str) -> Result<Vec<String>, SyntaxError> {
    let mut parts = spec.rsplitn(3, ':');
    let container = parts.next().unwrap_or_default();
    let host = parts.next().unwrap_or_default();
    let address = parts.next().unwrap_or_default();

    let (range, proto) = container.split_once('/').unwrap_or((container, ""));
    if range.is_empty() {
        return Err(SyntaxError::NoPort { text: spec.to_owned() });
    }
    let proto = if proto.is_empty() { "tcp".to_owned() } else { proto.to_lowercase() };
    if !matches!(proto.as_str(), "tcp" | "udp" | "sctp") {
        return Err(SyntaxError::Protocol { proto });
    }
    let plain = address.strip_prefix('[').and_then(|a| a.strip_suffix(']')).unwrap_or(address);
    if !plain.is_empty() && plain.parse::<IpAddr>().is_err() {
        return Err(SyntaxError::HostAddress { text: plain.to_owned() });
    }
    let (start, end) =
        parse_range(range).ok_or_else(|| SyntaxError::ContainerPort { text: range.to_owned() })?;
    if !host.is_empty() {
        let (host_start, host_end) =
            parse_range(host).ok_or_else(|| SyntaxError::HostPort { text: host.to_owned() })?;
        if start != end && end - start != host_end - host_start {
            return Err(SyntaxError::PortRanges {
                container: range.to_owned(),
                host: host.to_owned(),
            });
        }
    }
    Ok((start..=end).map(|port| format!("{port}/{proto}")).collect())
}

fn parse_range(text: &str) -> Option<(u16, u16)> {
    let (start, end) = text.split_once('-').unwrap_or((text, text));
    let number =
        |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?;
    let (start, end) = (number(start)?, number(end)?);
    (start <= end).then_some((start, end))
}

//! The names and addresses of registries in the settings, by Docker's rules.

use super::Config;
use super::check::ValueError;

/// Checks them, and puts them into the form that is compared and shown.
pub(super) fn check(config: &mut Config) -> Result<(), ValueError> {
    for mirror in &mut config.mirrors {
        *mirror = normal_mirror(mirror)?;
    }
    for name in &mut config.insecure {
        *name = normal_insecure(name)?;
    }
    Ok(())
}

/// A mirror's URL, which ends with a slash.
fn normal_mirror(text: &str) -> Result<String, ValueError> {
    let bad = |reason: String| ValueError::Mirror { reason };
    let Some((scheme, rest)) = text.split_once("://") else {
        return Err(bad(format!(
            "no scheme specified for {text:?}: must use either 'https://' or 'http://'"
        )));
    };
    if !["http", "https"].contains(&scheme) {
        return Err(bad(format!(
            "unsupported scheme {scheme:?} in {text:?}: must use either 'https://' or 'http://'"
        )));
    }
    let host = rest.strip_suffix('/').unwrap_or(rest);
    if host.contains('@') {
        return Err(bad(format!("username/password not allowed in URI {text:?}")));
    }
    if host.is_empty() || host.contains(['?', '#']) || host.contains(char::is_whitespace) {
        return Err(bad(format!("query or fragment at end of the URI {text:?}")));
    }
    Ok(format!("{}/", text.trim_end_matches('/')))
}

/// A registry or a network that is trusted without TLS.
fn normal_insecure(text: &str) -> Result<String, ValueError> {
    let bad = |reason| ValueError::Insecure { text: text.to_owned(), reason };
    let name = match text.split_once("://") {
        Some(("http" | "https", name)) => {
            tracing::warn!(
                "insecure registry {text} should not contain a scheme, which is ignored"
            );
            name.trim_end_matches('/')
        }
        Some(_) => return Err(bad("should not contain '://'")),
        None => text,
    };
    if name.parse::<ipnet::IpNet>().is_ok() {
        return Ok(name.to_owned());
    }
    let is_host = !name.is_empty()
        && !name.starts_with('-')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_:[]".contains(&b));
    let port = name.rsplit_once(':').filter(|(host, _)| !host.contains(':') || host.ends_with(']'));
    if !is_host || port.is_some_and(|(_, port)| port.parse::<u16>().is_err()) {
        return Err(bad("is not valid: it must be a host, a host and a port, or a network"));
    }
    Ok(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors_are_urls_that_end_with_a_slash() {
        #[rustfmt::skip]
        let table = [
            ("https://m.example",     Ok("https://m.example/")),
            ("http://10.0.0.1:5000/", Ok("http://10.0.0.1:5000/")),
            ("https://m.example/a",   Ok("https://m.example/a/")),
            ("m.example",             Err("invalid mirror: no scheme specified for \"m.example\": must use either 'https://' or 'http://'")),
            ("ftp://m.example",       Err("invalid mirror: unsupported scheme \"ftp\" in \"ftp://m.example\": must use either 'https://' or 'http://'")),
            ("https://u:p@m.example", Err("invalid mirror: username/password not allowed in URI \"https://u:p@m.example\"")),
            ("https://m.example/?q",  Err("invalid mirror: query or fragment at end of the URI \"https://m.example/?q\"")),
        ];
        for (text, expected) in table {
            let got = normal_mirror(text).map_err(|error| error.to_string());
            assert_eq!(got, expected.map(str::to_owned).map_err(str::to_owned), "{text}");
        }
    }

    #[test]
    fn registries_without_tls_are_hosts_or_networks() {
        #[rustfmt::skip]
        let table = [
            ("reg.example:5000",   Some("reg.example:5000")),
            ("10.0.0.0/8",         Some("10.0.0.0/8")),
            ("http://reg.example", Some("reg.example")),
            ("[::1]:5000",         Some("[::1]:5000")),
            ("ftp://reg.example",  None),
            ("reg.example:x",      None),
            ("a/b",                None),
            ("-a",                 None),
            ("",                   None),
        ];
        for (text, expected) in table {
            assert_eq!(normal_insecure(text).ok().as_deref(), expected, "{text}");
        }
    }
}

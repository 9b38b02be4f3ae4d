//! `--security-opt`.

use berth_api::container::HostConfig;

use crate::error::RuntimeError;

/// What the options ask for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Security {
    /// Programs gain no privileges from set-user-id bits.
    pub no_new_privileges: bool,
    /// `unconfined`, `builtin` or a profile's JSON; `None` when nothing was said.
    pub seccomp: Option<String>,
    /// An AppArmor profile's name.
    pub apparmor: Option<String>,
    /// Whether the control groups are writable, when something was said.
    pub writable_cgroups: Option<bool>,
    /// Whether nothing under `/proc` and `/sys` is masked.
    pub unmasked: bool,
}

/// `seccomp=unconfined`.
pub const UNCONFINED: &str = "unconfined";
/// `seccomp=builtin`.
pub const BUILTIN: &str = "builtin";

impl Security {
    /// Reads the options. SELinux labels are accepted and mean nothing, as in Docker on a
    /// machine without SELinux.
    pub fn parse(config: &HostConfig) -> Result<Self, RuntimeError> {
        let mut security = Self::default();
        for option in &config.security_opt {
            security.apply(option)?;
        }
        Ok(security)
    }

    fn apply(&mut self, option: &str) -> Result<(), RuntimeError> {
        match option {
            "no-new-privileges" => self.no_new_privileges = true,
            "writable-cgroups" => self.writable_cgroups = Some(true),
            "disable" => {}
            _ => return self.apply_pair(option),
        }
        Ok(())
    }

    fn apply_pair(&mut self, option: &str) -> Result<(), RuntimeError> {
        let bad =
            |step| RuntimeError::invalid(format!("invalid --security-opt {step}: {option:?}"));
        let pair = option.split_once('=').or_else(|| option.split_once(':'));
        let (key, value) = pair.ok_or_else(|| bad(1))?;
        match key {
            "label" => {}
            "apparmor" => self.apparmor = Some(value.to_owned()),
            "seccomp" => self.seccomp = Some(value.to_owned()),
            "no-new-privileges" => {
                self.no_new_privileges = go_bool(value).ok_or_else(|| bad(2))?;
            }
            "writable-cgroups" => {
                self.writable_cgroups = Some(go_bool(value).ok_or_else(|| bad(2))?);
            }
            "systempaths" if value == UNCONFINED => self.unmasked = true,
            _ => return Err(bad(2)),
        }
        Ok(())
    }
}

/// Go's `strconv.ParseBool`.
fn go_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn security_options() {
        let default = Security::default;
        #[rustfmt::skip]
        let table: &[(&str, Result<Security, &str>)] = &[
            ("no-new-privileges",       Ok(Security { no_new_privileges: true, ..default() })),
            ("no-new-privileges=false", Ok(default())),
            ("no-new-privileges:true",  Ok(Security { no_new_privileges: true, ..default() })),
            ("seccomp=unconfined",      Ok(Security { seccomp: Some("unconfined".to_owned()), ..default() })),
            ("seccomp={\"a\":1}",       Ok(Security { seccomp: Some("{\"a\":1}".to_owned()), ..default() })),
            ("apparmor=x",              Ok(Security { apparmor: Some("x".to_owned()), ..default() })),
            ("label=disable",           Ok(default())),
            ("label:type:svirt",        Ok(default())),
            ("disable",                 Ok(default())),
            ("systempaths=unconfined",  Ok(Security { unmasked: true, ..default() })),
            ("writable-cgroups=0",      Ok(Security { writable_cgroups: Some(false), ..default() })),
            ("nonsense",                Err("invalid --security-opt 1: \"nonsense\"")),
            ("a=b",                     Err("invalid --security-opt 2: \"a=b\"")),
            ("no-new-privileges=maybe", Err("invalid --security-opt 2: \"no-new-privileges=maybe\"")),
        ];
        for (option, expected) in table {
            let config = HostConfig {
                security_opt: vec![(*option).to_owned()].into(),
                ..HostConfig::default()
            };
            let got = Security::parse(&config).map_err(|error| error.to_string());
            assert_eq!(got, expected.clone().map_err(str::to_owned), "{option}");
        }
    }
}

//! `RUN --mount=…`.

use crate::SyntaxError;
use crate::instruction::{Mount, MountKind, Sharing};
use crate::words::{self, Context};

/// Reads the value of the flag: fields `key=value`, separated by commas. Values with variables are
/// read by [`expand`], when it is known what those stand for.
pub(crate) fn read(text: &str) -> Result<Mount, SyntaxError> {
    fields(text, text.split(',').filter(|field| !has_variable(field)).map(str::to_owned))
}

/// Reads it again with its variables replaced.
pub(crate) fn expand(mount: &mut Mount, context: Context<'_>) -> Result<(), SyntaxError> {
    if !mount.text.contains('$') {
        return Ok(());
    }
    let word = |field: &str| Ok::<_, SyntaxError>(words::expand(field, context)?);
    let all: Vec<String> = mount.text.split(',').map(word).collect::<Result<_, _>>()?;
    *mount = fields(&all.join(","), all.iter().cloned())?;
    Ok(())
}

fn has_variable(field: &str) -> bool {
    field.split_once('$').is_some_and(|(_, name)| !name.is_empty())
}

fn fields(text: &str, all: impl Iterator<Item = String>) -> Result<Mount, SyntaxError> {
    let mut mount = Mount { text: text.to_owned(), ..Mount::default() };
    let is_whole = !text.split(',').any(has_variable);
    for field in all {
        let field = field.as_str();
        let (key, value) = field.split_once('=').map_or((field, None), |(k, v)| (k, Some(v)));
        let key = key.to_lowercase();
        let bad =
            |value: &str| SyntaxError::MountValue { key: key.clone(), value: value.to_owned() };
        match (key.as_str(), value) {
            ("readonly" | "ro", value) => {
                mount.read_only = Some(truth(value).ok_or_else(|| bad(value.unwrap_or_default()))?);
            }
            ("readwrite" | "rw", value) => {
                mount.read_only =
                    Some(!truth(value).ok_or_else(|| bad(value.unwrap_or_default()))?);
            }
            ("required", value) => {
                mount.required = truth(value).ok_or_else(|| bad(value.unwrap_or_default()))?;
            }
            (_, None) => return Err(SyntaxError::MountField { field: field.to_owned() }),
            ("type", Some(value)) => mount.kind = kind(value)?,
            ("from", Some(value)) => value.clone_into(&mut mount.from),
            ("source" | "src", Some(value)) => value.clone_into(&mut mount.source),
            ("target" | "dst" | "destination", Some(value)) => value.clone_into(&mut mount.target),
            ("id", Some(value)) => value.clone_into(&mut mount.id),
            ("env", Some(value)) => value.clone_into(&mut mount.env),
            ("sharing", Some(value)) => mount.sharing = sharing(value).ok_or_else(|| bad(value))?,
            ("size", Some(value)) => mount.size = Some(size(value).ok_or_else(|| bad(value))?),
            ("mode", Some(value)) => {
                mount.mode = Some(u32::from_str_radix(value, 8).map_err(|_text| bad(value))?);
            }
            ("uid", Some(value)) => mount.uid = value.parse().map_err(|_text| bad(value))?,
            ("gid", Some(value)) => mount.gid = value.parse().map_err(|_text| bad(value))?,
            _ => return Err(SyntaxError::MountKey { key, field: field.to_owned() }),
        }
    }
    let kind = match mount.kind {
        MountKind::Bind => "bind",
        MountKind::Cache => "cache",
        MountKind::Tmpfs => "tmpfs",
        MountKind::Secret | MountKind::Ssh => return Ok(mount),
    };
    if mount.target.is_empty() && is_whole {
        return Err(SyntaxError::MountTarget { kind: kind.to_owned() });
    }
    Ok(mount)
}

/// A boolean as Go's `strconv.ParseBool` reads it; being there is enough.
fn truth(value: Option<&str>) -> Option<bool> {
    match value {
        None | Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Some(true),
        Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Some(false),
        Some(_) => None,
    }
}

fn kind(text: &str) -> Result<MountKind, SyntaxError> {
    match text.to_lowercase().as_str() {
        "bind" => Ok(MountKind::Bind),
        "cache" => Ok(MountKind::Cache),
        "tmpfs" => Ok(MountKind::Tmpfs),
        "secret" => Ok(MountKind::Secret),
        "ssh" => Ok(MountKind::Ssh),
        _ => Err(SyntaxError::MountType { kind: text.to_owned() }),
    }
}

fn sharing(text: &str) -> Option<Sharing> {
    match text.to_lowercase().as_str() {
        "shared" => Some(Sharing::Shared),
        "private" => Some(Sharing::Private),
        "locked" => Some(Sharing::Locked),
        _ => None,
    }
}

fn size(text: &str) -> Option<u64> {
    berth_types::size::parse_ram(text).ok().and_then(|bytes| u64::try_from(bytes).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts() {
        let cache = Mount {
            kind: MountKind::Cache,
            target: "/c".to_owned(),
            id: "x".to_owned(),
            sharing: Sharing::Locked,
            mode: Some(0o700),
            uid: 5,
            ..Mount::default()
        };
        let later = Mount { kind: MountKind::Cache, ..Mount::default() };
        let bind = Mount {
            target: "/b".to_owned(),
            source: "s".to_owned(),
            from: "stage".to_owned(),
            read_only: Some(false),
            ..Mount::default()
        };
        let secret = Mount {
            kind: MountKind::Secret,
            id: "k".to_owned(),
            required: true,
            ..Mount::default()
        };
        #[rustfmt::skip]
        let table: &[(&str, Result<Mount, &str>)] = &[
            ("type=cache,target=/c,id=x,sharing=locked,mode=0700,uid=5", Ok(cache)),
            ("dst=/b,src=s,from=stage,rw",     Ok(bind)),
            ("type=secret,id=k,required",      Ok(secret)),
            ("type=cache,target=$a,id=${b}",   Ok(later)),
            ("type=x,target=/a",               Err("unsupported mount type \"x\"")),
            ("type=bind",                      Err("target path is required for mount type \"bind\"")),
            ("target",                         Err("invalid field 'target' must be a key=value pair")),
            ("what=x",                         Err("unexpected key 'what' in 'what=x'")),
            ("target=/a,uid=x",                Err("invalid value for uid: x")),
            ("target=/a,ro=maybe",             Err("invalid value for ro: maybe")),
        ];
        for (text, expected) in table {
            let expected = expected.clone().map_err(str::to_owned);
            let expected = expected.map(|mount| Mount { text: (*text).to_owned(), ..mount });
            assert_eq!(read(text).map_err(|error| error.to_string()), expected, "{text}");
        }
    }

    #[test]
    fn variables_are_replaced_field_by_field() {
        let env = ["a=/x,y".to_owned(), "n=5".to_owned()];
        let context = Context { env: &env, escape: '\\' };
        let mut mount = read("type=cache,target=$a,uid=$n").unwrap();
        expand(&mut mount, context).unwrap();
        let expected = Mount {
            text: "type=cache,target=/x,y,uid=5".to_owned(),
            kind: MountKind::Cache,
            target: "/x,y".to_owned(),
            uid: 5,
            ..Mount::default()
        };
        assert_eq!(mount, expected);
        let mut mount = read("type=cache,target=$none").unwrap();
        let missing = expand(&mut mount, context).unwrap_err().to_string();
        assert_eq!(missing, "target path is required for mount type \"cache\"");
    }
}

//! The part of Go's templates that `--format` takes: text, `{{.Field.Sub}}` and `{{json .Field}}`.

use serde_json::Value;

use super::error::CliError;

/// Fills `template` from `data`.
pub(super) fn render(template: &str, data: &Value) -> Result<String, CliError> {
    let mut text = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        push_literal(before, &mut text);
        let (action, tail) = after.split_once("}}").ok_or_else(|| {
            CliError::new("template parsing error: template: :1: unclosed action")
        })?;
        text.push_str(&evaluate(action.trim(), data)?);
        rest = tail;
    }
    push_literal(rest, &mut text);
    Ok(text)
}

fn push_literal(literal: &str, text: &mut String) {
    text.push_str(&literal.replace("\\t", "\t").replace("\\n", "\n"));
}

/// What a path leads to, if to anything.
type Found<'a> = Result<&'a Value, Nothing>;

/// The path leads nowhere.
#[derive(Debug)]
struct Nothing;

fn evaluate(action: &str, data: &Value) -> Result<String, CliError> {
    let (is_json, path) = match action.strip_prefix("json ") {
        Some(path) => (true, path.trim()),
        None => (false, action),
    };
    let value = look_up(path, data).ok_or_else(|| {
        CliError::new(format!(
            "template parsing error: {{{{{action}}}}} is not understood: only {{{{.Field}}}} and \
             {{{{json .Field}}}} are, by this version of berth"
        ))
    })?;
    match (is_json, value) {
        (true, value) => Ok(serde_json::to_string(&value.unwrap_or(&Value::Null))?),
        (false, Ok(value)) => Ok(go_display(value)),
        (false, Err(Nothing)) => Ok("<no value>".to_owned()),
    }
}

/// `None` where the text is not a path.
fn look_up<'a>(path: &str, data: &'a Value) -> Option<Found<'a>> {
    let path = path.strip_prefix('.')?;
    let mut value = Ok(data);
    for name in path.split('.').filter(|name| !name.is_empty()) {
        if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
            return None;
        }
        value = value.and_then(|value| value.get(name).ok_or(Nothing));
    }
    Some(value)
}

/// As Go's `%v`.
pub(super) fn go_display(value: &Value) -> String {
    match value {
        Value::Null => "<no value>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::Array(items) => {
            let items: Vec<_> = items.iter().map(go_display).collect();
            format!("[{}]", items.join(" "))
        }
        Value::Object(map) => {
            let mut pairs: Vec<_> =
                map.iter().map(|(key, value)| format!("{key}:{}", go_display(value))).collect();
            pairs.sort();
            format!("map[{}]", pairs.join(" "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates() {
        let data = serde_json::json!({
            "Id": "x", "State": {"Running": true, "Pid": 7}, "Env": ["a", "b"], "None": null,
        });
        #[rustfmt::skip]
        let table = [
            ("{{.Id}} {{ .State.Pid }}\\n",  Ok("x 7\n")),
            ("{{.State}}",                   Ok("map[Pid:7 Running:true]")),
            ("{{json .Env}}|{{.Env}}",       Ok("[\"a\",\"b\"]|[a b]")),
            ("{{.Missing}}{{.None}}",        Ok("<no value><no value>")),
            ("plain",                        Ok("plain")),
            ("{{.Id",                        Err(())),
            ("{{range .Env}}",               Err(())),
        ];
        for (template, expected) in table {
            let got = render(template, &data).map_err(|_unread| ());
            assert_eq!(got.as_deref(), expected.as_deref(), "{template}");
        }
    }
}

//! Tables of changes and of Docker's words for bad ones.

use serde_json::{Value, json};

use super::*;

fn apply_all(config: &Value, changes: &[&str]) -> Result<Value, String> {
    let mut config: ContainerConfig = serde_json::from_value(config.clone()).unwrap();
    let before = config.clone();
    let changes: Vec<String> = changes.iter().map(|change| (*change).to_owned()).collect();
    match apply(&mut config, &changes) {
        Ok(()) => {
            let default = serde_json::to_value(ContainerConfig::default()).unwrap();
            let Value::Object(mut keys) = serde_json::to_value(config).unwrap() else { panic!() };
            keys.retain(|key, value| default.get(key) != Some(value));
            Ok(Value::Object(keys))
        }
        Err(error) => {
            assert_eq!(config, before, "a refused change changes nothing");
            Err(error.to_string())
        }
    }
}

#[test]
fn changes_are_applied_as_docker_does() {
    #[rustfmt::skip]
    let table: &[(Value, &[&str], Value)] = &[
        (json!({}), &["CMD [\"a\", \"b\"]"],           json!({"Cmd": ["a", "b"]})),
        (json!({}), &["cmd echo hi  there"],           json!({"Cmd": ["/bin/sh", "-c", "echo hi  there"]})),
        (json!({"Shell": ["/bin/ash"]}), &["CMD x"],   json!({"Shell": ["/bin/ash"], "Cmd": ["/bin/ash", "x"]})),
        (json!({"Cmd": ["old"]}), &["ENTRYPOINT [\"e\"]"], json!({"Entrypoint": ["e"]})),
        (json!({}), &["CMD [\"c\"]", "ENTRYPOINT [\"e\"]"], json!({"Cmd": ["c"], "Entrypoint": ["e"]})),
        (json!({"Entrypoint": ["e"]}), &["ENTRYPOINT"], json!({})),
        (json!({"Env": ["A=1", "B=2"]}), &["ENV A=3 C=\"x y\""], json!({"Env": ["A=3", "B=2", "C=x y"]})),
        (json!({}), &["ENV A some value"],             json!({"Env": ["A=some value"]})),
        (json!({"Env": ["A=1"]}), &["ENV B=$A-${C:-d}"], json!({"Env": ["A=1", "B=1-d"]})),
        (json!({}), &["EXPOSE 80 53/udp 90-91"],       json!({"ExposedPorts": {"80/tcp": {}, "53/udp": {}, "90/tcp": {}, "91/tcp": {}}})),
        (json!({}), &["EXPOSE 127.0.0.1:8080:80"],     json!({"ExposedPorts": {"80/tcp": {}}})),
        (json!({}), &["LABEL a=b \"c d\"='e f'"],      json!({"Labels": {"a": "b", "c d": "e f"}})),
        (json!({}), &["ONBUILD RUN  make"],            json!({"OnBuild": ["RUN  make"]})),
        (json!({}), &["STOPSIGNAL SIGRTMIN+3"],        json!({"StopSignal": "SIGRTMIN+3"})),
        (json!({}), &["STOPSIGNAL 9"],                 json!({"StopSignal": "9"})),
        (json!({"Env": ["U=me"]}), &["USER $U:$U"],    json!({"Env": ["U=me"], "User": "me:me"})),
        (json!({}), &["VOLUME /a /b", "VOLUME [\"/c d\"]"], json!({"Volumes": {"/a": {}, "/b": {}, "/c d": {}}})),
        (json!({"WorkingDir": "/a"}), &["WORKDIR b/../c"], json!({"WorkingDir": "/a/c"})),
        (json!({"WorkingDir": "/a"}), &["WORKDIR /x/"], json!({"WorkingDir": "/x/"})),
        (json!({}), &["HEALTHCHECK NONE"],             json!({"Healthcheck": {"Test": ["NONE"]}})),
        (json!({}), &["HEALTHCHECK --interval=1m --retries=3 CMD true"],
            json!({"Healthcheck": {"Test": ["CMD-SHELL", "true"], "Interval": 60_000_000_000_i64, "Retries": 3}})),
        (json!({}), &["HEALTHCHECK CMD [\"a\"]"],      json!({"Healthcheck": {"Test": ["CMD", "a"]}})),
        (json!({}), &["# a remark", "", "USER a\\", "b"], json!({"User": "ab"})),
        (json!({}), &["USER a\nWORKDIR /w"],           json!({"User": "a", "WorkingDir": "/w"})),
        (json!({}), &[],                               json!({})),
    ];
    for (config, changes, expected) in table {
        assert_eq!(apply_all(config, changes), Ok(expected.clone()), "{changes:?}");
    }
}

#[test]
fn bad_changes_are_refused_in_dockers_words() {
    #[rustfmt::skip]
    let table: &[(&str, &str)] = &[
        ("",                            "file with no instructions"),
        ("RUN x",                       "RUN is not a valid change command"),
        ("from x",                      "from is not a valid change command"),
        ("ENV",                         "ENV requires at least one argument"),
        ("ENV A",                       "ENV must have two arguments"),
        ("ENV A=b c",                   "Syntax error - can't find = in \"c\". Must be of the form: name=value"),
        ("ENV =b",                      "ENV names can not be blank"),
        ("ENV A='b",                    "failed to process \"'b\": unexpected end of statement while looking for matching single-quote"),
        ("LABEL",                       "LABEL requires at least one argument"),
        ("EXPOSE",                      "EXPOSE requires at least one argument"),
        ("EXPOSE x",                    "invalid containerPort: x"),
        ("EXPOSE 80/x",                 "invalid proto: x"),
        ("EXPOSE 90-80",                "invalid containerPort: 90-80"),
        ("EXPOSE /tcp",                 "no port specified: /tcp<empty>"),
        ("EXPOSE 1-2:80-83",            "invalid ranges specified for container and host Ports: 80-83 and 1-2"),
        ("CMD [\"a\", 1]",              "when using JSON array syntax, arrays must be comprised of strings only"),
        ("CMD --x y",                   "unknown flag: --x"),
        ("USER",                        "USER requires exactly one argument"),
        ("WORKDIR",                     "WORKDIR requires exactly one argument"),
        ("WORKDIR $NOPE",               "cannot normalize nothing"),
        ("STOPSIGNAL SIGNOPE",          "invalid signal: SIGNOPE"),
        ("STOPSIGNAL 0",                "invalid signal: 0"),
        ("VOLUME",                      "VOLUME requires at least one argument"),
        ("VOLUME [\" \"]",              "VOLUME specified can not be an empty string"),
        ("ONBUILD",                     "ONBUILD requires at least one argument"),
        ("ONBUILD ONBUILD RUN x",       "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed"),
        ("ONBUILD from x",              "FROM isn't allowed as an ONBUILD trigger"),
        ("HEALTHCHECK",                 "HEALTHCHECK requires at least one argument"),
        ("HEALTHCHECK NONE x",          "HEALTHCHECK NONE takes no arguments"),
        ("HEALTHCHECK CMD",             "Missing command after HEALTHCHECK CMD"),
        ("HEALTHCHECK x",               "Unknown type \"X\" in HEALTHCHECK (try CMD)"),
        ("HEALTHCHECK --interval=1us CMD x", "Interval \"interval\" cannot be less than 1ms"),
        ("HEALTHCHECK --interval=x CMD x",   "time: invalid duration \"x\""),
        ("HEALTHCHECK --interval CMD x",     "missing a value on flag: --interval"),
        ("HEALTHCHECK --retries=-1 CMD x",   "--retries cannot be negative (-1)"),
        ("HEALTHCHECK --x=1 CMD x",          "unknown flag: --x"),
    ];
    for &(change, expected) in table {
        assert_eq!(
            apply_all(&json!({}), &["USER a", change][usize::from(change.is_empty())..]),
            Err(expected.to_owned()),
            "{change}"
        );
    }
}

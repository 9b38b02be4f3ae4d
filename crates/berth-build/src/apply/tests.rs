//! Tables of what instructions do to a configuration and leave in the history.

use serde_json::{Value, json};

use super::*;
use crate::parse::Dockerfile;
use crate::words::Context;

/// The configuration after the instructions, without what is as by default, and the last one's words.
fn run(config: &Value, lines: &str) -> Result<(Value, String), String> {
    let config: ContainerConfig = serde_json::from_value(config.clone()).unwrap();
    let mut state = Changing { config, cmd_set: false };
    let mut words = String::new();
    let mut file = Dockerfile::parse(&format!("FROM a\n{lines}")).unwrap();
    for step in &mut file.stages[0].steps {
        let env = state.config.env.to_vec();
        let context = Context { env: &env, escape: '\\' };
        step.instruction.expand(context).map_err(|error| error.to_string())?;
        words = apply(&mut state, &step.instruction).map_err(|error| error.to_string())?.unwrap();
    }
    let default = serde_json::to_value(ContainerConfig::default()).unwrap();
    let Value::Object(mut keys) = serde_json::to_value(state.config).unwrap() else { panic!() };
    keys.retain(|key, value| default.get(key) != Some(value));
    Ok((Value::Object(keys), words))
}

#[test]
fn instructions_change_the_configuration_as_docker_does() {
    #[rustfmt::skip]
    let table: &[(Value, &str, Value, &str)] = &[
        (json!({}), "CMD [\"a\", \"b c\"]",   json!({"Cmd": ["a", "b c"]}), r#"CMD ["a" "b c"]"#),
        (json!({}), "CMD x  y",               json!({"Cmd": ["/bin/sh", "-c", "x  y"]}), r#"CMD ["/bin/sh" "-c" "x  y"]"#),
        (json!({}), "CMD",                    json!({"Cmd": ["/bin/sh", "-c"]}), r#"CMD ["/bin/sh" "-c"]"#),
        (json!({"Cmd": ["x"]}), "CMD []",     json!({"Cmd": []}), "CMD []"),
        (json!({"Shell": ["/ash"]}), "CMD x", json!({"Shell": ["/ash"], "Cmd": ["/ash", "x"]}), r#"CMD ["/ash" "x"]"#),
        (json!({"Cmd": ["x"]}), "ENTRYPOINT [\"e\"]", json!({"Entrypoint": ["e"]}), r#"ENTRYPOINT ["e"]"#),
        (json!({}), "CMD [\"c\"]\nENTRYPOINT [\"e\"]", json!({"Cmd": ["c"], "Entrypoint": ["e"]}), r#"ENTRYPOINT ["e"]"#),
        (json!({"Entrypoint": ["e"]}), "ENTRYPOINT", json!({}), "ENTRYPOINT []"),
        (json!({"Env": ["A=1", "B=2"]}), "ENV A=3 C=\"x y\"", json!({"Env": ["A=3", "B=2", "C=x y"]}), "ENV A=3 C=x y"),
        (json!({"Env": ["A=1"]}), "ENV A=2 B=$A", json!({"Env": ["A=2", "B=1"]}), "ENV A=2 B=1"),
        (json!({}), "LABEL a=b \"c d\"='e f'", json!({"Labels": {"a": "b", "c d": "e f"}}), "LABEL a=b c d=e f"),
        (json!({"Env": ["P=80 81"]}), "EXPOSE 90/UDP $P", json!({"Env": ["P=80 81"], "ExposedPorts": {"80/tcp": {}, "81/tcp": {}, "90/udp": {}}}), "EXPOSE 80 81 90/UDP"),
        (json!({}), "VOLUME /b /a",           json!({"Volumes": {"/a": {}, "/b": {}}}), "VOLUME [/b /a]"),
        (json!({}), "WORKDIR /x/",            json!({"WorkingDir": "/x/"}), "WORKDIR /x/"),
        (json!({"WorkingDir": "/x/../y/"}), "WORKDIR ./z/", json!({"WorkingDir": "/y/z"}), "WORKDIR /y/z"),
        (json!({}), "WORKDIR a",              json!({"WorkingDir": "/a"}), "WORKDIR /a"),
        (json!({}), "USER a b",               json!({"User": "a b"}), "USER a b"),
        (json!({}), "STOPSIGNAL sigrtmin+3",  json!({"StopSignal": "sigrtmin+3"}), "STOPSIGNAL sigrtmin+3"),
        (json!({}), "SHELL [\"a\", \"b\"]",   json!({"Shell": ["a", "b"]}), "SHELL [a b]"),
        (json!({"OnBuild": ["x"]}), "ONBUILD RUN  $y", json!({"OnBuild": ["x", "RUN  $y"]}), "ONBUILD RUN  $y"),
        (json!({}), "MAINTAINER me $x",       json!({}), "MAINTAINER me $x"),
        (json!({}), "ARG a=1 b",              json!({}), "ARG a=1 b"),
        (json!({}), "HEALTHCHECK NONE",       json!({"Healthcheck": {"Test": ["NONE"]}}), r#"HEALTHCHECK &{["NONE"] "0s" "0s" "0s" "0s" '\x00'}"#),
        (json!({}), "HEALTHCHECK --interval=1m30s --retries=3 CMD x",
            json!({"Healthcheck": {"Test": ["CMD-SHELL", "x"], "Interval": 90_000_000_000_i64, "Retries": 3}}),
            r#"HEALTHCHECK &{["CMD-SHELL" "x"] "1m30s" "0s" "0s" "0s" '\x03'}"#),
    ];
    for (config, lines, expected, words) in table {
        assert_eq!(run(config, lines), Ok((expected.clone(), (*words).to_owned())), "{lines}");
    }
}

#[test]
fn what_cannot_be_applied() {
    #[rustfmt::skip]
    let table = [
        ("EXPOSE x",          "invalid containerPort: x"),
        ("EXPOSE 80/x",       "invalid proto: x"),
        ("STOPSIGNAL NOPE",   "invalid signal: NOPE"),
        ("STOPSIGNAL 0",      "invalid signal: 0"),
        ("WORKDIR $x",        "cannot normalize nothing"),
        ("VOLUME $x",         "VOLUME specified can not be an empty string"),
        ("ENV A=\"x",         "failed to process \"\\\"x\": unexpected end of statement while looking for matching double-quote"),
        ("USER ${x:?no}",     "failed to process \"${x:?no}\": x: no"),
    ];
    for (lines, expected) in table {
        assert_eq!(run(&json!({}), lines), Err(expected.to_owned()), "{lines}");
    }
}

#[test]
fn steps_without_a_command_have_a_comment_for_one() {
    let config = ContainerConfig::default();
    assert_eq!(nop(&config, "CMD x").join(" "), "/bin/sh -c #(nop)  CMD x");
    assert_eq!(nop_of_files(&config, "WORKDIR /w").join(" "), "/bin/sh -c #(nop) WORKDIR /w");
}

//! Tables of Dockerfiles, and of Docker's words for bad ones.

use super::*;
use crate::instruction::{ArgPair, CommandLine, Run, Transfer};

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn only(text: &str) -> Instruction {
    let mut file = Dockerfile::parse(&format!("FROM a\n{text}")).unwrap();
    file.stages[0].steps.remove(0).instruction
}

#[test]
fn stages_and_what_comes_before_them() {
    let text =
        "ARG V=1\nFROM --platform=linux/amd64 a:$V AS Base\nRUN x\nFROM base\nCOPY --from=0 a b\n";
    let file = Dockerfile::parse(text).unwrap();
    assert_eq!(file.steps(), 5);
    assert_eq!(file.meta_args[0].text, "ARG V=1");
    let from = &file.stages[0].from;
    assert_eq!(
        (from.base.as_str(), from.name.as_str(), from.platform.as_str()),
        ("a:$V", "base", "linux/amd64")
    );
    assert_eq!(file.stages[0].text, "FROM --platform=linux/amd64 a:$V AS Base");
    assert_eq!((file.stages[1].steps[0].line, file.stages[1].steps.len()), (5, 1));
}

#[test]
fn instructions_are_understood() {
    let line = |words_of: &[&str], by_shell| CommandLine { words: words(words_of), by_shell };
    let arg = |key: &str, value: Option<&str>| ArgPair {
        key: key.to_owned(),
        value: value.map(str::to_owned),
    };
    let pair = |key: &str, value: &str| KeyValue { key: key.to_owned(), value: value.to_owned() };
    let transfer = |sources: &[&str], destination: &str| Transfer {
        sources: words(sources),
        destination: destination.to_owned(),
        ..Transfer::default()
    };
    let run = |command| Run {
        command,
        heredocs: Vec::new(),
        mounts: Vec::new(),
        network: None,
        security: None,
    };
    #[rustfmt::skip]
    let table = [
        ("RUN  a  b",             Instruction::Run(run(line(&["a  b"], true)))),
        ("run [\"a\", \"b\"]",    Instruction::Run(run(line(&["a", "b"], false)))),
        ("CMD",                   Instruction::Cmd(line(&[], true))),
        ("CMD []",                Instruction::Cmd(line(&[], false))),
        ("ARG a b= c=d",          Instruction::Arg(vec![arg("a", None), arg("b", Some("")), arg("c", Some("d"))])),
        ("ENV a b  c",            Instruction::Env(vec![pair("a", "b  c")])),
        ("EXPOSE 90 80/udp",      Instruction::Expose(words(&["80/udp", "90"]))),
        ("MAINTAINER  a  b ",     Instruction::Maintainer("a  b".to_owned())),
        ("ONBUILD  RUN  x",       Instruction::Onbuild("RUN  x".to_owned())),
        ("ONBUILD ADD a b",       Instruction::Onbuild("ADD a b".to_owned())),
        ("VOLUME [\" /a \"]",     Instruction::Volume(words(&["/a"]))),
        ("SHELL [\"a\"]",         Instruction::Shell(words(&["a"]))),
        ("COPY a b c/",           Instruction::Copy(transfer(&["a", "b"], "c/"))),
        ("ADD [\"a b\", \"c\"]",  Instruction::Add(transfer(&["a b"], "c"))),
        ("COPY --from=x --chown=u:g --link a b", Instruction::Copy(Transfer {
            from: "x".to_owned(), chown: "u:g".to_owned(), link: true, ..transfer(&["a"], "b")
        })),
        ("COPY --parents a b",    Instruction::Copy(Transfer { unsupported: Some("parents"), ..transfer(&["a"], "b") })),
    ];
    for (text, expected) in table {
        assert_eq!(only(text), expected, "{text}");
    }
}

#[test]
fn here_documents_go_to_their_instruction() {
    let Instruction::Copy(copy) = only("COPY <<A b <<\"C\" /d/\nx $y\nA\nz\nC") else { panic!() };
    assert_eq!((copy.sources, copy.destination), (words(&["b"]), "/d/".to_owned()));
    let files: Vec<_> =
        copy.heredocs.iter().map(|h| (h.name.as_str(), h.content.as_str())).collect();
    assert_eq!(files, [("A", "x $y\n"), ("C", "z\n")]);
    let Instruction::Onbuild(text) = only("ONBUILD RUN <<A\nx\nA") else { panic!() };
    let Instruction::Run(run) = trigger(&text).unwrap().instruction else { panic!() };
    assert_eq!(run.heredocs[0].content, "x\n");
}

#[test]
fn bad_dockerfiles_are_refused_in_dockers_words() {
    #[rustfmt::skip]
    let table: &[(&str, &str)] = &[
        ("",                                  "failed to parse Dockerfile: file with no instructions"),
        ("# only",                            "failed to parse Dockerfile: file with no instructions"),
        ("RUN x",                             "no build stage in current context"),
        ("ARG a",                             "no build stage in current context"),
        ("FROM",                              "dockerfile parse error on line 1: FROM requires either one or three arguments"),
        ("FROM a b",                          "dockerfile parse error on line 1: FROM requires either one or three arguments"),
        ("FROM a b c",                        "dockerfile parse error on line 1: FROM requires either one or three arguments"),
        ("FROM a AS 1x",                      "dockerfile parse error on line 1: invalid name for build stage: \"1x\", name can't start with a number or contain symbols"),
        ("FROM --x=y a",                      "dockerfile parse error on line 1: unknown flag: --x"),
        ("FROM a\n\nfoo x",                   "dockerfile parse error on line 3: unknown instruction: foo"),
        ("FROM a\n\\\n",                      "dockerfile parse error on line 2: unknown instruction: "),
        ("FOO x\nENV a",                      "failed to parse Dockerfile: ENV must have two arguments"),
        ("FROM a\nENV",                       "dockerfile parse error on line 2: ENV requires at least one argument"),
        ("FROM a\nENV A=b c",                 "failed to parse Dockerfile: Syntax error - can't find = in \"c\". Must be of the form: name=value"),
        ("FROM a\nLABEL a",                   "failed to parse Dockerfile: LABEL must have two arguments"),
        ("FROM a\nMAINTAINER",                "dockerfile parse error on line 2: MAINTAINER requires exactly one argument"),
        ("FROM a\nADD a",                     "dockerfile parse error on line 2: ADD requires at least two arguments, but only one was provided. Destination could not be determined"),
        ("FROM a\nCOPY",                      "dockerfile parse error on line 2: COPY requires at least two arguments, but only one was provided. Destination could not be determined"),
        ("FROM a\nCOPY --x a b",              "dockerfile parse error on line 2: unknown flag: --x"),
        ("FROM a\nADD --from=x a b",          "dockerfile parse error on line 2: unknown flag: --from"),
        ("FROM a\nCOPY --from a b",           "dockerfile parse error on line 2: missing a value on flag: --from"),
        ("FROM a\nCOPY --from=a --from=b a b", "dockerfile parse error on line 2: duplicate flag specified: from"),
        ("FROM a\nRUN --x y",                 "dockerfile parse error on line 2: unknown flag: --x"),
        ("FROM a\nUSER --x y",                "dockerfile parse error on line 2: unknown flag: --x"),
        ("FROM a\nRUN --mount=type=q,target=/ y", "dockerfile parse error on line 2: unsupported mount type \"q\""),
        ("FROM a\nEXPOSE",                    "dockerfile parse error on line 2: EXPOSE requires at least one argument"),
        ("FROM a\nVOLUME",                    "dockerfile parse error on line 2: VOLUME requires at least one argument"),
        ("FROM a\nVOLUME [\"\"]",             "dockerfile parse error on line 2: VOLUME specified can not be an empty string"),
        ("FROM a\nVOLUME [\"a\", 1]",         "failed to parse Dockerfile: when using JSON array syntax, arrays must be comprised of strings only"),
        ("FROM a\nSHELL",                     "dockerfile parse error on line 2: SHELL requires at least one argument"),
        ("FROM a\nSHELL []",                  "dockerfile parse error on line 2: SHELL requires at least one argument"),
        ("FROM a\nSHELL x",                   "dockerfile parse error on line 2: SHELL requires the arguments to be in JSON form"),
        ("FROM a\nSTOPSIGNAL",                "dockerfile parse error on line 2: STOPSIGNAL requires exactly one argument"),
        ("FROM a\nUSER",                      "dockerfile parse error on line 2: USER requires exactly one argument"),
        ("FROM a\nWORKDIR",                   "dockerfile parse error on line 2: WORKDIR requires exactly one argument"),
        ("FROM a\nARG",                       "dockerfile parse error on line 2: ARG requires at least one argument"),
        ("FROM a\nARG =b",                    "dockerfile parse error on line 2: ARG names can not be blank"),
        ("FROM a\nONBUILD",                   "dockerfile parse error on line 2: ONBUILD requires at least one argument"),
        ("FROM a\nONBUILD from x",            "dockerfile parse error on line 2: FROM isn't allowed as an ONBUILD trigger"),
        ("FROM a\nONBUILD ONBUILD RUN x",     "dockerfile parse error on line 2: Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed"),
        ("FROM a\nHEALTHCHECK",               "dockerfile parse error on line 2: HEALTHCHECK requires at least one argument"),
        ("FROM a\nHEALTHCHECK X",             "dockerfile parse error on line 2: Unknown type \"X\" in HEALTHCHECK (try CMD)"),
        ("FROM a\nHEALTHCHECK --retries=x CMD y", "dockerfile parse error on line 2: strconv.ParseInt: parsing \"x\": invalid syntax"),
        ("FROM a\nRUN <<E\nx",                "failed to parse Dockerfile: unterminated heredoc"),
    ];
    for &(text, expected) in table {
        assert_eq!(Dockerfile::parse(text).unwrap_err().to_string(), expected, "{text:?}");
    }
}

#[test]
fn a_target_is_a_name_or_a_number() {
    let text = "FROM a AS one\nFROM b AS two\nFROM c";
    #[rustfmt::skip]
    let table = [
        ("one", Ok(1)), ("TWO", Ok(2)), ("0", Ok(1)), ("2", Ok(3)),
        ("3",   Err("target stage \"3\" could not be found")),
        ("x",   Err("target stage \"x\" could not be found")),
    ];
    for (target, expected) in table {
        let mut file = Dockerfile::parse(text).unwrap();
        let got = file.cut_after(target).map(|()| file.stages.len());
        assert_eq!(
            got.map_err(|error| error.to_string()),
            expected.map_err(str::to_owned),
            "{target}"
        );
    }
}

#[test]
fn labels_are_steps_of_the_last_stage() {
    let mut file = Dockerfile::parse("FROM a\nFROM b").unwrap();
    let labels = [("b", "$x"), ("a", "1 2")].map(|(k, v)| (k.to_owned(), v.to_owned()));
    file.add_labels(&BTreeMap::from(labels));
    let steps = &file.stages[1].steps;
    let texts: Vec<&str> = steps.iter().map(|step| step.text.as_str()).collect();
    assert_eq!(texts, ["LABEL a=1 2", "LABEL b=$x"]);
    assert!(steps.iter().all(|step| step.is_literal));
}

#[test]
fn triggers_are_single_instructions() {
    assert_eq!(trigger("RUN x").unwrap().text, "RUN x");
    for (text, expected) in [
        ("RUN x\nRUN y", "onbuild trigger should be a single expression"),
        ("FOO", "unknown instruction: FOO"),
        ("", "file with no instructions"),
    ] {
        assert_eq!(trigger(text).unwrap_err().to_string(), expected, "{text}");
    }
}

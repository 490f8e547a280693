//! Settings: the same names in flags, environment and file, and what is in force.

use dacapo::server::settings::{SETTINGS, VARIABLES};
use serde_json::{Value, json};

use crate::cli_support::{Data, root};

/// What `dacapo config --json` says of one key.
fn shown(data: &Data, arguments: &[&str], environment: &[(&str, &str)], key: &str) -> Value {
    let arguments = [&["config", "--json"], arguments].concat();
    let answer = data.run_with(&arguments, environment).ok().json();
    let settings = answer["settings"].as_array().unwrap();
    settings.iter().find(|setting| setting["key"] == key).unwrap_or_else(|| panic!("no {key}")).clone()
}

#[test]
fn the_page_lists_every_setting_with_unit_and_default() {
    let page = std::fs::read_to_string(root().join("host/docs/configuration.md")).unwrap();
    let rows: Vec<&str> = page.lines().filter(|line| line.starts_with("| `")).collect();
    let setting =
        |s: &dacapo::server::settings::Setting| format!("| `{}` | {} | {} | {} |", s.key, s.unit, s.default, s.what);
    let variables = VARIABLES.iter().map(|(name, what)| format!("| `{name}` | {what} |"));
    let expected: Vec<String> = SETTINGS.iter().map(setting).chain(variables).collect();
    assert_eq!(rows, expected);
}

#[test]
fn settings_come_from_flags_environment_and_file_in_that_order() {
    let data = Data::new("config");
    let file = data.path().join("serve.toml");
    std::fs::write(&file, "log_format = \"json\"\n[engine]\nworkers = 1\npayload_bytes = 4096\n").unwrap();
    let path = file.to_str().unwrap();
    let environment = [("DACAPO_CONFIG", path), ("DACAPO_ENGINE_WORKERS", "2")];
    let of = |arguments: &[&str], key: &str| {
        let shown = shown(&data, arguments, &environment, key);
        (shown["value"].clone(), shown["where"].as_str().unwrap().to_owned())
    };
    assert_eq!(of(&["--engine-workers", "3"], "engine.workers"), (json!(3), "--engine-workers".to_owned()));
    assert_eq!(of(&[], "engine.workers"), (json!(2), "DACAPO_ENGINE_WORKERS".to_owned()));
    assert_eq!(of(&[], "engine.payload_bytes"), (json!(4096), path.to_owned()));
    assert_eq!(of(&[], "large_payload_bytes"), (json!(32768), "default".to_owned()));
    let as_flag = ["--large-payload-bytes", "2048"];
    assert_eq!(of(&as_flag, "large_payload_bytes"), (json!(2048), "--large-payload-bytes".to_owned()));
    assert_eq!(of(&["--retain", "failed=3d"], "retention.failed").0, json!("3d"));
    assert_eq!(of(&[], "data").1, "--data");
    let table = data.run_with(&["config"], &environment).ok().stdout;
    assert!(table.lines().any(|line| line.starts_with("log_format ") && line.ends_with("serve.toml")), "{table}");
}

#[test]
fn mistakes_in_settings_end_the_server_before_it_begins() {
    let data = Data::new("config-wrong");
    let file = data.path().join("serve.toml");
    let refused = |arguments: &[&str], environment: &[(&str, &str)]| {
        let arguments = [&["serve", "--json", "--listen", "127.0.0.1:0"], arguments].concat();
        let error = data.run_with(&arguments, environment).failed(2).error();
        assert_eq!(error["code"], "invalid-input");
        error["message"].as_str().unwrap().to_owned()
    };
    std::fs::write(&file, "lisen = \"127.0.0.1:0\"\n").unwrap();
    let unknown = refused(&["--config", file.to_str().unwrap()], &[]);
    assert!(unknown.ends_with("unknown key lisen; did you mean listen? `dacapo config` lists all"), "{unknown}");
    let variable = refused(&[], &[("DACAPO_LISTN", "x")]);
    assert!(variable.contains("DACAPO_LISTN") && variable.contains("DACAPO_LISTEN?"), "{variable}");
    let low = refused(&[], &[("DACAPO_ENGINE_WORKERS", "0")]);
    assert_eq!(low, "DACAPO_ENGINE_WORKERS: engine.workers is 0, expected at least 1");
    let log = refused(&["--log", "a=b=c"], &[]);
    assert!(log.starts_with("the log filter is \"a=b=c\""), "{log}");
    let format = refused(&["--log-format", "xml"], &[]);
    assert!(format.starts_with("--log-format: ") && format.contains("`json`"), "{format}");
    let payloads = refused(&["--large-payload-bytes", "10"], &[]);
    assert_eq!(payloads, "--large-payload-bytes: large_payload_bytes is 10, expected at least 1024");
}

#[test]
fn logs_are_objects_if_that_is_asked_for() {
    let data = Data::new("config-logs");
    let mut served = data.serve_with(&["--log-format", "json"], &[("DACAPO_LOG", "info")]);
    served.running.terminate();
    assert_eq!(served.running.rest().0, Some(0));
    let lines = served.running.errors();
    let stopping = lines.lines().map(|line| serde_json::from_str::<Value>(line).expect(line));
    let stopping = stopping.filter(|line| line["message"] == "stopping").collect::<Vec<_>>();
    assert_eq!(stopping.len(), 1, "{lines}");
    assert!(stopping[0]["timestamp"].is_string() && stopping[0]["level"] == "INFO", "{lines}");
}

//! A server and the commands that talk to it.

use serde_json::{Value, json};

use crate::cli_support::Data;

const INPUT: &str = r#"{"subject":"A loom","amount":250000,"patience":86400}"#;

#[test]
fn instances_are_started_raised_followed_and_ended_through_a_server() {
    let data = Data::new("server");
    let mut served = data.serve();
    data.run(&["upload", "examples/approval"]).ok();
    assert_eq!(data.json(&["modules"])["modules"].as_array().unwrap().len(), 2);

    assert_eq!(data.run(&["start", "approval", "--id", "a 1/ü", "--input", INPUT]).ok().stdout, "a 1/ü\n");
    let taken = data.run(&["start", "approval", "--id", "a 1/ü", "--input", INPUT, "--json"]).failed(4);
    assert_eq!(taken.error()["code"], "already-exists");
    let mut follow = data.spawn(&["history", "a 1/ü", "--follow", "--json"]);
    follow.line_with("event-awaited");
    let show = data.json(&["show", "a 1/ü"]);
    let waits = show["pending"].as_array().unwrap();
    assert!(waits.iter().any(|wait| wait["kind"] == "event" && wait["name"] == "approved"), "{show}");

    // More time, within bounds; the same request again extends nothing.
    let extend = |id: &str| data.run(&["update", "a 1/ü", "extend", "--input", "60", "--request-id", id, "--json"]);
    let extended = extend("e1").ok().json();
    assert_eq!((&extended["status"], &extended["request"]), (&json!("answered"), &json!("e1")));
    assert_eq!(extend("e1").ok().json(), extended);
    assert_ne!(extend("e2").ok().json()["output"], extended["output"]);
    let path = "/api/v1/instances/a%201%2F%C3%BC/updates/extend?id=e1";
    let (status, body) = served.request("POST", path, "content-type: application/json\r\n", "60");
    assert_eq!((status, serde_json::from_str(&body).ok()), (200, Some(extended)));
    let refused = data.run(&["update", "a 1/ü", "extend", "--input", "1000000", "--json"]).failed(1).error();
    assert_eq!((&refused["code"], &refused["failure"]["error_type"]), (&json!("request-refused"), &json!("Rejected")));
    let unknown = data.run(&["update", "a 1/ü", "shorten"]).failed(1);
    assert!(unknown.stderr.contains("now there are: extend"), "{}", unknown.stderr);

    // Watched, it is shown again after each change, until it has ended.
    let mut watched = data.spawn(&["show", "a 1/ü", "--watch", "--json"]);
    assert!(watched.line().contains("\"running\""));
    let watched_list = data.spawn(&["list", "--watch", "--json"]);
    assert!(watched_list.line().contains("\"running\""));

    let approval = r#"{"by":"Grace"}"#;
    data.run(&["raise", "a 1/ü", "approved", "--value", approval]).ok();
    let (code, lines) = follow.rest();
    assert_eq!(code, Some(0), "following ends with the instance");
    let last: Value = serde_json::from_str(lines.last().unwrap()).unwrap();
    assert_eq!((&last["kind"], &last["output"]), (&json!("completed"), &json!({ "approved": { "by": "Grace" } })));
    let (code, lines) = watched.rest();
    assert!(code == Some(0) && lines.last().unwrap().contains("\"completed\""), "{lines:?}");
    watched_list.line_with("\"completed\"");
    drop(watched_list);
    data.run(&["update", "a 1/ü", "extend", "--input", "1"]).failed(4);
    let late = data.run(&["raise", "a 1/ü", "approved", "--json"]).failed(4);
    assert_eq!(late.error()["code"], "instance-ended");

    data.run(&["start", "approval", "--id", "a2", "--input", INPUT, "--tag", "desk=3"]).ok();
    assert_eq!(data.json(&["show", "a2"])["tags"]["desk"], "3");
    data.run(&["terminate", "a2", "--reason", "enough"]).ok();
    assert_eq!(data.json(&["show", "a2"])["status"], "terminated");
    let waited = data.run(&["start", "approval", "--id", "a3", "--input", "{}", "--wait", "--json"]).failed(1);
    assert_eq!(waited.error()["code"], "orchestration-failed");
    data.run(&["start", "approval", "--id", "a4", "--input", INPUT]).ok();
    data.run(&["cancel", "a4", "--reason", "late"]).ok();

    // Pages, and how to get the next one.
    let page = data.run(&["list", "--limit", "2"]).ok();
    assert!(page.stderr.contains("--after \"a2\""), "{}", page.stderr);
    assert_eq!(data.json(&["list", "--after", "a2", "--prefix", "a3"])["instances"].as_array().unwrap().len(), 1);
    data.run(&["replay", "a2"]).ok();

    let second = data.run(&["serve", "--listen", "127.0.0.1:0", "--json"]).failed(4);
    assert_eq!(second.error()["code"], "store-in-use");
    let run = data.run(&["run", "examples/approval", "approval", "--input", INPUT, "--json"]).failed(4);
    assert!(run.error()["message"].as_str().unwrap().contains("dacapo start"), "{}", run.stderr);

    served.running.terminate();
    assert_eq!(served.running.rest().0, Some(0));
    assert!(!data.path().join("server.json").exists());
    // The folder itself answers now.
    assert_eq!(data.json(&["show", "a2"])["status"], "terminated");
}

#[test]
fn a_stale_address_is_not_believed() {
    let data = Data::new("stale");
    let mut served = data.serve();
    served.running.kill();
    assert!(data.path().join("server.json").exists());
    assert_eq!(data.json(&["list"])["instances"], json!([]));
    drop(data.serve());
}

#[test]
fn memory_comes_in_small_pages() {
    let data = Data::new("small-pages");
    let served = data.serve();
    assert_eq!(served.running.status("THP_enabled"), "0", "one of 2 MiB holds up whoever is given it");
}

#[test]
fn what_is_wrong_with_a_request_is_a_problem_object() {
    let data = Data::new("problems");
    let served = data.serve();
    let problem = |method: &str, path: &str, headers: &str, body: &str| -> (u16, String) {
        let (status, body) = served.request(method, path, headers, body);
        let body: Value = serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}"));
        assert_eq!(body["status"], status);
        (status, body["code"].as_str().unwrap().to_owned())
    };
    let of = |status: u16, code: &str| (status, code.to_owned());
    let as_json = "content-type: application/json\r\n";
    assert_eq!(problem("GET", "/api/v1/instances/nobody", "", ""), of(404, "unknown-instance"));
    assert_eq!(problem("GET", "/api/v2", "", ""), of(404, "not-found"));
    assert_eq!(problem("GET", "/api/v1/instances?limit=0", "", ""), of(400, "invalid-input"));
    assert_eq!(problem("GET", "/api/v1/instances?colour=red", "", ""), of(400, "invalid-input"));
    assert_eq!(problem("POST", "/api/v1/instances", as_json, "{"), of(400, "invalid-input"));
    assert_eq!(problem("POST", "/api/v1/instances", "", "{}"), of(400, "invalid-input"));
    let start = r#"{"id":"x","orchestration":"none"}"#;
    assert_eq!(problem("POST", "/api/v1/instances", as_json, start), of(404, "unknown-orchestration"));
    assert_eq!(problem("POST", "/api/v1/instances/x/events/e", as_json, "{"), of(400, "invalid-input"));
    assert_eq!(problem("POST", "/api/v1/modules?name=m", "", "rubbish"), of(422, "module-refused"));
    let large = format!("\"{}\"", "x".repeat(2 << 20));
    assert_eq!(problem("POST", "/api/v1/instances/x/events/e", as_json, &large), of(413, "too-large"));
    // Pages of other origins, and names that only lead here, are turned away.
    let foreign = "origin: https://example.org\r\n";
    assert_eq!(problem("GET", "/api/v1/health", foreign, ""), of(403, "forbidden"));
    assert_eq!(problem("GET", "/api/v1/health", "host: example.org\r\n", ""), of(403, "forbidden"));
    let outside = data.run(&["serve", "--listen", "0.0.0.0:0", "--json"]);
    assert!(matches!(outside.code, Some(2 | 4)), "{outside:?}");
}

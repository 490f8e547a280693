//! Schedules and dates through the command and its server.

use serde_json::json;

use crate::cli_support::Data;

const INPUT: &str = r#"{"subject":"A loom","amount":250000,"patience":86400}"#;

#[test]
fn a_schedule_is_set_shown_paused_triggered_and_deleted() {
    let data = Data::new("schedules");
    data.run(&["upload", "examples/approval"]).ok();
    let served = data.serve();
    let set = ["schedule", "set", "nightly", "approval", "--cron", "30 2 * * *", "--time-zone", "Europe/Berlin"];
    let made = data.json(&[&set[..], &["--input", INPUT, "--overlap", "buffer-one", "--catch-up", "2h"]].concat());
    assert_eq!((&made["cron"], &made["overlap"]), (&json!("30 2 * * *"), &json!("buffer-one")));
    assert_eq!((&made["catch_up_ms"], &made["next"].as_array().unwrap().len()), (&json!(7_200_000), &5));
    data.run(&["schedule", "set", "often", "approval", "--every", "1h 30m"]).ok();
    let listed = data.run(&["schedule", "list"]).ok().stdout;
    assert!(listed.contains("30 2 * * * in Europe/Berlin") && listed.contains("every 1h 30m"), "{listed}");

    data.run(&["schedule", "pause", "nightly", "--reason", "holidays"]).ok();
    assert_eq!(data.json(&["schedule", "show", "nightly", "--next", "2"])["paused"], "holidays");
    let triggered = data.run(&["schedule", "trigger", "nightly"]).ok().stdout;
    let instance = data.json(&["show", triggered.trim()]);
    assert_eq!((&instance["status"], &instance["tags"]["schedule"]), (&json!("running"), &json!("nightly")));
    data.run(&["schedule", "unpause", "nightly"]).ok();
    let shown = data.run(&["schedule", "show", "nightly"]).ok().stdout;
    assert!(shown.contains("started        1") && !shown.contains("paused"), "{shown}");
    data.run(&["schedule", "delete", "nightly"]).ok();
    let gone = data.run(&["schedule", "show", "nightly", "--json"]).failed(3).error();
    assert_eq!(gone["code"], "unknown-schedule");
    assert!(gone["message"].as_str().unwrap().contains("the schedules are often"), "{gone}");

    for (wrong, expected) in [
        (&["--cron", "61 * * * *"][..], "no cron expression"),
        (&["--cron", "0 0 * * *", "--time-zone", "Moon/Crater"], "unknown time zone"),
        (&["--every", "fortnightly"], "15m or 1h 30m"),
        (&["--every", "1h", "--overlap", "shrug"], "terminate-other"),
    ] {
        let refused = data.run(&[&["schedule", "set", "x", "approval"], wrong].concat()).failed(2);
        assert!(refused.stderr.contains(expected), "{}", refused.stderr);
    }
    let body = r#"{"orchestration":"approval","every_ms":1000,"time_zone":"UTC"}"#;
    let as_json = "content-type: application/json\r\n";
    let (status, problem) = served.request("PUT", "/api/v1/schedules/x", as_json, body);
    assert_eq!((status, problem.contains("an interval has no time zone")), (400, true), "{problem}");
    drop(served);

    // Without a server the folder answers itself.
    let kept = data.json(&["schedule", "list"]);
    assert_eq!(kept["schedules"].as_array().unwrap().len(), 1);
    assert_eq!(kept["schedules"][0]["every_ms"], 5_400_000);
}

#[test]
fn a_start_at_a_date_is_shown_as_waiting_for_it() {
    let data = Data::new("dates");
    data.run(&["upload", "examples/approval"]).ok();
    let served = data.serve();
    let start = |id: &str, at: &str| data.run(&["start", "approval", "--id", id, "--input", INPUT, "--at", at]);
    start("later", "2999-01-31T08:00[Europe/Berlin]").ok();
    let shown = data.json(&["show", "later"]);
    assert_eq!(shown["pending"], json!([{ "kind": "start", "start_at": "2999-01-31T07:00:00.000Z" }]));
    let text = data.run(&["show", "later"]).ok().stdout;
    assert!(text.contains("its beginning at 2999-01-31T07:00:00.000Z"), "{text}");
    start("now", "2001-01-01T00:00:00Z").ok();
    let events = data.json(&["history", "now"])["events"].clone();
    assert!(events.as_array().unwrap().iter().all(|event| event["operation"] != 0), "{events}");
    assert!(start("never", "tomorrow").failed(2).stderr.contains("2027-01-31T08:00:00Z"));
    drop(served);
}

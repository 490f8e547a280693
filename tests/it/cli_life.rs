//! Commands on an instance's life, and those that look at it, through a server and
//! without one.

use serde_json::json;

use crate::cli_support::Data;

const INPUT: &str = r#"{"subject":"A loom","amount":250000,"patience":86400}"#;

#[test]
fn instances_are_held_asked_listed_and_replaced() {
    for through_server in [true, false] {
        let data = Data::new(if through_server { "life" } else { "life-alone" });
        data.run(&["upload", "examples/approval"]).ok();
        let served = through_server.then(|| data.serve());
        let status = |id: &str| data.json(&["show", id])["status"].as_str().unwrap().to_owned();
        data.run(&["start", "approval", "--id", "a", "--input", INPUT, "--tag", "desk=3,4"]).ok();

        data.run(&["suspend", "a", "--reason", "to look at it"]).ok();
        assert_eq!(status("a"), "suspended");
        data.run(&["raise", "a", "approved", "--value", r#"{"by":"Grace"}"#]).ok();
        assert_eq!(status("a"), "suspended");
        assert_eq!(data.json(&["list", "--status", "suspended"])["instances"][0]["id"], "a");
        data.run(&["resume", "a"]).ok();
        let ended = data.run(&["start", "approval", "--id", "a", "--reuse", "return-existing", "--wait"]).ok();
        assert_eq!(ended.json(), json!({ "approved": { "by": "Grace" } }));

        let standing = data.json(&["query", "a", "standing"]);
        assert_eq!(standing["decision"], json!({ "approved": { "by": "Grace" } }));
        let unknown = data.run(&["query", "a", "weather", "--json"]).failed(3);
        assert_eq!(unknown.error()["code"], "unknown-query");
        let wrong = data.run(&["start", "approval", "--id", "a", "--reuse", "perhaps"]).failed(2);
        assert!(wrong.stderr.contains("terminate-and-replace"), "{}", wrong.stderr);

        data.run(&["start", "approval", "--id", "a", "--input", INPUT, "--reuse", "replace-finished"]).ok();
        assert_eq!(data.json(&["show", "a"])["execution"], 2);
        data.run(&["start", "approval", "--id", "a", "--input", INPUT, "--reuse", "terminate-and-replace"]).ok();
        assert_eq!((data.json(&["show", "a"])["execution"].clone(), status("a")), (json!(3), "running".to_owned()));

        data.run(&["start", "approval", "--id", "b", "--input", INPUT, "--tag", "desk=3,4"]).ok();
        let listed = |arguments: &[&str]| -> Vec<String> {
            let list = data.json(&[&["list"], arguments].concat());
            list["instances"].as_array().unwrap().iter().map(|row| row["id"].as_str().unwrap().to_owned()).collect()
        };
        assert_eq!(listed(&["--tag", "desk=3,4"]), ["b"]);
        assert_eq!(listed(&["--module", "approval", "--created-from", "2020-01-01T00:00:00Z"]), ["a", "b"]);
        assert_eq!(listed(&["--created-before", "2020-01-01T00:00:00Z"]), [""; 0]);
        let wrong = data.run(&["list", "--created-from", "yesterday", "--json"]).failed(2);
        assert_eq!(wrong.error()["code"], "invalid-input");
        data.run(&["list", "--module", "loom", "--json"]).failed(3);

        // Again, back, and away.
        assert_eq!(data.run(&["restart", "b", "--json"]).failed(4).error()["code"], "already-exists");
        assert_eq!(data.run(&["restart", "b", "--new-id", "c"]).ok().stdout, "c\n");
        assert_eq!(data.json(&["show", "c"])["input"], data.json(&["show", "b"])["input"]);
        data.run(&["start", "approval", "--id", "bad", "--input", "{}", "--wait"]).failed(1);
        data.run(&["rewind", "bad", "--reason", "once more"]).ok();
        assert_eq!(data.json(&["show", "bad"])["execution"], 2);
        assert_eq!(data.run(&["rewind", "b", "--json"]).failed(4).error()["code"], "wrong-status");
        let running = data.run(&["purge", "b", "--json"]).failed(4);
        assert!(running.error()["message"].as_str().unwrap().contains("terminate it first"), "{}", running.stderr);
        data.run(&["terminate", "b"]).ok();
        data.run(&["purge", "b"]).ok();
        data.run(&["show", "b"]).failed(3);
        data.run(&["terminate", "c"]).ok();
        assert_eq!(data.json(&["purge", "--older-than", "1d"]), json!({ "purged": 0 }));
        assert_eq!(data.json(&["purge", "--older-than", "0s", "--status", "terminated"]), json!({ "purged": 1 }));
        data.run(&["purge", "--older-than", "soon"]).failed(2);
        drop(served);
    }
}

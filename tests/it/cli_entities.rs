//! Entities from the command line and over HTTP, with the example `transfer`.

use serde_json::{Value, json};

use crate::cli_support::Data;

#[test]
fn s33_accounts_are_used_and_locked_through_a_server_and_without_one() {
    let data = Data::new("entities");
    let mut served = data.serve();
    data.run(&["upload", "examples/transfer"]).ok();
    let modules = data.json(&["modules"]);
    let account = &modules["modules"][0]["entities"][0];
    assert_eq!(*account, json!({ "kind": "account", "operations": ["deposit", "withdraw", "balance"] }));

    let deposit = ["entity", "call", "account", "ada", "deposit", "--input", "100", "--request-id", "d1"];
    assert_eq!(data.run(&deposit).ok().stdout, "100\n");
    assert_eq!(data.run(&deposit).ok().stdout, "100\n", "the same request is not done again");
    let transfer =
        data.run(&["start", "transfer", "--input", "@examples/transfer/input.json", "--wait", "--json"]).ok().json();
    assert_eq!(transfer["output"], json!({ "from": 70, "to": 30 }));
    assert_eq!(data.json(&["query", "@account@bob", "state"]), json!({ "balance": 30 }));
    assert_eq!(data.json(&["show", "@account@ada"])["status"], "running");
    data.run(&["entity", "signal", "account", "bob", "deposit", "--input", "5"]).ok();
    let (status, body) = served.request(
        "POST",
        "/api/v1/entities/account/bob/balance?id=b1",
        "content-type: application/json\r\n",
        "null",
    );
    let answer: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status, &answer["status"], &answer["output"]), (200, &json!("answered"), &json!(35)));
    let (status, body) = served.request(
        "POST",
        "/api/v1/entities/account/bob/deposit?one_way=true",
        "content-type: application/json\r\n",
        "1",
    );
    assert_eq!((status, serde_json::from_str::<Value>(&body).unwrap()["status"].clone()), (202, json!("accepted")));

    let refused = data.run(&["entity", "call", "account", "ada", "withdraw", "--input", "1000", "--json"]).failed(1);
    assert_eq!(refused.error()["code"], "request-refused");
    assert!(refused.error()["message"].as_str().unwrap().contains("70 is all there is"), "{}", refused.stderr);
    let failed = r#"{"from":"bob","to":"ada","amount":1000}"#;
    data.run(&["start", "transfer", "--input", failed, "--wait"]).failed(1);
    let checked = data.json(&["check", "examples/transfer"]);
    assert_eq!((&checked["same"], &checked["different"]), (&json!(2), &json!(0)), "both accounts: {checked}");
    let unknown = data.run(&["entity", "call", "acount", "ada", "balance", "--json"]).failed(3).error();
    assert_eq!(unknown["code"], "unknown-entity-kind");
    assert!(unknown["message"].as_str().unwrap().contains("there are: account"), "{unknown}");
    assert_eq!(data.run(&["start", "transfer", "--id", "@account@x"]).failed(2).stdout, "");

    served.running.terminate();
    served.running.rest();
    // Without a server an engine runs for as long as the command does.
    assert_eq!(data.run(&["entity", "call", "account", "bob", "balance"]).ok().stdout, "36\n");
    data.run(&["entity", "delete", "account", "bob"]).ok();
    assert_eq!(data.json(&["show", "@account@bob"])["status"], "completed");
    assert_eq!(data.run(&["entity", "call", "account", "bob", "balance"]).ok().stdout, "0\n");
    data.run(&["replay", "@account@ada"]).ok();
}

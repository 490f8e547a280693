//! Webhooks over real HTTP, with the example that uses them and a schedule.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use dacapo::engine::{Clock as _, SystemClock};
use ring::hmac;
use serde_json::{Value, json};

use crate::cli_support::{Data, Served, root};

const KEY: &str = "shop-key";
const SECRET: (&str, &str) = ("DACAPO_SECRET_SHOP", "whsec_c2hvcC1rZXk=");

/// A request as the shop sends it, some seconds ago.
struct Sent<'a> {
    hook: &'a str,
    id: &'a str,
    body: &'a str,
    key: &'a str,
    ago: u64,
}

impl Default for Sent<'_> {
    fn default() -> Self {
        Self { hook: "orders", id: "msg-1", body: "{}", key: KEY, ago: 0 }
    }
}

impl Sent<'_> {
    fn to(&self, served: &Served) -> (u16, Value) {
        let timestamp = SystemClock.now().0 / 1000 - self.ago;
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.key.as_bytes());
        let mac = hmac::sign(&key, format!("{}.{timestamp}.{}", self.id, self.body).as_bytes());
        let signature = STANDARD.encode(mac.as_ref());
        // It comes by a name that is not this machine's, as behind a proxy.
        let headers = format!(
            "host: shop.example.org\r\nwebhook-id: {}\r\nwebhook-timestamp: {timestamp}\r\n\
             webhook-signature: v1,AAAA v1,{signature}\r\n",
            self.id
        );
        let (status, body) = served.request("POST", &format!("/hooks/{}", self.hook), &headers, self.body);
        (status, serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}")))
    }
}

fn serve(data: &Data) -> Served {
    data.serve_with(&["--config", "examples/orders/serve.toml"], &[SECRET])
}

#[test]
fn webhooks_and_a_schedule_run_the_example() {
    let data = Data::new("webhooks");
    data.run(&["upload", "examples/orders"]).ok();
    let served = serve(&data);
    let order = Sent { body: r#"{"id":"7","amount":4200,"patience":86400}"#, ..Sent::default() };
    assert_eq!(order.to(&served), (202, json!({ "id": "order-7", "duplicate": false })));
    assert_eq!(order.to(&served), (200, json!({ "id": "order-7", "duplicate": true })));
    let mut served = served;
    served.running.kill();

    // The payment comes after a restart, and its repetition after another one.
    let payment = Sent { hook: "payments", id: "pay-1", body: r#"{"order":"7","reference":"R-1"}"#, ..Sent::default() };
    let mut served = serve(&data);
    data.run(&["suspend", "order-7"]).ok();
    assert_eq!(payment.to(&served).0, 202);
    served.running.kill();
    let served = serve(&data);
    assert_eq!(payment.to(&served), (200, json!({ "id": "order-7", "duplicate": true })));
    data.run(&["resume", "order-7"]).ok();
    let show = loop {
        let (_, body) = served.request("GET", "/api/v1/instances/order-7/outcome?wait_ms=30000", "", "");
        let body: Value = serde_json::from_str(&body).unwrap();
        if body["status"] != "running" {
            break body;
        }
    };
    assert_eq!(show["output"], json!({ "order": "7", "reference": "R-1" }));
    let history = data.json(&["history", "order-7"]);
    let raised = history["events"].as_array().unwrap().iter().filter(|event| event["kind"] == "event-raised-once");
    assert_eq!(raised.count(), 1);
    data.run(&["replay", "order-7"]).ok();

    let set = ["schedule", "set", "nightly", "orders_report", "--cron", "0 2 * * *", "--time-zone", "Europe/Berlin"];
    data.run(&set).ok();
    let report = data.run(&["schedule", "trigger", "nightly"]).ok().stdout;
    let path = format!("/api/v1/instances/{}/outcome?wait_ms=30000", report.trim().replace('/', "%2F"));
    let (_, body) = served.request("GET", &path, "", "");
    let report: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(report["output"], json!({ "orders": 1, "total": 4200 }), "{report}");
    let unpaid = ["run", "examples/orders", "orders", "--input", "@examples/orders/input.json"];
    assert_eq!(Data::new("unpaid").run(&unpaid).ok().json(), json!({ "order": "7", "reference": null }));
    assert!(data.run(&["webhooks"]).ok().stdout.contains("/hooks/payments"));
}

#[test]
fn webhooks_refuse_what_is_not_signed_fresh_and_small() {
    let data = Data::new("webhooks-refuse");
    data.run(&["upload", "examples/orders"]).ok();
    let served = serve(&data);
    let order = r#"{"id":"7","amount":4200,"patience":86400}"#;
    let refused = |sent: Sent<'_>| {
        let (status, problem) = sent.to(&served);
        (status, problem["code"].as_str().unwrap_or_default().to_owned())
    };
    let of = |status: u16, code: &str| (status, code.to_owned());
    let unsigned = of(401, "signature-refused");
    assert_eq!(refused(Sent { body: order, key: "another-key", ..Sent::default() }), unsigned);
    assert_eq!(refused(Sent { body: order, ago: 400, ..Sent::default() }), unsigned);
    assert_eq!(refused(Sent { body: "{", ..Sent::default() }), of(400, "invalid-input"));
    assert_eq!(refused(Sent { body: "{}", ..Sent::default() }), of(400, "invalid-input"), "no id in the body");
    assert_eq!(refused(Sent { hook: "refunds", ..Sent::default() }), of(404, "not-found"));
    let large = format!("\"{}\"", "x".repeat(300 << 10));
    assert_eq!(refused(Sent { body: &large, ..Sent::default() }), of(413, "too-large"));
    let nobody = Sent { hook: "payments", body: r#"{"order":"8","reference":"R"}"#, ..Sent::default() };
    assert_eq!(refused(nobody), of(404, "unknown-instance"));
    let (status, problem) = served.request("POST", "/hooks/orders", "", order);
    assert_eq!((status, problem.contains("webhook-id is missing")), (401, true), "{problem}");
    assert_eq!(data.json(&["list"])["instances"], json!([]), "nothing was started");

    // The API itself is not opened by that.
    let (status, _) = served.request("GET", "/api/v1/instances", "host: shop.example.org\r\n", "");
    assert_eq!(status, 403);
    let (_, listed) = served.request("GET", "/api/v1/webhooks", "", "");
    assert!(listed.contains("order-{/id}") && !listed.contains("c2hvcC1rZXk"), "{listed}");

    let no_secret = Data::new("webhooks-secret");
    let failed = no_secret.run(&["serve", "--listen", "127.0.0.1:0", "--config", "examples/orders/serve.toml"]);
    assert!(failed.failed(2).stderr.contains("DACAPO_SECRET_SHOP"));
}

#[test]
fn an_event_with_a_key_is_raised_once() {
    let data = Data::new("keys");
    data.run(&["upload", "examples/orders"]).ok();
    let served = data.serve();
    let input = r#"{"id":"9","amount":1,"patience":86400}"#;
    data.run(&["start", "orders", "--id", "order-9", "--input", input]).ok();
    data.run(&["suspend", "order-9"]).ok();
    for _ in 0..2 {
        data.run(&["raise", "order-9", "other", "--key", "k1"]).ok();
    }
    let key = "content-type: application/json\r\nidempotency-key: k1\r\n";
    assert_eq!(served.request("POST", "/api/v1/instances/order-9/events/other", key, "1").0, 202);
    data.run(&["raise", "order-9", "other", "--key", "k2"]).ok();
    data.run(&["raise", "order-9", "other"]).ok();
    let history = data.json(&["history", "order-9"]);
    let kinds: Vec<_> = history["events"].as_array().unwrap().iter().map(|event| event["kind"].clone()).collect();
    let count = |kind: &str| kinds.iter().filter(|found| **found == kind).count();
    assert_eq!((count("event-raised-once"), count("event-raised")), (2, 1), "{kinds:?}");
}

#[test]
fn webhooks_reach_the_namespace_of_their_configuration_and_are_recorded() {
    let data = Data::new("webhooks-namespaces");
    let [acme, own] = ["acme", "default"].map(|namespace| data.token("read,operate,deploy", namespace));
    let config = std::fs::read_to_string(root().join("examples/orders/serve.toml")).unwrap();
    let config = config.replace("secret =", "namespace = \"acme\"\nsecret =");
    let folder = data.path().join("books");
    let config = format!("{config}\n[namespaces.acme]\ndirectories = [{folder:?}]\n");
    let file = data.path().join("serve.toml");
    std::fs::write(&file, config).unwrap();
    let served = data.serve_with(&["--config", file.to_str().unwrap()], &[SECRET]);
    let ask = |token: &str, method: &str, path: &str| {
        let authorization = format!("authorization: Bearer {token}\r\n");
        let (_, body) = served.request(method, &format!("/api/v1{path}"), &authorization, "");
        serde_json::from_str::<Value>(&body).unwrap()
    };
    for token in [&acme, &own] {
        data.run_with(&["upload", "examples/orders"], &[("DACAPO_TOKEN", token)]).ok();
    }
    let body = r#"{"id":"7","amount":4200,"patience":86400}"#;
    let begin = ["start", "orders", "--id", "order-7", "--input", body];
    data.run_with(&begin, &[("DACAPO_TOKEN", &own)]).ok();
    let records = || ask(&own, "GET", "/audit")["records"].as_array().unwrap().len();
    let before = records();
    // Whoever cannot sign leaves no record either, however often.
    assert_eq!(Sent { body, key: "another-key", ..Sent::default() }.to(&served).0, 401);
    assert_eq!(records(), before);
    let order = Sent { body, ..Sent::default() };
    assert_eq!(order.to(&served), (202, json!({ "id": "order-7", "duplicate": false })), "that of default is another");
    let payment = Sent { hook: "payments", id: "pay-1", body: r#"{"order":"7","reference":"R-1"}"#, ..Sent::default() };
    assert_eq!(payment.to(&served).0, 202);
    let paid = ask(&acme, "GET", "/instances/order-7/outcome?wait_ms=60000");
    assert_eq!(paid["output"], json!({ "order": "7", "reference": "R-1" }));
    assert_eq!(ask(&own, "GET", "/instances/order-7")["status"], "running");
    // The body cannot say where.
    let elsewhere = r#"{"id":"\u001fdefault\u001forder-7","amount":1,"patience":1}"#;
    let (status, problem) = Sent { id: "msg-2", body: elsewhere, ..Sent::default() }.to(&served);
    assert_eq!((status, &problem["code"]), (400, &json!("invalid-id")));
    let listed = |token: &str| ask(token, "GET", "/webhooks")["webhooks"].as_array().unwrap().len();
    assert_eq!((listed(&acme), listed(&own)), (2, 0));
    let recorded = ask(&acme, "GET", "/audit?limit=3");
    let of = |record: &Value| json!([record["path"], record["status"], record["token"], record["namespace"]]);
    let found: Vec<Value> = recorded["records"].as_array().unwrap().iter().map(of).collect();
    let expected = [("orders", 400), ("payments", 202), ("orders", 202)];
    assert_eq!(found, expected.map(|(hook, status)| json!([format!("/hooks/{hook}"), status, null, "acme"])));
}

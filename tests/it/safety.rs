//! Tokens, TLS and the page's sign-in: who gets in, how, and who does not.

use std::process::Command;

use serde_json::{Value, json};

use crate::browser::Browser;
use crate::cli_support::{Data, Done, Served, root};

const AS_JSON: &str = "content-type: application/json\r\n";

fn error(done: &Done) -> (String, String) {
    let error = done.error();
    (error["code"].as_str().unwrap().to_owned(), error["message"].as_str().unwrap().to_owned())
}

fn bearer(token: &str) -> String {
    format!("{AS_JSON}authorization: Bearer {token}\r\n")
}

#[test]
fn a_token_is_shown_once_listed_without_its_secret_and_taken_back() {
    let data = Data::new("tokens");
    let served = data.serve();
    data.run(&["list"]).ok();
    let made = data.run(&["token", "create", "--scope", "read", "--name", "grace", "--expires-in", "90d"]).ok();
    assert!(made.stderr.contains("shown this once") && made.stderr.contains("from now on"), "{}", made.stderr);
    let token = made.stdout.trim();

    // The server that runs asks for it from here on.
    let without = data.run(&["list", "--json"]).failed(2);
    assert_eq!(error(&without).0, "token-missing");
    assert!(error(&without).1.contains("dacapo token create"), "{without:?}");
    data.run(&["list", "--token", token]).ok();
    data.run_with(&["list"], &[("DACAPO_TOKEN", token)]).ok();
    let file = data.path().join("my-token");
    std::fs::write(&file, format!("{token}\n")).unwrap();
    data.run(&["list", "--token-file", file.to_str().unwrap()]).ok();
    let refused = data.run(&["terminate", "x", "--json", "--token", token]).failed(2);
    assert_eq!(error(&refused).0, "scope-missing");

    let listed = data.json(&["token", "list"]);
    let shown = &listed["tokens"][0];
    assert_eq!(
        (&shown["name"], &shown["scopes"], &shown["state"]),
        (&json!("grace"), &json!(["read"]), &json!("active"))
    );
    let secret = token.rsplit_once('_').unwrap().1;
    assert!(!listed.to_string().contains(secret));
    let kept = std::fs::read_to_string(data.path().join("tokens.json")).unwrap();
    assert!(!kept.contains(secret), "only a hash is kept");

    let id = shown["id"].as_str().unwrap();
    data.run(&["token", "revoke", id]).ok();
    let gone = data.run(&["list", "--json", "--token", token]).failed(2);
    assert_eq!(error(&gone).0, "token-refused");
    assert!(error(&gone).1.contains("was revoked at"), "{gone:?}");
    // The last one that was revoked opens nothing, with this server and the next.
    assert_eq!(error(&data.run(&["list", "--json"]).failed(2)).0, "token-missing");
    drop(served);
    let _served = data.serve();
    assert_eq!(error(&data.run(&["list", "--json"]).failed(2)).0, "token-missing");
    assert!(data.run(&["token", "list"]).ok().stdout.contains("revoked"));
    assert_eq!(error(&data.run(&["token", "revoke", "none", "--json"]).failed(3)).0, "not-found");
    data.run(&["token", "create", "--scope", "everything"]).failed(2);
    data.run(&["token", "create", "--scope", "read", "--namespace", "A b"]).failed(2);
}

#[test]
fn health_and_the_description_are_told_to_everybody_and_metrics_are_not() {
    let data = Data::new("tokens-open");
    let token = data.token("read", "default");
    let served = data.serve();
    for path in ["/api/v1/health", "/api/v1/ready", "/api/v1/openapi.json", "/assets/app.css"] {
        assert_eq!(served.request("GET", path, "", "").0, 200, "{path}");
    }
    let (head, _) = served.whole("GET", "/metrics", "", b"");
    assert!(head.starts_with("HTTP/1.1 401") && head.to_lowercase().contains("www-authenticate: bearer"), "{head}");
    assert_eq!(served.request("GET", "/metrics", &bearer(&token), "").0, 200);
    // Names of hosts may be any now, since a stranger's page has no token.
    let (status, _) =
        served.request("GET", "/api/v1/instances", &format!("{}host: flows.example.org\r\n", bearer(&token)), "");
    assert_eq!(status, 200);
}

#[test]
fn the_page_signs_in_with_a_token_and_takes_changes_from_its_own_pages_only() {
    let data = Data::new("sign-in");
    let token = data.token("operate", "default");
    let served = data.serve();
    let (head, _) = served.whole("GET", "/ui/queues?x=1", "", b"");
    assert!(
        head.starts_with("HTTP/1.1 303") && head.contains("location: /ui/sign-in?next=%2Fui%2Fqueues%3Fx%3D1"),
        "{head}"
    );
    let own = format!("origin: http://{}\r\n", served.address);
    let form = format!("content-type: application/x-www-form-urlencoded\r\n{own}");
    let wrong = served.request("POST", "/ui/sign-in", &form, "token=dacapo_x_y&next=%2F");
    assert!(wrong.0 == 401 && wrong.1.contains("not one of this host"), "{wrong:?}");
    let foreign = "content-type: application/x-www-form-urlencoded\r\norigin: http://example.org\r\n";
    assert_eq!(served.request("POST", "/ui/sign-in", foreign, &format!("token={token}")).0, 403);
    let (head, _) = served.whole("POST", "/ui/sign-in", &form, format!("token={token}&next=%2Fui%2Fqueues").as_bytes());
    assert!(head.starts_with("HTTP/1.1 303") && head.contains("location: /ui/queues"), "{head}");
    let cookie = head.lines().find_map(|line| line.strip_prefix("set-cookie: ")).unwrap();
    assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"), "{cookie}");
    let cookie = format!("cookie: other=1; {}\r\n", cookie.split(';').next().unwrap());

    assert_eq!(served.request("GET", "/ui/queues", &cookie, "").0, 200);
    let start = r#"{"id":"x","orchestration":"none"}"#;
    let post =
        |headers: &str| served.request("POST", "/api/v1/instances", &format!("{AS_JSON}{cookie}{headers}"), start).0;
    assert_eq!(post(&own), 404, "it is taken; there is no such orchestration");
    assert_eq!(post("origin: http://example.org\r\n"), 403);
    assert_eq!(post(""), 403, "a change that does not say where it comes from");
    let (head, _) = served.whole("POST", "/ui/sign-out", &format!("{cookie}{own}"), b"");
    assert!(head.contains("dacapo_token=; ") && head.contains("Max-Age=0"), "{head}");
}

#[test]
fn people_sign_in_and_out_in_a_browser() {
    let data = Data::new("sign-in-browser");
    let token = data.token("operate", "default");
    let served = data.serve();
    data.run_with(&["upload", "examples/approval"], &[("DACAPO_TOKEN", &data.token("deploy", "default"))]).ok();
    let browser = Browser::open("sign-in", &served.address, 1360, false);
    browser.go("/ui/modules");
    browser.until("document.querySelector('#token')");
    assert_eq!(browser.barriers(), Vec::<String>::new());
    browser.eval(&format!(
        "document.querySelector('#token').value = '{token}'; document.querySelector('main form').submit()"
    ));
    browser.until("location.pathname === '/ui/modules' && document.querySelector('#main h1')");
    assert_eq!(browser.eval("document.cookie"), "", "no script reads it");
    browser.go("/ui/sign-in");
    browser.until("document.querySelector('main form[action=\"/ui/sign-out\"]')");
    assert_eq!(browser.barriers(), Vec::<String>::new());
    browser.click("main form button");
    browser.until("document.querySelector('#token')");
    assert_eq!(browser.errors(), Vec::<String>::new());
}

/// A certificate for 127.0.0.1, signed by one of its own, in files: that of the signer,
/// its own, its key.
pub(crate) fn certificate(data: &Data) -> [String; 3] {
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
    let root_key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, "a certificate of our own");
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root_certificate = params.self_signed(&root_key).unwrap();
    let issuer = Issuer::from_params(&params, &root_key);
    let key = KeyPair::generate().unwrap();
    let mut own = CertificateParams::new(vec!["127.0.0.1".to_owned(), "localhost".to_owned()]).unwrap();
    own.use_authority_key_identifier_extension = true;
    let own = own.signed_by(&key, &issuer).unwrap();
    let file = |name: &str, text: String| {
        let path = data.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    [file("ca.pem", root_certificate.pem()), file("cert.pem", own.pem()), file("key.pem", key.serialize_pem())]
}

#[test]
fn a_server_that_others_reach_needs_a_certificate_and_a_token() {
    let data = Data::new("beyond");
    let serve = |arguments: &[&str]| {
        let arguments = [&["serve", "--json", "--listen", "0.0.0.0:0"], arguments].concat();
        error(&data.run(&arguments).failed(2))
    };
    let (code, message) = serve(&[]);
    assert_eq!(code, "invalid-input");
    assert!(message.contains("--tls-cert") && message.contains("dacapo token create"), "{message}");
    let [_, cert, key] = certificate(&data);
    let (_, message) = serve(&["--tls-cert", &cert, "--tls-key", &key]);
    assert!(!message.contains("--tls-cert") && message.contains("dacapo token create"), "{message}");
    let (_, message) = serve(&["--tls-cert", &cert]);
    assert_eq!(message, "a certificate needs its key: tls_key is missing");
    let (_, message) = serve(&["--tls-cert", &key, "--tls-key", &key]);
    assert!(message.contains("key.pem: expected a certificate in PEM"), "{message}");
    data.token("read", "default");
    let (_, message) = serve(&[]);
    assert!(message.contains("--tls-cert") && !message.contains("token create"), "{message}");
}

/// A server with TLS, and what leads a client to it.
fn over_tls(data: &Data) -> (Served, String, String) {
    let [ca, cert, key] = certificate(data);
    let served = data.serve_with(&["--listen", "0.0.0.0:0", "--tls-cert", &cert, "--tls-key", &key], &[]);
    let port = served.address.rsplit_once(':').unwrap().1.to_owned();
    (served, format!("https://127.0.0.1:{port}"), ca)
}

#[test]
fn commands_and_workers_speak_tls_with_whom_they_trust() {
    let data = Data::new("tls");
    let token = data.token("operate,deploy", "default");
    let (_served, url, ca) = over_tls(&data);
    let elsewhere = Data::new("tls-client");
    let reach = [("DACAPO_SERVER", &*url), ("DACAPO_TOKEN", &*token), ("DACAPO_CA", &*ca)];
    elsewhere.run_with(&["upload", "examples/film"], &reach).ok();
    elsewhere.run_with(&["start", "film", "--id", "f", "--input", "@examples/film/input.json"], &reach).ok();
    let untrusted = elsewhere.run_with(&["list", "--json"], &reach[..2]).failed(5);
    assert_eq!(error(&untrusted).0, "server-unreachable");
    let plain = url.replace("https", "http");
    elsewhere.run(&["list", "--json", "--server", &plain, "--token", &token]).failed(5);
    let wrong = elsewhere.run(&["list", "--json", "--server", &url, "--token", &token, "--ca", "Cargo.toml"]).failed(2);
    assert!(error(&wrong).1.contains("expected a certificate in PEM"), "{wrong:?}");

    let worker = data.token("worker", "default");
    let python = Command::new("python3")
        .args(["examples/film/worker.py", &url])
        .current_dir(root())
        .envs([("DACAPO_TOKEN", &*worker), ("DACAPO_CA", &*ca)])
        .spawn();
    let mut python = python.expect("python3 runs");
    let shown = elsewhere
        .run_with(&["start", "film", "--id", "g", "--wait", "--json", "--input", "@examples/film/input.json"], &reach);
    python.kill().and_then(|()| python.wait()).expect("it can be ended");
    let output: Value = shown.ok().json();
    assert_eq!(output.to_string().matches("La Strada/").count(), 6, "{output}");
}

#[test]
fn the_worker_library_speaks_tls_and_has_a_token() {
    use dacapo_sdk::worker::Worker;
    use dacapo_sdk::{ActivityContext, Result, activities};

    #[derive(serde::Serialize, serde::Deserialize)]
    struct Frame {
        number: u32,
    }
    #[activities(service = "renderer")]
    trait Renderer {
        async fn render(&self, ctx: ActivityContext, frame: Frame) -> Result<String>;
    }
    struct Fast;
    impl Renderer for Fast {
        async fn render(&self, _ctx: ActivityContext, frame: Frame) -> Result<String> {
            Ok(format!("frame {}", frame.number))
        }
    }

    let data = Data::new("tls-worker");
    let token = data.token("operate,deploy", "default");
    let (_served, url, ca) = over_tls(&data);
    let reach = [("DACAPO_SERVER", &*url), ("DACAPO_TOKEN", &*token), ("DACAPO_CA", &*ca)];
    data.run_with(&["upload", "examples/film"], &reach).ok();
    let pem = std::fs::read(&ca).unwrap();
    let worker =
        |token: &str| Worker::new(&url).token(token).ca(pem.clone()).serve(RendererActivities(Fast)).queue("render");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let refused = runtime.block_on(worker(&token).run_until(std::future::pending()));
    assert!(refused.unwrap_err().to_string().contains("a token with the scope worker"));
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let own = worker(&data.token("worker", "default"));
    let running = runtime.spawn(own.run_until(async move { drop(stopped.await) }));
    let input = r#"{"title":"x","frames":2,"steps":1}"#;
    let done = data.run_with(&["start", "film", "--id", "f", "--wait", "--json", "--input", input], &reach).ok().json();
    assert!(done.to_string().contains("frame 2"), "{done}");
    drop(stop);
    runtime.block_on(running).unwrap().unwrap();
}

#[test]
fn who_connects_and_says_nothing_holds_up_nobody() {
    let data = Data::new("tls-silent");
    let token = data.token("read", "default");
    let (served, url, ca) = over_tls(&data);
    let silent: Vec<_> = (0..20).map(|_| std::net::TcpStream::connect(&served.address).unwrap()).collect();
    data.run(&["list", "--server", &url, "--ca", &ca, "--token", &token]).ok();
    drop(silent);
}

#[test]
fn who_changed_what_is_kept_before_it_is_done_and_told_in_its_namespace() {
    let data = Data::new("audit");
    let (own, foreign) = (data.token("operate,deploy", "default"), data.token("operate", "acme"));
    let id_of = |token: &str| token.split('_').nth(1).unwrap().to_owned();
    let mut served = data.serve();
    let post = |served: &Served, token: &str, path: &str, body: &str| {
        served.request("POST", &format!("/api/v1{path}"), &bearer(token), body).0
    };
    assert_eq!(post(&served, &own, "/instances", r#"{"id":"x","orchestration":"none","input":"private"}"#), 404);
    assert_eq!(post(&served, &foreign, "/instances/y/terminate", "{}"), 404);
    // What is only looked at, and what nobody may, is no change.
    assert_eq!(served.request("GET", "/api/v1/instances", &bearer(&own), "").0, 200);
    assert_eq!(post(&served, &foreign, "/modules/gc", "{}"), 403);
    let audit = |token: &str, more: &[&str]| {
        let arguments = [&["audit", "--json"], more].concat();
        data.run_with(&arguments, &[("DACAPO_TOKEN", token)]).ok().json()
    };
    let all = audit(&own, &[]);
    let records = all["records"].as_array().unwrap();
    assert_eq!(records.len(), 2, "{all}");
    let newest = &records[0];
    assert_eq!((&newest["path"], &newest["status"]), (&json!("/api/v1/instances/y/terminate"), &json!(404)));
    assert_eq!((&newest["token"], &newest["namespace"]), (&json!(id_of(&foreign)), &json!("acme")));
    assert_eq!(records[1]["token"], json!(id_of(&own)));
    // It says which one, and nothing of what was given to it.
    assert_eq!(records[1]["what"], json!({ "id": "x", "orchestration": "none" }));
    let of_acme = audit(&foreign, &[]);
    assert_eq!(of_acme["records"].as_array().unwrap().len(), 1, "{of_acme}");
    let page = audit(&own, &["--limit", "1"]);
    assert_eq!(page["next"], newest["id"]);
    let older = audit(&own, &["--before", &page["next"].to_string()]);
    assert_eq!(older["records"][0]["id"], records[1]["id"]);
    served.running.kill();
    // It outlives the host, and can be read without one.
    assert_eq!(audit(&own, &[])["records"], all["records"]);
    let _served = data.serve();
    let table = data.run_with(&["audit"], &[("DACAPO_TOKEN", &own)]).ok().stdout;
    assert!(table.contains("POST /api/v1/instances/y/terminate"), "{table}");
    assert!(table.contains("POST /api/v1/instances id=x orchestration=none"), "{table}");
}

#[test]
fn a_change_that_cannot_be_recorded_is_not_made() {
    let data = Data::new("audit-fails");
    let token = data.token("operate", "default");
    let served = data.serve_with(&["--audit-bytes", "65536"], &[]);
    // Where the older half is to go is something that cannot be replaced.
    std::fs::create_dir_all(data.path().join("audit.jsonl.1/in-the-way")).unwrap();
    let start = |n: u32| {
        let body = json!({ "id": format!("{n}-{}", "x".repeat(150)), "orchestration": "none" }).to_string();
        served.request("POST", "/api/v1/instances", &bearer(&token), &body)
    };
    let (made, refused) = (0..1_000).map(start).enumerate().find(|(_, done)| done.0 != 404).expect("it is full");
    let problem: Value = serde_json::from_str(&refused.1).unwrap();
    assert_eq!((refused.0, &problem["code"]), (500, &json!("store-failed")), "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains("cannot keep an audit record"), "{problem}");
    assert!(made > 50, "{made}");
    // When there is room again everything goes on.
    std::fs::remove_dir_all(data.path().join("audit.jsonl.1")).unwrap();
    assert_eq!(start(2_000).0, 404);
    let kept = data.run_with(&["audit", "--json", "--limit", "2"], &[("DACAPO_TOKEN", &token)]).ok().json();
    let ids: Vec<_> = kept["records"].as_array().unwrap().iter().map(|record| record["what"]["id"].clone()).collect();
    assert!(ids[0].as_str().unwrap().starts_with("2000-"), "{ids:?}");
    assert!(ids[1].as_str().unwrap().starts_with(&format!("{}-", made - 1)), "nothing of what was refused: {ids:?}");
}

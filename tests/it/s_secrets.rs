//! What activities are granted by name: secrets and hosts.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use dacapo::engine::Upload;
use dacapo::sandbox::outbound::Resolver;
use dacapo::sandbox::secrets::Secrets;
use dacapo::store::Grants;
use dacapo::store::codec::Codec;
use serde_json::json;

use crate::cli_support::Data;
use crate::guests::{guest, vault};
use crate::harness::{Host, World};

const SECRET: &str = "s3cr3t-of-the-vault";

fn upload(host: &Host<'_>, grants: Grants) {
    let upload = Upload { bytes: vault().to_vec(), name: "vault".to_owned(), grants, ..Upload::default() };
    host.engine().upload(upload).expect("a module");
}

fn with_key() -> Grants {
    Grants { secrets: [("VAULT_KEY".to_owned(), "vault-key".to_owned())].into(), ..Grants::default() }
}

fn ask(host: &Host<'_>, instance: &str, activity: &str, input: &str) -> String {
    let output = host.run(instance, "delegates", json!({ "activity": activity, "input": input }));
    output.as_str().expect("a text").to_owned()
}

#[test]
fn secrets_reach_the_activity_and_nothing_else() {
    let mut world = World::with(&["delegates"]);
    // What stands in a compressed row is not found by looking for it.
    world.store.codec = Arc::new(Codec::plain());
    world.settings.sandbox.secrets = Secrets::of([("vault-key".to_owned(), SECRET.to_owned())]);
    let host = world.open();
    upload(&host, with_key());
    let tell = |how: &str| ask(&host, how, "vault.tell", how);
    assert_eq!(tell("length"), SECRET.len().to_string(), "it has it");
    assert_eq!(tell("return"), "it is [secret vault-key]");
    let failed = tell("fail");
    assert!(failed.contains("[secret vault-key] was refused") && !failed.contains(SECRET), "{failed}");
    assert!(!tell("panic").contains(SECRET));
    for how in ["length", "return", "fail", "panic"] {
        host.assert_sound(how);
        assert!(!format!("{:?}", host.events(how)).contains(SECRET));
    }
    drop(host);
    let journal = world.journal_bytes();
    assert!(!journal.windows(SECRET.len()).any(|bytes| bytes == SECRET.as_bytes()));
    assert!(journal.windows(9).any(|bytes| bytes == b"vault-key"), "its name is there");
}

#[test]
fn secrets_that_are_not_granted_or_not_set_are_not_there() {
    let mut world = World::with(&["delegates"]);
    world.settings.sandbox.secrets = Secrets::of([("vault-key".to_owned(), SECRET.to_owned())]);
    let host = world.open();
    upload(&host, Grants::default());
    assert_eq!(ask(&host, "ungranted", "vault.tell", "length"), "no secret");
    let other = [("VAULT_KEY".to_owned(), "another".to_owned())];
    upload(&host, Grants { secrets: other.into(), ..Grants::default() });
    let unset = ask(&host, "unset", "vault.tell", "length");
    assert!(unset.contains("SecretMissing") && unset.contains("DACAPO_SECRET_ANOTHER"), "{unset}");
}

/// A project of the two modules, in a folder of its own.
fn project(data: &Data) -> String {
    let folder = data.path().join("project");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("delegates.wasm"), guest("delegates")).unwrap();
    std::fs::write(folder.join("vault.wasm"), vault()).unwrap();
    let manifest = "name = \"delegates\"\n[orchestration]\npath = \"delegates.wasm\"\n[[activities]]\npath = \"vault.wasm\"\n\
        [activities.grants]\nsecrets = { VAULT_KEY = \"vault-key\" }\n";
    std::fs::write(folder.join("dacapo.toml"), manifest).unwrap();
    folder.display().to_string()
}

#[test]
fn secrets_are_in_no_file_and_no_output_of_the_command() {
    let data = Data::new("secrets");
    let folder = project(&data);
    let mut seen = String::new();
    for how in ["log", "return", "fail"] {
        let input = json!({ "activity": "vault.tell", "input": how }).to_string();
        let mut command = data.command(&["run", &folder, "delegates", "--id", how, "--input", &input]);
        command.env("DACAPO_LOG", "trace").env("DACAPO_SECRET_VAULT_KEY", SECRET);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        seen += &String::from_utf8_lossy(&output.stdout);
        seen += &String::from_utf8_lossy(&output.stderr);
    }
    assert!(seen.contains("printed [secret vault-key]") && seen.contains("logged [secret vault-key]"), "{seen}");
    assert!(seen.contains("[secret vault-key] in pieces"), "{seen}");
    for shown in [&["modules", "--json"][..], &["show", "fail"], &["history", "return"], &["history", "log", "--json"]]
    {
        seen += &data.run(shown).ok().stdout;
    }
    assert!(seen.contains("\"VAULT_KEY\":\"vault-key\""), "names are shown: {seen}");
    let leaks: Vec<_> = seen.lines().filter(|line| line.contains(SECRET)).collect();
    assert!(leaks.is_empty(), "{leaks:?}");
    search(data.path());
}

/// No file below `folder` holds the secret.
fn search(folder: &Path) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            search(&path);
        } else {
            let bytes = std::fs::read(&path).unwrap();
            assert!(!bytes.windows(SECRET.len()).any(|bytes| bytes == SECRET.as_bytes()), "{}", path.display());
        }
    }
}

// ---- hosts ----

/// A server that gives everybody the same answer, and counts them.
struct Page {
    address: SocketAddr,
    visits: Arc<AtomicUsize>,
}

impl Page {
    fn new(status: &str, headers: &str, body: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let visits = Arc::new(AtomicUsize::new(0));
        let length = body.len();
        let answer =
            format!("HTTP/1.1 {status}\r\n{headers}content-length: {length}\r\nconnection: close\r\n\r\n{body}");
        let counted = visits.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                counted.fetch_add(1, Ordering::SeqCst);
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    if stream.read(&mut byte).unwrap_or(0) == 0 {
                        break;
                    }
                    request.push(byte[0]);
                }
                let _ = stream.write_all(answer.as_bytes());
            }
        });
        Self { address, visits }
    }

    fn visits(&self) -> usize {
        self.visits.load(Ordering::SeqCst)
    }
}

fn hosts(hosts: &[&str]) -> Grants {
    Grants { hosts: hosts.iter().map(|host| (*host).to_owned()).collect(), ..Grants::default() }
}

#[test]
fn hosts_that_were_granted_literally_are_reached_and_redirects_are_looked_at() {
    let inner = Page::new("200 OK", "", "inner page");
    let outer = Page::new("302 Found", &format!("location: http://{}/\r\n", inner.address), "");
    let world = World::with(&["delegates"]);
    let host = world.open();
    let (at_inner, at_outer) = (format!("http://{}/", inner.address), format!("http://{}/", outer.address));
    upload(&host, hosts(&[&inner.address.to_string(), &outer.address.to_string()]));
    assert_eq!(ask(&host, "direct", "vault.fetch", &at_inner), "inner page");
    assert_eq!(ask(&host, "redirected", "vault.fetch", &at_outer), "inner page");
    upload(&host, hosts(&["localhost"]));
    let port = inner.address.port();
    assert_eq!(ask(&host, "by-name", "vault.fetch", &format!("http://localhost:{port}/")), "inner page");
    assert_eq!(inner.visits(), 3);

    upload(&host, hosts(&[&outer.address.to_string()]));
    let refused = ask(&host, "refused", "vault.fetch", &at_outer);
    assert!(refused.contains("HttpDenied"), "{refused}");
    assert_eq!((outer.visits(), inner.visits()), (2, 3), "the redirect was not followed there");
    host.assert_sound("refused");
}

#[test]
fn hosts_whose_names_lead_to_addresses_of_this_network_are_not_reached() {
    let inner = Page::new("200 OK", "", "inner page");
    let mut world = World::with(&["delegates"]);
    let leads_to: [(&str, &[&str]); 4] = [
        ("rebound.test", &["127.0.0.1"]),
        ("metadata.test", &["169.254.169.254"]),
        ("mapped.test", &["::ffff:127.0.0.1", "::1"]),
        ("private.test", &["10.0.0.1", "192.168.0.1", "fd00::1"]),
    ];
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = asked.clone();
    world.settings.sandbox.resolver = Resolver::of(move |name, port| {
        counted.fetch_add(1, Ordering::SeqCst);
        let (_, addresses) = leads_to.iter().find(|(known, _)| *known == name).expect("a known name");
        Ok(addresses.iter().map(|ip| SocketAddr::new(ip.parse().unwrap(), port)).collect())
    });
    let host = world.open();
    upload(&host, hosts(&["rebound.test", "metadata.test", "mapped.test", "private.test"]));
    for name in ["rebound", "metadata", "mapped", "private"] {
        let url = format!("http://{name}.test:{}/", inner.address.port());
        let refused = ask(&host, name, "vault.fetch", &url);
        assert!(!refused.contains("inner page") && refused.contains("application"), "{name}: {refused}");
    }
    assert_eq!((inner.visits(), asked.load(Ordering::SeqCst)), (0, 4), "each name is resolved once, and none reached");
    let unknown = ask(&host, "unknown", "vault.fetch", "http://elsewhere.test/");
    assert!(unknown.contains("HttpDenied"), "{unknown}");
    assert_eq!(asked.load(Ordering::SeqCst), 4, "what is not granted is not even resolved");
}

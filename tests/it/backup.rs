//! Backups: taken while the host runs, as of one moment; brought back only when they are
//! whole and sound.

use std::io::{self, Write};
use std::sync::Arc;

use dacapo::core::ids::Hash;
use dacapo::replay::verify::verify_store;
use dacapo::store::codec::Codec;
use dacapo::store::redb::{Options, RedbStore};
use dacapo::store::{Store as _, backup};
use redb::{ReadableTable as _, TableDefinition};
use serde_json::{Value, json};

use crate::cli_support::Data;
use crate::harness::{Host, World, id};
use crate::verify::fill;

const KEY: &str = "k:00000000000000000000000000000000000000000000000000000000000000aa";
const INPUT: &str = r#"{"subject":"A loom","amount":250000,"patience":86400}"#;

/// Takes what a backup writes, and starts an instance each time that something comes.
struct Busy<'h, 'w> {
    host: &'h Host<'w>,
    started: usize,
    bytes: Vec<u8>,
}

impl Write for Busy<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.started += 1;
        self.host.run(&format!("later-{}", self.started), "two_calls", json!("late"));
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A world in which a backup finds folded and unfolded turns, and payloads apart.
fn world(codec: Codec) -> World {
    let mut world = World::with(&["steps", "deliveries"]);
    let codec = Arc::new(codec);
    world.store = Options { payloads_above: 1500, fold_at_turns: 6, codec, ..Options::default() };
    world
}

fn rows(store: &dyn dacapo::store::Store) -> Vec<dacapo::core::summary::Summary> {
    store.list(&dacapo::store::Filter::default(), None, 1000).unwrap()
}

#[test]
fn backup_of_a_busy_host_is_one_moment_and_goes_on_elsewhere() {
    let encrypted = Codec::plain().compress_above(64).encrypt([KEY]).unwrap();
    for codec in [Codec::plain(), encrypted] {
        let world = world(codec.clone());
        let host = world.open();
        fill(&host);
        host.run("large", "passes_on", json!("cargo-".repeat(1000)));
        let before = rows(&**host.engine().store());
        let mut to = Busy { host: &host, started: 0, bytes: Vec::new() };
        let contents = host.engine().store().backup(&mut to).unwrap();
        let (started, bytes) = (to.started, to.bytes);
        assert!(started > 5, "commits came in between: {started}");
        assert_eq!(contents.bytes, bytes.len() as u64);
        assert_eq!(backup::check(&mut &bytes[..]).unwrap(), contents);
        assert!(rows(&**host.engine().store()).len() == before.len() + started, "the host went on");
        drop(host);

        let other = self::world(codec);
        let draft = RedbStore::restore(&other.journal(), other.store.clone(), &mut &bytes[..]).unwrap();
        assert!(!other.journal().exists(), "it does not count yet");
        assert_eq!(verify_store(draft.store(), None).unwrap().findings, []);
        assert_eq!(rows(draft.store()), before, "as of the moment at which it began");
        draft.keep().unwrap();
        let host = other.open();
        assert_eq!(host.engine().modules().all().unwrap().len(), 2);
        host.raise("waits", "item", json!(3)).unwrap();
        host.raise("waits", "item", json!(4)).unwrap();
        host.output("waits");
        host.assert_sound_history("large");
        host.run("new", "two_calls", json!("beer"));
    }
}

#[test]
fn backup_that_is_not_whole_restores_nothing() {
    let world = world(Codec::plain());
    let host = world.open();
    fill(&host);
    let mut bytes = Vec::new();
    host.engine().store().backup(&mut bytes).unwrap();
    let empty = self::world(Codec::plain());
    let restored = |bytes: &[u8]| {
        let mut bytes = bytes;
        RedbStore::restore(&empty.journal(), Options::default(), &mut bytes).map(drop)
    };
    for cut in [0, 5, 16, 40, bytes.len() / 2, bytes.len() - 33, bytes.len() - 1] {
        assert!(restored(&bytes[..cut]).is_err(), "cut at {cut}");
    }
    let mut changed = bytes.clone();
    let middle = changed.len() / 2;
    changed[middle] ^= 4;
    let told = restored(&changed).unwrap_err().to_string();
    assert!(told.contains("section") && told.contains("checksum") && told.contains("take another"), "{told}");
    assert!(!empty.journal().exists());
    let left: Vec<_> = std::fs::read_dir(empty.journal().parent().unwrap()).unwrap().collect();
    assert!(left.is_empty(), "nothing is left: {left:?}");
    let taken = RedbStore::restore(&world.journal(), Options::default(), &mut &bytes[..]).unwrap_err();
    assert!(taken.to_string().contains("empty folder"), "{taken}");
    restored(&bytes).unwrap();
}

#[test]
fn s43_backup_of_a_damaged_store_is_refused_and_names_the_row() {
    const HISTORY: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("history");
    let world = World::new();
    fill(&world.open());
    drop(world.open());
    {
        let database = redb::Database::open(world.journal()).unwrap();
        let transaction = database.begin_write().unwrap();
        {
            let mut rows = transaction.open_table(HISTORY).unwrap();
            let key = dacapo::store::redb::tables::history_key(&id("failed"), 1, 1);
            let mut row = rows.get(key.as_slice()).unwrap().expect("its row").value().to_vec();
            *row.last_mut().unwrap() ^= 1;
            rows.insert(key.as_slice(), row.as_slice()).unwrap();
        }
        transaction.commit().unwrap();
    }
    let store = RedbStore::open(&world.journal()).unwrap();
    let told = store.backup(&mut io::sink()).unwrap_err().to_string();
    assert!(told.contains("history") && told.contains("checksum"), "{told}");
}

#[test]
fn backup_restore_and_compact_tell_what_to_do_next() {
    let data = Data::new("backup");
    let served = data.serve();
    data.run(&["upload", "examples/approval"]).ok();
    data.run(&["start", "approval", "--id", "a1", "--input", INPUT]).ok();
    data.run(&["start", "approval", "--id", "a2", "--input", INPUT]).ok();
    let file = data.path().join("nightly.backup");
    let path = file.to_str().unwrap();
    let done = data.run(&["backup", path]).ok();
    assert!(done.stdout.contains("read back and whole"), "{}", done.stdout);
    assert!(done.stderr.contains(&format!("dacapo restore {path} --data")), "{}", done.stderr);
    let again = data.run(&["backup", path, "--json"]).failed(4).error();
    assert_eq!(again["code"], "already-exists");
    assert_eq!(data.json(&["verify", path])["findings"], json!([]));
    let refused = data.run(&["compact", "--json"]).failed(4).error();
    assert_eq!(refused["code"], "store-in-use");
    assert!(refused["message"].as_str().unwrap().contains("stop that one first"), "{refused}");
    let refused = data.run(&["restore", path, "--json"]).failed(4).error();
    assert!(refused["message"].as_str().unwrap().contains("another folder"), "{refused}");
    let (status, body) =
        served.request("POST", "/api/v1/instances/a2/terminate", "content-type: application/json\r\n", "{}");
    assert_eq!(status, 202, "{body}");
    drop(served);

    // What was restored is as it was then, and goes on.
    let other = Data::new("restored");
    let told = other.run(&["restore", path]).ok();
    assert!(told.stdout.contains("verified 2 instances"), "{}", told.stdout);
    assert!(told.stderr.contains("dacapo serve --data"), "{}", told.stderr);
    assert_eq!(other.json(&["show", "a2"])["status"], "running");
    let served = other.serve();
    other.run(&["raise", "a2", "approved", "--value", r#"{"by":"Grace"}"#]).ok();
    let (_, body) = served.request("GET", "/api/v1/instances/a2/outcome?wait_ms=60000", "", "");
    assert_eq!(serde_json::from_str::<Value>(&body).unwrap()["status"], "completed");
    drop(served);

    // Without a server, and through a pipe.
    let offline = other.path().join("offline.backup");
    other.run(&["backup", offline.to_str().unwrap()]).ok();
    let piped = other.command(&["backup", "-"]).output().unwrap().stdout;
    assert_eq!(piped, std::fs::read(&offline).unwrap(), "nothing has changed in between");
    let third = Data::new("restored-from-a-pipe");
    let mut restore = third
        .command(&["restore", "-", "--json"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    restore.stdin.take().unwrap().write_all(&piped).unwrap();
    assert!(restore.wait().unwrap().success());
    assert_eq!(third.json(&["show", "a2"])["status"], "completed");

    // What is no backup, and what is one no more.
    let fourth = Data::new("restored-from-nothing");
    let bad = |name: &str, bytes: &[u8]| {
        let bad = fourth.path().join(name);
        std::fs::write(&bad, bytes).unwrap();
        let done = fourth.run(&["restore", bad.to_str().unwrap(), "--json"]);
        (done.code, done.error()["message"].as_str().unwrap().to_owned())
    };
    let (code, told) = bad("text", b"hello");
    assert!(code == Some(2) && told.contains("not a backup"), "{told}");
    let (code, told) = bad("cut", &piped[..piped.len() - 40]);
    assert!(code == Some(1) && told.contains("cut off"), "{told}");
    let found = fourth.run(&["verify", fourth.path().join("cut").to_str().unwrap(), "--json"]).failed(1).json();
    assert_eq!(found["findings"].as_array().unwrap().len(), 1);
    assert!(!fourth.path().join("journal.redb").exists());
    fourth.run(&["restore", "/nowhere/at-all"]).failed(3);
}

/// Text of so many bytes that does not become smaller.
fn noise(seed: u32, bytes: usize) -> String {
    let hashes = (0..).flat_map(|at| Hash::of(format!("{seed}-{at}").as_bytes()).to_string().into_bytes());
    hashes.take(bytes).map(char::from).collect()
}

#[test]
fn compact_gives_back_what_a_purge_left() {
    let world = World::with(&["steps", "deliveries"]);
    let host = world.open();
    // What stays lies between what goes, so that the file does not shrink by itself.
    for n in 10..50 {
        host.run(&format!("large-{n}"), "passes_on", json!(noise(n, 200_000)));
        host.run(&format!("kept-{n}"), "passes_on", json!(noise(n, 40_000)));
    }
    drop(host);
    let data = Data::new("compact");
    std::fs::copy(world.journal(), data.path().join("journal.redb")).unwrap();
    data.run(&["purge", "--older-than", "0s", "--prefix", "large-"]).ok();
    let told = data.json(&["compact"]);
    let (before, after) = (told["bytes_before"].as_u64().unwrap(), told["bytes_after"].as_u64().unwrap());
    assert!(after < before * 3 / 4, "{told}");
    assert_eq!(std::fs::metadata(data.path().join("journal.redb")).unwrap().len(), after);
    assert_eq!(data.json(&["verify"])["findings"], json!([]));
    assert_eq!(data.json(&["show", "kept-49"])["output"], json!(noise(49, 40_000)));
}

//! The journal's bytes: the same in the code, on the format's page and in the
//! fixtures that earlier versions wrote.
//!
//! Fixtures are never changed. `DACAPO_WRITE_FIXTURES=1` writes those that are missing.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use dacapo::core::ids::Hash;
use dacapo::core::large;
use dacapo::core::summary::Summary;
use dacapo::core::turn::TurnRecord;

use dacapo::store::codec::Codec;
use dacapo::store::redb::RedbStore;
use dacapo::store::redb::tables::{self, Stored};
use dacapo::store::{Batch, Store as _, StoreError, TurnCommit};
use redb::{ReadableDatabase as _, ReadableTable as _, ReadableTableMetadata as _};

use crate::store_support::{LARGE_BYTES, Writer, id};

const PAGE: &str = include_str!("../../host/docs/journal-format.md");
const COMMIT: u64 = 17;

/// The turns in every fixture: two instances, one of which continues as new.
fn turns() -> Vec<TurnCommit> {
    let (mut one, mut two) = (Writer::new("order-1"), Writer::new("bestellung-\u{e4}\u{f6}"));
    let [last, first] = {
        one.start();
        one.continue_as_new()
    };
    vec![two.start(), last, first, two.step(), one.step(), two.complete()]
}

fn plain() -> Codec {
    Codec::plain()
}

/// What is written in fixtures has no large payload.
fn no_payload(hash: Hash) -> Result<Arc<[u8]>, StoreError> {
    panic!("payload {hash} is asked for")
}

fn log_row(number: u64, row: &[u8]) -> Result<Vec<TurnCommit>, StoreError> {
    tables::decode_log_row(&plain(), number, &number.to_le_bytes(), row, &mut |_, hash| no_payload(hash))
}

fn fixture(name: &str, written_now: &[u8]) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name);
    if !path.exists() && std::env::var_os("DACAPO_WRITE_FIXTURES").is_some() {
        std::fs::write(&path, written_now).unwrap();
    }
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn store_format_of_turns_and_summaries_is_that_of_the_fixtures() {
    let turn = turns().swap_remove(0);
    let stored = fixture("turn-v1.bin", &turn.bytes);
    assert_eq!(&*turn.bytes, stored, "a turn is written as it was");
    let record = TurnRecord::decode(&stored).unwrap();
    assert_eq!(*record.encode(), *stored);

    let summary = Summary::of_first(&record, Hash::of(&stored)).unwrap();
    let stored = fixture("summary-v1.bin", &tables::encode_summary(&plain(), &summary));
    assert_eq!(tables::encode_summary(&plain(), &summary), stored, "a summary is written as it was");
    assert_eq!(tables::decode_summary(&plain(), &summary.instance, &stored).unwrap(), summary);
}

#[test]
fn store_format_of_log_rows_is_that_of_the_fixture() {
    let turns = turns();
    let mut row = Vec::new();
    tables::append_log_row(&plain(), &COMMIT.to_le_bytes(), &turns, &mut row);
    let stored = fixture("log-row-v1.bin", &row);
    assert_eq!(row, stored, "a log row is written as it was");
    assert_eq!(log_row(COMMIT, &stored).unwrap(), turns);
    assert!(log_row(COMMIT + 1, &stored).is_err(), "its number is part of the checksum");
    for at in 0..stored.len() {
        let mut damaged = stored.clone();
        damaged[at] ^= 0x10;
        assert!(log_row(COMMIT, &damaged).is_err(), "byte {at}");
        assert!(log_row(COMMIT, &stored[..at]).is_err(), "cut at {at}");
    }
}

#[test]
fn store_format_of_history_rows_is_that_of_the_fixture() {
    let turns = turns();
    let key = tables::history_key(&turns[0].instance, 1, 1);
    let bytes: Vec<_> = [0, 3, 5].iter().map(|&at| turns[at].bytes.clone()).collect();
    let whole: Vec<_> = bytes.iter().map(|turn| Stored::Whole(turn)).collect();
    let row = tables::encode_history_row(&plain(), &key, &whole);
    let stored = fixture("history-row-v1.bin", &row);
    assert_eq!(row, stored, "a history row is written as it was");
    let mut found = Vec::new();
    tables::decode_history_row(&plain(), &key, &stored, 0, &mut found, &mut no_payload, || "it".to_owned()).unwrap();
    assert_eq!(found, bytes);
    let other = tables::history_key(&turns[0].instance, 1, 2);
    assert!(
        tables::decode_history_row(&plain(), &other, &stored, 0, &mut found, &mut no_payload, || "it".to_owned())
            .is_err()
    );
}

#[test]
fn store_format_of_turns_without_the_hash_of_the_one_before_is_that_of_the_fixture() {
    let mut writer = Writer::new("order-1");
    let turns = [writer.start(), writer.step(), writer.step(), writer.complete()].map(|turn| turn.bytes);
    let key = tables::history_key(&writer.instance, 1, 1);
    let linked: Vec<_> = turns.windows(2).map(|pair| Stored::after(&pair[0], &pair[1])).collect();
    assert!(linked.iter().all(|turn| matches!(turn, Stored::Linked(_))));
    let stored = [&[Stored::Whole(&turns[0])], &linked[..]].concat();
    let read = |row: &[u8], skipped| {
        let (mut found, what) = (Vec::new(), || "it".to_owned());
        tables::decode_history_row(&plain(), &key, row, skipped, &mut found, &mut no_payload, what).map(|()| found)
    };
    for (name, codec) in [("history-row-linked-v1.bin", plain()), ("history-row-lz4-v1.bin", Codec::default())] {
        let row = tables::encode_history_row(&codec, &key, &stored);
        let written = fixture(name, &row);
        assert_eq!(read(&written, 0).unwrap(), turns);
        assert_eq!(read(&written, 2).unwrap(), turns[2..], "a turn that is skipped is what the next one begins with");
        // Compressed bytes may differ with the version of who compresses.
        assert!(row == written || name.contains("lz4"), "a history row is written as it was");
    }
    let first = tables::encode_history_row(&plain(), &key, &linked);
    assert!(read(&first, 0).is_err(), "before the first one there is none");
    assert!(matches!(Stored::after(b"another", &turns[1]), Stored::Whole(_)));
}

#[test]
fn store_format_of_turns_without_their_large_payloads_is_that_of_the_fixture() {
    let mut writer = Writer::new("order-1");
    let mut turns = vec![writer.start(), writer.step(), writer.step(), writer.step(), writer.step(), writer.step()];
    turns.drain(1..4);
    let (instance, [place]) = (&turns[0].instance, &large::places(&turns[1].bytes, LARGE_BYTES)[..]) else {
        panic!("one of them has a large payload")
    };
    let payload = turns[1].bytes[place.clone()].to_vec();
    let hash = Hash::of(&payload);

    // Earlier versions wrote such rows into the log; they are still read.
    let row = fixture("log-row-cut-v1.bin", &[]);
    let read = |payload: &[u8]| {
        let (row, payload) = (row.clone(), Arc::from(payload));
        tables::decode_log_row(&plain(), COMMIT, &COMMIT.to_le_bytes(), &row, &mut |of, asked| {
            assert_eq!((of, asked), (instance, hash));
            Ok(Arc::clone(&payload))
        })
    };
    assert_eq!(read(&payload).unwrap(), turns);
    assert!(read(&payload[1..]).is_err(), "a payload of another length is none");

    let key = tables::payload_key(instance, hash);
    let row = tables::encode_payload_row(&plain(), &key, &payload);
    assert_eq!(row, fixture("payload-row-v1.bin", &row), "a payload is written as it was");
    let what = || "it".to_owned();
    assert_eq!(*tables::decode_payload_row(&plain(), &key, &row, what).unwrap(), *payload);
    let other = tables::payload_key(instance, Hash::of(b"other"));
    assert!(tables::decode_payload_row(&plain(), &other, &row, what).is_err());
}

const META: redb::TableDefinition<'_, &str, &[u8]> = redb::TableDefinition::new("meta");
const LOG: redb::TableDefinition<'_, u64, &[u8]> = redb::TableDefinition::new("log");

/// The format that a file says it has, and the row that says so: a small number, sealed as the page says.
fn format_row(format: u8) -> Vec<u8> {
    let parts = [&4u32.to_le_bytes()[..], b"meta", &6u32.to_le_bytes(), b"format", &[0, format]].concat();
    [&Hash::of(&parts).0[..tables::CHECKSUM_BYTES], &[0, format]].concat()
}

/// A file as a host of format 1 left it when it was killed: with a commit in the table `log`.
fn journal_of_format_1(path: &Path) {
    drop(RedbStore::open(path).unwrap());
    let database = redb::Database::open(path).unwrap();
    let transaction = database.begin_write().unwrap();
    {
        let mut meta = transaction.open_table(META).unwrap();
        assert_eq!(meta.get("format").unwrap().unwrap().value(), format_row(2), "a new file is of this format");
        meta.insert("format", format_row(1).as_slice()).unwrap();
        meta.remove("log").unwrap();
        let mut log = transaction.open_table(LOG).unwrap();
        // The fixture goes on from the first turn of one of its instances.
        let first = [Writer::new("order-1").start()];
        let mut row = Vec::new();
        tables::append_log_row(&plain(), &(COMMIT - 1).to_le_bytes(), &first, &mut row);
        log.insert(COMMIT - 1, row.as_slice()).unwrap();
        log.insert(COMMIT, fixture("log-row-v1.bin", &[]).as_slice()).unwrap();
    }
    transaction.commit().unwrap();
}

#[test]
fn s06_a_journal_of_format_1_is_read_and_is_of_format_2_once_it_is_claimed() {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("format-1-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("journal.redb");
    journal_of_format_1(&path);
    let format = || {
        let database = redb::Database::open(&path).unwrap();
        let read = database.begin_read().unwrap();
        assert_eq!(read.open_table(LOG).unwrap().len().unwrap(), 0, "what was in the log is folded");
        read.open_table(META).unwrap().get("format").unwrap().unwrap().value().to_vec()
    };
    let mut one = Writer::new("order-1");
    let mut expected = vec![one.start()];
    expected.extend(turns());
    one.continue_as_new();
    one.step();
    for round in 0..3 {
        let store = RedbStore::open(&path).unwrap();
        for (instance, execution) in [("order-1", 1), ("order-1", 2), ("bestellung-\u{e4}\u{f6}", 1)] {
            let of = |turn: &&TurnCommit| turn.instance == id(instance) && turn.execution == execution;
            let expected: Vec<_> = expected.iter().filter(of).map(|turn| turn.bytes.clone()).collect();
            let found = store.history(&id(instance), Some(execution)).unwrap().unwrap();
            assert_eq!(found.turns, expected, "{instance} execution {execution}");
        }
        assert_eq!(store.check_indexes().unwrap(), []);
        if round == 0 {
            drop(store);
            assert_eq!(format(), format_row(1), "nobody has claimed it");
            continue;
        }
        let next = one.step();
        store.commit(store.claim().unwrap(), &Batch { turns: vec![next.clone()] }).unwrap();
        expected.push(next);
        drop(store);
        assert_eq!(format(), format_row(2));
    }
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn store_format_page_says_what_the_code_does() {
    assert!(PAGE.contains(&format!("\nFormat {}. ", tables::FORMAT)));
    assert!(PAGE.contains(&format!("a checksum of {} bytes", tables::CHECKSUM_BYTES)));
    let rows = PAGE.lines().skip_while(|line| *line != "## Tables").take_while(|line| *line != "## Checksum");
    let documented: Vec<_> =
        rows.filter_map(|line| line.strip_prefix("| `")?.split_once('`')).map(|(name, _)| name).collect();
    assert_eq!(documented, tables::NAMES);
    let turn = &turns()[0];
    let key = tables::history_key(&turn.instance, 258, 3);
    assert_eq!(key, [turn.instance.as_str().as_bytes(), &[0, 0, 0, 1, 2, 0, 0, 0, 3]].concat());
}

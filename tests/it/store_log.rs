//! The log in its two files: what is found of it after a death, what is damage, and
//! commits whose syncs overlap.

use std::collections::BTreeSet;

use dacapo::core::namespace::Namespace;
use dacapo::store::redb::{Options, RedbStore};
use dacapo::store::{Batch, Epoch, Store, StoreError, TurnCommit};
use redb::backends::InMemoryBackend;
use redb::{Database, ReadableDatabase as _, StorageBackend as _, TableDefinition};

use crate::store_medium::{Cut, Images, Medium};
use crate::store_support::{Chance, Writer, batch, id, seeds};

/// Frames begin at multiples of it.
const ALIGN: usize = 512;

fn options() -> Options {
    Options { fold_beside: false, ..Options::default() }
}

fn claimed(medium: &Medium, options: &Options) -> (RedbStore, Epoch) {
    let store = medium.store(options.clone()).unwrap();
    let epoch = store.claim().unwrap();
    (store, epoch)
}

/// Everything that is stored of one instance.
fn turns_of(store: &dyn Store, instance: &str) -> Vec<Vec<u8>> {
    let history = store.history(&id(instance), None).unwrap();
    history.into_iter().flat_map(|history| history.turns).map(|turn| turn.to_vec()).collect()
}

/// Commits of one turn each, and what a host that was killed after them left.
fn killed_after(commits: usize, options: &Options) -> (Vec<TurnCommit>, Images) {
    let medium = Medium::default();
    let (store, epoch) = claimed(&medium, options);
    let mut writer = Writer::new("order-1");
    let mut turns = Vec::new();
    for n in 0..commits {
        turns.push(if n == 0 { writer.start() } else { writer.step() });
        store.commit(epoch, &batch([turns[n].clone()])).unwrap();
    }
    (turns, medium.images())
}

fn bytes(turns: &[TurnCommit]) -> Vec<Vec<u8>> {
    turns.iter().map(|turn| turn.bytes.to_vec()).collect()
}

/// Where frames begin in a file of the log.
fn frames(log: &[u8]) -> Vec<usize> {
    (0..log.len()).step_by(ALIGN).filter(|&at| log[at..].starts_with(b"dacapo\0\x01")).collect()
}

fn why(opened: Result<RedbStore, StoreError>) -> String {
    match opened {
        Ok(_) => panic!("it opens"),
        Err(error @ StoreError::Corrupt { .. }) => error.to_string(),
        Err(error) => panic!("it is not damaged: {error}"),
    }
}

#[test]
fn s06_a_host_that_was_killed_finds_its_commits_in_the_log() {
    let (turns, images) = killed_after(9, &options());
    assert_eq!(frames(&images[1]).len(), 10, "one that opens it, and one for each commit");
    for _ in 0..2 {
        let medium = Medium::of_all(images.clone());
        let store = medium.store(options()).unwrap();
        assert_eq!(turns_of(&store, "order-1"), bytes(&turns));
        drop(store);
        assert_eq!(medium.images()[1..], [Vec::<u8>::new(), Vec::new()], "what is folded is in the tables alone");
        assert_eq!(turns_of(&medium.store(options()).unwrap(), "order-1"), bytes(&turns));
    }
}

#[test]
fn s43_a_damaged_frame_that_was_durable_is_told_and_left_alone() {
    let (turns, images) = killed_after(9, &options());
    let starts = frames(&images[1]);
    for seed in seeds(3) {
        let mut chance = Chance::new(seed);
        // The first is no commit, and the last cannot be told from one that was cut off.
        for (number, start) in starts.iter().enumerate().skip(1).take(8) {
            let mut images = images.clone();
            // Behind what a row needs there is padding, which means nothing.
            let at = start + chance.below(200);
            images[1][at] ^= 1 << chance.below(8);
            let medium = Medium::of_all(images.clone());
            let told = why(medium.store(options()));
            assert!(told.contains(&format!("commit {number} in the log's files")), "DACAPO_SEED={seed}: {told}");
            assert!(medium.images()[1..] == images[1..], "DACAPO_SEED={seed}: it is left alone");
        }
        let mut images = images.clone();
        images[1][starts[9] + chance.below(200)] ^= 1 << chance.below(8);
        let store = Medium::of_all(images).store(options()).unwrap();
        assert_eq!(turns_of(&store, "order-1"), bytes(&turns[..8]), "DACAPO_SEED={seed}");
    }
}

#[test]
fn s43_a_log_that_is_missing_or_of_another_journal_is_told() {
    let (_, images) = killed_after(3, &options());
    let (_, other) = killed_after(3, &options());
    let missing = [images[0].clone(), Vec::new(), Vec::new()];
    let told = why(Medium::of_all(missing).store(options()));
    assert!(told.contains("put them back") || told.contains("put back"), "{told}");
    let mixed = [images[0].clone(), other[1].clone(), other[2].clone()];
    let told = why(Medium::of_all(mixed).store(options()));
    assert!(told.contains("not the ones that belong to it"), "{told}");

    // A journal of before, which was closed, beside a log that goes on from it.
    let empty = Medium::default();
    drop(empty.store(options()).unwrap());
    let older = [empty.image(), images[1].clone(), images[2].clone()];
    let medium = Medium::of_all(older.clone());
    let told = why(medium.store(options()));
    assert!(told.contains("commit 3 is in there") && told.contains("closed without it"), "{told}");
    assert!(medium.images()[1..] == older[1..], "it is left alone");
}

#[test]
fn s06_a_log_goes_round_its_two_files() {
    let options = Options { fold_at_turns: 4, ..options() };
    for commits in 1..30 {
        let (turns, images) = killed_after(commits, &options);
        assert!(frames(&images[1]).len() <= 6 && frames(&images[2]).len() <= 6, "they are written over");
        let store = Medium::of_all(images).store(options.clone()).unwrap();
        assert_eq!(turns_of(&store, "order-1"), bytes(&turns), "after {commits} commits");
    }
}

#[test]
fn store_verify_finds_a_damaged_frame_before_it_is_folded() {
    let medium = Medium::default();
    let (store, epoch) = claimed(&medium, &options());
    let mut writer = Writer::new("order-1");
    let turns = [writer.start(), writer.step(), writer.step()];
    turns.iter().for_each(|turn| store.commit(epoch, &batch([turn.clone()])).unwrap());
    assert_eq!(store.check_indexes().unwrap(), []);
    medium.damage(1, frames(&medium.images()[1])[2] + 100);
    let found = store.check_indexes().unwrap();
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!((&*found[0].of, &*found[0].problem), ("the log", "commit 2: its frame is damaged or missing"));
}

#[test]
fn s29_a_purge_leaves_a_new_life_that_is_not_durable_yet() {
    let medium = Medium::default();
    let (store, epoch) = claimed(&medium, &options());
    let mut writer = Writer::new("order-1");
    let ended = [writer.start(), writer.complete()];
    store.commit(epoch, &batch(ended)).unwrap();
    let mut again = Writer::new("order-1");
    again.start();
    let [_, next] = again.continue_as_new();
    let number = store.append(epoch, &batch([next.clone()])).unwrap();
    assert!(store.purge(epoch, &[id("order-1")]).unwrap().is_empty(), "it lives again");
    store.sync(number).unwrap();
    assert_eq!(turns_of(&store, "order-1"), bytes(&[next]), "the new life is there");
}

#[test]
fn s06_a_log_that_is_folded_again_and_again_is_found_when_the_next_frame_is_torn() {
    let run = |medium: &Medium, promised: &mut usize| -> Result<(), StoreError> {
        let store = medium.store(options())?;
        let epoch = store.claim()?;
        for round in rounds(3) {
            for _ in 0..2 {
                store.backup(&mut std::io::sink()).map_err(|error| StoreError::Io(error.to_string()))?;
            }
            store.commit(epoch, &round)?;
            *promised += 1;
        }
        Ok(())
    };
    let whole = Medium::default();
    drop(whole.store(options()).unwrap());
    let empty = whole.image();
    let whole = Medium::of(empty.clone());
    run(&whole, &mut 0).unwrap();
    for at in 1..=whole.operations() {
        for seed in seeds(3) {
            let medium = Medium::of(empty.clone());
            medium.plan(at, Cut::Tear);
            let mut promised = 0;
            let _ends_where_the_medium_fails = run(&medium, &mut promised);
            let told = format!("operation {at}, DACAPO_SEED={seed}");
            let survivor = medium.survivor(&mut Chance::new(seed));
            let store = survivor.store(options()).unwrap_or_else(|error| panic!("{told}: {error}"));
            let found = turns_of(&store, "order-0").len();
            assert!(found == promised || found == promised + 1, "{told}: {promised} were durable, {found} are there");
        }
    }
}

#[test]
fn s43_a_log_without_its_journal_is_not_put_beside_a_new_one() {
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("orphan-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("journal.redb");
    let (_, images) = killed_after(3, &options());
    std::fs::write(folder.join("journal.redb.log-1"), &images[1]).unwrap();
    let refused = RedbStore::open(&path).unwrap_err().to_string();
    assert!(refused.contains("journal.redb is not there; put it back"), "{refused}");
    let refused = RedbStore::restore(&path, options(), &mut &b""[..]).unwrap_err().to_string();
    assert!(refused.contains("journal.redb is not there; put it back"), "{refused}");
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1, "nothing is made");
    std::fs::remove_dir_all(&folder).unwrap();
}

/// Three instances, one turn of each in a batch.
fn rounds(count: usize) -> Vec<Batch> {
    let mut writers: Vec<_> = (0..3).map(|n| Writer::new(&format!("order-{n}"))).collect();
    let round = |n: usize| {
        let turns = writers.iter_mut().map(|writer| if n == 0 { writer.start() } else { writer.step() });
        batch(turns.collect::<Vec<_>>())
    };
    (0..count).map(round).collect()
}

#[test]
fn s06_appended_batches_are_seen_when_they_are_durable_and_in_their_order() {
    let medium = Medium::default();
    let (store, epoch) = claimed(&medium, &options());
    let rounds = rounds(6);
    let numbers: Vec<_> = rounds.iter().map(|round| store.append(epoch, round).unwrap()).collect();
    assert!(numbers.is_sorted() && numbers.iter().collect::<BTreeSet<_>>().len() == 6);
    assert!(store.summary(&id("order-0")).unwrap().is_none(), "nothing is durable yet");
    let before = medium.operations();
    store.sync(numbers[2]).unwrap();
    assert_eq!(turns_of(&store, "order-1").len(), 6, "a sync makes all that was written durable");
    numbers.iter().for_each(|number| store.sync(*number).unwrap());
    assert_eq!(medium.operations(), before + 1, "and no other one is needed");
    assert!(store.stored_bytes(&Namespace::default()).unwrap() > 0);
}

#[test]
fn s06_batches_whose_syncs_overlap_are_kept_when_the_power_is_cut() {
    let rounds = rounds(12);
    let options = Options { fold_at_turns: 10, ..options() };
    for cut in [Cut::Error, Cut::LoseAll, Cut::Reorder, Cut::Tear] {
        let run = |medium: &Medium, promised: &mut usize| -> Result<(), StoreError> {
            let store = medium.store(options.clone())?;
            let epoch = store.claim()?;
            for three in rounds.chunks(3) {
                let numbers: Result<Vec<_>, _> = three.iter().map(|round| store.append(epoch, round)).collect();
                // The second is asked for first: then the first is durable, too.
                for (at, number) in numbers?.into_iter().enumerate().skip(1) {
                    store.sync(number)?;
                    *promised = (*promised / 3) * 3 + at + 1;
                }
            }
            Ok(())
        };
        let whole = Medium::default();
        run(&whole, &mut 0).unwrap();
        for at in 1..=whole.operations() {
            for seed in seeds(2) {
                let medium = Medium::default();
                medium.plan(at, cut);
                let mut promised = 0;
                let _ends_where_the_medium_fails = run(&medium, &mut promised);
                let told = format!("{cut:?} at operation {at}, DACAPO_SEED={seed}");
                let store = match medium.survivor(&mut Chance::new(seed)).store(options.clone()) {
                    Ok(store) => store,
                    // A file gets its name when it is whole; this medium has none yet.
                    Err(_) if promised == 0 => continue,
                    Err(error) => panic!("{told}: {error}"),
                };
                let found: BTreeSet<_> = (0..3).map(|n| turns_of(&store, &format!("order-{n}")).len()).collect();
                assert_eq!(found.len(), 1, "{told}: half a batch");
                let found = *found.first().unwrap();
                assert!(
                    (promised..=rounds.len()).contains(&found),
                    "{told}: {promised} were durable, {found} are there"
                );
                let epoch = store.claim().unwrap();
                rounds[found..].iter().for_each(|round| store.commit(epoch, round).unwrap());
                assert_eq!(turns_of(&store, "order-2").len(), rounds.len(), "{told}: it goes on");
            }
        }
    }
}

#[test]
fn s06_commits_of_several_threads_are_durable_while_others_are_folded() {
    let medium = Medium::default();
    let options = Options { fold_at_turns: 16, ..Options::default() };
    let store = medium.store(options.clone()).unwrap();
    let epoch = store.claim().unwrap();
    std::thread::scope(|scope| {
        for n in 0..4 {
            let store = &store;
            scope.spawn(move || {
                let mut writer = Writer::new(&format!("order-{n}"));
                for turn in 0..100 {
                    let turns = [if turn == 0 { writer.start() } else { writer.step() }];
                    store.commit(epoch, &batch(turns)).unwrap();
                    assert_eq!(turns_of(store, &format!("order-{n}")).len(), turn + 1, "what is durable is seen");
                }
            });
        }
    });
    assert!(store.stats().folds > 5, "{:?}", store.stats());
    // Killed, and closed.
    let killed = Medium::of_all(medium.images()).store(options.clone()).unwrap();
    drop(store);
    let closed = medium.store(options).unwrap();
    for store in [killed, closed] {
        (0..4).for_each(|n| assert_eq!(turns_of(&store, &format!("order-{n}")).len(), 100));
        assert_eq!(store.check_indexes().unwrap(), []);
    }
}

/// Whether an instance is in the tables of a store that is not open.
fn tables_have(medium: &Medium, instance: &str) -> bool {
    const INSTANCES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("instances");
    let (image, tables) = (medium.image(), InMemoryBackend::new());
    tables.set_len(image.len() as u64).unwrap();
    tables.write(0, &image).unwrap();
    let database = Database::builder().create_with_backend(tables).unwrap();
    let rows = database.begin_read().unwrap().open_table(INSTANCES).unwrap();
    rows.get(instance).unwrap().is_some()
}

/// What is found is folded in transactions of some ten thousand turns, and the log is
/// needed until the last of them.
#[test]
fn s06_a_recovery_that_is_cut_between_its_transactions_is_finished_by_the_next() {
    let options = Options { fold_at_turns: usize::MAX, ..options() };
    let medium = Medium::default();
    let (store, epoch) = claimed(&medium, &options);
    let mut writers: Vec<_> = (0..18).map(|n| Writer::new(&format!("order-{n:02}"))).collect();
    let mut turns = vec![Vec::new(); writers.len()];
    for round in 0..20 {
        for (writer, turns) in writers.iter_mut().zip(&mut turns) {
            turns.extend((0..50).map(|n| if (round, n) == (0, 0) { writer.start() } else { writer.step() }));
        }
        let committed = turns.iter().flat_map(|turns| turns[round * 50..].iter().cloned());
        store.commit(epoch, &batch(committed)).unwrap();
    }
    let images = medium.images();

    let whole = Medium::of_all(images.clone());
    drop(whole.store(options.clone()).unwrap());
    let operations = whole.operations();
    let mut half_folded = 0;
    for seed in seeds(24) {
        let mut chance = Chance::new(seed);
        let cut = [Cut::Error, Cut::LoseAll, Cut::Reorder, Cut::Tear][chance.below(4)];
        let at = 1 + chance.below(operations);
        let medium = Medium::of_all(images.clone());
        medium.plan(at, cut);
        drop(medium.store(options.clone()));
        let survivor = medium.survivor(&mut chance);
        half_folded += usize::from(tables_have(&survivor, "order-00") && !tables_have(&survivor, "order-17"));
        let store = survivor.store(options.clone()).unwrap();
        for (writer, turns) in writers.iter().zip(&turns) {
            let found = turns_of(&store, writer.instance.as_str());
            assert!(found == bytes(turns), "{} after {cut:?} at {at}, DACAPO_SEED={seed}", writer.instance);
        }
        let findings = store.check_indexes().unwrap();
        assert!(findings.is_empty(), "{findings:?} after {cut:?} at {at}, DACAPO_SEED={seed}");
    }
    assert!(half_folded > 0, "none was cut between two transactions");
}

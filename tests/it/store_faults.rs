//! The embedded store on a medium that fails.
//!
//! A small workload with every kind of write in it (commits, folding, trimming,
//! a module, claims, closing and opening again) is cut at every single operation
//! of the medium. Whatever survives: no acknowledged batch is missing, nothing
//! is there twice, and the batch that was under way is there whole or not at all.

use std::collections::BTreeMap;

use dacapo::core::ids::{Hash, TimestampMs};
use dacapo::core::summary::Summary;
use dacapo::store::redb::{Options, RedbStore};
use dacapo::store::{Batch, Filter, Grants, History, Module, ModuleKind, Store, StoreError, TurnCommit};

use crate::store_medium::{Cut, Medium};
use crate::store_support::{Chance, LARGE_BYTES, Writer, batch, id, seeds};

const COMPONENT: &[u8] = b"not really a component, but long enough to be told from anything else in the file";

fn options() -> Options {
    // Folding in the thread that commits keeps the order of operations.
    Options { fold_at_turns: 6, fold_beside: false, payloads_above: LARGE_BYTES, ..Options::default() }
}

fn module() -> Module {
    Module {
        hash: Hash::of(COMPONENT),
        name: "orders".to_owned(),
        version: "1".to_owned(),
        kind: ModuleKind::Orchestration,
        size: COMPONENT.len() as u64,
        uploaded_at: TimestampMs(1),
        offers: Vec::new(),
        grants: Grants::default(),
        default_at: None,
        updates: Vec::new(),
        queries: Vec::new(),
        entities: Vec::new(),
    }
}

/// The workload, always the same: batches of four instances that start, step,
/// continue as new and complete.
fn batches() -> Vec<Batch> {
    let mut chance = Chance::new(42);
    let mut writers: Vec<_> = (0..4).map(|n| Writer::new(&format!("order-{n}"))).collect();
    let mut batches = Vec::new();
    for _ in 0..18 {
        let mut turns = Vec::new();
        for _ in 0..=chance.below(4) {
            let writer = &mut writers[chance.below(4)];
            match (writer.turn, chance.below(6)) {
                (0, _) => turns.push(writer.start()),
                (_, 0) => turns.extend(writer.continue_as_new()),
                _ => turns.push(writer.step()),
            }
        }
        batches.push(batch(turns));
    }
    batches.push(batch(writers.iter_mut().filter(|w| w.turn > 0).map(Writer::complete)));
    batches
}

/// What was promised before the cut.
#[derive(Default)]
struct Promised {
    epoch: u64,
    batches: usize,
    module: bool,
    /// The removal of the module was asked for: it may be gone.
    removing: bool,
    removed: bool,
}

/// Runs the workload until something fails. The store is closed and opened twice on the way.
fn run(medium: &Medium, batches: &[Batch], promised: &mut Promised) -> Result<(), StoreError> {
    for (part, third) in batches.chunks(batches.len().div_ceil(3)).enumerate() {
        let store = medium.store(options())?;
        let epoch = store.claim()?;
        promised.epoch = epoch.0;
        if part == 1 {
            store.put_module(&module(), COMPONENT)?;
            promised.module = true;
        }
        for batch in third {
            store.commit(epoch, batch)?;
            promised.batches += 1;
        }
        if part == 2 {
            promised.removing = true;
            store.remove_module(&module().hash)?;
            promised.removed = true;
        }
    }
    Ok(())
}

/// All histories of the store, through every way of reading.
fn everything(store: &RedbStore, executions: u32) -> Result<BTreeMap<(String, u32), History>, StoreError> {
    let mut found = BTreeMap::new();
    for row in store.list(&Filter::default(), None, usize::MAX)? {
        assert_eq!(store.summary(&row.instance)?.as_ref(), Some(&row));
        for execution in 1..=executions {
            if let Some(history) = store.history(&row.instance, Some(execution))? {
                history.decode()?;
                found.insert((row.instance.to_string(), execution), history);
            }
        }
    }
    Ok(found)
}

fn expected<'a>(batches: impl Iterator<Item = &'a Batch>) -> BTreeMap<(String, u32), Vec<&'a TurnCommit>> {
    let mut expected = BTreeMap::<_, Vec<_>>::new();
    for turn in batches.flat_map(|batch| &batch.turns) {
        expected.entry((turn.instance.to_string(), turn.execution)).or_default().push(turn);
    }
    expected
}

fn holds_exactly(found: &BTreeMap<(String, u32), History>, batches: &[Batch]) -> bool {
    let expected = expected(batches.iter());
    let bytes = |turns: &Vec<&TurnCommit>| turns.iter().map(|turn| turn.bytes.clone()).collect::<Vec<_>>();
    found.len() == expected.len()
        && expected.iter().all(|(key, turns)| found.get(key).map(|h| &h.turns) == Some(&bytes(turns)))
}

/// Checks what survived a cut, and that the store goes on from there.
fn check_survivor(medium: &Medium, batches: &[Batch], promised: &Promised) -> Result<(), String> {
    let fail = |error: StoreError| format!("it cannot be used any more: {error}");
    for reopened in [false, true] {
        let store = medium.store(options()).map_err(fail)?;
        let epoch = store.claim().map_err(fail)?;
        if epoch.0 <= promised.epoch {
            return Err(format!("epoch {} was given twice", epoch.0));
        }
        let bytes = store.module_bytes(&module().hash).map_err(fail)?;
        let row = store.module(&module().hash).map_err(fail)?;
        if row.is_some() != bytes.is_some() {
            return Err("the module's row and its bytes are not there together".to_owned());
        }
        if promised.module && !promised.removing && bytes.as_deref() != Some(COMPONENT) {
            return Err("the module is missing".to_owned());
        }
        if promised.removed && bytes.is_some() {
            return Err("the removed module is back".to_owned());
        }
        let found = everything(&store, 20).map_err(fail)?;
        let kept = match promised.batches {
            _ if reopened => batches.len(),
            all if holds_exactly(&found, &batches[..all]) => all,
            all if all < batches.len() && holds_exactly(&found, &batches[..=all]) => all + 1,
            all => return Err(format!("{all} batches were acknowledged, found other turns")),
        };
        for batch in &batches[kept..] {
            store.commit(epoch, batch).map_err(fail)?;
        }
        if !holds_exactly(&everything(&store, 20).map_err(fail)?, batches) {
            return Err("it did not go on from where it was".to_owned());
        }
    }
    Ok(())
}

/// An empty store. Making one is not swept: a new file gets its name when it is whole.
fn empty_store() -> Vec<u8> {
    let medium = Medium::default();
    drop(medium.store(options()).unwrap());
    medium.image()
}

fn sweep(cut: Cut, seed_count: u64) {
    let batches = batches();
    let empty = empty_store();
    let whole = Medium::of(empty.clone());
    run(&whole, &batches, &mut Promised::default()).unwrap();
    let operations = whole.operations();
    assert!(operations > 100, "the workload writes: {operations}");
    for at in 1..=operations {
        for seed in seeds(seed_count) {
            let medium = Medium::of(empty.clone());
            medium.plan(at, cut);
            let mut promised = Promised::default();
            let _ends_where_the_medium_fails = run(&medium, &batches, &mut promised);
            assert!(medium.was_hit(), "operation {at} of {operations} exists in every run");
            let survivor = medium.survivor(&mut Chance::new(seed));
            if let Err(why) = check_survivor(&survivor, &batches, &promised) {
                panic!("{cut:?} at operation {at} of {operations}, DACAPO_SEED={seed}: {why}");
            }
        }
    }
}

#[test]
fn s06_store_keeps_acknowledged_batches_when_an_operation_fails() {
    sweep(Cut::Error, 1);
}

#[test]
fn s06_store_keeps_acknowledged_batches_when_unsynced_writes_are_lost() {
    sweep(Cut::LoseAll, 1);
}

#[test]
fn s06_store_keeps_acknowledged_batches_when_unsynced_writes_are_reordered() {
    sweep(Cut::Reorder, 3);
}

#[test]
fn s43_store_recovers_from_a_torn_write() {
    sweep(Cut::Tear, 2);
}

#[test]
fn store_takes_no_more_writes_after_one_failed() {
    let batches = batches();
    let medium = Medium::default();
    let store = medium.store(options()).unwrap();
    let epoch = store.claim().unwrap();
    medium.plan(medium.operations() + 1, Cut::Error);
    assert!(matches!(store.commit(epoch, &batches[0]), Err(StoreError::Io(_))));
    let again = store.commit(epoch, &batches[0]).unwrap_err();
    assert!(again.to_string().contains("open it again"), "{again}");
    assert!(matches!(store.claim(), Err(StoreError::Io(_))));
    assert!(store.list(&Filter::default(), None, 9).unwrap().is_empty(), "what failed is not shown");
}

/// A closed file with folded turns, unfolded turns and a module in it.
fn closed_file(batches: &[Batch]) -> Vec<u8> {
    let medium = Medium::default();
    run(&medium, batches, &mut Promised::default()).unwrap();
    medium.image()
}

/// Every answer of a store, each an error or what it says.
struct Answers {
    list: Result<Vec<Summary>, StoreError>,
    unfinished: Result<Vec<Summary>, StoreError>,
    histories: Vec<Result<Option<History>, StoreError>>,
    summaries: Vec<Result<Option<Summary>, StoreError>>,
    modules: Result<Vec<Module>, StoreError>,
    component: Result<Option<Vec<u8>>, StoreError>,
}

fn ask(image: Vec<u8>, options: Options) -> Result<Answers, StoreError> {
    let store = Medium::of(image).store(options)?;
    let ids: Vec<_> = (0..4).map(|n| id(&format!("order-{n}"))).collect();
    let lives = ids.iter().flat_map(|id| (1..=5).map(move |execution| (id, Some(execution))));
    Ok(Answers {
        list: store.list(&Filter::default(), None, 100),
        unfinished: store.unfinished(None, 100),
        histories: lives.map(|(id, execution)| store.history(id, execution)).collect(),
        summaries: ids.iter().map(|id| store.summary(id)).collect(),
        modules: store.modules(),
        component: store.module_bytes(&module().hash),
    })
}

/// The names of answers that are neither an error nor what they were; and how many were errors.
fn changed(found: &Answers, original: &Answers) -> (Vec<&'static str>, usize) {
    fn same<T: PartialEq>(a: &Result<T, StoreError>, b: &Result<T, StoreError>) -> Option<bool> {
        a.as_ref().ok().map(|a| Some(a) == b.as_ref().ok())
    }
    let mut answers = vec![
        ("list", same(&found.list, &original.list)),
        ("unfinished", same(&found.unfinished, &original.unfinished)),
        ("modules", same(&found.modules, &original.modules)),
        ("component", same(&found.component, &original.component)),
    ];
    answers.extend(found.histories.iter().zip(&original.histories).map(|(a, b)| ("history", same(a, b))));
    answers.extend(found.summaries.iter().zip(&original.summaries).map(|(a, b)| ("summary", same(a, b))));
    let errors = answers.iter().filter(|(_, same)| same.is_none()).count();
    (answers.into_iter().filter(|(_, same)| *same == Some(false)).map(|(name, _)| name).collect(), errors)
}

fn flip_bits(check_on_open: bool, offsets: impl Fn(&[u8], &mut Chance) -> Vec<usize>) -> (usize, usize) {
    let options = Options { check_on_open, ..options() };
    let image = closed_file(&batches()[..18]);
    let original = ask(image.clone(), options.clone()).unwrap();
    assert!(!original.unfinished.as_ref().unwrap().is_empty());
    let (mut tried, mut noticed) = (0, 0);
    for seed in seeds(1) {
        let mut chance = Chance::new(seed);
        for offset in offsets(&image, &mut chance) {
            let mut image = image.clone();
            let bit = chance.below(8);
            image[offset] ^= 1 << bit;
            tried += 1;
            match ask(image, options.clone()) {
                Err(StoreError::Io(why)) => panic!("offset {offset} bit {bit}: blamed on the medium: {why}"),
                Err(_) => noticed += 1,
                Ok(answers) => {
                    let (changed, errors) = changed(&answers, &original);
                    let at = format!("offset {offset} bit {bit}, DACAPO_SEED={seed}");
                    assert!(changed.is_empty(), "{at}: {changed:?} answered something else");
                    noticed += usize::from(errors > 0);
                }
            }
        }
    }
    (tried, noticed)
}

/// Offsets at which the file holds something.
fn used(image: &[u8], chance: &mut Chance) -> Vec<usize> {
    let used: Vec<_> = (0..image.len()).filter(|&at| image[at] != 0).collect();
    (0..600).map(|_| used[chance.below(used.len())]).collect()
}

/// Offsets inside stored turns and modules.
fn payload(image: &[u8], chance: &mut Chance) -> Vec<usize> {
    let needles = [&b"xxxxxxxxxxxxxxxxxxxxxxxx"[..], b"step-", b"\"amount\":42", b"gold", &COMPONENT[..30]];
    let mut found = Vec::new();
    for needle in needles {
        found.extend(image.windows(needle.len()).enumerate().filter(|(_, w)| *w == needle).map(|(at, _)| at + 3));
    }
    assert!(found.len() > 50, "the payloads are in the file: {}", found.len());
    (0..300).map(|_| found[chance.below(found.len())]).collect()
}

#[test]
fn s43_store_notices_a_flipped_bit_anywhere_when_it_is_opened() {
    let (tried, noticed) = flip_bits(true, used);
    assert!(noticed * 10 > tried, "{noticed} of {tried} flips were in something that is used");
}

#[test]
fn s43_store_notices_a_flipped_bit_in_a_payload_where_it_is_read() {
    let (tried, noticed) = flip_bits(false, payload);
    assert!(noticed * 10 > tried, "{noticed} of {tried} flips were in something that is used");
}

#[test]
fn s43_store_names_the_instance_and_turn_that_are_damaged() {
    let medium = Medium::default();
    let options = Options { fold_at_turns: 1, check_on_open: false, ..Options::default() };
    let store = medium.store(options.clone()).unwrap();
    let epoch = store.claim().unwrap();
    let (mut good, mut bad) = (Writer::new("order-1"), Writer::new("order-2"));
    store.commit(epoch, &batch([good.start(), bad.start()])).unwrap();
    for _ in 0..5 {
        store.commit(epoch, &batch([good.step(), bad.step()])).unwrap();
    }
    drop(store);
    drop(medium.store(options.clone()).unwrap());
    let mut image = medium.image();
    let needle = b"\"step\":3,\"of\":\"order-2\"";
    let at: Vec<_> = image.windows(needle.len()).enumerate().filter(|(_, w)| w == needle).map(|(at, _)| at).collect();
    at.iter().for_each(|at| image[at + 8] ^= 1);

    let store = Medium::of(image).store(options).unwrap();
    assert_eq!(store.history(&good.instance, None).unwrap().unwrap().turns.len(), 6);
    let error = store.history(&bad.instance, None).unwrap_err().to_string();
    assert!(error.contains("history of order-2 execution 1 from turn 4: its checksum does not match"), "{error}");
}

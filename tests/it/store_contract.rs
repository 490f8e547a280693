//! The contract of [`Store`], checked on every implementation.
//!
//! [`check_contract`] takes a way to open a store on the same medium again and
//! again, and names each promise once. A new store adds one test at the end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use dacapo::core::calls::{Caller, OrchestrationOptions, OrchestrationScheduled, ParentClose};
use dacapo::core::event::{Event, SignalSent};
use dacapo::core::ids::{Hash, InstanceId, TimestampMs};
use dacapo::core::mail::Source;
use dacapo::core::payload::Payload;
use dacapo::core::summary::{Status, Summary};
use dacapo::core::turn::TurnRecord;
use dacapo::store::codec::Codec;
use dacapo::store::redb::{Options, RedbStore};
use dacapo::store::snapshot::Snapshot;
use dacapo::store::{Batch, Filter, Grants, Module, ModuleKind, Offer, Store, StoreError, TurnCommit};

use crate::store_medium::Medium;
use crate::store_support::{Chance, LARGE_BYTES, Writer, batch, id};

/// Opens a store: each call of the outer one is a new medium, each call of the
/// inner one opens it once more.
type Fresh<'a, S> = &'a dyn Fn() -> Box<dyn Fn() -> S>;

fn check_contract<S: Store>(fresh: Fresh<'_, S>) {
    appends_and_reads_back(fresh());
    keeps_many_instances_of_one_batch_apart(fresh());
    continues_as_new(fresh());
    reads_the_same_after_every_commit_and_reopening(fresh());
    lists_by_filter_and_pages(fresh());
    pages_stay_stable_under_writes(fresh());
    refuses_a_stale_epoch(fresh());
    refuses_turns_out_of_order(fresh());
    reads_histories_from_a_turn_on(fresh());
    keeps_snapshots_of_what_runs(fresh());
    keeps_modules(fresh());
    purges_what_has_ended(fresh());
    keeps_what_may_be_told_again(fresh());
    shows_a_batch_whole_or_not_at_all(fresh());
}

/// What a store must say after `turns`, and says.
fn expect_turns<S: Store>(store: &S, turns: &[TurnCommit]) {
    let mut by_execution = std::collections::BTreeMap::<_, Vec<&TurnCommit>>::new();
    for turn in turns {
        by_execution.entry((turn.instance.clone(), turn.execution)).or_default().push(turn);
    }
    for ((instance, execution), expected) in &by_execution {
        let history = store.history(instance, Some(*execution)).unwrap().expect("its history");
        let expected: Vec<_> = expected.iter().map(|turn| turn.bytes.clone()).collect();
        assert_eq!(history.turns, expected, "{instance} execution {execution}");
        history.decode().unwrap();
        let summary = store.summary(instance).unwrap().expect("its row");
        if summary.execution == *execution {
            assert_eq!(summary.turns as usize, expected.len(), "{instance}");
            assert_eq!(summary.head, Hash::of(expected.last().unwrap()), "{instance}");
            let events: usize = history.decode().unwrap().iter().map(|record| record.events.len()).sum();
            assert_eq!(summary.events as usize, events);
            assert_eq!(store.history(instance, None).unwrap().unwrap().turns, expected);
        }
    }
}

fn appends_and_reads_back<S: Store>(open: Box<dyn Fn() -> S>) {
    let store = open();
    let epoch = store.claim().unwrap();
    let mut writer = Writer::new("order-1");
    assert!(store.summary(&writer.instance).unwrap().is_none());
    assert!(store.history(&writer.instance, None).unwrap().is_none());

    let mut turns = vec![writer.start()];
    store.commit(epoch, &batch(turns.clone())).unwrap();
    for _ in 0..30 {
        let more = [writer.step(), writer.step()];
        turns.extend(more.clone());
        store.commit(epoch, &batch(more)).unwrap();
        expect_turns(&store, &turns);
    }
    assert_eq!(store.summary(&writer.instance).unwrap().unwrap().status, Status::Running);
    turns.push(writer.complete());
    store.commit(epoch, &batch(turns.last().cloned())).unwrap();
    expect_turns(&store, &turns);
    assert_eq!(store.summary(&writer.instance).unwrap().unwrap().status, Status::Completed);

    assert!(store.history(&writer.instance, Some(2)).unwrap().is_none(), "there is no second execution");
    assert!(store.history(&id("order"), None).unwrap().is_none(), "a prefix is another id");
    store.commit(epoch, &Batch::default()).unwrap();
}

fn reads_histories_from_a_turn_on<S: Store>(open: Box<dyn Fn() -> S>) {
    let mut store = open();
    let mut writer = Writer::new("long");
    let mut turns = vec![writer.start()];
    let epoch = store.claim().unwrap();
    store.commit(epoch, &batch(turns.clone())).unwrap();
    for round in 0..12 {
        let epoch = store.claim().unwrap();
        let more: Vec<_> = (0..5).map(|_| writer.step()).collect();
        turns.extend(more.clone());
        // Some in one commit, some each in its own.
        for part in more.chunks(if round % 2 == 0 { 5 } else { 1 }) {
            store.commit(epoch, &batch(part.to_vec())).unwrap();
        }
        if round % 4 == 3 {
            drop(store);
            store = open();
        }
        for from in (1..=turns.len()).step_by(7).chain([turns.len()]) {
            let tail = store.history_from(&writer.instance, 1, from as u32).unwrap().expect("its turns");
            let expected: Vec<_> = turns[from - 1..].iter().map(|turn| turn.bytes.clone()).collect();
            assert_eq!(tail.turns, expected, "from {from} of {}", turns.len());
            let events: usize = (1..=from).count();
            let after = tail.decode_after(Hash::of(&turns[from - 1].bytes), events as u32).unwrap();
            assert_eq!(after.len(), turns.len() - from);
            assert!(tail.decode_after(Hash::of(b"other"), events as u32).is_err());
        }
        assert!(store.history_from(&writer.instance, 1, turns.len() as u32 + 1).unwrap().is_none());
        assert!(store.history_from(&writer.instance, 2, 1).unwrap().is_none());
        assert!(store.history_from(&id("lon"), 1, 1).unwrap().is_none());
    }
    let epoch = store.claim().unwrap();
    let next = writer.continue_as_new();
    store.commit(epoch, &batch(next.clone())).unwrap();
    for _ in 0..2 {
        let old = store.history_from(&writer.instance, 1, turns.len() as u32).unwrap().unwrap();
        assert_eq!(old.turns, [turns.last().unwrap().bytes.clone(), next[0].bytes.clone()]);
        let new = store.history_from(&writer.instance, 2, 1).unwrap().unwrap();
        assert_eq!(new.turns, [next[1].bytes.clone()]);
        drop(store);
        store = open();
    }
}

fn keeps_snapshots_of_what_runs<S: Store>(open: Box<dyn Fn() -> S>) {
    let store = open();
    let epoch = store.claim().unwrap();
    let mut writer = Writer::new("long");
    let mut turns = vec![writer.start()];
    turns.extend((0..9).map(|_| writer.step()));
    let snapshot = |turn: usize, state: &[u8]| Snapshot {
        birth: 5,
        execution: 1,
        turn: turn as u32,
        events: turn as u32,
        head: Hash::of(&turns[turn - 1].bytes),
        module: Hash::of(b"module"),
        make: Hash::of(b"make"),
        state: state.to_vec(),
    };
    let (early, late) = (snapshot(4, b"early"), snapshot(10, &[7; 100_000]));
    assert!(!store.put_snapshot(epoch, &writer.instance, &early).unwrap(), "there is no such instance");
    store.commit(epoch, &batch(turns[..9].to_vec())).unwrap();
    assert_eq!(store.snapshot(&writer.instance).unwrap(), None);
    assert!(store.put_snapshot(epoch, &writer.instance, &early).unwrap());
    assert!(!store.put_snapshot(epoch, &writer.instance, &late).unwrap(), "it has not come so far");
    assert_eq!(store.snapshot(&writer.instance).unwrap(), Some(early.clone()));
    let other = Snapshot { birth: 6, ..early.clone() };
    assert!(!store.put_snapshot(epoch, &writer.instance, &other).unwrap(), "it is of another instance");
    // What comes with or after a commit is there when that is.
    store.commit(epoch, &batch(turns[9..].to_vec())).unwrap();
    drop(store);
    let store = open();
    assert_eq!(store.snapshot(&writer.instance).unwrap(), Some(early));
    assert!(matches!(store.put_snapshot(epoch, &writer.instance, &late), Ok(true) | Err(StoreError::Fenced { .. })));
    let epoch = store.claim().unwrap();
    assert!(store.put_snapshot(epoch, &writer.instance, &late).unwrap());
    assert_eq!(store.snapshot(&writer.instance).unwrap(), Some(late.clone()));
    assert_eq!(store.check_indexes().unwrap(), []);
    let stale = epoch;
    let epoch = store.claim().unwrap();
    let refused = store.put_snapshot(stale, &writer.instance, &late).unwrap_err();
    assert!(matches!(refused, StoreError::Fenced { .. }), "{refused}");
    store.commit(epoch, &batch([writer.complete()])).unwrap();
    assert!(!store.put_snapshot(epoch, &writer.instance, &late).unwrap(), "it has ended");
    drop(store);
    let store = open();
    let epoch = store.claim().unwrap();
    store.purge(epoch, std::slice::from_ref(&writer.instance)).unwrap();
    assert_eq!(store.snapshot(&writer.instance).unwrap(), None);
    assert_eq!(store.check_indexes().unwrap(), []);
}

fn keeps_many_instances_of_one_batch_apart<S: Store>(open: Box<dyn Fn() -> S>) {
    let store = open();
    let epoch = store.claim().unwrap();
    let mut writers: Vec<_> = (0..50).map(|n| Writer::new(&format!("many-{n}"))).collect();
    let mut turns = Vec::new();
    for round in 0..10 {
        let now: Vec<_> = writers.iter_mut().map(|w| if round == 0 { w.start() } else { w.step() }).collect();
        turns.extend(now.clone());
        store.commit(epoch, &batch(now)).unwrap();
    }
    expect_turns(&store, &turns);
}

fn continues_as_new<S: Store>(open: Box<dyn Fn() -> S>) {
    let store = open();
    let epoch = store.claim().unwrap();
    let (mut writer, mut other) = (Writer::new("loop"), Writer::new("other"));
    let mut turns = vec![writer.start(), other.start()];
    store.commit(epoch, &batch(turns.clone())).unwrap();
    for execution in 2..9 {
        let [last, first] = writer.continue_as_new();
        let more = [other.step(), last, first, other.step(), writer.step()];
        turns.extend(more.clone());
        store.commit(epoch, &batch(more)).unwrap();
        let summary = store.summary(&writer.instance).unwrap().unwrap();
        assert_eq!((summary.execution, summary.turns, summary.status), (execution, 2, Status::Running));
        expect_turns(&store, &turns);
    }
    drop(store);
    expect_turns(&open(), &turns);
}

fn reads_the_same_after_every_commit_and_reopening<S: Store>(open: Box<dyn Fn() -> S>) {
    let mut chance = Chance::new(1);
    let mut writers: Vec<_> = (0..6).map(|n| Writer::new(&format!("again-{n}"))).collect();
    let mut turns: Vec<TurnCommit> = Vec::new();
    let mut last_epoch = 0;
    for _ in 0..40 {
        let store = open();
        expect_turns(&store, &turns);
        let epoch = store.claim().unwrap();
        assert!(epoch.0 > last_epoch, "epochs only grow");
        last_epoch = epoch.0;
        for _ in 0..chance.below(4) {
            let mut now = Vec::new();
            for _ in 0..=chance.below(5) {
                let writer = &mut writers[chance.below(6)];
                match (writer.turn, chance.below(8)) {
                    (0, _) => now.push(writer.start()),
                    (_, 0) => now.extend(writer.continue_as_new()),
                    _ => now.push(writer.step()),
                }
            }
            store.commit(epoch, &batch(now.clone())).unwrap();
            turns.extend(now);
            expect_turns(&store, &turns);
        }
    }
}

fn lists_by_filter_and_pages<S: Store>(open: Box<dyn Fn() -> S>) {
    let store = open();
    let epoch = store.claim().unwrap();
    for n in 0..40 {
        let mut writer = Writer::new(&format!("{}-{n:03}", if n < 10 { "a" } else { "bb" }));
        store.commit(epoch, &batch([writer.start()])).unwrap();
        if n % 3 == 0 {
            store.commit(epoch, &batch([writer.step(), writer.complete()])).unwrap();
        }
    }
    let mut store = Some(store);
    for _ in 0..2 {
        let store = store.take().unwrap_or_else(&open);
        let all = pages(|after| store.list(&Filter::default(), after, 7).unwrap());
        assert_eq!(all.len(), 40);
        let running = pages(|after| store.unfinished(after, 7).unwrap());
        let mut ids = store.ids(None, 7).unwrap();
        while let Some(last) = ids.last().cloned().filter(|_| ids.len() < 40) {
            ids.extend(store.ids(Some(&last), 7).unwrap());
        }
        assert_eq!(ids, all.iter().map(|row| row.instance.clone()).collect::<Vec<_>>());
        assert_eq!(running, all.iter().filter(|s| !s.status.is_final()).cloned().collect::<Vec<_>>());
        for status in [None, Some(Status::Running), Some(Status::Completed), Some(Status::Failed)] {
            for prefix in [None, Some("a"), Some("a-00"), Some("bb-01"), Some("c")] {
                for orchestration in [None, Some("even"), Some("odd")] {
                    let filter = Filter {
                        status,
                        orchestration: orchestration.map(str::to_owned),
                        id_prefix: prefix.map(str::to_owned),
                        ..Filter::default()
                    };
                    let expected: Vec<_> = all.iter().filter(|s| filter.matches(s)).cloned().collect();
                    assert_eq!(pages(|after| store.list(&filter, after, 3).unwrap()), expected, "{filter:?}");
                }
            }
        }
        assert!(store.list(&Filter::default(), None, 0).unwrap().is_empty());
    }
}

/// Every page, each begun after the last row of the one before.
fn pages(mut page: impl FnMut(Option<&InstanceId>) -> Vec<Summary>) -> Vec<Summary> {
    let mut all: Vec<Summary> = Vec::new();
    loop {
        let rows = page(all.last().map(|row| &row.instance));
        if rows.is_empty() {
            break;
        }
        all.extend(rows);
    }
    assert!(all.is_sorted_by(|a, b| a.instance < b.instance), "by id, each once");
    all
}

fn pages_stay_stable_under_writes<S: Store>(open: Box<dyn Fn() -> S>) {
    let store = open();
    let epoch = store.claim().unwrap();
    let mut writers: Vec<_> = (0..30).map(|n| Writer::new(&format!("stable-{n:02}"))).collect();
    let started: Vec<_> = writers.iter_mut().map(Writer::start).collect();
    store.commit(epoch, &batch(started)).unwrap();
    let mut round = 0;
    let seen = pages(|after| {
        let more = writers.iter_mut().map(Writer::step).chain([Writer::new(&format!("between-{round}")).start()]);
        store.commit(epoch, &batch(more)).unwrap();
        round += 1;
        store.list(&Filter::default(), after, 4).unwrap()
    });
    for writer in &writers {
        assert!(seen.iter().any(|row| row.instance == writer.instance), "{} is on some page", writer.instance);
    }
}

fn refuses_a_stale_epoch<S: Store>(open: Box<dyn Fn() -> S>) {
    let store = open();
    let old = store.claim().unwrap();
    let mut writer = Writer::new("fenced");
    let first = writer.start();
    store.commit(old, &batch([first.clone()])).unwrap();
    let new = store.claim().unwrap();
    let second = writer.step();
    let refused = store.commit(old, &batch([second.clone(), Writer::new("other").start()])).unwrap_err();
    assert!(matches!(refused, StoreError::Fenced { held, current } if (held, current) == (old.0, new.0)), "{refused}");
    expect_turns(&store, std::slice::from_ref(&first));
    assert!(store.summary(&id("other")).unwrap().is_none());
    store.commit(new, &batch([second.clone()])).unwrap();
    drop(store);
    let store = open();
    assert!(matches!(store.commit(old, &batch([writer.step()])), Err(StoreError::Fenced { .. })));
    expect_turns(&store, &[first, second]);
}

fn refuses_turns_out_of_order<S: Store>(open: Box<dyn Fn() -> S>) {
    let store = open();
    let epoch = store.claim().unwrap();
    let mut writer = Writer::new("ordered");
    let mut turns = vec![writer.start(), writer.step()];
    store.commit(epoch, &batch(turns.clone())).unwrap();
    for pass in 0..3 {
        let next = writer.clone().step();
        let last = turns[turns.len() - 1].clone();
        let skips_one = TurnCommit { turn: next.turn + 1, ..next.clone() };
        let begins_late = TurnCommit { execution: 2, turn: 2, ..next.clone() };
        for bad in [vec![turns[0].clone()], vec![last], vec![skips_one], vec![begins_late], vec![next.clone(), next]] {
            let mut good = Writer::new("good");
            let mixed = batch([good.start(), good.step()].into_iter().chain(bad));
            let error = store.commit(epoch, &mixed);
            assert!(matches!(error, Err(StoreError::OutOfOrder { .. })), "{error:?}");
            assert!(store.summary(&id("good")).unwrap().is_none(), "nothing of a refused batch is kept");
            expect_turns(&store, &turns);
        }
        // The same again when the turns before are folded, if the store folds.
        for n in 0..40 {
            turns.push(writer.step());
            let other = Writer::new(&format!("filler-{pass}-{n}")).start();
            store.commit(epoch, &batch([turns[turns.len() - 1].clone(), other])).unwrap();
        }
    }
    let mut unknown = Writer::new("unknown");
    unknown.start();
    assert!(matches!(store.commit(epoch, &batch([unknown.step()])), Err(StoreError::OutOfOrder { .. })));
}

fn purges_what_has_ended<S: Store>(open: Box<dyn Fn() -> S>) {
    let store = open();
    let epoch = store.claim().unwrap();
    let (mut gone, mut also, mut stays) = (Writer::new("gone"), Writer::new("gone-2"), Writer::new("gone-"));
    let mut kept = vec![stays.start(), stays.step()];
    store.commit(epoch, &batch([gone.start(), also.start()])).unwrap();
    store.commit(epoch, &batch(kept.clone())).unwrap();
    let [last, first] = gone.continue_as_new();
    store.commit(epoch, &batch([last, first, gone.step(), also.complete()])).unwrap();
    let all = [id("gone"), id("gone-"), id("gone-2"), id("unknown")];
    assert_eq!(store.purge(epoch, &all[..2]).unwrap(), [], "neither has ended");
    store.commit(epoch, &batch([gone.complete()])).unwrap();
    assert_eq!(store.purge(epoch, &[id("gone"), id("gone"), id("gone-"), id("unknown")]).unwrap(), [id("gone")]);

    let check = |store: &S, kept: &[TurnCommit]| {
        assert!(store.summary(&id("gone")).unwrap().is_none());
        for execution in [None, Some(1), Some(2)] {
            assert!(store.history(&id("gone"), execution).unwrap().is_none());
        }
        let listed = |rows: Vec<Summary>| rows.into_iter().map(|row| row.instance.to_string()).collect::<Vec<_>>();
        assert_eq!(listed(store.list(&Filter::default(), None, 9).unwrap()), ["gone-", "gone-2"]);
        assert_eq!(listed(store.unfinished(None, 9).unwrap()), ["gone-"]);
        expect_turns(store, kept);
    };
    check(&store, &kept);
    kept.push(stays.step());
    store.commit(epoch, &batch(kept.last().cloned())).unwrap();
    check(&store, &kept);
    drop(store);
    let store = open();
    check(&store, &kept);
    assert!(matches!(store.purge(epoch, &all), Ok(gone) if gone == [id("gone-2")]));
    let new_epoch = store.claim().unwrap();
    assert!(matches!(store.purge(epoch, &all), Err(StoreError::Fenced { .. })));

    // The id is free, for a first execution and for a later one.
    let mut again = Writer::new("gone");
    let mut third = Writer::new("gone-2");
    third.execution = 3;
    kept.extend([again.start(), again.step(), third.start()]);
    store.commit(new_epoch, &batch(kept[kept.len() - 3..].to_vec())).unwrap();
    expect_turns(&store, &kept);
    drop(store);
    expect_turns(&open(), &kept);
}

/// A letter whose sender does not know that it was taken comes again.
fn keeps_what_may_be_told_again<S: Store>(open: Box<dyn Fn() -> S>) {
    let store = open();
    let epoch = store.claim().unwrap();
    let (mut from, mut to, mut child) = (Writer::new("from"), Writer::new("to"), Writer::new("child"));
    let sent = SignalSent { operation: 1, to: id("to"), name: "go".to_owned(), value: Payload::null() };
    let source = Source { instance: id("from"), birth: 5, execution: 1, operation: 1 };
    let taken = Event::SignalReceived { source, floor: (1, 1), name: "go".to_owned(), value: Payload::null() };
    let parent_close = ParentClose::Abandon;
    let caller = Caller { instance: id("from"), birth: 5, execution: 1, operation: 2, attempt: 1, parent_close };
    let options = OrchestrationOptions { parent_close, ..OrchestrationOptions::default() };
    let call = Event::OrchestrationScheduled(Box::new(OrchestrationScheduled {
        operation: 2,
        instance: id("child"),
        name: "odd".to_owned(),
        input: Payload::null(),
        options,
    }));
    let sends = [from.start(), from.turn(vec![Event::SignalSent(Box::new(sent)), call])];
    let takes = [to.start(), to.turn(vec![taken]), to.complete(), child.start_called(caller), child.complete()];
    store.commit(epoch, &batch(sends.into_iter().chain(takes))).unwrap();
    let all = [id("to"), id("child")];
    assert_eq!(store.purge(epoch, &all).unwrap(), [], "the sender runs, and knows of neither");
    store.commit(epoch, &batch([from.complete()])).unwrap();
    drop(store);
    let store = open();
    let epoch = store.claim().unwrap();
    assert_eq!(store.purge(epoch, &all).unwrap(), [], "it has ended, and sends both again");
    let heard = from.turn(vec![Event::SignalDelivered { signal: (1, 1) }]);
    store.commit(epoch, &batch([heard])).unwrap();
    assert_eq!(store.purge(epoch, &all).unwrap(), [id("to")]);
    let heard = from.turn(vec![Event::OrchestrationAbandoned { call: (1, 2) }]);
    store.commit(epoch, &batch([heard])).unwrap();
    assert_eq!(store.purge(epoch, &all).unwrap(), [id("child")]);
    assert_eq!(store.purge(epoch, &[id("from")]).unwrap(), [id("from")]);
}

fn keeps_modules<S: Store>(open: Box<dyn Fn() -> S>) {
    let store = open();
    let (bytes, other): (Vec<u8>, Vec<u8>) = ((0..300_000_u32).map(|n| (n % 251) as u8).collect(), b"other".to_vec());
    let module = |bytes: &[u8], name: &str, at| Module {
        hash: Hash::of(bytes),
        name: name.to_owned(),
        version: "1".to_owned(),
        kind: ModuleKind::Orchestration,
        size: bytes.len() as u64,
        uploaded_at: TimestampMs(at),
        offers: vec![Offer { name: "charge".to_owned(), ..Offer::default() }],
        grants: Grants { hosts: vec!["example.com".to_owned()], ..Grants::default() },
        default_at: Some(TimestampMs(at)),
        updates: Vec::new(),
        queries: Vec::new(),
        entities: Vec::new(),
    };
    let (first, second) = (module(&bytes, "orders", 1), module(&other, "billing", 2));
    assert!(store.module(&first.hash).unwrap().is_none());
    assert!(store.module_bytes(&first.hash).unwrap().is_none());
    store.put_module(&first, &bytes).unwrap();
    store.put_module(&second, &other).unwrap();
    assert_eq!(store.modules().unwrap(), [second.clone(), first.clone()], "the last uploaded first");
    let renamed = module(&bytes, "renamed", 3);
    store.put_module(&renamed, &bytes).unwrap();
    drop(store);
    let store = open();
    assert_eq!(store.modules().unwrap(), [renamed.clone(), second]);
    assert_eq!(store.module(&renamed.hash).unwrap(), Some(renamed));
    assert_eq!(store.module_bytes(&first.hash).unwrap(), Some(bytes));
    assert!(store.remove_module(&first.hash).unwrap());
    assert!(!store.remove_module(&first.hash).unwrap(), "it is gone already");
    drop(store);
    let store = open();
    assert_eq!(store.module(&first.hash).unwrap(), None);
    assert_eq!(store.module_bytes(&first.hash).unwrap(), None);
    assert_eq!(store.modules().unwrap().len(), 1, "the other one is still there");
}

/// One thread commits batches in which two instances take the same step; others
/// read, and never see one of them ahead.
fn shows_a_batch_whole_or_not_at_all<S: Store>(open: Box<dyn Fn() -> S>) {
    let store = open();
    let epoch = store.claim().unwrap();
    let acknowledged = AtomicU32::new(0);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut last = 0;
                while !done.load(Ordering::Acquire) {
                    let at_least = acknowledged.load(Ordering::Acquire);
                    let rows = store.list(&Filter { id_prefix: Some("twin".into()), ..Filter::default() }, None, 10);
                    let turns: Vec<_> = rows.unwrap().iter().map(|row| row.turns).collect();
                    assert!(turns.is_empty() || turns.len() == 2 && turns[0] == turns[1], "half a batch: {turns:?}");
                    let turns = turns.first().copied().unwrap_or(0);
                    assert!(turns >= at_least, "{turns} turns seen, {at_least} were acknowledged");
                    assert!(turns >= last, "{turns} turns seen after {last}");
                    last = turns;
                    if let Some(history) = store.history(&id("twin-b"), None).unwrap() {
                        assert!(history.turns.len() as u32 >= last);
                        let first: Vec<_> =
                            history.decode().unwrap().iter().map(|record| record.events.len()).collect();
                        assert_eq!(first.len(), history.turns.len());
                    }
                }
            });
        }
        let (mut a, mut b) = (Writer::new("twin-a"), Writer::new("twin-b"));
        for turn in 1..=400 {
            let turns = if turn == 1 { [a.start(), b.start()] } else { [a.step(), b.step()] };
            store.commit(epoch, &batch(turns)).unwrap();
            acknowledged.store(turn, Ordering::Release);
        }
        done.store(true, Ordering::Release);
    });
}

fn redb_with(options: Options) {
    check_contract::<RedbStore>(&|| {
        let medium = Medium::default();
        let options = options.clone();
        Box::new(move || medium.store(options.clone()).unwrap())
    });
}

#[test]
fn store_contract_on_redb_with_everything_in_the_overlay() {
    redb_with(Options::default());
}

#[test]
fn store_contract_on_redb_folding_all_the_time() {
    redb_with(Options { fold_at_turns: 1, payloads_above: LARGE_BYTES, ..Options::default() });
}

#[test]
fn store_contract_on_redb_folding_now_and_then() {
    redb_with(Options { fold_at_turns: 7, payloads_above: LARGE_BYTES, ..Options::default() });
    redb_with(Options { fold_at_turns: 40, fold_at_bytes: 2000, ..Options::default() });
}

#[test]
fn store_contract_on_redb_with_a_codec() {
    let key = format!("k:{}", "5a".repeat(32));
    let codec = Codec::plain().compress_above(64).encrypt([key.as_str()]).unwrap();
    redb_with(Options { fold_at_turns: 7, payloads_above: LARGE_BYTES, codec: Arc::new(codec), ..Options::default() });
}

#[test]
fn store_reads_through_the_trait_object() {
    let store: Arc<dyn Store> = Arc::new(Medium::default().store(Options::default()).unwrap());
    assert!(store.modules().unwrap().is_empty());
}

#[test]
fn store_folding_bounds_what_is_held_and_logged() {
    // A generation that is folded beside commits may let the next one become twice as large.
    for (fold_beside, least) in [(false, 28), (true, 14)] {
        let options = Options { fold_at_turns: 100, fold_beside, ..Options::default() };
        let medium = Medium::default();
        let store = medium.store(options).unwrap();
        let epoch = store.claim().unwrap();
        let mut written = Vec::new();
        for n in 0..1000 {
            let mut writer = Writer::new(&format!("bounded-{n}"));
            let turns = [writer.start(), writer.step(), writer.complete()];
            store.commit(epoch, &batch(turns.clone())).unwrap();
            written.extend(turns);
        }
        let stats = store.stats();
        assert_eq!((stats.commits, stats.turns), (1000, 3000));
        // The one before may just have begun to be folded.
        assert!(
            (least - 1..=30).contains(&stats.folds),
            "3000 turns in generations of 100: {} were folded",
            stats.folds
        );
        let log = medium.images()[1..].iter().map(Vec::len).sum::<usize>();
        assert!(log < 500 * 1024, "its two files are written over: {log} bytes");
        expect_turns(&store, &written);
    }
}

#[test]
fn store_file_is_for_one_process_and_survives_reopening() {
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("store-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("journal.redb");
    let store = RedbStore::open(&path).unwrap();
    let refused = RedbStore::open(&path).unwrap_err();
    assert!(matches!(&refused, StoreError::InUse { path } if path.ends_with("journal.redb")), "{refused}");
    let mut writer = Writer::new("in-a-file");
    let turns = [writer.start(), writer.step()];
    store.commit(store.claim().unwrap(), &batch(turns.clone())).unwrap();
    drop(store);
    expect_turns(&RedbStore::open(&path).unwrap(), &turns);
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1, "nothing else is left in the folder");

    let garbage = folder.join("garbage.redb");
    for bytes in [&b"no journal"[..], &[0; 100_000], &[0xab; 100_000]] {
        std::fs::write(&garbage, bytes).unwrap();
        let refused = RedbStore::open(&garbage).unwrap_err();
        assert!(matches!(refused, StoreError::Corrupt { .. }), "{refused:?}");
        assert_eq!(std::fs::read(&garbage).unwrap(), bytes, "what is not a journal is left alone");
    }
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn store_summary_equals_the_fold_of_its_history() {
    let medium = Medium::default();
    let options = Options { fold_at_turns: 9, payloads_above: LARGE_BYTES, ..Options::default() };
    let store = medium.store(options).unwrap();
    let epoch = store.claim().unwrap();
    let mut writer = Writer::new("summed");
    store.commit(epoch, &batch([writer.start()])).unwrap();
    for _ in 0..60 {
        store.commit(epoch, &batch([writer.step()])).unwrap();
        let history = store.history(&writer.instance, None).unwrap().unwrap();
        let mut summary = None;
        for bytes in &history.turns {
            let record = TurnRecord::decode(bytes).unwrap();
            match &mut summary {
                None => summary = Summary::of_first(&record, Hash::of(bytes)),
                Some(summary) => summary.apply(&record, Hash::of(bytes)),
            }
        }
        assert_eq!(store.summary(&writer.instance).unwrap(), summary);
    }
}

//! Lists of the newest and counts: what a look at every row would say, while turns are in
//! the log, being folded, or folded, and instances come, end, begin again and go. S31.

use std::collections::BTreeMap;

use dacapo::core::ids::{InstanceId, TimestampMs};
use dacapo::core::summary::{Status, Summary};
use dacapo::engine::{IdReuse, StartRequest};
use dacapo::store::redb::{Options, RedbStore};
use dacapo::store::{Filter, Store};
use redb::TableDefinition;
use serde_json::json;

use crate::harness::{Host, SECOND, World, id, start};
use crate::store_support::{Chance, seeds};

/// A row's place among the newest.
fn place(row: &Summary) -> (TimestampMs, InstanceId) {
    (row.created_at, row.instance.clone())
}

/// Compares with a look at every row.
fn check(store: &dyn Store, what: &str) {
    let all = store.list(&Filter::default(), None, 1000).unwrap();
    let mut counts = BTreeMap::new();
    all.iter().for_each(|row| *counts.entry(row.status).or_default() += 1);
    assert_eq!(store.counts().unwrap(), counts, "{what}");
    for filter in [
        Filter::default(),
        Filter { status: Some(Status::Completed), ..Filter::default() },
        Filter { status: Some(Status::Running), ..Filter::default() },
        Filter { id_prefix: Some("a".to_owned()), ..Filter::default() },
    ] {
        let mut expected: Vec<_> = all.iter().filter(|row| filter.matches(row)).cloned().collect();
        expected.sort_by_key(|row| std::cmp::Reverse(place(row)));
        let (mut found, mut before) = (Vec::new(), None);
        loop {
            let page = store.newest(&filter, before.as_ref(), 3).unwrap();
            before = page.last().map(place);
            let is_last = page.len() < 3;
            found.extend(page);
            if is_last {
                break;
            }
        }
        // How far one is may change in between; where it stands does not.
        let told = |rows: &[Summary]| rows.iter().map(|row| (place(row), row.status)).collect::<Vec<_>>();
        assert_eq!(told(&found), told(&expected), "{what}, {filter:?}");
    }
    assert_eq!(store.check_indexes().unwrap(), [], "{what}");
}

fn store(host: &Host<'_>) -> std::sync::Arc<dyn Store> {
    host.engine().store().clone()
}

#[test]
fn s31_the_newest_and_the_counts_follow_every_change() {
    for (fold_at_turns, seed) in [(3, 1), (7, 2), (1 << 20, 3)]
        .into_iter()
        .flat_map(|(fold, n)| seeds(1).into_iter().map(move |seed| (fold, seed + n)))
    {
        let mut world = World::new();
        world.store = Options { fold_at_turns, fold_per_commit: 1, ..Options::default() };
        let mut host = world.open();
        let mut chance = Chance::new(seed);
        for step in 0..40 {
            let name = format!("{}{}", ["a", "b"][chance.below(2)], chance.below(9));
            let waits = json!({ "wanted": 3, "page": 1 });
            match chance.below(7) {
                0 | 1 => drop(host.start(&name, "collects", waits)),
                2 => {
                    let anew = StartRequest { reuse: IdReuse::TerminateAndReplace, ..start(&name, "collects", waits) };
                    host.try_start(anew).unwrap();
                }
                3 => drop(host.block_on(host.engine().terminate(&id(&name), "enough"))),
                4 => drop(host.engine().purge(&id(&name))),
                5 => {
                    drop(host.start(&name, "returns", json!(1)).and_then(|_| host.outcome(&name).map(drop).or(Ok(()))))
                }
                _ => drop(host.block_on(host.engine().suspend(&id(&name), "for now"))),
            }
            // Some are created at the same time.
            if chance.below(3) > 0 {
                world.clock.advance(SECOND);
            }
            check(&*store(&host), &format!("fold at {fold_at_turns}, DACAPO_SEED={seed}, step {step}"));
            if chance.below(10) == 0 {
                drop(host);
                host = world.open();
                check(&*store(&host), &format!("fold at {fold_at_turns}, DACAPO_SEED={seed}, opened at step {step}"));
            }
        }
    }
}

#[test]
fn a_file_without_the_indexes_gets_them_when_it_is_opened() {
    let world = World::new();
    let host = world.open();
    crate::verify::fill(&host);
    let counts = store(&host).counts().unwrap();
    drop(host);
    {
        let database = redb::Database::open(world.journal()).unwrap();
        let transaction = database.begin_write().unwrap();
        transaction.delete_table(TableDefinition::<&[u8], ()>::new("created")).unwrap();
        transaction.delete_table(TableDefinition::<&str, &[u8]>::new("counts")).unwrap();
        transaction.commit().unwrap();
    }
    let store = RedbStore::open(&world.journal()).unwrap();
    assert_eq!(store.counts().unwrap(), counts);
    check(&store, "opened");
}

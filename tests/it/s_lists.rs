//! Lists of the newest and counts: what a look at every row would say, while turns are in
//! the log, being folded, or folded, and instances come, end, begin again and go. S31.

use std::collections::BTreeMap;

use dacapo::core::ids::{InstanceId, TimestampMs};
use dacapo::core::namespace::Namespace;
use dacapo::core::summary::{Status, Summary};
use dacapo::engine::{IdReuse, StartRequest, Upload};
use dacapo::store::redb::{Options, RedbStore};
use dacapo::store::{Filter, Store};
use redb::TableDefinition;
use serde_json::{Value, json};

use crate::harness::{Host, SECOND, World, start};
use crate::store_support::{Chance, seeds};

/// A row's place among the newest.
fn place(row: &Summary) -> (TimestampMs, InstanceId) {
    (row.created_at, row.instance.clone())
}

fn space(name: &str) -> Namespace {
    Namespace::new(name).unwrap()
}

/// Compares with a look at every row, in each namespace and in all.
fn check(store: &dyn Store, what: &str) {
    let everywhere = store.list(&Filter::everything(), None, 1000).unwrap();
    let counted = |rows: &[Summary]| {
        let mut counts = BTreeMap::new();
        rows.iter().for_each(|row| *counts.entry(row.status).or_default() += 1);
        counts
    };
    assert_eq!(store.counts(None).unwrap(), counted(&everywhere), "{what}");
    for namespace in ["default", "acme", "b"].map(space) {
        let own: Vec<Summary> =
            everywhere.iter().filter(|row| row.instance.namespace() == namespace).cloned().collect();
        assert_eq!(store.counts(Some(&namespace)).unwrap(), counted(&own), "{what}, {namespace}");
        let of = Filter { namespace: namespace.clone(), ..Filter::default() };
        let listed = store.list(&of, None, 1000).unwrap();
        assert_eq!(listed, own, "{what}, {namespace}");
        check_newest(store, &own, &of, what);
        // Its histories take what they say, whatever of them is folded.
        let bytes = |row: &Summary| -> u64 {
            let all =
                (1..=row.execution).filter_map(|execution| store.history(&row.instance, Some(execution)).unwrap());
            all.flat_map(|history| history.turns).map(|turn| turn.len() as u64).sum()
        };
        assert_eq!(store.stored_bytes(&namespace).unwrap(), own.iter().map(bytes).sum::<u64>(), "{what}, {namespace}");
    }
    assert_eq!(store.check_indexes().unwrap(), [], "{what}");
}

fn check_newest(store: &dyn Store, all: &[Summary], of: &Filter, what: &str) {
    for filter in [
        of.clone(),
        Filter { status: Some(Status::Completed), ..of.clone() },
        Filter { status: Some(Status::Running), ..of.clone() },
        Filter { id_prefix: Some("a".to_owned()), ..of.clone() },
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
        world.store = Options { fold_at_turns, ..Options::default() };
        let mut host = world.open();
        for namespace in ["acme", "b"].map(space) {
            let (bytes, name) = (crate::guests::guest("steps").to_vec(), "steps".to_owned());
            host.engine().upload(Upload { bytes, name, namespace, ..Upload::default() }).unwrap();
        }
        let mut chance = Chance::new(seed);
        for step in 0..40 {
            let name = format!("{}{}", ["a", "b"][chance.below(2)], chance.below(9));
            let name = InstanceId::within(&space(["default", "acme", "b"][chance.below(3)]), &name).unwrap();
            let begin = |orchestration: &str, input: Value, reuse| {
                host.try_start(StartRequest { id: name.clone(), reuse, ..start("x", orchestration, input) })
            };
            let waits = json!({ "wanted": 3, "page": 1 });
            match chance.below(7) {
                0 | 1 => drop(begin("collects", waits, IdReuse::ReturnExisting)),
                2 => drop(begin("collects", waits, IdReuse::TerminateAndReplace).unwrap()),
                3 => drop(host.block_on(host.engine().terminate(&name, "enough"))),
                4 => drop(host.engine().purge(&name)),
                5 => {
                    if begin("returns", json!(1), IdReuse::ReturnExisting).is_ok() {
                        host.block_on(host.engine().outcome(&name)).ok();
                    }
                }
                _ => drop(host.block_on(host.engine().suspend(&name, "for now"))),
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
    let of = |store: &dyn Store| (store.counts(None).unwrap(), store.stored_bytes(&Namespace::default()).unwrap());
    let before = of(&*store(&host));
    drop(host);
    for missing in [vec!["created", "counts", "sizes"], vec!["sizes"]] {
        let database = redb::Database::open(world.journal()).unwrap();
        let transaction = database.begin_write().unwrap();
        for name in missing {
            if name == "created" {
                transaction.delete_table(TableDefinition::<&[u8], ()>::new(name)).unwrap();
            } else {
                transaction.delete_table(TableDefinition::<&str, &[u8]>::new(name)).unwrap();
            }
        }
        transaction.commit().unwrap();
        drop(database);
        let store = RedbStore::open(&world.journal()).unwrap();
        assert_eq!(of(&store), before);
        check(&store, "opened");
    }
}

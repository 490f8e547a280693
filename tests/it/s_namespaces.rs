//! Namespaces: nothing of one is reached from another, whoever asks and however it is
//! written: by signals, sub-orchestrations, schedules, forks, workers or hashes.

use std::collections::BTreeMap;
use std::future::ready;

use dacapo::core::ids::InstanceId;
use dacapo::core::namespace::Namespace;
use dacapo::core::payload::Payload;
use dacapo::engine::fork::ForkRequest;
use dacapo::engine::{
    EngineError, EntityOperation, NamespaceSettings, Rate, Registration, Reported, Standing, StartRequest, Upload,
};
use dacapo::replay::verify::verify_store;
use dacapo::store::redb::{Options, RedbStore};
use dacapo::store::schedule::{Overlap, ScheduleSpec, Timing};
use dacapo::store::{DirectoryGrant, Filter, Grants, Module, Store};
use serde_json::{Value, json};

use crate::guests::{guest, vault};
use crate::harness::{Host, SECOND, World, start};

fn space(name: &str) -> Namespace {
    Namespace::new(name).unwrap()
}

fn of(namespace: &str, id: &str) -> InstanceId {
    InstanceId::within(&space(namespace), id).unwrap()
}

/// Uploads a guest in a namespace.
fn upload(host: &Host<'_>, namespace: &str, name: &str) -> Module {
    let upload =
        Upload { bytes: guest(name).to_vec(), name: name.into(), namespace: space(namespace), ..Upload::default() };
    host.engine().upload(upload).unwrap()
}

fn request(namespace: &str, id: &str, orchestration: &str, input: Value) -> StartRequest {
    StartRequest { id: of(namespace, id), ..start(id, orchestration, input) }
}

fn begin(host: &Host<'_>, namespace: &str, id: &str, orchestration: &str, input: Value) {
    host.try_start(request(namespace, id, orchestration, input)).unwrap();
}

fn output(host: &Host<'_>, namespace: &str, id: &str) -> Value {
    let outcome = host.block_on(host.engine().outcome(&of(namespace, id))).unwrap();
    outcome.unwrap_or_else(|failure| panic!("{id} failed: {failure}")).to_json().unwrap()
}

fn kinds(host: &Host<'_>, namespace: &str, id: &str) -> Vec<&'static str> {
    let history = host.engine().history(&of(namespace, id), None).unwrap().decode().unwrap();
    history.iter().flat_map(|turn| &turn.events).map(|event| event.kind()).collect()
}

fn ids(host: &Host<'_>, filter: &Filter) -> Vec<InstanceId> {
    host.engine().list(filter, None, 1000).unwrap().into_iter().map(|row| row.instance).collect()
}

#[test]
fn signals_stay_in_the_namespace_of_their_sender() {
    let world = World::with(&["steps", "peers"]);
    let mut host = world.open();
    for namespace in ["acme", "umbrella"] {
        upload(&host, namespace, "peers");
    }
    for namespace in ["default", "umbrella"] {
        begin(&host, namespace, "ear", "hears", json!({ "wanted": 1, "page": 9 }));
    }
    let letters = |to: &[&str]| json!({ "to": to, "values": [7] });
    let foreign = ["ear", "ear@umbrella", "umbrella/ear", "\u{1f}umbrella\u{1f}ear", "\u{1f}\u{1f}ear"];
    begin(&host, "acme", "mouth", "tells", letters(&foreign));
    let unknown = "not-found UnknownInstance";
    assert_eq!(output(&host, "acme", "mouth"), json!([unknown, unknown, unknown, "not-found", "not-found"]));
    drop(host);

    host = world.open();
    begin(&host, "acme", "ear", "hears", json!({ "wanted": 1, "page": 9 }));
    begin(&host, "acme", "mouth-2", "tells", letters(&["ear"]));
    assert_eq!(output(&host, "acme", "mouth-2"), json!(["taken"]));
    assert_eq!(output(&host, "acme", "ear"), json!([7]));
    for namespace in ["default", "umbrella"] {
        assert!(!kinds(&host, namespace, "ear").contains(&"signal-received"), "{namespace} heard something");
        assert!(host.engine().summary(&of(namespace, "ear")).unwrap().is_some_and(|row| !row.status.is_final()));
    }
    // A history and what people see of it have names as their namespace knows them.
    let view = dacapo::engine::view::instance(&**host.engine().store(), &of("acme", "mouth-2"), |_| None).unwrap();
    let shown = serde_json::to_string(&view).unwrap();
    assert!(shown.contains("\"mouth-2\"") && !shown.contains("\\u001f"), "{shown}");
}

#[test]
fn sub_orchestrations_and_their_modules_are_those_of_the_callers_namespace() {
    let world = World::with(&["steps", "peers"]);
    let host = world.open();
    let own = upload(&host, "acme", "peers");
    let other = upload(&host, "umbrella", "steps");
    assert_ne!(own.hash, host.engine().modules().find("peers").unwrap().hash, "the same bytes are two modules");
    // Somebody else's child has that name already.
    host.start("child", "waits", json!(1_000_000)).unwrap();
    let call = |module: Value, name: &str| json!([name, module, "return-existing"]);
    for (number, module) in ["steps", &other.hash.to_string(), "\u{1f}umbrella\u{1f}steps"].iter().enumerate() {
        let id = format!("thief-{number}");
        begin(&host, "acme", &id, "calls_by_name", call(json!(module), "fans_out"));
        assert_eq!(output(&host, "acme", &id), json!("not-found UnknownModule"), "{module:?}");
    }
    begin(&host, "acme", "parent", "calls_by_name", call(Value::Null, "leaf"));
    assert_eq!(output(&host, "acme", "parent"), json!("9"));
    assert!(host.engine().summary(&of("acme", "child")).unwrap().is_some_and(|row| row.status.is_final()));
    assert!(host.engine().summary(&of("default", "child")).unwrap().is_some_and(|row| !row.status.is_final()));
    begin(&host, "acme", "branches", "branches", json!(2));
    output(&host, "acme", "branches");
    let acme = Filter { namespace: space("acme"), ..Filter::default() };
    let found = ids(&host, &acme);
    assert_eq!(found.len(), 8, "generated ids are in it as well: {found:?}");
    assert!(found.iter().all(|id| id.namespace() == space("acme")));
    assert_eq!(ids(&host, &Filter::default()).len(), 1);
    let prefixed = Filter { id_prefix: Some("thief".into()), ..acme };
    assert_eq!(ids(&host, &prefixed).len(), 3);
    assert_eq!(ids(&host, &Filter::everything()).len(), 9);
}

#[test]
fn modules_are_found_chosen_and_removed_in_one_namespace_alone() {
    let world = World::with(&["steps"]);
    let host = world.open();
    let (acme, umbrella) = (upload(&host, "acme", "peers"), upload(&host, "umbrella", "peers"));
    let modules = host.engine().modules();
    assert!(acme.hash != umbrella.hash && acme.local_name() == "peers" && acme.called().starts_with("peers@"));
    assert_eq!(modules.of(&space("acme")).unwrap().len(), 1);
    for wanted in ["steps", &umbrella.hash.to_string(), "\u{1f}umbrella\u{1f}peers"] {
        let found = modules.find_in(&space("acme"), wanted).unwrap_err();
        assert!(matches!(found, EngineError::UnknownModule { .. }), "{wanted:?}");
        assert!(!found.to_string().contains("umbrella@") && !found.to_string().contains("steps@"), "{found}");
    }
    let start = host.try_start(request("acme", "x", "fans_out", json!(1)));
    assert!(matches!(start, Err(EngineError::UnknownOrchestration { .. })), "{start:?}");
    let engine = host.engine();
    assert!(engine.remove_module_in(&space("acme"), &umbrella.hash.to_string(), true).is_err());
    engine.remove_module_in(&space("acme"), "peers", true).unwrap();
    assert_eq!(modules.find_in(&space("umbrella"), "peers").unwrap().hash, umbrella.hash);
    begin(&host, "umbrella", "x", "branches", json!(1));
    output(&host, "umbrella", "x");
}

#[test]
fn workers_get_tell_and_see_the_tasks_of_their_namespace_alone() {
    let world = World::with(&["steps", "tasks"]);
    let host = world.open();
    upload(&host, "acme", "tasks");
    let workers = |name: &str| host.engine().workers_of(&space(name));
    let register = |name: &str| {
        let activities = BTreeMap::from([("printer.print".to_owned(), None)]);
        let registration = Registration { name: name.into(), queues: vec!["printers".into()], activities };
        workers(name).register(registration).unwrap()
    };
    let (own, foreign) = (register("acme"), register("umbrella"));
    let default = register("default");
    begin(&host, "acme", "a", "call_with", json!({ "name": "printer.print", "queue": "printers" }));
    let claim = |name: &str, worker: &str| host.block_on(workers(name).claim(worker, 9, 30 * SECOND, ready(())));
    let waiting = || host.engine().queues_in(&space("acme")).iter().map(|queue| queue.waiting).sum::<usize>();
    while waiting() == 0 {
        std::thread::yield_now();
    }
    assert!(claim("umbrella", &foreign).unwrap().is_empty() && claim("default", &default).unwrap().is_empty());
    assert!(host.engine().queues().iter().all(|queue| queue.waiting == 0), "others do not see it");
    assert!(matches!(claim("umbrella", &own), Err(EngineError::UnknownWorker { .. })));
    assert!(matches!(workers("umbrella").unregister(&own), Err(EngineError::UnknownWorker { .. })));
    let claimed = claim("acme", &own).unwrap().remove(0);
    assert_eq!(claimed.task.idempotency_key(), "a/1/1@acme", "no other namespace has it");
    // Tokens are easily guessed from one's own; they are good for nothing elsewhere.
    let token = &claimed.token;
    let report = |name: &str| host.block_on(workers(name).report(token, Ok(Payload::json("1")))).unwrap();
    for name in ["umbrella", "default"] {
        assert_eq!(workers(name).heartbeat(token, None).unwrap(), Standing::Lost);
        assert_eq!(workers(name).extend(token, SECOND).unwrap(), Standing::Lost);
        assert_eq!(report(name), Reported::Ignored);
        assert_eq!(workers(name).list().len(), 1);
    }
    assert_eq!(workers("acme").heartbeat(token, None).unwrap(), Standing::Continue);
    assert_eq!(report("acme"), Reported::Recorded);
    output(&host, "acme", "a");
}

#[test]
fn schedules_forks_and_purges_reach_their_own_namespace_alone() {
    let world = World::with(&["steps", "peers"]);
    let host = world.open();
    upload(&host, "acme", "peers");
    let engine = host.engine();
    let spec = |orchestration: &str| ScheduleSpec {
        timing: Timing::Every { interval_ms: 3600 * SECOND },
        orchestration: orchestration.to_owned(),
        module: None,
        input: Payload::json("1"),
        tags: BTreeMap::new(),
        overlap: Overlap::Allow,
        catch_up_ms: 60 * SECOND,
    };
    let nightly = space("acme").qualify("nightly");
    let foreign = engine.put_schedule(&nightly, spec("fans_out"));
    assert!(matches!(foreign, Err(EngineError::UnknownOrchestration { .. })), "a schedule starts what is its own");
    engine.put_schedule(&nightly, spec("leaf")).unwrap();
    engine.put_schedule("nightly", spec("leaf")).unwrap();
    let started = engine.trigger_schedule(&nightly).unwrap();
    assert_eq!(started.namespace(), space("acme"));
    host.block_on(engine.outcome(&started)).unwrap().unwrap();
    assert_eq!(engine.list_schedules_in(&space("acme"))[0].started, 1);
    assert_eq!(engine.list_schedules()[0].started, 0);
    let unknown = engine.schedule(&space("umbrella").qualify("nightly")).unwrap_err();
    assert!(matches!(unknown, EngineError::UnknownSchedule { ref exists, .. } if exists.is_empty()), "{unknown}");

    begin(&host, "acme", "secret", "leaf", json!(5));
    output(&host, "acme", "secret");
    let fork = |from: InstanceId, id: InstanceId| {
        let request = ForkRequest { from, execution: None, at: 1, edit: None, module: None, id };
        host.block_on(engine.fork(request))
    };
    let stolen = fork(of("acme", "secret"), of("default", "stolen"));
    assert!(matches!(stolen, Err(EngineError::UnknownInstance { .. })), "{stolen:?}");
    fork(of("acme", "secret"), of("acme", "again")).unwrap();
    output(&host, "acme", "again");
    assert_eq!(engine.purge_matching(&Filter::default()).unwrap(), 0);
    let umbrella = Filter { namespace: space("umbrella"), ..Filter::default() };
    assert_eq!(engine.purge_matching(&umbrella).unwrap(), 0);
    let acme = Filter { namespace: space("acme"), ..Filter::default() };
    assert_eq!(engine.purge_matching(&acme).unwrap(), 3);
}

#[test]
fn a_namespace_has_its_quotas_whoever_starts_something() {
    let mut world = World::with(&["steps", "peers"]);
    let settings = NamespaceSettings {
        instances: Some(3),
        starts: Some(Rate { tasks: 4, per_ms: 60_000 }),
        ..NamespaceSettings::default()
    };
    world.settings.namespaces.insert("acme".to_owned(), settings);
    let mut host = world.open();
    upload(&host, "acme", "peers");
    begin(&host, "acme", "one", "leaf", json!(1));
    // Its three children are one too many, and it hears of that.
    begin(&host, "acme", "two", "branches", json!(3));
    let failed = host.block_on(host.engine().outcome(&of("acme", "two"))).unwrap().unwrap_err();
    assert!(failed.to_string().contains("the namespace acme may have at most"), "{failed}");
    let refused = |host: &Host<'_>, id: &str| host.try_start(request("acme", id, "leaf", json!(1))).unwrap_err();
    assert_eq!(refused(&host, "four").code(), "quota-reached");
    assert!(
        refused(&host, "four")
            .to_string()
            .contains("3 instances, those that have ended included, and has 3; purge some")
    );
    // They are counted again by the next host.
    drop(host);
    host = world.open();
    assert!(refused(&host, "four").to_string().contains("3 instances"));
    host.run("free", "branches", json!(5));
    let acme = Filter { namespace: space("acme"), ..Filter::default() };
    // A purge makes room, and the rate still counts; this host has begun nothing yet.
    let (mut begun, mut number) = (0, 0);
    let last = loop {
        number += 1;
        let id = format!("more-{number}");
        match host.try_start(request("acme", &id, "leaf", json!(1))) {
            Ok(_) => begun += 1,
            Err(error) if error.to_string().contains("instances") => {}
            Err(error) => break error.to_string(),
        }
        host.block_on(host.engine().terminate(&of("acme", &id), "")).ok();
        host.engine().purge_matching(&acme).unwrap();
    };
    assert_eq!((begun, last.contains("4 starts in 60000 ms")), (4, true), "{last}");
    world.clock.advance(60 * SECOND);
    while let Err(error) = host.try_start(request("acme", "later", "leaf", json!(1))) {
        assert!(error.to_string().contains("instances"), "{error}");
        host.engine().purge_matching(&acme).unwrap();
    }
}

/// What the histories of a namespace take, as a look at each of them says.
fn stored(host: &Host<'_>, namespace: &str) -> u64 {
    let filter = Filter { namespace: space(namespace), ..Filter::default() };
    let turns = ids(host, &filter).into_iter().flat_map(|id| {
        let summary = host.engine().summary(&id).unwrap().unwrap();
        (1..=summary.execution)
            .flat_map(move |execution| host.engine().history(&id, Some(execution)).map(|history| history.turns))
    });
    turns.flatten().map(|turn| turn.len() as u64).sum()
}

#[test]
fn a_namespace_stores_what_it_may_and_what_runs_goes_on() {
    const MOST: u64 = 20_000;
    let mut world = World::with(&["steps", "peers", "entities"]);
    let settings = NamespaceSettings { stored_bytes: Some(MOST), ..NamespaceSettings::default() };
    world.settings.namespaces.insert("acme".to_owned(), settings);
    world.store = Options { fold_at_turns: 7, payloads_above: 2000, ..Options::default() };
    let mut host = world.open();
    for guest in ["steps", "entities"] {
        upload(&host, "acme", guest);
    }
    begin(&host, "acme", "waits", "collects", json!({ "wanted": 3, "page": 1 }));
    let raise = |host: &Host<'_>, value: Value| {
        let value = Payload::json(value.to_string());
        host.block_on(host.engine().raise(&of("acme", "waits"), "other", value))
    };
    // Large payloads, which stand in rows of their own, count as well.
    raise(&host, json!("x".repeat(9000))).unwrap();
    raise(&host, json!("x".repeat(9000))).unwrap();
    let mut number = 0;
    let refused = loop {
        number += 1;
        match host.try_start(request("acme", &format!("n-{number}"), "returns", json!(number))) {
            Ok(_) => drop(host.block_on(host.engine().outcome(&of("acme", &format!("n-{number}")))).unwrap()),
            Err(refused) => break refused,
        }
        assert!(number < 100, "{} bytes are stored", stored(&host, "acme"));
    };
    assert_eq!(refused.code(), "quota-reached");
    let found = stored(&host, "acme");
    assert!(found >= MOST, "{found}");
    for part in
        ["the namespace acme", "at most 20000 bytes", &format!("and has {found};"), "namespaces.acme.stored_bytes"]
    {
        assert!(refused.to_string().contains(part), "{refused} does not say {part}");
    }
    // Nothing more comes in, whichever way, and is as exact for the next host.
    for is_open in [true, false] {
        if !is_open {
            drop(host);
            host = world.open();
        }
        let engine = host.engine();
        assert_eq!(engine.store().stored_bytes(&space("acme")).unwrap(), found);
        let null = || Payload::json("null");
        let entity = engine.call_entity(of_counter("acme", "a", "get", Value::Null, "r1"));
        let fork = ForkRequest {
            from: of("acme", "n-1"),
            execution: None,
            at: 1,
            edit: None,
            module: None,
            id: of("acme", "fork"),
        };
        for (what, outcome) in [
            ("an event", raise(&host, json!(1))),
            ("an update", host.block_on(engine.update(&of("acme", "waits"), "set", null(), "r1")).map(drop)),
            ("an operation", host.block_on(entity).map(drop)),
            ("a restart", host.block_on(engine.restart(&of("acme", "n-1"), None)).map(drop)),
            ("a rewind", host.block_on(engine.rewind(&of("acme", "n-1"), false, ""))),
            ("a fork", host.block_on(engine.fork(fork))),
        ] {
            assert_eq!(outcome.map_err(|error| error.code()), Err("quota-reached"), "{what}");
        }
        // Others have their own.
        host.run(&format!("free-{is_open}"), "returns", json!(1));
    }
    // What there is may be ended, and makes room when it is purged.
    host.block_on(host.engine().terminate(&of("acme", "waits"), "enough")).unwrap();
    host.engine().purge(&of("acme", "waits")).unwrap();
    let left = host.engine().store().stored_bytes(&space("acme")).unwrap();
    assert!(left < found - 18_000, "{left} of {found}");
    assert_eq!(left, stored(&host, "acme"));
    begin(&host, "acme", "again", "returns", json!(1));
    output(&host, "acme", "again");
    assert_eq!(host.engine().store().check_indexes().unwrap(), []);
}

fn of_counter<'a>(
    namespace: &str,
    key: &'a str,
    operation: &'a str,
    input: Value,
    request: &'a str,
) -> EntityOperation<'a> {
    let (namespace, input) = (space(namespace), Payload::json(input.to_string()));
    EntityOperation { namespace, kind: "counter", key, operation, input, request }
}

#[test]
fn entities_are_those_of_the_namespace_of_whoever_asks() {
    let world = World::with(&["steps", "entities"]);
    let mut host = world.open();
    let ask = |host: &Host<'_>, namespace: &str, key: &str, operation: &str, input: Value, request: &str| {
        host.block_on(host.engine().call_entity(of_counter(namespace, key, operation, input, request)))
    };
    let number = |host: &Host<'_>, namespace: &str, key: &str, operation: &str, input: Value, request: &str| {
        ask(host, namespace, key, operation, input, request).unwrap().unwrap().to_json().unwrap()
    };
    assert_eq!(number(&host, "default", "a", "add", json!(5), "r"), json!(5));
    let unknown = ask(&host, "acme", "a", "add", json!(1), "r").unwrap_err();
    assert_eq!(unknown.code(), "unknown-entity-kind");
    assert!(unknown.to_string().ends_with("there are: none"), "it is not told what others have: {unknown}");
    upload(&host, "acme", "entities");
    // The same name of a request is another one there.
    assert_eq!(number(&host, "acme", "a", "add", json!(1), "r"), json!(1));
    for key in ["\u{1f}acme\u{1f}@counter@a", "a\u{1f}"] {
        assert_eq!(
            ask(&host, "default", key, "get", Value::Null, "r2").unwrap_err().code(),
            "invalid-input",
            "{key:?}"
        );
    }
    // An orchestration calls and locks its own, and signals it.
    begin(&host, "acme", "adds", "adds", json!({ "key": "a", "times": 2 }));
    assert_eq!(output(&host, "acme", "adds"), json!([2, 3]));
    begin(&host, "acme", "moves", "moves", json!({ "from": "a", "to": "b", "amount": 2 }));
    assert_eq!(output(&host, "acme", "moves"), json!([1, 2]));
    begin(&host, "acme", "pokes", "pokes", json!("a"));
    output(&host, "acme", "pokes");
    // While one has its lock, that of the same name elsewhere is free.
    world.desk.hold("step.one");
    begin(&host, "acme", "holds", "holds", json!({ "keys": ["a"], "how": "complete" }));
    let held = world.desk.next("step.one");
    begin(&host, "default", "passes", "moves", json!({ "from": "a", "to": "b", "amount": 1 }));
    assert_eq!(output(&host, "default", "passes"), json!([4, 1]));
    held.go_on();
    output(&host, "acme", "holds");
    // Nothing of it is in the namespace that was not asked, and all of it after a restart.
    for (open, value) in [(false, 4), (true, 4)] {
        if open {
            drop(host);
            host = world.open();
        }
        assert_eq!(number(&host, "default", "a", "get", Value::Null, &format!("get-{open}")), json!(value));
        assert_eq!(kinds(&host, "default", "@counter@b").iter().filter(|kind| **kind == "lock-requested").count(), 1);
        let acme = Filter { namespace: space("acme"), id_prefix: Some("@".to_owned()), ..Filter::default() };
        assert_eq!(ids(&host, &acme), [of("acme", "@counter@a"), of("acme", "@counter@b")]);
        let event =
            host.block_on(host.engine().raise(&of("acme", "@counter@a"), "go", Payload::json("1"))).unwrap_err();
        assert!(event.to_string().starts_with("@counter@a is an entity"), "{event}");
    }
    // Where nobody offers the kind, an orchestration has no other to ask.
    upload(&host, "umbrella", "steps");
    assert_eq!(ask(&host, "umbrella", "a", "get", Value::Null, "r").unwrap_err().code(), "unknown-entity-kind");
}

#[test]
fn namespaces_are_verified_backed_up_and_brought_back() {
    let world = World::with(&["steps", "peers"]);
    let host = world.open();
    upload(&host, "acme", "peers");
    begin(&host, "acme", "parent", "branches", json!(2));
    output(&host, "acme", "parent");
    begin(&host, "acme", "ear", "hears", json!({ "wanted": 2, "page": 9 }));
    host.run("parent", "fans_out", json!(1));
    let store = host.engine().store();
    let verified = verify_store(&**store, Some(host.engine().sandbox())).unwrap();
    assert_eq!((verified.findings, verified.not_replayed), (vec![], 0));
    let mut bytes = Vec::new();
    store.backup(&mut bytes).unwrap();
    let of_all = |store: &dyn Store| {
        let sizes = ["default", "acme"].map(|name| store.stored_bytes(&space(name)).unwrap());
        (store.list(&Filter::everything(), None, 100).unwrap(), sizes, store.counts(Some(&space("acme"))).unwrap())
    };
    let before = of_all(&**store);
    let other = world.elsewhere(0);
    std::fs::remove_file(other.journal()).ok();
    let draft = RedbStore::restore(&other.journal(), other.store.clone(), &mut &bytes[..]).unwrap();
    assert_eq!(of_all(draft.store()), before);
    draft.keep().unwrap();
    let elsewhere = other.open();
    let letters = json!({ "to": ["ear", "ear"], "values": [7] });
    begin(&elsewhere, "acme", "mouth", "tells", letters);
    assert_eq!(output(&elsewhere, "acme", "mouth"), json!(["taken", "taken"]));
    assert_eq!(output(&elsewhere, "acme", "ear"), json!([7, 7]));
    drop(elsewhere);
    // What is wrong is named with its namespace, for the operator.
    let database = redb::Database::open(other.journal()).unwrap();
    let transaction = database.begin_write().unwrap();
    {
        let table = redb::TableDefinition::<&str, &[u8]>::new("instances");
        transaction.open_table(table).unwrap().remove(of("acme", "parent").as_str()).unwrap().unwrap();
    }
    transaction.commit().unwrap();
    drop(database);
    let damaged = RedbStore::open(&other.journal()).unwrap();
    let findings = verify_store(&damaged, None).unwrap().findings;
    assert!(findings.iter().any(|finding| finding.of == "parent@acme"), "{findings:#?}");
}

#[test]
fn a_module_from_one_namespace_is_nobodys_in_another() {
    let world = World::with(&["steps"]);
    let host = world.open();
    let engine = host.engine();
    let (acme, default) = (upload(&host, "acme", "peers"), engine.modules().find("steps").unwrap());
    let bytes = engine.modules().bytes(acme.hash).unwrap();
    let put = |namespace: &str, bytes: &[u8], name: &str| {
        let (bytes, name) = (bytes.to_vec(), name.to_owned());
        engine.upload(Upload { bytes, name, namespace: space(namespace), ..Upload::default() }).unwrap()
    };
    // Whoever has its bytes, the mark in them included, does not become its owner.
    for namespace in ["default", "umbrella"] {
        let taken = put(namespace, &bytes, "taken");
        assert_ne!(taken.hash, acme.hash);
        assert_eq!(taken.local_name(), "taken");
    }
    assert_eq!(engine.modules().find_in(&space("acme"), "peers").unwrap(), acme);
    assert_eq!(put("acme", &bytes, "peers").hash, acme.hash, "back at home it is what it was");
    let again = engine.modules().bytes(default.hash).unwrap();
    assert_eq!(put("default", &again, "steps").hash, default.hash);
}

#[test]
fn modules_of_a_namespace_are_granted_what_was_allowed_to_it() {
    let mut world = World::with(&["steps"]);
    let settings = NamespaceSettings {
        secrets: vec!["shop".to_owned()],
        directories: vec!["/srv/acme".to_owned()],
        hosts: vec!["api.example.org".to_owned()],
        ..NamespaceSettings::default()
    };
    world.settings.namespaces.insert("acme".to_owned(), settings);
    let host = world.open();
    let try_grants = |namespace: &str, grants: Grants| {
        let bytes = vault().to_vec();
        let upload = Upload { bytes, name: "vault".into(), namespace: space(namespace), grants, ..Upload::default() };
        host.engine().upload(upload).map_err(|error| error.to_string())
    };
    let secret = |name: &str| Grants { secrets: BTreeMap::from([("KEY".into(), name.into())]), ..Grants::default() };
    let folder = |host: &str| {
        let directories = vec![DirectoryGrant { host: host.into(), guest: "/x".into(), write: false }];
        Grants { directories, ..Grants::default() }
    };
    let reach = |host: &str| Grants { hosts: vec![host.into()], ..Grants::default() };
    for good in [secret("shop"), folder("/srv/acme/in"), reach("api.example.org")] {
        try_grants("acme", good.clone()).unwrap();
        assert!(try_grants("umbrella", good).unwrap_err().contains("namespaces.umbrella."));
    }
    for (bad, says) in [
        (secret("other"), "the secret \"other\""),
        (folder("/srv"), "the folder \"/srv\""),
        (folder("/srv/acme/../umbrella"), "the folder"),
        (folder("/srv/acmeplus"), "the folder"),
        (reach("127.0.0.1:7007"), "the host \"127.0.0.1:7007\""),
    ] {
        let refused = try_grants("acme", bad).unwrap_err();
        assert!(
            refused.contains(says) && refused.contains("the operator allows it with namespaces.acme."),
            "{refused}"
        );
    }
    try_grants("default", folder("/srv")).unwrap();
}

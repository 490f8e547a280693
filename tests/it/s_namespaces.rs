//! Namespaces: nothing of one is reached from another, whoever asks and however it is
//! written: by signals, sub-orchestrations, schedules, forks, workers or hashes.

use std::collections::BTreeMap;
use std::future::ready;

use dacapo::core::ids::InstanceId;
use dacapo::core::namespace::Namespace;
use dacapo::core::payload::Payload;
use dacapo::engine::fork::ForkRequest;
use dacapo::engine::{EngineError, NamespaceSettings, Rate, Registration, Reported, Standing, StartRequest, Upload};
use dacapo::store::schedule::{Overlap, ScheduleSpec, Timing};
use dacapo::store::{DirectoryGrant, Filter, Grants, Module};
use serde_json::{Value, json};

use crate::guests::guest;
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
    assert!(refused(&host, "four").to_string().contains("3 instances, those that have ended included; purge some"));
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
        let bytes = guest("vault").to_vec();
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

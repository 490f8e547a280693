//! The whole program, killed with SIGKILL in the middle of upload, purge, backup, compact
//! and restore: at chosen writes of its files, wherever in a transaction that is.
//!
//! A first, undisturbed run counts the writes. Then some of them are chosen (by a seed that
//! is printed on failure; `DACAPO_SEED` sets it), and a run dies right before each. After each death the
//! store opens, `verify` finds nothing, and the same command does its work.

use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::Command;

use dacapo::store::redb::Options;
use serde_json::{Value, json};

use crate::cli_support::Data;
use crate::guests::guest;
use crate::harness::World;
use crate::store_support::{Chance, seeds};
use crate::verify::fill;

/// Deaths in one operation, beside the first and the last write.
const DEATHS: usize = 6;

/// A journal with instances in every state, some of them folded, some large.
fn journal() -> Vec<u8> {
    let mut world = World::with(&["steps", "deliveries"]);
    world.store = Options { payloads_above: 1500, fold_at_turns: 20, ..Options::default() };
    let host = world.open();
    fill(&host);
    for n in 0..20 {
        host.run(&format!("large-{n}"), "passes_on", json!(format!("cargo-{n}-").repeat(2000)));
    }
    drop(host);
    world.journal_bytes()
}

/// Puts what the operation needs into a fresh folder.
type Prepare<'p> = &'p (dyn Fn(&Path) + Sync);

fn verified(data: &Data) -> Value {
    let found = data.run(&["verify", "--json"]);
    assert_eq!(found.code, Some(0), "{found:?}");
    found.json()
}

/// Runs the operation with deaths; `done` looks at what it has done in the end.
fn sweep(name: &str, prepare: Prepare<'_>, command: impl Fn(&Data) -> Command + Sync, done: impl Fn(&Data) + Sync) {
    let fresh = |which: &str| {
        let data = Data::new(&format!("killed-{name}-{which}"));
        prepare(data.path());
        data
    };
    let calm = fresh("calm");
    let counted = calm.path().join("writes");
    let ran = command(&calm).env("DACAPO_CRASH", format!("writes:{}", counted.display())).output().unwrap();
    assert!(ran.status.success(), "{name}: {ran:?}");
    done(&calm);
    let writes: u64 = std::fs::read_to_string(&counted).expect("writes are counted").parse().expect("a number");
    assert!(writes > 5, "{name} writes: {writes}");

    for seed in seeds(1) {
        let told = format!("{name} of {writes} writes with DACAPO_SEED={seed}");
        let mut chance = Chance::new(seed ^ name.len() as u64);
        let mut points: Vec<u64> = (0..DEATHS).map(|_| 1 + chance.below(writes as usize) as u64).collect();
        points.extend([1, writes]);
        points.sort_unstable();
        points.dedup();
        let died = points.iter().filter(|&&point| {
            let data = fresh(&point.to_string());
            let ran = command(&data).env("DACAPO_CRASH", format!("write:{point}")).output().unwrap();
            let was_killed = ran.status.signal() == Some(9);
            assert!(was_killed || ran.status.success(), "{told}, at write {point}: {ran:?}");
            if data.path().join("journal.redb").exists() {
                verified(&data);
            }
            // It may have died when all was done; then there is nothing left to do.
            let again = command(&data).output().unwrap();
            let code = again.status.code();
            assert!(matches!(code, Some(0 | 4)), "{told}, after its death at {point}: {again:?}");
            done(&data);
            was_killed
        });
        let died = died.count();
        // How often an engine writes beside the operation differs a little.
        assert!(died + 2 >= points.len(), "{told}: {died} of {} deaths", points.len());
    }
}

fn ids(data: &Data) -> Vec<String> {
    let list = data.json(&["list", "--limit", "1000"]);
    list["instances"].as_array().unwrap().iter().map(|row| row["id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn upload_that_is_killed_leaves_a_sound_store() {
    let journal = journal();
    let project = Data::new("killed-project");
    std::fs::write(project.path().join("tasks.wasm"), guest("tasks")).unwrap();
    std::fs::write(project.path().join("dacapo.toml"), "name = \"tasks\"\n[orchestration]\npath = \"tasks.wasm\"\n")
        .unwrap();
    let folder = project.path().to_str().unwrap();
    sweep(
        "upload",
        &|folder| std::fs::write(folder.join("journal.redb"), &journal).unwrap(),
        |data| data.command(&["upload", folder]),
        |data| {
            assert_eq!(data.json(&["modules"])["modules"].as_array().unwrap().len(), 3);
            assert_eq!(verified(data)["modules"], 3);
        },
    );
}

#[test]
fn s29_purge_that_is_killed_leaves_all_of_an_instance_or_nothing() {
    let journal = journal();
    sweep(
        "purge",
        &|folder| std::fs::write(folder.join("journal.redb"), &journal).unwrap(),
        |data| data.command(&["purge", "--older-than", "0s", "--prefix", "large-"]),
        |data| {
            assert_eq!(verified(data)["findings"], json!([]));
            assert!(!ids(data).iter().any(|id| id.starts_with("large-")));
            assert!(ids(data).contains(&"waits".to_owned()));
        },
    );
}

#[test]
fn compact_that_is_killed_leaves_a_sound_store() {
    let purged = Data::new("killed-compact-purged");
    std::fs::write(purged.path().join("journal.redb"), journal()).unwrap();
    purged.run(&["purge", "--older-than", "0s", "--prefix", "large-"]).ok();
    let journal = std::fs::read(purged.path().join("journal.redb")).unwrap();
    let expected = ids(&purged);
    sweep(
        "compact",
        &|folder| std::fs::write(folder.join("journal.redb"), &journal).unwrap(),
        |data| data.command(&["compact"]),
        |data| {
            assert_eq!(verified(data)["findings"], json!([]));
            assert_eq!(ids(data), expected);
        },
    );
}

#[test]
fn backup_that_is_killed_is_no_backup_and_leaves_a_sound_store() {
    let journal = journal();
    sweep(
        "backup",
        &|folder| std::fs::write(folder.join("journal.redb"), &journal).unwrap(),
        |data| data.command(&["backup", data.path().join("file.backup").to_str().unwrap()]),
        |data| {
            assert_eq!(verified(data)["findings"], json!([]));
            data.run(&["verify", data.path().join("file.backup").to_str().unwrap()]).ok();
        },
    );
}

#[test]
fn restore_that_is_killed_restores_all_or_nothing() {
    let from = Data::new("killed-restore-from");
    std::fs::write(from.path().join("journal.redb"), journal()).unwrap();
    let file = from.path().join("file.backup");
    let file = file.to_str().unwrap();
    from.run(&["backup", file]).ok();
    let expected = ids(&from);
    sweep(
        "restore",
        &|_| {},
        |data| data.command(&["restore", file]),
        |data| {
            assert_eq!(verified(data)["findings"], json!([]));
            assert_eq!(ids(data), expected);
        },
    );
}

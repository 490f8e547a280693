//! Room for guests in memory, where there are about as many as may be.

use std::thread::{available_parallelism, scope};

use dacapo::core::turn::{Limits, Recorder};
use dacapo::sandbox::Sandbox;
use dacapo::sandbox::guest::Guest;
use dacapo::sandbox::settings::SandboxSettings;
use serde_json::json;

use crate::harness::World;

/// What a guest leaves is wiped for several at once, and whoever wipes has their places for
/// as long: so many may be made all the same.
#[test]
fn places_that_are_being_wiped_are_no_guests_in_memory() {
    const EACH: usize = 4;
    let world = World::with(&["tasks"]);
    let host = world.open();
    host.start("a", "call_until", json!({ "name": "printer.print" })).unwrap();
    host.wait_kind("a", "activity-scheduled", 1);
    let records = host.records("a");

    let threads = 2 * available_parallelism().map_or(2, usize::from);
    let settings = SandboxSettings {
        resident_guests: (EACH * threads) as u32,
        memory_bytes: 16 << 20,
        ..SandboxSettings::default()
    };
    let sandbox = Sandbox::new(settings, None).expect("a sandbox");
    let module = host.module_in(&sandbox, &records);
    let make = || {
        let recorder = Recorder::of_history(&records[0], Limits::default()).expect("a history");
        let mut guest = Guest::new(&module, recorder).map_err(|(trouble, _)| trouble).expect("there is room");
        guest.replay_turn(&records[0], records.get(1)).expect("it is the same");
        guest
    };
    scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut guests: Vec<Guest> = (0..EACH).map(|_| make()).collect();
                for round in 0..2_000 {
                    drop(guests.swap_remove(round % EACH));
                    guests.push(make());
                }
            });
        }
    });
}

//! A guest that does not keep to the contract, against the bare bindings: the
//! orchestration's name says what it does wrong.

use dacapo::workflow::{context, types};
use dacapo_sdk::__private::bindings::orchestration::{self as world, dacapo, exports};
use exports::dacapo::workflow::guest::{Delivery, Description, Guest, Offer, Progress};

const NAMES: &[&str] = &[
    "spins",
    "spins-later",
    "hoards",
    "recurses",
    "recurses-with-frames",
    "panics",
    "exits",
    "returns-garbage-text",
    "asks-with-garbage-text",
    "returns-a-huge-list",
    "cancels-the-unknown",
    "responds-to-nobody",
    "asks-without-end",
    "waits",
];

struct Module;

fn payload(data: &[u8]) -> types::Payload {
    types::Payload { content_type: "application/json".to_owned(), data: data.to_vec() }
}

/// Not UTF-8, whatever its type says.
#[allow(invalid_from_utf8_unchecked)]
fn garbage() -> String {
    // Not undefined in practice: it only crosses the boundary, where it is checked.
    unsafe { String::from_utf8_unchecked(vec![0xff, 0xfe, 0xc0]) }
}

/// On the machine's stack alone.
#[inline(never)]
fn recurse(depth: u64) -> u64 {
    if depth == u64::MAX { 1 } else { recurse(depth + 1).wrapping_mul(31) ^ depth }
}

/// On the stack in linear memory, which ends first.
fn recurse_with_frames(depth: u64) -> u64 {
    let frame = std::hint::black_box([depth; 64]);
    if depth == u64::MAX { 0 } else { recurse_with_frames(depth + 1) + frame[7] }
}

fn spin() -> ! {
    let mut n = 0u64;
    loop {
        n = std::hint::black_box(n.wrapping_add(1));
    }
}

fn misbehave(name: &str) -> Progress {
    match name {
        "spins" => spin(),
        "spins-later" => {
            context::delay(10);
            Progress::Suspended
        }
        "hoards" => {
            let mut all: Vec<Vec<u8>> = Vec::new();
            loop {
                all.push(vec![1; 1 << 20]);
                std::hint::black_box(&all);
            }
        }
        "recurses" => Progress::Completed(payload(recurse(std::hint::black_box(0)).to_string().as_bytes())),
        "recurses-with-frames" => Progress::Completed(payload(recurse_with_frames(0).to_string().as_bytes())),
        "panics" => panic!("the guest gives up"),
        "exits" => std::process::exit(3),
        "returns-garbage-text" => {
            Progress::Completed(types::Payload { content_type: garbage(), data: b"null".to_vec() })
        }
        "asks-with-garbage-text" => {
            context::wait_for_event(&garbage());
            Progress::Suspended
        }
        "returns-a-huge-list" => {
            // The list claims more bytes than there is memory.
            let data = unsafe { Vec::from_raw_parts(std::ptr::without_provenance_mut(1024), 0x7fff_0000, 0x7fff_0000) };
            Progress::Completed(types::Payload { content_type: "application/json".to_owned(), data })
        }
        "cancels-the-unknown" => {
            context::cancel(4_000_000_000);
            context::cancel(0);
            context::received(77);
            Progress::Completed(payload(b"\"nothing happened\""))
        }
        "responds-to-nobody" => {
            context::respond(7, Ok(&payload(b"null")));
            Progress::Suspended
        }
        "asks-without-end" => loop {
            context::now();
        },
        _ => {
            context::wait_for_event("go");
            Progress::Suspended
        }
    }
}

impl Guest for Module {
    fn describe() -> Description {
        let offer = |name: &&str| Offer {
            name: (*name).to_owned(),
            description: String::new(),
            input_schema: None,
            output_schema: None,
        };
        Description {
            sdk: "none".to_owned(),
            orchestrations: NAMES.iter().map(offer).collect(),
            queries: Vec::new(),
            updates: Vec::new(),
            entities: Vec::new(),
        }
    }

    fn start(orchestration: String, _input: types::Payload) -> Progress {
        misbehave(&orchestration)
    }

    fn resume(deliveries: Vec<Delivery>) -> Progress {
        match deliveries.first() {
            Some(Delivery::Completed(completion)) if completion.operation == 1 => {
                if context::info().orchestration == "spins-later" {
                    spin();
                }
                Progress::Completed(payload(b"\"went well\""))
            }
            _ => Progress::Suspended,
        }
    }

    fn query(_name: String, input: types::Payload) -> Result<types::Payload, types::Failure> {
        Ok(input)
    }
}

world::export_orchestration!(Module with_types_in world);

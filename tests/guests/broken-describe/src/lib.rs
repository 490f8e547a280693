//! A module whose `describe` traps.

use dacapo::workflow::types;
use dacapo_sdk::__private::bindings::orchestration::{self as world, dacapo, exports};
use exports::dacapo::workflow::guest;

struct Module;

impl guest::Guest for Module {
    fn describe() -> guest::Description {
        panic!("this module does not know what it offers")
    }

    fn start(_orchestration: String, _input: types::Payload) -> guest::Progress {
        guest::Progress::Suspended
    }

    fn resume(_deliveries: Vec<guest::Delivery>) -> guest::Progress {
        guest::Progress::Suspended
    }

    fn query(_name: String, input: types::Payload) -> Result<types::Payload, types::Failure> {
        Ok(input)
    }
}

world::export_orchestration!(Module with_types_in world);

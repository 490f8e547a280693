//! The one door to the host: every import of the orchestration world that the
//! SDK uses. In a component these are the imports themselves; in the SDK's own
//! tests a script stands behind them; elsewhere there is no host to ask.

pub(crate) use crate::bindings::orchestration::dacapo::workflow::context::{
    ActivityOptions, EntityId as WitEntityId, InstanceInfo, OrchestrationOptions,
};
pub(crate) use crate::bindings::types::{Failure, LogLine, Payload, Tag};

macro_rules! imports {
    ($(fn $name:ident($($argument:ident: $type:ty),*) $(-> $answer:ty)?;)+) => {
        /// What stands behind the imports.
        #[cfg_attr(target_family = "wasm", allow(dead_code))]
        pub(crate) trait Imports {
            $(fn $name(&self, $($argument: $type),*) $(-> $answer)?;)+
        }

        $(
            #[cfg(target_family = "wasm")]
            pub(crate) fn $name($($argument: $type),*) $(-> $answer)? {
                crate::bindings::orchestration::dacapo::workflow::context::$name($($argument),*)
            }

            #[cfg(not(target_family = "wasm"))]
            pub(crate) fn $name($($argument: $type),*) $(-> $answer)? {
                with_host(|host| host.$name($($argument),*))
            }
        )+
    };
}

imports! {
    fn info() -> InstanceInfo;
    fn now() -> u64;
    fn random() -> u64;
    fn new_guid() -> String;
    fn record_value(name: &str, value: &Payload) -> Payload;
    fn patched(id: &str) -> bool;
    fn call_activity(name: &str, input: &Payload, options: &ActivityOptions) -> u32;
    fn delay(ms: i64) -> Option<u32>;
    fn wait_for_event(name: &str) -> u32;
    fn call_entity(kind: &str, key: &str, operation: &str, input: &Payload, one_way: bool) -> u32;
    fn lock_entities(entities: &[WitEntityId]) -> u32;
    fn unlock_entities(lock: u32);
    fn received(operation: u32);
    fn call_orchestration(name: &str, input: &Payload, options: &OrchestrationOptions) -> u32;
    fn signal(instance: &str, event: &str, value: &Payload) -> u32;
    fn cancel(operation: u32);
    fn respond(request: u32, answer: Result<&Payload, &Failure>);
    fn set_custom_status(status: &Payload);
    fn set_tag(tag: &Tag);
    fn log(line: &LogLine);
}

#[cfg(not(target_family = "wasm"))]
mod native {
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::Imports;

    thread_local! {
        static HOST: RefCell<Option<Rc<dyn Imports>>> = const { RefCell::new(None) };
    }

    #[cfg(test)]
    pub(crate) fn set_host(host: Rc<dyn Imports>) {
        HOST.with(|slot| *slot.borrow_mut() = Some(host));
    }

    pub(super) fn with_host<R>(ask: impl FnOnce(&dyn Imports) -> R) -> R {
        match HOST.with(|slot| slot.borrow().clone()) {
            Some(host) => ask(&*host),
            None => panic!("an orchestration needs a dacapo host: compile it to wasm32-wasip2"),
        }
    }
}

#[cfg(all(test, not(target_family = "wasm")))]
pub(crate) use native::set_host;
#[cfg(not(target_family = "wasm"))]
use native::with_host;

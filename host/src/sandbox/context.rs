//! The `context` imports: each is one call into the core's recorder.

use wasmtime::component::HasSelf;

use super::bindings::orchestration::dacapo::workflow::{context as wit, types};
use super::guest::{GuestState, HostTrouble};
use super::interrupt::Interrupt;
use crate::core::payload::{Failure, FailureKind};
use crate::core::turn::{Recorder, Stop};

/// Makes the imports available to a component.
pub(super) fn add_to_linker(linker: &mut wasmtime::component::Linker<GuestState>) -> wasmtime::Result<()> {
    wit::add_to_linker::<_, HasSelf<GuestState>>(linker, |state| state)
}

impl GuestState {
    /// The recorder of the turn under way. In `describe` and `query` there is
    /// none, and asking for anything is the guest's mistake.
    fn turn(&mut self, import: &str) -> wasmtime::Result<&mut Recorder> {
        match (&mut self.recorder, self.calling) {
            (Some(recorder), "turn") => {
                interrupted(&self.interrupt, recorder, import)?;
                Ok(recorder)
            }
            (_, calling) => {
                let message = format!("{import} was called in {calling}, where only log may be");
                Err(stop(Stop::Failed(Failure::fatal(FailureKind::Trapped, message))))
            }
        }
    }
}

/// Abandons a live turn before `import` is answered, where the host wants that.
fn interrupted(interrupt: &Interrupt, recorder: &Recorder, import: &str) -> wasmtime::Result<()> {
    if recorder.is_live() && interrupt.at(&recorder.execution.started.instance, import) {
        return Err(wasmtime::Error::new(HostTrouble(format!("the turn was interrupted at {import}"))));
    }
    Ok(())
}

fn stop(stop: Stop) -> wasmtime::Error {
    wasmtime::Error::new(stop)
}

impl types::Host for GuestState {}

impl wit::Host for GuestState {
    fn info(&mut self) -> wasmtime::Result<wit::InstanceInfo> {
        // What never changes may be asked in a query too.
        let execution = match (&self.recorder, self.calling) {
            (Some(recorder), "query") => &recorder.execution,
            _ => &self.turn("info")?.execution,
        };
        let started = &execution.started;
        // In the turns that a fork shares, it is told what the other one was told.
        let shared = started.forked_from.as_deref().and_then(|from| from.told(execution.turns));
        let (instance, parent) = match shared {
            Some(from) => (&from.instance, &from.parent),
            None => (&started.instance, &started.parent),
        };
        Ok(wit::InstanceInfo {
            instance: instance.to_string(),
            execution: started.seen_execution(),
            orchestration: started.orchestration.clone(),
            module_hash: started.module.to_string(),
            started_at: execution.started_at.0,
            parent: parent.as_ref().map(ToString::to_string),
            tags: started
                .tags
                .iter()
                .map(|(name, value)| types::Tag { name: name.clone(), value: value.clone() })
                .collect(),
        })
    }

    fn now(&mut self) -> wasmtime::Result<u64> {
        self.turn("now")?.now().map(|time| time.0).map_err(stop)
    }

    fn random(&mut self) -> wasmtime::Result<u64> {
        self.turn("random")?.random().map_err(stop)
    }

    fn new_guid(&mut self) -> wasmtime::Result<String> {
        self.turn("new-guid")?.new_guid().map_err(stop)
    }

    fn record_value(&mut self, name: String, value: types::Payload) -> wasmtime::Result<types::Payload> {
        self.turn("record-value")?.record_value(name, value.into()).map(Into::into).map_err(stop)
    }

    fn patched(&mut self, id: String) -> wasmtime::Result<bool> {
        self.turn("patched")?.patched(id).map_err(stop)
    }

    fn call_activity(
        &mut self,
        name: String,
        input: types::Payload,
        options: wit::ActivityOptions,
    ) -> wasmtime::Result<u32> {
        self.turn("call-activity")?.call_activity(name, input.into(), options.into()).map_err(stop)
    }

    fn delay(&mut self, ms: i64) -> wasmtime::Result<Option<u32>> {
        self.turn("delay")?.delay(ms).map_err(stop)
    }

    fn wait_for_event(&mut self, name: String) -> wasmtime::Result<u32> {
        self.turn("wait-for-event")?.wait_for_event(name).map_err(stop)
    }

    fn received(&mut self, operation: u32) -> wasmtime::Result<()> {
        self.turn("received")?.received(operation);
        Ok(())
    }

    fn call_orchestration(
        &mut self,
        name: String,
        input: types::Payload,
        options: wit::OrchestrationOptions,
    ) -> wasmtime::Result<u32> {
        let instance = options.instance.clone();
        let turn = self.turn("call-orchestration")?;
        turn.call_orchestration(name, input.into(), instance.as_deref(), options.into()).map_err(stop)
    }

    fn signal(&mut self, instance: String, event: String, value: types::Payload) -> wasmtime::Result<u32> {
        self.turn("signal")?.signal(&instance, event, value.into()).map_err(stop)
    }

    fn call_entity(
        &mut self,
        kind: String,
        key: String,
        operation: String,
        input: types::Payload,
        one_way: bool,
    ) -> wasmtime::Result<u32> {
        self.turn("call-entity")?.call_entity(&kind, &key, operation, input.into(), one_way).map_err(stop)
    }

    fn lock_entities(&mut self, entities: Vec<wit::EntityId>) -> wasmtime::Result<u32> {
        let entities: Vec<_> = entities.into_iter().map(|entity| (entity.kind, entity.key)).collect();
        self.turn("lock-entities")?.lock_entities(&entities).map_err(stop)
    }

    fn unlock_entities(&mut self, lock: u32) -> wasmtime::Result<()> {
        self.turn("unlock-entities")?.unlock_entities(lock).map_err(stop)
    }

    fn cancel(&mut self, operation: u32) -> wasmtime::Result<()> {
        self.turn("cancel")?.cancel(operation).map_err(stop)
    }

    fn respond(&mut self, request: u32, answer: Result<types::Payload, types::Failure>) -> wasmtime::Result<()> {
        self.turn("respond")?.respond(request, answer.map(Into::into).map_err(Into::into)).map_err(stop)
    }

    fn set_custom_status(&mut self, status: types::Payload) -> wasmtime::Result<()> {
        self.turn("set-custom-status")?.set_custom_status(status.into()).map_err(stop)
    }

    fn set_tag(&mut self, tag: types::Tag) -> wasmtime::Result<()> {
        self.turn("set-tag")?.set_tag(tag.name, tag.value).map_err(stop)
    }

    fn log(&mut self, line: types::LogLine) -> wasmtime::Result<()> {
        if let Some(recorder) = &mut self.recorder {
            if self.calling == "turn" {
                interrupted(&self.interrupt, recorder, "log")?;
            }
            recorder.log(line.into());
        }
        Ok(())
    }
}

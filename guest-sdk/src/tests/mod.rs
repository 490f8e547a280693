//! Orchestrations on a scripted host: what they ask for, in which order, and when
//! they are polled. `Script` is the host; each test drives it turn by turn.

mod ending;
mod order;

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use futures::future::LocalBoxFuture;

use crate::bindings::orchestration::exports::dacapo::workflow::guest::{Completion, Delivery, Progress};
use crate::bindings::types as wit;
use crate::guest::{self, Exported, Orchestration};
use crate::imports::{self, Imports};
use crate::{Context, Payload};

/// Writes down every request; operations count from 1, time starts at 1000 ms.
#[derive(Default)]
struct Script {
    asked: RefCell<Vec<String>>,
    operations: Cell<u32>,
}

impl Script {
    /// The host of this test's thread.
    fn install() -> Rc<Self> {
        let script = Rc::new(Self::default());
        imports::set_host(Rc::clone(&script) as Rc<dyn Imports>);
        script
    }

    /// What was asked since the last time.
    fn asked(&self) -> Vec<String> {
        self.asked.take()
    }

    fn note(&self, line: String) {
        self.asked.borrow_mut().push(line);
    }

    fn operation(&self, line: String) -> u32 {
        let id = self.operations.get() + 1;
        self.operations.set(id);
        self.note(format!("{id}: {line}"));
        id
    }
}

impl Imports for Script {
    fn info(&self) -> imports::InstanceInfo {
        imports::InstanceInfo {
            instance: "order-42".to_owned(),
            execution: 1,
            orchestration: "test".to_owned(),
            module_hash: "0".repeat(64),
            started_at: 1000,
            parent: None,
            tags: Vec::new(),
        }
    }
    fn now(&self) -> u64 {
        self.note("now".to_owned());
        1000
    }
    fn random(&self) -> u64 {
        self.note("random".to_owned());
        u64::MAX
    }
    fn new_guid(&self) -> String {
        self.note("guid".to_owned());
        "00000000-0000-4000-8000-000000000000".to_owned()
    }
    fn record_value(&self, name: &str, value: &wit::Payload) -> wit::Payload {
        self.note(format!("record {name}"));
        value.clone()
    }
    fn patched(&self, id: &str) -> bool {
        self.note(format!("patched {id}"));
        true
    }
    fn call_activity(&self, name: &str, input: &wit::Payload, options: &imports::ActivityOptions) -> u32 {
        let input = String::from_utf8_lossy(&input.data).into_owned();
        let attempts = options.retry.as_ref().map_or(1, |retry| retry.max_attempts);
        self.operation(format!("call {name} {input} x{attempts}"))
    }
    fn delay(&self, ms: i64) -> Option<u32> {
        (ms > 0).then(|| self.operation(format!("delay {ms}")))
    }
    fn wait_for_event(&self, name: &str) -> u32 {
        self.operation(format!("wait for {name}"))
    }
    fn signal(&self, instance: &str, event: &str, value: &wit::Payload) -> u32 {
        self.operation(format!("signal {instance} {event} {}", String::from_utf8_lossy(&value.data)))
    }
    fn call_orchestration(&self, name: &str, input: &wit::Payload, options: &imports::OrchestrationOptions) -> u32 {
        let instance = options.instance.as_deref().unwrap_or("an id of its own");
        self.operation(format!("orchestrate {name} {} as {instance}", String::from_utf8_lossy(&input.data)))
    }
    fn call_entity(&self, kind: &str, key: &str, operation: &str, input: &wit::Payload, one_way: bool) -> u32 {
        let (how, input) = (if one_way { "signal" } else { "call" }, String::from_utf8_lossy(&input.data).into_owned());
        self.operation(format!("{how} {operation} of {kind} {key} {input}"))
    }
    fn lock_entities(&self, entities: &[imports::WitEntityId]) -> u32 {
        let names: Vec<_> = entities.iter().map(|entity| format!("{} {}", entity.kind, entity.key)).collect();
        self.operation(format!("lock {}", names.join(", ")))
    }
    fn unlock_entities(&self, lock: u32) {
        self.note(format!("unlock {lock}"));
    }
    fn received(&self, operation: u32) {
        self.note(format!("received {operation}"));
    }
    fn cancel(&self, operation: u32) {
        self.note(format!("cancel {operation}"));
    }
    fn respond(&self, request: u32, answer: Result<&wit::Payload, &wit::Failure>) {
        self.note(format!("respond {request} {}", answer.is_ok()));
    }
    fn set_custom_status(&self, status: &wit::Payload) {
        self.note(format!("status {}", String::from_utf8_lossy(&status.data)));
    }
    fn set_tag(&self, tag: &wit::Tag) {
        self.note(format!("tag {}={}", tag.name, tag.value));
    }
    fn log(&self, line: &wit::LogLine) {
        self.note(format!("log {}", line.message));
    }
}

/// Starts the orchestration `O` with `input`, given as JSON.
fn start<O: Orchestration>(input: &str) -> String {
    show(guest::start(&[Exported::of::<O>()], &[], O::NAME, json(input)))
}

/// Completes operations with JSON, in this order, in one turn.
fn complete(completions: &[(u32, &str)]) -> String {
    let deliveries = completions.iter().map(|(operation, output)| {
        Delivery::Completed(Completion { operation: *operation, outcome: Ok(json(output)) })
    });
    show(guest::resume(deliveries.collect()))
}

/// Fails an operation, its activity declining.
fn fail(operation: u32) -> String {
    let failure = wit::Failure {
        kind: wit::FailureKind::Application,
        error_type: "Declined".to_owned(),
        message: "no".to_owned(),
        non_retryable: true,
        details: None,
    };
    let outcome = Err(failure);
    show(guest::resume(vec![Delivery::Completed(Completion { operation, outcome })]))
}

fn json(text: &str) -> wit::Payload {
    wit::Payload { content_type: "application/json".to_owned(), data: text.as_bytes().to_vec() }
}

fn show(progress: Progress) -> String {
    let text = |payload: wit::Payload| String::from_utf8_lossy(&payload.data).into_owned();
    match progress {
        Progress::Suspended => "suspended".to_owned(),
        Progress::Completed(output) => format!("completed {}", text(output)),
        Progress::Failed(failure) => {
            let details = failure.details.map(text).unwrap_or_default();
            format!("failed {} {details}", failure.message).trim_end().to_owned()
        }
        Progress::ContinueAsNew(input) => format!("continue as new {}", text(input)),
    }
}

/// An orchestration from a plain function, for tests that need no macro.
macro_rules! orchestrations {
    ($($name:ident => $body:expr;)+) => {$(
        #[allow(non_camel_case_types)]
        struct $name;
        impl Orchestration for $name {
            const NAME: &'static str = stringify!($name);
            const DESCRIPTION: &'static str = "";
            fn schemas() -> (Option<String>, Option<String>) {
                (None, None)
            }
            fn run(
                ctx: Context,
                input: Payload,
            ) -> LocalBoxFuture<'static, crate::Result<Payload>> {
                let body = $body;
                Box::pin(async move {
                    let output = body(ctx, input.decode_as(concat!("input of ", stringify!($name)))?).await?;
                    Payload::json(&output)
                })
            }
        }
    )+};
}
use orchestrations;

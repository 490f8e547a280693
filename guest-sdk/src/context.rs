//! `Context`: what an orchestration can ask for. Thin: values are answered by
//! the host at once, operations are futures of [`crate::operation`], tasks
//! belong to [`crate::executor`].

use std::borrow::Cow;
use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::ops::RangeInclusive;
use std::rc::Rc;
use std::time::Duration;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::activity_call::ActivityCall;
use crate::entity::{Entity, EntityId};
use crate::entity_call::{EntityCall, Locking};
use crate::error::{Error, Result};
use crate::executor::{self, Cancelled, JoinHandle};
use crate::imports;
use crate::intercept::{self, CallInterceptor};
use crate::operation::{Delay, Operation, Request, SignalRequest};
use crate::orchestration_call::{Callable, OrchestrationCall};
use crate::payload::Payload;
use crate::time::Timestamp;
use crate::update::Update;

/// An orchestration's only way to learn anything about the world. Every answer
/// is recorded, and is the same at every replay.
///
/// It is a handle: cloning costs nothing, all clones are the same.
#[derive(Clone)]
pub struct Context {
    /// A component instance has one thread and one orchestration.
    not_send: PhantomData<Rc<()>>,
}

/// What never changes within an execution.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Info {
    /// The id under which the instance was started.
    pub instance: String,
    /// 1 for the first life of the instance; continue-as-new starts the next.
    pub execution: u32,
    /// The name under which the orchestration was started.
    pub orchestration: String,
    /// BLAKE3 of the module's bytes, 64 hexadecimal digits.
    pub module_hash: String,
    /// When this execution started.
    pub started_at: Timestamp,
    /// The instance that called this one, if one did.
    pub parent: Option<String>,
    /// The tags it was started with, as name and value.
    pub tags: Vec<(String, String)>,
}

/// A version 4 UUID in its usual 36-character form.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(transparent)]
#[schemars(inline)]
pub struct Guid(String);

impl Context {
    pub(crate) const fn new() -> Self {
        Self { not_send: PhantomData }
    }

    /// What never changes within an execution. Not recorded again.
    pub fn info(&self) -> Info {
        let info = imports::info();
        Info {
            instance: info.instance,
            execution: info.execution,
            orchestration: info.orchestration,
            module_hash: info.module_hash,
            started_at: Timestamp::from_unix_ms(info.started_at),
            parent: info.parent,
            tags: info.tags.into_iter().map(|tag| (tag.name, tag.value)).collect(),
        }
    }

    /// Puts `interceptor` around every activity, every other orchestration and every
    /// entity that is called from here on, by whatever part of this one; the first one
    /// given is the outermost.
    ///
    /// ```no_run
    /// # use dacapo_sdk::{CallInterceptor, Called, Context, Payload, Result, tracing};
    /// struct Traced;
    ///
    /// impl CallInterceptor for Traced {
    ///     fn after(&self, called: Called<'_>, outcome: Result<Payload>) -> Result<Payload> {
    ///         tracing::info!(name = called.name, succeeded = outcome.is_ok());
    ///         outcome
    ///     }
    /// }
    /// # fn f(ctx: &Context) {
    /// ctx.intercept(Traced);
    /// # }
    /// ```
    pub fn intercept(&self, interceptor: impl CallInterceptor + 'static) {
        intercept::add(Rc::new(interceptor));
    }

    // ---- values: recorded, answered at once ----

    /// The time of this turn. It stands still while the orchestration runs.
    ///
    /// ```no_run
    /// # use dacapo_sdk::{Context, Guid, Timestamp};
    /// # fn f(ctx: Context) -> (Timestamp, Guid, u64) {
    /// (ctx.now(), ctx.new_guid(), ctx.random())
    /// # }
    /// ```
    pub fn now(&self) -> Timestamp {
        Timestamp::from_unix_ms(imports::now())
    }

    /// 64 random bits.
    pub fn random(&self) -> u64 {
        imports::random()
    }

    /// A random number of `range`, each equally likely (to within 2^-64 times its
    /// length).
    ///
    /// # Panics
    /// If `range` is empty.
    pub fn random_range(&self, range: RangeInclusive<u64>) -> u64 {
        let (first, last) = range.into_inner();
        assert!(first <= last, "random_range of the empty range {first}..={last}");
        let length = u128::from(last - first) + 1;
        let offset = (u128::from(self.random()) * length) >> 64;
        // Less than `length`, so it fits.
        first + u64::try_from(offset).unwrap_or(u64::MAX)
    }

    /// A new version 4 UUID.
    pub fn new_guid(&self) -> Guid {
        Guid(imports::new_guid())
    }

    /// Records what the orchestration computed itself and returns what was
    /// recorded. At replay `value` is called again, but the recording is returned:
    /// a changed computation does not change a running instance.
    ///
    /// ```no_run
    /// # fn f(ctx: &dacapo_sdk::Context) -> dacapo_sdk::Result<()> {
    /// let in_the_trial = ctx.record("trial", || ctx.random_range(1..=100) <= 5)?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// The value cannot be written as JSON, or the recorded one is no `T`.
    pub fn record<T: Serialize + DeserializeOwned>(&self, name: &str, value: impl FnOnce() -> T) -> Result<T> {
        let given = Payload::json(&value())?;
        let recorded = Payload::from(imports::record_value(name, &given.into()));
        recorded.decode_as(format_args!("recorded value {name:?}"))
    }

    /// True where the changed code of `id` is to run: in executions that reach
    /// this call live for the first time, and at their replays. False at the
    /// replay of a history recorded before the call was in the code.
    ///
    /// ```no_run
    /// # async fn f(ctx: dacapo_sdk::Context, parcel: String) -> dacapo_sdk::Result<()> {
    /// if ctx.patched("insure") {
    ///     ctx.call_activity::<()>("parcels.insure", &parcel).await?;
    /// }
    /// # Ok(()) }
    /// ```
    pub fn patched(&self, id: &str) -> bool {
        imports::patched(id)
    }

    // ---- operations: recorded, completed later ----

    /// Completes after `length`, exact to the millisecond, counted from when it is
    /// first polled or started. A length of zero completes at once and records
    /// nothing.
    ///
    /// ```no_run
    /// # async fn f(ctx: dacapo_sdk::Context) {
    /// ctx.delay(std::time::Duration::from_secs(3 * 24 * 3600)).await;
    /// # }
    /// ```
    pub fn delay(&self, length: Duration) -> Delay {
        // Rounded up: never early, and a part of a millisecond is not nothing.
        let ms = i64::try_from(length.as_nanos().div_ceil(1_000_000)).unwrap_or(i64::MAX);
        Delay::new(Request::Delay { ms })
    }

    /// Completes at `time`; at once if that has passed. Reads `now` to know.
    pub fn delay_until(&self, time: Timestamp) -> Delay {
        Delay::new(Request::DelayUntil(time))
    }

    /// Completes with the first event of that name that no earlier wait has taken,
    /// be it here already or yet to come.
    ///
    /// ```no_run
    /// # async fn f(ctx: dacapo_sdk::Context) -> dacapo_sdk::Result<()> {
    /// let approver = ctx.wait_for_event::<String>("approved").await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// The event's payload is no `T`.
    pub fn wait_for_event<T: DeserializeOwned>(&self, name: impl Into<Cow<'static, str>>) -> Operation<T> {
        Operation::new("event", name.into(), Request::Event)
    }

    /// Calls an activity by its name, `service.method`. Typed proxies
    /// ([`activities`](crate::activities)) are the better way where the name is
    /// known.
    pub fn call_activity<T: DeserializeOwned>(
        &self,
        name: impl Into<Cow<'static, str>>,
        input: &(impl Serialize + ?Sized),
    ) -> ActivityCall<T> {
        ActivityCall::new(name.into(), Payload::json(input))
    }

    /// Calls another orchestration of this program by its type, which has its
    /// function's name: `ctx.call::<ship>(&parcel).await?`. See [`OrchestrationCall`]
    /// for what can be said of it.
    pub fn call<O: Callable>(&self, input: &O::Input) -> OrchestrationCall<O::Output>
    where
        O::Input: Serialize,
    {
        OrchestrationCall::new(Cow::Borrowed(O::NAME), Payload::json(input))
    }

    /// Calls an orchestration by its name, of this module or of another one.
    pub fn call_orchestration<T: DeserializeOwned>(
        &self,
        name: impl Into<Cow<'static, str>>,
        input: &(impl Serialize + ?Sized),
    ) -> OrchestrationCall<T> {
        OrchestrationCall::new(name.into(), Payload::json(input))
    }

    /// Raises an event on another instance, exactly once. Completes when the event
    /// is in that instance's journal. Once asked for it is sent, also if this is
    /// dropped, and also if the orchestration ends before.
    ///
    /// ```no_run
    /// # async fn f(ctx: dacapo_sdk::Context) -> dacapo_sdk::Result<()> {
    /// ctx.signal("order-42", "paid", &1999).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// Of kind [`NotFound`](crate::FailureKind::NotFound), type `UnknownInstance` or
    /// `InstanceEnded`: there is nobody who could take it.
    pub fn signal(
        &self,
        instance: impl Into<String>,
        event: impl Into<Cow<'static, str>>,
        value: &(impl Serialize + ?Sized),
    ) -> Operation<()> {
        let request = SignalRequest { to: instance.into(), value: Payload::json(value) };
        Operation::new("signal", event.into(), Request::Signal(Box::new(request)))
    }

    /// The entity of that kind and key, to be called, signalled and locked; it need
    /// not exist yet.
    ///
    /// ```no_run
    /// # use dacapo_sdk::{Context, Result, entity};
    /// # use dacapo_sdk::serde::{Deserialize, Serialize};
    /// # #[derive(Clone, Default, Serialize, Deserialize)]
    /// # #[serde(crate = "dacapo_sdk::serde")]
    /// # struct Account(u64);
    /// # #[entity]
    /// # impl Account {
    /// #     pub fn deposit(&mut self, amount: u64) -> Result<u64> { self.0 += amount; Ok(self.0) }
    /// # }
    /// # async fn f(ctx: Context) -> Result<()> {
    /// let ada = ctx.entity::<Account>("ada");
    /// let balance = ada.deposit(5).await?;
    /// ada.deposit(5).signal().await?;
    /// # Ok(()) }
    /// ```
    pub fn entity<E: Entity>(&self, key: impl Into<String>) -> E::Proxy {
        E::proxy(self, key.into())
    }

    /// Calls an operation of an entity by its name, where its type is not known; see
    /// [`Context::entity`].
    pub fn call_entity<T: DeserializeOwned>(
        &self,
        entity: EntityId,
        operation: impl Into<Cow<'static, str>>,
        input: &(impl Serialize + ?Sized),
    ) -> EntityCall<T> {
        EntityCall::new(entity, operation.into(), Payload::json(input))
    }

    /// Takes entities for this orchestration alone: until the lock is dropped, or
    /// the execution ends in whatever way, only its own operations reach them. They
    /// are locked one after the other in a fixed order, so lockers of overlapping
    /// sets never wait for each other for ever. For the same reason, while a lock is
    /// held there is no second one, and only locked entities are called.
    ///
    /// ```no_run
    /// # use dacapo_sdk::{Context, Result, bail, entity};
    /// # use dacapo_sdk::serde::{Deserialize, Serialize};
    /// # #[derive(Clone, Default, Serialize, Deserialize)]
    /// # #[serde(crate = "dacapo_sdk::serde")]
    /// # struct Account(i64);
    /// # #[entity]
    /// # impl Account {
    /// #     pub fn add(&mut self, amount: i64) -> Result<i64> { self.0 += amount; Ok(self.0) }
    /// # }
    /// # async fn f(ctx: Context) -> Result<()> {
    /// let (from, to) = (ctx.entity::<Account>("ada"), ctx.entity::<Account>("bob"));
    /// let both = ctx.lock([&from, &to]).await?;
    /// from.add(-5).await?;
    /// to.add(5).await?;
    /// drop(both);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// Of kind [`Unsupported`](crate::FailureKind::Unsupported) where it could wait for
    /// ever; [`NotFound`](crate::FailureKind::NotFound) if no module offers a kind.
    pub fn lock<I: Into<EntityId>>(&self, entities: impl IntoIterator<Item = I>) -> Locking {
        Locking::new(entities.into_iter().map(Into::into).collect())
    }

    /// Runs `future` beside this one. What still runs when the orchestration
    /// returns is let go without a trace.
    ///
    /// ```no_run
    /// # async fn f(ctx: dacapo_sdk::Context) -> dacapo_sdk::Result<()> {
    /// let own = ctx.clone();
    /// let printing = ctx.spawn(async move { own.call_activity::<u32>("printer.print", "page").await });
    /// ctx.wait_for_event::<()>("paid").await?;
    /// let pages = printing.await?;
    /// # Ok(()) }
    /// ```
    pub fn spawn<F: Future + 'static>(&self, future: F) -> JoinHandle<F::Output> {
        executor::spawn(future)
    }

    // ---- the end, and what comes before it ----

    /// Ends this execution; the next one of the same instance starts with `input`.
    ///
    /// ```no_run
    /// # use dacapo_sdk::{Context, Result};
    /// async fn count(ctx: Context, n: u32) -> Result<u32> {
    ///     if n < 1000 {
    ///         return ctx.continue_as_new(n + 1);
    ///     }
    ///     Ok(n)
    /// }
    /// ```
    ///
    /// # Errors
    /// Always: the "error" carries `input` up to where the orchestration returns.
    pub fn continue_as_new<T>(&self, input: impl Serialize) -> Result<T> {
        Err(Error::continue_as_new(Payload::json(&input)?))
    }

    /// Completes with the reason when somebody asks the instance to end.
    ///
    /// ```no_run
    /// # use dacapo_sdk::{Context, Error, Result, futures::{FutureExt as _, select_biased}};
    /// # async fn f(ctx: Context) -> Result<()> {
    /// select_biased! {
    ///     reason = ctx.cancelled().fuse() => return Err(Error::new(reason).with_type("Cancelled")),
    ///     paid = ctx.wait_for_event::<()>("paid") => paid?,
    /// }
    /// # Ok(()) }
    /// ```
    pub fn cancelled(&self) -> Cancelled {
        Cancelled::default()
    }

    /// True once somebody has asked the instance to end.
    pub fn is_cancelled(&self) -> bool {
        executor::cancellation_reason().is_some()
    }

    // ---- appearances ----

    /// A short value for people and lists.
    ///
    /// ```no_run
    /// # fn f(ctx: dacapo_sdk::Context) {
    /// ctx.custom_status("waiting for the approval");
    /// ctx.set_tag("customer", "42");
    /// # }
    /// ```
    ///
    /// # Panics
    /// If JSON cannot express it.
    pub fn custom_status(&self, status: &(impl Serialize + ?Sized)) {
        match Payload::json(status) {
            Ok(payload) => imports::set_custom_status(&payload.into()),
            Err(error) => panic!("custom status: {error}"),
        }
    }

    /// Adds or replaces a tag, by which instances are found; an empty value
    /// removes it.
    pub fn set_tag(&self, name: impl Into<String>, value: impl Into<String>) {
        imports::set_tag(&imports::Tag { name: name.into(), value: value.into() });
    }

    /// Answers updates of that name from now on: requests that may change the
    /// orchestration and wait for what comes of it. The handler is a task beside the
    /// orchestration; it may call activities, wait, and take its time. The caller is
    /// answered when the answer is durable.
    ///
    /// Register before the first `await`. An update that comes before its handler is
    /// there, or that has none, is refused with the names that there are; one that
    /// is not answered when the execution ends fails for its caller, and is handed
    /// to the next execution if this one continues as new.
    ///
    /// ```no_run
    /// # use std::{cell::RefCell, rc::Rc};
    /// # fn f(ctx: dacapo_sdk::Context) {
    /// let items = Rc::new(RefCell::new(Vec::new()));
    /// let cart = Rc::clone(&items);
    /// ctx.on_update("add", move |item: String| {
    ///     let cart = Rc::clone(&cart);
    ///     async move {
    ///         cart.borrow_mut().push(item);
    ///         Ok(cart.borrow().len())
    ///     }
    /// })
    /// .validate(|item| if item.is_empty() { dacapo_sdk::bail!("an item has a name") } else { Ok(()) });
    /// # }
    /// ```
    pub fn on_update<I, O, F>(&self, name: impl Into<String>, handler: impl Fn(I) -> F + 'static) -> Update<I>
    where
        I: DeserializeOwned + 'static,
        O: Serialize,
        F: Future<Output = Result<O>> + 'static,
    {
        Update::register(name.into(), handler)
    }

    /// Answers queries of that name from now on. The handler reads live state; it
    /// cannot ask the host for anything, and what it changes is thrown away.
    ///
    /// ```no_run
    /// # use std::{cell::Cell, rc::Rc};
    /// # fn f(ctx: dacapo_sdk::Context) {
    /// let done = Rc::new(Cell::new(0));
    /// let seen = Rc::clone(&done);
    /// ctx.on_query("done", move |()| Ok(seen.get()));
    /// # }
    /// ```
    pub fn on_query<I: DeserializeOwned, O: Serialize>(
        &self,
        name: impl Into<String>,
        handler: impl Fn(I) -> Result<O> + 'static,
    ) {
        let name = name.into();
        let what = format!("input of query {name:?}");
        let answer = move |input: Payload| Payload::json(&handler(input.decode_as(&what)?)?);
        executor::set_query(name, Rc::new(answer));
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Context")
    }
}

impl Guid {
    /// The 36 characters.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<Guid> for String {
    fn from(guid: Guid) -> Self {
        guid.0
    }
}

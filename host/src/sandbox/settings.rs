//! How wasmtime is configured for orchestrations, each setting with its reason.

use std::time::Duration;

use super::interrupt::Interrupt;
use super::outbound::Resolver;
use super::secrets::Secrets;
use wasmtime::{Config, InstanceAllocationStrategy, OptLevel, PoolingAllocationConfig, WasmFeatures};

/// What a guest is granted.
#[derive(Clone, Debug)]
pub struct SandboxSettings {
    /// Time of one turn, in which the guest runs without waiting.
    pub turn_budget: Duration,
    /// Linear memory of one guest, bytes.
    pub memory_bytes: usize,
    /// Of those in a namespace, by its name, if that is less.
    pub memory_of: std::collections::BTreeMap<String, usize>,
    /// Stack of a guest, bytes.
    pub stack_bytes: usize,
    /// Guests in memory at the same time. More instances than that may run: those
    /// that wait longest make room, and are replayed when they go on.
    pub resident_guests: u32,
    /// Activities in wasm that run at the same time. An engine sets it from its own
    /// settings.
    pub activities: u32,
    /// Largest module that is taken, bytes.
    pub module_bytes: usize,
    /// What activities may be granted by name.
    pub secrets: Secrets,
    /// How names of hosts are resolved for activities.
    pub resolver: Resolver,
    /// Where a turn that runs is abandoned, to be run again.
    pub interrupt: Interrupt,
}

impl SandboxSettings {
    /// The memory that a guest of that namespace may have, bytes.
    pub fn memory_of(&self, namespace: &crate::core::namespace::Namespace) -> usize {
        self.memory_of.get(namespace.name()).map_or(self.memory_bytes, |bytes| self.memory_bytes.min(*bytes))
    }
}

impl Default for SandboxSettings {
    fn default() -> Self {
        Self {
            turn_budget: Duration::from_secs(10),
            memory_bytes: 64 << 20,
            memory_of: std::collections::BTreeMap::new(),
            stack_bytes: 512 << 10,
            resident_guests: 4096,
            activities: 256,
            module_bytes: 32 << 20,
            secrets: Secrets::default(),
            resolver: Resolver::default(),
            interrupt: Interrupt::default(),
        }
    }
}

/// With more activities at a time than this, each gets its memory when it begins.
const MOST_POOLED: u32 = 4096;

/// Parts of components that are wiped together.
const WIPED_AT_ONCE: u32 = 32;

/// Threads that wipe at a time, at most: each place takes 4 GiB of addresses.
const WIPING: usize = 16;

/// The epoch's step: a turn's budget is counted in these.
pub(super) const TICK: Duration = Duration::from_millis(10);

/// Configuration of the engine that runs orchestrations: everything that could
/// differ between two runs is fixed or turned off.
pub(super) fn orchestration_config(settings: &SandboxSettings) -> Config {
    let mut config = Config::new();
    config
        // The bits of a NaN differ between processors; make them one.
        .cranelift_nan_canonicalization(true)
        // Relaxed SIMD may answer differently by processor; its fixed form does not.
        .relaxed_simd_deterministic(true)
        // Two threads are an order that nobody records.
        .wasm_features(WasmFeatures::THREADS | WasmFeatures::SHARED_EVERYTHING_THREADS, false)
        .shared_memory(false)
        // The guest cannot wait inside a call, so it needs no stack of its own.
        .concurrency_support(false)
        // A bounded stack: recursion without end is a trap at the same depth.
        .max_wasm_stack(settings.stack_bytes)
        // A turn that never ends is stopped by the clock, at no cost to the others.
        .epoch_interruption(true)
        // A trap names the function and line; frames are cheap until one is taken.
        .wasm_backtrace_details(wasmtime::WasmBacktraceDetails::Enable)
        .cranelift_opt_level(OptLevel::Speed)
        // Memory starts as a copy-on-write image of the module's data.
        .memory_init_cow(true);
    let guests = settings.resident_guests;
    let mut pool = pool(settings, guests.saturating_add(being_wiped(guests)));
    pool.max_memories_per_component(1);
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    config
}

/// Places that the threads of this machine wipe at a time: they are in nobody's hands until
/// they are clean, and no guest is to be refused for that.
fn being_wiped(guests: u32) -> u32 {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(WIPING);
    // Where guests are few, few are wiped.
    WIPED_AT_ONCE.saturating_mul(threads as u32).min(guests.saturating_mul(4))
}

/// Room for so many components at a time, made once: what one touched is wiped
/// for the next, which so starts without page faults.
fn pool(settings: &SandboxSettings, components: u32) -> PoolingAllocationConfig {
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(components)
        // A Rust component is one core instance; componentize-js and -py have a few.
        .total_core_instances(components.saturating_mul(4))
        .total_memories(components)
        .total_tables(components.saturating_mul(4))
        .max_memory_size(settings.memory_bytes)
        .table_elements(20_000)
        // Up to this size it is wiped rather than unmapped.
        .linear_memory_keep_resident(128 << 10)
        .table_keep_resident(16 << 10)
        // The kernel says which pages were written, where it can: only those are
        // wiped, wherever in the memory they are.
        .pagemap_scan(wasmtime::Enabled::Auto)
        // The kernel is asked to take pages back for many components at once.
        .decommit_batch_size(WIPED_AT_ONCE as usize);
    pool
}

/// Configuration of the engine that runs activities: real WASI, asynchronous,
/// and nothing that must be the same twice.
pub(super) fn activity_config(settings: &SandboxSettings) -> Config {
    let mut config = Config::new();
    config
        .max_wasm_stack(settings.stack_bytes)
        .async_stack_size(settings.stack_bytes + (512 << 10))
        // A busy activity gives way to others at every tick.
        .epoch_interruption(true)
        .wasm_backtrace_details(wasmtime::WasmBacktraceDetails::Enable)
        .memory_init_cow(true)
        // No more address space for each than it may use: then many fit, and the
        // code checks its bounds itself.
        .memory_reservation(settings.memory_bytes as u64)
        .memory_guard_size(64 << 10);
    if settings.activities <= MOST_POOLED {
        // One that has two memories takes the room of two, and some are described
        // while others run.
        let components = settings.activities * 2 + 16;
        let mut pool = pool(settings, components);
        pool.total_stacks(components).async_stack_keep_resident(32 << 10);
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    }
    config
}

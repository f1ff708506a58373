//! The settings of the Wasm runtime, each with its reason.

use wasmtime::{
    Config, Enabled, InstanceAllocationStrategy, OptLevel, PoolingAllocationConfig, Result,
    WasmBacktraceDetails,
};

/// Most linear memory that any instance may have: the address space of 32 bits.
pub const MEMORY_BYTES_MAX: usize = 4 << 30;
/// Largest image of a memory that is sure to be mapped copy-on-write, in bytes.
pub const IMAGE_BYTES_MAX: u64 = 64 << 20;
/// Stack of a guest, in bytes; well under [`ASYNC_STACK_BYTES`], so that host calls have room left.
const WASM_STACK_BYTES: usize = 512 << 10;
/// Stack of a guest's fibre with the host functions that it calls, in bytes.
const ASYNC_STACK_BYTES: usize = 2 << 20;
/// Memory of a pooled slot that is kept (and zeroed by hand) between instances, in bytes: cheaper than giving
/// the pages back and faulting them in again (measured 40 us against 46 us an instance).
const KEEP_RESIDENT_BYTES: usize = 1 << 20;

/// Slots that were used and are free, in all, before one that was never used is taken: each keeps what it has
/// resident ([`KEEP_RESIDENT_BYTES`] at most), also for functions that are cold again. Above it, the slots of
/// other functions are reused, which costs a mapping.
const UNUSED_SLOTS_MAX: u32 = 16;

/// What both the compiling child and the serving host agree on: the compiled code depends on these.
pub(crate) fn common() -> Config {
    let mut config = Config::new();
    // Guests are interrupted by epochs: 1.4 % on a loop, where fuel costs 5 %.
    config.epoch_interruption(true);
    config.max_wasm_stack(WASM_STACK_BYTES);
    config.async_stack_size(ASYNC_STACK_BYTES);
    config.cranelift_opt_level(OptLevel::Speed);
    // No p3 guests yet; without the bookkeeping an instance costs 24 us instead of 40.
    config.concurrency_support(false);
    // Proposals that no function needs, each a surface of its own.
    config.wasm_memory64(false);
    config.wasm_multi_memory(false);
    config.wasm_relaxed_simd(false);
    config.wasm_tail_call(false);
    // Bounds checks stay off the fast path: 4 GiB reserved and guarded (smaller reservations cost about 13
    // %).
    config.memory_reservation(4 << 30);
    config.memory_guard_size(32 << 20);
    config.memory_guaranteed_dense_image_size(IMAGE_BYTES_MAX);
    config.memory_init_cow(true);
    // A trap's message names functions, never lines of a tenant's source.
    config.wasm_backtrace_details(WasmBacktraceDetails::Disable);
    config
}

/// Settings of the host that runs guests: instances come from a pool of pre-reserved slots.
///
/// `instances` is how many may be there at once; address space is reserved for each, memory is not.
pub(crate) fn serving(instances: u32) -> Config {
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(instances);
    // A component made by the usual tools holds a handful of core instances, and one memory.
    pool.total_core_instances(instances.saturating_mul(8));
    pool.total_memories(instances.saturating_mul(2));
    pool.total_tables(instances.saturating_mul(4));
    pool.total_stacks(instances.saturating_mul(2));
    pool.max_core_instances_per_component(20);
    pool.max_memories_per_component(2);
    pool.max_tables_per_component(20);
    pool.max_memory_size(MEMORY_BYTES_MAX);
    pool.table_elements(100_000);
    pool.linear_memory_keep_resident(KEEP_RESIDENT_BYTES);
    pool.table_keep_resident(64 << 10);
    pool.async_stack_keep_resident(64 << 10);
    pool.pagemap_scan(Enabled::Auto);
    pool.max_unused_warm_slots(UNUSED_SLOTS_MAX);
    let mut config = common();
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    config
}

/// Raised where the host itself makes other code of a component (`prepare/bulk.rs`).
const CODE_VERSION: u32 = 1;

/// A name for the settings and the runtime's version that compiled code depends on: 16 hexadecimal digits.
pub(crate) fn compat(engine: &wasmtime::Engine) -> String {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    engine.precompile_compatibility_hash().hash(&mut hasher);
    CODE_VERSION.hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

/// The engine that compiles, in the child: no pool, nothing reserved.
pub(crate) fn compiling_engine() -> Result<wasmtime::Engine> {
    wasmtime::Engine::new(&common())
}

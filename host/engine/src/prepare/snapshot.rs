//! Initialises a guest at deploy and keeps the memory that it leaves. Runs in the child process only.
//!
//! Wizer adds to a component what its memory and globals are read by; the guest's own initialisation runs in
//! the result; and the component is written anew so that its instances begin there. What all instances begin
//! with must be the same for all, and hold nothing that is secret, so the guest has nothing of the host
//! meanwhile: every import ends it with a reason, save for its standard output and error.

use super::text::one_line;
use crate::config;
use crate::guest::epoch::Ticker;
use crate::guest::state::State;
use crate::imports::logs::{GuestLog, LogSink, Stream};
use crate::meter::cpu::thread_cpu_ns;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use wasmtime::component::types::ComponentItem;
use wasmtime::component::{Component, Func, Instance, Lift, Linker, WasmList};
use wasmtime::{Engine, Store, Trap, UpdateDeadline};
use wasmtime_wizer::{ComponentInstanceState, Wizer};

/// The export that initialises a guest: the name that Wizer gives it.
const INIT: &str = "wizer-initialize";

/// CPU time that an initialisation may use, in nanoseconds.
const CPU_NS_MAX: u64 = 10_000_000_000;
/// Memory that a guest may have after its initialisation, in bytes: what is sure to be mapped copy-on-write.
const MEMORY_BYTES_MAX: u64 = config::IMAGE_BYTES_MAX;
/// What is kept of the initialisation's output for the reason of a refusal, in characters.
const OUTPUT_CHARS_MAX: usize = 1_000;

/// Why there is no snapshot; the texts are for the developer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SnapshotError {
    #[error("the initialisation called {import}: {why}")]
    Import { import: String, why: &'static str },
    #[error(
        "the initialisation holds a stream of the host when it ends, which would not be there in the instances that \
         begin with the snapshot; as a rule it printed something{0}"
    )]
    Resource(Output),
    #[error("the initialisation used more than {} seconds of CPU time", CPU_NS_MAX / 1_000_000_000)]
    Cpu,
    #[error("the initialisation needed more than {} MiB of memory", MEMORY_BYTES_MAX >> 20)]
    Memory,
    #[error("the initialisation panicked or aborted{0}")]
    Panic(Output),
    #[error("the initialisation failed: {0}{1}")]
    Failed(String, Output),
    #[error("the component cannot be made into a snapshot: {0}")]
    Unsuited(String),
}

/// What an initialisation wrote, as the end of a sentence.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Output(String);

impl std::fmt::Display for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(f, "; its output: {}", self.0) }
    }
}

/// What a guest called although a snapshot must not depend on it.
#[derive(Debug, thiserror::Error)]
#[error("an import that a snapshot must not depend on")]
struct Forbidden(String);

/// The CPU time is used up.
#[derive(Debug, thiserror::Error)]
#[error("no CPU time is left")]
struct Overtime;

/// What the initialisation of any guest may call. Handles that come of it are looked for afterwards.
fn is_allowed(interface: &str) -> bool {
    ["wasi:cli/stdout@", "wasi:cli/stderr@", "wasi:cli/terminal-", "wasi:io/"]
        .iter()
        .any(|allowed| interface.starts_with(allowed))
}

/// Why an import is refused, and what to do instead.
fn why(import: &str) -> &'static str {
    const REASONS: &[(&str, &str)] = &[
        (
            "wasi:random/",
            "a random seed in the snapshot would be the same in every instance. A HashMap or HashSet of Rust's \
             standard library draws one; use a BTreeMap, or a hasher without a random key \
             (BuildHasherDefault<DefaultHasher>)",
        ),
        (
            "wasi:cli/environment",
            "variables may be secret, and are each function's own; they are there in requests only",
        ),
        (
            "wasi:clocks/",
            "the time of the deploy would be in the snapshot; clocks are there in requests only",
        ),
        ("wasi:http/", "requests can be sent while one is answered only"),
        ("wasi:sockets/", "there is no network"),
        ("wasi:filesystem/", "there are no files; include_bytes! puts one into the component"),
        ("wasi:nn/", "models are there in requests only"),
    ];
    let reason = REASONS.iter().find(|(beginning, _)| import.starts_with(beginning));
    reason.map_or("it is there in requests only", |(_, why)| why)
}

/// Whether a component asks to be initialised before its first request.
pub(crate) fn is_wanted(component: &Component) -> bool {
    component.get_export(None, INIT).is_some_and(|(item, _)| matches!(item, ComponentItem::ComponentFunc(_)))
}

/// The component, initialised.
pub(crate) fn take(linker: &Linker<State>, component: &[u8]) -> Result<Vec<u8>, SnapshotError> {
    let unsuited = |e: wasmtime::Error| SnapshotError::Unsuited(one_line(&e));
    let mut wizer = Wizer::new();
    // Without its export, the component that Wizer writes is invalid.
    wizer.init_func(INIT).keep_init_func(true);
    let (context, instrumented) = wizer.instrument_component(component).map_err(unsuited)?;
    let engine = linker.engine();
    let instrumented = Component::new(engine, instrumented).map_err(unsuited)?;
    let mut linker = linker.clone();
    forbid_imports(&mut linker, &instrumented).map_err(unsuited)?;

    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let runtime = runtime.map_err(|e| SnapshotError::Failed(e.to_string(), Output::default()))?;
    runtime.block_on(async {
        let output = Arc::new(Captured::default());
        let mut store = store(engine, &output)?;
        let initialised = initialise(&mut store, &linker, &instrumented).await;
        let memory_was_refused = store.data().memory_was_refused();
        let instance = initialised.map_err(|e| reason(&e, memory_was_refused, output.text()))?;
        if store.data().holds_resources() {
            return Err(SnapshotError::Resource(output.text()));
        }
        // Reading a memory takes a page of it.
        store.data_mut().allow_memory(u64::MAX);
        let mut state = Reader { store: &mut store, instance, memories: BTreeMap::new(), failed: None };
        let snapshot = wizer.snapshot_component(&context, &mut state).await.map_err(unsuited)?;
        state.failed.map_or(Ok(snapshot), |e| Err(unsuited(e)))
    })
}

/// Puts a refusal in the place of each function that a component imports, save for those that are allowed.
fn forbid_imports(linker: &mut Linker<State>, component: &Component) -> wasmtime::Result<()> {
    let engine = linker.engine().clone();
    let imports = linker.substituted_component_type(component)?;
    linker.allow_shadowing(true);
    for (interface, import) in imports.imports(&engine) {
        let ComponentItem::ComponentInstance(instance) = import.ty else { continue };
        if is_allowed(interface) {
            continue;
        }
        let mut shadow = linker.instance(interface)?;
        for (name, export) in instance.exports(&engine) {
            match export.ty {
                ComponentItem::ComponentFunc(_) => {
                    let import = format!("{interface}#{name}");
                    shadow.func_new(name, move |_, _, _, _| Err(Forbidden(import.clone()).into()))?;
                }
                // The same types, since other interfaces use them; nothing of them can exist.
                ComponentItem::Resource(resource) => shadow.resource(name, resource, |_, _| Ok(()))?,
                _ => {}
            }
        }
    }
    Ok(())
}

fn store(engine: &Engine, output: &Arc<Captured>) -> Result<Store<State>, SnapshotError> {
    let failed = |e: std::io::Error| SnapshotError::Failed(e.to_string(), Output::default());
    let state = State::without_world(&GuestLog::new(output.clone()), MEMORY_BYTES_MAX).map_err(failed)?;
    let mut store = Store::new(engine, state);
    store.limiter(State::limiter);
    let begun = thread_cpu_ns();
    store.set_epoch_deadline(1);
    store.epoch_deadline_callback(move |_| match thread_cpu_ns() - begun < CPU_NS_MAX {
        true => Ok(UpdateDeadline::Continue(1)),
        false => Err(Overtime.into()),
    });
    Ok(store)
}

async fn initialise(
    store: &mut Store<State>,
    linker: &Linker<State>,
    component: &Component,
) -> wasmtime::Result<Instance> {
    let weak = component.engine().weak();
    let ticker = Ticker::start(move || weak.upgrade().inspect(|e| e.increment_epoch()).is_some())?;
    let _running = ticker.enter();
    let instance = linker.instantiate_async(&mut *store, component).await?;
    let init = instance.get_typed_func::<(), ()>(&mut *store, INIT)?;
    init.call_async(&mut *store, ()).await?;
    Ok(instance)
}

fn reason(error: &wasmtime::Error, memory_was_refused: bool, output: Output) -> SnapshotError {
    // First: a guest of Rust that has no memory left looks at its environment before it aborts.
    if memory_was_refused {
        return SnapshotError::Memory;
    }
    if let Some(Forbidden(import)) = error.downcast_ref() {
        return SnapshotError::Import { import: import.clone(), why: why(import) };
    }
    if error.is::<Overtime>() {
        return SnapshotError::Cpu;
    }
    match error.downcast_ref::<Trap>() {
        Some(Trap::UnreachableCodeReached) => SnapshotError::Panic(output),
        Some(trap) => SnapshotError::Failed(trap.to_string(), output),
        None => SnapshotError::Failed(one_line(error), output),
    }
}

/// The beginning of what an initialisation wrote, on one line.
#[derive(Default)]
struct Captured(Mutex<String>);

impl Captured {
    fn text(&self) -> Output {
        Output(self.0.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

impl LogSink for Captured {
    fn line(&self, _: Stream, line: &str) {
        let mut text = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let separator = if text.is_empty() { "" } else { " / " };
        let left = OUTPUT_CHARS_MAX.saturating_sub(text.chars().count());
        let printable = line.chars().map(|c| if c.is_control() { ' ' } else { c });
        text.extend(separator.chars().chain(printable).take(left));
    }
}

/// Reads an initialised instance through what Wizer added to it.
struct Reader<'a> {
    store: &'a mut Store<State>,
    instance: Instance,
    /// Each is asked for twice, and must be the same both times.
    memories: BTreeMap<String, Vec<u8>>,
    /// Its methods cannot fail: the first failure is kept, and something else is said.
    failed: Option<wasmtime::Error>,
}

impl Reader<'_> {
    fn function(&mut self, instance: &str, name: &str) -> wasmtime::Result<Func> {
        let missing = || wasmtime::Error::msg(format!("{instance}#{name} is missing"));
        let (_, of) = self.instance.get_export(&mut *self.store, None, instance).ok_or_else(missing)?;
        let (_, at) = self.instance.get_export(&mut *self.store, Some(&of), name).ok_or_else(missing)?;
        self.instance.get_func(&mut *self.store, at).ok_or_else(missing)
    }

    async fn call<R: Lift + Send + Sync + 'static>(
        &mut self,
        instance: &str,
        name: &str,
    ) -> wasmtime::Result<R> {
        let function = self.function(instance, name)?.typed::<(), (R,)>(&*self.store)?;
        Ok(function.call_async(&mut *self.store, ()).await?.0)
    }

    async fn number<R: Lift + Default + Send + Sync + 'static>(&mut self, instance: &str, name: &str) -> R {
        match self.call(instance, name).await {
            Ok(value) => value,
            Err(e) => {
                self.failed.get_or_insert(e);
                R::default()
            }
        }
    }
}

impl ComponentInstanceState for Reader<'_> {
    async fn call_func_ret_list_u8(
        &mut self,
        instance: &str,
        func: &str,
        contents: impl FnOnce(&[u8]) + Send,
    ) {
        if !self.memories.contains_key(func) {
            let bytes = match self.call::<WasmList<u8>>(instance, func).await {
                Ok(list) => list.as_le_slice(&*self.store).to_vec(),
                Err(e) => {
                    self.failed.get_or_insert(e);
                    Vec::new()
                }
            };
            self.memories.insert(func.to_string(), bytes);
        }
        contents(&self.memories[func]);
    }
    async fn call_func_ret_s32(&mut self, instance: &str, func: &str) -> i32 {
        self.number(instance, func).await
    }
    async fn call_func_ret_s64(&mut self, instance: &str, func: &str) -> i64 {
        self.number(instance, func).await
    }
    async fn call_func_ret_f32(&mut self, instance: &str, func: &str) -> u32 {
        self.number::<f32>(instance, func).await.to_bits()
    }
    async fn call_func_ret_f64(&mut self, instance: &str, func: &str) -> u64 {
        self.number::<f64>(instance, func).await.to_bits()
    }
}

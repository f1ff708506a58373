//! Fuzzes the operators that the host accepts: small random models with hostile shapes, attributes and values
//! are prepared, loaded and run as the host does, under AddressSanitizer. `tests/fuzz/run` builds and starts
//! it.
//!
//! The engine's kernels are built without checks for overflow, so sizes that reach them have to be shown
//! harmless here. What a worker survives, or what ends nothing but a worker, is no finding: errors, caught
//! panics, failed allocations, endless runs.

mod case;
mod drive;
mod operators;
mod registry;
mod run;
mod values;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Resource, Rlimit, setrlimit};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub use vesta_nn::onnx::AttributeProto as Attribute;

const USAGE: &str = "vesta-fuzz [--seconds N] [--from SEED] [--without-sanitizer] | --seed N [--keep FOLDER]";

/// CPU time of a case, in seconds.
const CASE_SECONDS: u64 = 3;
/// Cases of a child, after which another takes over.
const CHILD_CASES: u64 = 20_000;

#[derive(Default)]
struct Args {
    seconds: Option<u64>,
    from: Option<u64>,
    seed: Option<u64>,
    keep: Option<PathBuf>,
    unsanitized: bool,
    child: Option<u64>,
    allocate: bool,
    dir: PathBuf,
}

fn args() -> Result<Args> {
    let mut args = Args::default();
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        if word == "--without-sanitizer" {
            args.unsanitized = true;
            continue;
        }
        let value = words.next().with_context(|| format!("{word}: {USAGE}"))?;
        let number = || value.parse().with_context(|| format!("{word} {value}: not a number"));
        match word.as_str() {
            "--seconds" => args.seconds = Some(number()?),
            "--from" => args.from = Some(number()?),
            "--seed" => args.seed = Some(number()?),
            "--keep" => args.keep = Some(value.into()),
            "--child" => args.child = Some(number()?),
            "--allocate" => args.allocate = true,
            "--dir" => args.dir = value.into(),
            _ => bail!("{word}: {USAGE}"),
        }
    }
    Ok(args)
}

fn main() -> Result<()> {
    let args = args()?;
    if args.allocate {
        let mut large: Vec<u8> = Vec::new();
        ensure!(large.try_reserve_exact((drive::ALLOCATION_MIB + 1) << 20).is_ok(), "the sanitizer is there");
        return Ok(());
    }
    if let Some(from) = args.child {
        return child(from, &args.dir);
    }
    if args.seed.is_none() {
        registry::check()?;
    }
    let dir = args.keep.clone().map_or_else(temporary, Ok)?;
    fs::create_dir_all(&dir)?;
    let result = parent(&args, &dir);
    if args.keep.is_none() {
        fs::remove_dir_all(&dir).ok();
    }
    result
}

fn parent(args: &Args, dir: &Path) -> Result<()> {
    if let Some(seed) = args.seed {
        run::watch_panics(true);
        let outcome = run::one(seed, dir, true)?;
        println!("{}", outcome.class);
        return run::own_panic().map_or(Ok(()), |panic| bail!(panic));
    }
    let sanitized = drive::is_sanitized(dir)?;
    ensure!(sanitized || args.unsanitized, "built without AddressSanitizer: start it with tests/fuzz/run");
    let clock = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let from = args.from.unwrap_or(clock << 20);
    let seconds = args.seconds.unwrap_or(1800);
    println!("{seconds} s, seeds from {from} on, AddressSanitizer: {}", if sanitized { "on" } else { "OFF" });
    drive::run(from, Duration::from_secs(seconds), dir)
}

/// In memory where there is such a folder: a prepared model is written through to its disk.
fn temporary() -> Result<PathBuf> {
    let memory = Path::new("/dev/shm");
    let place = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    Ok(place.join(format!("vesta-fuzz-{}", std::process::id())))
}

/// Tells the parent of each case before it begins (`>`) and after it (`<`), and of panics of our own code
/// (`!`).
fn child(from: u64, dir: &Path) -> Result<()> {
    run::watch_panics(false);
    let mut out = std::io::stdout();
    for seed in from..from + CHILD_CASES {
        writeln!(out, "> {seed}")?;
        let used = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime).tv_sec as u64;
        setrlimit(Resource::Cpu, Rlimit { current: Some(used + CASE_SECONDS), maximum: None })?;
        let outcome = run::one(seed, dir, false)?;
        if let Some(panic) = run::own_panic() {
            writeln!(out, "! {}", panic.replace('\n', " "))?;
        }
        writeln!(out, "< {}\t{}\t{}", outcome.prepared, outcome.class, outcome.ran.join("\t"))?;
    }
    Ok(())
}

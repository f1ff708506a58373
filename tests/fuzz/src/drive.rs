//! Runs cases in children, so that what ends a process ends no more than one; and tells what is a finding.

use crate::operators;
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

/// With which the sanitizer ends a process.
const REPORT: i32 = 77;
/// Largest allocation, in MiB. Larger ones fail, as they do in a worker.
pub const ALLOCATION_MIB: usize = 256;
/// Allocations together, in MiB: past the first they fail, past the second the child ends.
const MEMORY_MIB: [usize; 2] = [2048, 4096];
/// How long a child may be silent: a case has a limit of CPU time, which ends it long before.
const SILENCE: Duration = Duration::from_secs(300);
/// Cases after which every operator must have run.
const CASES_FOR_ALL: u64 = 6_000;

/// Settings of the sanitizer in children. Leaks are the engine's business: a worker ends.
fn sanitizer() -> String {
    let [soft, hard] = MEMORY_MIB;
    format!(
        "exitcode={REPORT}:detect_leaks=0:allocator_may_return_null=1:max_allocation_size_mb={ALLOCATION_MIB}:\
         soft_rss_limit_mb={soft}:hard_rss_limit_mb={hard}:quarantine_size_mb=64"
    )
}

/// A command for a child that does `what` in the folder `dir`.
fn child(what: &str, from: u64, dir: &Path) -> Result<Command> {
    // This very program, though another may have been built in its place meanwhile.
    let mut command = Command::new("/proc/self/exe");
    command.args([what, &from.to_string(), "--dir"]).arg(dir);
    command.env("ASAN_OPTIONS", sanitizer()).stderr(File::create(dir.join("stderr"))?);
    Ok(command)
}

/// Whether this program was built with the sanitizer: then a large allocation fails in a child.
pub fn is_sanitized(dir: &Path) -> Result<bool> {
    Ok(!child("--allocate", 0, dir)?.status()?.success())
}

#[derive(Default)]
struct Summary {
    cases: u64,
    prepared: u64,
    classes: BTreeMap<String, u64>,
    ran: BTreeMap<String, u64>,
    findings: Vec<String>,
}

/// Runs cases with the seeds from `from` on for this long. Fails where there was a finding.
pub fn run(from: u64, time: Duration, dir: &Path) -> Result<()> {
    let end = Instant::now() + time;
    let mut summary = Summary::default();
    let mut next = from;
    while Instant::now() < end {
        next = one_child(next, end, dir, &mut summary)?;
    }
    summary.print(from, next);
    summary.judge()
}

/// Runs one child until it ends or the time is over; gives the seed of the next one.
fn one_child(from: u64, end: Instant, dir: &Path, summary: &mut Summary) -> Result<u64> {
    let mut child = child("--child", from, dir)?.stdout(Stdio::piped()).spawn().context("start a child")?;
    let stdout = child.stdout.take().context("a child without output")?;
    let (send, lines) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if send.send(line).is_err() {
                break;
            }
        }
    });
    let mut seed = from;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        match lines.recv_timeout(SILENCE.min(left)) {
            Ok(line) => match line.split_once(' ') {
                Some((">", number)) => seed = number.parse()?,
                Some(("<", rest)) => {
                    summary.done(rest);
                    seed += 1;
                }
                Some(("!", text)) => summary.finding(seed, text),
                _ => bail!("a child says {line:?}"),
            },
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                kill(&mut child)?;
                if Instant::now() < end {
                    summary.finding(seed, "it neither ends nor computes");
                    seed += 1;
                }
                return Ok(seed);
            }
        }
    }
    let status = child.wait()?;
    if status.success() {
        return Ok(seed);
    }
    let said = std::fs::read(dir.join("stderr")).map(|b| String::from_utf8_lossy(&b).into_owned())?;
    match harmless(status, &said) {
        Some(class) => {
            summary.cases += 1;
            *summary.classes.entry(class.into()).or_default() += 1;
        }
        None => summary.finding(seed, &format!("{status}\n{said}")),
    }
    Ok(seed + 1)
}

fn kill(child: &mut Child) -> Result<()> {
    child.kill()?;
    child.wait()?;
    Ok(())
}

/// What ended a child, where it is no more than the end of a worker.
fn harmless(status: ExitStatus, said: &str) -> Option<&'static str> {
    match (status.code(), status.signal()) {
        (Some(REPORT), _) if said.contains("hard rss limit exhausted") => Some("ended: memory"),
        (_, Some(6)) if said.contains("memory allocation of") => Some("ended: allocation"),
        (_, Some(24)) => Some("ended: CPU time"),
        _ => None,
    }
}

impl Summary {
    /// `prepared class operators…`, tabs between them.
    fn done(&mut self, line: &str) {
        let mut words = line.split('\t');
        self.cases += 1;
        self.prepared += u64::from(words.next() == Some("true"));
        *self.classes.entry(words.next().unwrap_or_default().into()).or_default() += 1;
        for operator in words {
            *self.ran.entry(operator.into()).or_default() += 1;
        }
    }

    fn finding(&mut self, seed: u64, text: &str) {
        println!("FINDING, again with --seed {seed}: {text}");
        self.findings.push(seed.to_string());
    }

    fn print(&self, from: u64, next: u64) {
        println!("seeds {from}..{next}: {} cases, {} prepared", self.cases, self.prepared);
        for (class, count) in &self.classes {
            println!("{count:>9}  {class}");
        }
        println!("cases in which an operator ran:");
        for operator in operators::names() {
            println!("{:>9}  {operator}", self.ran.get(operator).copied().unwrap_or_default());
        }
    }

    fn judge(&self) -> Result<()> {
        if !self.findings.is_empty() {
            bail!("{} findings; their seeds: {}", self.findings.len(), self.findings.join(", "));
        }
        if let Some(name) = operators::REFUSED.iter().find(|name| self.ran.contains_key(**name)) {
            bail!("{name} ran, which the host should refuse");
        }
        let never = |name: &&str| !self.ran.contains_key(*name) && !operators::REFUSED.contains(name);
        let never: Vec<_> = operators::names().filter(never).collect();
        if !never.is_empty() && self.cases >= CASES_FOR_ALL {
            bail!("never ran: {}", never.join(", "));
        }
        println!("no finding; operators that did not run: {}", never.len());
        Ok(())
    }
}

//! A trace of arrivals: made after published statistics, or read from a CSV file.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::collections::BTreeMap;
use std::f64::consts::TAU;

const DAY: f64 = 86_400.0;

/// Calls within 10 s of an event belong to it: no policy of minutes can tell them apart.
const MERGE: f64 = 10.0;

/// One function of a trace.
#[derive(Debug, Clone, Default)]
pub struct Function {
    /// In MB of 2^20 bytes.
    pub memory_mb: f64,
    pub cold_ms: f64,
    /// When it is called, in seconds, ascending, no two within 10 s.
    pub times: Vec<f64>,
}

/// Calls a day at quantiles of functions, after "Serverless in the Wild" (Shahrad et al., ATC 2020): 45 % are
/// called at most once an hour, 81 % at most once a minute, and a few make nearly all of the calls.
const CALLS_A_DAY: [(f64, f64); 7] =
    [(0.0, 0.3), (0.20, 4.0), (0.45, 24.0), (0.81, 1_440.0), (0.95, 2e4), (0.99, 1.2e5), (1.0, 4e5)];

const TIMER_PERIODS: [f64; 9] =
    [60.0, 300.0, 600.0, 900.0, 1_800.0, 3_600.0, 4.0 * 3_600.0, 12.0 * 3_600.0, DAY];

/// How a function is called. Shares of functions: 20, 30, 40 and 10 %.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Timer,
    /// Poisson, with day and week.
    People,
    /// Sessions of calls, with heavy-tailed pauses.
    Bursty,
    /// Half timer, half people.
    Mixed,
}

/// A synthetic trace of `count` functions over some days. The same seed gives the same trace.
pub fn synthetic(count: usize, days: f64, seed: u64) -> Vec<Function> {
    let mut rng = StdRng::seed_from_u64(seed);
    let functions = (0..count).map(|i| {
        let rate = calls_a_second((i as f64 + rng.random::<f64>()) / count as f64);
        let kind = match rng.random::<f64>() {
            u if u < 0.2 && rate <= 1.0 / 60.0 => Kind::Timer,
            u if u < 0.5 => Kind::People,
            u if u < 0.9 => Kind::Bursty,
            _ => Kind::Mixed,
        };
        let memory_mb = (70.0 * normal(&mut rng).exp()).clamp(5.0, 500.0);
        let cold_ms = ((8.0 + 0.55 * memory_mb) * (0.2 * normal(&mut rng)).exp()).clamp(10.0, 300.0);
        let times = merged(calls(kind, rate, days * DAY, &mut rng), days * DAY);
        Function { memory_mb, cold_ms, times }
    });
    functions.filter(|f| !f.times.is_empty()).collect()
}

fn calls_a_second(quantile: f64) -> f64 {
    let at = CALLS_A_DAY.windows(2).find(|w| quantile <= w[1].0).unwrap_or(&CALLS_A_DAY[5..]);
    let ((q0, r0), (q1, r1)) = (at[0], at[1]);
    r0 * (r1 / r0).powf((quantile - q0) / (q1 - q0)) / DAY
}

fn exponential(rng: &mut StdRng, mean: f64) -> f64 {
    -mean * (1.0 - rng.random::<f64>()).ln()
}

/// Box and Muller's.
fn normal(rng: &mut StdRng) -> f64 {
    (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt() * (TAU * rng.random::<f64>()).cos()
}

/// How busy it is at a time, 1 on average over a weekday.
fn season(t: f64, phase: f64) -> f64 {
    let weekend = if (t / DAY) as u64 % 7 >= 5 { 0.7 } else { 1.0 };
    weekend * (1.0 + 0.6 * (TAU * (t / DAY + phase)).sin())
}

fn period_of(rate: f64) -> f64 {
    let distance = |p: f64| (p * rate).ln().abs();
    TIMER_PERIODS.into_iter().min_by(|a, b| distance(*a).total_cmp(&distance(*b))).unwrap_or(DAY)
}

fn calls(kind: Kind, rate: f64, horizon: f64, rng: &mut StdRng) -> Vec<f64> {
    let mut times = Vec::new();
    let phase = rng.random::<f64>() * 0.25;
    let mut t = rng.random::<f64>() * horizon.min(1.0 / rate);
    if kind == Kind::Bursty {
        let size = [3.0, 8.0, 20.0][rng.random_range(0..3)];
        let think = [2.0, 15.0, 60.0_f64][rng.random_range(0..3)].min(0.2 / rate);
        while t < horizon {
            for _ in 0..1 + exponential(rng, size) as u64 {
                times.push(t);
                t += exponential(rng, think);
            }
            t += size / rate * (1.2 * normal(rng) - 0.72).exp() / season(t, phase);
        }
    }
    if matches!(kind, Kind::People | Kind::Mixed) {
        let share = if kind == Kind::Mixed { 0.5 } else { 1.0 };
        while t < horizon {
            times.push(t);
            let now = rate * season(t, phase) * share;
            // Of a busy function only one call each 10 s is made: the others would be merged into it.
            t += if now * MERGE > 0.2 { MERGE } else { 0.0 } + exponential(rng, 1.0 / now);
        }
    }
    if matches!(kind, Kind::Timer | Kind::Mixed) {
        let (period, jitter) =
            if kind == Kind::Timer { (period_of(rate), 0.01) } else { (period_of(rate * 0.5), 0.0) };
        let mut t = rng.random::<f64>() * period;
        while t < horizon {
            times.push(t + rng.random::<f64>() * (period * jitter).min(2.0));
            t += period;
        }
    }
    times
}

fn merged(mut times: Vec<f64>, horizon: f64) -> Vec<f64> {
    times.sort_by(f64::total_cmp);
    let mut kept: Vec<f64> = Vec::new();
    for t in times {
        // To the millisecond, as in a file.
        let t = (t * 1e3).round() / 1e3;
        if t < horizon && kept.last().is_none_or(|last| t - last >= MERGE) {
            kept.push(t);
        }
    }
    kept
}

/// Reads a trace: lines of `function,memory_mb,cold_ms,time_s,calls` in the order of time, after a line with
/// these names. `calls` is not used.
pub fn read_csv(text: &str) -> Result<Vec<Function>, String> {
    let mut functions: BTreeMap<&str, Function> = BTreeMap::new();
    for (at, line) in text.lines().enumerate().skip(1) {
        let wrong = |what: &str| format!("line {}: {what}: {line:?}", at + 1);
        let [function, memory, cold, time, _calls] = line
            .split(',')
            .collect::<Vec<_>>()
            .try_into()
            .map_err(|_| wrong("there are 5 columns, function,memory_mb,cold_ms,time_s,calls"))?;
        let number = |name: &str, text: &str| match text.parse::<f64>() {
            Ok(n) if (0.0..1e12).contains(&n) => Ok(n),
            _ => Err(wrong(&format!("{name} is no number"))),
        };
        let entry = match functions.get_mut(function) {
            Some(entry) => entry,
            None => functions.entry(function).or_insert(Function {
                memory_mb: number("memory_mb", memory)?,
                cold_ms: number("cold_ms", cold)?,
                times: Vec::new(),
            }),
        };
        let time = number("time_s", time)?;
        if entry.times.last().is_some_and(|last| time < *last) {
            return Err(wrong("it is earlier than the line before"));
        }
        entry.times.push(time);
    }
    Ok(functions.into_values().collect())
}

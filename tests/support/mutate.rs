//! Random changes to what others send, for the tests of whatever reads it. Included by the packages that have
//! such readers.
//!
//! A test gives a few sound inputs and a reader. For a second (`VESTA_FUZZ_SECONDS` says otherwise) the
//! reader gets changed ones: it may refuse them, but neither panic nor take long. A failure prints its input
//! and the seed; `VESTA_SEED` repeats it.

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::{Duration, Instant, SystemTime};

/// Longest input.
const BYTES_MAX: usize = 64 << 10;
/// Longest time that a reader may take for one, also on a busy machine.
const READ_MAX: Duration = Duration::from_secs(5);
/// What parsers stumble over.
const TOKENS: &[&[u8]] = &[
    b"\0",
    b"\n",
    b"\r\n",
    b"\"",
    b"\\",
    b"..",
    b"/",
    b"//",
    b"%2f",
    b"%",
    b"@",
    b":",
    b"-1",
    b"0",
    b"1e999",
    b"18446744073709551616",
    b"9223372036854775807",
    b"\xff\xff\xff\xff",
    b"\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
    b"\xf0\x9f\xa6\x80",
    b"\xe2\x80\xae",
    b"\xc3",
    b"null",
    b"[[[[",
    b"{{{{",
    b" ",
    b"_",
];

/// Gives `read` what `samples` become by random changes.
pub fn each(samples: &[&[u8]], mut read: impl FnMut(&[u8])) {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(1, |t| t.as_nanos() as u64);
    let seed = number("VESTA_SEED").unwrap_or(since);
    let mut random = SmallRng::seed_from_u64(seed);
    let until = Instant::now() + Duration::from_secs(number("VESTA_FUZZ_SECONDS").unwrap_or(1));
    let mut inputs = 0;
    while Instant::now() < until {
        let mut input = samples[random.random_range(0..samples.len())].to_vec();
        for _ in 0..random.random_range(0..5) {
            change(&mut input, samples, &mut random);
        }
        let begun = Instant::now();
        let result = catch_unwind(AssertUnwindSafe(|| read(&input)));
        let took = begun.elapsed();
        if result.is_err() || took > READ_MAX {
            eprintln!("VESTA_SEED={seed}, input {inputs}, {took:?}: {:?}", input.escape_ascii().to_string());
        }
        result.unwrap_or_else(|panic| resume_unwind(panic));
        assert!(took <= READ_MAX, "an input took {took:?}");
        inputs += 1;
    }
    println!("{inputs} inputs from VESTA_SEED={seed}");
}

fn change(input: &mut Vec<u8>, samples: &[&[u8]], random: &mut SmallRng) {
    let at = random.random_range(0..=input.len());
    let end = random.random_range(at..=input.len().min(at + 64));
    match random.random_range(0..8) {
        0 if at < input.len() => input[at] ^= 1 << random.random_range(0..8),
        1 if at < input.len() => input[at] = random.random(),
        2 => drop(input.drain(at..end)),
        3 => input.truncate(at),
        4 => {
            let twice = input[at..end].to_vec();
            drop(input.splice(at..at, twice));
        }
        5 => {
            let other = samples[random.random_range(0..samples.len())];
            let from = random.random_range(0..=other.len());
            input.truncate(at);
            input.extend_from_slice(&other[from..]);
        }
        6 => {
            let many = vec![random.random::<u8>(); random.random_range(0..1024)];
            drop(input.splice(at..at, many));
        }
        _ => drop(input.splice(at..end, TOKENS[random.random_range(0..TOKENS.len())].iter().copied())),
    }
    input.truncate(BYTES_MAX);
}

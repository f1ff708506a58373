//! What a unit of each metered quantity costs, and the rating of a usage record.

use crate::money::{Charge, MoneyError};
use crate::usage::{Phases, Quantities};
use serde::{Deserialize, Serialize};

/// A price plan as written in the configuration: decimal prices of one currency.
///
/// CPU time is priced per second with at most 9 decimal places, so that a nanosecond costs a whole
/// number of 10^-18 units. The memory price is per gigabyte (10^9 bytes) and second, and the part below
/// 10^-18 of a unit is dropped, once for each record and line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PricePlan {
    /// ISO 4217 code of the currency.
    pub currency: String,
    /// One second of guest CPU time.
    pub guest_cpu_second: String,
    /// One second of inference CPU time.
    pub inference_cpu_second: String,
    /// One second of CPU time spent on a cold start.
    pub cold_start_cpu_second: String,
    /// 10^9 bytes of the peak memory of an instance, or of a model's run, held for one second.
    pub memory_gb_second: String,
    /// One invocation.
    pub request: String,
    /// 10^9 bytes received from clients.
    pub gb_in: String,
    /// 10^9 bytes sent to clients.
    pub gb_out: String,
}

impl Default for PricePlan {
    /// Only compute is charged: 0.00002 a CPU second, 0.0000025 a GB-second, nothing for being deployed.
    fn default() -> Self {
        let cpu = "0.00002".to_string();
        let free = "0".to_string();
        Self {
            currency: "USD".into(),
            guest_cpu_second: cpu.clone(),
            inference_cpu_second: cpu.clone(),
            cold_start_cpu_second: cpu,
            memory_gb_second: "0.0000025".into(),
            request: free.clone(),
            gb_in: free.clone(),
            gb_out: free,
        }
    }
}

/// Why a price plan was refused; names the field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PriceError {
    #[error("prices.{field}: {source}")]
    Amount { field: &'static str, source: MoneyError },
    #[error("prices.{field}: a price must not be negative")]
    Negative { field: &'static str },
    #[error("prices.{field}: at most 9 decimal places, so that a nanosecond (or a byte) has an exact price")]
    TooFine { field: &'static str },
    #[error("prices.{field}: at most 1000000 a unit")]
    TooDear { field: &'static str },
    #[error("prices.currency: {0:?} is not three capital letters (ISO 4217)")]
    Currency(String),
}

/// A checked price plan, ready to rate records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prices {
    pub currency: String,
    guest_attos_ns: i128,
    inference_attos_ns: i128,
    cold_attos_ns: i128,
    memory_attos_gb_s: i128,
    request_attos: i128,
    in_attos_byte: i128,
    out_attos_byte: i128,
}

const NANO: i128 = 1_000_000_000;

impl PricePlan {
    /// Checks every field.
    pub fn checked(&self) -> Result<Prices, PriceError> {
        let ok = self.currency.len() == 3 && self.currency.bytes().all(|b| b.is_ascii_uppercase());
        if !ok {
            return Err(PriceError::Currency(self.currency.clone()));
        }
        Ok(Prices {
            currency: self.currency.clone(),
            guest_attos_ns: per_billionth("guest_cpu_second", &self.guest_cpu_second)?,
            inference_attos_ns: per_billionth("inference_cpu_second", &self.inference_cpu_second)?,
            cold_attos_ns: per_billionth("cold_start_cpu_second", &self.cold_start_cpu_second)?,
            memory_attos_gb_s: amount("memory_gb_second", &self.memory_gb_second)?,
            request_attos: amount("request", &self.request)?,
            in_attos_byte: per_billionth("gb_in", &self.gb_in)?,
            out_attos_byte: per_billionth("gb_out", &self.gb_out)?,
        })
    }
}

fn amount(field: &'static str, text: &str) -> Result<i128, PriceError> {
    let attos = text.parse::<Charge>().map_err(|source| PriceError::Amount { field, source })?.attos();
    match attos {
        a if a < 0 => Err(PriceError::Negative { field }),
        a if a > 1_000_000 * 10i128.pow(18) => Err(PriceError::TooDear { field }),
        a => Ok(a),
    }
}

fn per_billionth(field: &'static str, text: &str) -> Result<i128, PriceError> {
    match amount(field, text)? {
        attos if attos % NANO != 0 => Err(PriceError::TooFine { field }),
        attos => Ok(attos / NANO),
    }
}

/// A bill's lines for one record, in the order in which they are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Lines {
    pub guest_cpu: Charge,
    pub inference_cpu: Charge,
    pub cold_start_cpu: Charge,
    pub memory: Charge,
    pub model_memory: Charge,
    pub request: Charge,
    pub bytes: Charge,
}

impl Lines {
    pub fn total(&self) -> Charge {
        let cpu = self.guest_cpu + self.inference_cpu + self.cold_start_cpu;
        cpu + self.memory + self.model_memory + self.request + self.bytes
    }
}

impl Prices {
    /// Prices the quantities of one invocation; of its phases the time of its models' runs counts.
    pub fn rate(&self, q: &Quantities, phases: &Phases) -> Lines {
        let cpu = |ns: u64, attos_ns: i128| Charge::from_attos(i128::from(ns) * attos_ns);
        // 1 GB-second is 10^9 bytes times 10^9 ns; split so that no product passes 2^127.
        let memory = |byte_ns: i128| Charge::from_attos((byte_ns / NANO) * self.memory_attos_gb_s / NANO);
        Lines {
            guest_cpu: cpu(q.guest_cpu_ns, self.guest_attos_ns),
            inference_cpu: cpu(q.inference_cpu_ns, self.inference_attos_ns),
            cold_start_cpu: cpu(q.cold_start_cpu_ns, self.cold_attos_ns),
            memory: memory(q.memory_byte_ns()),
            model_memory: memory(q.model_memory_byte_ns(phases)),
            request: Charge::from_attos(self.request_attos),
            bytes: cpu(q.bytes_in, self.in_attos_byte) + cpu(q.bytes_out, self.out_attos_byte),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_of_cpu_costs_the_price_of_a_second() {
        let prices = PricePlan::default().checked().expect("the default plan is valid");
        let q = Quantities { guest_cpu_ns: 1_000_000_000, ..Default::default() };
        assert_eq!(prices.rate(&q, &Phases::default()).total(), "0.00002".parse().expect("decimal"));
        let q = Quantities { peak_memory_bytes: 2_000_000_000, memory_ns: 500_000_000, ..Default::default() };
        assert_eq!(prices.rate(&q, &Phases::default()).total(), "0.0000025".parse().expect("decimal"));
    }

    #[test]
    fn memory_of_models_costs_as_much_as_other_memory_for_as_long_as_they_run() {
        let prices = PricePlan::default().checked().expect("the default plan is valid");
        let phases = Phases { infer_ns: 500_000_000, total_ns: 9_000_000_000, ..Default::default() };
        let q = Quantities {
            peak_memory_bytes: 1_000_000_000,
            model_memory_peak_bytes: 3_000_000_000,
            memory_ns: 2_000_000_000,
            ..Default::default()
        };
        let lines = prices.rate(&q, &phases);
        assert_eq!(lines.memory, "0.000005".parse().expect("decimal"));
        assert_eq!(lines.model_memory, "0.00000375".parse().expect("decimal"));
        assert_eq!(lines.total(), "0.00000875".parse().expect("decimal"));
        // Where no model ran, nothing is charged for its memory.
        assert_eq!(prices.rate(&q, &Phases::default()).model_memory, Charge::ZERO);
    }

    #[test]
    fn the_largest_quantities_at_the_largest_prices_are_rated_exactly() {
        let plan = PricePlan { memory_gb_second: "1000000".into(), ..PricePlan::default() };
        let prices = plan.checked().expect("valid");
        // The most that limits allow is 64 GiB for 15 minutes, and some seconds.
        let (bytes, ns) = (64 << 30, 1_000_000_000_000);
        let q = Quantities {
            peak_memory_bytes: bytes,
            model_memory_peak_bytes: bytes,
            memory_ns: ns,
            ..Default::default()
        };
        let lines = prices.rate(&q, &Phases { infer_ns: ns, ..Default::default() });
        assert_eq!(lines.model_memory, "68719476736".parse().expect("decimal"));
        assert_eq!(lines.total(), lines.memory + lines.model_memory);
    }

    #[test]
    fn every_bad_price_names_its_field() {
        let plan = |f: fn(&mut PricePlan)| {
            let mut p = PricePlan::default();
            f(&mut p);
            p.checked().expect_err("refused").to_string()
        };
        assert!(plan(|p| p.guest_cpu_second = "-1".into()).contains("guest_cpu_second"));
        assert!(plan(|p| p.inference_cpu_second = "0.0000000001".into()).contains("inference_cpu_second"));
        assert!(plan(|p| p.request = "cheap".into()).contains("request"));
        assert!(plan(|p| p.memory_gb_second = "10000000".into()).contains("memory_gb_second"));
        assert!(plan(|p| p.currency = "usd".into()).contains("currency"));
    }
}

//! What a unit of each metered quantity costs, and the rating of a usage record.

use crate::money::{Charge, Currency, CurrencyError, MoneyError};
use crate::usage::{Kind, UsageRecord};
use serde::{Deserialize, Serialize};
use sha2::Digest as _;
use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

/// How charges are computed from a plan, as the plan's text names it. A change of the formula or of the
/// rounding takes another name, so that an old record is recomputed as it was computed.
const RULE: &str = "vesta-price/1";

/// A price plan as written in the configuration: decimal prices of one currency.
///
/// CPU time is priced per second with at most 9 decimal places, so that a nanosecond costs a whole
/// number of 10^-18 units. The memory price is per gigabyte (10^9 bytes) and second.
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
    /// One second of the host's CPU time for guests' calls to other hosts.
    pub outbound_cpu_second: String,
    /// One second of the host's own CPU time for invocations.
    pub handler_cpu_second: String,
    /// One second of CPU time of deployments.
    pub deploy_cpu_second: String,
    /// 10^9 bytes of the peak memory of an instance, or of a model's run, held for one second.
    pub memory_gb_second: String,
    /// One invocation.
    pub request: String,
    /// One cold start, of the invocation that triggered it.
    pub start: String,
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
            cold_start_cpu_second: cpu.clone(),
            outbound_cpu_second: cpu.clone(),
            handler_cpu_second: cpu.clone(),
            deploy_cpu_second: cpu,
            memory_gb_second: "0.0000025".into(),
            request: free.clone(),
            start: free.clone(),
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
    #[error("prices.currency: {0}")]
    Currency(#[from] CurrencyError),
    #[error("prices.currency: XXX stands for records without a currency; take another")]
    NoCurrency,
}

/// The identity of a price plan: the first 12 hexadecimal digits of the SHA-256 of its text
/// ([`Prices::text`]).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct PlanId([u8; 12]);

/// A text that is not the identity of a price plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not the identity of a price plan: 12 hexadecimal digits in lower case")]
pub struct PlanIdError(String);

impl PlanId {
    /// The identity of the plan with this text.
    pub fn of(text: &str) -> PlanId {
        let digest = crate::Digest::from_bytes(sha2::Sha256::digest(text.as_bytes()).into());
        let mut id = [0; 12];
        id.copy_from_slice(&digest.hex().as_bytes()[..12]);
        PlanId(id)
    }

    pub fn as_str(&self) -> &str {
        // Hexadecimal digits only: always text.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl FromStr for PlanId {
    type Err = PlanIdError;
    fn from_str(s: &str) -> Result<Self, PlanIdError> {
        let id: Option<[u8; 12]> = s.as_bytes().try_into().ok();
        let id = id.filter(|id| id.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')));
        id.map(PlanId).ok_or_else(|| PlanIdError(s.chars().take(80).collect()))
    }
}
impl TryFrom<String> for PlanId {
    type Error = PlanIdError;
    fn try_from(s: String) -> Result<Self, PlanIdError> {
        s.parse()
    }
}
impl Serialize for PlanId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}
impl fmt::Display for PlanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
impl fmt::Debug for PlanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A checked price plan, ready to rate records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prices {
    pub currency: Currency,
    pub id: PlanId,
    /// The plan in its canonical form, as TOML: the rule, the currency, and each price without needless
    /// zeros. Plans with the same prices have the same text.
    pub text: String,
    guest_attos_ns: i128,
    inference_attos_ns: i128,
    cold_attos_ns: i128,
    outbound_attos_ns: i128,
    handler_attos_ns: i128,
    deploy_attos_ns: i128,
    memory_attos_gb_s: i128,
    request_attos: i128,
    start_attos: i128,
    in_attos_byte: i128,
    out_attos_byte: i128,
}

const NANO: i128 = 1_000_000_000;
const EXA: i128 = 1_000_000_000_000_000_000;
/// The most that one line of a bill can say, in 10^-18 units. Limits and bounds of prices allow a millionth
/// of it; the ledger refuses a record with such a charge.
const LINE_ATTOS_MAX: i128 = 10i128.pow(37);

impl PricePlan {
    /// Every price with its field's name, in the order of the plan's text.
    fn amounts(&self) -> [(&'static str, &str); 11] {
        [
            ("guest_cpu_second", &self.guest_cpu_second),
            ("inference_cpu_second", &self.inference_cpu_second),
            ("cold_start_cpu_second", &self.cold_start_cpu_second),
            ("outbound_cpu_second", &self.outbound_cpu_second),
            ("handler_cpu_second", &self.handler_cpu_second),
            ("deploy_cpu_second", &self.deploy_cpu_second),
            ("memory_gb_second", &self.memory_gb_second),
            ("request", &self.request),
            ("start", &self.start),
            ("gb_in", &self.gb_in),
            ("gb_out", &self.gb_out),
        ]
    }

    /// Checks every field.
    pub fn checked(&self) -> Result<Prices, PriceError> {
        let currency: Currency = self.currency.parse()?;
        if currency == Currency::UNSTATED {
            return Err(PriceError::NoCurrency);
        }
        let mut text = format!("rule = \"{RULE}\"\ncurrency = \"{currency}\"\n");
        for (field, price) in self.amounts() {
            let price = Charge::from_attos(amount(field, price)?).to_string();
            text += &format!("{field} = \"{}\"\n", price.trim_end_matches('0').trim_end_matches('.'));
        }
        Ok(Prices {
            currency,
            id: PlanId::of(&text),
            text,
            guest_attos_ns: per_billionth("guest_cpu_second", &self.guest_cpu_second)?,
            inference_attos_ns: per_billionth("inference_cpu_second", &self.inference_cpu_second)?,
            cold_attos_ns: per_billionth("cold_start_cpu_second", &self.cold_start_cpu_second)?,
            outbound_attos_ns: per_billionth("outbound_cpu_second", &self.outbound_cpu_second)?,
            handler_attos_ns: per_billionth("handler_cpu_second", &self.handler_cpu_second)?,
            deploy_attos_ns: per_billionth("deploy_cpu_second", &self.deploy_cpu_second)?,
            memory_attos_gb_s: amount("memory_gb_second", &self.memory_gb_second)?,
            request_attos: amount("request", &self.request)?,
            start_attos: amount("start", &self.start)?,
            in_attos_byte: per_billionth("gb_in", &self.gb_in)?,
            out_attos_byte: per_billionth("gb_out", &self.gb_out)?,
        })
    }
}

fn amount(field: &'static str, text: &str) -> Result<i128, PriceError> {
    let attos = text.parse::<Charge>().map_err(|source| PriceError::Amount { field, source })?.attos();
    match attos {
        a if a < 0 => Err(PriceError::Negative { field }),
        a if a > 1_000_000 * EXA => Err(PriceError::TooDear { field }),
        a => Ok(a),
    }
}

fn per_billionth(field: &'static str, text: &str) -> Result<i128, PriceError> {
    match amount(field, text)? {
        attos if attos % NANO != 0 => Err(PriceError::TooFine { field }),
        attos => Ok(attos / NANO),
    }
}

/// A bill's lines for one record. Their sum is the charge, exactly.
///
/// Each line is cut off at 10^-18 of the currency's unit. What was cut off of all lines together is in
/// `rounding`: it takes the sum to the charge, which is the exact sum of all lines, rounded once, half to
/// even.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Lines {
    pub guest_cpu: Charge,
    pub inference_cpu: Charge,
    pub cold_start_cpu: Charge,
    pub outbound_cpu: Charge,
    pub handler_cpu: Charge,
    pub deploy_cpu: Charge,
    pub memory: Charge,
    pub model_memory: Charge,
    pub request: Charge,
    pub start: Charge,
    pub bytes: Charge,
    /// 0 to 2 of 10^-18.
    pub rounding: Charge,
}

impl Lines {
    pub fn total(&self) -> Charge {
        let cpu = self.guest_cpu + self.inference_cpu + self.cold_start_cpu + self.outbound_cpu;
        let cpu = cpu + self.handler_cpu + self.deploy_cpu;
        cpu + self.memory + self.model_memory + self.request + self.start + self.bytes + self.rounding
    }
}

/// An amount in whole 10^-18 units, and in parts of 10^-18 of one: 0 to 10^18 - 1.
#[derive(Debug, Clone, Copy, Default)]
struct Exact {
    attos: i128,
    parts: i128,
}

impl Exact {
    /// What `count` costs, where 10^18 cost `price` (at most 10^24): both at least 0.
    fn per_quintillion(count: i128, price: i128) -> Exact {
        // In halves, so that no product passes 2^127: the rest is below 10^18, the cheap half too.
        let (whole, rest) = (count / EXA, count % EXA);
        let (dear, cheap) = (price / EXA, price % EXA);
        let parts = rest * cheap;
        let attos = whole.saturating_mul(price).saturating_add(rest * dear + parts / EXA);
        Exact { attos, parts: parts % EXA }
    }

    /// The amount cut off at 10^-18.
    fn cut(self) -> Charge {
        Charge::from_attos(self.attos.min(LINE_ATTOS_MAX))
    }
}

/// What takes a sum of amounts that were cut off to the nearest whole of 10^-18, half to even: `attos` is
/// their sum, `parts` what was cut off of them.
fn rounding(attos: i128, parts: i128) -> Charge {
    let (whole, rest) = (parts / EXA, parts % EXA);
    let up = match (rest * 2).cmp(&EXA) {
        Ordering::Less => false,
        Ordering::Greater => true,
        Ordering::Equal => (attos + whole) % 2 != 0,
    };
    Charge::from_attos(whole + i128::from(up))
}

impl Prices {
    /// What a record is charged: nothing where it is not charged, and else the sum of its lines.
    pub fn charge(&self, record: &UsageRecord) -> Charge {
        if record.is_charged() { self.rate(record).total() } else { Charge::ZERO }
    }

    /// Prices what a record has used.
    pub fn rate(&self, record: &UsageRecord) -> Lines {
        let q = &record.quantities;
        // Whole prices of a billionth: nothing is cut off of them.
        let whole = |n: u64, attos: i128| Charge::from_attos(i128::from(n) * attos);
        let once = |is_due: bool, attos: i128| whole(u64::from(is_due), attos);
        // 10^9 bytes for 10^9 ns make a gigabyte-second.
        let memory = Exact::per_quintillion(q.memory_byte_ns(), self.memory_attos_gb_s);
        let model_memory = Exact::per_quintillion(q.model_memory_byte_ns(), self.memory_attos_gb_s);
        let mut lines = Lines {
            guest_cpu: whole(q.guest_cpu_ns, self.guest_attos_ns),
            inference_cpu: whole(q.inference_cpu_ns, self.inference_attos_ns),
            cold_start_cpu: whole(q.cold_start_cpu_ns, self.cold_attos_ns),
            outbound_cpu: whole(q.outbound_cpu_ns, self.outbound_attos_ns),
            handler_cpu: whole(q.handler_cpu_ns, self.handler_attos_ns),
            deploy_cpu: whole(q.deploy_cpu_ns, self.deploy_attos_ns),
            memory: memory.cut(),
            model_memory: model_memory.cut(),
            request: once(record.kind == Kind::Invocation, self.request_attos),
            start: once(record.cold, self.start_attos),
            bytes: whole(q.bytes_in, self.in_attos_byte) + whole(q.bytes_out, self.out_attos_byte),
            rounding: Charge::ZERO,
        };
        lines.rounding = rounding(lines.total().attos(), memory.parts + model_memory.parts);
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::usage::{Phases, Quantities};
    use crate::{InvocationId, Outcome};
    use num_bigint::BigInt;
    use num_rational::BigRational;
    use rand::rngs::SmallRng;
    use rand::{RngExt, SeedableRng};

    fn record(quantities: Quantities) -> UsageRecord {
        UsageRecord {
            id: InvocationId::new(1, 1),
            kind: Kind::Invocation,
            tenant: "acme".parse().expect("name"),
            function: "hello".parse().expect("name"),
            version: 1,
            started_unix_ns: 1,
            outcome: Outcome::Ok,
            status: 200,
            cold: false,
            inferences: 0,
            quantities,
            phases: Phases::default(),
            charge: Charge::ZERO,
            currency: Currency::UNSTATED,
            price_plan: None,
        }
    }

    #[test]
    fn a_second_of_cpu_costs_the_price_of_a_second() {
        let prices = PricePlan::default().checked().expect("the default plan is valid");
        let q = Quantities { guest_cpu_ns: 1_000_000_000, ..Default::default() };
        assert_eq!(prices.rate(&record(q)).total(), "0.00002".parse().expect("decimal"));
        let q = Quantities { peak_memory_bytes: 2_000_000_000, memory_ns: 500_000_000, ..Default::default() };
        assert_eq!(prices.rate(&record(q)).total(), "0.0000025".parse().expect("decimal"));
    }

    #[test]
    fn memory_of_models_costs_as_much_as_other_memory_for_as_long_as_they_run() {
        let prices = PricePlan::default().checked().expect("the default plan is valid");
        let q = Quantities {
            model_memory_ns: 500_000_000,
            peak_memory_bytes: 1_000_000_000,
            model_memory_peak_bytes: 3_000_000_000,
            memory_ns: 2_000_000_000,
            ..Default::default()
        };
        let lines = prices.rate(&record(q));
        assert_eq!(lines.memory, "0.000005".parse().expect("decimal"));
        assert_eq!(lines.model_memory, "0.00000375".parse().expect("decimal"));
        assert_eq!(lines.total(), "0.00000875".parse().expect("decimal"));
        // Where no model ran, nothing is charged for its memory.
        let none = Quantities { model_memory_ns: 0, ..q };
        assert_eq!(prices.rate(&record(none)).model_memory, Charge::ZERO);
    }

    #[test]
    fn each_kind_of_cpu_time_has_a_line_and_requests_and_starts_have_fixed_ones() {
        let plan = PricePlan {
            outbound_cpu_second: "2".into(),
            handler_cpu_second: "3".into(),
            deploy_cpu_second: "4".into(),
            request: "10".into(),
            start: "100".into(),
            ..PricePlan::default()
        };
        let prices = plan.checked().expect("valid");
        let second = 1_000_000_000;
        let q = Quantities { outbound_cpu_ns: second, handler_cpu_ns: second, ..Default::default() };
        let of = |units: i64| units.to_string().parse::<Charge>().expect("decimal");
        assert_eq!(prices.charge(&record(q)), of(15));
        assert_eq!(prices.charge(&UsageRecord { cold: true, ..record(q) }), of(115));
        let deployed = Quantities { deploy_cpu_ns: second, ..Default::default() };
        let deployed = UsageRecord { kind: Kind::Deployment, ..record(deployed) };
        assert_eq!(prices.charge(&deployed), of(4));
        let failed = UsageRecord { outcome: Outcome::PlatformError, ..deployed };
        assert_eq!(prices.charge(&failed), Charge::ZERO);
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
            model_memory_ns: ns,
            ..Default::default()
        };
        let lines = prices.rate(&record(q));
        // 2^36 bytes for 1,000 s are 68,719.476736 GB-s.
        assert_eq!(lines.model_memory, "68719476736".parse().expect("decimal"));
        assert_eq!(lines.total(), lines.memory + lines.model_memory);
    }

    #[test]
    fn quantities_past_every_limit_do_not_overflow() {
        let plan = PricePlan { memory_gb_second: "1000000".into(), ..PricePlan::default() };
        let max = u64::MAX;
        let q = Quantities {
            guest_cpu_ns: max,
            peak_memory_bytes: max,
            model_memory_peak_bytes: max,
            memory_ns: max,
            model_memory_ns: max,
            bytes_in: max,
            ..Default::default()
        };
        let lines = plan.checked().expect("valid").rate(&record(q));
        assert_eq!(lines.memory.attos(), LINE_ATTOS_MAX);
        assert!(lines.total() > lines.memory);
    }

    /// `x` rounded to a whole number, half to even, by fractions of unbounded integers alone.
    fn half_to_even(x: &BigRational) -> BigInt {
        let (floor, half) = (x.floor().to_integer(), BigRational::new(1.into(), 2.into()));
        let rest = x - BigRational::from(floor.clone());
        let odd = &floor % 2 != BigInt::ZERO;
        if rest > half || (rest == half && odd) { floor + 1 } else { floor }
    }

    /// The charge in 10^-18 of the currency's unit, computed anew from the plan's decimal texts.
    fn by_fractions(plan: &PricePlan, record: &UsageRecord) -> BigInt {
        let price = |text: &str| {
            let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
            let digits: BigInt = format!("{whole}{fraction}").parse().expect("digits");
            BigRational::new(digits, BigInt::from(10).pow(u32::try_from(fraction.len()).expect("short")))
        };
        let q = &record.quantities;
        let n = |n: u64| BigRational::from(BigInt::from(n));
        let (nano, exa) = (n(1_000_000_000), n(1_000_000_000_000_000_000));
        let memory =
            n(q.peak_memory_bytes) * n(q.memory_ns) + n(q.model_memory_peak_bytes) * n(q.model_memory_ns);
        let sum = price(&plan.guest_cpu_second) * n(q.guest_cpu_ns) / &nano
            + price(&plan.inference_cpu_second) * n(q.inference_cpu_ns) / &nano
            + price(&plan.cold_start_cpu_second) * n(q.cold_start_cpu_ns) / &nano
            + price(&plan.outbound_cpu_second) * n(q.outbound_cpu_ns) / &nano
            + price(&plan.handler_cpu_second) * n(q.handler_cpu_ns) / &nano
            + price(&plan.deploy_cpu_second) * n(q.deploy_cpu_ns) / &nano
            + price(&plan.memory_gb_second) * memory / &exa
            + price(&plan.request) * n((record.kind == Kind::Invocation).into())
            + price(&plan.start) * n(record.cold.into())
            + price(&plan.gb_in) * n(q.bytes_in) / &nano
            + price(&plan.gb_out) * n(q.bytes_out) / &nano;
        half_to_even(&(sum * exa))
    }

    #[test]
    fn charges_are_the_exact_sum_rounded_once_by_independent_fractions() {
        let seed: u64 = rand::random();
        println!("seed {seed}");
        let mut random = SmallRng::seed_from_u64(seed);
        let mut up_to = |max: u64| random.random_range(0..=max) >> random.random_range(0..64);
        let (mut rounded_up, mut wrong) = (0, 0);
        for n in 0..20_000 {
            let mut decimal = |places: u32, max: u64| {
                let parts = up_to(10u64.pow(places) - 1);
                format!("{}.{parts:0places$}", up_to(max), places = places as usize)
            };
            let plan = PricePlan {
                currency: "EUR".into(),
                guest_cpu_second: decimal(9, 999_999),
                inference_cpu_second: decimal(9, 999_999),
                cold_start_cpu_second: decimal(9, 999_999),
                outbound_cpu_second: decimal(9, 999_999),
                handler_cpu_second: decimal(9, 999_999),
                deploy_cpu_second: decimal(9, 999_999),
                memory_gb_second: decimal(18, 999_999),
                request: decimal(18, 999_999),
                start: decimal(18, 999_999),
                gb_in: decimal(9, 999_999),
                gb_out: decimal(9, 999_999),
            };
            // Every fourth record has products whose fractions end in ...5, so that ties are met, too.
            let memory = if n % 4 == 0 { 5 * 10u64.pow(9) } else { up_to(64 << 30) };
            let q = Quantities {
                guest_cpu_ns: up_to(1_000_000_000_000),
                inference_cpu_ns: up_to(1_000_000_000_000),
                cold_start_cpu_ns: up_to(1_000_000_000_000),
                outbound_cpu_ns: up_to(1_000_000_000_000),
                handler_cpu_ns: up_to(1_000_000_000_000),
                deploy_cpu_ns: up_to(1_000_000_000_000),
                peak_memory_bytes: memory,
                model_memory_peak_bytes: up_to(64 << 30),
                memory_ns: if n % 4 == 0 { 10u64.pow(8) * up_to(9_999) } else { up_to(1_000_000_000_000) },
                model_memory_ns: if n % 4 == 0 { 0 } else { up_to(1_000_000_000_000) },
                bytes_in: up_to(1 << 40),
                bytes_out: up_to(1 << 40),
            };
            let kind = if n % 3 == 0 { Kind::Deployment } else { Kind::Invocation };
            let record = UsageRecord { kind, cold: n % 5 == 0, ..record(q) };
            let lines = plan.checked().expect("valid").rate(&record);
            rounded_up += u32::from(lines.rounding > Charge::ZERO);
            wrong += u32::from(BigInt::from(lines.total().attos()) != by_fractions(&plan, &record));
        }
        println!("20000 records, {rounded_up} rounded up, {wrong} differ from fractions");
        assert_eq!(wrong, 0);
        assert!(rounded_up > 1_000);
    }

    #[test]
    fn a_half_goes_to_the_even_neighbour() {
        let half = EXA / 2;
        for (attos, parts, expected) in [
            (4, half, 0),
            (5, half, 1),
            (4, half + 1, 1),
            (5, half - 1, 0),
            (4, EXA + half, 2),
            (5, EXA + half, 1),
            (4, 2 * EXA - 2, 2),
        ] {
            assert_eq!(rounding(attos, parts).attos(), expected, "{attos} and {parts}");
        }
    }

    #[test]
    fn plans_with_the_same_prices_have_the_same_identity_and_others_do_not() {
        let plan = PricePlan::default().checked().expect("valid");
        assert_eq!(
            plan.text,
            "rule = \"vesta-price/1\"\ncurrency = \"USD\"\nguest_cpu_second = \"0.00002\"\n\
             inference_cpu_second = \"0.00002\"\ncold_start_cpu_second = \"0.00002\"\n\
             outbound_cpu_second = \"0.00002\"\nhandler_cpu_second = \"0.00002\"\n\
             deploy_cpu_second = \"0.00002\"\nmemory_gb_second = \"0.0000025\"\nrequest = \"0\"\n\
             start = \"0\"\ngb_in = \"0\"\ngb_out = \"0\"\n"
        );
        assert_eq!(plan.id, PlanId::of(&plan.text));
        assert_eq!(plan.id.to_string().parse(), Ok(plan.id));
        let written =
            PricePlan { guest_cpu_second: "0.000020".into(), request: "0.0".into(), ..PricePlan::default() };
        assert_eq!(written.checked().expect("valid").id, plan.id);
        for other in [
            PricePlan { request: "0.1".into(), ..PricePlan::default() },
            PricePlan { currency: "EUR".into(), ..PricePlan::default() },
        ] {
            assert_ne!(other.checked().expect("valid").id, plan.id);
        }
        for bad in ["", "0123456789a", "0123456789AB", "0123456789abc"] {
            assert!(bad.parse::<PlanId>().is_err(), "{bad}");
        }
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
        assert!(plan(|p| p.currency = "XXX".into()).contains("currency"));
    }
}

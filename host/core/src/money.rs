//! Money as exact integers of 10^-18 of the currency's unit, and currencies.

use serde::{Deserialize, Serialize, Serializer};
use std::fmt;
use std::iter::Sum;
use std::ops::{Add, AddAssign};
use std::str::FromStr;

/// Decimal places kept: one unit of currency is 10^18 of what [`Charge`] counts.
pub const DECIMALS: usize = 18;
const UNIT: i128 = 10i128.pow(DECIMALS as u32);

/// An amount of money in 10^-18 of the currency's unit. Written as a decimal with 18 places.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Charge(i128);

/// A text that is not a decimal number of at most 18 places.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a decimal amount with at most {DECIMALS} places and 18 digits before the point")]
pub struct MoneyError(String);

impl Charge {
    pub const ZERO: Charge = Charge(0);

    /// From a count of 10^-18 units of currency.
    pub const fn from_attos(attos: i128) -> Self {
        Self(attos)
    }
    /// The count of 10^-18 units of currency.
    pub const fn attos(self) -> i128 {
        self.0
    }
}

impl FromStr for Charge {
    type Err = MoneyError;
    fn from_str(s: &str) -> Result<Self, MoneyError> {
        let bad = || MoneyError(s.chars().take(80).collect());
        let (negative, digits) = match s.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, s),
        };
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let all_digits = |t: &str| t.bytes().all(|b| b.is_ascii_digit());
        if whole.is_empty() || whole.len() > 18 || fraction.len() > DECIMALS {
            return Err(bad());
        }
        if !all_digits(whole) || !all_digits(fraction) || digits.ends_with('.') {
            return Err(bad());
        }
        let whole: i128 = whole.parse().map_err(|_| bad())?;
        let fraction: i128 = format!("{fraction:0<DECIMALS$}").parse().map_err(|_| bad())?;
        let attos = whole * UNIT + fraction;
        Ok(Self(if negative { -attos } else { attos }))
    }
}
impl TryFrom<String> for Charge {
    type Error = MoneyError;
    fn try_from(s: String) -> Result<Self, MoneyError> {
        s.parse()
    }
}
impl From<Charge> for String {
    fn from(c: Charge) -> String {
        c.to_string()
    }
}
impl fmt::Display for Charge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let attos = self.0.unsigned_abs();
        let unit = UNIT.unsigned_abs();
        write!(f, "{sign}{}.{:0DECIMALS$}", attos / unit, attos % unit)
    }
}
impl fmt::Debug for Charge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
impl Add for Charge {
    type Output = Charge;
    fn add(self, other: Charge) -> Charge {
        Charge(self.0 + other.0)
    }
}
impl AddAssign for Charge {
    fn add_assign(&mut self, other: Charge) {
        self.0 += other.0;
    }
}
impl Sum for Charge {
    fn sum<I: Iterator<Item = Charge>>(iter: I) -> Charge {
        iter.fold(Charge::ZERO, Add::add)
    }
}

/// An ISO 4217 code of a currency: three capital letters.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct Currency([u8; 3]);

/// A text that is not a currency's code.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not three capital letters (ISO 4217)")]
pub struct CurrencyError(String);

impl Currency {
    /// `XXX`: no currency is stated. Records from before currencies were recorded have it until the ledger
    /// knows better; no price plan may have it.
    pub const UNSTATED: Currency = Currency(*b"XXX");

    pub fn as_str(&self) -> &str {
        // Capital letters only: always text.
        std::str::from_utf8(&self.0).unwrap_or("XXX")
    }
}

impl Default for Currency {
    fn default() -> Self {
        Currency::UNSTATED
    }
}
impl FromStr for Currency {
    type Err = CurrencyError;
    fn from_str(s: &str) -> Result<Self, CurrencyError> {
        let code: Option<[u8; 3]> = s.as_bytes().try_into().ok();
        let code = code.filter(|code| code.iter().all(u8::is_ascii_uppercase));
        code.map(Currency).ok_or_else(|| CurrencyError(s.chars().take(80).collect()))
    }
}
impl TryFrom<String> for Currency {
    type Error = CurrencyError;
    fn try_from(s: String) -> Result<Self, CurrencyError> {
        s.parse()
    }
}
impl Serialize for Currency {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}
impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
impl fmt::Debug for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_currency_is_three_capital_letters() {
        assert_eq!("EUR".parse::<Currency>().map(|c| c.to_string()), Ok("EUR".into()));
        for bad in ["", "EU", "EURO", "eur", "E1R", "€"] {
            assert!(bad.parse::<Currency>().is_err(), "{bad}");
        }
    }

    #[test]
    fn amounts_are_written_exactly_and_read_back() {
        for attos in [0, 1, -1, 20_000, UNIT, UNIT + 1, -3 * UNIT - 7, 10i128.pow(35)] {
            let c = Charge::from_attos(attos);
            assert_eq!(c.to_string().parse(), Ok(c));
        }
        assert_eq!(Charge::from_attos(20_000).to_string(), "0.000000000000020000");
        assert_eq!("0.00002".parse::<Charge>().map(Charge::attos), Ok(20_000_000_000_000));
    }

    #[test]
    fn what_is_not_a_decimal_is_refused() {
        for bad in ["", ".", "1.", ".5", "1e3", "--1", "1.0000000000000000001", "x", "1,5", "+1"] {
            assert!(bad.parse::<Charge>().is_err(), "{bad}");
        }
    }
}

//! Sums wider than the database's integers, in two columns: whole units and 10^-18 parts.

const UNIT: i128 = 1_000_000_000_000_000_000;

/// `units * 10^18 + parts`, with `parts` in 0 to 10^18 - 1 for negative numbers too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wide {
    pub units: i64,
    pub parts: i64,
}

impl Wide {
    /// `None` past 2^63 units.
    pub fn split(value: i128) -> Option<Wide> {
        let units = i64::try_from(value.div_euclid(UNIT)).ok()?;
        let parts = i64::try_from(value.rem_euclid(UNIT)).ok()?;
        Some(Wide { units, parts })
    }
    pub fn join(self) -> i128 {
        i128::from(self.units) * UNIT + i128::from(self.parts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_comes_back_and_parts_are_never_negative() {
        for value in [0, 1, -1, UNIT - 1, UNIT, -UNIT, -UNIT - 1, i128::from(i64::MAX) * UNIT] {
            let wide = Wide::split(value).expect("fits");
            assert_eq!(wide.join(), value);
            assert!((0..UNIT).contains(&i128::from(wide.parts)));
        }
        assert_eq!(Wide::split(i128::MAX), None);
    }
}

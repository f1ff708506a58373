//! Interleaved blocks, and what is made of their figures.

/// Runs every variant once for nothing, and then, `rounds` times, all of them forwards and backwards (A B B
/// A): what drifts on the machine falls on all alike. Gives each variant's two figures of every round.
pub fn interleaved(rounds: usize, variants: &mut [&mut dyn FnMut() -> f64]) -> Vec<Vec<[f64; 2]>> {
    for variant in variants.iter_mut() {
        variant();
    }
    let mut figures = vec![Vec::with_capacity(rounds); variants.len()];
    for _ in 0..rounds {
        let forwards: Vec<f64> = variants.iter_mut().map(|variant| variant()).collect();
        let mut backwards: Vec<f64> = variants.iter_mut().rev().map(|variant| variant()).collect();
        backwards.reverse();
        for (figures, pair) in figures.iter_mut().zip(forwards.iter().zip(&backwards)) {
            figures.push([*pair.0, *pair.1]);
        }
    }
    figures
}

/// Of each round, the first variant's figures over the second's.
pub fn ratios(ours: &[[f64; 2]], theirs: &[[f64; 2]]) -> Vec<f64> {
    ours.iter().zip(theirs).map(|(a, b)| (a[0] + a[1]) / (b[0] + b[1])).collect()
}

/// Of each round, a variant over itself (A/A): its spread says what a difference may mean.
pub fn same(figures: &[[f64; 2]]) -> Vec<f64> {
    figures.iter().map(|pair| pair[0] / pair[1]).collect()
}

/// The figure below which the share `q` (0 to 1) of the samples lies; NaN where there are none.
pub fn quantile(samples: &[f64], q: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = (sorted.len().saturating_sub(1) as f64 * q).round() as usize;
    sorted.get(at).copied().unwrap_or(f64::NAN)
}

pub fn median(samples: &[f64]) -> f64 {
    quantile(samples, 0.5)
}

/// The median of both figures of all rounds.
pub fn median_of(figures: &[[f64; 2]]) -> f64 {
    median(figures.as_flattened())
}

/// Half the distance between the quartiles, over the median.
pub fn spread(samples: &[f64]) -> f64 {
    (quantile(samples, 0.75) - quantile(samples, 0.25)) / 2.0 / median(samples).abs().max(f64::MIN_POSITIVE)
}

pub fn mean(samples: &[f64]) -> f64 {
    samples.iter().sum::<f64>() / samples.len() as f64
}

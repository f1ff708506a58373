//! Plots as SVG.

use crate::report::Line;
use plotters::prelude::*;
use std::path::Path;

const SIZE: (u32, u32) = (640, 320);
const FONT: &str = "sans-serif";
const DOT: RGBColor = RGBColor(31, 119, 180);
const TARGET: RGBColor = RGBColor(214, 39, 40);
const FIGURE: RGBColor = RGBColor(80, 80, 80);

/// `P10 fixed, GB-h` as `p10-fixed-gb-h.svg`.
pub fn file_name(id: &str) -> String {
    let words = id.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    words.map(str::to_ascii_lowercase).collect::<Vec<_>>().join("-") + ".svg"
}

/// A line of the report: each sample as a dot, the figure and the target as lines.
pub fn line(line: &Line, path: &Path) {
    let points: Vec<(f64, f64)> =
        line.samples.iter().enumerate().map(|(n, y)| (n as f64 + 1.0, *y)).collect();
    let last = points.len() as f64 + 1.0;
    let across = |y: f64| vec![(0.0, y), (last, y)];
    let target = line.target.filter(|t| t.is_finite());
    let curves: Vec<Curve> = [
        Some(Curve { name: "figure", color: FIGURE, points: across(line.figure()), dots: false }),
        target.map(|t| Curve { name: "target", color: TARGET, points: across(t), dots: false }),
        Some(Curve { name: "blocks", color: DOT, points, dots: true }),
    ]
    .into_iter()
    .flatten()
    .collect();
    let y = if line.unit.is_empty() { "ratio" } else { line.unit };
    draw(path, &format!("{}: {}", line.id, line.what), ("block", y), &curves, true);
}

/// What is drawn in one colour.
struct Curve {
    name: &'static str,
    color: RGBColor,
    points: Vec<(f64, f64)>,
    dots: bool,
}

/// One curve, such as a value over time.
pub fn curve(path: &Path, title: &str, axes: (&str, &str), points: Vec<(f64, f64)>) {
    draw(path, title, axes, &[Curve { name: "", color: DOT, points, dots: false }], false);
}

/// Writes one plot. A plot that cannot be drawn is said and costs nothing else.
fn draw(path: &Path, title: &str, (x, y): (&str, &str), curves: &[Curve], from_zero: bool) {
    if let Err(e) = try_draw(path, title, (x, y), curves, from_zero) {
        println!("no plot {}: {e}", path.display());
    }
}

fn try_draw(
    path: &Path,
    title: &str,
    (x, y): (&str, &str),
    curves: &[Curve],
    from_zero: bool,
) -> Result<(), Box<dyn std::error::Error>> {
    let all = || curves.iter().flat_map(|c| &c.points);
    let bounds = |of: fn(&(f64, f64)) -> f64| {
        all().map(of).fold((f64::MAX, f64::MIN), |(low, high), v| (low.min(v), high.max(v)))
    };
    let ((x_min, x_max), (low, high)) = (bounds(|p| p.0), bounds(|p| p.1));
    let room = ((high - low) * 0.1).max(high.abs() * 0.02).max(1e-6);
    let bottom = if from_zero { low.min(0.0) } else { low - room };

    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption(title, (FONT, 14))
        .margin(10)
        .x_label_area_size(34)
        .y_label_area_size(64)
        .build_cartesian_2d(x_min..x_max, bottom..high + room)?;
    chart.configure_mesh().x_desc(x).y_desc(y).light_line_style(WHITE).draw()?;
    for curve in curves {
        let color = curve.color;
        let drawn = if curve.dots {
            chart.draw_series(curve.points.iter().map(|p| Circle::new(*p, 3, color.filled())))?
        } else {
            chart.draw_series(LineSeries::new(curve.points.iter().copied(), color.stroke_width(2)))?
        };
        if !curve.name.is_empty() {
            let mark = move |(x, y)| Rectangle::new([(x, y - 4), (x + 12, y + 4)], color.filled());
            drawn.label(curve.name).legend(mark);
        }
    }
    if curves.iter().any(|c| !c.name.is_empty()) {
        let mut labels = chart.configure_series_labels();
        labels.position(SeriesLabelPosition::LowerLeft);
        labels.background_style(WHITE.mix(0.8)).border_style(FIGURE).draw()?;
    }
    root.present()?;
    Ok(())
}

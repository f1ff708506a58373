//! Given the model of the example `digits`, when it reads the images that its training never saw, then it is
//! as right as its training said.

use super::build::{as_f32s, f32s, load, prepare_bytes};
use std::path::Path;

#[test]
fn digits_are_read_as_well_as_training_said() {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../examples/digits");
    let read = |name: &str| std::fs::read(example.join(name)).expect(name);
    let json = |name: &str| serde_json::from_slice::<serde_json::Value>(&read(name)).expect(name);
    let (images, accuracy) = (json("test-images.json"), json("models/accuracy.json"));
    let rows = images["images"].as_array().expect("images");
    let pixels: Vec<f32> = rows
        .iter()
        .flat_map(|row| row.as_array().expect("a row"))
        .map(|v| v.as_f64().expect("a pixel") as f32 / 16.0)
        .collect();

    let prepared = prepare_bytes(&read("models/digits.onnx"));
    prepared.result.as_ref().expect("prepared");
    let graph = load(prepared.dir.path()).expect("loaded");
    let run = graph.run(vec![("image".into(), f32s(&[rows.len() as u32, 64], &pixels))]).expect("a run");
    let (name, probabilities) = &run.outputs[0];
    assert_eq!(name, "probabilities");
    let best = |row: &[f32]| (0..10).max_by(|a, b| row[*a].total_cmp(&row[*b])).expect("ten");
    let answers: Vec<usize> = as_f32s(probabilities).chunks(10).map(best).collect();
    let labels = images["labels"].as_array().expect("labels");
    let right = answers.iter().zip(labels).filter(|(a, l)| l.as_u64() == Some(**a as u64)).count();
    let expected = accuracy["test_accuracy"].as_f64().expect("a number");
    assert!((right as f64 / rows.len() as f64 - expected).abs() < 1e-3, "{right} of {}", rows.len());
}

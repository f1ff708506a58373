//! The list of models, and their inputs.

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use vesta_nn::{Tensor, TensorType};
use vesta_tests::in_root;

pub struct Entry {
    pub name: String,
    pub file: PathBuf,
    pub what: String,
    inputs: Vec<Input>,
}

struct Input {
    name: String,
    ty: TensorType,
    shape: Vec<u32>,
    /// The least and the greatest element.
    values: [f64; 2],
}

/// What `models.toml` lists, whether it is there or not.
pub fn read() -> Vec<Entry> {
    let text = std::fs::read_to_string(in_root("tests/bench/models.toml")).expect("models.toml");
    let list: toml::Table = text.parse().expect("TOML");
    list["model"].as_array().expect("models").iter().map(entry).collect()
}

fn entry(model: &toml::Value) -> Entry {
    let text = |key: &str| model[key].as_str().expect("a text").to_owned();
    let file = in_root(&text("file"));
    let name = file.file_stem().expect("a name").to_string_lossy().into_owned();
    let inputs = model["inputs"].as_array().expect("inputs").iter().map(input).collect();
    Entry { name, file, what: text("what"), inputs }
}

fn input(input: &toml::Value) -> Input {
    let list = |key: &str| input[key].as_array().expect("a list").iter();
    let number =
        |value: &toml::Value| value.as_float().or(value.as_integer().map(|n| n as f64)).expect("a number");
    let values: Vec<f64> = list("values").map(number).collect();
    Input {
        name: input["name"].as_str().expect("a name").to_owned(),
        ty: ty(input["type"].as_str().expect("a type")),
        shape: list("shape").map(|size| number(size) as u32).collect(),
        values: [values[0], values[1]],
    }
}

fn ty(name: &str) -> TensorType {
    match name {
        "f32" => TensorType::F32,
        "i32" => TensorType::I32,
        "i64" => TensorType::I64,
        other => panic!("the list has inputs of no type {other}"),
    }
}

impl Input {
    fn elements(&self) -> Vec<u8> {
        let mut random = SmallRng::seed_from_u64(1);
        let [least, greatest] = self.values;
        let count = self.shape.iter().map(|size| *size as usize).product();
        let mut whole = || random.random_range(least as i64..=greatest as i64);
        match self.ty {
            TensorType::I32 => (0..count).flat_map(|_| (whole() as i32).to_le_bytes()).collect(),
            TensorType::I64 => (0..count).flat_map(|_| whole().to_le_bytes()).collect(),
            _ => (0..count)
                .flat_map(|_| (random.random_range(least..=greatest) as f32).to_le_bytes())
                .collect(),
        }
    }
}

impl Entry {
    /// Samples for the trial at deploy, in JSON: of each input the least value, everywhere.
    pub fn samples(&self) -> String {
        let samples =
            self.inputs.iter().map(|i| json!({ "input": i.name, "shape": i.shape, "fill": i.values[0] }));
        Value::Array(samples.collect()).to_string()
    }

    /// The inputs.
    pub fn tensors(&self) -> Vec<(String, Tensor)> {
        let tensor = |i: &Input| Tensor { ty: i.ty, shape: i.shape.clone(), data: i.elements() };
        self.inputs.iter().map(|i| (i.name.clone(), tensor(i))).collect()
    }
}

/// Writes inputs into a folder. The path of their description.
pub fn write_inputs(dir: &Path, inputs: &[(String, Tensor)]) -> PathBuf {
    let mut all = Vec::new();
    for (number, (name, tensor)) in inputs.iter().enumerate() {
        let file = dir.join(format!("{number}.bin"));
        std::fs::write(&file, &tensor.data).expect("write an input");
        let ty = tensor.ty.to_string();
        all.push(json!({ "name": name, "type": ty, "shape": tensor.shape, "file": file }));
    }
    let path = dir.join("inputs.json");
    std::fs::write(&path, Value::Array(all).to_string()).expect("write the inputs");
    path
}

/// The inputs that [`write_inputs`] has written.
pub fn read_inputs(path: &Path) -> Vec<(String, Tensor)> {
    let text = std::fs::read_to_string(path).expect("the inputs");
    let all: Vec<Value> = serde_json::from_str(&text).expect("JSON");
    let read = |input: &Value| {
        let text = |key: &str| input[key].as_str().expect("a text");
        let sizes = input["shape"].as_array().expect("a shape").iter();
        let shape = sizes.map(|size| size.as_u64().expect("a size") as u32).collect();
        let data = std::fs::read(text("file")).expect("an input");
        (text("name").to_owned(), Tensor { ty: ty(text("type")), shape, data })
    };
    all.iter().map(read).collect()
}

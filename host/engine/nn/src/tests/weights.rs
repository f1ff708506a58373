//! How a prepared model's weights lie in their file and come into memory.

use super::build::*;
use crate::onnx::*;
use crate::{Lookup, ReadAhead, WEIGHTS_FILE};
use std::path::Path;

const ROWS: i64 = 2_000;
const WIDTH: i64 = 1_024;
const TABLE_BYTES: u64 = (ROWS * WIDTH * 4) as u64;
const FACTORS_BYTES: u64 = (WIDTH * WIDTH * 4) as u64;

/// y[?, 1024] = table[ids[?]] * factors, where row n of the table is all n and the factors are the identity.
fn lookup() -> ModelProto {
    let table: Vec<f32> = (0..ROWS * WIDTH).map(|i| (i / WIDTH) as f32).collect();
    let factors: Vec<f32> = (0..WIDTH * WIDTH).map(|i| f32::from(u8::from(i / WIDTH == i % WIDTH))).collect();
    model(
        17,
        GraphProto {
            node: vec![node("Gather", &["table", "ids"], "rows"), node("MatMul", &["rows", "factors"], "y")],
            initializer: vec![
                floats("table", &[ROWS, WIDTH], &table),
                floats("factors", &[WIDTH, WIDTH], &factors),
            ],
            input: vec![port("ids", 7, &[0])],
            output: vec![port("y", 1, &[0, WIDTH])],
            ..GraphProto::default()
        },
    )
}

/// Bytes of the file that this process has mapped and in memory.
fn resident_bytes(file: &Path) -> u64 {
    let smaps = std::fs::read_to_string("/proc/self/smaps").expect("smaps");
    let mut within = false;
    let mut bytes = 0;
    for line in smaps.lines() {
        if line.contains('-') && !line.starts_with(char::is_uppercase) {
            within = line.ends_with(&*file.to_string_lossy());
        } else if let Some(kib) = line.strip_prefix("Rss:").filter(|_| within) {
            bytes += kib.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10;
        }
    }
    bytes
}

#[test]
fn tables_stand_last_and_are_looked_up_there() {
    let prepared = prepare_model(&lookup());
    let info = prepared.result.as_ref().expect("prepared");
    assert_eq!((info.table_bytes, info.weights_bytes), (TABLE_BYTES, TABLE_BYTES + FACTORS_BYTES));
    let lookup =
        Lookup { input: "ids".into(), offset: FACTORS_BYTES, rows: ROWS as u64, row_bytes: 4 * WIDTH as u64 };
    assert_eq!(info.lookups, [lookup]);
    let file = std::fs::read(prepared.dir.path().join(WEIGHTS_FILE)).expect("weights");
    assert_eq!(file[..4], 1f32.to_le_bytes(), "the factors come first, though their initializer is second");
    let graph = load(prepared.dir.path()).expect("loads");
    let outputs = graph.run(vec![("ids".into(), i64s(&[2], &[7, 1_999]))]).expect("runs").outputs;
    let y = as_f32s(&outputs[0].1);
    assert!(
        y[..WIDTH as usize].iter().all(|v| *v == 7.0) && y[WIDTH as usize..].iter().all(|v| *v == 1_999.0)
    );
}

#[test]
fn weights_are_read_ahead_part_by_part() {
    let prepared = prepare_model(&lookup());
    prepared.result.expect("prepared");
    let path = prepared.dir.path().join(WEIGHTS_FILE);
    let graph = load(prepared.dir.path()).expect("loads");
    assert_eq!(resident_bytes(&path), 0, "loading reads no weights");
    graph.read_ahead(ReadAhead::EveryRun);
    assert_eq!(resident_bytes(&path), FACTORS_BYTES);
    graph.read_ahead(ReadAhead::Tables);
    assert_eq!(resident_bytes(&path), FACTORS_BYTES + TABLE_BYTES);
    drop(graph);
    assert_eq!(resident_bytes(&path), 0, "unmapped");
}

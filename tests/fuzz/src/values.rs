//! Element types, and elements: plain ones, and those that break things.

use rand::rngs::SmallRng;
use rand::{Rng, RngExt};
use vesta_nn::TensorType;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ty {
    F32,
    F16,
    F64,
    I32,
    I64,
    U8,
    I8,
    Bool,
}

pub const ALL: [Ty; 8] = [Ty::F32, Ty::F16, Ty::F64, Ty::I32, Ty::I64, Ty::U8, Ty::I8, Ty::Bool];

impl Ty {
    /// ONNX's number.
    pub fn number(self) -> i32 {
        match self {
            Ty::F32 => 1,
            Ty::U8 => 2,
            Ty::I8 => 3,
            Ty::I32 => 6,
            Ty::I64 => 7,
            Ty::Bool => 9,
            Ty::F16 => 10,
            Ty::F64 => 11,
        }
    }

    /// What crosses the border to a guest.
    pub fn of_guest(self) -> TensorType {
        match self {
            Ty::F32 => TensorType::F32,
            Ty::F16 => TensorType::F16,
            Ty::F64 => TensorType::F64,
            Ty::I32 => TensorType::I32,
            Ty::I64 => TensorType::I64,
            Ty::U8 => TensorType::U8,
            Ty::I8 => TensorType::I8,
            Ty::Bool => TensorType::Bool,
        }
    }

    pub fn is_float(self) -> bool {
        matches!(self, Ty::F32 | Ty::F16 | Ty::F64)
    }
}

/// Elements before they are written as bytes of a type.
#[derive(Debug, Clone, PartialEq)]
pub enum Data {
    Floats(Vec<f32>),
    Ints(Vec<i64>),
}

impl Data {
    /// `count` elements, what there is again and again.
    pub fn cycled(&self, count: usize) -> Data {
        match self {
            Data::Floats(v) if v.is_empty() => Data::Floats(vec![0.5; count]),
            Data::Ints(v) if v.is_empty() => Data::Ints(vec![1; count]),
            Data::Floats(v) => Data::Floats(v.iter().copied().cycle().take(count).collect()),
            Data::Ints(v) => Data::Ints(v.iter().copied().cycle().take(count).collect()),
        }
    }

    /// Little-endian, as in a file and as a guest gives them.
    pub fn bytes(&self, ty: Ty) -> Vec<u8> {
        let ints = || match self {
            Data::Ints(v) => v.clone(),
            Data::Floats(v) => v.iter().map(|f| *f as i64).collect(),
        };
        let floats = || match self {
            Data::Floats(v) => v.clone(),
            Data::Ints(v) => v.iter().map(|i| *i as f32).collect(),
        };
        match ty {
            Ty::F32 => floats().iter().flat_map(|v| v.to_le_bytes()).collect(),
            Ty::F64 => floats().iter().flat_map(|v| f64::from(*v).to_le_bytes()).collect(),
            // The upper half of a float with its bits moved: any pattern will do.
            Ty::F16 => floats().iter().flat_map(|v| ((v.to_bits() >> 16) as u16).to_le_bytes()).collect(),
            Ty::I32 => ints().iter().flat_map(|v| (*v as i32).to_le_bytes()).collect(),
            Ty::I64 => ints().iter().flat_map(|v| v.to_le_bytes()).collect(),
            Ty::U8 | Ty::I8 | Ty::Bool => ints().iter().map(|v| *v as u8).collect(),
        }
    }

    /// As a manifest lists them.
    pub fn numbers(&self) -> Vec<f64> {
        match self {
            Data::Floats(v) => v.iter().map(|f| f64::from(*f)).collect(),
            Data::Ints(v) => v.iter().map(|i| *i as f64).collect(),
        }
    }

    /// Puts odd elements in, a share of about `share`.
    pub fn hurt(&mut self, rng: &mut SmallRng, share: f64) {
        match self {
            Data::Floats(v) => {
                for v in v {
                    if rng.random_bool(share) {
                        *v = odd_float(rng);
                    }
                }
            }
            Data::Ints(v) => {
                for v in v {
                    if rng.random_bool(share) {
                        *v = odd_int(rng, *v);
                    }
                }
            }
        }
    }
}

pub fn one_of<T: Copy>(rng: &mut SmallRng, list: &[T]) -> T {
    list[rng.random_range(0..list.len())]
}

/// An integer where something near `v` makes sense.
pub fn odd_int(rng: &mut SmallRng, v: i64) -> i64 {
    const MIN: i64 = i32::MIN as i64;
    const MAX: i64 = i32::MAX as i64;
    match rng.random_range(0..10) {
        0 => 0,
        1 => v.wrapping_add(1),
        2 => v.wrapping_sub(1),
        3 => v.wrapping_neg(),
        4 => one_of(rng, &[-1, 1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 255, 256, 1000]),
        5 => one_of(
            rng,
            &[MIN, MIN + 1, MAX, MAX - 1, MAX + 1, MIN - 1, MAX / 2, MIN / 2, 46341, 65536, 1 << 20],
        ),
        6 => one_of(
            rng,
            &[i64::MIN, i64::MAX, i64::MIN + 1, 1 << 62, 1 << 61, 1 << 32, (1 << 32) + 1, 3037000500],
        ),
        7 => rng.random_range(-20..20),
        8 => i64::from(rng.next_u32() as i32),
        _ => rng.next_u64() as i64 >> rng.random_range(0..64),
    }
}

pub fn odd_float(rng: &mut SmallRng) -> f32 {
    const ODD: [f32; 16] = [
        f32::NAN,
        f32::INFINITY,
        f32::NEG_INFINITY,
        0.0,
        -0.0,
        f32::MAX,
        f32::MIN,
        f32::MIN_POSITIVE,
        1e-40,
        -1.0,
        0.5,
        2_147_483_648.0,
        -2_147_483_904.0,
        4_294_967_296.0,
        1e20,
        -1e-9,
    ];
    if rng.random_bool(0.8) { one_of(rng, &ODD) } else { f32::from_bits(rng.next_u32()) }
}

/// Dimensions whose products or byte counts do not fit into 64 or 32 bits, or wrap to little.
pub const WRAPPING: [&[i64]; 14] = [
    &[10_827_767, 199_537_566, 8_538],
    &[65_536, 65_536, 65_536, 65_536],
    &[2_147_483_647, 2_147_483_647, 4],
    &[2_147_483_647, 2_147_483_647, 2_147_483_647],
    &[1 << 30, 1 << 30, 16],
    &[1 << 30, 1 << 30, 4],
    &[1 << 31, 1 << 31, 4],
    &[46_341, 46_341],
    &[65_536, 65_536],
    &[1 << 30, 4],
    &[0, 2_147_483_647, 2_147_483_647, 2_147_483_647],
    &[2_147_483_647, 2_147_483_647, 2_147_483_647, 0],
    &[1_431_655_766, 3],
    &[641, 6_700_417, 4_294_967_297 >> 1],
];

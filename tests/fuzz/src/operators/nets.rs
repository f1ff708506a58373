//! Matrix products, windows, recurrences, attention: what reaches the engine's kernels.

use crate::case::{Case, Value, float, int, ints, string};
use crate::values::{Data, Ty};

fn size(x: &Value, axis: usize) -> i64 {
    x.shape.get(axis).copied().unwrap_or(1)
}

fn last(x: &Value) -> i64 {
    x.shape.last().copied().unwrap_or(1)
}

/// Two factors of a product and the shape of what it gives.
pub fn factors(c: &mut Case, left: Ty, right: Ty) -> (Value, Value, Vec<i64>) {
    let a = c.any(&[left], 1..=4);
    let (k, n) = (last(&a), c.dim());
    let outer = a.shape[..a.shape.len().saturating_sub(2)].to_vec();
    let mut b = if c.chance(0.5) { c.broadcast(&outer) } else { vec![] };
    b.push(k);
    let vector = b.len() == 1 && c.chance(0.2);
    let mut out = a.shape[..a.shape.len().saturating_sub(1)].to_vec();
    if !vector {
        b.push(n);
        out.push(n);
    }
    let b = c.of(right, &b);
    (a, b, out)
}

pub fn matmul(c: &mut Case, op: &str) {
    let (a, b, out) = factors(c, Ty::F32, Ty::F32);
    c.node(op, &[Some(&a), Some(&b)], vec![], &[(Ty::F32, out)]);
}

pub fn gemm(c: &mut Case, op: &str) {
    let a = c.any(&[Ty::F32], 2..=2);
    let [left, right] = [(); 2].map(|()| c.below(2));
    let (m, k) = if left == 1 { (size(&a, 1), size(&a, 0)) } else { (size(&a, 0), size(&a, 1)) };
    let n = c.dim();
    let b = c.of(Ty::F32, &if right == 1 { [n, k] } else { [k, n] });
    let shape = c.broadcast(&[m, n]);
    let plus = c.of(Ty::F32, &shape);
    let plus = c.chance(0.6).then_some(plus);
    let attributes = vec![
        int("transA", c.n(left)),
        int("transB", c.n(right)),
        float("alpha", c.f(0.5)),
        float("beta", c.f(2.0)),
    ];
    c.node(op, &[Some(&a), Some(&b), plus.as_ref()], attributes, &[(Ty::F32, vec![m, n])]);
}

pub fn einsum(c: &mut Case, op: &str) {
    let equation = c.pick(&[
        "ij,jk->ik",
        "bij,bjk->bik",
        "ij,ij->",
        "ij->ji",
        "ii->i",
        "bhid,bhjd->bhij",
        "ij,kj->ik",
        "i,j->ij",
        "ij->i",
        "bi,bj,bk->bijk",
        "ij,jk",
        "...ij,...jk->...ik",
        "ij,jk,kl->il",
        "ijk,jil->kl",
        "i->ii",
        "ij,j->",
        "->",
        "a",
    ]);
    let left = equation.split("->").next().unwrap_or_default();
    let mut sizes = std::collections::HashMap::new();
    let terms: Vec<Value> = left
        .split(',')
        .map(|term| {
            let letters = term.chars().filter(char::is_ascii_alphabetic);
            let shape: Vec<i64> = letters.map(|l| *sizes.entry(l).or_insert_with(|| c.dim())).collect();
            c.of(Ty::F32, &shape)
        })
        .collect();
    let out = equation.split("->").nth(1).unwrap_or_default();
    let out = out.chars().filter_map(|l| sizes.get(&l).copied()).collect();
    let inputs: Vec<_> = terms.iter().map(Some).collect();
    let equation = if c.hurt() { "ij,j,k->ijkz" } else { equation };
    c.node(op, &inputs, vec![string("equation", equation)], &[(Ty::F32, out)]);
}

/// Attributes of a window over `rank` dimensions.
fn window(c: &mut Case, kernel: &[i64], dilations: bool) -> Vec<crate::Attribute> {
    let mut list = |low: i64, high: i64, count: usize| -> Vec<i64> {
        (0..count)
            .map(|_| {
                let v = c.within(low..=high);
                c.n(v)
            })
            .collect()
    };
    let strides = list(1, 3, kernel.len());
    let pads = list(0, 2, kernel.len() * 2);
    let dilate = list(1, 2, kernel.len());
    let shape: Vec<i64> = kernel.iter().map(|k| c.n(*k)).collect();
    let mut attributes = vec![ints("kernel_shape", &shape)];
    if c.chance(0.7) {
        attributes.push(ints("strides", &strides));
    }
    if dilations && c.chance(0.4) {
        attributes.push(ints("dilations", &dilate));
    }
    match c.below(4) {
        0 => attributes.push(string("auto_pad", c.s(&["SAME_UPPER", "SAME_LOWER", "VALID", "NOTSET"]))),
        1 => {}
        _ => attributes.push(ints("pads", &pads)),
    }
    attributes
}

fn kernel_of(c: &mut Case, x: &Value) -> Vec<i64> {
    let spatial = x.shape.get(2..).unwrap_or_default();
    spatial.iter().map(|d| c.within(1..=(*d).clamp(1, 4))).collect()
}

pub fn convolve(c: &mut Case, op: &str) {
    let whole = op == "ConvInteger";
    let ty = if whole { c.pick(&[Ty::U8, Ty::I8]) } else { Ty::F32 };
    let rank = if c.hurt() { 5 } else { 4 };
    let x = c.any(&[ty], 3..=rank);
    let channels = size(&x, 1);
    let kernel = kernel_of(c, &x);
    // One group, as many as channels, or two.
    let groups = match c.below(4) {
        0 => channels.max(1),
        1 if channels % 2 == 0 && channels > 0 => 2,
        _ => 1,
    };
    let outputs = groups * c.within(1..=5);
    let mut shape = match op {
        "ConvTranspose" => vec![channels, outputs / groups],
        _ => vec![outputs, channels / groups],
    };
    shape.extend(&kernel);
    let weights = if whole { c.pick(&[Ty::U8, Ty::I8]) } else { Ty::F32 };
    let weights = c.of(weights, &shape);
    let mut attributes = window(c, &kernel, true);
    attributes.push(int("group", c.n(groups)));
    if op == "ConvTranspose" && c.chance(0.3) {
        let more: Vec<i64> = kernel.iter().map(|_| c.n(0)).collect();
        attributes.push(ints("output_padding", &more));
    }
    let mut out = vec![size(&x, 0), outputs];
    out.extend(x.shape.get(2..).unwrap_or_default());
    if whole {
        let left = c.of(ty, &[]);
        let zeros: &[i64] = if c.chance(0.5) { &[] } else { &[outputs] };
        let right = c.of(weights.ty, zeros);
        let (left, right) = (c.chance(0.7).then_some(left), c.chance(0.7).then_some(right));
        c.node(op, &[Some(&x), Some(&weights), left.as_ref(), right.as_ref()], attributes, &[(Ty::I32, out)]);
    } else {
        let bias = c.of(Ty::F32, &[outputs]);
        let bias = c.chance(0.6).then_some(bias);
        c.node(op, &[Some(&x), Some(&weights), bias.as_ref()], attributes, &[(Ty::F32, out)]);
    }
}

pub fn pool(c: &mut Case, op: &str) {
    let x = c.any(&[Ty::F32], 3..=4);
    let kernel = kernel_of(c, &x);
    let mut attributes = window(c, &kernel, false);
    attributes.push(int("ceil_mode", c.below(2)));
    if op == "AveragePool" {
        attributes.push(int("count_include_pad", c.below(2)));
    }
    c.node(op, &[Some(&x)], attributes, &[(Ty::F32, x.shape.clone())]);
}

pub fn pool_all(c: &mut Case, op: &str) {
    let x = c.any(&[Ty::F32], 3..=5);
    let mut out = x.shape.clone();
    out.iter_mut().skip(2).for_each(|d| *d = 1);
    c.node(op, &[Some(&x)], vec![], &[(Ty::F32, out)]);
}

pub fn recur(c: &mut Case, op: &str) {
    let x = c.any(&[Ty::F32], 3..=3);
    let (steps, batch, inputs) = (size(&x, 0), size(&x, 1), size(&x, 2));
    let hidden = c.dim();
    let direction = c.s(&["forward", "reverse", "bidirectional"]);
    let dirs = if direction == "bidirectional" { 2 } else { 1 };
    let gates = if op == "GRU" { 3 } else { 4 };
    let quantized = op.ends_with("DynamicQuantizeLSTM");
    let wide = gates * hidden;
    let (w, r) = if quantized {
        let ty = c.pick(&[Ty::U8, Ty::I8]);
        (c.of(ty, &[dirs, inputs, wide]), c.of(ty, &[dirs, hidden, wide]))
    } else {
        (c.of(Ty::F32, &[dirs, wide, inputs]), c.of(Ty::F32, &[dirs, wide, hidden]))
    };
    let bias = c.of(Ty::F32, &[dirs, 2 * wide]);
    let lengths: Vec<i64> = (0..batch.clamp(0, 64)).map(|_| steps).collect();
    let lengths = c.given(Ty::I32, &[lengths.len() as i64], Data::Ints(lengths));
    let [first, cell] = [(); 2].map(|()| c.of(Ty::F32, &[dirs, batch, hidden]));
    let mut keep = |v: Value| c.chance(0.5).then_some(v);
    let (bias, lengths, first, cell) = (keep(bias), keep(lengths), keep(first), keep(cell));
    let mut attributes = vec![int("hidden_size", c.n(hidden)), string("direction", direction)];
    let mut given = vec![Some(&x), Some(&w), Some(&r), bias.as_ref(), lengths.as_ref(), first.as_ref()];
    if op == "GRU" {
        attributes.push(int("linear_before_reset", c.below(2)));
    } else {
        given.push(cell.as_ref());
    }
    let scales = if c.chance(0.5) { vec![dirs] } else { vec![dirs, wide] };
    let [ws, rs] = [(); 2].map(|()| c.of(Ty::F32, &scales));
    let [wz, rz] = [(); 2].map(|()| c.of(w.ty, &scales));
    if quantized {
        given.extend([None, Some(&ws), Some(&wz), Some(&rs), Some(&rz)]);
    }
    let mut outputs = vec![(Ty::F32, vec![steps, dirs, batch, hidden]), (Ty::F32, vec![dirs, batch, hidden])];
    if op != "GRU" {
        outputs.push((Ty::F32, vec![dirs, batch, hidden]));
    }
    c.node(op, &given, attributes, &outputs);
}

/// Sizes of an attention: batch, heads, heads of keys, steps, steps of keys, width of a head.
fn sizes(c: &mut Case) -> [i64; 6] {
    let few = c.within(1..=2);
    let heads = few * c.within(1..=3);
    let width = c.pick(&[2, 4, 6, 8, 16, 3]);
    [c.within(1..=3), heads, few, c.within(1..=6), c.within(1..=9), width]
}

pub fn attend(c: &mut Case, op: &str) {
    let [batch, heads, few, steps, keys, width] = sizes(c);
    let flat = c.chance(0.5);
    let mut of = |heads: i64, steps: i64| {
        let shape = if flat { vec![batch, steps, heads * width] } else { vec![batch, heads, steps, width] };
        c.of(Ty::F32, &shape)
    };
    let (q, k, v) = (of(heads, steps), of(few, keys), of(few, keys));
    let past = if c.chance(0.4) { c.within(0..=4) } else { -1 };
    let total = keys + past.max(0);
    let mask_shape = c.broadcast(&[batch, heads, steps, total]);
    let mask_ty = c.ty(&[Ty::F32, Ty::Bool]);
    let mask = c.of(mask_ty, &mask_shape);
    let mask = c.chance(0.5).then_some(mask);
    let [pk, pv] = [(); 2].map(|()| (past >= 0).then(|| c.of(Ty::F32, &[batch, few, past, width])));
    let valid: Vec<i64> = (0..batch).map(|_| c.within(0..=keys)).collect();
    let valid = if c.chance(0.3) { Some(c.ints(&valid)) } else { None };
    let mut attributes = vec![int("is_causal", c.below(2)), float("softcap", c.f(0.0))];
    if flat {
        attributes.extend([int("q_num_heads", c.n(heads)), int("kv_num_heads", c.n(few))]);
    }
    let out = if flat { vec![batch, steps, heads * width] } else { vec![batch, heads, steps, width] };
    let mut outputs = vec![(Ty::F32, out)];
    if past >= 0 {
        outputs.extend([(); 2].map(|()| (Ty::F32, vec![batch, few, total, width])));
    }
    let inputs = [Some(&q), Some(&k), Some(&v), mask.as_ref(), pk.as_ref(), pv.as_ref(), valid.as_ref()];
    c.node(op, &inputs, attributes, &outputs);
}

pub fn attend_heads(c: &mut Case, op: &str) {
    let [batch, heads, _, steps, keys, width] = sizes(c);
    let hidden = heads * width;
    let packed = c.chance(0.2);
    let q =
        c.of(Ty::F32, &if packed { vec![batch, steps, heads, 3, width] } else { vec![batch, steps, hidden] });
    let keys = if packed { steps } else { keys };
    let [k, v] = [(); 2].map(|()| (!packed).then(|| c.of(Ty::F32, &[batch, keys, hidden])));
    let past = if c.chance(0.3) { c.within(0..=4) } else { -1 };
    let total = keys + past.max(0);
    let bias = (!packed && c.chance(0.4)).then(|| c.of(Ty::F32, &[3 * hidden]));
    let padding = c.of(Ty::I32, &[batch, total]);
    let padding = c.chance(0.4).then_some(padding);
    let shape = [c.pick(&[1, batch]), c.pick(&[1, heads]), steps, total];
    let more = c.of(Ty::F32, &shape);
    let more = c.chance(0.4).then_some(more);
    let [pk, pv] = [(); 2].map(|()| (past >= 0).then(|| c.of(Ty::F32, &[batch, heads, past, width])));
    let attributes =
        vec![int("num_heads", c.n(heads)), int("unidirectional", c.below(2)), float("scale", c.f(0.5))];
    let mut outputs = vec![(Ty::F32, vec![batch, steps, hidden])];
    if past >= 0 {
        outputs.extend([(); 2].map(|()| (Ty::F32, vec![batch, heads, total, width])));
    }
    let inputs = [
        Some(&q),
        k.as_ref(),
        v.as_ref(),
        bias.as_ref(),
        padding.as_ref(),
        more.as_ref(),
        pk.as_ref(),
        pv.as_ref(),
    ];
    c.node(op, &inputs, attributes, &outputs);
}

pub fn attend_groups(c: &mut Case, op: &str) {
    let [batch, heads, few, steps, _, width] = sizes(c);
    let (rotary, past) = (c.below(2), c.within(0..=4));
    // Of a rotated head each element has a partner; what continues several sequences gives each one step.
    let width = if rotary == 1 { width / 2 * 2 } else { width };
    let steps = if past > 0 && batch > 1 { 1 } else { steps };
    let packed = c.chance(0.3);
    let q = if packed { (heads + 2 * few) * width } else { heads * width };
    let q = c.of(Ty::F32, &[batch, steps, q]);
    let [k, v] = [(); 2].map(|()| (!packed).then(|| c.of(Ty::F32, &[batch, steps, few * width])));
    let total = past + steps;
    let [pk, pv] = [(); 2].map(|()| c.of(Ty::F32, &[batch, few, past, width]));
    let (pk, pv) = if past == 0 && c.chance(0.5) { (None, None) } else { (Some(pk), Some(pv)) };
    let lengths: Vec<i64> = (0..batch).map(|_| c.n(total - 1)).collect();
    let lengths = c.given(Ty::I32, &[batch], Data::Ints(lengths));
    let whole = c.n(total);
    let whole = c.given(Ty::I32, &[], Data::Ints(vec![whole]));
    let [cos, sin] = [(); 2].map(|()| (rotary == 1).then(|| c.of(Ty::F32, &[total + 3, width / 2])));
    let places = c.chance(0.2).then(|| c.indices(&[batch, steps], total));
    let attributes = vec![
        int("num_heads", c.n(heads)),
        int("kv_num_heads", c.n(few)),
        int("do_rotary", rotary),
        int("rotary_interleaved", c.below(2)),
        int("local_window_size", c.pick(&[-1, 1, 3])),
    ];
    let outputs = [
        (Ty::F32, vec![batch, steps, heads * width]),
        (Ty::F32, vec![batch, few, total, width]),
        (Ty::F32, vec![batch, few, total, width]),
    ];
    let inputs = [
        Some(&q),
        k.as_ref(),
        v.as_ref(),
        pk.as_ref(),
        pv.as_ref(),
        Some(&lengths),
        Some(&whole),
        cos.as_ref(),
        sin.as_ref(),
        places.as_ref(),
    ];
    c.node(op, &inputs, attributes, &outputs);
}

pub fn rotate(c: &mut Case, op: &str) {
    let [batch, heads, _, steps, keys, width] = sizes(c);
    let width = width / 2 * 2 + 2;
    let flat = c.chance(0.5);
    let shape = if flat { vec![batch, steps, heads * width] } else { vec![batch, heads, steps, width] };
    let x = c.of(Ty::F32, &shape);
    let part = if c.chance(0.7) { 0 } else { 2 };
    let half = if part == 0 { width / 2 } else { 1 };
    let rows = steps + keys;
    let microsoft = op.starts_with("com.");
    let by_place = microsoft || c.chance(0.6);
    let caches = if by_place { vec![rows, half] } else { vec![batch, steps, half] };
    let [cos, sin] = [(); 2].map(|()| c.of(Ty::F32, &caches));
    let places =
        if microsoft && c.chance(0.3) { c.indices(&[1], keys) } else { c.indices(&[batch, steps], rows) };
    let attributes = vec![
        int("num_heads", c.n(heads)),
        int("rotary_embedding_dim", c.n(part)),
        int("interleaved", c.below(2)),
    ];
    let output = [(Ty::F32, shape)];
    if microsoft {
        c.node(op, &[Some(&x), Some(&places), Some(&cos), Some(&sin)], attributes, &output);
    } else {
        let places = by_place.then_some(&places);
        c.node(op, &[Some(&x), Some(&cos), Some(&sin), places], attributes, &output);
    }
}

pub fn grid_sample(c: &mut Case, op: &str) {
    let x = c.any(&[Ty::F32], 4..=4);
    let (h, w) = (c.dim(), c.dim());
    let grid = c.of(Ty::F32, &[size(&x, 0), h, w, 2]);
    let attributes = vec![int("align_corners", c.below(2)), string("mode", c.s(&["linear", "bilinear"]))];
    c.node(op, &[Some(&x), Some(&grid)], attributes, &[(Ty::F32, vec![size(&x, 0), size(&x, 1), h, w])]);
}

pub fn resize(c: &mut Case, op: &str) {
    let x = c.any(&[Ty::F32], 3..=4);
    let by_size = op == "Resize" && c.chance(0.5);
    let steer: Vec<f32> = (0..x.shape.len())
        .map(|i| {
            if i < 2 {
                1.0
            } else {
                let s = c.pick(&[0.5, 1.0, 2.0, 1.7, 3.0]);
                c.f(s)
            }
        })
        .collect();
    let out: Vec<i64> = x.shape.iter().zip(&steer).map(|(d, s)| (*d as f32 * s) as i64).collect();
    let mode = c.s(&["nearest", "linear"]);
    let mut attributes = vec![string("mode", mode)];
    if op == "Upsample" {
        let scales = c.given(Ty::F32, &[x.rank()], Data::Floats(steer));
        c.node(op, &[Some(&x), Some(&scales)], attributes, &[(Ty::F32, out)]);
        return;
    }
    attributes.push(string(
        "coordinate_transformation_mode",
        c.s(&["asymmetric", "half_pixel", "align_corners", "pytorch_half_pixel"]),
    ));
    attributes
        .push(string("nearest_mode", c.s(&["floor", "ceil", "round_prefer_floor", "round_prefer_ceil"])));
    if by_size {
        let sizes = c.shape(&out);
        c.node(op, &[Some(&x), None, None, Some(&sizes)], attributes, &[(Ty::F32, out)]);
    } else {
        let scales = c.given(Ty::F32, &[x.rank()], Data::Floats(steer));
        c.node(op, &[Some(&x), None, Some(&scales)], attributes, &[(Ty::F32, out)]);
    }
}

pub fn fourier(c: &mut Case, op: &str) {
    let parts = c.pick(&[1, 2]);
    let shape = [c.within(1..=3), c.dim(), parts];
    let x = c.of(Ty::F32, &shape);
    let inverse = c.below(2);
    let half = if parts == 1 || inverse == 1 { c.below(2) } else { 0 };
    let length = if c.chance(0.4) {
        let n = c.dim();
        Some(c.int(n))
    } else {
        None
    };
    let (mut axis, mut attributes) = (None, vec![int("inverse", inverse), int("onesided", half)]);
    match c.below(3) {
        0 => attributes.push(int("axis", c.n(1))),
        1 => axis = Some(c.int(1)),
        _ => {}
    }
    let inputs = [Some(&x), length.as_ref(), axis.as_ref()];
    c.node(op, &inputs, attributes, &[(Ty::F32, vec![shape[0], shape[1], 2])]);
}

pub fn short_fourier(c: &mut Case, op: &str) {
    let frame = c.within(1..=9);
    let samples = frame + c.dim();
    let parts = c.pick(&[1, 1, 2]);
    let x = c.of(Ty::F32, &[2, samples, parts]);
    let step = c.within(1..=4);
    let step = c.int(step);
    let window = c.of(Ty::F32, &[frame]);
    let window = c.chance(0.6).then_some(window);
    let length = if window.is_none() || c.chance(0.5) { Some(c.int(frame)) } else { None };
    let attributes = vec![int("onesided", c.below(2))];
    let inputs = [Some(&x), Some(&step), window.as_ref(), length.as_ref()];
    c.node(op, &inputs, attributes, &[(Ty::F32, vec![2, 2, frame, 2])]);
}

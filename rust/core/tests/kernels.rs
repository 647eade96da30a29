//! The kernels give the same bits whatever instructions and however many threads they run on. Their values are held
//! against torch in tests/test_ops.py.

#![allow(clippy::unwrap_used)]

use suite_core::kernels::{
    Attention, AttentionGrads, Conv, ConvGrads, CrossEntropy, CrossEntropyGrads, Documents, LANES, Lanes, Path, Scan,
    ScanGrads, View, num_states,
};
use suite_core::order::mix;

/// Values in -2..2 from a counter.
fn random(seed: u64, len: usize) -> Vec<f32> {
    (0..len as u64).map(|i| (mix(seed << 32 | i) >> 40) as f32 / (1 << 22) as f32 - 2.0).collect()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// Documents of 1 to 40 steps, other ones in every row; those of `every` 0 are whole rows.
fn documents(batch: usize, time: usize, every: usize) -> Documents {
    let mut starts = Vec::new();
    for b in 0..batch {
        let mut start = 0;
        for t in 0..time {
            if every > 0 && t - start >= (b * 7 + t * every) % 40 {
                start = t;
            }
            starts.push(start as i64);
        }
    }
    Documents::new(&starts, [batch, time]).unwrap()
}

/// Everything that forward and backward of the scan write, as bits.
fn scan([batch, time, channels, states]: [usize; 4], every: usize, threads: usize, path: Path) -> Vec<u32> {
    let (btd, btn) = (batch * time * channels, batch * time * states);
    let shape = [batch, time, channels];
    let inputs: Vec<_> = [btd, btd, channels * states, btn, btn, channels, btd, channels, btd]
        .into_iter()
        .enumerate()
        .map(|(seed, len)| random(seed as u64, len))
        .collect();
    let a: Vec<_> = inputs[2].iter().map(|a| -a.exp()).collect();
    let view = |i: usize| View::contiguous(&inputs[i], [batch, time, inputs[i].len() / (batch * time)]).unwrap();
    let scan = Scan::new(view(0), view(1), &a, view(3), view(4), &inputs[5], view(6), &inputs[7]).unwrap();
    let documents = documents(batch, time, every);
    let scan = scan.within(&documents).unwrap();
    let (mut out, mut kept) = (vec![f32::NAN; btd], vec![f32::NAN; num_states(shape, states)]);
    scan.forward(&mut out, &mut kept, threads, path).unwrap();
    let mut grads: Vec<_> = inputs[..8].iter().map(|input| vec![f32::NAN; input.len()]).collect();
    let [u, delta, a, b, c, d, z, delta_bias] = &mut grads[..] else { unreachable!() };
    let into = ScanGrads { u, delta, a, b, c, d, z, delta_bias };
    scan.backward(view(8), &kept, into, threads, path).unwrap();
    [vec![out, kept], grads].concat().iter().flat_map(|values| bits(values)).collect()
}

fn conv([batch, time, channels, taps]: [usize; 4], every: usize, threads: usize, path: Path) -> Vec<u32> {
    let (shape, len) = ([batch, time, channels], batch * time * channels);
    let (x, weight, bias) = (random(1, len), random(2, channels * taps), random(3, channels));
    let out_grad = random(4, len);
    let conv = Conv::new(View::contiguous(&x, shape).unwrap(), &weight, &bias, taps).unwrap();
    let documents = documents(batch, time, every);
    let conv = conv.within(&documents).unwrap();
    let (mut out, mut dx, mut dw, mut db) =
        (vec![f32::NAN; len], vec![f32::NAN; len], vec![f32::NAN; weight.len()], vec![f32::NAN; channels]);
    conv.forward(&mut out, threads, path).unwrap();
    let into = ConvGrads { x: &mut dx, weight: &mut dw, bias: &mut db };
    conv.backward(View::contiguous(&out_grad, shape).unwrap(), into, threads, path).unwrap();
    [out, dx, dw, db].concat().iter().map(|value| value.to_bits()).collect()
}

/// [batch, time, heads, key/value heads, head size]; documents of 11 steps.
fn attention([batch, time, heads, kv_heads, size]: [usize; 5], threads: usize, path: Path) -> Vec<u32> {
    let (shape, kv_shape) = ([batch, time, heads * size], [batch, time, kv_heads * size]);
    let (len, kv_len) = (shape.iter().product(), kv_shape.iter().product());
    let (q, k, v, out_grad) = (random(1, len), random(2, kv_len), random(3, kv_len), random(4, len));
    let starts: Vec<_> = (0..batch * time).map(|i| (i % time / 11 * 11) as i64).collect();
    let q = View::contiguous(&q, shape).unwrap();
    let (k, v) = (View::contiguous(&k, kv_shape).unwrap(), View::contiguous(&v, kv_shape).unwrap());
    let mut all = Vec::new();
    for starts in [None, Some(&starts[..])] {
        let attention = Attention::new(q, k, v, [heads, kv_heads], starts).unwrap();
        let (mut out, mut kept) = (vec![f32::NAN; len], vec![f32::NAN; attention.num_kept()]);
        attention.forward(&mut out, &mut kept, threads, path).unwrap();
        let (mut dq, mut dk, mut dv) = (vec![f32::NAN; len], vec![f32::NAN; kv_len], vec![f32::NAN; kv_len]);
        let into = AttentionGrads { q: &mut dq, k: &mut dk, v: &mut dv };
        let out_view = View::contiguous(&out, shape).unwrap();
        let out_grad = View::contiguous(&out_grad, shape).unwrap();
        attention.backward(out_grad, out_view, &kept, into, threads, path).unwrap();
        all.extend([out, kept, dq, dk, dv].concat());
    }
    bits(&all)
}

/// [tokens, hidden size, vocabulary]; every seventh target is left out.
fn cross_entropy([tokens, size, vocabulary]: [usize; 3], threads: usize, path: Path) -> Vec<u32> {
    let (hidden, weight) = (random(1, tokens * size), random(2, vocabulary * size));
    let targets: Vec<_> = (0..tokens).map(|m| if m % 7 == 3 { -1 } else { (m * m % vocabulary) as i64 }).collect();
    let job = CrossEntropy::new(&hidden, &weight, &targets, size, -1).unwrap();
    let (mut dh, mut dw) = (vec![f32::NAN; hidden.len()], vec![f32::NAN; weight.len()]);
    let nats = job.nats(Some(CrossEntropyGrads { hidden: &mut dh, weight: &mut dw }), threads, path).unwrap();
    assert_eq!(nats, job.nats(None, threads, path).unwrap());
    let nats = nats.to_bits();
    [vec![nats as u32, (nats >> 32) as u32], bits(&dh), bits(&dw)].concat()
}

#[test]
fn attention_and_cross_entropy_have_the_same_bits_on_every_path_and_number_of_threads() {
    let attentions = [[2, 70, 6, 3, 14], [1, 33, 2, 1, 2], [3, 1, 1, 1, 34]];
    let losses = [[2100, 12, 131], [37, 20, 64], [1, 1, 1]];
    for (shape, loss) in attentions.into_iter().zip(losses) {
        let expected = (attention(shape, 1, Path::Baseline), cross_entropy(loss, 1, Path::Baseline));
        assert!(expected.0.iter().chain(&expected.1[2..]).all(|bits| !f32::from_bits(*bits).is_nan()));
        for path in Path::available() {
            for threads in [1, 2, 3] {
                assert!(attention(shape, threads, path) == expected.0, "{shape:?} {path:?} {threads} threads");
                assert!(cross_entropy(loss, threads, path) == expected.1, "{loss:?} {path:?} {threads} threads");
            }
        }
    }
}

#[test]
fn targets_and_starts_out_of_range_are_named() {
    let data = [0.0; 12];
    let error = CrossEntropy::new(&data[..6], &data, &[0, 4], 3, -1).err().unwrap().to_string();
    assert_eq!(error, "targets[1]: expected 0 to 3 or -1, found 4");
    let view = View::contiguous(&data, [2, 2, 3]).unwrap();
    let error = Attention::new(view, view, view, [1, 1], Some(&[0, 0, 0, 2])).err().unwrap().to_string();
    assert_eq!(error, "starts[1, 1]: expected 0 to 1, found 2");
    assert!(Attention::new(view, view, view, [2, 1], None).is_err());
}

const SHAPES: [[usize; 4]; 4] = [[2, 70, 24, 5], [1, 33, 200, 3], [3, 1, 8, 1], [2, 64, 48, 8]];

#[test]
fn every_path_and_every_number_of_threads_gives_the_same_bits() {
    for (shape, every) in SHAPES.into_iter().flat_map(|shape| [(shape, 0), (shape, 3)]) {
        let expected = [scan(shape, every, 1, Path::Baseline), conv(shape, every, 1, Path::Baseline)];
        assert!(expected.iter().flatten().all(|bits| !f32::from_bits(*bits).is_nan()));
        for path in Path::available() {
            for threads in [1, 2, 3] {
                let found = [scan(shape, every, threads, path), conv(shape, every, threads, path)];
                assert!(found == expected, "{shape:?} {every} {path:?} {threads} threads");
            }
        }
    }
    assert!(scan(SHAPES[0], 0, 1, Path::Baseline) != scan(SHAPES[0], 3, 1, Path::Baseline));
}

#[test]
fn nothing_to_do_is_not_an_error() {
    for [batch, time] in [[0, 5], [2, 0]] {
        let shape = [batch, time, 3];
        let nothing = View::contiguous(&[], shape).unwrap();
        let (mut weight, mut bias) = (vec![1.0; 6], vec![1.0; 3]);
        let conv = Conv::new(nothing, &[0.0; 6], &[0.0; 3], 2).unwrap();
        conv.forward(&mut [], 2, Path::fastest()).unwrap();
        let into = ConvGrads { x: &mut [], weight: &mut weight, bias: &mut bias };
        conv.backward(nothing, into, 2, Path::fastest()).unwrap();
        assert_eq!((weight, bias), (vec![0.0; 6], vec![0.0; 3]));
    }
}

#[test]
fn arrays_of_the_wrong_shape_are_named() {
    let data = [0.0; 12];
    let error = View::new(&data, [2, 2, 3], [7, 3]).unwrap_err().to_string();
    assert_eq!(error, "shape [2, 2, 3], strides [7, 3]: needs 13 values, has 12");
    assert!(View::new(&data, [2, 2, 3], [usize::MAX, 3]).is_err());
    let x = View::contiguous(&data, [2, 2, 3]).unwrap();
    let error = Scan::new(x, x, &data[..3], x, x, &data[..3], x, &data[..3]).err().unwrap().to_string();
    assert_eq!(error, "A: expected 9 values, found 3");
    assert!(Conv::new(x, &data[..9], &data[..3], 9).is_err());
    let documents = Documents::new(&[0, 0, 2], [1, 3]).unwrap();
    let error = Conv::new(x, &data[..3], &data[..3], 1).unwrap().within(&documents).err().unwrap().to_string();
    assert_eq!(error, "starts: expected shape [2, 2], found [1, 3]");
    let error = Documents::new(&[0, 1, 0], [1, 3]).unwrap_err().to_string();
    assert_eq!(error, "starts: row 0, position 2: expected its own, or what the position before has, found 0");
}

/// The worst error of `f` over `xs`, in units in the last place of the true value.
fn worst_ulps(xs: impl Iterator<Item = f32>, f: impl Fn(Lanes) -> Lanes, truth: impl Fn(f64) -> f64) -> f64 {
    let xs: Vec<_> = xs.collect();
    let mut worst: f64 = 0.0;
    for xs in xs.chunks(LANES) {
        for (x, found) in xs.iter().zip(f(Lanes::load(xs)).0) {
            let expected = truth(f64::from(*x));
            let ulp = f64::from((expected as f32).next_up()) - f64::from(expected as f32);
            worst = worst.max((f64::from(found) - expected).abs() / ulp);
        }
    }
    worst
}

#[test]
fn functions_are_within_units_in_the_last_place() {
    let range = |from: f32, to: f32| (0..200_000).map(move |i| from + (to - from) * (i as f32 / 200_000.0));
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    let softplus = |x: f64| x.max(0.0) + (-x.abs()).exp().ln_1p();
    // Below -87 results are subnormal, and their last place no longer relative.
    for (name, worst) in [
        ("exp", worst_ulps(range(-87.0, 88.0), Lanes::exp, f64::exp)),
        ("exp near 0", worst_ulps(range(-0.01, 0.01), Lanes::exp, f64::exp)),
        ("exp2", worst_ulps(range(-126.0, 127.0), Lanes::exp2, f64::exp2)),
        ("sigmoid", worst_ulps(range(-87.0, 90.0), Lanes::sigmoid, sigmoid)),
        ("softplus", worst_ulps(range(-87.0, 200.0), |x| x.softplus().0, softplus)),
        ("softplus near 0", worst_ulps(range(-2.0, 2.0), |x| x.softplus().0, softplus)),
        ("slope of softplus", worst_ulps(range(-87.0, 90.0), |x| x.softplus().1, sigmoid)),
    ] {
        // A sum, a quotient and a product after an exponential: 1 + 4/2.
        assert!(worst < if name.starts_with("exp") { 1.0 } else { 3.0 }, "{name}: {worst} ulp");
    }
}

#[test]
fn functions_keep_zero_infinity_and_nan() {
    let f = |f: fn(Lanes) -> Lanes, x: f32| f(Lanes::splat(x)).0[0];
    let softplus = |x: Lanes| x.softplus().0;
    for x in [-200.0, -1e30, f32::NEG_INFINITY] {
        assert_eq!([f(Lanes::exp, x), f(Lanes::exp2, x), f(Lanes::sigmoid, x), f(softplus, x)], [0.0; 4]);
    }
    for x in [200.0, 1e30, f32::INFINITY] {
        assert_eq!([f(Lanes::exp, x), f(Lanes::exp2, x)], [f32::INFINITY; 2]);
    }
    assert_eq!([f(softplus, 1e30), f(softplus, 100.0), f(Lanes::sigmoid, 1e30)], [1e30, 100.0, 1.0]);
    assert_eq!([f(Lanes::exp, 0.0), f(Lanes::exp2, 0.0), f(Lanes::exp2, -3.0)], [1.0, 1.0, 0.125]);
    for function in [Lanes::exp, Lanes::exp2, Lanes::sigmoid, softplus] {
        assert!(f(function, f32::NAN).is_nan());
    }
}

//! Attention against its definition, both ways to compute it, whole and in blocks of keys.

mod reference;

use burn::tensor::{Bool, DType, Device, Tensor, TensorData};
use kinora_kernels::attention::portable::{self, Saved};
use kinora_kernels::{attention, attention_backward, attention_with_logsumexp, merge};
use reference::{Answer, Case, Sizes, difference, numbers, tensor, values};

const EXACT: f64 = 1e-12;

fn sizes(b: usize, h: usize, s: usize, l: usize, k: usize) -> Sizes {
    Sizes { b, h, s, l, k }
}

/// One key and one query, none at all, and sizes that no tile divides.
fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (seed, s) in [
        sizes(1, 1, 1, 1, 6),
        sizes(2, 3, 1, 77, 12),
        sizes(2, 2, 105, 1, 6),
        sizes(2, 2, 105, 77, 64),
        sizes(3, 1, 77, 105, 12),
        sizes(2, 2, 7, 0, 6),
        sizes(1, 2, 130, 600, 16),
    ]
    .into_iter()
    .enumerate()
    {
        cases.push(Case::new(s, seed as u64 * 10));
        cases.push(Case::new(s, seed as u64 * 10 + 5).masked());
    }
    cases
}

struct Tensors {
    q: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    d_out: Tensor<4>,
    mask: Option<Tensor<2, Bool>>,
}

fn tensors(case: &Case, dtype: DType) -> Tensors {
    let Sizes { b, h, s, l, k } = case.sizes;
    Tensors {
        q: tensor(&case.q, [b, h, s, k], dtype),
        k: tensor(&case.k, [b, h, l, k], dtype),
        v: tensor(&case.v, [b, h, l, k], dtype),
        d_out: tensor(&case.d_out, [b, h, s, k], dtype),
        mask: (case.mask.as_ref())
            .map(|mask| Tensor::from_data(TensorData::new(mask.clone(), [b, l]), &Device::flex())),
    }
}

fn expect(case: &Case, what: &str, got: Vec<f64>, expected: &[f64], tolerance: f64) {
    let difference = difference(&got, expected);
    assert!(
        difference < tolerance,
        "{what} of {:?}, masked {}: off by {difference:e}",
        case.sizes,
        case.mask.is_some(),
    );
}

fn check(case: &Case, answer: &Answer, tolerance: f64, got: [Tensor<4>; 4], logsumexp: Tensor<3>) {
    let [out, d_q, d_k, d_v] = got;
    expect(case, "out", values(out), &answer.out, tolerance);
    expect(case, "lse", values(logsumexp), &answer.logsumexp, tolerance);
    expect(case, "d_q", values(d_q), &answer.d_q, tolerance);
    expect(case, "d_k", values(d_k), &answer.d_k, tolerance);
    expect(case, "d_v", values(d_v), &answer.d_v, tolerance);
}

fn on_slices(t: Tensors) -> ([Tensor<4>; 4], Tensor<3>) {
    let (out, lse) =
        attention_with_logsumexp(t.q.clone(), t.k.clone(), t.v.clone(), t.mask.clone());
    let (d_q, d_k, d_v) =
        attention_backward(t.q, t.k, t.v, out.clone(), lse.clone(), t.d_out, t.mask);
    ([out, d_q, d_k, d_v], lse)
}

#[test]
fn slices_follow_the_definition() {
    for case in cases() {
        let answer = case.answer();
        let (got, lse) = on_slices(tensors(&case, DType::F64));
        check(&case, &answer, EXACT, got, lse);
        let (got, lse) = on_slices(tensors(&case, DType::F32));
        assert_eq!(got[0].dtype(), DType::F32);
        check(&case, &answer, 1e-5, got, lse);
    }
}

#[test]
fn tensor_operations_follow_the_definition() {
    for case in cases() {
        let answer = case.answer();
        let t = tensors(&case, DType::F64);
        let keys = 32;
        let (out, lse) =
            portable::forward(t.q.clone(), t.k.clone(), t.v.clone(), t.mask.clone(), keys);
        let saved = Saved {
            query: t.q,
            key: t.k,
            value: t.v,
            out: out.clone(),
            logsumexp: lse.clone(),
            d_out: t.d_out,
            mask: t.mask,
        };
        let (d_q, d_k, d_v) = portable::backward(saved, keys);
        check(&case, &answer, EXACT, [out, d_q, d_k, d_v], lse);
    }
}

#[test]
fn the_differentiable_form_gives_the_same() {
    for case in cases() {
        let answer = case.answer();
        let t = tensors(&case, DType::F64);
        // Heads as they come out of a projection: strided views.
        let leaf = |t: &Tensor<4>| t.clone().swap_dims(1, 2).autodiff().require_grad();
        let (q, k, v) = (leaf(&t.q), leaf(&t.k), leaf(&t.v));
        let heads = |t: &Tensor<4>| t.clone().swap_dims(1, 2);
        let out = attention(heads(&q), heads(&k), heads(&v), t.mask);
        expect(
            &case,
            "out",
            values(out.clone().inner()),
            &answer.out,
            EXACT,
        );
        let mut gradients = (out * t.d_out).sum().backward();
        for (what, leaf, expected) in [
            ("d_q", q, &answer.d_q),
            ("d_k", k, &answer.d_k),
            ("d_v", v, &answer.d_v),
        ] {
            let got = leaf.grad_remove(&mut gradients).unwrap().swap_dims(1, 2);
            expect(&case, what, values(got), expected, EXACT);
        }
    }
}

#[test]
fn gradients_are_finite_differences() {
    let mut case = Case::new(sizes(2, 2, 9, 13, 6), 7).masked();
    let answer = case.answer();
    let loss = |case: &Case| -> f64 {
        let t = tensors(case, DType::F64);
        let (out, _) = attention_with_logsumexp(t.q, t.k, t.v, t.mask);
        values(out * t.d_out).into_iter().sum()
    };
    let step = 1e-5;
    for at in (0..case.q.len()).step_by(17) {
        for (which, gradient) in [&answer.d_q, &answer.d_k, &answer.d_v]
            .into_iter()
            .enumerate()
        {
            let mut moved = |by: f64| {
                let numbers = [&mut case.q, &mut case.k, &mut case.v]
                    .into_iter()
                    .nth(which)
                    .unwrap();
                let before = numbers[at];
                numbers[at] += by;
                let loss = loss(&case);
                [&mut case.q, &mut case.k, &mut case.v]
                    .into_iter()
                    .nth(which)
                    .unwrap()[at] = before;
                loss
            };
            let slope = (moved(step) - moved(-step)) / (2.0 * step);
            assert!(
                (slope - gradient[at]).abs() < 1e-8,
                "input {which}, element {at}: {slope} is not {}",
                gradient[at]
            );
        }
    }
}

/// Uneven blocks; the second is masked as a whole in the last sample, and one is empty.
const BLOCKS: [(usize, usize); 4] = [(0, 5), (5, 0), (5, 70), (75, 2)];

#[test]
fn merged_blocks_are_the_whole() {
    for case in [
        Case::new(sizes(2, 2, 105, 77, 12), 3),
        Case::new(sizes(2, 2, 105, 77, 12), 4).masked(),
    ] {
        let answer = case.answer();
        let t = tensors(&case, DType::F64);
        let block = |(from, n): (usize, usize)| {
            let key = t.k.clone().slice([0..2, 0..2, from..from + n]);
            let value = t.v.clone().slice([0..2, 0..2, from..from + n]);
            let mask = t
                .mask
                .clone()
                .map(|mask| mask.slice([0..2, from..from + n]));
            (key, value, mask)
        };
        let (out, lse) = BLOCKS
            .into_iter()
            .map(|at| {
                let (key, value, mask) = block(at);
                attention_with_logsumexp(t.q.clone(), key, value, mask)
            })
            .reduce(merge)
            .unwrap();

        // Each block's backward pass from what all of them gave together.
        let mut d_q = t.q.zeros_like();
        let (mut d_k, mut d_v) = (Vec::new(), Vec::new());
        for at in BLOCKS {
            let (key, value, mask) = block(at);
            let (of_q, of_k, of_v) = attention_backward(
                t.q.clone(),
                key,
                value,
                out.clone(),
                lse.clone(),
                t.d_out.clone(),
                mask,
            );
            d_q = d_q + of_q;
            if at.1 > 0 {
                d_k.push(of_k);
                d_v.push(of_v);
            }
        }
        let got = [out, d_q, Tensor::cat(d_k, 2), Tensor::cat(d_v, 2)];
        check(&case, &answer, EXACT, got, lse);
    }
}

#[test]
fn queries_without_keys_get_zeros() {
    let mut case = Case::new(sizes(2, 2, 70, 300, 8), 11);
    case.mask = Some((0..600).map(|at| at >= 300).collect());
    let answer = case.answer();
    let (got, lse) = on_slices(tensors(&case, DType::F64));
    let first = 2 * 70;
    assert!(
        values(lse.clone())[..first]
            .iter()
            .all(|&x| x == f64::NEG_INFINITY)
    );
    for tensor in &got[..2] {
        assert!(
            values(tensor.clone())[..first * 8]
                .iter()
                .all(|&x| x == 0.0)
        );
    }
    for tensor in &got[2..] {
        assert!(
            values(tensor.clone())[..2 * 300 * 8]
                .iter()
                .all(|&x| x == 0.0)
        );
    }
    check(&case, &answer, EXACT, got, lse);

    // Merging nothing with nothing is nothing, and with something that.
    let nothing = || {
        let out = Tensor::<4>::zeros([1, 1, 2, 3], &Device::flex());
        (
            out,
            Tensor::<3>::full([1, 1, 2], f64::NEG_INFINITY, &Device::flex()),
        )
    };
    let (out, lse) = merge(nothing(), nothing());
    assert!(values(out).iter().all(|&x| x == 0.0));
    assert!(values(lse).iter().all(|&x| x == f64::NEG_INFINITY));
    let something = || {
        let out = Tensor::<4>::ones([1, 1, 2, 3], &Device::flex());
        (out, Tensor::<3>::full([1, 1, 2], -700.0, &Device::flex()))
    };
    for (out, lse) in [merge(nothing(), something()), merge(something(), nothing())] {
        assert!(values(out).iter().all(|&x| x == 1.0));
        assert!(values(lse).iter().all(|&x| x == -700.0));
    }
}

#[test]
fn large_scores_do_not_overflow() {
    for dtype in [DType::F64, DType::F32] {
        let mut case = Case::new(sizes(1, 2, 70, 300, 8), 21);
        case.q.iter_mut().for_each(|x| *x = (*x * 512.0).round());
        case.k
            .iter_mut()
            .for_each(|x| *x = (*x * 512.0).round() / 8.0);
        let answer = case.answer();
        let largest = answer.logsumexp.iter().copied().fold(0.0, f64::max);
        assert!(largest > 10_000.0, "scores of {largest} test nothing");
        let t = tensors(&case, dtype);
        let (portable_out, _) = portable::forward(t.q.clone(), t.k.clone(), t.v.clone(), None, 128);
        let (got, lse) = on_slices(t);
        let tolerance = if dtype == DType::F64 { 1e-10 } else { 2e-3 };
        expect(
            &case,
            "portable",
            values(portable_out),
            &answer.out,
            tolerance,
        );
        check(&case, &answer, tolerance, got, lse);
    }
}

#[test]
fn half_precision_is_rounded_once() {
    let mut case = Case::new(sizes(2, 2, 70, 77, 12), 31);
    // Numbers that bf16 holds exactly, so that only results are rounded.
    for numbers in [&mut case.q, &mut case.k, &mut case.v, &mut case.d_out] {
        numbers
            .iter_mut()
            .for_each(|x| *x = (*x * 16.0).round() / 16.0);
    }
    let answer = case.answer();
    let (got, lse) = on_slices(tensors(&case, DType::BF16));
    assert_eq!(lse.dtype(), DType::F32);
    expect(&case, "lse", values(lse.clone()), &answer.logsumexp, 1e-6);
    assert!(got.iter().all(|tensor| tensor.dtype() == DType::BF16));
    for (at, (got, expected)) in values(got[0].clone())
        .into_iter()
        .zip(&answer.out)
        .enumerate()
    {
        assert!(
            (got - expected).abs() <= expected.abs() / 256.0 + 1e-6,
            "{at}: {got} is further than one rounding from {expected}"
        );
    }
    check(&case, &answer, 5e-3, got, lse);
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    let case = Case::new(sizes(2, 3, 150, 600, 16), 41).masked();
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        pool.install(|| on_slices(tensors(&case, DType::F32)).0.map(values))
    };
    let one = run(1);
    for threads in [2, 3, 8] {
        assert_eq!(one, run(threads));
    }
}

#[test]
fn a_gradient_of_nothing_is_zero() {
    // No query at all: keys and values get zeros.
    let case = Case::new(sizes(1, 2, 0, 5, 4), 51);
    let (got, lse) = on_slices(tensors(&case, DType::F64));
    assert_eq!(lse.dims(), [1, 2, 0]);
    assert!(values(got[2].clone()).iter().all(|&x| x == 0.0));
    assert_eq!(got[2].dims(), [1, 2, 5, 4]);
}

#[test]
#[should_panic(expected = "so key and value are [1, 2, L, 4]")]
fn heads_of_another_width_are_refused() {
    let q = tensor(&numbers(8, 1), [1, 2, 1, 4], DType::F64);
    let k = tensor(&numbers(12, 1), [1, 2, 1, 6], DType::F64);
    attention_with_logsumexp(q, k.clone(), k, None);
}

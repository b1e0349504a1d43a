//! What lies between two matrix products, as loops over rows that compilers turn into vector instructions.

/// Makes of a function one that runs with the widest instructions that this processor has. The results are the same with all.
macro_rules! vectorised {
    ($(#[$meta:meta])* pub(crate) fn $name:ident($($arg:ident: $kind:ty),* $(,)?) $(-> $out:ty)? $body:block) => {
        $(#[$meta])*
        pub(crate) fn $name($($arg: $kind),*) $(-> $out)? {
            #[inline(always)]
            fn plain($($arg: $kind),*) $(-> $out)? $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw")]
                fn widest($($arg: $kind),*) $(-> $out)? {
                    plain($($arg),*)
                }

                #[target_feature(enable = "avx2,fma")]
                fn wide($($arg: $kind),*) $(-> $out)? {
                    plain($($arg),*)
                }

                if instructions() == Instructions::Widest {
                    #[expect(unsafe_code, reason = "instructions that not all processors have")]
                    // SAFETY: this one has them.
                    return unsafe { widest($($arg),*) };
                }
                if instructions() == Instructions::Wide {
                    #[expect(unsafe_code, reason = "instructions that not all processors have")]
                    // SAFETY: this one has them.
                    return unsafe { wide($($arg),*) };
                }
            }
            plain($($arg),*)
        }
    };
}

pub(crate) use vectorised;

/// What a processor has beyond what all have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Instructions {
    /// AVX-512.
    Widest,
    /// AVX2 and fused multiplication.
    Wide,
    /// Nothing.
    Plain,
}

/// Returns what this processor has.
#[inline]
pub(crate) fn instructions() -> Instructions {
    #[cfg(target_arch = "x86_64")]
    {
        let has_all = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512bw");
        if has_all {
            return Instructions::Widest;
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            return Instructions::Wide;
        }
    }
    Instructions::Plain
}

/// Numbers that reductions work on at once.
const LANES: usize = 16;

/// Returns e^x to 2 units in the last place; for x below -87 what it is there, about 1e-38.
#[inline(always)]
fn exp(x: f32) -> f32 {
    // Adding this rounds to whole numbers, which then lie in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    let x = x.clamp(-87.0, 88.0);
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let whole = shifted - ROUND;
    let power = f32::from_bits(shifted.to_bits().wrapping_add(127) << 23);
    // ln 2 in two parts, so that the remainder keeps its bits.
    let x = x - whole * 0.693_359_4 - whole * -2.121_944_4e-4;
    let series = 1.987_569_1e-4;
    let series = series * x + 1.398_199_9e-3;
    let series = series * x + 8.333_452e-3;
    let series = series * x + 4.166_579_6e-2;
    let series = series * x + 0.166_666_65;
    let series = series * x + 0.5;
    (series * x * x + x + 1.0) * power
}

#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// Returns the error function to 2e-7 (Abramowitz and Stegun 7.1.26).
#[inline(always)]
fn erf(x: f32) -> f32 {
    let t = 1.0 / (1.0 + 0.327_591_1 * x.abs());
    let series = 1.061_405_4 * t - 1.453_152;
    let series = series * t + 1.421_413_7;
    let series = series * t - 0.284_496_74;
    let series = series * t + 0.254_829_6;
    (1.0 - series * t * exp(-x * x)).copysign(x)
}

/// Returns a reduction over places of some slices, in an order of its own but always the same.
#[inline(always)]
fn reduce<const N: usize>(
    slices: [&[f32]; N],
    start: f32,
    value: impl Fn([f32; N]) -> f32,
    with: impl Fn(f32, f32) -> f32,
) -> f32 {
    let count = slices[0].len();
    let slices = slices.map(|slice| &slice[..count]);
    let whole = slices.map(|slice| slice.as_chunks::<LANES>().0);
    let mut lanes = [start; LANES];
    #[expect(clippy::needless_range_loop, reason = "all slices are indexed")]
    for at in 0..count / LANES {
        let lines: [&[f32; LANES]; N] = std::array::from_fn(|slice| &whole[slice][at]);
        for (lane, kept) in lanes.iter_mut().enumerate() {
            *kept = with(*kept, value(std::array::from_fn(|slice| lines[slice][lane])));
        }
    }
    for (lane, at) in (count / LANES * LANES..count).enumerate() {
        lanes[lane] = with(lanes[lane], value(std::array::from_fn(|slice| slices[slice][at])));
    }
    halved(lanes, with)
}

/// Returns a reduction of lanes: of the first half of them with the second one, and so on.
#[inline(always)]
fn halved(lanes: [f32; LANES], with: impl Fn(f32, f32) -> f32) -> f32 {
    let eight: [f32; 8] = std::array::from_fn(|lane| with(lanes[lane], lanes[lane + 8]));
    let four: [f32; 4] = std::array::from_fn(|lane| with(eight[lane], eight[lane + 4]));
    with(with(four[0], four[2]), with(four[1], four[3]))
}

#[inline(always)]
fn sum(a: f32, b: f32) -> f32 {
    a + b
}

#[inline(always)]
fn dot(a: &[f32], b: &[f32]) -> f32 {
    reduce([a, b], 0.0, |[a, b]| a * b, sum)
}

#[inline(always)]
fn largest(values: &[f32]) -> f32 {
    reduce([values], f32::NEG_INFINITY, |[value]| value, |a, b| if a > b { a } else { b })
}

/// Adds numbers to others.
#[inline(always)]
pub(crate) fn add(sums: &mut [f32], values: &[f32]) {
    for (sum, value) in sums.iter_mut().zip(values) {
        *sum += value;
    }
}

vectorised! {
    /// Adds each row to `sums`.
    pub(crate) fn add_rows(sums: &mut [f32], rows: &[f32]) {
        for row in rows.chunks_exact(sums.len()) {
            add(sums, row);
        }
    }
}

vectorised! {
    /// Adds a vector to each row.
    pub(crate) fn add_to_rows(rows: &mut [f32], vector: &[f32]) {
        for row in rows.chunks_exact_mut(vector.len()) {
            add(row, vector);
        }
    }
}

/// Returns 1 / sqrt(mean of squares + eps).
#[inline(always)]
fn inverse_size(row: &[f32], eps: f32) -> f32 {
    1.0 / (dot(row, row) / row.len() as f32 + eps).sqrt()
}

vectorised! {
    /// RMSNorm of each row of `x`.
    pub(crate) fn norm(z: &mut [f32], x: &[f32], gain: &[f32], eps: f32) {
        for (z, x) in z.chunks_exact_mut(gain.len()).zip(x.chunks_exact(gain.len())) {
            let inverse = inverse_size(x, eps);
            for ((z, x), gain) in z.iter_mut().zip(x).zip(gain) {
                *z = x * inverse * gain;
            }
        }
    }
}

vectorised! {
    /// Adds to `d_x` the gradient by RMSNorm's input, from that by its output, and to `d_gain` that by its gain.
    pub(crate) fn norm_backward(
        d_x: &mut [f32],
        d_gain: &mut [f32],
        x: &[f32],
        d_z: &[f32],
        gain: &[f32],
        eps: f32,
    ) {
        let width = gain.len();
        let rows = x.chunks_exact(width).zip(d_z.chunks_exact(width));
        for (d_x, (x, d_z)) in d_x.chunks_exact_mut(width).zip(rows) {
            let inverse = inverse_size(x, eps);
            let (x, d_z, d_x, d_gain) =
                (&x[..width], &d_z[..width], &mut d_x[..width], &mut d_gain[..width]);
            let along = reduce([d_z, gain, x], 0.0, |[d_z, gain, x]| d_z * gain * x, sum);
            let along = along * inverse * inverse / width as f32;
            for at in 0..width {
                d_x[at] += inverse * (d_z[at] * gain[at] - x[at] * along);
                d_gain[at] += d_z[at] * x[at] * inverse;
            }
        }
    }
}

vectorised! {
    /// Turns neighbouring numbers of heads by the angles whose cosines and sines are given, one of each a pair; back if told so.
    pub(crate) fn turn(heads: &mut [f32], cosines: &[f32], sines: &[f32], back: bool) {
        let sign = if back { -1.0 } else { 1.0 };
        for head in heads.chunks_exact_mut(2 * cosines.len()) {
            for ((pair, cosine), sine) in head.as_chunks_mut::<2>().0.iter_mut().zip(cosines).zip(sines)
            {
                let [a, b] = *pair;
                *pair = [a * cosine - b * (sign * sine), a * (sign * sine) + b * cosine];
            }
        }
    }
}

vectorised! {
    /// `silu(gate) * up` of rows that have first all gates, then all ups.
    pub(crate) fn gate(inner: &mut [f32], both: &[f32], ffn: usize) {
        for (inner, both) in inner.chunks_exact_mut(ffn).zip(both.chunks_exact(2 * ffn)) {
            let (gates, ups) = both.split_at(ffn);
            for ((inner, gate), up) in inner.iter_mut().zip(gates).zip(ups) {
                *inner = gate * sigmoid(*gate) * up;
            }
        }
    }
}

/// Makes `d_both` the gradient by `both`, from `inner`, that by what [`gate`] makes of it; makes `inner` what [`gate`] makes.
pub(crate) fn gate_backward(d_both: &mut [f32], inner: &mut [f32], both: &[f32], ffn: usize) {
    let rows = both.chunks_exact(2 * ffn).zip(d_both.chunks_exact_mut(2 * ffn));
    for (inner, (both, d_both)) in inner.chunks_exact_mut(ffn).zip(rows) {
        let ((gates, ups), (d_gates, d_ups)) = (both.split_at(ffn), d_both.split_at_mut(ffn));
        gate_row_backward(d_gates, d_ups, inner, gates, ups);
    }
}

vectorised! {
    /// The same of one row, on its own so that compilers know that nothing overlaps.
    pub(crate) fn gate_row_backward(d_gates: &mut [f32], d_ups: &mut [f32], inner: &mut [f32], gates: &[f32], ups: &[f32]) {
        let d_both = d_gates.iter_mut().zip(d_ups);
        for ((inner, (d_gate, d_up)), (gate, up)) in inner.iter_mut().zip(d_both).zip(gates.iter().zip(ups)) {
            let (d, part) = (*inner, sigmoid(*gate));
            let activated = gate * part;
            *inner = activated * up;
            *d_gate = d * up * part * (1.0 + gate * (1.0 - part));
            *d_up = d * activated;
        }
    }
}

vectorised! {
    /// The series activation in the place of [`gate`]'s; `scales` and `shifts` have one number a term and neuron.
    pub(crate) fn gate_series(
        inner: &mut [f32],
        both: &[f32],
        scales: &[f32],
        shifts: &[f32],
        ffn: usize,
    ) {
        for (inner, both) in inner.chunks_exact_mut(ffn).zip(both.chunks_exact(2 * ffn)) {
            let (gates, ups) = both.split_at(ffn);
            inner.fill(0.0);
            for (scales, shifts) in scales.chunks_exact(ffn).zip(shifts.chunks_exact(ffn)) {
                for at in 0..ffn {
                    let x = gates[at] + shifts[at];
                    inner[at] += x * sigmoid(x) * scales[at] * ups[at];
                }
            }
        }
    }
}

vectorised! {
    /// The same as [`gate_backward`], and adds the gradients by scales and shifts.
    pub(crate) fn gate_series_backward(
        d_both: &mut [f32],
        d_inner: &mut [f32],
        both: &[f32],
        series: [&[f32]; 2],
        d_series: [&mut [f32]; 2],
        ffn: usize,
    ) {
        let ([scales, shifts], [d_scales, d_shifts]) = (series, d_series);
        let mut activated = vec![0.0; ffn];
        let mut slope = vec![0.0; ffn];
        let rows = both.chunks_exact(2 * ffn).zip(d_both.chunks_exact_mut(2 * ffn));
        for (d_inner, (both, d_both)) in d_inner.chunks_exact_mut(ffn).zip(rows) {
            let ((gates, ups), (d_gates, d_ups)) = (both.split_at(ffn), d_both.split_at_mut(ffn));
            activated.fill(0.0);
            slope.fill(0.0);
            for start in (0..scales.len()).step_by(ffn) {
                for at in 0..ffn {
                    let x = gates[at] + shifts[start + at];
                    let part = sigmoid(x);
                    let by_x = scales[start + at] * part * (1.0 + x * (1.0 - part));
                    let d = d_inner[at] * ups[at];
                    activated[at] += x * part * scales[start + at];
                    slope[at] += by_x;
                    d_scales[start + at] += d * x * part;
                    d_shifts[start + at] += d * by_x;
                }
            }
            for at in 0..ffn {
                let d = d_inner[at];
                d_inner[at] = activated[at] * ups[at];
                d_gates[at] = d * ups[at] * slope[at];
                d_ups[at] = d * activated[at];
            }
        }
    }
}

vectorised! {
    /// `x * Phi(x)`.
    pub(crate) fn gelu(values: &mut [f32]) {
        for value in values {
            *value *= 0.5 * (1.0 + erf(*value * std::f32::consts::FRAC_1_SQRT_2));
        }
    }
}

vectorised! {
    /// Makes `d` the gradient by [`gelu`]'s input, from that by its output.
    pub(crate) fn gelu_backward(d: &mut [f32], x: &[f32]) {
        // 1 / sqrt(2 pi)
        const DENSITY: f32 = 0.398_942_3;
        for (d, &x) in d.iter_mut().zip(x) {
            let below = 0.5 * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2));
            *d *= below + x * DENSITY * exp(-0.5 * x * x);
        }
    }
}

/// What queries one after another see of `keys` keys.
#[derive(Clone, Copy)]
pub(crate) struct Seen<'a> {
    pub(crate) keys: usize,
    /// Keys up to the first query's own; each query after it has one more.
    pub(crate) first: usize,
    /// The first key that each query sees; nothing where that is the first of all.
    pub(crate) starts: &'a [u32],
}

impl Seen<'_> {
    /// Splits a query's row into what it doesn't see, sees, and doesn't see.
    #[inline(always)]
    fn split(self, query: usize, row: &mut [f32]) -> (&mut [f32], &mut [f32], &mut [f32]) {
        let start = self.starts.get(query).map_or(0, |&start| start as usize);
        let (row, after) = row.split_at_mut(self.first + query);
        let (before, seen) = row.split_at_mut(start);
        (before, seen, after)
    }
}

/// Makes scores times `scale` probabilities and returns the logarithm of what they were divided by.
#[inline(always)]
fn softmax(scores: &mut [f32], scale: f32) -> f32 {
    let most = largest(scores) * scale;
    for score in scores.iter_mut() {
        *score = exp(*score * scale - most);
    }
    let total = reduce([scores], 0.0, |[score]| score, sum);
    let inverse = 1.0 / total;
    for score in scores.iter_mut() {
        *score *= inverse;
    }
    most + total.ln()
}

vectorised! {
    /// Makes scores times `scale` probabilities, a row of `seen.keys` scores a query. Writes the logarithms of what they were divided
    /// by.
    pub(crate) fn causal_softmax(scores: &mut [f32], log_sums: &mut [f32], seen: Seen, scale: f32) {
        let rows = scores.chunks_exact_mut(seen.keys).zip(log_sums);
        for (at, (scores, log_sum)) in rows.enumerate() {
            let (unseen, scores, after) = seen.split(at, scores);
            unseen.fill(0.0);
            *log_sum = softmax(scores, scale);
            after.fill(0.0);
        }
    }
}

vectorised! {
    /// Makes scores the probabilities that [`causal_softmax`] made, and `d` the gradient by scores from that by probabilities. Rows of
    /// `out` and `d_out`, what attention made and the gradient by it, have `size` numbers and begin `stride` numbers apart.
    pub(crate) fn causal_softmax_backward(
        scores: &mut [f32],
        d: &mut [f32],
        log_sums: &[f32],
        outs: [&[f32]; 2],
        shape: [usize; 2],
        seen: Seen,
        scale: f32,
    ) {
        let ([out, d_out], [size, stride]) = (outs, shape);
        let rows = scores.chunks_exact_mut(seen.keys).zip(d.chunks_exact_mut(seen.keys)).zip(log_sums);
        for (at, ((scores, d), log_sum)) in rows.enumerate() {
            let row = at * stride..at * stride + size;
            let mean = dot(&out[row.clone()], &d_out[row]);
            let (unseen, scores, after) = seen.split(at, scores);
            let (d_unseen, d, d_after) = seen.split(at, d);
            for (score, d) in scores.iter_mut().zip(d) {
                *score = exp(*score * scale - log_sum);
                *d = *score * (*d - mean) * scale;
            }
            for unseen in [unseen, after, d_unseen, d_after] {
                unseen.fill(0.0);
            }
        }
    }
}

vectorised! {
    /// Writes the negative log-likelihood of each row's target.
    pub(crate) fn nll(losses: &mut [f32], logits: &[f32], targets: &[i64]) {
        let rows = logits.chunks_exact(logits.len() / targets.len()).zip(targets);
        for (loss, (logits, &target)) in losses.iter_mut().zip(rows) {
            let most = largest(logits);
            let total = reduce([logits], 0.0, |[logit]| exp(logit - most), sum);
            *loss = most + total.ln() - logits[target as usize];
        }
    }
}

vectorised! {
    /// Returns the sum of the negative log-likelihoods of each row's target and makes the logits `scale` times the gradient by them.
    pub(crate) fn nll_backward(logits: &mut [f32], targets: &[i64], scale: f32) -> f64 {
        let mut sum = 0.0;
        let rows = logits.chunks_exact_mut(logits.len() / targets.len()).zip(targets);
        for (logits, &target) in rows {
            let logit = logits[target as usize];
            sum += f64::from(softmax(logits, 1.0) - logit);
            logits[target as usize] -= 1.0;
            for value in logits {
                *value *= scale;
            }
        }
        sum
    }
}

vectorised! {
    /// Writes what attention makes of one query and the keys and values that it sees, as many as `scores` has room for.
    pub(crate) fn attend(out: &mut [f32], query: &[f32], keys: &[f32], values: &[f32], scores: &mut [f32]) {
        let size = query.len();
        for (score, key) in scores.iter_mut().zip(keys.chunks_exact(size)) {
            *score = dot(key, query);
        }
        softmax(scores, 1.0 / (size as f32).sqrt());
        out.fill(0.0);
        for (&score, value) in scores.iter().zip(values.chunks_exact(size)) {
            for (out, value) in out.iter_mut().zip(value) {
                *out += score * value;
            }
        }
    }
}

/// The numbers of one step of [`adamw`].
#[derive(Clone, Copy)]
pub(crate) struct Factors {
    /// What the gradient is multiplied by.
    pub(crate) scale: f32,
    /// How far means move to the gradient.
    pub(crate) mean: f32,
    /// How far means of squares move to the gradient's square.
    pub(crate) square: f32,
    /// What weights are multiplied by.
    pub(crate) keep: f32,
    /// What a mean over its size is multiplied by.
    pub(crate) size: f32,
    /// What the root of a mean of squares is multiplied by.
    pub(crate) slope: f32,
    /// What is added to that.
    pub(crate) eps: f32,
}

vectorised! {
    /// One step of AdamW.
    pub(crate) fn adamw(
        weights: &mut [f32],
        means: &mut [f32],
        squares: &mut [f32],
        gradient: &[f32],
        factors: Factors,
    ) {
        let Factors { scale, mean: part, square: square_part, keep, size, slope, eps } = factors;
        let memory = means.iter_mut().zip(squares);
        for ((weight, (mean, square)), gradient) in weights.iter_mut().zip(memory).zip(gradient) {
            let gradient = gradient * scale;
            *mean += (gradient - *mean) * part;
            *square += (gradient * gradient - *square) * square_part;
            *weight = *weight * keep - *mean / (square.sqrt() * slope + eps) * size;
        }
    }
}

vectorised! {
    /// Returns the sum of squares.
    pub(crate) fn sum_of_squares(values: &[f32]) -> f64 {
        let mut lanes = [0.0_f64; LANES];
        let (lines, rest) = values.as_chunks::<LANES>();
        for line in lines {
            lanes = std::array::from_fn(|lane| lanes[lane] + f64::from(line[lane]).powi(2));
        }
        let rest: f64 = rest.iter().map(|&value| f64::from(value).powi(2)).sum();
        lanes.into_iter().sum::<f64>() + rest
    }
}

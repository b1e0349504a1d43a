//! Causal attention of one sequence's heads that share keys and values: exact softmax by blocks of queries, which skip the keys
//! that come after them and those before their documents.

use super::matrix::{Matrix, Packed, multiply};
use super::rows;
use super::scratch::Scratch;

/// Queries whose scores exist at once.
const BLOCK: usize = 64;

/// Queries of some heads, their keys and values: one row per token, `row` numbers apart.
#[derive(Clone, Copy)]
pub(crate) struct Heads<'a> {
    /// From the first of these heads' queries on.
    pub(crate) queries: &'a [f32],
    pub(crate) keys: &'a [f32],
    pub(crate) values: &'a [f32],
    pub(crate) row: usize,
    /// Heads of queries.
    pub(crate) count: usize,
    pub(crate) head_dim: usize,
    pub(crate) length: usize,
    /// The first token that each token sees; nothing where that is the sequence's first.
    pub(crate) starts: &'a [u32],
}

/// A block of one head's queries.
struct Block {
    head: usize,
    start: usize,
    end: usize,
}

impl<'a> Heads<'a> {
    fn blocks(self) -> impl Iterator<Item = Block> {
        (0..self.count).flat_map(move |head| {
            (0..self.length).step_by(BLOCK).map(move |start| Block {
                head,
                start,
                end: (start + BLOCK).min(self.length),
            })
        })
    }

    /// Returns what a block's queries see of the keys until its end.
    fn seen(self, block: &Block) -> rows::Seen<'a> {
        let starts = self.starts.get(block.start..block.end).unwrap_or_default();
        rows::Seen { keys: block.end, first: block.start + 1, starts }
    }

    fn scale(self) -> f32 {
        1.0 / (self.head_dim as f32).sqrt()
    }

    /// Numbers of one head in these rows.
    fn part(self, numbers: &'a [f32], start: usize, end: usize) -> Matrix<'a> {
        let last = (end - 1) * self.row + self.head_dim;
        Matrix::strided(&numbers[start * self.row..last], self.head_dim, self.row)
    }

    fn queries(self, block: &Block) -> Matrix<'a> {
        self.part(&self.queries[block.head * self.head_dim..], block.start, block.end)
    }

    /// Writes queries times keys.
    fn scores(self, block: &Block, scores: &mut [f32], keys: &Packed) {
        multiply(scores, [block.end; 2], false, self.queries(block), keys);
    }

    /// Returns the keys or values of all tokens.
    fn all(self, numbers: &'a [f32]) -> Matrix<'a> {
        self.part(numbers, 0, self.length)
    }

    /// Writes what attention makes of the values, `[length, count * head_dim]`, and the logarithms of its sums, `[count, length]`.
    pub(crate) fn attend(self, out: &mut [f32], log_sums: &mut [f32]) {
        let mut room = Scratch::of(BLOCK * self.length);
        let (size, row) = (self.head_dim, self.count * self.head_dim);
        let keys = Packed::of(self.all(self.keys).transposed());
        let values = Packed::of(self.all(self.values));
        for block in self.blocks() {
            let scores = &mut room[..(block.end - block.start) * block.end];
            self.scores(&block, scores, &keys);
            let log_sums = &mut log_sums[block.head * self.length..][block.start..block.end];
            rows::causal_softmax(scores, log_sums, self.seen(&block), self.scale());
            let to = part_of(out, &block, size, row);
            multiply(to, [size, row], false, Matrix::new(scores, block.end), &values);
        }
    }

    /// Writes the gradient by queries, then keys, then values, `[length, (count + 2) * head_dim]`, given what [`Self::attend`] wrote
    /// and the gradient by `out`, both with rows `from_row` numbers apart.
    pub(crate) fn attend_backward(
        self,
        d: &mut [f32],
        out: &[f32],
        d_out: &[f32],
        from_row: usize,
        log_sums: &[f32],
    ) {
        let mut room = Scratch::of(2 * BLOCK * self.length);
        let (size, row) = (self.head_dim, (self.count + 2) * self.head_dim);
        d.fill(0.0);
        let to_scores = Packed::of(self.all(self.keys).transposed());
        let to_queries = Packed::of(self.all(self.keys));
        let to_d_scores = Packed::of(self.all(self.values).transposed());
        for block in self.blocks() {
            let count = block.end - block.start;
            let (scores, d_scores) = room.split_at_mut(BLOCK * self.length);
            let scores = &mut scores[..count * block.end];
            let d_scores = &mut d_scores[..count * block.end];
            self.scores(&block, scores, &to_scores);
            let first = block.start * from_row + block.head * size;
            let place = first..first + (count - 1) * from_row + size;
            let (out, d_out) = (&out[place.clone()], &d_out[place]);
            let d_rows = Matrix::strided(d_out, size, from_row);
            multiply(d_scores, [block.end; 2], false, d_rows, &to_d_scores);
            let log_sums = &log_sums[block.head * self.length..][block.start..block.end];
            let (shape, seen, scale) = ([size, from_row], self.seen(&block), self.scale());
            let outs = [out, d_out];
            rows::causal_softmax_backward(scores, d_scores, log_sums, outs, shape, seen, scale);
            let scores = Matrix::new(scores, block.end);
            let d_scores = Matrix::new(d_scores, block.end);
            let keys = Block { head: self.count, start: 0, end: block.end };
            let values = Block { head: self.count + 1, ..keys };
            let mut add = |to: &Block, is_sum: bool, left: Matrix, right: &Packed| {
                multiply(part_of(d, to, size, row), [size, row], is_sum, left, right);
            };
            add(&values, true, scores.transposed(), &Packed::of(d_rows));
            add(&keys, true, d_scores.transposed(), &Packed::of(self.queries(&block)));
            add(&block, false, d_scores, &to_queries);
        }
    }
}

/// Returns a block's rows of one head, in rows of several heads.
fn part_of<'a>(
    numbers: &'a mut [f32],
    block: &Block,
    head_dim: usize,
    row: usize,
) -> &'a mut [f32] {
    let start = block.start * row + block.head * head_dim;
    &mut numbers[start..(block.end - 1) * row + (block.head + 1) * head_dim]
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind, Tensor};

    use super::Heads;
    use crate::nn::runtime::f32_values;
    use crate::nn::tests::check_close;

    const COUNT: usize = 2;
    const HEAD_DIM: usize = 8;
    const ROW: usize = (COUNT + 2) * HEAD_DIM;

    /// Returns libtorch's attention and its gradient by queries, keys and values, all of them as rows of tokens.
    fn expected(qkv: &Tensor, d_out: &Tensor, starts: &[u32]) -> [Tensor; 2] {
        let length = qkv.size()[0];
        let qkv = qkv.detach().set_requires_grad(true);
        let heads = qkv.view([length, -1, HEAD_DIM as i64]).transpose(0, 1);
        let part = |first: i64, count: i64| heads.narrow(0, first, count);
        let (queries, keys, values) = (part(0, 2), part(2, 1), part(3, 1));
        let both = |rows: &Tensor| rows.expand([COUNT as i64, -1, -1], false);
        let places = Tensor::arange(length, (Kind::Int64, Device::Cpu));
        let starts: Vec<i64> = starts.iter().map(|&start| i64::from(start)).collect();
        let (rows, starts) = (places.unsqueeze(1), Tensor::from_slice(&starts).unsqueeze(1));
        let mask =
            places.less_equal_tensor(&rows).logical_and(&places.greater_equal_tensor(&starts));
        let out = Tensor::scaled_dot_product_attention(
            &queries,
            &both(&keys),
            &both(&values),
            Some(&mask),
            0.0,
            false,
            None,
            false,
        );
        let out = out.transpose(0, 1).reshape([length, -1]);
        let d = Tensor::run_backward(&[(&out * d_out).sum(Kind::Float)], &[&qkv], false, false);
        [out.detach(), d[0].shallow_clone()]
    }

    /// Checks what attention makes, and its gradient, against libtorch's with a mask.
    #[track_caller]
    fn check(starts: &[u32]) {
        let length = starts.len();
        tch::manual_seed(1);
        let of = |columns: usize| {
            Tensor::randn([length as i64, columns as i64], (Kind::Float, Device::Cpu))
        };
        let (qkv, d_out) = (of(ROW), of(COUNT * HEAD_DIM));
        let [expected, expected_d] =
            expected(&qkv, &d_out, starts).map(|of| f32_values(&of).unwrap());
        let [qkv, d_out] = [&qkv, &d_out].map(|tensor| f32_values(tensor).unwrap());
        let heads = Heads {
            queries: &qkv,
            keys: &qkv[COUNT * HEAD_DIM..],
            values: &qkv[(COUNT + 1) * HEAD_DIM..],
            row: ROW,
            count: COUNT,
            head_dim: HEAD_DIM,
            length,
            starts,
        };
        let mut out = vec![0.0; length * COUNT * HEAD_DIM];
        let mut log_sums = vec![0.0; COUNT * length];
        heads.attend(&mut out, &mut log_sums);
        check_close("attention", &out, &expected, 1e-5);
        let mut d = vec![0.0; qkv.len()];
        heads.attend_backward(&mut d, &out, &d_out, COUNT * HEAD_DIM, &log_sums);
        check_close("its gradient", &d, &expected_d, 1e-5);
    }

    #[test]
    fn tokens_see_their_documents_only() {
        let starts = |starts: &[usize], length: usize| -> Vec<u32> {
            let start = |at| starts.iter().rev().find(|&&start| start <= at).unwrap_or(&0);
            (0..length).map(|at| *start(at) as u32).collect()
        };
        check(&starts(&[], 150));
        check(&starts(&[10, 64, 65, 129], 150));
        check(&starts(&[100], 150));
        check(&starts(&[1], 2));
    }
}

//! Causal attention of one sequence's heads that share keys and values: exact softmax by blocks of queries, which skip the keys
//! that come after them.

use super::matrix::{Matrix, Packed, multiply};
use super::rows;

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
        let mut room = vec![0.0; BLOCK * self.length];
        let (size, row) = (self.head_dim, self.count * self.head_dim);
        let keys = Packed::of(self.all(self.keys).transposed());
        let values = Packed::of(self.all(self.values));
        for block in self.blocks() {
            let scores = &mut room[..(block.end - block.start) * block.end];
            self.scores(&block, scores, &keys);
            let log_sums = &mut log_sums[block.head * self.length..][block.start..block.end];
            rows::causal_softmax(scores, log_sums, block.end, block.start + 1, self.scale());
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
        let mut room = vec![0.0; 2 * BLOCK * self.length];
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
            let shape = [block.end, block.start + 1, size, from_row];
            let scale = self.scale();
            rows::causal_softmax_backward(scores, d_scores, log_sums, [out, d_out], shape, scale);
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

//! A weight's gradient: the product of the gradient by its output, turned, with its input. Whoever makes a piece of the two packs it
//! while it is in the cache.

use rayon::prelude::*;

use super::matrix::{COLUMNS, DEPTH, Matrix, Packed, TILE_ROWS, add_packed, apart};
use super::matrix::{pack_panels, pack_tiles};

/// Most rows of a weight whose gradient a thread makes at once.
const WEIGHT_ROWS: usize = 256;

/// The gradient by a weight's output and its input, as many rows of both.
pub(crate) struct Outer {
    left: Packed<TILE_ROWS>,
    right: Packed<COLUMNS>,
}

/// [`DEPTH`] of these rows; as many as are left of the last ones.
pub(crate) struct OuterPiece<'a> {
    left: &'a mut [f32],
    right: &'a mut [f32],
    /// Numbers a row of the two.
    columns: [usize; 2],
    rows: usize,
}

impl Outer {
    /// Returns the room for so many rows.
    pub(crate) fn room(rows: usize, outputs: usize, inputs: usize) -> Self {
        Self { left: Packed::room(rows, outputs), right: Packed::room(rows, inputs) }
    }

    /// Returns the pieces of some outer products, to be filled.
    pub(crate) fn pieces<const N: usize>(outers: &mut [Self; N]) -> Vec<[OuterPiece<'_>; N]> {
        let count = outers.first().map_or(0, |outer| outer.left.rows().div_ceil(DEPTH));
        let mut pieces = outers.each_mut().map(|outer| {
            let columns = [outer.left.columns(), outer.right.columns()];
            let Self { left, right } = outer;
            left.blocks_mut().zip(right.blocks_mut()).map(move |((rows, left), (_, right))| {
                OuterPiece { left, right, columns, rows: rows.len() }
            })
        });
        let next = |_| pieces.each_mut().map(|pieces| pieces.next().expect("as many pieces"));
        (0..count).map(next).collect()
    }

    /// Adds the outer product.
    pub(crate) fn add_to(&self, to: &mut [f32]) {
        let (outputs, inputs) = (self.left.columns(), self.right.columns());
        let rows = even_share(outputs);
        to.par_chunks_mut(rows * inputs).enumerate().for_each(|(at, to)| {
            add_packed(to, &self.left, at * rows, &self.right);
        });
    }
}

impl OuterPiece<'_> {
    /// Packs rows from row `first` of the piece on.
    pub(crate) fn put(&mut self, first: usize, d: &[f32], x: &[f32]) {
        let [d, x] = [Matrix::new(d, self.columns[0]), Matrix::new(x, self.columns[1])];
        pack_tiles(self.left, apart::<TILE_ROWS>(self.rows), first, d);
        pack_panels(self.right, apart::<COLUMNS>(self.rows), first, x);
    }
}

/// Returns how many of a weight's rows are a piece, so that all threads get as many.
fn even_share(rows: usize) -> usize {
    let least = 2 * rayon::current_num_threads();
    let pieces = least * rows.div_ceil(least * WEIGHT_ROWS);
    rows.div_ceil(pieces).next_multiple_of(TILE_ROWS)
}

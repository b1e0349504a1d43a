//! Matrix products of f32, each on the thread that asks for it.
//!
//! The right matrix is packed into panels of columns that stay in the cache while all rows of the left one pass by; a weight is
//! packed once for all threads and rows. A tile of the result is summed in registers.

use rayon::prelude::*;

use super::rows::{Instructions, instructions, vectorised};
use super::scratch::Scratch;

/// Columns of a panel.
const COLUMNS: usize = 32;
/// Rows of a tile.
pub(crate) const TILE_ROWS: usize = 8;
/// Most columns of the left matrix whose products are summed in registers.
const DEPTH: usize = 256;
/// Least numbers whose reading is worth waking another thread.
pub(crate) const LEAST: usize = 1 << 17;

/// Numbers as a matrix.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a> {
    numbers: &'a [f32],
    rows: usize,
    columns: usize,
    /// Numbers from one row to the next.
    stride: usize,
    /// Whether rows are columns and columns rows.
    is_transposed: bool,
}

impl<'a> Matrix<'a> {
    /// Rows of so many numbers, one after another.
    pub(crate) fn new(numbers: &'a [f32], columns: usize) -> Self {
        Self::strided(numbers, columns, columns)
    }

    /// Rows of `columns` numbers that begin `stride` numbers apart.
    pub(crate) fn strided(numbers: &'a [f32], columns: usize, stride: usize) -> Self {
        let rows = rows_of(numbers.len(), columns, stride);
        Self { numbers, rows, columns, stride, is_transposed: false }
    }

    /// Returns the matrix with rows as columns.
    pub(crate) fn transposed(self) -> Self {
        let (rows, columns) = (self.columns, self.rows);
        Self { rows, columns, is_transposed: !self.is_transposed, ..self }
    }

    /// Returns `count` columns from column `first` on.
    fn columns_from(self, first: usize, count: usize) -> Self {
        let skipped = if self.is_transposed { first * self.stride } else { first };
        Self { numbers: &self.numbers[skipped..], columns: count, ..self }
    }

    /// Returns the matrix as a left one, in `room` if it is transposed.
    fn as_left(self, room: &'a mut [f32]) -> Left<'a> {
        if !self.is_transposed {
            return Left::of(self);
        }
        let tile = self.columns * TILE_ROWS;
        let room = &mut room[..self.rows.div_ceil(TILE_ROWS) * tile];
        for (at, panel) in room.chunks_exact_mut(tile).enumerate() {
            pack_panel::<TILE_ROWS>(panel, self.transposed(), at * TILE_ROWS);
        }
        let (row, column) = (1, TILE_ROWS);
        Left { numbers: room, rows: self.rows, inner: self.columns, row, column, tile }
    }
}

/// Returns how many rows of `columns` numbers fit that begin `stride` numbers apart.
fn rows_of(numbers: usize, columns: usize, stride: usize) -> usize {
    assert!(0 < columns && columns <= stride, "rows that don't overlap");
    if numbers < columns { 0 } else { (numbers - columns) / stride + 1 }
}

/// A right matrix, ready for products.
pub(crate) struct Packed {
    /// Panel by panel, row by row; the last panel ends with zeros.
    panels: Scratch,
    rows: usize,
    columns: usize,
}

impl Packed {
    /// Packs a matrix.
    pub(crate) fn of(matrix: Matrix) -> Self {
        let mut packed = Self::room(matrix);
        let size = packed.panel();
        for (at, panel) in packed.panels.chunks_exact_mut(size).enumerate() {
            pack_panel::<COLUMNS>(panel, matrix, at * COLUMNS);
        }
        packed
    }

    /// The same with the work shared among threads.
    pub(crate) fn shared(matrix: Matrix) -> Self {
        let mut packed = Self::room(matrix);
        let size = packed.panel();
        packed.panels.par_chunks_exact_mut(size).enumerate().for_each(|(at, panel)| {
            pack_panel::<COLUMNS>(panel, matrix, at * COLUMNS);
        });
        packed
    }

    fn room(matrix: Matrix) -> Self {
        let Matrix { rows, columns, .. } = matrix;
        Self { panels: Scratch::of(columns.div_ceil(COLUMNS) * rows * COLUMNS), rows, columns }
    }

    /// Numbers of a panel.
    fn panel(&self) -> usize {
        (self.rows * COLUMNS).max(1)
    }

    pub(crate) fn columns(&self) -> usize {
        self.columns
    }

    /// Makes rows the product of rows, one after another, with this, or adds that.
    pub(crate) fn multiply(&self, to: &mut [f32], is_sum: bool, rows: &[f32]) {
        multiply(to, [self.columns; 2], is_sum, Matrix::new(rows, self.rows), self);
    }

    /// Returns the product of a few rows with this, with the work shared among threads: panels by panels.
    pub(crate) fn multiply_few(&self, rows: &[f32]) -> Vec<f32> {
        let left = Left::of(Matrix::new(rows, self.rows));
        let size = left.rows * COLUMNS;
        let mut by_panel = vec![0.0; self.columns.div_ceil(COLUMNS) * size];
        (by_panel.par_chunks_mut(size), self.panels.par_chunks_exact(self.panel()))
            .into_par_iter()
            .with_min_len((LEAST / self.panel()).max(1))
            .for_each(|(to, panel)| multiply_panel(to, [COLUMNS; 2], false, left, panel));
        let mut out = vec![0.0; left.rows * self.columns];
        for (row, out) in out.chunks_exact_mut(self.columns).enumerate() {
            for (out, panel) in out.chunks_mut(COLUMNS).zip(by_panel.chunks_exact(size)) {
                out.copy_from_slice(&panel[row * COLUMNS..][..out.len()]);
            }
        }
        out
    }
}

/// Writes `N` columns of a matrix from column `first` on, row by row; zeros for columns that it hasn't.
fn pack_panel<const N: usize>(panel: &mut [f32], matrix: Matrix, first: usize) {
    let Matrix { numbers, columns, stride, is_transposed, .. } = matrix;
    let count = N.min(columns - first);
    let (lines, _) = panel.as_chunks_mut::<N>();
    if is_transposed {
        for (at, row) in numbers[first * stride..].chunks(stride).take(count).enumerate() {
            for (line, &value) in lines.iter_mut().zip(row) {
                line[at] = value;
            }
        }
        for line in lines {
            line[count..].fill(0.0);
        }
    } else {
        for (line, row) in lines.iter_mut().zip(numbers.chunks(stride)) {
            // A whole line is copied by instructions, a part by a call.
            if let Some(whole) = row[first..].first_chunk::<N>()
                && count == N
            {
                *line = *whole;
            } else {
                line[..count].copy_from_slice(&row[first..first + count]);
                line[count..].fill(0.0);
            }
        }
    }
}

/// Makes rows of `columns` numbers that begin `stride` numbers apart the product of two matrices, or adds it to them. Of `right` only
/// as many rows and columns count as `left` has columns and the result has.
///
/// # Panics
/// When the shapes don't fit.
pub(crate) fn multiply(
    to: &mut [f32],
    [columns, stride]: [usize; 2],
    is_sum: bool,
    left: Matrix,
    right: &Packed,
) {
    let inner = left.columns;
    assert!(rows_of(to.len(), columns, stride) == left.rows, "as many rows");
    assert!(inner <= right.rows && columns <= right.columns, "inner dimensions that fit");
    let rows = if left.is_transposed { left.rows.next_multiple_of(TILE_ROWS) } else { 0 };
    let mut room = Scratch::of(rows * DEPTH.min(inner));
    for start in (0..inner).step_by(DEPTH) {
        let depth = DEPTH.min(inner - start);
        let left = left.columns_from(start, depth).as_left(&mut room);
        let panels = right.panels.chunks_exact(right.panel());
        for (panel, first) in panels.zip((0..columns).step_by(COLUMNS)) {
            multiply_panel(
                &mut to[first..],
                [COLUMNS.min(columns - first), stride],
                is_sum || start > 0,
                left,
                &panel[start * COLUMNS..],
            );
        }
    }
}

/// The left matrix: the number in row r and column c of tile t is number `t * tile + r * row + c * column`.
#[derive(Clone, Copy)]
struct Left<'a> {
    numbers: &'a [f32],
    rows: usize,
    inner: usize,
    row: usize,
    column: usize,
    tile: usize,
}

impl<'a> Left<'a> {
    /// A matrix as it lies.
    fn of(matrix: Matrix<'a>) -> Self {
        let Matrix { numbers, rows, columns: inner, stride: row, .. } = matrix;
        Self { numbers, rows, inner, row, column: 1, tile: TILE_ROWS * row }
    }
}

/// Does [`multiply`] for one panel.
fn multiply_panel(
    to: &mut [f32],
    [width, stride]: [usize; 2],
    is_sum: bool,
    left: Left,
    panel: &[f32],
) {
    for (at, start) in (0..left.rows).step_by(TILE_ROWS).enumerate() {
        let height = TILE_ROWS.min(left.rows - start);
        let place = start * stride;
        let end = place + (height - 1) * stride + width;
        let rows = Left { numbers: &left.numbers[at * left.tile..], ..left };
        tile(&mut to[place..end], [height, width, stride], is_sum, rows, panel);
    }
}

/// Makes a tile of the result the product of rows with a panel, or adds that.
fn tile(
    to: &mut [f32],
    [height, width, stride]: [usize; 3],
    is_sum: bool,
    rows: Left,
    panel: &[f32],
) {
    let Left { numbers, row, column, inner, .. } = rows;
    let is_within = inner == 0 || (height - 1) * row + (inner - 1) * column < numbers.len();
    assert!(is_within && inner * COLUMNS <= panel.len() && (1..=TILE_ROWS).contains(&height));
    assert!((1..=COLUMNS).contains(&width) && (height - 1) * stride + width <= to.len());
    // Rows beyond the last repeat it.
    let starts = std::array::from_fn(|at| numbers[at.min(height - 1) * row..].as_ptr());
    #[cfg(target_arch = "x86_64")]
    if instructions() == Instructions::Widest {
        #[expect(unsafe_code, reason = "instructions that not all processors have")]
        // SAFETY: this one has them; the assertions keep all places that are read or written within the slices.
        unsafe {
            wide_tile(
                to.as_mut_ptr(),
                [height, width, stride],
                is_sum,
                starts,
                column,
                inner,
                panel,
            );
        }
        return;
    }
    plain_tile(to, [height, width, stride], is_sum, [numbers, panel], [row, column, inner]);
}

vectorised! {
    /// The same with what any processor has.
    pub(crate) fn plain_tile(
        to: &mut [f32],
        shape: [usize; 3],
        is_sum: bool,
        factors: [&[f32]; 2],
        strides: [usize; 3],
    ) {
        let ([height, width, stride], [row, column, inner]) = (shape, strides);
        for at in 0..height {
            let mut sums = [0.0_f32; COLUMNS];
            let lines = factors[1].as_chunks::<COLUMNS>().0;
            for (k, line) in lines.iter().take(inner).enumerate() {
                let value = factors[0][at * row + k * column];
                sums = std::array::from_fn(|lane| sums[lane] + value * line[lane]);
            }
            for (to, sum) in to[at * stride..at * stride + width].iter_mut().zip(sums) {
                *to = if is_sum { *to + sum } else { sum };
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "reads through pointers, so that no check is left in the loop")]
#[target_feature(enable = "avx512f")]
unsafe fn wide_tile(
    to: *mut f32,
    [height, width, stride]: [usize; 3],
    is_sum: bool,
    starts: [*const f32; TILE_ROWS],
    column: usize,
    inner: usize,
    panel: &[f32],
) {
    use std::arch::x86_64::{
        _MM_HINT_ET0, _mm_prefetch, _mm512_add_ps, _mm512_fmadd_ps, _mm512_loadu_ps,
        _mm512_mask_storeu_ps, _mm512_maskz_loadu_ps, _mm512_set1_ps, _mm512_setzero_ps,
    };
    let panel = panel.as_ptr();
    let mask = u32::MAX >> (COLUMNS - width);
    let masks = [mask as u16, (mask >> 16) as u16];
    let mut sums = [[_mm512_setzero_ps(); 2]; TILE_ROWS];
    // SAFETY: as the caller promises; masked places are not touched.
    unsafe {
        // The result's lines are on their way while it is summed.
        for row in 0..height {
            let line = to.add(row * stride);
            _mm_prefetch::<_MM_HINT_ET0>(line.cast());
            _mm_prefetch::<_MM_HINT_ET0>(line.wrapping_add(16).cast());
        }
        for at in 0..inner {
            let line = panel.add(at * COLUMNS);
            let line = [_mm512_loadu_ps(line), _mm512_loadu_ps(line.add(16))];
            for (sums, start) in sums.iter_mut().zip(starts) {
                let value = _mm512_set1_ps(*start.add(at * column));
                sums[0] = _mm512_fmadd_ps(value, line[0], sums[0]);
                sums[1] = _mm512_fmadd_ps(value, line[1], sums[1]);
            }
        }
        for (row, sums) in sums.iter().enumerate().take(height) {
            for half in 0..2 {
                let to = to.add(row * stride).wrapping_add(16 * half);
                let mut sum = sums[half];
                if is_sum {
                    sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(masks[half], to));
                }
                _mm512_mask_storeu_ps(to, masks[half], sum);
            }
        }
    }
}

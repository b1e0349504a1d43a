//! Matrix products of f32, each on the thread that asks for it.
//!
//! The right matrix is packed into panels of columns that stay in the cache while all rows of the left one pass by; a weight is
//! packed once for all threads and rows. A tile of the result is summed in registers, over so many rows of the panel as fit in the
//! cache closest to the processor.

use std::ops::Range;

use rayon::prelude::*;

use super::rows::{Instructions, instructions, vectorised};
use super::scratch::Scratch;

/// Columns of a panel.
pub(crate) const COLUMNS: usize = 32;
/// Rows of a tile.
pub(crate) const TILE_ROWS: usize = 8;
/// Most rows of a panel that are summed in registers.
pub(crate) const DEPTH: usize = 256;
/// Numbers between panels, so that not all begin at the same place of the cache.
const GAP: usize = 16;
/// Lines of panels that are written at once.
const LINES: usize = 16;
/// Panels that a thread packs at once.
const PANELS: usize = 4;
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

    /// Returns a part.
    fn part(self, rows: Range<usize>, columns: Range<usize>) -> Self {
        let Self { stride, is_transposed, .. } = self;
        let (line, place) =
            if is_transposed { (columns.start, rows.start) } else { (rows.start, columns.start) };
        let numbers = self.numbers.get(line * stride + place..).unwrap_or_default();
        Self { numbers, rows: rows.len(), columns: columns.len(), stride, is_transposed }
    }

    /// Returns the matrix as a left one, in `room` if it is transposed.
    fn as_left(self, room: &'a mut [f32]) -> Left<'a> {
        if !self.is_transposed {
            return Left::of(self);
        }
        let tile = apart::<TILE_ROWS>(self.columns);
        pack_tiles(room, tile, 0, self.transposed());
        let (row, column) = (1, TILE_ROWS);
        Left { numbers: room, rows: self.rows, inner: self.columns, row, column, tile }
    }
}

/// Returns how many numbers apart panels of `N` columns begin that have so many rows.
pub(crate) fn apart<const N: usize>(rows: usize) -> usize {
    rows * N + GAP
}

/// Returns how many rows of `columns` numbers fit that begin `stride` numbers apart.
fn rows_of(numbers: usize, columns: usize, stride: usize) -> usize {
    assert!(0 < columns && columns <= stride, "rows that don't overlap");
    if numbers < columns { 0 } else { (numbers - columns) / stride + 1 }
}

/// A matrix ready for products: a right one in panels of [`COLUMNS`] columns, or a left one, turned, in tiles of [`TILE_ROWS`].
pub(crate) struct Packed<const N: usize = COLUMNS> {
    /// [`DEPTH`] rows after [`DEPTH`] rows, of these panel by panel, of a panel row by row; the last panel ends with zeros.
    panels: Scratch,
    rows: usize,
    columns: usize,
}

impl<const N: usize> Packed<N> {
    /// Returns the room for a matrix.
    pub(crate) fn room(rows: usize, columns: usize) -> Self {
        let count = (rows * N + rows.div_ceil(DEPTH) * GAP) * columns.div_ceil(N);
        Self { panels: Scratch::of(count), rows, columns }
    }

    /// Numbers of a whole block of rows.
    fn block(&self) -> usize {
        (self.columns.div_ceil(N) * apart::<N>(DEPTH)).max(1)
    }

    /// Returns the panels of each block of rows, of the first rows only.
    fn blocks(&self, rows: usize) -> impl Iterator<Item = Panels<'_>> {
        let blocks = self.panels.chunks(self.block()).take(rows.div_ceil(DEPTH)).enumerate();
        blocks.map(move |(at, numbers)| {
            let apart = apart::<N>(block_rows(at, self.rows).len());
            Panels { numbers, apart, rows: block_rows(at, rows) }
        })
    }

    /// Returns the rows of each block, and where its panels are written.
    pub(crate) fn blocks_mut(&mut self) -> impl Iterator<Item = (Range<usize>, &mut [f32])> {
        let (size, rows) = (self.block(), self.rows);
        let blocks = self.panels.chunks_mut(size).enumerate();
        blocks.map(move |(at, block)| (block_rows(at, rows), block))
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    pub(crate) fn columns(&self) -> usize {
        self.columns
    }
}

impl Packed {
    /// Packs a matrix.
    pub(crate) fn of(matrix: Matrix) -> Self {
        let mut packed = Self::room(matrix.rows, matrix.columns);
        for (rows, block) in packed.blocks_mut() {
            let apart = apart::<COLUMNS>(rows.len());
            pack_panels(block, apart, 0, matrix.part(rows, 0..matrix.columns));
        }
        packed
    }

    /// The same with the work shared among threads.
    pub(crate) fn shared(matrix: Matrix) -> Self {
        let mut packed = Self::room(matrix.rows, matrix.columns);
        let blocks: Vec<_> = packed.blocks_mut().collect();
        blocks.into_par_iter().for_each(|(rows, block)| {
            let apart = apart::<COLUMNS>(rows.len());
            block.par_chunks_mut(PANELS * apart).enumerate().for_each(|(at, panels)| {
                let first = at * PANELS * COLUMNS;
                let columns = first..matrix.columns.min(first + PANELS * COLUMNS);
                pack_panels(panels, apart, 0, matrix.part(rows.clone(), columns));
            });
        });
        packed
    }

    /// Makes rows the product of rows, one after another, with this, or adds that.
    pub(crate) fn multiply(&self, to: &mut [f32], is_sum: bool, rows: &[f32]) {
        multiply(to, [self.columns; 2], is_sum, Matrix::new(rows, self.rows), self);
    }

    /// Returns the product of a few rows with this, with the work shared among threads: panels by panels.
    pub(crate) fn multiply_few(&self, rows: &[f32]) -> Vec<f32> {
        let left = Matrix::new(rows, self.rows);
        let size = left.rows * COLUMNS;
        let mut by_panel = vec![0.0; self.columns.div_ceil(COLUMNS) * size];
        let least = (LEAST / (self.rows * COLUMNS).max(1)).max(1);
        let panels = by_panel.par_chunks_mut(size).enumerate().with_min_len(least);
        panels.for_each(|(at, to)| {
            for block in self.blocks(self.rows) {
                let left = left.part(0..left.rows, block.rows.clone());
                let is_sum = block.rows.start > 0;
                multiply_panel(to, [COLUMNS; 2], is_sum, Left::of(left), block.panel(at));
            }
        });
        let mut out = vec![0.0; left.rows * self.columns];
        for (row, out) in out.chunks_exact_mut(self.columns).enumerate() {
            for (out, panel) in out.chunks_mut(COLUMNS).zip(by_panel.chunks_exact(size)) {
                out.copy_from_slice(&panel[row * COLUMNS..][..out.len()]);
            }
        }
        out
    }
}

/// Returns the rows of a block of a matrix that has so many.
fn block_rows(at: usize, rows: usize) -> Range<usize> {
    at * DEPTH..rows.min((at + 1) * DEPTH)
}

/// Panels of some rows of a right matrix.
struct Panels<'a> {
    numbers: &'a [f32],
    apart: usize,
    rows: Range<usize>,
}

impl<'a> Panels<'a> {
    fn panel(&self, at: usize) -> &'a [f32] {
        &self.numbers[at * self.apart..][..self.apart]
    }
}

vectorised! {
    /// Writes panels of a right matrix, which begin `apart` numbers apart, from their row `first` on.
    pub(crate) fn pack_panels(to: &mut [f32], apart: usize, first: usize, matrix: Matrix) {
        pack::<COLUMNS>(to, apart, first, matrix);
    }
}

vectorised! {
    /// Writes tiles of a left matrix that is given turned, which begin `apart` numbers apart, from their column `first` on.
    pub(crate) fn pack_tiles(to: &mut [f32], apart: usize, first: usize, matrix: Matrix) {
        pack::<TILE_ROWS>(to, apart, first, matrix);
    }
}

/// Writes `N` columns of a matrix after `N` columns of it, row by row; zeros for columns that it hasn't.
#[inline(always)]
fn pack<const N: usize>(to: &mut [f32], apart: usize, first: usize, matrix: Matrix) {
    let Matrix { numbers, rows, columns, stride, is_transposed } = matrix;
    // Rows are read along their memory, a few at a time, columns that are rows in memory as well.
    let group = if is_transposed { rows.max(1) } else { LINES };
    for start in (0..rows).step_by(group) {
        let lines = first + start..first + rows.min(start + group);
        for (panel, column) in to.chunks_mut(apart).zip((0..columns).step_by(N)) {
            let lines = &mut panel.as_chunks_mut::<N>().0[lines.clone()];
            if is_transposed {
                pack_transposed(lines, &numbers[column * stride..], columns - column, stride);
            } else {
                let numbers = &numbers[start * stride + column..];
                pack_lines(lines, numbers, columns - column, stride);
            }
        }
    }
}

/// Writes `N` columns of rows, or as many as there are and zeros.
#[inline(always)]
fn pack_lines<const N: usize>(
    lines: &mut [[f32; N]],
    numbers: &[f32],
    count: usize,
    stride: usize,
) {
    for (line, row) in lines.iter_mut().zip(numbers.chunks(stride)) {
        // A whole line is copied by instructions, a part by a call.
        if let Some(whole) = row.first_chunk::<N>()
            && count >= N
        {
            *line = *whole;
        } else {
            line[..count].copy_from_slice(&row[..count]);
            line[count..].fill(0.0);
        }
    }
}

/// Writes `N` rows as columns, or as many as there are and zeros.
#[inline(always)]
fn pack_transposed<const N: usize>(
    lines: &mut [[f32; N]],
    numbers: &[f32],
    count: usize,
    stride: usize,
) {
    // A few lines at a time, which stay in the cache until they are full.
    for (at, lines) in lines.chunks_mut(LINES).enumerate() {
        for column in 0..count.min(N) {
            let from = &numbers[column * stride + at * LINES..];
            for (line, &value) in lines.iter_mut().zip(from) {
                line[column] = value;
            }
        }
        for line in lines {
            line[count.min(N)..].fill(0.0);
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
    let tiles = if left.is_transposed { left.rows.div_ceil(TILE_ROWS) } else { 0 };
    let mut room = Scratch::of(tiles * apart::<TILE_ROWS>(DEPTH.min(inner)));
    for block in right.blocks(inner) {
        let is_sum = is_sum || block.rows.start > 0;
        let left = left.part(0..left.rows, block.rows.clone()).as_left(&mut room);
        for (at, first) in (0..columns).step_by(COLUMNS).enumerate() {
            let to = &mut to[first..];
            let width = COLUMNS.min(columns - first);
            multiply_panel(to, [width, stride], is_sum, left, block.panel(at));
        }
    }
}

/// Adds to rows, one after another, the product of as many tiles from row `first` of the left matrix on with the right one.
///
/// # Panics
/// When the shapes don't fit.
pub(crate) fn add_packed(to: &mut [f32], left: &Packed<TILE_ROWS>, first: usize, right: &Packed) {
    let columns = right.columns;
    let rows = to.len() / columns;
    assert!(left.rows == right.rows && first + rows <= left.columns, "shapes that fit");
    assert!(first.is_multiple_of(TILE_ROWS), "whole tiles");
    for (tiles, panels) in left.blocks(left.rows).zip(right.blocks(right.rows)) {
        let (inner, tile) = (tiles.rows.len(), tiles.apart);
        let numbers = &tiles.numbers[first / TILE_ROWS * tile..];
        let left = Left { numbers, rows, inner, row: 1, column: TILE_ROWS, tile };
        for (at, first) in (0..columns).step_by(COLUMNS).enumerate() {
            let shape = [COLUMNS.min(columns - first), columns];
            multiply_panel(&mut to[first..], shape, true, left, panels.panel(at));
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

//! Memory for a moment. What a thread lets go of it takes again, as fresh pages cost more than much of what is done in them.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

thread_local! {
    /// What this thread has let go of.
    static FREE: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) };
}

/// Numbers that are anything until they are written.
pub(crate) struct Scratch {
    numbers: Vec<f32>,
    count: usize,
}

impl Scratch {
    /// Returns so many numbers: the smallest piece that is large enough, or the largest one, made larger.
    pub(crate) fn of(count: usize) -> Self {
        let taken = FREE.with_borrow_mut(|free| {
            let key = |numbers: &Vec<f32>| {
                let size = numbers.len();
                (size < count, size.abs_diff(count))
            };
            let best = free.iter().enumerate().min_by_key(|(_, numbers)| key(numbers));
            best.map(|(at, _)| at).map(|at| free.swap_remove(at))
        });
        let mut numbers = taken.unwrap_or_default();
        if numbers.len() < count {
            // Nothing of it is needed, so it isn't moved.
            numbers = vec![0.0; count];
        }
        Self { numbers, count }
    }
}

impl Deref for Scratch {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.numbers[..self.count]
    }
}

impl DerefMut for Scratch {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.numbers[..self.count]
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A thread that ends has nowhere to keep it.
        let _ = FREE.try_with(|free| free.borrow_mut().push(std::mem::take(&mut self.numbers)));
    }
}

//! Memory for a moment. What a thread lets go of it takes again, as fresh pages cost more than much of what is done in them.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};
use std::sync::Mutex;

thread_local! {
    /// What this thread has let go of.
    static FREE: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) };
}

/// Large pieces that some thread has let go of: few threads need one at a time, and any may be one of those.
static LARGE: Mutex<Vec<Vec<f32>>> = Mutex::new(Vec::new());

/// Numbers of a large piece: a mebibyte and more.
const LARGE_COUNT: usize = 1 << 18;

/// Calls with the free pieces of a size.
fn with_free<T>(count: usize, call: impl FnOnce(&mut Vec<Vec<f32>>) -> T) -> Option<T> {
    if count < LARGE_COUNT {
        // A thread that ends has nowhere to keep its own.
        return FREE.try_with(|free| call(&mut free.borrow_mut())).ok();
    }
    LARGE.lock().ok().map(|mut free| call(&mut free))
}

/// Numbers that are anything until they are written.
pub(crate) struct Scratch {
    numbers: Vec<f32>,
    count: usize,
}

impl Scratch {
    /// Returns so many numbers: the smallest piece that is large enough, or the largest one, made larger.
    pub(crate) fn of(count: usize) -> Self {
        let taken = with_free(count, |free| {
            let key = |numbers: &Vec<f32>| {
                let size = numbers.len();
                (size < count, size.abs_diff(count))
            };
            let best = free.iter().enumerate().min_by_key(|(_, numbers)| key(numbers));
            best.map(|(at, _)| at).map(|at| free.swap_remove(at))
        });
        let mut numbers = taken.flatten().unwrap_or_default();
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
        let numbers = std::mem::take(&mut self.numbers);
        let _ = with_free(numbers.len(), |free| free.push(numbers));
    }
}

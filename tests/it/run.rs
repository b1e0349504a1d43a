//! Recipes run by the program itself: what runs, what is told, and what is kept.

mod answer;
mod commands;
mod damage;
mod disk;
mod events;
mod failures;
mod faults;
mod gc;
mod inputs;
mod late;
mod own_stages;
mod reuse;
mod space;
mod stops;
#[cfg(feature = "torch")]
mod training;
mod workers;

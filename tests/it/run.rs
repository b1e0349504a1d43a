//! Recipes run by the program itself: what runs, what is told, and what is kept.

mod commands;
mod damage;
mod diff;
mod disk;
mod events;
mod failures;
mod gc;
mod golden;
mod inputs;
mod late;
mod lock;
mod origin;
mod own_stages;
mod reuse;
mod space;
mod stops;
#[cfg(feature = "torch")]
mod training;
mod why;
mod workers;

//! Recipes run by the program itself: what runs, what is told, and what is kept.

mod answer;
mod bad_stages;
mod commands;
mod damage;
mod disk;
mod events;
mod failures;
mod faults;
mod gc;
mod inputs;
mod kills;
mod late;
mod own_stages;
mod retries;
mod reuse;
mod several;
mod signals;
mod space;
mod stops;
mod trace;
#[cfg(feature = "torch")]
mod training;
mod workers;

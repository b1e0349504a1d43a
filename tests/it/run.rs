//! Recipes run by the program itself: what runs, what is told, and what is kept.

mod answer;
mod archives;
mod bad_stages;
mod commands;
mod corpora;
mod cost;
mod damage;
mod datasets;
mod diff;
mod disk;
mod elsewhere;
mod events;
mod failures;
mod faults;
mod gc;
mod golden;
mod inputs;
mod kills;
mod late;
mod lock;
mod origin;
mod own_stages;
mod pruned;
mod remote;
mod retries;
mod reuse;
mod several;
mod shown;
mod signals;
mod space;
mod stops;
mod trace;
#[cfg(feature = "torch")]
mod training;
mod why;
mod workers;

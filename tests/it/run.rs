//! Recipes run by the program itself: what runs, what is told, and what is kept.

mod commands;
mod events;
mod reuse;
mod space;

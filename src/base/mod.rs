//! Level 0: what every other module may use. Digests, canonical values, spans, units, the world.

pub mod canon;
mod decode;
pub mod digest;
pub mod hash;
pub mod pieces;
pub mod processes;
pub mod source;
pub mod text;
pub mod units;
pub mod world;

pub use canon::{Encoder, Value};
pub use digest::Digest;
pub use hash::{FastHasher, FastMap};
pub use pieces::Pieces;
pub use source::{FileId, SourceMap, Span};
pub use world::World;

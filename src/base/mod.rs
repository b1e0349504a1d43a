//! Level 0: what every other module may use. Digests, canonical values, spans, units, the world.

pub mod atom;
pub mod canon;
mod chunks;
mod decode;
pub mod digest;
pub mod hash;
pub mod pieces;
pub mod processes;
pub mod source;
pub mod text;
pub mod units;
pub mod world;

pub use atom::Atom;
pub use canon::{Encoder, Value};
pub use chunks::in_chunks;
pub use digest::{Digest, telling_digits};
pub use hash::{FastHasher, FastMap, FastSet};
pub use pieces::Pieces;
pub use source::{FileId, SourceMap, Span};
pub use world::World;

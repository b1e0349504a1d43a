//! Level 5: the artifact formats on disk. Readers map files and check them; writers stream.
//!
//! All integers are little endian. A reader's error names the file and the place in it. `tokenizer/` is the only
//! place that names the `tokenizers` crate, `mapped.rs` the only one with unsafe code.

pub mod array;
pub mod choice;
pub mod corpus;
pub mod dataset;
pub mod error;
pub mod gguf;
pub mod gguf_write;
pub mod hub;
pub mod last_word;
pub mod losses;
pub mod mapped;
pub mod mix;
pub mod npy;
pub mod order;
pub(crate) mod pickle;
pub mod request;
pub mod rouge;
pub(crate) mod safetensors;
pub mod snapshots;
pub mod statistics;
pub mod task;
pub mod tensor_file;
pub mod tokenizer;
pub(crate) mod torch_file;
pub mod train_log;
pub mod wheel;

pub use corpus::{Corpus, CorpusWriter};
pub use dataset::{Dataset, DatasetWriter};
pub use error::DataError;
pub use gguf::Gguf;
pub use losses::{Losses, LossesWriter};
pub use statistics::Statistics;
pub use tensor_file::TensorFile;
pub use tokenizer::Tokenizer;

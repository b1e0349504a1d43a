//! The one integration test binary.

#[cfg(feature = "torch")]
mod torch;

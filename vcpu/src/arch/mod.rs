//! Everything that knows the machine's registers; the only place in this crate that may use `unsafe`.

pub mod aarch64;
#[cfg(not(loom))]
mod relax;

#[cfg(not(loom))]
pub use relax::relax;

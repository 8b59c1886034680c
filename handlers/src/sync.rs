//! The atomics that loom models: under `cfg(loom)` its own, else those of `core`.

#[cfg(not(loom))]
pub(crate) use core::sync::atomic;
#[cfg(loom)]
pub(crate) use loom::sync::atomic;

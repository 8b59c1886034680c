//! The runner's side: set-up, cross build, QEMU, and what comes out of it. The `trapline` command and the tests share it.
//!
//! ```text
//!  setup (QEMU, toolchain, guest) -> cross (images) -> layout (what goes where) -> machine (QEMU's arguments) -> session
//! ```

pub mod cross;
pub mod failure;
pub mod flatten;
pub mod places;
pub mod setup;

pub use failure::Failure;

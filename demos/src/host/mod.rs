//! The runner's side: set-up, cross build, QEMU, and what comes out of it. The `trapline` command and the tests share it.
//!
//! ```text
//!  setup (QEMU, toolchain, guest) -> cross (images) -> layout (what goes where) -> machine (QEMU's arguments) -> session
//! ```

pub mod config_file;
pub mod consoles;
pub mod control_socket;
pub mod cross;
pub mod device_tree;
pub mod failure;
pub mod flatten;
pub mod input;
pub mod keys;
pub mod launch;
pub mod layout;
pub mod machine;
pub mod memory;
pub mod output_file;
pub mod places;
pub mod prompt;
pub mod report;
pub mod request;
pub mod session;
pub mod setup;
pub mod sim;
pub mod symbolise;
pub mod table;
pub mod terminal;
mod toml_text;
pub mod virtio;

pub use failure::Failure;

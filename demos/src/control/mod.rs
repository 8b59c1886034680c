//! What a machine's user can tell it while it runs, and how it answers: typed, and as text.
//!
//! ```text
//!  prompt, socket --> "17 set weight web 2048" --> Command::parse --> the hypervisor's Manager
//!                                                                          |
//!  user <-- Reply::add <-- "17 row ...", "17 ok" <-- Part's Display <------'
//! ```
//! The number says which question an answer belongs to: several users ask at once, and some answers take their time. The runner
//! and the hypervisor both have this module, so what one writes the other reads.

mod command;
mod reply;

pub use command::{BadCommand, Command, HELP, Life, Listing, PolicyChoice, Setting, Who};
pub use reply::{Part, Reply, number_and_text};

/// The longest question, its number included, in bytes.
pub const LONGEST: usize = 256;

/// Of no question: an answer with it says that the hypervisor listens from now on.
pub const LISTENING: u32 = 0;

//! What this machine must have, and how it gets it: QEMU, a compiler for the images, a guest.
//!
//! Each part looks first and does nothing when all is there. What it does is shown on stderr. Only one process at a time
//! sets things up.

pub mod command;
pub mod debian;
pub mod guest;
mod modules;
pub mod progress;
pub mod qemu;
pub mod toolchain;
pub mod u_boot;

use std::fs::{self, File};

use super::{
    failure::{Result, at},
    places,
};

/// Held while something is set up or built, so that runs that start together do it once. The lock ends with the value.
#[derive(Debug)]
pub struct SetupLock {
    _file: File,
}

impl SetupLock {
    /// Waits until nobody else sets up this workspace.
    pub fn take() -> Result<Self> {
        let cache = places::cache();
        fs::create_dir_all(&cache).map_err(at(cache.display()))?;
        let path = cache.join("lock");
        let file = File::create(&path).map_err(at(path.display()))?;
        file.lock().map_err(at(path.display()))?;
        Ok(Self { _file: file })
    }
}

//! Debian's U-Boot for QEMU's `virt`, as a guest that is no Linux.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{SetupLock, debian::Apt, guest::replace, progress::Step};
use crate::host::{Failure, failure::Result, places};

const PACKAGE: &str = "u-boot-qemu";
const BINARY: &str = "usr/lib/u-boot/qemu_arm64/u-boot.bin";

/// Finds U-Boot in the cache, or fetches it; where it lies.
pub fn set_up() -> Result<PathBuf> {
    let directory = places::cache().join("guest");
    let binary = directory.join("u-boot.bin");
    let _lock = SetupLock::take()?;
    if !binary.exists() {
        fetch(&directory, &binary).map_err(|why| {
            Failure::input(
                format!("Debian's U-Boot cannot be fetched ({why})"),
                "this machine",
                "connect it to a Debian mirror",
            )
        })?;
    }
    Ok(binary)
}

fn fetch(directory: &Path, binary: &Path) -> std::result::Result<(), String> {
    let _step = Step::start("Fetching Debian's U-Boot for arm64");
    let apt = Apt::for_guest()?;
    apt.update()?;
    let root = directory.join("u-boot");
    apt.unpack(&[PACKAGE], &root)?;
    fs::read(root.join(BINARY))
        .and_then(|bytes| replace(binary, &bytes))
        .map_err(|error| format!("{}: {error}", binary.display()))?;
    fs::remove_dir_all(&root).map_err(|error| format!("{}: {error}", root.display()))
}

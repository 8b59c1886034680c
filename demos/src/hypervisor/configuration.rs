//! What the runner wants, read and checked: what the rest of this module is given can be carried out, or the machine says why
//! not.

use alloc::format;
use core::ops::Range;

use trapline_demos::config::{self, BootConfig, whole_pages};
use trapline_platform::{BootInfo, mmu::Access, ram::Ram};

use super::Refusal;

/// The configuration that the bootargs name.
pub(super) fn read(boot: &BootInfo) -> Result<BootConfig, Refusal> {
    let place = config::locate(boot.machine.bootargs).ok_or_else(|| {
        Refusal(format!(
            "the bootargs lack {}=ADDRESS,LENGTH",
            config::BOOTARGS_KEY
        ))
    })?;
    let blob = whole_pages(place.address, place.length);
    let is_free = |range: &Range<u64>| boot.is_free(range);
    if !is_free(&blob) {
        return Err(Refusal(format!(
            "the configuration at {:#x} is not in free RAM",
            place.address
        )));
    }
    let ram = Ram::map(blob.clone(), Access::ReadOnly)
        .map_err(|error| Refusal(format!("configuration: {error:?}")))?;
    let mut bytes = alloc::vec![0; place.length as usize];
    ram.read(place.address - blob.start, &mut bytes)
        .map_err(|error| Refusal(format!("configuration: {error:?}")))?;
    let config =
        BootConfig::decode(&bytes).map_err(|error| Refusal(format!("configuration: {error:?}")))?;
    let machine = config::Machine {
        pcpu_count: boot.pcpu_count(),
        blob,
        is_free: &is_free,
    };
    config.check(&machine).map_err(Refusal)?;
    Ok(config)
}

//! A guest's memory, as handlers reach it.

use core::ops::Range;

/// The RAM of one VM, addressed as its guest does. Any pCPU may call it at any time; no address makes it panic.
pub trait GuestMemory: Send + Sync {
    /// Where the RAM is, by intermediate physical address: ascending, apart from each other, fixed while the VM lives.
    fn ranges(&self) -> &[Range<u64>];

    /// Copies from `address` on into all of `bytes`, or refuses if any of it is not RAM.
    fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), NotRam>;

    /// Copies all of `bytes` to `address` on, or refuses if any of it is not RAM.
    fn write(&self, address: u64, bytes: &[u8]) -> Result<(), NotRam>;

    /// Writes what caches hold of this RAM back to memory and drops it from them, on all pCPUs. [DDI0487: DC CIVAC]
    fn clean_and_invalidate(&self, range: Range<u64>);

    /// All `length` bytes from `address` on are RAM.
    fn contains(&self, address: u64, length: u64) -> bool {
        let holds = |range: &Range<u64>| {
            range.start <= address && address < range.end && length <= range.end - address
        };
        self.ranges().iter().any(holds)
    }
}

/// Part of what was to be read or written is not RAM of the guest.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct NotRam;

impl core::fmt::Display for NotRam {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("the address range is not guest RAM")
    }
}

impl core::error::Error for NotRam {}

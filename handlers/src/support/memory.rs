//! RAM for host tests.

use alloc::{vec, vec::Vec};
use core::ops::Range;
use std::sync::Mutex;

use crate::memory::{GuestMemory, NotRam};

/// RAM of 1 MiB and a bit at 1 GiB, and of a page further up.
pub(crate) struct FakeMemory {
    ranges: Vec<Range<u64>>,
    cleaned: Mutex<Vec<Range<u64>>>,
}

impl Default for FakeMemory {
    fn default() -> Self {
        let ranges = vec![0x4000_0000..0x4010_0100, 0x1_0000_0000..0x1_0000_1000];
        Self {
            ranges,
            cleaned: Mutex::default(),
        }
    }
}

impl FakeMemory {
    /// What was cleaned and invalidated so far.
    pub(crate) fn cleaned(&self) -> Vec<Range<u64>> {
        self.cleaned.lock().unwrap().clone()
    }
}

impl GuestMemory for FakeMemory {
    fn ranges(&self) -> &[Range<u64>] {
        &self.ranges
    }

    fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), NotRam> {
        // Each byte of it is the low byte of its address.
        for (offset, byte) in bytes.iter_mut().enumerate() {
            *byte = (address as usize).wrapping_add(offset) as u8;
        }
        if self.contains(address, bytes.len() as u64) {
            Ok(())
        } else {
            Err(NotRam)
        }
    }

    fn write(&self, address: u64, bytes: &[u8]) -> Result<(), NotRam> {
        if self.contains(address, bytes.len() as u64) {
            Ok(())
        } else {
            Err(NotRam)
        }
    }

    fn clean_and_invalidate(&self, range: Range<u64>) {
        self.cleaned.lock().unwrap().push(range);
    }
}

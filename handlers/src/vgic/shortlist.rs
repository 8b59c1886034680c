//! The most urgent of more interrupts than there are list registers.

use super::{PRIORITY_MASK, cpu::MAX_LIST_REGISTERS};

/// What [`urgency`] makes of an interrupt.
pub(super) type Key = u32;

/// The smallest keys that were offered, in ascending order.
pub(super) struct Shortlist {
    keys: [Key; MAX_LIST_REGISTERS],
    pub(super) len: usize,
    limit: usize,
    /// Some key did not fit.
    pub(super) overflows: bool,
}

impl Shortlist {
    pub(super) const fn new(limit: usize) -> Self {
        let limit = if limit < MAX_LIST_REGISTERS {
            limit
        } else {
            MAX_LIST_REGISTERS
        };
        Self {
            keys: [0; MAX_LIST_REGISTERS],
            len: 0,
            limit,
            overflows: false,
        }
    }

    pub(super) fn offer(&mut self, key: Key) {
        if self.len < self.limit {
            self.len += 1;
        } else {
            self.overflows = true;
            if self.keys().last().is_none_or(|&last| last < key) {
                return;
            }
        }
        let mut at = self.len - 1;
        while at > 0 && self.keys[at - 1] > key {
            self.keys[at] = self.keys[at - 1];
            at -= 1;
        }
        self.keys[at] = key;
    }

    pub(super) fn shorten(&mut self, limit: usize) {
        if self.len > limit {
            self.len = limit;
            self.overflows = true;
        }
    }

    pub(super) fn keys(&self) -> &[Key] {
        self.keys.get(..self.len).unwrap_or_default()
    }
}

/// Orders by what the guest would be given, or would end, first: its group is taken, its priority, its INTID.
pub(super) fn urgency(priority: u8, intid: u32, is_group_taken: bool) -> Key {
    let priority = Key::from(priority >> PRIORITY_MASK.trailing_zeros());
    Key::from(!is_group_taken) << (Key::BITS - 1) | priority << INTID_BITS | intid
}

/// The INTID of a key.
pub(super) fn intid_of_key(key: Key) -> u32 {
    key & ((1 << INTID_BITS) - 1)
}

/// All INTIDs have so few bits, LPIs included. [GICD_TYPER.IDbits]
const INTID_BITS: u32 = 16;
const _: () = assert!(INTID_BITS + PRIORITY_MASK.count_ones() < Key::BITS);

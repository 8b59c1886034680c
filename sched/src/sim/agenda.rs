//! When each pCPU has something to do next, and who is first: a tournament of their times.
//!
//! ```text
//!            first                  a node holds the winner of its two sides; a changed time is played up to the root
//!         .----'----.
//!      p0 or p1   p2 or p3          of equal times chance decides, if there is any, else the lower number
//! ```
//! One thread uses it. The words are atomics only because a [`crate::Host`] is shared.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU16, AtomicU64, Ordering::Relaxed};

/// No time.
pub(super) const NEVER: u64 = u64::MAX;
/// Times are below 2^56, which is two years of nanoseconds.
const TIE_BITS: u32 = 8;

pub(super) struct Agenda {
    /// By number: the time in bits 63:8 and what decides among equal ones in bits 7:0; or `NEVER`.
    keys: Vec<AtomicU64>,
    /// By node, the root is 1: the number of the first below it.
    winners: Vec<AtomicU16>,
}

impl Agenda {
    /// For numbers below `count`, which have nothing to do yet.
    pub(super) fn new(count: usize) -> Self {
        let leaves = count.next_power_of_two().max(2);
        let agenda = Self {
            keys: (0..leaves).map(|_| AtomicU64::new(NEVER)).collect(),
            winners: (0..leaves).map(|_| AtomicU16::new(0)).collect(),
        };
        for node in (1..leaves).rev() {
            let first = agenda.winner(2 * node);
            agenda.winners[node].store(first, Relaxed);
        }
        agenda
    }

    /// Who is first, and when.
    pub(super) fn first(&self) -> (u64, usize) {
        let first = usize::from(self.winner(1));
        (self.time(first), first)
    }

    /// When `number` has something to do.
    pub(super) fn time(&self, number: usize) -> u64 {
        match self.keys[number].load(Relaxed) {
            NEVER => NEVER,
            key => key >> TIE_BITS,
        }
    }

    /// `number` has something to do at `time`; `tie` decides among equal ones.
    pub(super) fn set(&self, number: usize, time: u64, tie: u8) {
        let key = match time {
            NEVER => NEVER,
            _ => time << TIE_BITS | u64::from(tie),
        };
        if self.keys[number].load(Relaxed) == key {
            return;
        }
        self.keys[number].store(key, Relaxed);
        let mut node = (self.keys.len() + number) / 2;
        while node > 0 {
            let [left, right] = [2 * node, 2 * node + 1].map(|side| self.winner(side));
            let key = |number: u16| self.keys[usize::from(number)].load(Relaxed);
            let first = if key(right) < key(left) { right } else { left };
            let before = self.winners[node].load(Relaxed);
            if first == before && usize::from(first) != number {
                return;
            }
            self.winners[node].store(first, Relaxed);
            node /= 2;
        }
    }

    /// `number` has something to do at `time`, if not before.
    pub(super) fn lower(&self, number: usize, time: u64, tie: u8) {
        if time < self.time(number) {
            self.set(number, time, tie);
        }
    }

    fn winner(&self, node: usize) -> u16 {
        match node.checked_sub(self.keys.len()) {
            Some(number) => number as u16,
            None => self.winners[node].load(Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_what_a_slow_and_obvious_model_says() {
        for count in [1, 2, 3, 5, 64, 100] {
            let agenda = Agenda::new(count);
            let mut model = alloc::vec![(NEVER, 0); count];
            let mut x = 1_u64;
            for _ in 0..3000 {
                x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let (number, tie) = ((x >> 33) as usize % count, (x >> 20) as u8 & 1);
                let time = match x >> 60 {
                    0..4 => NEVER,
                    _ => x >> 40 & 15,
                };
                if x >> 50 & 1 == 0 {
                    agenda.set(number, time, tie);
                    model[number] = (time, tie);
                } else {
                    agenda.lower(number, time, tie);
                    if time < model[number].0 {
                        model[number] = (time, tie);
                    }
                }
                let (time, first) = agenda.first();
                let keyed = |index: usize| match model[index] {
                    (NEVER, _) => (NEVER, 0),
                    other => other,
                };
                let expected = (0..count).min_by_key(|&index| (keyed(index), index));
                assert_eq!((time, Some(first)), (model[first].0, expected));
            }
        }
    }
}

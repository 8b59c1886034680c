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

/// Who is first of all below it; a leaf is one number's own.
struct Node {
    /// The time in bits 63:8 and what decides among equal ones in bits 7:0; or `NEVER`.
    key: AtomicU64,
    number: AtomicU16,
}

pub(super) struct Agenda {
    /// The root is 1, below node n are 2n and 2n + 1, and the leaves are the second half.
    nodes: Vec<Node>,
}

impl Node {
    fn key(&self) -> u64 {
        self.key.load(Relaxed)
    }

    fn number(&self) -> u16 {
        self.number.load(Relaxed)
    }
}

impl Agenda {
    /// For numbers below `count`, which have nothing to do yet.
    pub(super) fn new(count: usize) -> Self {
        let leaves = count.next_power_of_two().max(2);
        let node = |mut node: usize| {
            // The first number below it.
            while (1..leaves).contains(&node) {
                node *= 2;
            }
            Node {
                key: AtomicU64::new(NEVER),
                number: AtomicU16::new(node.saturating_sub(leaves) as u16),
            }
        };
        Self {
            nodes: (0..2 * leaves).map(node).collect(),
        }
    }

    /// Who is first, and when.
    pub(super) fn first(&self) -> (u64, usize) {
        let root = &self.nodes[1];
        (time(root.key()), root.number().into())
    }

    /// When `number` has something to do.
    pub(super) fn time(&self, number: usize) -> u64 {
        time(self.nodes[self.leaf(number)].key())
    }

    /// `number` has something to do at `time`; `tie` decides among equal ones.
    pub(super) fn set(&self, number: usize, time: u64, tie: u8) {
        let mut key = match time {
            NEVER => NEVER,
            _ => time << TIE_BITS | u64::from(tie),
        };
        let (mut index, mut number) = (self.leaf(number), number as u16);
        while index > 0 {
            let node = &self.nodes[index];
            if node.key() == key && node.number() == number {
                return;
            }
            node.key.store(key, Relaxed);
            node.number.store(number, Relaxed);
            // The root has none; what is there is never first.
            let other = &self.nodes[index ^ 1];
            let (other_key, other_number) = (other.key(), other.number());
            // Nobody can foretell who wins: without a branch.
            let is_beaten = (other_key < key) | ((other_key == key) & (index % 2 == 1));
            number = if is_beaten { other_number } else { number };
            key = key.min(other_key);
            index /= 2;
        }
    }

    /// `number` has something to do at `time`, if not before.
    pub(super) fn lower(&self, number: usize, time: u64, tie: u8) {
        if time < self.time(number) {
            self.set(number, time, tie);
        }
    }

    fn leaf(&self, number: usize) -> usize {
        self.nodes.len() / 2 + number
    }
}

fn time(key: u64) -> u64 {
    match key {
        NEVER => NEVER,
        key => key >> TIE_BITS,
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

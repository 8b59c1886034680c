//! Who comes first of those that are ready on one pCPU, however many there are, and who does of those that are within a limit.
//!
//! ```text
//!               6 (4)            by value from left to right; in brackets each one's bound
//!            .----'----.
//!         3 (5)      8 (1)       each also knows whose bound is the least below it: here 8, and there 3 and 8
//!                                first_within(2): nobody left of 6 is within, nor is 6, so it is 8
//! ```
//! A tree that is balanced by height: with n there, nothing takes more than 1.44 * log2(n + 2) steps, and nothing allocates. The
//! few that came last are looked at one by one instead: most pCPUs have no more, and of many most are not there for long.
//! [Adelson-Velsky, Landis: An algorithm for the organization of information, 1962; Cormen et al.: Introduction to
//! Algorithms, augmenting data structures] Values may wrap around: only differences count. Should they be so far apart that
//! this orders them in a circle, whoever comes first is odd, and nobody is lost.

use super::fronts::ahead;
use alloc::vec::Vec;

const NOBODY: u16 = u16::MAX;
/// So many that came last are not in the tree yet.
const FEW: usize = 4;
/// The side of those before, and the one of those after.
const LEFT: usize = 0;
const RIGHT: usize = 1;

/// What one is ranked by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rank {
    /// Whose is less comes first.
    pub(super) value: u64,
    /// Who came first comes first among equals.
    pub(super) place: u64,
    /// It is within all limits that are no less.
    pub(super) bound: u64,
}

#[derive(Clone, Copy)]
struct Node {
    rank: Rank,
    parent: u16,
    /// The first of those before and of those after, as far as they are below it.
    sides: [u16; 2],
    /// Who has the least bound of it and those below it.
    least: u16,
    height: u8,
}

/// An ordered set of slots of a [`super::roster::Roster`].
pub(super) struct Ranking {
    /// By slot.
    nodes: Vec<Node>,
    root: u16,
    first: u16,
    /// Those that are not in the tree yet, in the order in which they came, and nobody after them.
    recent: [u16; FEW],
}

impl Ranking {
    /// Nobody yet; there is room for slots below `capacity`.
    pub(super) fn with_capacity(capacity: usize) -> Self {
        Self {
            nodes: Vec::with_capacity(capacity),
            root: NOBODY,
            first: NOBODY,
            recent: [NOBODY; FEW],
        }
    }

    /// Who comes first.
    pub(super) fn first(&self) -> Option<usize> {
        some(self.first)
    }

    /// Whose bound is the least; of several, who came first.
    pub(super) fn least(&self) -> Option<usize> {
        let root = self.nodes.get(usize::from(self.root));
        let in_tree = root.map(|root| usize::from(root.least));
        self.earliest(self.recent().chain(in_tree), Rank::is_less_bound)
    }

    /// Who comes first of those that are within `limit`.
    pub(super) fn first_within(&self, limit: u64) -> Option<usize> {
        let recent = self.recent();
        let recent = recent.filter(|&slot| self.nodes[slot].rank.is_within(limit));
        let in_tree = self.first_in_tree_within(limit);
        self.earliest(recent.chain(in_tree), Rank::precedes)
    }

    /// Those that are there, the first one first.
    pub(super) fn iter(&self) -> impl Iterator<Item = usize> {
        let mut in_tree = some(self.outermost(self.root, LEFT));
        let mut is_told = [false; FEW];
        core::iter::from_fn(move || {
            let recent = self.recent().zip(is_told);
            let untold = recent.filter_map(|(slot, is_told)| (!is_told).then_some(slot));
            let next = self.earliest(untold.chain(in_tree), Rank::precedes)?;
            match self.recent().position(|recent| recent == next) {
                Some(index) => is_told[index] = true,
                None => in_tree = some(self.after(next as u16)),
            }
            Some(next)
        })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.first == NOBODY
    }

    /// `slot`, which is not there, comes in with `rank`.
    pub(super) fn insert(&mut self, slot: usize, rank: Rank) {
        let node = Node {
            rank,
            parent: NOBODY,
            sides: [NOBODY; 2],
            least: slot as u16,
            height: 1,
        };
        match self.nodes.get_mut(slot) {
            Some(place) => *place = node,
            None => self.nodes.resize(slot + 1, node),
        }
        if self.is_empty() || rank.precedes(&self.node(self.first).rank) {
            self.first = slot as u16;
        }
        let oldest = self.recent[0];
        let free = self.recent.iter().position(|&recent| recent == NOBODY);
        let last = free.unwrap_or_else(|| self.forget_recent(0));
        self.recent[last] = slot as u16;
        if free.is_none() {
            self.insert_into_tree(oldest);
        }
    }

    /// `slot`, which is there, goes.
    pub(super) fn remove(&mut self, slot: usize) {
        let gone = slot as u16;
        match self.recent.iter().position(|&recent| recent == gone) {
            Some(index) => drop(self.forget_recent(index)),
            None => self.remove_from_tree(gone),
        }
        if gone == self.first {
            let in_tree = some(self.outermost(self.root, LEFT));
            let first = self.earliest(self.recent().chain(in_tree), Rank::precedes);
            self.first = first.map_or(NOBODY, |first| first as u16);
        }
    }

    /// Those after `index` move up; the result is where the last one was.
    fn forget_recent(&mut self, index: usize) -> usize {
        // A few words: not worth a call.
        for next in index + 1..FEW {
            self.recent[next - 1] = self.recent[next];
        }
        self.recent[FEW - 1] = NOBODY;
        FEW - 1
    }

    fn recent(&self) -> impl Iterator<Item = usize> {
        self.recent.iter().map_while(|&slot| some(slot))
    }

    fn earliest(
        &self,
        slots: impl Iterator<Item = usize>,
        is_before: impl Fn(&Rank, &Rank) -> bool,
    ) -> Option<usize> {
        let rank = |slot: usize| &self.nodes[slot].rank;
        slots.reduce(|first, next| match is_before(rank(next), rank(first)) {
            true => next,
            false => first,
        })
    }

    fn first_in_tree_within(&self, limit: u64) -> Option<usize> {
        let is_within = |slot: u16| self.node(slot).rank.is_within(limit);
        let has_any = |slot: u16| slot != NOBODY && is_within(self.node(slot).least);
        let mut slot = self.root;
        while has_any(slot) {
            let [left, right] = self.node(slot).sides;
            slot = match has_any(left) {
                true => left,
                false if is_within(slot) => return some(slot),
                false => right,
            };
        }
        None
    }

    /// Who comes next after `slot` in the tree.
    fn after(&self, slot: u16) -> u16 {
        let right = self.node(slot).sides[RIGHT];
        if right != NOBODY {
            return self.outermost(right, LEFT);
        }
        let (mut below, mut slot) = (slot, self.node(slot).parent);
        while slot != NOBODY && self.node(slot).sides[RIGHT] == below {
            (below, slot) = (slot, self.node(slot).parent);
        }
        slot
    }

    fn insert_into_tree(&mut self, new: u16) {
        let (mut parent, mut side, mut below) = (NOBODY, LEFT, self.root);
        while below != NOBODY {
            let is_before = self.node(below).rank.precedes(&self.node(new).rank);
            (parent, side) = (below, if is_before { RIGHT } else { LEFT });
            below = self.node(parent).sides[side];
        }
        match parent {
            NOBODY => self.root = new,
            _ => self.link(parent, side, new),
        }
        self.settle(parent);
    }

    fn remove_from_tree(&mut self, gone: u16) {
        let Node { parent, sides, .. } = *self.node(gone);
        if let [only, NOBODY] | [NOBODY, only] = sides {
            self.replace(gone, only);
            return self.settle(parent);
        }
        // Whoever comes next takes its place, and leaves its own to those after it.
        let heir = self.outermost(sides[RIGHT], LEFT);
        let parent = self.node(heir).parent;
        self.replace(heir, self.node(heir).sides[RIGHT]);
        let Node {
            sides: [left, right],
            least,
            height,
            ..
        } = *self.node(gone);
        self.replace(gone, heir);
        self.link(heir, LEFT, left);
        self.link(heir, RIGHT, right);
        // As those above it know it.
        (self.node_mut(heir).least, self.node_mut(heir).height) = (least, height);
        if parent != gone {
            self.settle(parent);
        }
        self.settle(heir);
    }

    fn node(&self, slot: u16) -> &Node {
        &self.nodes[usize::from(slot)]
    }

    fn node_mut(&mut self, slot: u16) -> &mut Node {
        &mut self.nodes[usize::from(slot)]
    }

    /// The last one on that side of all that are at `slot` or below it.
    fn outermost(&self, mut slot: u16, side: usize) -> u16 {
        while let Some(node) = self.nodes.get(usize::from(slot))
            && node.sides[side] != NOBODY
        {
            slot = node.sides[side];
        }
        slot
    }

    fn link(&mut self, parent: u16, side: usize, below: u16) {
        self.node_mut(parent).sides[side] = below;
        if below != NOBODY {
            self.node_mut(below).parent = parent;
        }
    }

    /// `new`, or nobody, is where `old` was.
    fn replace(&mut self, old: u16, new: u16) {
        let parent = self.node(old).parent;
        match parent {
            NOBODY => self.root = new,
            _ => {
                let side = self.side_of(old, parent);
                self.node_mut(parent).sides[side] = new;
            }
        }
        if new != NOBODY {
            self.node_mut(new).parent = parent;
        }
    }

    fn side_of(&self, slot: u16, parent: u16) -> usize {
        usize::from(self.node(parent).sides[RIGHT] == slot)
    }

    /// What is below `slot` has changed: from there up all are in balance again and know who is below them, as far as that
    /// has changed.
    fn settle(&mut self, mut slot: u16) {
        while slot != NOBODY {
            let (heights @ [left, right], least) = self.survey(slot);
            let height = 1 + left.max(right);
            let node = self.node_mut(slot);
            if left.abs_diff(right) > 1 {
                let before = (node.least, node.height);
                slot = self.balance(slot, heights);
                let top = self.node(slot);
                if (top.least, top.height) == before {
                    return;
                }
            } else if node.height == height
                && (node.least == least || cfg!(mutant = "ranking_stops_early"))
            {
                return;
            } else {
                (node.least, node.height) = (least, height);
            }
            slot = self.node(slot).parent;
        }
    }

    /// The heights of both sides of `slot`, and who has the least bound of it and those below it.
    fn survey(&self, slot: u16) -> ([u8; 2], u16) {
        let node = self.node(slot);
        let (mut heights, mut least, mut bound) = ([0; 2], slot, &node.rank);
        for (height, side) in heights.iter_mut().zip(node.sides) {
            if let Some(below) = self.nodes.get(usize::from(side)) {
                *height = below.height;
                let rank = &self.node(below.least).rank;
                if rank.is_less_bound(bound) {
                    (least, bound) = (below.least, rank);
                }
            }
        }
        (heights, least)
    }

    /// One side of `slot` is too high, as `heights` say; the result is who is in its place then.
    fn balance(&mut self, slot: u16, heights: [u8; 2]) -> u16 {
        let tall = if heights[LEFT] > heights[RIGHT] {
            LEFT
        } else {
            RIGHT
        };
        let mut top = self.node(slot).sides[tall];
        let (heights, _) = self.survey(top);
        if heights[1 - tall] > heights[tall] {
            top = self.node(top).sides[1 - tall];
            self.raise(top);
        }
        self.raise(top);
        top
    }

    /// `slot` changes places with its parent.
    fn raise(&mut self, slot: u16) {
        let parent = self.node(slot).parent;
        let side = self.side_of(slot, parent);
        let between = self.node(slot).sides[1 - side];
        self.replace(parent, slot);
        self.link(parent, side, between);
        self.link(slot, 1 - side, parent);
        self.refresh(parent);
        self.refresh(slot);
    }

    /// `slot` knows who is below it.
    fn refresh(&mut self, slot: u16) {
        let ([left, right], least) = self.survey(slot);
        let node = self.node_mut(slot);
        (node.least, node.height) = (least, 1 + left.max(right));
    }
}

impl Rank {
    fn is_within(&self, limit: u64) -> bool {
        ahead(self.bound, limit) <= 0
    }

    fn precedes(&self, other: &Self) -> bool {
        match ahead(self.value, other.value) {
            0 => self.place < other.place,
            lead => lead < 0,
        }
    }

    fn is_less_bound(&self, other: &Self) -> bool {
        match ahead(self.bound, other.bound) {
            0 => self.place < other.place,
            lead => lead < 0,
        }
    }
}

fn some(slot: u16) -> Option<usize> {
    (slot != NOBODY).then_some(usize::from(slot))
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SLOTS: usize = 40;

    /// The height of what is below `slot`, which is in balance and linked both ways.
    fn check(ranking: &Ranking, slot: u16) -> u8 {
        if slot == NOBODY {
            return 0;
        }
        let node = ranking.node(slot);
        for below in node.sides.into_iter().filter(|&below| below != NOBODY) {
            assert_eq!(ranking.node(below).parent, slot);
        }
        let [left, right] = node.sides.map(|below| check(ranking, below));
        assert!(left.abs_diff(right) <= 1, "{left} and {right}");
        assert_eq!(node.height, 1 + left.max(right));
        node.height
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_ranking_is_what_a_sorted_list_says(
            changes in prop::collection::vec((0..SLOTS, 0..20_u64, 0..9_u64), 1..300),
            start in any::<u64>(),
        ) {
            let mut ranking = Ranking::with_capacity(SLOTS);
            // Value, place, bound and slot, the first one first.
            let mut list: Vec<(u64, u64, u64, usize)> = Vec::new();
            for (place, (slot, value, bound)) in changes.into_iter().enumerate() {
                let place = place as u64;
                match list.iter().position(|entry| entry.3 == slot) {
                    Some(index) => {
                        list.remove(index);
                        ranking.remove(slot);
                    }
                    None => {
                        list.push((value, place, bound, slot));
                        list.sort_unstable();
                        let [value, bound] = [value, bound].map(|x| start.wrapping_add(x));
                        ranking.insert(slot, Rank { value, place, bound });
                    }
                }
                check(&ranking, ranking.root);
                prop_assert!(ranking.iter().eq(list.iter().map(|entry| entry.3)));
                prop_assert_eq!(ranking.is_empty(), list.is_empty());
                prop_assert_eq!(ranking.first(), list.first().map(|entry| entry.3));
                let least = list.iter().min_by_key(|entry| (entry.2, entry.1));
                prop_assert_eq!(ranking.least(), least.map(|entry| entry.3));
                for limit in 0..9 {
                    let within = list.iter().find(|entry| entry.2 <= limit);
                    let found = ranking.first_within(start.wrapping_add(limit));
                    prop_assert_eq!(found, within.map(|entry| entry.3));
                }
            }
        }

        #[test]
        fn nobody_is_lost_whatever_the_values(
            changes in prop::collection::vec((0..SLOTS, any::<u64>(), any::<u64>()), 1..300),
        ) {
            let mut ranking = Ranking::with_capacity(SLOTS);
            let mut there = [false; SLOTS];
            for (slot, value, bound) in changes {
                match there[slot] {
                    true => ranking.remove(slot),
                    false => ranking.insert(slot, Rank { value, place: 0, bound }),
                }
                there[slot] = !there[slot];
                check(&ranking, ranking.root);
                let mut found: Vec<_> = ranking.iter().collect();
                found.sort_unstable();
                let expected = (0..SLOTS).filter(|&slot| there[slot]);
                prop_assert!(found.into_iter().eq(expected));
            }
        }
    }
}

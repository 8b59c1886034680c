//! A slow, obvious stage 2 beside the real one, and a TLB that notices a change without break-before-make.

extern crate std;

use alloc::{collections::BTreeMap, vec::Vec};
use core::cell::RefCell;
use core::ops::Range;

use proptest::prelude::*;

use super::tests::{HostMemory, geometry};
use super::{Attributes, PhysicalAddress, Stage2, Stage2Error, TlbMaintenance, Translation};

std::thread_local! {
    /// What was made invalid and not invalidated yet: a TLB may still hold it.
    static STALE: RefCell<Vec<Range<u64>>> = const { RefCell::new(Vec::new()) };
    /// An entry was written that walkers may not see yet.
    static IS_UNPUBLISHED: RefCell<bool> = const { RefCell::new(false) };
}

/// Checks a change of the entry for `span`, before it is made.
pub(super) fn journal_write(span: Range<u64>, old: u64, new: u64) {
    assert!(
        old & 1 == 0 || new & 1 == 0,
        "a live entry became another one: {old:#x} to {new:#x}"
    );
    STALE.with_borrow_mut(|stale| {
        if old & 1 != 0 {
            stale.push(span);
        } else if new & 1 != 0 {
            let is_cached = |range: &Range<u64>| range.start < span.end && span.start < range.end;
            assert!(
                !stale.iter().any(is_cached),
                "{span:#x?} is live again before the TLBs dropped it"
            );
            IS_UNPUBLISHED.set(true);
        }
    });
}

/// The TLBs of the machine, as far as the journal needs them.
pub(super) struct Tlb;

impl TlbMaintenance for Tlb {
    fn publish(&self) {
        IS_UNPUBLISHED.set(false);
    }

    fn invalidate(&self, range: Range<u64>) {
        IS_UNPUBLISHED.set(false);
        STALE.with_borrow_mut(|stale| {
            stale.retain(|held| held.start < range.start || range.end < held.end);
        });
    }
}

/// After each operation nothing stale is left and everything is visible.
pub(super) fn assert_tlbs_are_current() {
    assert!(STALE.with_borrow(Vec::is_empty), "stale entries are left");
    assert!(!IS_UNPUBLISHED.with_borrow(|is| *is), "unpublished entries");
}

const KIB4: u64 = 1 << 12;
const MIB2: u64 = 1 << 21;
const GIB: u64 = 1 << 30;

/// All ranges of the model start and end here: around the borders of every entry size and of the two root tables.
const BORDERS: [u64; 14] = [
    511 * GIB,
    511 * GIB + KIB4,
    511 * GIB + MIB2 - KIB4,
    511 * GIB + MIB2,
    511 * GIB + MIB2 + KIB4,
    511 * GIB + 3 * MIB2,
    512 * GIB - MIB2,
    512 * GIB - KIB4,
    512 * GIB,
    512 * GIB + KIB4,
    512 * GIB + MIB2,
    513 * GIB,
    513 * GIB + MIB2,
    514 * GIB,
];

/// What each stretch between two borders leads to, by the index of its first border.
type Model = BTreeMap<usize, (u64, Attributes)>;

#[derive(Clone, Debug)]
enum Operation {
    /// Maps with this distance between physical and intermediate address.
    Map(Range<usize>, u64, Attributes),
    Unmap(Range<usize>),
    Protect(Range<usize>, Attributes),
}

fn operations() -> impl Strategy<Value = Operation> {
    let range = || {
        (0..BORDERS.len() - 1).prop_flat_map(|start| {
            (Just(start), start + 1..BORDERS.len().min(start + 8)).prop_map(|(a, b)| a..b)
        })
    };
    let attributes = || {
        prop_oneof![
            Just(Attributes::RAM),
            Just(Attributes::ROM),
            Just(Attributes::DEVICE)
        ]
    };
    let offset = prop_oneof![Just(0), Just(GIB), Just(MIB2), Just(KIB4)];
    prop_oneof![
        3 => (range(), offset, attributes()).prop_map(|(r, o, a)| Operation::Map(r, o, a)),
        2 => range().prop_map(Operation::Unmap),
        2 => (range(), attributes()).prop_map(|(r, a)| Operation::Protect(r, a)),
    ]
}

fn apply<P: PhysicalAddress>(operation: &Operation, stage2: &mut Stage2<P>, model: &mut Model) {
    let span = |range: &Range<usize>| {
        let start = BORDERS[range.start];
        (start, BORDERS[range.end] - start)
    };
    match operation {
        Operation::Map(range, offset, attributes) => {
            let (start, size) = span(range);
            // Gigabytes of pages would only take time.
            let offset = if size > 4 * MIB2 {
                offset & !(MIB2 - 1)
            } else {
                *offset
            };
            let is_free = model.range(range.clone()).next().is_none();
            let expected = is_free.then_some(()).ok_or(Stage2Error::AlreadyMapped);
            let result = stage2.map(start, start + offset, size, *attributes, &Tlb);
            assert_eq!(result, expected);
            if is_free {
                model.extend(
                    range
                        .clone()
                        .map(|at| (at, (BORDERS[at] + offset, *attributes))),
                );
            }
        }
        Operation::Unmap(range) => {
            let (start, size) = span(range);
            let retired = stage2.unmap(start, size, &Tlb).expect("holes are fine");
            drop(retired);
            model.retain(|at, _| !range.contains(at));
        }
        Operation::Protect(range, attributes) => {
            let (start, size) = span(range);
            let is_mapped = model.range(range.clone()).count() == range.len();
            let expected = is_mapped.then_some(()).ok_or(Stage2Error::NotMapped);
            assert_eq!(stage2.protect(start, size, *attributes, &Tlb), expected);
            if is_mapped {
                model.extend(
                    range
                        .clone()
                        .map(|at| (at, (model[&at].0, *attributes)))
                        .collect::<Vec<_>>(),
                );
            }
        }
    }
}

fn assert_same(stage2: &Stage2<HostMemory>, model: &Model) {
    for (at, border) in BORDERS.windows(2).enumerate() {
        let expected = model.get(&at).copied();
        let size = border[1] - border[0];
        for offset in [0, size / 2, size - 1] {
            let found = stage2.translate(border[0] + offset).map(
                |Translation {
                     address,
                     attributes,
                     ..
                 }| (address - offset, attributes),
            );
            assert_eq!(found, expected, "at {:#x}", border[0] + offset);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_changes_leave_what_the_model_says_and_break_before_make(
        operations in proptest::collection::vec(operations(), 1..24)
    ) {
        let mut stage2 = Stage2::new(geometry(), HostMemory);
        let mut model = Model::new();
        for operation in &operations {
            apply(operation, &mut stage2, &mut model);
            assert_tlbs_are_current();
            assert_same(&stage2, &model);
        }
        drop(stage2.unmap(0, 1 << 40, &Tlb));
        prop_assert!(stage2.is_empty());
    }
}

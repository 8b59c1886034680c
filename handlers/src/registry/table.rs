//! Which handler a claim leads to: the immutable table that an exit looks things up in.

use alloc::{boxed::Box, string::String, sync::Arc, vec::Vec};
use core::ops::RangeInclusive;

use trapline_vcpu::{Exit, decode::ExitClass, exit::SystemRegister};

use crate::{
    handler::ExitHandler,
    sync::atomic::{AtomicU64, Ordering},
};

/// What a handler wants to answer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Claim {
    /// Accesses that lie wholly within these intermediate physical addresses (the last one included).
    Mmio(RangeInclusive<u64>),
    /// System registers, by encoding, op0 first; the last one included.
    SystemRegisters(RangeInclusive<SystemRegister>),
    /// SMCCC function numbers, by HVC or SMC with immediate 0; the last one included. [DEN0028: Function Identifiers]
    Calls(RangeInclusive<u32>),
    /// Every exit of a class that no claim above has answered. Several may claim a class: each is asked in the order of
    /// registration until one does not decline.
    Class(ExitClass),
}

impl Claim {
    /// The MMIO registers of a device: `size` bytes from `base`; `size` is not 0.
    pub const fn mmio(base: u64, size: u64) -> Self {
        Self::Mmio(base..=base.saturating_add(size.saturating_sub(1)))
    }

    /// One system register.
    pub const fn system_register(register: SystemRegister) -> Self {
        Self::SystemRegisters(register..=register)
    }

    /// The exclusive claims have keys in one of [`KINDS`] spaces.
    fn keys(&self) -> Option<(Kind, u64, u64)> {
        match self {
            Self::Mmio(range) => Some((Kind::Mmio, *range.start(), *range.end())),
            Self::SystemRegisters(range) => Some((
                Kind::SystemRegister,
                range.start().bits().into(),
                range.end().bits().into(),
            )),
            Self::Calls(range) => {
                Some((Kind::Call, (*range.start()).into(), (*range.end()).into()))
            }
            Self::Class(_) => None,
        }
    }
}

/// The spaces in which claims exclude each other.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    Mmio,
    SystemRegister,
    Call,
}

/// How many variants [`Kind`] has.
const KINDS: usize = 3;

/// A handler that was registered, with its calls on each pCPU.
pub(crate) struct Entry {
    pub(super) id: u64,
    pub(super) claims: Box<[Claim]>,
    pub(super) handler: Arc<dyn ExitHandler>,
    calls: Box<[CallCounter]>,
}

/// On a cache line of its own: each pCPU counts without disturbing the others.
#[derive(Default)]
#[repr(align(64))]
struct CallCounter(AtomicU64);

impl Entry {
    pub(super) fn new(
        id: u64,
        claims: &[Claim],
        handler: Arc<dyn ExitHandler>,
        pcpu_count: usize,
    ) -> Self {
        let calls = core::iter::repeat_with(CallCounter::default)
            .take(pcpu_count)
            .collect();
        Self {
            id,
            claims: claims.into(),
            handler,
            calls,
        }
    }

    /// The handler, whose call is counted for `pcpu`.
    pub(crate) fn called_on(&self, pcpu: usize) -> &dyn ExitHandler {
        if let Some(CallCounter(calls)) = self.calls.get(pcpu) {
            // Only this pCPU writes it, so it needs no read-modify-write.
            calls.store(calls.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        }
        &*self.handler
    }

    pub(super) fn calls_on_all(&self) -> u64 {
        self.calls
            .iter()
            .map(|CallCounter(calls)| calls.load(Ordering::Relaxed))
            .sum()
    }
}

/// What an exit is looked up in.
pub(crate) struct Table {
    claimed: [Ranges; KINDS],
    classes: [Box<[Arc<Entry>]>; ExitClass::COUNT],
}

/// Where the last exit of each kind was found, kept by each reader for itself: devices are accessed in bursts.
#[derive(Default)]
pub(crate) struct LastHits([usize; KINDS]);

impl Table {
    /// The table of these entries, whose exclusive claims do not overlap.
    pub(super) fn new(entries: &[Arc<Entry>]) -> Self {
        let claimed =
            [Kind::Mmio, Kind::SystemRegister, Kind::Call].map(|kind| Ranges::new(entries, kind));
        let classes = ExitClass::ALL.map(|class| {
            let claims_it = |entry: &&Arc<Entry>| entry.claims.contains(&Claim::Class(class));
            entries.iter().filter(claims_it).cloned().collect()
        });
        Self { claimed, classes }
    }

    /// Who claims exactly this: the MMIO access, the system register, the SMCCC function.
    pub(crate) fn claimant(
        &self,
        exit: &Exit,
        function: u32,
        hits: &mut LastHits,
    ) -> Option<&Entry> {
        let (kind, first, last) = match exit {
            Exit::Mmio(access) => {
                let last = access
                    .address
                    .checked_add(u64::from(access.width.saturating_sub(1)))?;
                (Kind::Mmio, access.address, last)
            }
            Exit::SystemRegister(access) => (
                Kind::SystemRegister,
                access.register.bits().into(),
                access.register.bits().into(),
            ),
            Exit::Call(call) if call.immediate == 0 => {
                (Kind::Call, function.into(), function.into())
            }
            _ => return None,
        };
        let LastHits(hits) = hits;
        self.claimed[kind as usize].find(first, last, &mut hits[kind as usize])
    }

    /// Who is asked about the exits of a class that no claimant answered, in this order.
    pub(crate) fn chain(&self, class: ExitClass) -> &[Arc<Entry>] {
        &self.classes[class.index()]
    }
}

/// Ranges that do not overlap, in ascending order.
struct Ranges(Box<[Row]>);

struct Row {
    first: u64,
    last: u64,
    entry: Arc<Entry>,
}

impl Ranges {
    fn new(entries: &[Arc<Entry>], kind: Kind) -> Self {
        let mut rows: Vec<Row> = entries
            .iter()
            .flat_map(|entry| {
                entry
                    .claims
                    .iter()
                    .filter_map(move |claim| Some((entry, claim.keys()?)))
            })
            .filter(|(_, (found, ..))| *found == kind)
            .map(|(entry, (_, first, last))| Row {
                first,
                last,
                entry: Arc::clone(entry),
            })
            .collect();
        rows.sort_unstable_by_key(|row| row.first);
        Self(rows.into_boxed_slice())
    }

    /// The range that holds all of `first..=last`.
    fn find(&self, first: u64, last: u64, hit: &mut usize) -> Option<&Entry> {
        let Self(rows) = self;
        let holds = |row: &Row| row.first <= first && last <= row.last;
        if let Some(row) = rows.get(*hit).filter(|row| holds(row)) {
            return Some(&row.entry);
        }
        let index = rows
            .partition_point(|row| row.first <= first)
            .checked_sub(1)?;
        let row = rows.get(index).filter(|row| holds(row))?;
        *hit = index;
        Some(&row.entry)
    }
}

/// Two claims that exclude each other.
pub(super) fn overlap(one: &Claim, other: &Claim) -> bool {
    match (one.keys(), other.keys()) {
        (Some((kind, first, last)), Some((other_kind, other_first, other_last))) => {
            kind == other_kind && first <= other_last && other_first <= last
        }
        _ => false,
    }
}

/// A claim of nothing at all.
pub(super) fn is_empty(claim: &Claim) -> bool {
    claim.keys().is_some_and(|(_, first, last)| first > last)
}

/// How often a handler was called, by name.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct HandlerCalls {
    /// The handler's name.
    pub name: String,
    /// Its calls on all pCPUs.
    pub calls: u64,
}

//! What each vCPU shall get. Policies read it whenever they rank a vCPU; a change makes the pCPU where it is choose
//! anew, so it counts at once.

use crate::{
    GroupId, PcpuId, PcpuSet, PoolId, VcpuId,
    pcpu_set::AtomicPcpuSet,
    sync::{AtomicU32, AtomicU64, Ordering},
};
use alloc::{boxed::Box, sync::Arc};
use core::fmt;

/// A share of CPU time against others' shares: 1 to 10,000.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Weight(u16);

impl Weight {
    /// The most.
    pub const LIMIT: u16 = 10_000;
    /// That of a vCPU for which nothing is said.
    pub const DEFAULT: Self = Self(1024);

    /// `None` for 0 and above [`Self::LIMIT`].
    pub const fn new(weight: u16) -> Option<Self> {
        if weight >= 1 && weight <= Self::LIMIT {
            Some(Self(weight))
        } else {
            None
        }
    }

    /// The number.
    pub const fn get(self) -> u16 {
        self.0
    }
}

impl Default for Weight {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// `budget` ticks of CPU time in every `period` ticks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Reservation {
    budget: u64,
    period: u64,
}

/// Why a reservation makes no sense, with its budget and its period in ticks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct BadReservation {
    /// The budget that was asked for.
    pub budget: u64,
    /// The period that was asked for.
    pub period: u64,
}

impl fmt::Display for BadReservation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { budget, period } = self;
        write!(
            f,
            "a budget of {budget} ticks in a period of {period}: it must be at least 1 and at most the period, and that at most {}",
            Reservation::LONGEST_PERIOD
        )
    }
}

impl core::error::Error for BadReservation {}

impl Reservation {
    /// Deadlines that are so far ahead can still be told from those that are past, in a counter that wraps around.
    pub const LONGEST_PERIOD: u64 = 1 << 62;

    /// # Errors
    /// The budget is 0 or longer than the period, or the period longer than [`Self::LONGEST_PERIOD`].
    pub const fn new(budget: u64, period: u64) -> Result<Self, BadReservation> {
        if budget == 0 || budget > period || period > Self::LONGEST_PERIOD {
            return Err(BadReservation { budget, period });
        }
        Ok(Self { budget, period })
    }

    /// How much, in ticks.
    pub const fn budget(self) -> u64 {
        self.budget
    }

    /// In how long a time, in ticks.
    pub const fn period(self) -> u64 {
        self.period
    }
}

/// What a vCPU shall get; each policy looks at what it knows.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Entitlement {
    /// The VM that it belongs to.
    pub group: GroupId,
    /// Its share against others'.
    pub weight: Weight,
    /// How long it runs at a time while others wait, in ticks; `None`: as the policy has it for all.
    pub slice: Option<u64>,
    /// What it gets in any case.
    pub reservation: Option<Reservation>,
    /// It runs before all that have less.
    pub priority: u8,
    /// The most that its whole VM gets, in hundredths of a pCPU: 50 is half of one, 250 two and a half. `None`: no limit. It is
    /// the same for all vCPUs of a VM.
    pub cap: Option<u32>,
    /// For how long at most its pCPU looks for its wake-up while nobody else needs the pCPU, in ticks; 0: not at all. The same for all
    /// policies, none is asked.
    pub halt_poll: u64,
}

const NOTHING: u64 = 0;
const NO_CAP: u32 = 0;

/// One vCPU's, for others to read at any time. A reader may see a change by halves; it reads again at the next turn.
#[derive(Default)]
pub(crate) struct Entry {
    /// Group in bits 31:16, weight in bits 15:0.
    group_and_weight: AtomicU32,
    priority: AtomicU32,
    cap: AtomicU32,
    slice: AtomicU64,
    budget: AtomicU64,
    period: AtomicU64,
    halt_poll: AtomicU64,
    /// Where it may run: what was asked for, as far as its pool has it. Its policy has admitted it there. Empty: there is no such
    /// vCPU.
    affinity: AtomicPcpuSet,
    /// Where it may run whatever pool it belongs to.
    asked: AtomicPcpuSet,
    /// Where it runs rather than elsewhere, if that costs no waiting; empty: it has no preference.
    preferred: AtomicPcpuSet,
    pool: AtomicU32,
    /// Where it belongs, plus one; 0: to no pCPU in particular.
    home: AtomicU32,
}

impl Entry {
    fn get(&self) -> Entitlement {
        let group_and_weight = self.group_and_weight.load(Ordering::Relaxed);
        let (slice, cap) = (
            self.slice.load(Ordering::Relaxed),
            self.cap.load(Ordering::Relaxed),
        );
        Entitlement {
            group: GroupId::new((group_and_weight >> 16) as u16),
            weight: Weight::new(group_and_weight as u16).unwrap_or_default(),
            slice: (slice != NOTHING).then_some(slice),
            reservation: self.reservation(),
            priority: self.priority.load(Ordering::Relaxed) as u8,
            cap: (cap != NO_CAP).then_some(cap),
            halt_poll: self.halt_poll(),
        }
    }

    fn reservation(&self) -> Option<Reservation> {
        let budget = self.budget.load(Ordering::Relaxed);
        Reservation::new(budget, self.period.load(Ordering::Relaxed)).ok()
    }

    /// For how long at most its pCPU looks for its wake-up, in ticks.
    #[inline]
    pub(crate) fn halt_poll(&self) -> u64 {
        self.halt_poll.load(Ordering::Relaxed)
    }

    /// Where the policy wants it whenever it wakes.
    #[inline]
    pub(crate) fn home(&self) -> Option<PcpuId> {
        PcpuId::new(self.home.load(Ordering::Relaxed).checked_sub(1)? as u16)
    }

    /// Where it may run, by what its policy has admitted: on pCPUs of its pool only.
    #[inline]
    pub(crate) fn affinity(&self) -> PcpuSet {
        self.affinity.load(Ordering::Relaxed)
    }

    /// The same of a vCPU that is there, for who sends it to one of them: if that one is new in the pool, it can know it by then.
    #[inline]
    pub(crate) fn reachable(&self) -> PcpuSet {
        self.affinity.load_nonempty(Ordering::Acquire)
    }

    /// Adds where it may run to `set`, which nobody else changes. Should its affinity change meanwhile, the pCPU where it is looks
    /// again.
    #[inline]
    pub(crate) fn add_affinity_to(&self, set: &AtomicPcpuSet) {
        set.include(&self.affinity, Ordering::Acquire);
    }

    /// It may run on `pcpu`.
    #[inline]
    pub(crate) fn may_run_on(&self, pcpu: PcpuId) -> bool {
        self.affinity.contains(pcpu, Ordering::Acquire)
    }

    /// Where it may run whatever pool it belongs to.
    pub(crate) fn asked(&self) -> PcpuSet {
        self.asked.load(Ordering::Relaxed)
    }

    /// Where it runs rather than elsewhere; empty: it has no preference.
    #[inline]
    pub(crate) fn preferred(&self) -> PcpuSet {
        self.preferred.load(Ordering::Relaxed)
    }

    /// It has no preference, or it prefers `pcpu`.
    #[inline]
    pub(crate) fn is_content_on(&self, pcpu: PcpuId) -> bool {
        let preferred = &self.preferred;
        preferred.is_empty(Ordering::Relaxed) || preferred.contains(pcpu, Ordering::Relaxed)
    }

    /// Its pool.
    #[inline]
    pub(crate) fn pool(&self) -> PoolId {
        PoolId::from_raw(self.pool.load(Ordering::Relaxed))
    }
}

/// What all vCPUs shall get, by their numbers. Each vCPU's handle has its entry as well, so that nothing on the way of a
/// wake-up has to look for it.
pub struct Entitlements(
    Box<[Arc<Entry>]>,
    /// So many changes there were.
    AtomicU32,
);

impl Entitlements {
    /// Those of `count` vCPUs, of which none has any yet.
    pub fn new(count: u16) -> Self {
        let entries = (0..count).map(|_| Arc::default());
        Self(entries.collect(), AtomicU32::new(0))
    }

    /// For how many vCPUs there is room.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Another number each time something has changed: only then need those that are ready be looked at anew.
    pub fn changes(&self) -> u32 {
        self.1.load(Ordering::Acquire)
    }

    /// There is room for none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The entry of `vcpu`, which is one of those for which there is room.
    pub(crate) fn entry(&self, vcpu: VcpuId) -> &Arc<Entry> {
        &self.0[vcpu.index()]
    }

    /// What `vcpu` shall have.
    pub fn get(&self, vcpu: VcpuId) -> Entitlement {
        let entry = self.0.get(vcpu.index());
        entry.map_or_else(Entitlement::default, |entry| entry.get())
    }

    /// The VM of `vcpu` alone.
    pub fn group(&self, vcpu: VcpuId) -> GroupId {
        let entry = self.0.get(vcpu.index());
        let group = entry.map_or(0, |entry| entry.group_and_weight.load(Ordering::Relaxed));
        GroupId::new((group >> 16) as u16)
    }

    /// The weight of `vcpu` alone, which is what most turns need.
    pub fn weight(&self, vcpu: VcpuId) -> Weight {
        let entry = self.0.get(vcpu.index());
        let weight = entry.map_or(0, |entry| entry.group_and_weight.load(Ordering::Relaxed));
        Weight::new(weight as u16).unwrap_or_default()
    }

    /// The priority of `vcpu` alone.
    pub fn priority(&self, vcpu: VcpuId) -> u8 {
        let entry = self.0.get(vcpu.index());
        entry.map_or(0, |entry| entry.priority.load(Ordering::Relaxed) as u8)
    }

    /// The reservation of `vcpu` alone.
    pub fn reservation(&self, vcpu: VcpuId) -> Option<Reservation> {
        self.0.get(vcpu.index())?.reservation()
    }

    /// Where the policy wants `vcpu` whenever it wakes.
    pub(crate) fn home(&self, vcpu: VcpuId) -> Option<PcpuId> {
        self.0.get(vcpu.index())?.home()
    }

    /// Where `vcpu` may run, by what its policy has admitted: on pCPUs of its pool only.
    pub fn affinity(&self, vcpu: VcpuId) -> PcpuSet {
        let entry = self.0.get(vcpu.index());
        entry.map_or(PcpuSet::EMPTY, |entry| entry.affinity())
    }

    /// Where `vcpu` may run whatever pool it belongs to.
    pub(crate) fn asked(&self, vcpu: VcpuId) -> PcpuSet {
        let entry = self.0.get(vcpu.index());
        entry.map_or(PcpuSet::EMPTY, |entry| entry.asked())
    }

    pub(crate) fn prefer(&self, vcpu: VcpuId, pcpus: PcpuSet) {
        if let Some(entry) = self.0.get(vcpu.index()) {
            entry.preferred.store(pcpus, Ordering::Relaxed);
        }
    }

    /// The pool of `vcpu`.
    pub fn pool(&self, vcpu: VcpuId) -> PoolId {
        let entry = self.0.get(vcpu.index());
        entry.map_or(PoolId::FIRST, |entry| entry.pool())
    }

    /// Those who are there and belong to `pool`.
    pub(crate) fn members(&self, pool: PoolId) -> impl Iterator<Item = VcpuId> {
        let present = self.present().map(|(vcpu, _)| vcpu);
        present.filter(move |&vcpu| self.pool(vcpu) == pool)
    }

    /// Those who are there, and where each may run.
    pub(crate) fn present(&self) -> impl Iterator<Item = (VcpuId, PcpuSet)> {
        let vcpus = (0..self.0.len() as u16).map(VcpuId::new);
        let present = vcpus.map(|vcpu| (vcpu, self.affinity(vcpu)));
        present.filter(|(_, affinity)| !affinity.is_empty())
    }

    /// The policy has admitted `vcpu` on `affinity`, and wants it at `home`.
    pub(crate) fn set_place(&self, vcpu: VcpuId, affinity: PcpuSet, home: Option<PcpuId>) {
        if let Some(entry) = self.0.get(vcpu.index()) {
            entry.affinity.store(affinity, Ordering::Release);
            let home = home.map_or(0, |home| home.index() as u32 + 1);
            entry.home.store(home, Ordering::Relaxed);
            self.1.fetch_add(1, Ordering::Release);
        }
    }

    /// `vcpu` belongs to `pool`, and may run on `asked` as far as its pool has that. [`Self::set_place`] follows.
    pub(crate) fn set_pool(&self, vcpu: VcpuId, pool: PoolId, asked: PcpuSet) {
        if let Some(entry) = self.0.get(vcpu.index()) {
            entry.asked.store(asked, Ordering::Relaxed);
            entry.pool.store(pool.raw(), Ordering::Relaxed);
        }
    }

    /// There is no `vcpu` any more.
    pub(crate) fn clear(&self, vcpu: VcpuId) {
        self.prefer(vcpu, PcpuSet::EMPTY);
        self.set_place(vcpu, PcpuSet::EMPTY, None);
    }

    /// `vcpu` shall have `entitlement` from its next turn on. The policy has admitted it.
    pub(crate) fn set(&self, vcpu: VcpuId, entitlement: &Entitlement) {
        let Some(entry) = self.0.get(vcpu.index()) else {
            return;
        };
        let Entitlement {
            group,
            weight,
            slice,
            reservation,
            priority,
            cap,
            halt_poll,
        } = *entitlement;
        let group_and_weight = (group.index() as u32) << 16 | u32::from(weight.get());
        entry
            .group_and_weight
            .store(group_and_weight, Ordering::Relaxed);
        entry.priority.store(priority.into(), Ordering::Relaxed);
        entry.cap.store(cap.unwrap_or(NO_CAP), Ordering::Relaxed);
        entry
            .slice
            .store(slice.unwrap_or(NOTHING), Ordering::Relaxed);
        let (budget, period) = reservation.map_or((0, 0), |r| (r.budget, r.period));
        entry.budget.store(budget, Ordering::Relaxed);
        entry.period.store(period, Ordering::Relaxed);
        entry.halt_poll.store(halt_poll, Ordering::Relaxed);
        self.1.fetch_add(1, Ordering::Release);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use alloc::string::ToString;

    const VCPU: VcpuId = VcpuId::new(1);

    #[test]
    fn what_is_set_is_read() {
        let entitlements = Entitlements::new(2);
        assert_eq!(entitlements.get(VCPU), Entitlement::default());
        let entitlement = Entitlement {
            group: GroupId::new(7),
            weight: Weight::new(10_000).unwrap(),
            slice: Some(1 << 40),
            reservation: Some(Reservation::new(2, 5).unwrap()),
            priority: 255,
            cap: Some(250),
            halt_poll: 1 << 33,
        };
        entitlements.set(VCPU, &entitlement);
        assert_eq!(entitlements.get(VCPU), entitlement);
        assert_eq!(entitlements.weight(VCPU).get(), 10_000);
        entitlements.set(VCPU, &Entitlement::default());
        assert_eq!(entitlements.get(VCPU), Entitlement::default());
    }

    #[test]
    fn a_reservation_fits_into_its_period() {
        assert!(Reservation::new(0, 5).is_err());
        assert!(Reservation::new(6, 5).is_err());
        assert!(Reservation::new(5, 5).is_ok());
        let longest = Reservation::LONGEST_PERIOD;
        assert!(Reservation::new(5, longest).is_ok());
        let refusal = Reservation::new(5, longest + 1).unwrap_err();
        assert_eq!(
            refusal.to_string(),
            "a budget of 5 ticks in a period of 4611686018427387905: it must be at least 1 and at most the period, and that at most \
             4611686018427387904"
        );
    }

    #[test]
    fn a_weight_has_its_range() {
        assert_eq!(Weight::new(0), None);
        assert_eq!(Weight::new(10_001), None);
        assert_eq!(Weight::new(1).map(Weight::get), Some(1));
    }
}

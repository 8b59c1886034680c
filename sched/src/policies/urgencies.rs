//! How urgent what runs and what waits is, on all pCPUs of a pool: what waits somewhere and should run elsewhere.
//!
//! A pCPU first publishes what runs and what waits there, and looks at what others have published afterwards, with
//! `fence(SeqCst)` between: of two that change at the same time one sees the other.

use crate::{
    Entitlements, PcpuId, VcpuId,
    pcpu_set::AtomicPcpuSet,
    sync::{AtomicU32, Ordering::Relaxed, Ordering::SeqCst, fence},
};
use alloc::boxed::Box;

/// A priority, or that there is nobody who could have one, which is less.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct Urgency(u32);

impl Urgency {
    /// Nobody is there.
    pub(super) const NONE: Self = Self(0);

    pub(super) fn of(priority: u8) -> Self {
        Self(u32::from(priority) + 1)
    }
}

/// What the pCPUs tell each other.
pub(super) struct Urgencies {
    /// Those that take part.
    pcpus: AtomicPcpuSet,
    /// By pCPU number. Only the pCPU writes its own.
    fronts: [Front; PcpuId::LIMIT as usize],
    /// By vCPU number: if it is ready and does not run, its urgency in bits 31:16 and where it is in bits 15:0; else 0. Whoever
    /// has the vCPU's box writes it.
    vcpus: Box<[AtomicU32]>,
}

/// The part of [`Front::running`] that says how urgent it is.
const URGENCY: u32 = 0xffff;

#[derive(Default)]
struct Front {
    /// Its urgency in bits 15:0, and in bits 31:16 how many are ready that are as urgent.
    running: AtomicU32,
    /// The most urgent of those that are ready and do not run.
    waiting: AtomicU32,
}

impl Urgencies {
    /// Those of up to `max_vcpus` vCPUs, before any pCPU takes part.
    pub(super) fn new(max_vcpus: u16) -> Self {
        Self {
            pcpus: AtomicPcpuSet::default(),
            fronts: core::array::from_fn(|_| Front::default()),
            vcpus: (0..max_vcpus).map(|_| AtomicU32::new(0)).collect(),
        }
    }

    /// For how many vCPUs there is room.
    pub(super) fn room(&self) -> usize {
        self.vcpus.len()
    }

    /// `pcpu` takes part.
    pub(super) fn join(&self, pcpu: PcpuId) {
        self.pcpus.insert(pcpu, Relaxed);
    }

    /// `vcpu` is ready on `pcpu` and does not run. [`Self::publish`] follows.
    pub(super) fn set_waiting(&self, vcpu: VcpuId, urgency: Urgency, pcpu: PcpuId) {
        let waiting = urgency.0 << 16 | pcpu.index() as u32;
        self.vcpus[vcpu.index()].store(waiting, Relaxed);
    }

    /// It does not wait any more. [`Self::publish`] follows.
    pub(super) fn set_gone(&self, vcpu: VcpuId) {
        self.vcpus[vcpu.index()].store(0, Relaxed);
    }

    /// What runs on `pcpu`, how many are ready there that are as urgent, and the most urgent that is.
    pub(super) fn publish(&self, pcpu: PcpuId, running: Urgency, equals: u16, waiting: Urgency) {
        let front = &self.fronts[pcpu.index()];
        let running = u32::from(equals) << 16 | running.0;
        for (word, new) in [(&front.running, running), (&front.waiting, waiting.0)] {
            if word.load(Relaxed) != new {
                word.store(new, Relaxed);
            }
        }
    }

    /// What runs on `pcpu`, and how many are ready there that are as urgent.
    pub(super) fn running(&self, pcpu: PcpuId) -> (Urgency, u16) {
        let running = self.fronts[pcpu.index()].running.load(Relaxed);
        (Urgency(running & URGENCY), (running >> 16) as u16)
    }

    fn fronts(&self) -> impl Iterator<Item = (PcpuId, &Front)> {
        let pcpus = self.pcpus.load(Relaxed);
        pcpus.iter().map(|pcpu| (pcpu, &self.fronts[pcpu.index()]))
    }

    /// Those that run something less urgent, and what that is.
    fn below(&self, urgency: Urgency) -> impl Iterator<Item = (Urgency, PcpuId)> {
        let running = |(pcpu, front): (PcpuId, &Front)| {
            (Urgency(front.running.load(Relaxed) & URGENCY), pcpu)
        };
        let busy = self.fronts().map(running);
        busy.filter(move |&(running, _)| running != Urgency::NONE && running < urgency)
    }

    /// Of the pCPUs for which `allowed` is true and that run something less urgent, the one that runs the least urgent.
    pub(super) fn least(
        &self,
        urgency: Urgency,
        mut allowed: impl FnMut(PcpuId) -> bool,
    ) -> Option<PcpuId> {
        fence(SeqCst);
        let possible = self.below(urgency).filter(|&(_, pcpu)| allowed(pcpu));
        possible
            .min_by_key(|&(running, _)| running)
            .map(|(_, pcpu)| pcpu)
    }

    /// How urgently `vcpu` waits, and where, if it does.
    fn waiting(&self, vcpu: VcpuId) -> Option<(Urgency, PcpuId)> {
        let waiting = self.vcpus[vcpu.index()].load(Relaxed);
        let pcpu = PcpuId::new(waiting as u16).filter(|_| waiting != 0)?;
        Some((Urgency(waiting >> 16), pcpu))
    }

    /// Where the most urgent vCPU is that waits elsewhere than on `here` and should run instead of another one.
    pub(super) fn misplaced(&self, here: PcpuId, entitlements: &Entitlements) -> Option<PcpuId> {
        fence(SeqCst);
        let others = self.fronts().filter(|&(pcpu, _)| pcpu != here);
        let waiting = others.map(|(_, front)| Urgency(front.waiting.load(Relaxed)));
        self.below(waiting.max()?).next()?;
        let vcpus = (0..self.vcpus.len() as u16).map(VcpuId::new);
        let misplaced = vcpus.filter_map(|vcpu| {
            let (urgency, place) = self.waiting(vcpu).filter(|&(_, place)| place != here)?;
            let affinity = entitlements.affinity(vcpu);
            let mut better = self
                .below(urgency)
                .filter(|&(_, pcpu)| affinity.contains(pcpu));
            better.next().map(|_| (urgency, place))
        });
        let first = misplaced.max_by_key(|&(urgency, _)| urgency);
        first.map(|(_, place)| place)
    }
}

#[cfg(all(test, loom))]
mod models {
    use super::*;
    use crate::PcpuSet;
    use loom::{model, sync::Arc, thread};

    /// One becomes ready on a pCPU that runs something more urgent while another pCPU turns to something less urgent: one of
    /// the two sees that they should meet.
    #[test]
    fn loom_a_wake_up_meets_a_pcpu_that_turns_to_less() {
        let [here, there] = [0, 1].map(|index| PcpuId::new(index).unwrap());
        let [less, middle, more] = [1, 5, 9].map(Urgency::of);
        let vcpu = VcpuId::new(0);
        model(move || {
            let urgencies = Arc::new(Urgencies::new(1));
            let entitlements = Entitlements::new(1);
            entitlements.set_place(vcpu, PcpuSet::all(2), None);
            for pcpu in [here, there] {
                urgencies.join(pcpu);
                urgencies.publish(pcpu, more, 0, Urgency::NONE);
            }
            let other = Arc::clone(&urgencies);
            let turns = thread::spawn(move || {
                other.publish(there, less, 0, Urgency::NONE);
                other.misplaced(there, &entitlements)
            });
            urgencies.set_waiting(vcpu, middle, here);
            urgencies.publish(here, more, 0, middle);
            let pushed = urgencies.least(middle, |_| true);
            let pulled = turns.join().unwrap();
            assert!(pushed == Some(there) || pulled == Some(here));
        });
    }
}

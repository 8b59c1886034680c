//! What the scheduler's [`Machine`] is in the simulated machine: who is bound where, what that costs, and who waits for whose
//! interrupts.

use super::{
    agenda::NEVER,
    engine::Engine,
    guest::{Guest, Handle},
    pcpu::Station,
};
use crate::{Machine, PcpuId, Vcpu, VcpuId};
use core::sync::atomic::Ordering;

/// What things take, in ticks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rates {
    /// An exit of a guest, which is its own doing.
    pub(super) exit: u64,
    /// An interrupt of the pCPU while a guest executes.
    pub(super) interrupt: u64,
    /// Binding a vCPU.
    pub(super) switch: u64,
    /// Until a pCPU that polls sees what is raised.
    pub(super) notice: u64,
    /// By how much work takes longer that comes from a pCPU which shares a cache, or from another one.
    pub(super) near: u64,
    pub(super) far: u64,
    /// So many pCPUs share a cache.
    pub(super) cluster: u16,
}

impl Rates {
    /// Each instruction takes a tick, and all else takes none.
    pub(super) const TICKS: Self = Self {
        exit: 1,
        interrupt: 0,
        switch: 0,
        notice: 0,
        near: 0,
        far: 0,
        cluster: u16::MAX,
    };

    fn is_near(&self, one: PcpuId, other: PcpuId) -> bool {
        let cluster = |pcpu: PcpuId| pcpu.index() / usize::from(self.cluster);
        cluster(one) == cluster(other)
    }
}

impl Engine {
    /// True if the state of `vcpu` is in memory, or was since this was asked.
    pub(super) fn inspect(&self, inspector: &Handle, vcpu: VcpuId) -> bool {
        if inspector.shared().answers.swap(0, Ordering::AcqRel) > 0 || inspector.id() == vcpu {
            return true;
        }
        let inspected = self.handle(vcpu);
        inspected.shared().inspectors().insert(inspector.id());
        inspected
            .shared()
            .is_inspected
            .store(true, Ordering::Release);
        self.world.intrude();
        if inspected.request_sync() {
            return false;
        }
        inspected.shared().inspectors().remove(&inspector.id());
        true
    }

    fn answer_inspectors(&self, inspected: &Handle) {
        let is_inspected = &inspected.shared().is_inspected;
        if !is_inspected.load(Ordering::Acquire) {
            return;
        }
        is_inspected.store(false, Ordering::Relaxed);
        let inspectors = core::mem::take(&mut *inspected.shared().inspectors());
        for inspector in inspectors.iter().map(|id| &self.handles[id.index()]) {
            inspector.shared().answers.fetch_add(1, Ordering::AcqRel);
            inspector.complete();
        }
    }

    /// The guest's timer has fired at `due`.
    pub(super) fn note_timer(&self, guest: &Guest, due: u64) {
        self.count_event();
        let woken_at = &guest.handle().shared().woken_at;
        let before = woken_at.load(Ordering::Relaxed);
        woken_at.store(before.min(due), Ordering::Relaxed);
    }

    /// A vCPU is bound: where it was before says what that costs. The result is how long it was ready.
    fn note_bind(&self, guest: &mut Guest, pcpu: PcpuId) -> u64 {
        let (id, meter) = (guest.handle().id(), self.meter(guest.handle().id()));
        self.count_event();
        let last = guest.last.replace(pcpu).unwrap_or(pcpu);
        if last != pcpu {
            self.count_event();
            let is_near = self.rates.is_near(last, pcpu);
            guest.cold += if is_near {
                self.rates.near
            } else {
                self.rates.far
            };
            meter.far.set(meter.far.get() + u64::from(!is_near));
        }
        let ready_ticks = guest.handle().ready_ticks();
        let waited = ready_ticks - core::mem::replace(&mut guest.ready_ticks, ready_ticks);
        meter.worst_wait.set(meter.worst_wait.get().max(waited));
        self.touch(id);
        waited
    }
}

/// The hardware of one pCPU.
pub(super) struct Hardware<'a> {
    pub(super) engine: &'a Engine,
    pub(super) station: &'a Station,
    pub(super) pcpu: PcpuId,
    /// For how long the pCPU is busy with all this, in ticks.
    pub(super) delay: u64,
    /// Who was bound last, and for how long that one had been ready.
    pub(super) waited: Option<(VcpuId, u64)>,
}

impl Machine<Guest> for Hardware<'_> {
    fn bind(&mut self, guest: &mut Guest, exclusive: bool) {
        let engine = self.engine;
        engine.world.intrude();
        self.station.exclusive.set(exclusive);
        let id = guest.handle().id();
        let (seat, bound) = (engine.seat(id), &self.station.bound);
        if let Some(other) = seat.bound_on.get() {
            panic!("{} {id} is bound to {other} already", engine.name());
        }
        if let Some(other) = bound.get() {
            let name = engine.name();
            panic!("{name} {} has {other} bound, and not {id}", self.pcpu);
        }
        let shared = guest.handle().shared();
        assert_eq!(
            shared.resets.load(Ordering::Acquire),
            shared.power_ons.load(Ordering::Acquire),
            "{} {id} is reset before it runs",
            engine.name()
        );
        seat.bound_on.set(Some(self.pcpu));
        bound.set(Some(id));
        self.delay += engine.rates.switch;
        self.waited = Some((id, engine.note_bind(guest, self.pcpu)));
        // One that still waits is bound for its interrupt state only: its timer wakes it when it is unbound.
        if guest.handle().is_runnable()
            && let Some(due) = guest.sample_timer(engine.now())
        {
            engine.note_timer(guest, due);
        }
        engine.take_interrupts(guest);
    }

    fn unbind(&mut self, guest: &mut Guest) -> Option<u64> {
        let engine = self.engine;
        engine.world.intrude();
        let id = guest.handle().id();
        let was = self.station.bound.take();
        let name = engine.name();
        assert_eq!(was, Some(id), "{name} only who is bound is unbound");
        engine.seat(id).bound_on.set(None);
        engine.answer_inspectors(guest.handle());
        engine.touch(id);
        engine.world.intrude();
        guest.timer()
    }

    fn set_exclusive(&mut self, guest: &mut Guest, exclusive: bool) {
        let (engine, id) = (self.engine, guest.handle().id());
        assert_eq!(
            self.station.bound.get(),
            Some(id),
            "{} only bound",
            engine.name()
        );
        let told = self.station.exclusive.replace(exclusive);
        assert_ne!(told, exclusive, "rule: only a change is told");
    }

    fn contend(&mut self, is_contended: bool) {
        let told = self.station.contended.replace(is_contended);
        assert_ne!(told, is_contended, "rule: only a change is told");
    }

    fn sync(&mut self, guest: &mut Guest) {
        let engine = self.engine;
        engine.world.intrude();
        let (id, name) = (guest.handle().id(), engine.name());
        let bound = self.station.bound.get();
        assert_eq!(bound, Some(id), "{name} only bound");
        engine.answer_inspectors(guest.handle());
    }

    fn reset(&mut self, guest: &mut Guest) {
        let engine = self.engine;
        engine.world.intrude();
        let (id, name) = (guest.handle().id(), engine.name());
        let bound_on = engine.seat(id).bound_on.get();
        assert_eq!(bound_on, None, "{name} {id} is reset while bound");
        let shared = guest.handle().shared();
        let resets = shared.resets.fetch_add(1, Ordering::AcqRel) + 1;
        let power_ons = shared.power_ons.load(Ordering::Acquire);
        assert_eq!(resets, power_ons, "{name} {id} is reset once per CPU_ON");
        guest.reset();
    }

    fn set_timer(&mut self, deadline: Option<u64>) {
        let engine = self.engine;
        engine.world.intrude();
        let before = engine.world.timer(self.pcpu);
        assert_ne!(
            deadline.unwrap_or(NEVER),
            before,
            "rule: only a change is set"
        );
        engine.world.set_timer(self.pcpu, deadline);
    }
}

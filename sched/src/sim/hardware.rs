//! What the scheduler's [`Machine`] is in the simulated machine: who is bound where, and who waits for whose interrupts.

use super::{
    engine::Engine,
    guest::{Guest, Handle},
    world::{NEVER, intrude},
};
use crate::{Machine, PcpuId, Vcpu, VcpuId};
use core::sync::atomic::Ordering;

impl Engine {
    /// True if the state of `vcpu` is in memory, or was since this was asked.
    pub(super) fn inspect(&self, inspector: &Handle, vcpu: VcpuId) -> bool {
        if inspector.shared().answers.swap(0, Ordering::AcqRel) > 0 || inspector.id() == vcpu {
            return true;
        }
        let inspected = self.handle(vcpu);
        inspected.shared().inspectors().insert(inspector.id());
        intrude();
        if inspected.request_sync() {
            return false;
        }
        inspected.shared().inspectors().remove(&inspector.id());
        true
    }

    fn answer_inspectors(&self, inspected: &Handle) {
        let inspectors = core::mem::take(&mut *inspected.shared().inspectors());
        for inspector in inspectors.iter().map(|id| &self.handles[id.index()]) {
            inspector.shared().answers.fetch_add(1, Ordering::AcqRel);
            inspector.complete();
        }
    }
}

/// The hardware of one pCPU.
pub(super) struct Hardware<'a> {
    pub(super) engine: &'a Engine,
    pub(super) pcpu: PcpuId,
}

impl Machine<Guest> for Hardware<'_> {
    fn bind(&mut self, guest: &mut Guest, exclusive: bool) {
        intrude();
        self.engine.exclusive.borrow_mut()[self.pcpu.index()] = exclusive;
        let (engine, id, name) = (self.engine, guest.handle().id(), self.engine.name());
        let mut bound = engine.bound.borrow_mut();
        assert!(!bound.contains(&Some(id)), "{name} {id} is bound already");
        assert_eq!(
            bound[self.pcpu.index()],
            None,
            "{name} {} has somebody else bound",
            self.pcpu
        );
        bound[self.pcpu.index()] = Some(id);
        guest.sample_timer(engine.now());
        guest.refresh();
    }

    fn unbind(&mut self, guest: &mut Guest) -> Option<u64> {
        intrude();
        let was = self.engine.bound.borrow_mut()[self.pcpu.index()].take();
        assert_eq!(
            was,
            Some(guest.handle().id()),
            "{} only who is bound is unbound",
            self.engine.name()
        );
        self.engine.answer_inspectors(guest.handle());
        intrude();
        guest.timer()
    }

    fn sync(&mut self, guest: &mut Guest) {
        intrude();
        let id = guest.handle().id();
        assert_eq!(
            self.engine.bound.borrow()[self.pcpu.index()],
            Some(id),
            "{} only bound",
            self.engine.name()
        );
        self.engine.answer_inspectors(guest.handle());
    }

    fn reset(&mut self, guest: &mut Guest) {
        intrude();
        let id = guest.handle().id();
        assert!(
            !self.engine.bound.borrow().contains(&Some(id)),
            "{} reset while bound",
            self.engine.name()
        );
        let shared = guest.handle().shared();
        let resets = shared.resets.fetch_add(1, Ordering::AcqRel) + 1;
        let power_ons = shared.power_ons.load(Ordering::Acquire);
        assert_eq!(
            resets,
            power_ons,
            "{} {id} is reset once per CPU_ON",
            self.engine.name()
        );
        guest.reset();
    }

    fn set_timer(&mut self, deadline: Option<u64>) {
        intrude();
        assert_ne!(
            deadline.unwrap_or(NEVER),
            self.engine.world.timer(self.pcpu),
            "rule: only a change is set"
        );
        self.engine.world.set_timer(self.pcpu, deadline);
    }
}

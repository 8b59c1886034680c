//! What a pCPU does between two of its steps that is no vCPU's, and which one is called to do it.

use alloc::vec::Vec;
use core::sync::atomic::{
    Ordering::{Relaxed, SeqCst},
    fence,
};

use trapline_handlers::Dispatcher;
use trapline_platform::{
    engine::{self, Between},
    pcpu, timer,
};
use trapline_sched::PcpuId;
use trapline_vcpu::{Aarch64PerCpu, dispatch::Dispatch, host::Host};

use super::{Machine, devices, hotplug, life::Slot, watchdog};

/// Of the time of a pCPU that runs guests, work on other guests' lives takes one part in so many.
const WORK_SHARE: u64 = 4;

impl Machine {
    /// Does a piece of what there is to do that is no vCPU's, on the pCPU of `engine` and between two of its steps; true if
    /// there may be more. A pCPU calls it when it is asked for its attention, and until it returns false.
    pub fn attend<H: Host>(&self, engine: &mut Aarch64PerCpu<Dispatcher, H>) -> bool {
        watchdog::report();
        let _ = self.hotplug.is_waiting();
        self.let_go(engine);
        let is_obeyed = self.desk.attend(self);
        self.serve_a_guest() || is_obeyed
    }

    /// Does a piece of work on the life of the guest whose turn it is; false if there is none.
    fn serve_a_guest(&self) -> bool {
        let count = self.slots.len();
        let first = self.last_served.load(Relaxed) + 1;
        let in_turn = (0..count).map(|offset| (first + offset) % count);
        let claimed = in_turn
            .map(|index| &self.slots[index])
            .find_map(|slot| slot.agenda.claim().map(|asked| (slot, asked)));
        let Some((slot, asked)) = claimed else {
            return false;
        };
        self.last_served.store(slot.index, Relaxed);
        let has_more = slot.work(self, asked);
        // Other slots may have more even if this one has not.
        let _ = slot.agenda.release(has_more);
        true
    }

    /// Does what [`Self::attend`] has for this pCPU between two steps, as it was called for (`now`) or has begun to
    /// (`is_at_work`); returns when to come again.
    pub(super) fn work<H: Host>(
        &self,
        engine: &mut Aarch64PerCpu<Dispatcher, H>,
        now: Between,
        is_at_work: &mut bool,
    ) -> Option<u64> {
        if now.is_idle {
            engine.dispatch_mut().release();
        }
        *is_at_work |= now.is_asked;
        if !*is_at_work {
            return None;
        }
        let begin = timer::now();
        *is_at_work = self.attend(engine);
        if self.has_ended() {
            self.finish();
        }
        if !*is_at_work && self.hotplug.is_waiting() {
            *is_at_work = true;
            return Some(begin + timer::ticks_of_us(hotplug::LOOK_US));
        }
        if !*is_at_work || now.is_idle {
            return is_at_work.then_some(begin);
        }
        if let Some(idle) = self.whom_to_call() {
            engine::call_attention(idle.index() as u16);
            *is_at_work = false;
            return None;
        }
        let end = timer::now();
        Some(end + (end - begin) * (WORK_SHARE - 1))
    }

    /// Lets this pCPU forget what has ended, if somebody waits for that.
    fn let_go<H: Host>(&self, engine: &mut Aarch64PerCpu<Dispatcher, H>) {
        let id = engine.scheduler().id();
        if !self.slots.iter().any(|slot| slot.is_held_by(id)) {
            return;
        }
        let waiting: Vec<_> = self
            .slots
            .iter()
            .filter(|slot| slot.is_held_by(id))
            .collect();
        engine.let_go(&self.nobody);
        for slot in waiting {
            self.has_let_go(slot, id);
        }
    }

    /// pCPU `id` has nothing any more of the guest that ends in `slot`, if one does.
    pub(super) fn has_let_go(&self, slot: &Slot, id: PcpuId) {
        if slot.let_go(id) && slot.agenda.notice() {
            self.call();
        }
    }

    /// Calls a pCPU that has the time, or else the caller's own. If that one goes off before it has looked, another one looks when it
    /// is off.
    pub(super) fn call(&self) {
        let here =
            PcpuId::new(pcpu::this_pcpu()).filter(|&here| self.scheduler.pcpus().contains(here));
        let to = self.whom_to_call().or(here);
        engine::call_attention(to.map_or_else(devices::keeper, |pcpu| pcpu.index() as u16));
    }

    /// A pCPU that idles. What it is to be called for has been written down, and comes before the choice: see `Hotplug::is_waiting`.
    fn whom_to_call(&self) -> Option<PcpuId> {
        fence(SeqCst);
        self.scheduler.idle_pcpus().first()
    }
}

//! What the instructions of a simulated guest do once their time is over.

use super::{
    agenda::NEVER,
    engine::Engine,
    guest::{Doing, Guest, Instruction},
    pcpu::Pcpu,
};
use crate::{BlockReason, Place, Vcpu, VcpuId};
use core::sync::atomic::Ordering;

impl Engine {
    /// The loaded guest is about to be entered: what it does, and for how long.
    pub(super) fn prepare(&self, guest: &mut Guest) {
        let vcpu = guest.handle().id();
        let is_over = match guest.doing {
            Doing::Nothing => true,
            Doing::SpinForLock { .. } => self.shared(vcpu).holder() == Some(vcpu),
            Doing::SpinForAnswers => self.seat(vcpu).awaited.get() == 0,
            Doing::Instruction(_) | Doing::YieldToHolder { .. } => false,
        };
        if is_over {
            self.fetch(guest);
        }
        if guest.left == 0 {
            guest.left = match guest.doing {
                Doing::Instruction(Instruction::Compute(ticks)) => ticks.max(1),
                Doing::Instruction(Instruction::Acquire { .. } | Instruction::Release) => 1,
                Doing::SpinForLock { patience } => patience.map_or(NEVER, |ticks| ticks.max(1)),
                Doing::SpinForAnswers => NEVER,
                _ => self.rates.exit,
            };
        }
        let cold = core::mem::take(&mut guest.cold);
        guest.left = guest.left.saturating_add(cold);
    }

    fn fetch(&self, guest: &mut Guest) {
        let shared = self.shared(guest.handle().id());
        let instruction = guest.fetch(self.now(), shared);
        (guest.doing, guest.left) = (Doing::Instruction(instruction), 0);
    }

    /// What the loaded guest does is over.
    pub(super) fn finish(&self, pcpu: &mut Pcpu) {
        let Some(guest) = pcpu.sched.loaded() else {
            return;
        };
        let doing = core::mem::replace(&mut guest.doing, Doing::Nothing);
        match doing {
            Doing::Instruction(Instruction::Compute(_)) => self.fetch(guest),
            Doing::Instruction(instruction) => self.finish_instruction(instruction, pcpu),
            Doing::SpinForLock { patience } => guest.doing = Doing::YieldToHolder { patience },
            Doing::YieldToHolder { patience } => {
                guest.doing = Doing::SpinForLock { patience };
                let holder = self.shared(guest.handle().id()).holder();
                self.let_others_run(holder, pcpu);
            }
            // Whoever answers ends it.
            Doing::SpinForAnswers => guest.doing = doing,
            Doing::Nothing => {}
        }
    }

    fn finish_instruction(&self, instruction: Instruction, pcpu: &mut Pcpu) {
        let now = self.now();
        let Some(guest) = pcpu.sched.loaded() else {
            return;
        };
        let vcpu = guest.handle().id();
        match instruction {
            Instruction::Compute(_) => {}
            Instruction::Wait => self.block(pcpu, BlockReason::Waiting),
            Instruction::WaitFor(ticks) => {
                guest.set_timer(Some(now.saturating_add(ticks)));
                self.block(pcpu, BlockReason::Waiting);
            }
            Instruction::WaitUntil(time) => {
                guest.set_timer(Some(time));
                self.block(pcpu, BlockReason::Waiting);
            }
            Instruction::Interrupt(target) => self.interrupt(target),
            Instruction::InterruptAll => {
                let siblings = self.shared(vcpu).siblings(vcpu);
                siblings.for_each(|sibling| self.interrupt(sibling));
            }
            Instruction::Shootdown(target) => {
                guest.doing = Doing::SpinForAnswers;
                self.shoot_down(vcpu, target);
            }
            Instruction::Acquire { patience } => {
                if !self.shared(vcpu).acquire(vcpu) {
                    guest.doing = Doing::SpinForLock { patience };
                }
            }
            Instruction::Release => {
                if let Some(next) = self.shared(vcpu).release() {
                    self.signal(next);
                }
            }
            Instruction::Yield(to) => self.let_others_run(to, pcpu),
            Instruction::PowerOn(other) => self.power_on(other),
            Instruction::PowerOff => {
                guest.doing = Doing::Instruction(instruction);
                let blocked = pcpu.sched.block(BlockReason::Off);
                blocked.expect("rule: nothing keeps a vCPU on");
            }
            Instruction::Migrate(to) => drop(guest.handle().migrate(to)),
            Instruction::Inspect(other) => {
                if !self.inspect(guest.handle(), other) {
                    guest.doing = Doing::Instruction(instruction);
                    self.block(pcpu, BlockReason::Remote);
                }
            }
        }
    }

    fn block(&self, pcpu: &mut Pcpu, reason: BlockReason) {
        self.world.intrude();
        let is_blocked = pcpu.sched.block(reason).is_ok();
        let Some(guest) = pcpu.sched.loaded() else {
            return;
        };
        if is_blocked {
            self.count_event();
            guest.waits |= reason == BlockReason::Waiting;
        } else {
            self.take_interrupts(guest);
        }
        self.touch(guest.handle().id());
    }

    fn let_others_run(&self, to: Option<VcpuId>, pcpu: &mut Pcpu) {
        if let Some(guest) = pcpu.sched.loaded() {
            let yields = &self.meter(guest.handle().id()).yields;
            yields.set(yields.get() + 1);
        }
        pcpu.sched.yield_now(to);
    }

    /// `vcpu` interrupts `target`, or all its siblings, and waits for their answers.
    fn shoot_down(&self, vcpu: VcpuId, target: Option<VcpuId>) {
        let targets = || {
            let siblings = self.shared(vcpu).siblings(vcpu);
            siblings.filter(|&sibling| target.is_none_or(|target| sibling == target))
        };
        // One that is off has nothing to answer.
        let is_on = |&target: &VcpuId| {
            let state = self.handle(target).state.load();
            !state.is_blocked_by(BlockReason::Off)
        };
        let awaited = &self.seat(vcpu).awaited;
        awaited.set(targets().filter(is_on).count() as u32);
        for target in targets().filter(is_on) {
            self.seat(target).callers.borrow_mut().push(vcpu);
        }
        targets()
            .filter(is_on)
            .for_each(|target| self.interrupt(target));
    }

    /// The guest takes the interrupts that are due, and answers those that wait for it.
    pub(super) fn take_interrupts(&self, guest: &mut Guest) {
        guest.refresh();
        let seat = self.seat(guest.handle().id());
        let next = || seat.callers.borrow_mut().pop();
        while let Some(caller) = next() {
            let awaited = &self.seat(caller).awaited;
            awaited.set(awaited.get() - 1);
            if awaited.get() == 0 {
                self.signal(caller);
            }
        }
    }

    /// What `vcpu` spins for has come; it sees it at once if it executes.
    fn signal(&self, vcpu: VcpuId) {
        if let Place::Loaded(pcpu) = self.handle(vcpu).place() {
            self.world.signal(pcpu);
        }
    }

    /// An interrupt becomes due: first its record, then the wake.
    pub(super) fn interrupt(&self, vcpu: VcpuId) {
        let handle = self.handle(vcpu);
        let shared = handle.shared();
        let due = shared.due.load(Ordering::Relaxed);
        shared.due.store(due + 1, Ordering::Release);
        if handle.state.load().is_blocked_by(BlockReason::Waiting) {
            let since = shared.woken_at.load(Ordering::Relaxed);
            shared
                .woken_at
                .store(since.min(self.now()), Ordering::Relaxed);
        }
        self.world.intrude();
        self.count_event();
        handle.wake();
        self.touch(vcpu);
    }

    pub(super) fn power_on(&self, vcpu: VcpuId) {
        let handle = self.handle(vcpu);
        if let Ok(claim) = handle.claim_power_on() {
            handle.shared().power_ons.fetch_add(1, Ordering::AcqRel);
            self.world.intrude();
            claim.commit();
            self.count_event();
            self.touch(vcpu);
        }
    }
}

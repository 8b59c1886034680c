//! The interrupt controller against a slow and obvious one, for random histories: nothing lost, doubled or out of order.

use std::{vec, vec::Vec};

use proptest::prelude::*;

use super::{
    interface::{OPEN, SPLIT_ENDS, SPURIOUS},
    machine::{Machine, SGI1R},
};

const VCPUS: usize = 3;
/// The interrupts in play: SGIs, a timer, and SPIs, of which the last ones are edge-triggered.
const INTIDS: [u32; 14] = [1, 2, 27, 40, 41, 42, 43, 44, 45, 46, 47, 48, 49, 50];
const FIRST_EDGE: u32 = 46;

#[derive(Clone, Copy, Debug, Default)]
struct Interrupt {
    enabled: bool,
    line: bool,
    latch: bool,
    active: Option<usize>,
    priority: u8,
    target: usize,
}

/// A vCPU's CPU interface: what it has acknowledged, the most recent last, with the priority; and its mask.
#[derive(Clone, Debug)]
struct Cpu {
    running: Vec<(u32, u8)>,
    /// With split ends: dropped, not deactivated.
    dropped: Vec<u32>,
    mask: u8,
    waits: bool,
}

#[derive(Clone, Debug)]
struct Model {
    /// By vCPU for private interrupts; shared ones are vCPU 0's.
    interrupts: [[Interrupt; INTIDS.len()]; VCPUS],
    cpus: Vec<Cpu>,
}

#[derive(Clone, Debug)]
enum Op {
    Enable(usize, usize, bool),
    Priority(usize, usize, u8),
    Line(usize, usize, bool),
    Pulse(usize),
    Sgi(usize, usize, usize),
    SetPending(usize, usize),
    ClearPending(usize, usize),
    Route(usize, usize),
    Mask(usize, u8),
    Acknowledge(usize),
    End(usize),
    Deactivate(usize, usize),
    Move(usize, usize),
    Leave(usize),
    Wait(usize),
    Look(usize, usize),
}

fn is_edge(intid: u32) -> bool {
    !(16..FIRST_EDGE).contains(&intid)
}

impl Model {
    fn at(&mut self, vcpu: usize, which: usize) -> &mut Interrupt {
        let owner = if INTIDS[which] < 32 { vcpu } else { 0 };
        &mut self.interrupts[owner][which]
    }

    fn is_pending(&mut self, vcpu: usize, which: usize) -> bool {
        let interrupt = self.at(vcpu, which);
        interrupt.latch || (interrupt.line && !is_edge(INTIDS[which]))
    }

    fn deliverable(&mut self, vcpu: usize) -> Option<(u8, usize)> {
        let candidates = (0..INTIDS.len()).filter(|&which| {
            let pending = self.is_pending(vcpu, which);
            let interrupt = *self.at(vcpu, which);
            let here = INTIDS[which] < 32 || interrupt.target == vcpu;
            pending && here && interrupt.enabled && interrupt.active.is_none()
        });
        let candidates: Vec<usize> = candidates.collect();
        candidates
            .into_iter()
            .map(|which| (self.at(vcpu, which).priority, which))
            .min()
    }

    fn acknowledge(&mut self, vcpu: usize) -> u32 {
        let Some((priority, which)) = self.deliverable(vcpu) else {
            return SPURIOUS;
        };
        let cpu = &self.cpus[vcpu];
        if priority >= cpu.mask || cpu.running.iter().any(|&(_, running)| running <= priority) {
            return SPURIOUS;
        }
        let interrupt = self.at(vcpu, which);
        interrupt.latch = false;
        interrupt.active = Some(vcpu);
        self.cpus[vcpu].running.push((INTIDS[which], priority));
        INTIDS[which]
    }
}

/// Both, side by side.
struct Pair {
    machine: Machine,
    model: Model,
    lines: Vec<crate::vgic::InterruptLine>,
    splits: bool,
}

impl Pair {
    fn new(list_registers: usize, splits: bool) -> Self {
        let mut machine = Machine::new(VCPUS, list_registers);
        for vcpu in 0..VCPUS {
            machine.interface(vcpu).machine_control = OPEN | if splits { SPLIT_ENDS } else { 0 };
            machine.migrate(vcpu, vcpu);
        }
        for intid in FIRST_EDGE..=50 {
            machine.set_edge(intid);
        }
        let lines = INTIDS
            .iter()
            .filter(|&&intid| intid >= 32)
            .map(|&intid| machine.line(intid))
            .collect();
        let interrupt = Interrupt {
            priority: 0x80,
            ..Interrupt::default()
        };
        let cpu = Cpu {
            running: vec![],
            dropped: vec![],
            mask: 0xff,
            waits: false,
        };
        let model = Model {
            interrupts: [[interrupt; INTIDS.len()]; VCPUS],
            cpus: vec![cpu; VCPUS],
        };
        Self {
            machine,
            model,
            lines,
            splits,
        }
    }

    /// A bound vCPU that is not waiting, which may be `vcpu`, to do what a guest does.
    fn runner(&self, vcpu: usize) -> Option<usize> {
        let runs =
            |vcpu: &usize| self.machine.places[*vcpu].is_some() && !self.model.cpus[*vcpu].waits;
        (0..VCPUS).map(|step| (vcpu + step) % VCPUS).find(runs)
    }

    fn apply(&mut self, op: &Op) {
        let spi = |which: usize| 3 + which % (INTIDS.len() - 3);
        match *op {
            Op::Enable(vcpu, which, on) => {
                let Some(runner) = self.runner(vcpu) else {
                    return;
                };
                self.model.at(runner, which).enabled = on;
                self.machine
                    .set_bit(runner, if on { 0x100 } else { 0x180 }, INTIDS[which]);
            }
            Op::Priority(vcpu, which, priority) => {
                let Some(runner) = self.runner(vcpu) else {
                    return;
                };
                self.model.at(runner, which).priority = priority;
                self.machine.set_priority(runner, INTIDS[which], priority);
            }
            Op::Line(vcpu, which, level) if INTIDS[which] == 27 => {
                self.model.at(vcpu, which).line = level;
                self.machine.set_timer(vcpu, 0, level);
                // While unbound the timer queue wakes it; that a guest changes its timer is no exit, looking is.
                if self.machine.places[vcpu].is_none() {
                    self.model.cpus[vcpu].waits = false;
                } else {
                    self.machine.has_deliverable(vcpu);
                    self.model.cpus[vcpu].waits &= !level;
                }
            }
            Op::Line(_, which, level) => {
                let which = spi(which);
                let interrupt = self.model.at(0, which);
                interrupt.latch |= level && !interrupt.line && is_edge(INTIDS[which]);
                interrupt.line = level;
                self.lines[which - 3].set_level(level);
            }
            Op::Pulse(which) => {
                let which = spi(which);
                self.model.at(0, which).latch |= is_edge(INTIDS[which]);
                self.lines[which - 3].pulse();
            }
            Op::Sgi(vcpu, which, to) => {
                let Some(runner) = self.runner(vcpu) else {
                    return;
                };
                self.model.at(to, which % 2).latch = true;
                self.machine.write_register(
                    runner,
                    SGI1R,
                    u64::from(INTIDS[which % 2]) << 24 | 1 << to,
                );
            }
            Op::SetPending(vcpu, which) => {
                let Some(runner) = self.runner(vcpu) else {
                    return;
                };
                self.model.at(runner, which).latch = true;
                self.machine.set_bit(runner, 0x200, INTIDS[which]);
            }
            Op::ClearPending(vcpu, which) => {
                let Some(runner) = self.runner(vcpu) else {
                    return;
                };
                self.model.at(runner, which).latch = false;
                self.machine.set_bit(runner, 0x280, INTIDS[which]);
            }
            Op::Route(which, vcpu) => {
                if self.runner(0) == Some(0) {
                    self.model.at(0, spi(which)).target = vcpu;
                    self.machine.route(INTIDS[spi(which)], vcpu);
                }
            }
            Op::Mask(vcpu, mask) => {
                let Some(runner) = self.runner(vcpu) else {
                    return;
                };
                self.model.cpus[runner].mask = mask;
                let control = &mut self.machine.interface(runner).machine_control;
                *control = *control & 0xff_ffff | u64::from(mask) << 24;
            }
            Op::Acknowledge(vcpu) => {
                let Some(runner) = self.runner(vcpu) else {
                    return;
                };
                assert_eq!(
                    self.machine.acknowledge(runner),
                    self.model.acknowledge(runner),
                    "vCPU {runner}"
                );
            }
            Op::End(vcpu) => self.end(vcpu),
            Op::Deactivate(vcpu, which) => self.deactivate(vcpu, which),
            Op::Move(vcpu, pcpu) => {
                if self.machine.places[vcpu].is_some() {
                    self.machine.unbind(vcpu);
                }
                if !self.machine.places.contains(&Some(pcpu)) {
                    self.machine.bind(vcpu, pcpu);
                }
            }
            Op::Leave(vcpu) => {
                if self.machine.places[vcpu].is_some() {
                    self.machine.unbind(vcpu);
                }
            }
            Op::Wait(vcpu) => self.wait(vcpu),
            Op::Look(vcpu, which) => {
                let Some(runner) = self.runner(vcpu) else {
                    return;
                };
                let (pending, active) = (
                    self.model.is_pending(runner, which),
                    self.model.at(runner, which).active,
                );
                assert_eq!(
                    self.machine.is_pending(runner, INTIDS[which]),
                    pending,
                    "pending {}",
                    INTIDS[which]
                );
                assert_eq!(
                    self.machine.is_active(runner, INTIDS[which]),
                    active.is_some(),
                    "active {}",
                    INTIDS[which]
                );
            }
        }
        self.wake();
        self.machine.settle();
    }

    fn end(&mut self, vcpu: usize) {
        let Some(runner) = self.runner(vcpu) else {
            return;
        };
        let Some((intid, _)) = self.model.cpus[runner].running.pop() else {
            return;
        };
        self.machine.end(runner, intid);
        let which = INTIDS.iter().position(|&other| other == intid).unwrap();
        if self.splits {
            self.model.cpus[runner].dropped.push(intid);
        } else {
            self.model.at(runner, which).active = None;
        }
    }

    /// Of what some vCPU has dropped; a shared one by whoever runs.
    fn deactivate(&mut self, vcpu: usize, which: usize) {
        let Some(runner) = self.runner(vcpu) else {
            return;
        };
        let dropped = &mut self.model.cpus[vcpu].dropped;
        if dropped.is_empty() {
            return;
        }
        let intid = dropped[which % dropped.len()];
        if intid < 32 && runner != vcpu {
            return;
        }
        dropped.retain(|&other| other != intid);
        self.machine.deactivate(runner, intid);
        let which = INTIDS.iter().position(|&other| other == intid).unwrap();
        self.model.at(runner, which).active = None;
    }

    fn wait(&mut self, vcpu: usize) {
        if self.machine.places[vcpu].is_none() || self.model.cpus[vcpu].waits {
            return;
        }
        let mask = self.model.cpus[vcpu].mask;
        let expected = self
            .model
            .deliverable(vcpu)
            .is_some_and(|(priority, _)| priority < mask);
        assert_eq!(
            self.machine.has_deliverable(vcpu),
            expected,
            "WFI of vCPU {vcpu}"
        );
        self.model.cpus[vcpu].waits = !expected;
        self.machine.looked &= !(1 << vcpu);
    }

    /// Who waits and has something to take has been woken.
    fn wake(&mut self) {
        for vcpu in 0..VCPUS {
            let mask = self.model.cpus[vcpu].mask;
            let is_due = self
                .model
                .deliverable(vcpu)
                .is_some_and(|(priority, _)| priority < mask);
            if self.model.cpus[vcpu].waits && is_due {
                let looked = self.machine.looked >> vcpu & 1 != 0;
                assert!(
                    looked || self.machine.was_woken(vcpu),
                    "vCPU {vcpu} waits for ever"
                );
                self.model.cpus[vcpu].waits = false;
            }
        }
    }
}

fn op() -> impl Strategy<Value = Op> {
    let vcpu = 0..VCPUS;
    let which = 0..INTIDS.len();
    let priority = (0u8..6).prop_map(|level| 0x40 + (level << 3));
    prop_oneof![
        4 => (vcpu.clone(), which.clone(), any::<bool>()).prop_map(|(v, i, on)| Op::Enable(v, i, on)),
        1 => (vcpu.clone(), which.clone(), priority.clone()).prop_map(|(v, i, p)| Op::Priority(v, i, p)),
        4 => (vcpu.clone(), which.clone(), any::<bool>()).prop_map(|(v, i, on)| Op::Line(v, i, on)),
        3 => which.clone().prop_map(Op::Pulse),
        2 => (vcpu.clone(), which.clone(), vcpu.clone()).prop_map(|(v, i, to)| Op::Sgi(v, i, to)),
        1 => (vcpu.clone(), which.clone()).prop_map(|(v, i)| Op::SetPending(v, i)),
        1 => (vcpu.clone(), which.clone()).prop_map(|(v, i)| Op::ClearPending(v, i)),
        1 => (which.clone(), vcpu.clone()).prop_map(|(i, v)| Op::Route(i, v)),
        1 => (vcpu.clone(), priority).prop_map(|(v, p)| Op::Mask(v, p + 0x18)),
        8 => vcpu.clone().prop_map(Op::Acknowledge),
        6 => vcpu.clone().prop_map(Op::End),
        4 => (vcpu.clone(), which.clone()).prop_map(|(v, i)| Op::Deactivate(v, i)),
        2 => (vcpu.clone(), 0..VCPUS).prop_map(|(v, p)| Op::Move(v, p)),
        1 => vcpu.clone().prop_map(Op::Leave),
        1 => vcpu.clone().prop_map(Op::Wait),
        3 => (vcpu, which).prop_map(|(v, i)| Op::Look(v, i)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_histories_go_as_in_the_model(
        list_registers in prop::sample::select(vec![1usize, 2, 4, 16]),
        splits in any::<bool>(),
        ops in prop::collection::vec(op(), 1..250),
    ) {
        let mut pair = Pair::new(list_registers, splits);
        // Most histories have something to deliver.
        for which in 0..INTIDS.len() {
            for vcpu in 0..VCPUS {
                if which < 3 || vcpu == 0 {
                    pair.apply(&Op::Enable(vcpu, which, which % 3 != 2));
                }
            }
        }
        for op in &ops {
            pair.apply(op);
        }
    }
}

//! What the runner is told: how the run ended and what each CPU did, and in a panic where each of them was.

use alloc::{collections::BTreeMap, format, string::String, vec::Vec};
use core::{
    fmt::Write,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

use trapline_demos::wire::{ClockReport, ExitStatus, PcpuReport, Report, VcpuReport};
use trapline_handlers::vm::VmEnd;
use trapline_platform::{boot, channel, heap, power, relax, timer};
use trapline_sched::{HaltPolls, PcpuId};
use trapline_vcpu::decode::ExitClass;

use super::{
    Guest, GuestVcpu, MACHINE, Machine,
    life::{Outcome, Slot},
};

/// How many events of each pCPU a panic shows.
const EVENTS_IN_PANIC: usize = 16;

/// Ends the run: the last word to the runner, and the machine is off.
pub(super) fn end(status: ExitStatus, why: &str) -> ! {
    send(&Report::Exit(status, why));
    power::off()
}

/// Whoever has it is the one that ends the run: what must be over by then asks for it.
pub(super) struct LastWord(());

impl LastWord {
    /// For the first pCPU that comes here; the others wait for the end.
    fn take() -> Self {
        static IS_TAKEN: AtomicBool = AtomicBool::new(false);
        if !IS_TAKEN.swap(true, Relaxed) {
            return Self(());
        }
        loop {
            relax::relax();
        }
    }
}

/// Answers whoever still waits, reports on the guests, which have all ended, and ends the run.
pub(super) fn finish(machine: &Machine) -> ! {
    let word = LastWord::take();
    machine.desk.close(&word);
    machine.slots.iter().for_each(|slot| slot.dismiss(&word));
    let now = timer::now();
    send(&Report::Clock(ClockReport {
        frequency_hz: timer::frequency(),
        elapsed_ticks: now - machine.started_at,
    }));
    let are_several = machine.slots.len() > 1;
    let mut calls = BTreeMap::new();
    for slot in &machine.slots {
        let totals = totals(slot, now);
        totals.report(slot.index, are_several);
        for (handler, count) in totals.calls {
            *calls.entry(handler).or_insert(0) += count;
        }
    }
    for id in (0..machine.pcpu_count as u16).filter_map(PcpuId::new) {
        send(&Report::Pcpu(pcpu_report(machine, id, now)));
    }
    for (handler, calls) in calls {
        send(&Report::Counter(&format!("calls_{handler}"), calls));
    }
    report_memory(machine);
    let (status, why) = report_ends(machine);
    end(status, &why)
}

/// All lives of a guest together.
fn totals(slot: &Slot, now: u64) -> Totals {
    let sum = slot.look(true, |life, guest| {
        let mut totals = life.totals.clone();
        if let Some(guest) = guest {
            totals.add(guest, now);
        }
        totals
    });
    sum.unwrap_or_default()
}

/// Where the hypervisor's own memory goes, in bytes.
fn report_memory(machine: &Machine) {
    let image = boot::image_sizes();
    for (part, bytes) in [
        ("text", image.text),
        ("rodata", image.rodata),
        ("data", image.data),
        ("stacks", image.stacks),
        ("heap_room", image.heap),
        ("heap_at_start", machine.heap_at_start.load(Relaxed)),
        ("heap_at_end", heap::bytes_in_use()),
    ] {
        send(&Report::Counter(&format!("memory_{part}"), bytes));
    }
}

/// Says how each guest ended; returns how the run did.
fn report_ends(machine: &Machine) -> (ExitStatus, String) {
    let mut worst = (
        ExitStatus::PoweredOff,
        String::from("all guests powered off"),
    );
    for slot in &machine.slots {
        let outcome = slot.look(true, |life, _| outcome(&life.outcome));
        let (status, why): (_, String) = outcome.expect("the lock was waited for");
        let name = &slot.config.name;
        send(&Report::Guest(slot.index as u64, status, name, &why));
        if let [_] = machine.slots.as_slice() {
            worst = (status, format!("the guest {why}"));
        } else if status.code() > worst.0.code() {
            worst = (status, format!("guest {name} {why}"));
        }
    }
    worst
}

/// The status and the words for how a guest ended.
fn outcome(outcome: &Outcome) -> (ExitStatus, String) {
    use ExitStatus::{GuestFailed, PoweredOff};
    match outcome {
        Outcome::NeverStarted => (PoweredOff, "was never started".into()),
        Outcome::Stopped => (PoweredOff, "was stopped from outside".into()),
        Outcome::Refused(why) => (GuestFailed, format!("did not start: {why}")),
        Outcome::Ended(VmEnd::PowerOff) => (PoweredOff, "powered off".into()),
        Outcome::Ended(VmEnd::Reset) => (PoweredOff, "asked for a reset, which ends it".into()),
        Outcome::Ended(VmEnd::Crash(why)) => (GuestFailed, format!("crashed: {why}")),
        Outcome::Ended(VmEnd::Stopped(why)) => (GuestFailed, format!("was stopped: {why}")),
    }
}

/// What was counted of a guest that is no more.
#[derive(Clone, Default)]
pub(super) struct Totals {
    vcpus: Vec<VcpuTotals>,
    /// By handler.
    calls: BTreeMap<String, u64>,
}

#[derive(Clone, Copy, Default)]
struct VcpuTotals {
    report: VcpuReport,
    fp_saves: u64,
    context_registers: u64,
    halt_polls: HaltPolls,
}

impl Totals {
    /// Adds what was counted of `guest` until `now`. Not on an exit path: it allocates.
    pub(super) fn add(&mut self, guest: &Guest, now: u64) {
        self.vcpus
            .resize(guest.handles.len(), VcpuTotals::default());
        for (sum, handle) in self.vcpus.iter_mut().zip(&guest.handles) {
            sum.report.add(&vcpu_report(handle, now));
            sum.fp_saves += handle.shared().fp_saves();
            sum.context_registers += handle.shared().context_registers();
            let polls = handle.snapshot(now).halt_polls;
            sum.halt_polls.polls += polls.polls;
            sum.halt_polls.won += polls.won;
            sum.halt_polls.ticks += polls.ticks;
        }
        for of_handler in guest.vm.registry().calls() {
            *self.calls.entry(of_handler.name).or_insert(0) += of_handler.calls;
        }
    }

    fn report(&self, guest: usize, are_several: bool) {
        let prefix = if are_several {
            format!("vm{guest}_")
        } else {
            String::new()
        };
        for (index, vcpu) in self.vcpus.iter().enumerate() {
            send(&Report::Vcpu(VcpuReport {
                guest: guest as u64,
                index: index as u64,
                ..vcpu.report
            }));
            for (what, count) in [
                ("fp_saves", vcpu.fp_saves),
                ("context_registers", vcpu.context_registers),
                ("halt_polls", vcpu.halt_polls.polls),
                ("halt_polls_won", vcpu.halt_polls.won),
                ("halt_poll_ticks", vcpu.halt_polls.ticks),
            ] {
                let name = format!("{what}_{prefix}vcpu{index}");
                send(&Report::Counter(&name, count));
            }
        }
    }
}

fn send(report: &Report<'_>) {
    channel::report(format_args!("{report}"));
}

fn vcpu_report(handle: &trapline_sched::VcpuHandle<GuestVcpu>, now: u64) -> VcpuReport {
    let snapshot = handle.snapshot(now);
    let shared = handle.shared();
    let exits = |classes: &[ExitClass]| classes.iter().map(|&class| shared.exits(class)).sum();
    VcpuReport {
        guest: 0,
        index: 0,
        run_ticks: snapshot.times.run,
        ready_ticks: snapshot.times.ready,
        blocked_ticks: snapshot.times.blocked,
        switches: snapshot.switches,
        migrations_loaded: snapshot.migrations.loaded,
        migrations_queued: snapshot.migrations.queued,
        migrations_parked: snapshot.migrations.parked,
        exits_interrupt: exits(&[ExitClass::Interrupt]),
        exits_call: exits(&[ExitClass::Hvc, ExitClass::Smc]),
        exits_register: exits(&[ExitClass::SystemRegister]),
        exits_mmio: exits(&[ExitClass::Mmio]),
        exits_wait: exits(&[ExitClass::WaitInterrupt, ExitClass::WaitEvent]),
        exits_abort: exits(&[ExitClass::DataAbort, ExitClass::InstructionAbort]),
        exits_fp: exits(&[ExitClass::FloatingPoint]),
        exits_other: exits(&[ExitClass::SError, ExitClass::Other]),
    }
}

fn pcpu_report(machine: &Machine, id: PcpuId, now: u64) -> PcpuReport {
    let counters = machine
        .scheduler
        .pcpu_counters(id, now)
        .expect("the machine has the pCPU");
    PcpuReport {
        index: id.index() as u64,
        busy_ticks: counters.times.busy,
        idle_ticks: counters.times.idle,
        switches: counters.switches,
        kicks_sent: counters.kicks_sent,
        kicks_received: counters.kicks_received,
        handed_over: counters.handed_over,
        exit_allocations: heap::counts(id.index() as u16).allocations_on_exit_path,
    }
}

/// The panic hook: where each vCPU is and what each pCPU did last. It locks nothing.
pub(super) fn describe_pcpus(out: &mut dyn Write) {
    let Some(machine) = MACHINE.get() else { return };
    let now = timer::now();
    for slot in &machine.slots {
        let said = slot.look(false, |life, guest| {
            let _ = writeln!(out, "guest {}: {}", slot.config.name, life.word());
            for handle in guest.iter().flat_map(|guest| &guest.handles) {
                let _ = writeln!(out, "{:?}", handle.snapshot(now));
            }
        });
        if said.is_none() {
            let _ = writeln!(out, "guest {}: being worked on", slot.config.name);
        }
    }
    for id in (0..machine.pcpu_count as u16).filter_map(PcpuId::new) {
        let Some(ring) = machine.scheduler.trace(id) else {
            continue;
        };
        let _ = writeln!(out, "{id}: last events, oldest first");
        let mut seen = 0usize;
        ring.visit(|_| seen += 1);
        let mut position = 0;
        ring.visit(|record| {
            position += 1;
            if position + EVENTS_IN_PANIC > seen {
                let _ = writeln!(out, "  {} {:?}", record.time, record.event);
            }
        });
    }
}

//! What the runner is told: how the run ended and what each CPU did, and in a panic where each of them was.

use core::fmt::Write;

use trapline_demos::wire::{ClockReport, ExitStatus, PcpuReport, Report, VcpuReport};
use trapline_platform::{channel, heap, power, timer};
use trapline_sched::PcpuId;
use trapline_vcpu::decode::ExitClass;

use super::{GuestVcpu, MACHINE, Machine, outcome};

/// How many events of each pCPU a panic shows.
const EVENTS_IN_PANIC: usize = 16;

/// Ends the run: the last word to the runner, and the machine is off.
pub(super) fn end(status: ExitStatus, why: &str) -> ! {
    send(&Report::Exit(status, why));
    power::off()
}

/// Reports on the guest that has ended, and ends the run.
pub(super) fn finish(machine: &Machine) -> ! {
    let now = timer::now();
    send(&Report::Clock(ClockReport {
        frequency_hz: timer::frequency(),
        elapsed_ticks: now - machine.started_at,
    }));
    for (index, handle) in machine.guest.handles.iter().enumerate() {
        send(&Report::Vcpu(vcpu_report(index, handle, now)));
        let shared = handle.shared();
        for (what, count) in [
            ("fp_saves", shared.fp_saves()),
            ("context_registers", shared.context_registers()),
        ] {
            let name = alloc::format!("{what}_vcpu{index}");
            send(&Report::Counter(&name, count));
        }
    }
    for id in (0..machine.pcpu_count as u16).filter_map(PcpuId::new) {
        send(&Report::Pcpu(pcpu_report(machine, id, now)));
    }
    for calls in machine.guest.vm.registry().calls() {
        send(&Report::Counter(
            &alloc::format!("calls_{}", calls.name),
            calls.calls,
        ));
    }
    let end_of_vm = machine
        .guest
        .vm
        .end()
        .expect("finish is called when the VM has ended");
    let (status, why) = outcome(end_of_vm);
    end(status, &why)
}

fn send(report: &Report<'_>) {
    channel::report(format_args!("{report}"));
}

fn vcpu_report(
    index: usize,
    handle: &trapline_sched::VcpuHandle<GuestVcpu>,
    now: u64,
) -> VcpuReport {
    let snapshot = handle.snapshot(now);
    let shared = handle.shared();
    let exits = |classes: &[ExitClass]| classes.iter().map(|&class| shared.exits(class)).sum();
    VcpuReport {
        guest: 0,
        index: index as u64,
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
        .pool
        .pcpu_counters(id, now)
        .expect("the pCPU is in the pool");
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
    for handle in &machine.guest.handles {
        let _ = writeln!(out, "{:?}", handle.snapshot(now));
    }
    for id in (0..machine.pcpu_count as u16).filter_map(PcpuId::new) {
        let Some(ring) = machine.pool.trace(id) else {
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

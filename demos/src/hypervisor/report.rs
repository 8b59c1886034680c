//! What the runner is told: how the run ended and what each CPU did, and in a panic where each of them was.

use alloc::{collections::BTreeMap, format, string::String};
use core::fmt::Write;

use trapline_demos::wire::{ClockReport, ExitStatus, PcpuReport, Report, VcpuReport};
use trapline_handlers::vm::VmEnd;
use trapline_platform::{channel, heap, power, timer};
use trapline_sched::PcpuId;
use trapline_vcpu::decode::ExitClass;

use super::{Guest, GuestVcpu, MACHINE, Machine};

/// How many events of each pCPU a panic shows.
const EVENTS_IN_PANIC: usize = 16;

/// Ends the run: the last word to the runner, and the machine is off.
pub(super) fn end(status: ExitStatus, why: &str) -> ! {
    send(&Report::Exit(status, why));
    power::off()
}

/// Reports on the guests, which have all ended, and ends the run.
pub(super) fn finish(machine: &Machine) -> ! {
    let now = timer::now();
    send(&Report::Clock(ClockReport {
        frequency_hz: timer::frequency(),
        elapsed_ticks: now - machine.started_at,
    }));
    let mut calls = BTreeMap::new();
    for guest in &machine.guests {
        report_vcpus(guest, machine.guests.len() > 1, now);
        for of_handler in guest.vm.registry().calls() {
            *calls.entry(of_handler.name).or_insert(0) += of_handler.calls;
        }
    }
    for id in (0..machine.pcpu_count as u16).filter_map(PcpuId::new) {
        send(&Report::Pcpu(pcpu_report(machine, id, now)));
    }
    for (handler, calls) in calls {
        send(&Report::Counter(&format!("calls_{handler}"), calls));
    }
    let (status, why) = report_ends(machine);
    end(status, &why)
}

/// Says how each guest ended; returns how the run did.
fn report_ends(machine: &Machine) -> (ExitStatus, String) {
    let mut worst = (
        ExitStatus::PoweredOff,
        String::from("all guests powered off"),
    );
    for guest in &machine.guests {
        let (status, why) = outcome(
            guest
                .vm
                .end()
                .expect("finish is called when all have ended"),
        );
        let name = guest.vm.name();
        send(&Report::Guest(guest.index as u64, status, name, &why));
        if let [_] = machine.guests.as_slice() {
            worst = (status, format!("the guest {why}"));
        } else if status.code() > worst.0.code() {
            worst = (status, format!("guest {name} {why}"));
        }
    }
    worst
}

/// The status and the words for how a guest ended.
fn outcome(end: &VmEnd) -> (ExitStatus, String) {
    match end {
        VmEnd::PowerOff => (ExitStatus::PoweredOff, "powered off".into()),
        VmEnd::Reset => (
            ExitStatus::PoweredOff,
            "asked for a reset, which ends it".into(),
        ),
        VmEnd::Crash(why) => (ExitStatus::GuestFailed, format!("crashed: {why}")),
        VmEnd::Stopped(why) => (ExitStatus::GuestFailed, format!("was stopped: {why}")),
    }
}

fn report_vcpus(guest: &Guest, are_several: bool, now: u64) {
    let prefix = if are_several {
        format!("vm{}_", guest.index)
    } else {
        String::new()
    };
    for (index, handle) in guest.handles.iter().enumerate() {
        send(&Report::Vcpu(VcpuReport {
            guest: guest.index as u64,
            index: index as u64,
            ..vcpu_report(handle, now)
        }));
        let shared = handle.shared();
        for (what, count) in [
            ("fp_saves", shared.fp_saves()),
            ("context_registers", shared.context_registers()),
        ] {
            let name = format!("{what}_{prefix}vcpu{index}");
            send(&Report::Counter(&name, count));
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
    for guest in &machine.guests {
        let _ = writeln!(out, "guest {}", guest.vm.name());
        for handle in &guest.handles {
            let _ = writeln!(out, "{:?}", handle.snapshot(now));
        }
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

//! What is shown as a table, row by row.

use alloc::{
    format,
    string::{String, ToString},
    vec::Vec,
};
use core::ops::Range;

use trapline_demos::control::{HELP, Part};
use trapline_handlers::manager::{PoolStatus, VcpuSettings, VcpuStatus};
use trapline_platform::timer;
use trapline_sched::PcpuId;

use super::answer;
use crate::hypervisor::{Machine, PcpuPower};

/// How many rows are shown at a time: what a pCPU does in between is to be short.
const ROWS: usize = 4;

const SETTINGS: &str =
    "weight\tslice_us\tcap\tpriority\tbudget_us\tperiod_us\thalt_poll_us\taffinity\tsoft_affinity";

/// A table that is being shown.
pub(super) struct Table {
    columns: String,
    /// What the rows are of.
    of: Of,
    /// What is still to come, by number.
    rest: Range<usize>,
    /// The vCPU of the VM that comes next.
    vcpu: usize,
}

enum Of {
    Help,
    Vms,
    Vcpus,
    Pools,
    Pcpus,
}

impl Table {
    const fn new(columns: String, of: Of, rest: Range<usize>) -> Self {
        Self {
            columns,
            of,
            rest,
            vcpu: 0,
        }
    }

    /// What commands there are.
    pub(super) fn help() -> Self {
        Self::new("command\tmeaning".into(), Of::Help, 0..HELP.len())
    }

    /// All VMs.
    pub(super) fn vms(machine: &Machine) -> Self {
        let columns = format!("vm\tstate\tpool\tvcpus\t{SETTINGS}");
        Self::new(columns, Of::Vms, 0..machine.slots.len())
    }

    /// The vCPUs of these VMs.
    pub(super) fn vcpus(vms: Range<usize>) -> Self {
        let columns = format!(
            "vcpu\tstate\tpcpu\t{SETTINGS}\trun_ms\tready_ms\tblocked_ms\tpolls\tpolls_won\tpolled_ms"
        );
        Self::new(columns, Of::Vcpus, vms)
    }

    /// All pools.
    pub(super) fn pools(machine: &Machine) -> Self {
        let columns = "pool\tname\tpolicy\tpcpus\tidle\tvcpus";
        let count = machine.scheduler.pools().len();
        Self::new(columns.into(), Of::Pools, 0..count)
    }

    /// All pCPUs of the machine.
    pub(super) fn pcpus(machine: &Machine) -> Self {
        let columns = "pcpu\tpool\tstate\tbusy_ms\tidle_ms\tswitches\tkicks";
        Self::new(columns.into(), Of::Pcpus, 0..machine.pcpu_count)
    }

    /// Shows the next rows as a part of the answer to command `number`; true if there are more.
    pub(super) fn show(&mut self, machine: &Machine, number: u32) -> bool {
        if !self.columns.is_empty() {
            answer(number, Part::Columns(&core::mem::take(&mut self.columns)));
        }
        for _ in 0..ROWS {
            let Some(row) = self.next(machine) else {
                return false;
            };
            answer(number, Part::Row(&row));
        }
        true
    }

    fn next(&mut self, machine: &Machine) -> Option<String> {
        loop {
            let index = self.rest.start;
            if index == self.rest.end {
                return None;
            }
            let row = match self.of {
                Of::Help => Some(format!("{}\t{}", HELP[index].0, HELP[index].1)),
                Of::Vms => Some(vm(machine, index)),
                Of::Vcpus => {
                    let row = vcpu(machine, index, self.vcpu);
                    self.vcpu += 1;
                    row
                }
                Of::Pools => pool(machine, index),
                Of::Pcpus => pcpu(machine, index),
            };
            let is_last_of_vm = matches!(self.of, Of::Vcpus) && row.is_none();
            if is_last_of_vm || !matches!(self.of, Of::Vcpus) {
                self.rest.start += 1;
                self.vcpu = 0;
            }
            if row.is_some() {
                return row;
            }
        }
    }
}

fn vm(machine: &Machine, vm: usize) -> String {
    let status = machine.manager().vm(vm);
    let settings = match &status.settings {
        Some(settings) => cells(settings),
        // One of them would be as wrong as another.
        None => ["mixed"; 9].join("\t"),
    };
    format!(
        "{}\t{}\t{}\t{}\t{settings}",
        status.name, status.state, status.pool, status.vcpus
    )
}

/// `None` if the VM has fewer vCPUs.
fn vcpu(machine: &Machine, vm: usize, vcpu: usize) -> Option<String> {
    let VcpuStatus {
        activity,
        pcpu,
        settings,
        times,
        halt_polls,
    } = machine.manager().vcpu(vm, vcpu, timer::now()).ok()?;
    let name = &machine.slots[vm].config.name;
    let pcpu = pcpu.map_or("-".into(), |pcpu| pcpu.index().to_string());
    let times = [times.run, times.ready, times.blocked].map(milliseconds);
    Some(format!(
        "{name}/{vcpu}\t{}\t{pcpu}\t{}\t{}\t{}\t{}\t{}",
        activity.word(),
        cells(&settings),
        times.join("\t"),
        halt_polls.polls,
        halt_polls.won,
        milliseconds(halt_polls.ticks)
    ))
}

/// `None` if a pool has gone meanwhile.
fn pool(machine: &Machine, index: usize) -> Option<String> {
    let PoolStatus { info, idle } = machine.manager().pools().into_iter().nth(index)?;
    let policy = if info.has_failed {
        format!("round-robin({}-failed)", info.policy)
    } else {
        info.policy.into()
    };
    let idle = match idle {
        idle if idle.is_empty() => "-".into(),
        idle => idle.to_string(),
    };
    let (id, name, pcpus, vcpus) = (info.id, info.name, info.pcpus, info.vcpus.len());
    Some(format!("{id}\t{name}\t{policy}\t{pcpus}\t{idle}\t{vcpus}"))
}

fn pcpu(machine: &Machine, index: usize) -> Option<String> {
    let id = PcpuId::new(index as u16)?;
    let status = machine.manager().pcpu(id, timer::now())?;
    let counters = status.counters;
    let state = match machine.pcpu_power(id)? {
        PcpuPower::On if status.is_idle => "idle",
        PcpuPower::On => "busy",
        PcpuPower::Leaving => "leaving",
        PcpuPower::Off => "off",
        PcpuPower::Coming => "coming",
    };
    let pool = status.pool.map_or("-".into(), |pool| pool.to_string());
    let times = [counters.times.busy, counters.times.idle].map(milliseconds);
    Some(format!(
        "{index}\t{pool}\t{state}\t{}\t{}\t{}",
        times.join("\t"),
        counters.switches,
        counters.kicks_received
    ))
}

/// The columns of [`SETTINGS`].
fn cells(settings: &VcpuSettings) -> String {
    let VcpuSettings {
        entitlement,
        affinity,
        soft_affinity,
    } = settings;
    let or_none = |value: Option<u64>| value.map_or("-".into(), |value| value.to_string());
    let reservation = entitlement.reservation;
    let cells: Vec<String> = [
        entitlement.weight.get().to_string(),
        or_none(entitlement.slice.map(microseconds)),
        or_none(entitlement.cap.map(u64::from)),
        entitlement.priority.to_string(),
        or_none(reservation.map(|reservation| microseconds(reservation.budget()))),
        or_none(reservation.map(|reservation| microseconds(reservation.period()))),
        microseconds(entitlement.halt_poll).to_string(),
        affinity.to_string(),
        match soft_affinity {
            none if none.is_empty() => "-".into(),
            some => some.to_string(),
        },
    ]
    .into();
    cells.join("\t")
}

fn microseconds(ticks: u64) -> u64 {
    let scaled = u128::from(ticks) * 1_000_000;
    scaled.div_ceil(u128::from(timer::frequency())) as u64
}

fn milliseconds(ticks: u64) -> String {
    let tenths = u128::from(ticks) * 10_000 / u128::from(timer::frequency());
    format!("{}.{}", tenths / 10, tenths % 10)
}

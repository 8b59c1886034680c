//! The calls with which a guest learns what its vCPUs cost, and which of another guest's ran at the same time.

use alloc::{
    sync::{Arc, Weak},
    vec::Vec,
};

use trapline_demos::config::MAX_GUESTS;
use trapline_handlers::{Claim, ExitHandler, GuestCpu};
use trapline_platform::{relax::Lock, timer};
use trapline_sched::{PcpuId, TraceEvent, TraceRecord, VcpuHandle, VcpuId};
use trapline_vcpu::{Action, Exit, decode::ExitClass};

use crate::hypervisor::{Guest, GuestVcpu, Machine};

/// How often the vCPU x1 of the guest that calls has left it, this call included.
const EXITS: u32 = 0xc600_0013;
const INVALID_PARAMETERS: u64 = -2_i64 as u64;

/// The vCPUs of each guest.
static VCPUS: Lock<[Vec<VcpuId>; MAX_GUESTS]> = Lock::new([const { Vec::new() }; MAX_GUESTS]);

struct Counts(Vec<Weak<VcpuHandle<GuestVcpu>>>);

impl ExitHandler for Counts {
    fn name(&self) -> &str {
        "counts"
    }

    fn handle(&self, guest: &mut GuestCpu<'_>, _exit: &Exit) -> Action {
        let exits = self.exits(guest.register(1));
        guest.set_register(0, exits.unwrap_or(INVALID_PARAMETERS));
        Action::Finish
    }
}

impl Counts {
    fn exits(&self, vcpu: u64) -> Option<u64> {
        let handle = self.0.get(usize::try_from(vcpu).ok()?)?.upgrade()?;
        let classes = ExitClass::ALL.into_iter();
        Some(classes.map(|class| handle.shared().exits(class)).sum())
    }
}

/// From now on `guest` can ask, and be asked about.
pub fn register(guest: &Guest) {
    VCPUS.lock()[guest.index] = guest.handles.iter().map(|handle| handle.id()).collect();
    let handles = guest.handles.iter().map(Arc::downgrade).collect();
    let claims = [Claim::Calls(EXITS..=EXITS)];
    let registered = guest
        .vm
        .registry()
        .register(&claims, Arc::new(Counts(handles)));
    registered.expect("nobody else claims calls of this owner");
}

/// For how much of the time that all pCPUs' traces cover either all vCPUs of guest `guest` ran or none, in thousandths. `None`: there is
/// no such guest, or the traces have no time in common.
pub fn together(machine: &Machine, guest: usize) -> Option<u64> {
    let vcpus = VCPUS.lock().get(guest)?.clone();
    let mut changes = Vec::new();
    let mut start = 0;
    for pcpu in machine.scheduler.pcpus().iter() {
        let records = machine.scheduler.trace(pcpu)?.records();
        start = start.max(records.first()?.time);
        let here = records
            .into_iter()
            .filter_map(|record| change(record, pcpu));
        changes.extend(here);
    }
    changes.sort_by_key(|&(time, ..)| time);
    changes.push((timer::now(), PcpuId::new(0)?, None));
    let mut running = Vec::new();
    running.resize(machine.pcpu_count, None);
    let (mut last, mut uniform, mut all) = (start, 0, 0);
    for (time, pcpu, who) in changes {
        let count = running
            .iter()
            .flatten()
            .filter(|who| vcpus.contains(who))
            .count();
        let passed = time.saturating_sub(last);
        if time > start {
            all += passed;
            uniform += passed * u64::from(count == 0 || count == vcpus.len());
            last = time;
        }
        running[pcpu.index()] = who;
    }
    (all > 0).then(|| uniform * 1000 / all)
}

/// Who runs on `pcpu` from `record` on, if that says so.
fn change(record: TraceRecord, pcpu: PcpuId) -> Option<(u64, PcpuId, Option<VcpuId>)> {
    let who = match record.event {
        TraceEvent::Switch(vcpu) => Some(vcpu),
        TraceEvent::Park(_) | TraceEvent::WaitLoaded(_) | TraceEvent::Idle => None,
        _ => return None,
    };
    Some((record.time, pcpu, who))
}

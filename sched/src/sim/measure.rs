//! What the VMs and the pCPUs of a scenario got from one moment on, against what VMs are entitled to.

use super::{
    Action, ActionSpec, PcpuWork, PoolSpec, Scenario, VmOutcome, VmSpec,
    engine::{Engine, Meter},
    workload::Progress,
};
use crate::{
    Migrations, PcpuSet, VcpuId, VcpuTimes,
    policies::{Credit, Deadline, Fair},
};
use alloc::{string::String, vec, vec::Vec};
use core::ops::{Range, Sub};

/// What a VM's vCPUs have done since they were created, all together.
#[derive(Clone, Copy, Default)]
struct Sums {
    run: u64,
    ready: u64,
    blocked: u64,
    migrations: u64,
    far_migrations: u64,
    switches: u64,
    yields: u64,
    rounds: u64,
    deadlines: u64,
    misses: u64,
    excused: u64,
}

impl Sub for Sums {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            run: self.run - before.run,
            ready: self.ready - before.ready,
            blocked: self.blocked - before.blocked,
            migrations: self.migrations - before.migrations,
            far_migrations: self.far_migrations - before.far_migrations,
            switches: self.switches - before.switches,
            yields: self.yields - before.yields,
            rounds: self.rounds - before.rounds,
            deadlines: self.deadlines - before.deadlines,
            misses: self.misses - before.misses,
            excused: self.excused - before.excused,
        }
    }
}

/// How everything was when the measurement began.
pub(super) struct Baseline {
    time: u64,
    vms: Vec<Sums>,
    pcpus: Vec<PcpuWork>,
}

impl Baseline {
    /// From now on it is measured.
    pub(super) fn take(engine: &Engine) -> Self {
        for (_, meter) in engine.vms() {
            *meter.wakeup.borrow_mut() = super::Histogram::reserved();
            meter.worst_wait.set(0);
        }
        Self {
            time: engine.now(),
            vms: engine
                .vms()
                .map(|(shared, meter)| sums(engine, &shared.vcpus, &shared.progress, meter))
                .collect(),
            pcpus: engine.work(),
        }
    }
}

fn sums(engine: &Engine, vcpus: &Range<u16>, progress: &Progress, meter: &Meter) -> Sums {
    let mut sums = Sums {
        yields: meter.yields.get(),
        far_migrations: meter.far.get(),
        rounds: progress.rounds.get(),
        deadlines: progress.deadlines.get(),
        misses: progress.misses.get(),
        excused: progress.excused.get(),
        ..Sums::default()
    };
    for vcpu in vcpus.clone().map(VcpuId::new) {
        let snapshot = engine.handle(vcpu).snapshot(engine.now());
        let VcpuTimes {
            run,
            ready,
            blocked,
        } = snapshot.times;
        sums.run += run;
        sums.ready += ready;
        sums.blocked += blocked;
        sums.migrations += Migrations::total(snapshot.migrations);
        sums.switches += snapshot.switches;
    }
    sums
}

/// What each VM got since `baseline`.
pub(super) fn vms(engine: &Engine, scenario: &Scenario, baseline: &Baseline) -> Vec<VmOutcome> {
    let measured = (engine.now() - baseline.time).max(1) as f64;
    let all = measured * f64::from(scenario.topology.pcpus);
    let got: Vec<Sums> = engine
        .vms()
        .zip(&baseline.vms)
        .map(|((shared, meter), &before)| {
            sums(engine, &shared.vcpus, &shared.progress, meter) - before
        })
        .collect();
    let wanted: Vec<f64> = got
        .iter()
        .zip(&scenario.vms)
        .map(|(got, vm)| (got.run + got.ready) as f64 / measured / f64::from(vm.vcpus))
        .collect();
    let entitled = entitled(scenario, &wanted);
    let outcome = |(index, (shared, meter)): (usize, _)| {
        let (vm, got): (_, &Sums) = (&scenario.vms[index], &got[index]);
        let (shared, meter): (&super::workload::Shared, &Meter) = (shared, meter);
        VmOutcome {
            name: vm.name.clone(),
            vcpus: vm.vcpus,
            pool: pool_of(engine, shared),
            run: got.run,
            ready: got.ready,
            blocked: got.blocked,
            share: got.run as f64 / all,
            entitled: entitled[index],
            wakeup: meter.wakeup.take(),
            worst_wait: meter.worst_wait.get(),
            migrations: got.migrations,
            far_migrations: got.far_migrations,
            switches: got.switches,
            yields: got.yields,
            deadlines: got.deadlines,
            misses: got.misses,
            excused: got.excused,
            rounds: got.rounds,
            finished_at: shared.progress.finished_at.get(),
        }
    };
    engine.vms().enumerate().map(outcome).collect()
}

/// What the pool of a VM is called.
fn pool_of(engine: &Engine, shared: &super::workload::Shared) -> String {
    let id = engine.handle(VcpuId::new(shared.vcpus.start)).pool_id();
    let pools = engine.scheduler().pools().into_iter();
    let mut names = pools.filter(|pool| pool.id == id).map(|pool| pool.name);
    names.next().unwrap_or_default()
}

/// What each pCPU did since `baseline`.
pub(super) fn pcpus(engine: &Engine, baseline: &Baseline) -> Vec<PcpuWork> {
    let pairs = engine.work().into_iter().zip(&baseline.pcpus);
    pairs.map(|(now, &before)| now - before).collect()
}

/// Somebody changes who shall get what, or where.
fn changes_shares(spec: &ActionSpec) -> bool {
    let changes = |action: &Action| match action {
        Action::Pause { .. }
        | Action::Resume { .. }
        | Action::Migrate { .. }
        | Action::Drain(_)
        | Action::Undrain(_) => false,
        Action::SetWeight { .. }
        | Action::SetPriority { .. }
        | Action::SetCap { .. }
        | Action::SetBudget { .. }
        | Action::SetAffinity { .. }
        | Action::SetPolicy { .. }
        | Action::CreatePool { .. }
        | Action::RemovePool { .. }
        | Action::MovePcpu { .. }
        | Action::MoveVm { .. }
        | Action::Unplug(_)
        | Action::Plug { .. } => true,
    };
    spec.choices.iter().any(changes)
}

/// Where all of `vms`, which belong to a pool with `all`, may run, if all may run on the same pCPUs.
fn common_affinity(vms: &[(usize, &VmSpec)], all: PcpuSet) -> Option<PcpuSet> {
    let mut affinities = vms.iter().map(|(_, vm)| vm.affinity.unwrap_or(all));
    let first = affinities.next()?;
    affinities
        .all(|affinity| affinity == first)
        .then_some(first.intersection(all))
}

/// What part of all pCPUs each VM is entitled to, if each of its vCPUs wants to run for the part of the time that `wanted` says.
fn entitled(scenario: &Scenario, wanted: &[f64]) -> Vec<Option<f64>> {
    let mut entitled = vec![None; scenario.vms.len()];
    if scenario.actions.iter().any(changes_shares) {
        return entitled;
    }
    let pcpus = f64::from(scenario.topology.pcpus);
    for (number, pool) in scenario.pools().iter().enumerate() {
        let vms = scenario.vms.iter().enumerate();
        let vms: Vec<(usize, &VmSpec)> = vms.filter(|(_, vm)| vm.pool == number).collect();
        for (&(index, _), part) in vms.iter().zip(entitled_in(pool, &vms, wanted)) {
            entitled[index] = part.map(|part| part / pcpus);
        }
    }
    entitled
}

/// How much of a pCPU each of `vms`, which are those of `pool`, is entitled to.
fn entitled_in(pool: &PoolSpec, vms: &[(usize, &VmSpec)], wanted: &[f64]) -> Vec<Option<f64>> {
    let Some(affinity) = common_affinity(vms, pool.pcpus) else {
        return vec![None; vms.len()];
    };
    match &*pool.policy.name {
        Fair::NAME | Credit::NAME => {
            let has_caps = pool.policy.name == Credit::NAME;
            let kinds = vms.iter().map(|&(index, vm)| {
                let cap = vm.entitlement.cap.filter(|_| has_caps);
                let cap = cap.map_or(1.0, |cap| f64::from(cap) / 100.0 / f64::from(vm.vcpus));
                Kind {
                    count: f64::from(vm.vcpus),
                    weight: f64::from(vm.entitlement.weight.get()),
                    limit: wanted[index].min(cap).min(1.0),
                }
            });
            let kinds: Vec<Kind> = kinds.collect();
            let each = fill(&kinds, f64::from(affinity.len()));
            let parts = each.iter().zip(&kinds);
            parts.map(|(each, kind)| Some(each * kind.count)).collect()
        }
        Deadline::NAME => {
            let parts = vms.iter().map(|&(index, vm)| {
                let reservation = vm.entitlement.reservation?;
                let part = reservation.budget() as f64 / reservation.period() as f64;
                Some(part.min(wanted[index]) * f64::from(vm.vcpus))
            });
            parts.collect()
        }
        _ => vec![None; vms.len()],
    }
}

/// vCPUs that are alike.
struct Kind {
    count: f64,
    weight: f64,
    /// The most that each can get, in pCPUs.
    limit: f64,
}

/// What each of a kind gets of `pcpus`, by weight: what some cannot use is shared by the others.
fn fill(kinds: &[Kind], pcpus: f64) -> Vec<f64> {
    let mut parts: Vec<Option<f64>> = vec![None; kinds.len()];
    loop {
        let open = || kinds.iter().zip(&parts).filter(|(_, part)| part.is_none());
        let used: f64 = kinds
            .iter()
            .zip(&parts)
            .map(|(kind, part)| kind.count * part.unwrap_or(0.0))
            .sum();
        let weights: f64 = open().map(|(kind, _)| kind.count * kind.weight).sum();
        let unit = (pcpus - used).max(0.0) / weights.max(f64::MIN_POSITIVE);
        let full: Vec<usize> = (0..kinds.len())
            .filter(|&index| parts[index].is_none())
            .filter(|&index| kinds[index].weight * unit >= kinds[index].limit)
            .collect();
        if full.is_empty() {
            let part = |(kind, part): (&Kind, &Option<f64>)| part.unwrap_or(kind.weight * unit);
            return kinds.iter().zip(&parts).map(part).collect();
        }
        for index in full {
            parts[index] = Some(kinds[index].limit);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts<const N: usize>(pcpus: f64, kinds: [(f64, f64, f64); N]) -> [f64; N] {
        let kinds = kinds.map(|(count, weight, limit)| Kind {
            count,
            weight,
            limit,
        });
        let parts = fill(&kinds, pcpus);
        core::array::from_fn(|index| (parts[index] * 1000.0).round() / 1000.0)
    }

    #[test]
    fn what_one_cannot_use_is_shared_by_the_others() {
        let equal = [(1.0, 1.0, 1.0), (1.0, 2.0, 1.0), (1.0, 4.0, 1.0)];
        assert_eq!(parts(1.0, equal), [0.143, 0.286, 0.571]);
        assert_eq!(parts(2.0, equal), [0.333, 0.667, 1.0]);
        assert_eq!(parts(4.0, equal), [1.0, 1.0, 1.0]);
        let capped = [(2.0, 1.0, 0.25), (2.0, 1.0, 1.0)];
        assert_eq!(parts(2.0, capped), [0.25, 0.75]);
        assert_eq!(parts(1.0, [(1.0, 9.0, 0.0), (2.0, 1.0, 1.0)]), [0.0, 0.5]);
    }
}

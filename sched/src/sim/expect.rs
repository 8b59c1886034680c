//! What must be true of a whole run: shares and deadlines, as far as what happened meanwhile leaves them to the policy.
//!
//! Elsewhere: caps, period by period (`caps`).

use super::{Action, ActionSpec, Outcome, Scenario, VmSpec, When, Workload};
use crate::{
    PcpuId,
    policies::{Credit, Deadline, Fair, RoundRobin},
};

/// Of what a fair policy gives a VM, so much may be missing or too much, and so many slices of each of its vCPUs.
const TOLERANCE: f64 = 0.05;
const TOLERATED_SLICES: f64 = 8.0;
/// Of so many pCPUs each looks at all others where fewer might wait.
const ALL_LOOKED_AT: u32 = 16;

/// Where nothing but the policy decides who gets how much, each gets what it is entitled to.
pub(super) fn expect_fairness(scenario: &Scenario, outcome: &Outcome) {
    // One that waits for a lock spins, or lets others run, and is ready all the time as well.
    let is_busy =
        |vm: &VmSpec| matches!(vm.workload, Workload::CpuBound | Workload::SpinLock { .. });
    // Who lets others run may give away more than comes back.
    let yields = |vm: &VmSpec| vm.workload != Workload::CpuBound;
    let has_yields = scenario.vms.iter().any(yields);
    let is_steady = |vm: &VmSpec| is_busy(vm) && vm.start <= scenario.warm_up;
    if !scenario.actions.is_empty() || !scenario.vms.iter().all(is_steady) {
        return;
    }
    let pcpus = f64::from(scenario.topology.pcpus);
    for (index, (spec, vm)) in scenario.vms.iter().zip(&outcome.vms).enumerate() {
        let policy = scenario.policy_of(index);
        let knows_shares = [Fair::NAME, Credit::NAME].contains(&&*policy.name);
        let Some(entitled) = vm.entitled.filter(|_| knows_shares) else {
            continue;
        };
        let (may_give, may_gain) = (yields(spec), !yields(spec) && has_yields);
        let slice = spec.entitlement.slice.unwrap_or(0);
        let slice = slice.max(policy.options.slice_ticks) as f64;
        let slices = TOLERATED_SLICES * slice * f64::from(vm.vcpus);
        let all = outcome.virtual_time as f64 * pcpus;
        let tolerance = TOLERANCE * entitled + slices / all;
        assert!(
            vm.share <= entitled + tolerance || may_gain,
            "VM `{}` got {:.2} % of the pCPUs and is entitled to {:.2} %, give or take {:.2}",
            vm.name,
            vm.share * 100.0,
            entitled * 100.0,
            tolerance * 100.0
        );
        assert!(
            vm.share >= entitled - tolerance || may_give,
            "VM `{}` got {:.2} % of the pCPUs and is entitled to {:.2} %, give or take {:.2}",
            vm.name,
            vm.share * 100.0,
            entitled * 100.0,
            tolerance * 100.0
        );
    }
}

/// What the actions of a scenario leave of what budgets promise to a VM.
struct Disturbed<'a> {
    scenario: &'a Scenario,
    /// The number of the VM.
    index: usize,
}

impl Disturbed<'_> {
    /// Everything that somebody may do.
    fn actions(&self) -> impl Iterator<Item = &Action> {
        self.scenario.actions.iter().flat_map(|spec| &spec.choices)
    }

    /// Its jobs may be late although it has reserved enough: it was paused or moved away from where it has its reservation, or has to
    /// begin anew.
    fn may_be_late(&self) -> bool {
        let may_run_on = |pcpu: PcpuId| {
            let affinity = self.scenario.vms[self.index].affinity;
            affinity.is_none_or(|affinity| affinity.contains(pcpu))
        };
        let is_disturbed = |action: &Action| match action {
            Action::Pause { vm } | Action::Migrate { vm, .. } | Action::MoveVm { vm, .. } => {
                *vm == self.index
            }
            // What that leaves is given away at once, while its old owner may still use it.
            Action::SetBudget { vm, .. } | Action::SetAffinity { vm, .. } => {
                let vms = &self.scenario.vms;
                vms[*vm].pool == vms[self.index].pool
            }
            &Action::Drain(pcpu) => may_run_on(pcpu),
            // What had to come before `Resume` and `Undrain` counts; a reservation is not changed by a weight.
            _ => false,
        };
        self.actions()
            .any(|action| begins_anew(action) || is_disturbed(action))
    }
}

/// A policy takes over, which begins its budgets anew if it has any, or its pCPUs are others.
const fn begins_anew(action: &Action) -> bool {
    matches!(
        action,
        Action::SetPolicy { .. }
            | Action::CreatePool { .. }
            | Action::RemovePool { .. }
            | Action::MovePcpu { .. }
            | Action::Unplug(_)
            | Action::Plug { .. }
    )
}

/// Who has reserved what its jobs need has missed no deadline.
pub(super) fn expect_deadlines(scenario: &Scenario, outcome: &Outcome, is_interleaved: bool) {
    let disturbance = scenario.costs.disturbance();
    for (index, (spec, vm)) in scenario.vms.iter().zip(&outcome.vms).enumerate() {
        let policy = scenario.policy_of(index);
        let disturbed = Disturbed { scenario, index };
        let reservation = spec.entitlement.reservation;
        let reservation = reservation.filter(|_| policy.name == Deadline::NAME);
        let (Some(reservation), Workload::Periodic { period, work }) =
            (reservation, &spec.workload)
        else {
            continue;
        };
        let is_enough =
            work + disturbance <= reservation.budget() && reservation.period() <= *period;
        // Others who act in between interrupt it and wake it up for nothing, which nobody reserves for: that is excused, to the tick.
        let excused = if is_interleaved { vm.excused } else { 0 };
        assert!(
            vm.misses == excused || !is_enough || disturbed.may_be_late(),
            "VM `{}` missed {} of {} deadlines with a reservation that is enough",
            vm.name,
            vm.misses - excused,
            vm.deadlines
        );
    }
}

/// Under `deadline`, who has reserved nothing gets its turns of what nobody has reserved, on one pCPU.
pub(super) fn expect_slack(scenario: &Scenario, outcome: &Outcome) {
    if !scenario.actions.is_empty() {
        return;
    }
    let (disturbance, time) = (scenario.costs.disturbance(), outcome.virtual_time);
    for (number, pool) in scenario.pools().iter().enumerate() {
        let vms = || {
            let all = scenario.vms.iter().zip(&outcome.vms);
            all.filter(move |(spec, _)| spec.pool == number)
        };
        let has_turns = |spec: &VmSpec| {
            let is_anywhere = spec.affinity.is_none_or(|set| set == pool.pcpus);
            let is_best_effort = spec.entitlement.reservation.is_none() && is_anywhere;
            is_best_effort && spec.workload == Workload::CpuBound && spec.start <= scenario.warm_up
        };
        let reserved = vms().filter_map(|(spec, _)| {
            let reservation = spec.entitlement.reservation?;
            let budget = reservation.budget() + disturbance;
            Some(u64::from(spec.vcpus) * (time / reservation.period() + 2) * budget)
        });
        let slack = (time * u64::from(pool.pcpus.len())).saturating_sub(reserved.sum());
        let vcpus: u64 = vms().map(|(spec, _)| u64::from(spec.vcpus)).sum();
        // Turns are taken on each pCPU; how many are there says chance where there are several.
        if pool.policy.name != Deadline::NAME || pool.pcpus.len() > 1 {
            continue;
        }
        for (spec, vm) in vms().filter(|(spec, _)| has_turns(spec)) {
            let turns = slack * u64::from(spec.vcpus) / vcpus;
            let slices = pool.policy.options.slice_ticks * vcpus;
            let least = ((1.0 - TOLERANCE) * turns as f64) as u64;
            let least = least.saturating_sub(slices);
            let (name, run) = (&vm.name, vm.run);
            assert!(
                run >= least,
                "VM `{name}` ran for {run} ns, and its turns of what nobody has reserved are {least} at least"
            );
        }
    }
}

/// Where round-robin evens out who only computes, each has its turns among no more than there must be on one pCPU.
pub(super) fn expect_balance(scenario: &Scenario, outcome: &Outcome) {
    for (number, pool) in scenario.pools().iter().enumerate() {
        let options = &pool.policy.options;
        let vms = || {
            let all = scenario.vms.iter().zip(&outcome.vms).enumerate();
            all.filter(move |(_, (spec, _))| spec.pool == number)
        };
        let all: u64 = vms().map(|(_, (spec, _))| u64::from(spec.vcpus)).sum();
        // In each period a pCPU where too many wait gives one away.
        let settles = |from: u64| {
            let is_in_time = options.period_ticks.checked_mul(2 * all + 2);
            is_in_time.is_some_and(|time| from.saturating_add(time) <= scenario.warm_up)
        };
        let is_steady = |spec: &VmSpec| {
            let is_anywhere = spec.affinity.is_none_or(|set| set == pool.pcpus);
            is_anywhere && spec.workload == Workload::CpuBound && settles(spec.start)
        };
        let pauses_early = |spec: &ActionSpec| match spec.when {
            When::At { first, every: None } => {
                let mut choices = spec.choices.iter();
                settles(first) && choices.all(|action| matches!(action, Action::Pause { .. }))
            }
            _ => false,
        };
        if pool.policy.name != RoundRobin::NAME
            || pool.pcpus.len() > ALL_LOOKED_AT
            || !vms().all(|(_, (spec, _))| is_steady(spec))
            || !scenario.actions.iter().all(pauses_early)
        {
            continue;
        }
        let is_paused = |index| {
            let mut choices = scenario.actions.iter().flat_map(|spec| &spec.choices);
            choices.any(|action| matches!(action, Action::Pause { vm } if *vm == index))
        };
        let busy = || vms().filter(|&(index, _)| !is_paused(index));
        let vcpus: u64 = busy().map(|(_, (spec, _))| u64::from(spec.vcpus)).sum();
        let together = vcpus.div_ceil(u64::from(pool.pcpus.len())).max(1);
        let turns = (1.0 - TOLERANCE) * (outcome.virtual_time / together) as f64;
        let least = (turns as u64).saturating_sub(options.slice_ticks * together);
        for (_, (spec, vm)) in busy() {
            let (name, run, least) = (&vm.name, vm.run, least * u64::from(spec.vcpus));
            assert!(
                run >= least,
                "VM `{name}` ran for {run} ns, and where {together} share a pCPU at most it runs for {least} at least"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        PcpuSet, PolicyOptions, Reservation, Weight,
        sim::{Costs, PolicySpec, RunOptions, Topology, run, run_with},
    };
    use alloc::{boxed::Box, string::String, vec, vec::Vec};

    const MS: u64 = 1_000_000;

    fn vm(name: &str, workload: Workload) -> VmSpec {
        VmSpec {
            name: name.into(),
            vcpus: 1,
            pool: 0,
            affinity: None,
            preferred: PcpuSet::EMPTY,
            entitlement: crate::Entitlement::default(),
            workload,
            start: 0,
        }
    }

    /// One VM with a cap of a quarter, one that needs 2 ms of every 10 and has 3 reserved, and one that has neither, on one pCPU.
    fn scenario(policy: &str, action: Action) -> Scenario {
        let options = PolicyOptions {
            slice_ticks: MS,
            max_vcpus: 3,
            pcpus: PcpuSet::all(1),
            period_ticks: 10 * MS,
            table: None,
        };
        let (period, work) = (10 * MS, 2 * MS);
        let mut vms = vec![
            vm("capped", Workload::CpuBound),
            vm("reserved", Workload::Periodic { period, work }),
            vm("other", Workload::CpuBound),
        ];
        vms[0].entitlement.cap = Some(25);
        vms[1].entitlement.reservation = Reservation::new(3 * MS, period).ok();
        Scenario {
            duration: 500 * MS,
            warm_up: 0,
            topology: Topology {
                pcpus: 1,
                pcpus_per_cluster: 1,
            },
            costs: Costs::default(),
            policy: PolicySpec {
                name: policy.into(),
                options,
            },
            pools: Vec::new(),
            vms,
            actions: vec![ActionSpec {
                when: When::At {
                    first: 7 * MS,
                    every: Some(20 * MS),
                },
                choices: vec![action],
            }],
        }
    }

    /// It comes to nobody's deadline in time.
    fn lazy() -> Box<dyn crate::Policy> {
        Box::new(RoundRobin::with_slice(20 * MS))
    }

    /// What is said when round-robin with long turns runs in the place of the policy of `scenario`, which keeps what it promises.
    fn complaint(scenario: &Scenario) -> Option<String> {
        let options = RunOptions::default();
        let own = run(scenario, 1, &options);
        assert!(own.is_ok(), "{own:?}");
        let failure = run_with(scenario, 1, &options, lazy).err();
        failure.map(|failure| failure.rule)
    }

    #[test]
    fn a_cap_is_held_against_what_was_done_meanwhile() {
        let weight = Weight::new(77).unwrap();
        for action in [Action::SetWeight { vm: 0, weight }, Action::Pause { vm: 2 }] {
            let said = complaint(&scenario(Credit::NAME, action)).unwrap();
            assert!(said.contains("its cap of 25 lets it run"), "{said}");
        }
        let policy = scenario(Credit::NAME, Action::Pause { vm: 2 }).policy;
        let again = Action::SetPolicy { pool: None, policy };
        let mut scenario = scenario(Credit::NAME, again);
        assert_eq!(complaint(&scenario), None);
        scenario.actions[0].when = When::At {
            first: 107 * MS,
            every: None,
        };
        let said = complaint(&scenario).unwrap();
        assert!(said.contains("its cap of 25 lets it run"), "{said}");
    }

    /// A cap that is kept over two periods only.
    #[test]
    fn too_much_in_one_period_and_less_in_the_next_is_found() {
        let scenario = scenario(Credit::NAME, Action::Pause { vm: 2 });
        for options in [RunOptions::default(), HUNT] {
            let own = run(&scenario, 1, &options);
            assert!(own.is_ok(), "{own:?}");
            let slow = || -> Box<dyn crate::Policy> {
                Box::new(Credit::new(MS, 20 * MS, PcpuSet::all(1), 3))
            };
            let said = run_with(&scenario, 1, &options, slow).unwrap_err().rule;
            assert!(said.contains("its cap of 25 lets it run"), "{said}");
        }
    }

    /// Eight VMs are put on two pCPUs by turns; those on one of them are paused, and what is left on the other evens out.
    #[test]
    fn who_only_computes_has_a_fair_part_of_pcpus_that_even_out() {
        let mut scenario = scenario(RoundRobin::NAME, Action::Pause { vm: 0 });
        let names = ["a", "b", "c", "d", "e", "f", "g", "h"];
        scenario.vms = names.map(|name| vm(name, Workload::CpuBound)).into();
        scenario.topology.pcpus = 2;
        (scenario.warm_up, scenario.duration) = (300 * MS, 600 * MS);
        (
            scenario.policy.options.pcpus,
            scenario.policy.options.max_vcpus,
        ) = (PcpuSet::all(2), 8);
        let pause = |vm| ActionSpec {
            when: When::At {
                first: 7 * MS,
                every: None,
            },
            choices: vec![Action::Pause { vm }],
        };
        scenario.actions = [0, 2, 4, 6].map(pause).into();
        let options = RunOptions::default();
        let own = run(&scenario, 1, &options);
        assert!(own.is_ok(), "{own:?}");
        let lazy = || -> Box<dyn crate::Policy> { Box::new(RoundRobin::new(MS, u64::MAX - 1)) };
        let failure = run_with(&scenario, 1, &options, lazy).unwrap_err();
        let said = failure.rule;
        assert!(said.contains("where 2 share a pCPU at most"), "{said}");
    }

    #[test]
    fn only_what_concerns_a_reservation_excuses_a_missed_deadline() {
        let weight = Weight::new(77).unwrap();
        let to = PcpuId::new(0).unwrap();
        for action in [
            Action::Pause { vm: 2 },
            Action::SetWeight { vm: 2, weight },
            Action::SetWeight { vm: 1, weight },
            Action::Migrate { vm: 2, vcpu: 0, to },
            Action::Resume { vm: 1 },
        ] {
            let said = complaint(&scenario(Deadline::NAME, action)).unwrap();
            assert!(
                said.contains("VM `reserved` missed") && said.contains("that is enough"),
                "{said}"
            );
        }
        for action in [
            Action::Pause { vm: 1 },
            Action::Migrate { vm: 1, vcpu: 0, to },
            Action::Drain(to),
        ] {
            assert_eq!(complaint(&scenario(Deadline::NAME, action)), None);
        }
    }

    /// Two VMs whose reservations are enough, one that wants more than it has, and others, on a pCPU where things take their time. Only
    /// the order of the deadlines keeps all of them.
    fn tight(margin: u64) -> Scenario {
        const US: u64 = 1000;
        let mut scenario = scenario(Deadline::NAME, Action::Pause { vm: 0 });
        let periodic = |name: &str, work: u64, margin: u64, period: u64| {
            let mut vm = vm(name, Workload::Periodic { period, work });
            vm.entitlement.reservation = Reservation::new(work + margin, period).ok();
            vm
        };
        scenario.vms = vec![
            periodic("sensor", 2000 * US, margin, 5 * MS),
            periodic("control", 3000 * US, margin, 7 * MS),
            vm("greedy", Workload::CpuBound),
            vm("batch", Workload::CpuBound),
        ];
        scenario.vms[2].entitlement.reservation = Reservation::new(400 * US, 10 * MS).ok();
        scenario.vms[3].vcpus = 4;
        scenario.policy.options.max_vcpus = 7;
        scenario.duration = 2000 * MS;
        scenario.costs = Costs {
            switch: 3097,
            exit: 306,
            kick_delay: 725,
            notice: 50,
            migration_near: 2000,
            migration_far: 20_000,
        };
        scenario.actions.clear();
        scenario
    }

    const HUNT: RunOptions = RunOptions {
        interleave: true,
        record_stretches: false,
    };

    #[test]
    fn in_a_hunt_only_what_others_do_to_a_job_excuses_a_missed_deadline() {
        let enough = tight(200_000);
        for seed in 0..300 {
            let outcome = run(&enough, seed, &HUNT).unwrap_or_else(|failure| panic!("{failure:?}"));
            let reserved = outcome.vms[..2].iter();
            assert!(reserved.clone().all(|vm| vm.deadlines > 250), "{seed}");
            assert_eq!(reserved.map(|vm| vm.misses).sum::<u64>(), 0, "{seed}");
        }
        let said = run_with(&enough, 1, &HUNT, lazy).unwrap_err().rule;
        assert!(said.contains("that is enough"), "{said}");
    }

    #[test]
    fn in_a_hunt_a_reservation_that_is_just_enough_is_enough() {
        let scenario = tight(2 * tight(0).costs.disturbance());
        for seed in 0..300 {
            let outcome = run(&scenario, seed, &HUNT);
            assert!(outcome.is_ok(), "{outcome:?}");
        }
        let said = run_with(&scenario, 1, &HUNT, lazy).unwrap_err().rule;
        assert!(said.contains("that is enough"), "{said}");
    }
}

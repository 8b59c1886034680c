//! What somebody outside does to a scenario's machine: the operator, at given times or by chance.
//!
//! An action by chance of an interleaved run comes in the middle of somebody's step. What is refused changes nothing: at a given
//! time that is a broken rule, since [`super::scenario::rehearse`] has said before whether it can be done.

use super::{
    Outside, PolicySpec, Scenario, agenda::NEVER, engine::Engine, workload::Random, world::Unrest,
};
use crate::{
    Change, Entitlement, PcpuId, PcpuSet, Policy, PoolId, Reservation, VcpuId, Weight,
    admitted::Admitted,
};
use alloc::{
    boxed::Box,
    format,
    rc::Rc,
    string::{String, ToString},
    vec::Vec,
};
use core::fmt;

/// So many actions are rehearsed: what comes later is what has come before.
const REHEARSED: usize = 1000;

/// Something that somebody outside does.
#[derive(Clone, Debug)]
pub struct ActionSpec {
    /// When.
    pub when: When,
    /// What: one of these, drawn each time; there is at least one.
    pub choices: Vec<Action>,
}

/// When something is done.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum When {
    /// At a time.
    At {
        /// For the first time.
        first: u64,
        /// And then again after each so many ns.
        every: Option<u64>,
    },
    /// At random times. What is refused then changes nothing.
    ByChance {
        /// So many ns lie between two of them in the mean; at least 1.
        mean: u64,
    },
}

/// What somebody outside may do. VMs are named by their number in the scenario.
#[derive(Clone, Debug)]
pub enum Action {
    /// Pauses all vCPUs of a VM.
    Pause {
        /// Which.
        vm: usize,
    },
    /// Lets them go on.
    Resume {
        /// Which.
        vm: usize,
    },
    /// Gives all vCPUs of a VM another weight.
    SetWeight {
        /// Which.
        vm: usize,
        /// From now on.
        weight: Weight,
    },
    /// Gives all vCPUs of a VM another priority.
    SetPriority {
        /// Which.
        vm: usize,
        /// From now on.
        priority: u8,
    },
    /// Gives a VM another cap.
    SetCap {
        /// Which.
        vm: usize,
        /// From now on, in hundredths of a pCPU; at least 1.
        cap: u32,
    },
    /// Reserves so much for each vCPU of a VM, instead of what was reserved.
    SetBudget {
        /// Which.
        vm: usize,
        /// From now on.
        reservation: Reservation,
    },
    /// The vCPUs of a VM may run elsewhere.
    SetAffinity {
        /// Which.
        vm: usize,
        /// There, from now on.
        pcpus: PcpuSet,
    },
    /// Another policy takes over.
    SetPolicy {
        /// Where; `None`: in the first pool.
        pool: Option<String>,
        /// Which; its pCPUs are those that the pool has then.
        policy: PolicySpec,
    },
    /// Moves a vCPU.
    Migrate {
        /// Whose.
        vm: usize,
        /// Which of its vCPUs.
        vcpu: u16,
        /// Where.
        to: PcpuId,
    },
    /// Takes a pCPU out of service.
    Drain(PcpuId),
    /// Puts it back.
    Undrain(PcpuId),
    /// A new pool takes pCPUs from those that have them.
    CreatePool {
        /// What it is called.
        name: String,
        /// What it gets.
        pcpus: PcpuSet,
        /// Who runs next there.
        policy: PolicySpec,
    },
    /// A pool goes, and the first one gets its pCPUs.
    RemovePool {
        /// Which.
        pool: String,
    },
    /// A pCPU belongs to another pool.
    MovePcpu {
        /// Which.
        pcpu: PcpuId,
        /// To which.
        pool: String,
    },
    /// A VM belongs to another pool, with all its vCPUs.
    MoveVm {
        /// Which.
        vm: usize,
        /// To which.
        pool: String,
    },
    /// Takes a pCPU out of its pool; once it is drained it is off.
    Unplug(PcpuId),
    /// Turns it on again, in a pool.
    Plug {
        /// Which.
        pcpu: PcpuId,
        /// Where; `None`: in the first one.
        pool: Option<String>,
    },
}

/// An action that could not be done.
#[derive(Clone, Debug)]
pub struct Refused {
    /// Which of the scenario's.
    pub index: usize,
    /// When, in ns.
    pub time: u64,
    /// Why.
    pub reason: String,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pause { vm } => write!(f, "pauses VM {vm}"),
            Self::Resume { vm } => write!(f, "resumes VM {vm}"),
            Self::SetWeight { vm, weight } => write!(f, "gives VM {vm} weight {}", weight.get()),
            Self::SetPriority { vm, priority } => write!(f, "gives VM {vm} priority {priority}"),
            Self::SetCap { vm, cap } => write!(f, "gives VM {vm} a cap of {cap}"),
            Self::SetBudget { vm, reservation } => {
                let (budget, period) = (reservation.budget(), reservation.period());
                write!(f, "reserves {budget} ns of every {period} for VM {vm}")
            }
            Self::SetAffinity { vm, pcpus } => write!(f, "lets VM {vm} run on {pcpus}"),
            Self::SetPolicy { pool, policy } => {
                write!(f, "sets policy {} of {}", policy.name, Named(pool))
            }
            Self::Migrate { vm, vcpu, to } => write!(f, "moves vCPU {vcpu} of VM {vm} to {to}"),
            Self::Drain(pcpu) => write!(f, "drains {pcpu}"),
            Self::Undrain(pcpu) => write!(f, "undrains {pcpu}"),
            Self::CreatePool {
                name,
                pcpus,
                policy,
            } => write!(f, "creates pool `{name}` of {pcpus} under {}", policy.name),
            Self::RemovePool { pool } => write!(f, "removes pool `{pool}`"),
            Self::MovePcpu { pcpu, pool } => write!(f, "moves {pcpu} to pool `{pool}`"),
            Self::MoveVm { vm, pool } => write!(f, "moves VM {vm} to pool `{pool}`"),
            Self::Unplug(pcpu) => write!(f, "unplugs {pcpu}"),
            Self::Plug { pcpu, pool } => write!(f, "plugs {pcpu} into {}", Named(pool)),
        }
    }
}

struct Named<'a>(&'a Option<String>);

impl fmt::Display for Named<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(pool) => write!(f, "pool `{pool}`"),
            None => f.write_str("the first pool"),
        }
    }
}

/// What comes from outside, and when each comes next.
pub(super) struct Actions<'a> {
    scenario: &'a Scenario,
    next: Vec<u64>,
    random: Random,
    /// Those by chance come in the middle of somebody's step.
    is_interleaved: bool,
    /// How many have been done or tried.
    pub(super) done: u64,
}

impl<'a> Actions<'a> {
    pub(super) fn new(scenario: &'a Scenario, seed: u64, is_interleaved: bool) -> Self {
        let mut random = Random::new(seed, u64::MAX);
        let first = |spec: &ActionSpec| match spec.when {
            When::At { first, .. } => first,
            When::ByChance { mean } => random.around(mean),
        };
        Self {
            scenario,
            next: scenario.actions.iter().map(first).collect(),
            random,
            is_interleaved,
            done: 0,
        }
    }

    /// Which is next, and when, if one is by `end`; from then on it is the turn of whoever comes after it.
    fn take(&mut self, end: u64) -> Option<(usize, u64)> {
        let times = self.next.iter().copied().enumerate();
        let first = times.min_by_key(|&(index, time)| (time, index));
        let (index, time) = first.filter(|&(_, time)| time <= end && time != NEVER)?;
        self.next[index] = match self.scenario.actions[index].when {
            When::At { every: None, .. } => NEVER,
            When::At {
                every: Some(every), ..
            } => time.saturating_add(every.max(1)),
            When::ByChance { mean } => time.saturating_add(self.random.around(mean)),
        };
        Some((index, time))
    }

    /// Lets time pass until `end`, and does what is to be done by then.
    pub(super) fn run_until(&mut self, engine: &Rc<Engine>, end: u64) {
        while let Some((index, time)) = self.take(end) {
            engine.run_until(time);
            self.done += 1;
            let ActionSpec { when, choices } = &self.scenario.actions[index];
            let action = &choices[self.random.below(choices.len() as u64) as usize];
            match when {
                When::At { .. } => {
                    if let Err(refusal) = engine.try_action(action) {
                        panic!("{action} at {time} ns is refused: {refusal}");
                    }
                }
                When::ByChance { .. } if self.is_interleaved => {
                    engine.do_pending();
                    engine.pending.replace(Some(action.clone()));
                }
                When::ByChance { .. } => drop(engine.try_action(action)),
            }
            engine.check();
        }
        engine.run_until(end);
        engine.do_pending();
    }

    /// Everything that is done at given times, as far as is sensible, while no time passes.
    pub(super) fn rehearse(mut self, engine: &Engine) -> Result<(), Refused> {
        for _ in 0..REHEARSED {
            let Some((index, time)) = self.take(self.scenario.duration) else {
                break;
            };
            let ActionSpec { when, choices } = &self.scenario.actions[index];
            if !matches!(when, When::At { .. }) {
                // What chance has done before decides.
                return Ok(());
            }
            engine.try_action(&choices[0]).map_err(|reason| Refused {
                index,
                time,
                reason,
            })?;
        }
        Ok(())
    }
}

impl Engine {
    /// What came by chance and found nobody in the middle of something comes now.
    pub(super) fn do_pending(&self) {
        if let Some(action) = self.pending.take() {
            drop(self.try_action(&action));
        }
    }

    /// Does `action` now, and writes down what became of it.
    pub(super) fn try_action(&self, action: &Action) -> Result<(), String> {
        let done = self.perform_action(action);
        if done.is_ok() {
            self.review_caps();
        }
        let refusal = done.as_ref().err();
        self.journal.note(self.now(), action, refusal);
        done
    }

    fn perform_action(&self, action: &Action) -> Result<(), String> {
        let vcpus = |vm: usize| self.vcpus_of(vm).map(VcpuId::new);
        let act = |action| self.perform(action);
        let pool_id = |name: &Option<String>| match name {
            Some(name) => self.find_pool(name),
            None => Ok(PoolId::FIRST),
        };
        match action {
            &Action::Pause { vm } => vcpus(vm).map(Outside::Pause).for_each(act),
            &Action::Resume { vm } => vcpus(vm).map(Outside::Resume).for_each(act),
            &Action::Drain(pcpu) => act(Outside::Drain(pcpu)),
            &Action::Undrain(pcpu) => act(Outside::Undrain(pcpu)),
            &Action::Migrate { vm, vcpu, to } => {
                let vcpu = VcpuId::new(self.vcpus_of(vm).start + vcpu);
                let may_go = self.handle(vcpu).affinity().contains(to);
                if !may_go {
                    return Err(format!("{vcpu} may not run on {to}"));
                }
                act(Outside::Migrate(vcpu, to));
            }
            &Action::SetWeight { vm, weight } => self.set(vm, |shall| shall.weight = weight)?,
            &Action::SetPriority { vm, priority } => {
                self.set(vm, |shall| shall.priority = priority)?;
            }
            &Action::SetCap { vm, cap } => self.set(vm, |shall| shall.cap = Some(cap))?,
            &Action::SetBudget { vm, reservation } => {
                self.set(vm, |shall| shall.reservation = Some(reservation))?;
            }
            &Action::SetAffinity { vm, pcpus } => self.set_all(vm, Some(pcpus), |_| {})?,
            Action::SetPolicy { pool, policy } => {
                let pool = pool_id(pool)?;
                let made = self.made(policy, self.scheduler().partition(pool).pcpus())?;
                self.change_rules(|| self.scheduler().set_policy(pool, made))?;
                self.caps.set_policy(pool, policy);
            }
            Action::CreatePool {
                name,
                pcpus,
                policy,
            } => {
                let made = self.made(policy, *pcpus)?;
                let create = || self.scheduler().create_pool(name, *pcpus, made);
                let pool = self.change_pools(create)?;
                self.caps.set_policy(pool, policy);
            }
            Action::RemovePool { pool } => {
                let pool = self.find_pool(pool)?;
                self.change_pools(|| self.scheduler().remove_pool(pool, PoolId::FIRST))?;
            }
            Action::MovePcpu { pcpu, pool } => {
                let pool = self.find_pool(pool)?;
                self.change_pools(|| self.scheduler().move_pcpu(*pcpu, pool))?;
            }
            Action::MoveVm { vm, pool } => {
                let pool = self.find_pool(pool)?;
                let vcpus: Vec<_> = vcpus(*vm).map(|id| self.handle(id).clone()).collect();
                self.change_pools(|| self.scheduler().move_vcpus(&vcpus, pool))?;
            }
            &Action::Unplug(pcpu) => {
                self.change_pools(|| self.scheduler().unplug(pcpu).map(drop))?
            }
            Action::Plug { pcpu, pool } => {
                let pool = pool_id(pool)?;
                let plug = || self.scheduler().plug(*pcpu, pool);
                self.come_back(*pcpu, || self.change_pools(plug))?;
            }
        }
        Ok(())
    }

    /// What each vCPU of `vm` shall get is what `change` makes of what it shall get now.
    fn set(&self, vm: usize, change: impl Fn(&mut Entitlement)) -> Result<(), String> {
        self.set_all(vm, None, change)
    }

    /// The same, and all may run on `affinity` if there is one: all of them have it, or none.
    fn set_all(
        &self,
        vm: usize,
        affinity: Option<PcpuSet>,
        change: impl Fn(&mut Entitlement),
    ) -> Result<(), String> {
        let changes = self.vcpus_of(vm).map(VcpuId::new).map(|id| {
            let vcpu = self.handle(id).clone();
            let mut entitlement = vcpu.entitlement();
            change(&mut entitlement);
            Change {
                vcpu,
                entitlement,
                affinity,
            }
        });
        let changes: Vec<_> = changes.collect();
        self.change_rules(|| {
            let changed = self.scheduler().set_all(&changes);
            changed.map_err(|(vcpu, refusal)| format!("{vcpu}: {refusal}"))
        })
    }

    /// The policy for `pcpus`.
    fn made(&self, spec: &PolicySpec, pcpus: PcpuSet) -> Result<Box<dyn Policy>, String> {
        let mut spec = spec.clone();
        spec.options.pcpus = pcpus;
        let policy = spec.policy().map_err(|error| error.to_string())?;
        Ok(checked(policy, self.unrest.get() != Unrest::None))
    }

    /// The pool that is called so now.
    fn find_pool(&self, name: &str) -> Result<PoolId, String> {
        let missing = || format!("there is no pool `{name}` now");
        if self.is_changing.get() {
            return Err(BUSY.into());
        }
        let pools = self.scheduler().pools();
        let found = pools.iter().find(|pool| pool.name == name);
        found.map(|pool| pool.id).ok_or_else(missing)
    }

    /// Changes what pCPUs and vCPUs belong to: what was measured until now belongs to the pools as they were.
    fn change_pools<T, E: ToString>(
        &self,
        act: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, String> {
        if !self.is_changing.get() {
            self.settle_ledger();
        }
        self.change_rules(act)
    }

    /// From now on the rules are others for all, if it is not refused.
    fn change_rules<T, E: ToString>(
        &self,
        act: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, String> {
        let changed = self.change(act).ok_or(BUSY)?;
        let changed = changed.map_err(|refusal| refusal.to_string())?;
        self.regime_at.set(self.now());
        Ok(changed)
    }
}

/// The same policy; if others act in the middle of steps, one that is told only of whom it has admitted.
pub(super) fn checked(policy: Box<dyn Policy>, is_interleaved: bool) -> Box<dyn Policy> {
    if is_interleaved {
        Box::new(Admitted::new(policy))
    } else {
        policy
    }
}

/// On one thread nobody can wait for somebody else's change to be over.
const BUSY: &str = "somebody else is changing something";

//! `[[action]]`: what others do to the VMs and the pCPUs meanwhile, at a time or by chance.

use std::ops::Range;

use trapline_sched::{
    PcpuId, PcpuSet, Reservation, Weight,
    sim::{Action, ActionSpec, PolicySpec, When},
};

use super::{
    MS, US, Vms,
    pools::{self, pcpus_of},
    text::ActionText,
};
use crate::host::{
    Failure,
    config_file::scheduling::EntitlementText,
    failure::Result,
    request::Place,
    toml_text::{choose, within},
};

/// What can be done, what each needs to be told (what comes by chance draws it if it is not), and what it may be told.
const KINDS: [(&str, &[&str], &[&str]); 17] = [
    ("pause", &["vm"], &[]),
    ("resume", &["vm"], &[]),
    ("set-weight", &["vm", "weight"], &[]),
    ("set-priority", &["vm", "priority"], &[]),
    ("set-cap", &["vm", "cap"], &[]),
    ("set-budget", &["vm", "budget_us", "period_us"], &[]),
    ("set-affinity", &["vm", "pcpus"], &[]),
    ("set-policy", &["policy"], &["pool"]),
    ("migrate", &["vm", "vcpu", "pcpu"], &[]),
    ("drain", &["pcpu"], &[]),
    ("undrain", &["pcpu"], &[]),
    ("create-pool", &["pool", "pcpus", "policy"], &[]),
    ("remove-pool", &["pool"], &[]),
    ("move-pcpu", &["pcpu", "pool"], &[]),
    ("move-vm", &["vm", "pool"], &[]),
    ("unplug", &["pcpu"], &[]),
    ("plug", &["pcpu"], &["pool"]),
];

/// An action by chance is one of at most so many.
const MOST_CHOICES: usize = 4096;
/// What chance draws of weights.
const WEIGHTS: [u16; 4] = [1, 100, Weight::DEFAULT.get(), Weight::LIMIT];
/// The same of priorities, of caps, and of reservations in hundredths of a pCPU, each in one of these periods in microseconds.
const PRIORITIES: [u8; 3] = [0, 1, u8::MAX];
const CAPS: [u32; 4] = [10, 50, 100, 250];
const RESERVED: [u64; 3] = [5, 30, 70];
const PERIODS_US: [u64; 2] = [1_000, 10_000];

/// What an action is checked against.
pub(super) struct Actions<'a> {
    /// Who there is.
    pub vms: &'a Vms,
    /// How many pCPUs there are.
    pub pcpus: u16,
    /// The pools that there are at first, and those that actions create.
    pub pools: &'a [&'a str],
    /// How long all takes, in milliseconds.
    pub duration_ms: i64,
    /// The policy with that name, with the options of the file.
    pub policy: &'a dyn Fn(&str, &Place) -> Result<PolicySpec>,
    /// The names of those that chance may draw.
    pub policies: &'a [&'a str],
}

/// What an action is told: each of these is drawn, or all are done. One that the action does not need is `None`.
struct Parts {
    vms: Vec<Option<usize>>,
    vcpu: Option<u16>,
    pcpus: Vec<Option<PcpuId>>,
    pools: Vec<Option<String>>,
    policies: Vec<Option<PolicySpec>>,
    settings: Vec<Option<Setting>>,
    sets: Vec<Option<PcpuSet>>,
}

/// What each vCPU of a VM shall get from now on.
#[derive(Clone, Copy)]
enum Setting {
    Weight(Weight),
    Priority(u8),
    Cap(u32),
    Budget(Reservation),
}

impl Actions<'_> {
    /// What `text` says, which stands at `place`: at a time one action for each VM that it names.
    ///
    /// # Errors
    /// There is no such action, or what it is told is not what it needs.
    pub(super) fn read(&self, text: &ActionText, place: &Place) -> Result<Vec<ActionSpec>> {
        self.check_keys(text, place)?;
        let when = self.when(text, place)?;
        let parts = self.parts(text, place)?;
        let choices = self.choices(text, &parts, place)?;
        let spec = |choices| ActionSpec { when, choices };
        Ok(match when {
            When::At { .. } => choices
                .into_iter()
                .map(|action| spec(vec![action]))
                .collect(),
            When::ByChance { .. } => vec![spec(choices)],
        })
    }

    fn when(&self, text: &ActionText, place: &Place) -> Result<When> {
        let last = self.duration_ms;
        let at = within(text.at_ms, 0..=last, "at_ms", place)?;
        let every = within(text.every_ms, 1..=last, "every_ms", place)?;
        let mean = within(text.about_every_ms, 1..=last, "about_every_ms", place)?;
        let ns = |ms: i64| ms as u64 * MS;
        match (at.or(every), mean) {
            (None, Some(mean)) => Ok(When::ByChance { mean: ns(mean) }),
            (Some(first), None) => Ok(When::At {
                first: ns(first),
                every: every.map(ns),
            }),
            (None, None) => Err(Failure::input(
                "an action without a time",
                place.of("at_ms"),
                "give at_ms, every_ms, or both, or about_every_ms",
            )),
            (Some(_), Some(_)) => Err(Failure::input(
                "an action at a time and by chance",
                place.of("about_every_ms"),
                "give at_ms and every_ms, or about_every_ms",
            )),
        }
    }

    fn parts(&self, text: &ActionText, place: &Place) -> Result<Parts> {
        let (needed, _) = keys_of(&text.kind).expect("its keys have been checked");
        let needs = |key: &str| needed.contains(&key);
        let pcpu = within(text.pcpu, 0..=i64::from(self.pcpus) - 1, "pcpu", place)?;
        let pcpus = match pcpu {
            Some(pcpu) => vec![PcpuId::new(pcpu as u16)],
            None if needs("pcpu") => (0..self.pcpus).map(PcpuId::new).collect(),
            None => vec![None],
        };
        let settings = self.settings(text, place)?;
        let vms = match &text.vm {
            Some(name) => self.vms.find(name, place)?.into_iter().map(Some).collect(),
            None if needs("vm") => (0..self.vms.specs.len()).map(Some).collect(),
            None => vec![None],
        };
        let named = text.vm.as_ref().and(vms.first().copied().flatten());
        let vcpus = named.map_or(u16::MAX, |vm| self.vms.specs[vm].vcpus);
        let vcpu = within(text.vcpu, 0..=i64::from(vcpus) - 1, "vcpu", place)?;
        let pools = match &text.pool {
            Some(name) => vec![Some(self.known_pool(&text.kind, name, place)?)],
            None if needs("pool") => self
                .pools
                .iter()
                .map(|name| Some((*name).to_owned()))
                .collect(),
            None => vec![None],
        };
        let policy = |name: &str| (self.policy)(name, place).map(Some);
        let policies = match &text.policy {
            Some(name) => vec![policy(name)?],
            None if needs("policy") => self
                .policies
                .iter()
                .map(|name| policy(name))
                .collect::<Result<_>>()?,
            None => vec![None],
        };
        let sets = match &text.pcpus {
            Some(list) => vec![Some(pcpus_of(list, self.pcpus, "pcpus", place)?)],
            None if needs("pcpus") => {
                let all = PcpuSet::all(self.pcpus).iter();
                let each = all.map(PcpuSet::only);
                // Who may run on one only can go anywhere again.
                let everywhere = (text.kind == "set-affinity").then_some(PcpuSet::all(self.pcpus));
                each.chain(everywhere).map(Some).collect()
            }
            None => vec![None],
        };
        Ok(Parts {
            vms,
            vcpu: vcpu.map(|vcpu| vcpu as u16),
            pcpus,
            pools,
            policies,
            settings,
            sets,
        })
    }

    /// What a VM shall get, as `text` says or chance may draw it.
    fn settings(&self, text: &ActionText, place: &Place) -> Result<Vec<Option<Setting>>> {
        let entitlement = EntitlementText {
            weight: text.weight,
            slice_us: None,
            cap: text.cap,
            priority: text.priority,
            budget_us: text.budget_us,
            period_us: text.period_us,
            halt_poll_us: None,
        };
        let given = entitlement.check(self.pcpus.into(), place)?;
        let most_cap = 100 * u32::from(self.pcpus);
        let settings: Vec<Setting> = match text.kind.as_str() {
            "set-weight" => {
                let weights = text.weight.map_or(WEIGHTS.to_vec(), |_| vec![given.weight]);
                let weights = weights.into_iter().filter_map(Weight::new);
                weights.map(Setting::Weight).collect()
            }
            "set-priority" => {
                let given = text.priority.map(|_| vec![given.priority]);
                let priorities = given.unwrap_or(PRIORITIES.to_vec());
                priorities.into_iter().map(Setting::Priority).collect()
            }
            "set-cap" => {
                let caps = given.cap.map_or(CAPS.to_vec(), |cap| vec![cap]).into_iter();
                let caps = caps.filter(|&cap| cap <= most_cap);
                caps.map(Setting::Cap).collect()
            }
            "set-budget" => {
                let drawn = PERIODS_US.iter().flat_map(|&period| {
                    let parts = RESERVED.iter();
                    parts.map(move |part| (period * part / 100, period))
                });
                let given = given
                    .reservation_us
                    .map(|(budget, period)| vec![(budget.into(), period.into())]);
                let budgets = given.unwrap_or(drawn.collect()).into_iter();
                let reservation =
                    |(budget, period): (u64, u64)| Reservation::new(budget * US, period * US).ok();
                let reservations = budgets.filter_map(reservation);
                reservations.map(Setting::Budget).collect()
            }
            _ => return Ok(vec![None]),
        };
        Ok(settings.into_iter().map(Some).collect())
    }

    /// A pool with this name is there at some time.
    fn known_pool(&self, kind: &str, name: &str, place: &Place) -> Result<String> {
        if kind == "create-pool" {
            pools::check_name(name, "pool", place)?;
        } else if !self.pools.contains(&name) {
            let what = format!("there is no pool `{}`", name.escape_debug());
            let remedy = choose(name, self.pools);
            return Err(Failure::input(what, place.of("pool"), &remedy));
        }
        Ok(name.to_owned())
    }

    /// Everything that `parts` leave open: at least one action.
    fn choices(&self, text: &ActionText, parts: &Parts, place: &Place) -> Result<Vec<Action>> {
        let refuse = |what, remedy: &str| Err(Failure::input(what, place.of("do"), remedy));
        match self.count(text, parts) {
            0 => {
                let what = "there is no such vCPU that may run there".to_owned();
                return refuse(
                    what,
                    "give a vcpu that the VM has, and a pcpu of its affinity",
                );
            }
            1..=MOST_CHOICES => {}
            count => {
                let what = format!("{count} different actions");
                let remedy = format!("say more of what it is about: at most {MOST_CHOICES}");
                return refuse(what, &remedy);
            }
        }
        let mut choices = Vec::new();
        for &vm in &parts.vms {
            for &pcpu in &parts.pcpus {
                for pool in &parts.pools {
                    for policy in &parts.policies {
                        for &setting in &parts.settings {
                            let pool = pool.clone();
                            let policy = policy.clone();
                            let told = (vm, pcpu, pool, policy, setting);
                            choices.extend(self.actions(text, parts, told));
                        }
                    }
                }
            }
        }
        Ok(choices)
    }

    /// How many actions [`Self::choices`] makes of `parts`.
    fn count(&self, text: &ActionText, parts: &Parts) -> usize {
        let whose_and_where = if text.kind == "migrate" {
            let pcpus = parts.pcpus.iter().flatten();
            let pcpus = pcpus.fold(PcpuSet::EMPTY, |set, &pcpu| set.union(PcpuSet::only(pcpu)));
            let moves = parts.vms.iter().flatten().map(|&vm| {
                let affinity = self.vms.specs[vm].affinity;
                let pcpus = affinity.map_or(pcpus, |affinity| affinity.intersection(pcpus));
                self.vcpus_of(vm, parts.vcpu).len() * pcpus.len() as usize
            });
            moves.sum()
        } else {
            parts.vms.len() * parts.pcpus.len()
        };
        let others = [
            parts.pools.len(),
            parts.policies.len(),
            parts.settings.len(),
            parts.sets.len(),
        ];
        others
            .into_iter()
            .fold(whose_and_where, usize::saturating_mul)
    }

    #[expect(clippy::type_complexity, reason = "read by the match alone")]
    fn actions(
        &self,
        text: &ActionText,
        parts: &Parts,
        told: (
            Option<usize>,
            Option<PcpuId>,
            Option<String>,
            Option<PolicySpec>,
            Option<Setting>,
        ),
    ) -> Vec<Action> {
        vec![match (text.kind.as_str(), told) {
            ("pause", (Some(vm), ..)) => Action::Pause { vm },
            ("resume", (Some(vm), ..)) => Action::Resume { vm },
            (_, (Some(vm), .., Some(setting))) => match setting {
                Setting::Weight(weight) => Action::SetWeight { vm, weight },
                Setting::Priority(priority) => Action::SetPriority { vm, priority },
                Setting::Cap(cap) => Action::SetCap { vm, cap },
                Setting::Budget(reservation) => Action::SetBudget { vm, reservation },
            },
            ("set-affinity", (Some(vm), ..)) => {
                let set = |pcpus| Action::SetAffinity { vm, pcpus };
                return parts.sets.iter().flatten().copied().map(set).collect();
            }
            ("migrate", (Some(vm), Some(to), ..)) => {
                let affinity = self.vms.specs[vm].affinity;
                let may_go = affinity.is_none_or(|affinity| affinity.contains(to));
                let vcpus = self.vcpus_of(vm, parts.vcpu).filter(|_| may_go);
                return vcpus.map(|vcpu| Action::Migrate { vm, vcpu, to }).collect();
            }
            ("drain", (_, Some(pcpu), ..)) => Action::Drain(pcpu),
            ("undrain", (_, Some(pcpu), ..)) => Action::Undrain(pcpu),
            ("set-policy", (_, _, pool, Some(policy), _)) => Action::SetPolicy { pool, policy },
            ("create-pool", (_, _, Some(name), Some(policy), _)) => {
                let create = |pcpus| Action::CreatePool {
                    name: name.clone(),
                    pcpus,
                    policy: policy.clone(),
                };
                return parts.sets.iter().flatten().copied().map(create).collect();
            }
            ("remove-pool", (_, _, Some(pool), ..)) => Action::RemovePool { pool },
            ("move-pcpu", (_, Some(pcpu), Some(pool), ..)) => Action::MovePcpu { pcpu, pool },
            ("move-vm", (Some(vm), _, Some(pool), ..)) => Action::MoveVm { vm, pool },
            ("unplug", (_, Some(pcpu), ..)) => Action::Unplug(pcpu),
            ("plug", (_, Some(pcpu), pool, ..)) => Action::Plug { pcpu, pool },
            _ => unreachable!("its keys have been checked"),
        }]
    }

    /// Which of the vCPUs of `vm` `vcpu` is, or all: none if it has not so many.
    fn vcpus_of(&self, vm: usize, vcpu: Option<u16>) -> Range<u16> {
        let all = 0..self.vms.specs[vm].vcpus;
        match vcpu {
            Some(vcpu) if all.contains(&vcpu) => vcpu..vcpu + 1,
            Some(_) => 0..0,
            None => all,
        }
    }

    /// Each key that the action needs is given, unless chance draws it, and no other.
    fn check_keys(&self, text: &ActionText, place: &Place) -> Result<()> {
        let kind = text.kind.as_str();
        let Some((needed, possible)) = keys_of(kind) else {
            let what = format!("unknown action `{}`", kind.escape_debug());
            let known = KINDS.map(|(kind, ..)| kind);
            return Err(Failure::input(what, place.of("do"), &choose(kind, &known)));
        };
        let keys = [
            ("vm", text.vm.is_some()),
            ("vcpu", text.vcpu.is_some()),
            ("pcpu", text.pcpu.is_some()),
            ("weight", text.weight.is_some()),
            ("priority", text.priority.is_some()),
            ("cap", text.cap.is_some()),
            ("budget_us", text.budget_us.is_some()),
            ("period_us", text.period_us.is_some()),
            ("policy", text.policy.is_some()),
            ("pool", text.pool.is_some()),
            ("pcpus", text.pcpus.is_some()),
        ];
        let is_drawn = |key| {
            let has_a_name = kind == "create-pool" && key == "pool";
            text.about_every_ms.is_some() && !has_a_name
        };
        for (key, is_given) in keys {
            let verb = match (is_given, needed.contains(&key)) {
                (true, false) if !possible.contains(&key) => "has no",
                (false, true) if !is_drawn(key) => "needs a",
                _ => continue,
            };
            let what = format!("action `{kind}` {verb} `{key}`");
            let remedy = format!("give {}", [needed, possible].concat().join(", "));
            return Err(Failure::input(what, place.of(key), &remedy));
        }
        Ok(())
    }
}

fn keys_of(kind: &str) -> Option<(&'static [&'static str], &'static [&'static str])> {
    let found = KINDS.iter().find(|(known, ..)| *known == kind);
    found.map(|(_, needed, possible)| (*needed, *possible))
}

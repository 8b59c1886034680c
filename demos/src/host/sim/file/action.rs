//! `[[action]]`: what others do to the VMs meanwhile.

use trapline_sched::{
    PcpuId, Weight,
    sim::{Action, ActionSpec, PolicySpec},
};

use super::{MS, Vms, text::ActionText};
use crate::host::{
    Failure,
    failure::Result,
    request::Place,
    toml_text::{choose, within},
};

/// What can be done, and what each needs to be told.
const KINDS: [(&str, &[&str]); 7] = [
    ("pause", &["vm"]),
    ("resume", &["vm"]),
    ("set-weight", &["vm", "weight"]),
    ("set-policy", &["policy"]),
    ("migrate", &["vm", "vcpu", "pcpu"]),
    ("drain", &["pcpu"]),
    ("undrain", &["pcpu"]),
];

/// What an action is checked against.
pub(super) struct Actions<'a> {
    /// Who there is.
    pub vms: &'a Vms,
    /// How many pCPUs there are.
    pub pcpus: u16,
    /// How long all takes, in milliseconds.
    pub duration_ms: i64,
    /// The policy with that name, with the options of the file.
    pub policy: &'a dyn Fn(&str) -> PolicySpec,
}

impl Actions<'_> {
    /// What `text` says, which stands at `place`: one action for each VM that it names.
    ///
    /// # Errors
    /// There is no such action, or what it is told is not what it needs.
    pub(super) fn read(&self, text: &ActionText, place: &Place) -> Result<Vec<ActionSpec>> {
        let kind = text.kind.as_str();
        self.check_keys(text, place)?;
        let last = self.duration_ms;
        let at = within(text.at_ms, 0..=last, "at_ms", place)?;
        let every = within(text.every_ms, 1..=last, "every_ms", place)?;
        let Some(first) = at.or(every) else {
            let remedy = "give at_ms, every_ms, or both";
            return Err(Failure::input(
                "an action without a time",
                place.of("at_ms"),
                remedy,
            ));
        };
        let pcpu = within(text.pcpu, 0..=i64::from(self.pcpus) - 1, "pcpu", place)?;
        let pcpu = pcpu.and_then(|pcpu| PcpuId::new(pcpu as u16));
        let weight = within(text.weight, 1..=i64::from(Weight::LIMIT), "weight", place)?;
        let weight = weight.and_then(|weight| Weight::new(weight as u16));
        let vms = match &text.vm {
            Some(name) => self.vms.find(name, place)?,
            None => Vec::new(),
        };
        let vcpus = vms.first().map_or(1, |vm| self.vms.specs[*vm].vcpus);
        let vcpu = within(text.vcpu, 0..=i64::from(vcpus) - 1, "vcpu", place)?;
        let may_go = |vm: &&usize| {
            let affinity = self.vms.specs[**vm].affinity;
            affinity
                .zip(pcpu)
                .is_none_or(|(affinity, pcpu)| affinity.contains(pcpu))
        };
        if let Some(vm) = vms.iter().find(|vm| !may_go(vm)) {
            let what = format!("`{}` may not run there", self.vms.specs[*vm].name);
            return Err(Failure::input(
                what,
                place.of("pcpu"),
                "give one of its affinity",
            ));
        }
        let each = |action: &dyn Fn(usize) -> Action| vms.iter().map(|vm| action(*vm)).collect();
        let actions: Vec<Action> = match (kind, pcpu, weight, vcpu, &text.policy) {
            ("pause", ..) => each(&|vm| Action::Pause { vm }),
            ("resume", ..) => each(&|vm| Action::Resume { vm }),
            ("set-weight", _, Some(weight), ..) => each(&|vm| Action::SetWeight { vm, weight }),
            ("migrate", Some(to), _, Some(vcpu), _) => each(&|vm| Action::Migrate {
                vm,
                vcpu: vcpu as u16,
                to,
            }),
            ("drain", Some(pcpu), ..) => vec![Action::Drain(pcpu)],
            ("undrain", Some(pcpu), ..) => vec![Action::Undrain(pcpu)],
            ("set-policy", _, _, _, Some(policy)) => vec![Action::SetPolicy((self.policy)(policy))],
            _ => unreachable!("its keys have been checked"),
        };
        let spec = |action| ActionSpec {
            first: first as u64 * MS,
            every: every.map(|every| every as u64 * MS),
            action,
        };
        Ok(actions.into_iter().map(spec).collect())
    }

    /// Each key that the action needs is given, and no other.
    fn check_keys(&self, text: &ActionText, place: &Place) -> Result<()> {
        let kind = text.kind.as_str();
        let Some((_, needed)) = KINDS.iter().find(|(known, _)| *known == kind) else {
            let what = format!("unknown action `{}`", kind.escape_debug());
            let known = KINDS.map(|(kind, _)| kind);
            return Err(Failure::input(what, place.of("do"), &choose(kind, &known)));
        };
        let keys = [
            ("vm", text.vm.is_some()),
            ("vcpu", text.vcpu.is_some()),
            ("pcpu", text.pcpu.is_some()),
            ("weight", text.weight.is_some()),
            ("policy", text.policy.is_some()),
        ];
        for (key, is_given) in keys {
            let verb = match (is_given, needed.contains(&key)) {
                (true, false) => "has no",
                (false, true) => "needs a",
                _ => continue,
            };
            let what = format!("action `{kind}` {verb} `{key}`");
            let remedy = format!("give {}", needed.join(", "));
            return Err(Failure::input(what, place.of(key), &remedy));
        }
        Ok(())
    }
}

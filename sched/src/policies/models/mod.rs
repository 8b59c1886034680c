//! Each policy against a slow and obvious model of it, on one pCPU with guests by chance.
//!
//! [`compare`] plays the core: time passes, vCPUs come and go, slices end when they are over, and whoever should preempt does.
//! The policy and the model are told the same, and must choose the same. Models keep what they know in plain variables and look
//! at everything each time. What several pCPUs do together is the simulator's.

mod caps;
mod credit;
mod deadline;
mod fair;
mod gang;
mod priority;
mod round_robin;
mod table;
mod turns;

use crate::{
    Choice, Entitlement, Entitlements, LocalPolicy, PcpuId, PcpuSet, Pick, Policy, Ready, Slice,
    VcpuId, Weight,
};
use alloc::{sync::Arc, vec::Vec};
use proptest::prelude::*;

/// How many vCPUs there are: more than a ranking looks at one by one.
const VCPUS: u16 = 12;
/// How many there are on another pCPU, of each priority.
const OTHERS: u16 = 3;
/// So many priorities there are.
const PRIORITIES: u8 = 3;
/// For so many a policy has room.
const ROOM: u16 = VCPUS + OTHERS * PRIORITIES as u16;
/// The slice of those that have none of their own, in ticks.
const SLICE: u64 = 10;

const OTHER: PcpuId = match PcpuId::new(1) {
    Some(other) => other,
    None => panic!("rule: there can be two pCPUs"),
};

/// What happens next.
#[derive(Clone, Copy, Debug)]
enum Event {
    /// Nothing, for so many ticks.
    Pass(u64),
    /// The one that runs makes an exit that takes so many ticks, whatever is left of its slice.
    Stall(u64),
    /// This vCPU wakes up, if it is not here.
    Wake(u16),
    /// This one blocks or is taken away, if it is here.
    Leave(u16),
    /// The one that runs yields.
    Yield,
    /// It yields to this one.
    YieldTo(u16),
    /// This one gets this weight and slice.
    Reweigh(u16, u16, u64),
    /// Somebody waits for this one: it should run next.
    Hurry(u16),
    /// Another pCPU has fewer, and gets one, if the policy wants to be asked.
    Relieve(Place),
}

/// A pCPU where fewer wait.
#[derive(Clone, Copy, Debug)]
struct Place {
    /// The priority of all that are there.
    priority: u8,
    /// One runs, and so many wait.
    waiting: u16,
    /// Bit n: vCPU n may go there.
    allowed: u16,
}

impl Place {
    fn allows(self, vcpu: u16) -> bool {
        self.allowed & 1 << vcpu != 0
    }
}

/// What a policy does, said slowly and obviously.
trait Model {
    /// `vcpu` becomes ready.
    fn enqueue(&mut self, vcpu: u16, why: Ready, now: u64);

    /// `vcpu`, which is ready or runs, goes away.
    fn leave(&mut self, vcpu: u16, now: u64);

    /// `vcpu` runs, and has had `ticks` more until `now`.
    fn charge(&mut self, vcpu: u16, ticks: u64, now: u64);

    /// Who runs now.
    fn pick(&mut self, now: u64) -> Option<u16>;

    /// `vcpu`, which is ready, is called by the one that has just yielded, and runs for it if the result is true: until `end`, if that
    /// one's turn has an end.
    fn call(&mut self, vcpu: u16, end: Option<u64>, now: u64) -> bool;

    /// `vcpu`, which is ready, is hurried, and runs before its turn if the result is true.
    fn hurry(&mut self, _vcpu: u16, _now: u64) -> bool {
        false
    }

    /// `vcpu` shall have this weight and slice from now on.
    fn reweigh(&mut self, _vcpu: u16, _weight: u16, _slice: u64) {}

    /// For how many ticks the one that was picked may run at most, if the model says so.
    fn slice(&self, _now: u64) -> Option<u64> {
        None
    }

    /// Who goes to `place`, and is not here any more.
    fn relieve(&mut self, _place: Place) -> Option<u16> {
        None
    }

    /// `running` has to make way at once; `None`: the model does not say.
    fn is_preempted(&mut self, _running: u16, _now: u64) -> Option<bool> {
        Some(false)
    }
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        3 => (0..3 * SLICE).prop_map(Event::Pass),
        3 => (0..VCPUS).prop_map(Event::Wake),
        1 => (0..VCPUS).prop_map(Event::Leave),
        1 => Just(Event::Yield),
        1 => (0..VCPUS).prop_map(Event::YieldTo),
        1 => (0..VCPUS).prop_map(Event::Hurry),
        1 => place().prop_map(Event::Relieve),
    ]
}

fn place() -> impl Strategy<Value = Place> {
    // Most may go.
    let allowed = (any::<u16>(), any::<u16>()).prop_map(|(some, others)| some | others);
    let place = |(priority, waiting, allowed)| Place {
        priority,
        waiting,
        allowed,
    };
    (0..PRIORITIES, 0..OTHERS, allowed).prop_map(place)
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    prop::collection::vec(event(), 1..200)
}

/// The same, with exits that take longer than slices do.
fn events_and_stalls() -> impl Strategy<Value = Vec<Event>> {
    let stall = (0..3 * SLICE).prop_map(Event::Stall);
    prop::collection::vec(prop_oneof![9 => event(), 1 => stall], 1..200)
}

/// The same, with weights and slices that change.
fn events_and_weights() -> impl Strategy<Value = Vec<Event>> {
    let weight = prop_oneof![Just(1), Just(1024), Just(10_000), 1..10_000_u16];
    let change = (0..VCPUS, weight, 1..40_u64);
    let reweigh = change.prop_map(|(vcpu, weight, slice)| Event::Reweigh(vcpu, weight, slice));
    prop::collection::vec(prop_oneof![9 => event(), 1 => reweigh], 1..200)
}

fn cases() -> ProptestConfig {
    ProptestConfig {
        cases: 2000,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

fn id(vcpu: u16) -> VcpuId {
    VcpuId::new(vcpu)
}

/// The core of one pCPU.
struct Core<'a> {
    local: &'a mut dyn LocalPolicy,
    model: &'a mut dyn Model,
    table: &'a Entitlements,
    /// Another pCPU's, if the policy wants to be asked who goes there.
    other: Option<&'a mut dyn LocalPolicy>,
    now: u64,
    ready: Vec<u16>,
    /// Who runs, and when its slice is over, if it has one; and whether it is even if nobody waits.
    running: Option<(u16, Option<u64>, bool)>,
    /// When the policy is asked again, while the pCPU idles.
    resume_at: Option<u64>,
}

impl Core<'_> {
    fn enqueue(&mut self, vcpu: u16, why: Ready) {
        self.ready.push(vcpu);
        self.model.enqueue(vcpu, why, self.now);
        self.local.enqueue(id(vcpu), why, self.now);
    }

    fn end_turn(&mut self, why: Ready) {
        if let Some((vcpu, ..)) = self.running.take() {
            self.enqueue(vcpu, why);
        }
    }

    fn choose(&mut self) {
        if self.running.is_some() {
            return;
        }
        self.resume_at = None;
        let (expected, choice) = (self.model.pick(self.now), self.local.pick(self.now));
        match choice {
            Choice::Run(Pick { vcpu, slice }) => {
                let vcpu = vcpu.index() as u16;
                assert_eq!(Some(vcpu), expected, "at {}", self.now);
                self.run(vcpu, slice);
            }
            Choice::Idle(until) => {
                assert_eq!(expected, None, "nobody runs at {}", self.now);
                let is_later = until.is_none_or(|until| until > self.now);
                assert!(is_later, "it would be asked at {} again", self.now);
                self.resume_at = until;
            }
        }
        assert_eq!(self.local.waiting(), self.ready.len());
    }

    fn run(&mut self, vcpu: u16, slice: Slice) {
        let Slice {
            duration,
            is_strict,
            ..
        } = slice;
        if let Some(ticks) = self.model.slice(self.now) {
            let given = duration.map(u64::from);
            assert_eq!(given, Some(ticks), "the slice of {vcpu} at {}", self.now);
        }
        self.ready.retain(|&ready| ready != vcpu);
        let end = duration.map(|ticks| self.now.saturating_add(ticks.get()));
        self.running = Some((vcpu, end, is_strict));
    }

    /// The one that runs yields to `vcpu`, which gets what is left of its turn.
    fn yield_to(&mut self, vcpu: u16) {
        let Some((_, end, _)) = self.running else {
            return;
        };
        let is_ready = self.ready.contains(&vcpu);
        let is_over = end.is_some_and(|end| end <= self.now);
        self.end_turn(Ready::Yielded);
        if !is_ready || is_over {
            return;
        }
        let expected = self.model.call(vcpu, end, self.now);
        let slice = self.local.take(id(vcpu), self.now);
        assert_eq!(slice.is_some(), expected, "{vcpu} at {}", self.now);
        if let Some(slice) = slice {
            self.run(vcpu, slice);
            if let Some((_, own, is_strict)) = &mut self.running {
                let own_end = own.filter(|_| *is_strict || end.is_none());
                *own = [own_end, end].into_iter().flatten().min();
            }
        }
    }

    /// The next choice is made with somebody waiting for `vcpu`.
    fn hurry(&mut self, vcpu: u16) {
        if self.running.is_some() || !self.ready.contains(&vcpu) {
            return;
        }
        let expected = self.model.hurry(vcpu, self.now);
        let slice = self.local.hurry(id(vcpu), self.now);
        assert_eq!(slice.is_some(), expected, "{vcpu} at {}", self.now);
        if let Some(slice) = slice {
            self.run(vcpu, slice);
        }
    }

    /// Time passes up to `end`; turns end in between.
    fn pass(&mut self, end: u64) {
        while self.now < end {
            let slice_end = self.running.and_then(|(_, slice_end, is_strict)| {
                slice_end.filter(|_| is_strict || !self.ready.is_empty())
            });
            let next = [slice_end, self.resume_at].into_iter().flatten().min();
            let next = next.unwrap_or(end).clamp(self.now, end);
            let ticks = next - self.now;
            self.now = next;
            self.charge(ticks);
            if slice_end.is_some_and(|slice_end| slice_end <= next) {
                self.end_turn(Ready::Preempted);
            }
            self.choose();
        }
    }

    fn charge(&mut self, ticks: u64) {
        if let Some((vcpu, ..)) = self.running.filter(|_| ticks > 0) {
            self.model.charge(vcpu, ticks, self.now);
            self.local.charge(id(vcpu), ticks, self.now);
        }
    }

    fn stall(&mut self, ticks: u64) {
        let Some((_, end, is_strict)) = self.running else {
            return;
        };
        self.now += ticks;
        self.charge(ticks);
        let has_end = is_strict || !self.ready.is_empty();
        if has_end && end.is_some_and(|end| end <= self.now) {
            self.end_turn(Ready::Preempted);
        }
    }

    fn happen(&mut self, event: Event) {
        let is_running = |vcpu| self.running.is_some_and(|(running, ..)| running == vcpu);
        match event {
            Event::Pass(ticks) => self.pass(self.now + ticks),
            Event::Stall(ticks) => self.stall(ticks),
            Event::Wake(vcpu) if is_running(vcpu) || self.ready.contains(&vcpu) => {}
            Event::Wake(vcpu) => {
                self.enqueue(vcpu, Ready::Woken);
                self.preempt();
            }
            Event::Leave(vcpu) if is_running(vcpu) => {
                self.running = None;
                self.model.leave(vcpu, self.now);
                self.local.leave(id(vcpu), self.now);
            }
            Event::Leave(vcpu) if self.ready.contains(&vcpu) => {
                self.ready.retain(|&ready| ready != vcpu);
                self.model.leave(vcpu, self.now);
                self.local.withdraw(id(vcpu), self.now);
            }
            Event::Leave(_) => {}
            Event::Yield => self.end_turn(Ready::Yielded),
            Event::YieldTo(vcpu) if is_running(vcpu) => {}
            Event::YieldTo(vcpu) => self.yield_to(vcpu),
            Event::Reweigh(vcpu, weight, slice) => {
                let entitlement = Entitlement {
                    weight: Weight::new(weight).expect("a good weight"),
                    slice: Some(slice),
                    ..self.table.get(id(vcpu))
                };
                self.table.set(id(vcpu), &entitlement);
                self.model.reweigh(vcpu, weight, slice);
            }
            Event::Hurry(vcpu) if self.ready.contains(&vcpu) => {
                // Who runs yields, so that somebody has to be chosen.
                self.end_turn(Ready::Yielded);
                self.hurry(vcpu);
            }
            Event::Hurry(_) => {}
            Event::Relieve(place) => self.relieve(place),
        }
        self.choose();
    }

    fn relieve(&mut self, place: Place) {
        let Some(other) = self.other.as_deref_mut() else {
            return;
        };
        let first = VCPUS + OTHERS * u16::from(place.priority);
        let there = (first..=first + place.waiting).map(id);
        there
            .clone()
            .for_each(|vcpu| other.enqueue(vcpu, Ready::Woken, self.now));
        let Choice::Run(running) = other.pick(self.now) else {
            unreachable!("somebody is ready");
        };
        let mut allowed = |vcpu: VcpuId| place.allows(vcpu.index() as u16);
        let waiting = place.waiting.into();
        let gone = self.local.relieve(OTHER, waiting, &mut allowed);
        assert_eq!(gone, self.model.relieve(place).map(id), "at {}", self.now);
        self.ready.retain(|&ready| gone != Some(id(ready)));
        other.leave(running.vcpu, self.now);
        there.for_each(|vcpu| other.withdraw(vcpu, self.now));
    }

    fn preempt(&mut self) {
        let Some((running, ..)) = self.running else {
            return;
        };
        let is_preempted = self.local.preempts(id(running), self.now);
        if let Some(expected) = self.model.is_preempted(running, self.now) {
            assert_eq!(is_preempted, expected, "at {}", self.now);
        }
        if is_preempted {
            self.end_turn(Ready::Preempted);
        }
    }
}

/// Plays `events` to `policy` and `model`, with vCPUs that shall get `entitlements`.
fn compare(
    policy: &dyn Policy,
    model: &mut dyn Model,
    entitlements: &[Entitlement],
    events: &[Event],
) {
    let table = Arc::new(Entitlements::new(ROOM));
    for (vcpu, entitlement) in (0..VCPUS).zip(entitlements) {
        let home = policy.admit(id(vcpu), entitlement, PcpuSet::all(1));
        table.set(id(vcpu), entitlement);
        table.set_place(id(vcpu), PcpuSet::all(1), home.expect("it can be kept"));
    }
    for priority in 0..PRIORITIES {
        let entitlement = Entitlement {
            priority,
            ..Entitlement::default()
        };
        let first = VCPUS + OTHERS * u16::from(priority);
        (first..first + OTHERS).for_each(|vcpu| table.set(id(vcpu), &entitlement));
    }
    let pcpu = PcpuSet::all(1).first().expect("there is one");
    let mut local = policy.local(pcpu, &table);
    let is_balanced = policy.balance_period().is_some();
    let mut other = is_balanced.then(|| policy.local(OTHER, &table));
    let mut core = Core {
        local: &mut *local,
        model,
        table: &table,
        other: match &mut other {
            Some(other) => Some(&mut **other),
            None => None,
        },
        now: 0,
        ready: Vec::new(),
        running: None,
        resume_at: None,
    };
    events.iter().for_each(|&event| core.happen(event));
}

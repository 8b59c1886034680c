//! What led to a broken rule: the last events of the vCPUs and pCPUs that it is about, from the trace rings.

use super::{Failure, engine::Engine};
use crate::{PcpuId, TraceEvent, VcpuId};
use alloc::{
    format,
    rc::Rc,
    string::{String, ToString},
    vec::Vec,
};
use core::{
    any::Any,
    cell::{Cell, RefCell},
};
use std::{panic, sync::Once};

/// So many events are shown.
const LINES: usize = 40;

std::thread_local! {
    /// The run that goes on here.
    static SEED: Cell<Option<u64>> = const { Cell::new(None) };
    static ENGINE: RefCell<Option<Rc<Engine>>> = const { RefCell::new(None) };
}

/// A run goes on, on this thread, until this is dropped. Where panics unwind, those of this thread say nothing meanwhile: they
/// become a [`Failure`].
pub(super) struct Watch;

impl Watch {
    pub(super) fn start(seed: u64) -> Self {
        static QUIET: Once = Once::new();
        if cfg!(panic = "unwind") {
            QUIET.call_once(|| {
                let loud = panic::take_hook();
                panic::set_hook(alloc::boxed::Box::new(move |info| {
                    if !is_watching() {
                        loud(info);
                    }
                }));
            });
        }
        SEED.set(Some(seed));
        Self
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        SEED.set(None);
        drop(ENGINE.take());
    }
}

/// A run goes on here.
pub(super) fn is_watching() -> bool {
    SEED.get().is_some()
}

/// The run has this machine, which stays as it is when a rule breaks.
pub(super) fn follow(engine: &Rc<Engine>) {
    ENGINE.set(Some(Rc::clone(engine)));
}

/// What somebody panicked with.
pub(super) fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(|text| &**text));
    text.unwrap_or("a panic without words")
}

/// The rule that `message` says was broken, in the run that goes on here.
pub(super) fn failure(message: &str) -> Failure {
    let engine = ENGINE.with(|engine| engine.try_borrow().ok()?.clone());
    Failure {
        seed: SEED.get().unwrap_or_default(),
        rule: message.trim().to_string(),
        time: engine.as_ref().map_or(0, |engine| engine.now()),
        history: engine.map_or_else(Vec::new, |engine| history(&engine, message)),
    }
}

/// The numbers in `message` that follow `name`, as in `vcpu5`.
fn named(message: &str, name: &str) -> Vec<usize> {
    let parts = message.split(name).skip(1);
    let digits = parts.map(|part| {
        let end = part.find(|c: char| !c.is_ascii_digit());
        part[..end.unwrap_or(part.len())].parse()
    });
    digits.filter_map(Result::ok).collect()
}

fn history(engine: &Engine, message: &str) -> Vec<String> {
    let (mut vcpus, mut pcpus) = (named(message, "vcpu"), named(message, "pcpu"));
    if let Some(here) = engine.world().here() {
        pcpus.push(here.index());
        vcpus.extend(engine.station(here).bound.get().map(VcpuId::index));
    }
    let mut events = Vec::new();
    for pcpu in engine.scheduler().pcpus().iter() {
        let Some(ring) = engine.scheduler().trace(pcpu) else {
            continue;
        };
        let is_involved = pcpus.contains(&pcpu.index());
        ring.visit(|record| {
            let (vcpu, _) = describe(record.event);
            if is_involved || vcpu.is_some_and(|vcpu| vcpus.contains(&vcpu.index())) {
                events.push((record.time, pcpu, record.event));
            }
        });
    }
    let line = |(time, pcpu, event): (u64, PcpuId, TraceEvent)| {
        (time, format!("{time} {pcpu} {}", describe(event).1))
    };
    let mut lines: Vec<(u64, String)> = events.into_iter().map(line).collect();
    lines.sort_by_key(|&(time, _)| time);
    let first = lines.len().saturating_sub(LINES);
    let mut lines = lines.split_off(first);
    // What was done before all of it may have led to it, too.
    let outside = engine.journal.lines().into_iter();
    lines.extend(outside.map(|(time, line)| (time, format!("{time} somebody {line}"))));
    lines.sort_by_key(|&(time, _)| time);
    lines.into_iter().map(|(_, line)| line).collect()
}

/// Whom `event` is about, and in words.
fn describe(event: TraceEvent) -> (Option<VcpuId>, String) {
    match event {
        TraceEvent::Switch(vcpu) => (Some(vcpu), format!("binds {vcpu}")),
        TraceEvent::Park(vcpu) => (Some(vcpu), format!("parks {vcpu}")),
        TraceEvent::WaitLoaded(vcpu) => (Some(vcpu), format!("lets {vcpu} wait loaded")),
        TraceEvent::Wake(vcpu) => (Some(vcpu), format!("wakes {vcpu}")),
        TraceEvent::Post(vcpu, to) => (Some(vcpu), format!("posts {vcpu} to {to}")),
        TraceEvent::HandOver(vcpu, to) => (Some(vcpu), format!("hands {vcpu} over to {to}")),
        TraceEvent::Migrate(vcpu, to) => (Some(vcpu), format!("moves {vcpu} to {to}")),
        TraceEvent::Kick(to) => (None, format!("kicks {to}")),
        TraceEvent::Preempt(vcpu) => (Some(vcpu), format!("ends the turn of {vcpu}")),
        TraceEvent::Yield(vcpu) => (Some(vcpu), format!("lets others run for {vcpu}")),
        TraceEvent::Sync(vcpu) => (Some(vcpu), format!("folds {vcpu}")),
        TraceEvent::Reset(vcpu) => (Some(vcpu), format!("resets {vcpu}")),
        TraceEvent::Exit(vcpu, class) => (Some(vcpu), format!("exits from {vcpu}: {class}")),
        TraceEvent::Interrupt(intid) => (None, format!("takes interrupt {intid}")),
        TraceEvent::Starved(vcpu) => (Some(vcpu), format!("has let {vcpu} wait for too long")),
        TraceEvent::Idle => (None, "idles".to_string()),
        TraceEvent::Drained => (None, "is drained".to_string()),
        TraceEvent::Policy => (None, "has another policy".to_string()),
    }
}

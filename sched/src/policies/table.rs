//! Table: each pCPU repeats a major frame of windows for ever, and in a window only the vCPUs of one VM run there.
//!
//! ```text
//!   time 0        300     500   600        900    1100  1200
//!        | VM 0   | VM 1  | -   | VM 0     | VM 1 | -   | ...     the frame of one pCPU
//! ```
//! Within its window the ready vCPUs of a VM take turns, as in round-robin; if none is ready, or in an idle window, the pCPU
//! idles until the window ends. So nothing that a VM does moves another VM's windows. A vCPU belongs to one of the pCPUs
//! that have windows for its VM, and goes back there if an operator or a drained pCPU has sent it where there is none.
//! [ARINC 653 Part 1: Partition scheduling, major time frame]

use super::{fifo::Fifo, members::Members};
use crate::{
    Allowed, Bounds, Choice, Entitlement, Entitlements, GroupId, LocalPolicy, PcpuId, PcpuSet,
    Pick, Policy, Ready, Refusal, Slice, VcpuId,
};
use alloc::{boxed::Box, format, sync::Arc, vec::Vec};
use core::fmt;

/// A part of a frame.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Window {
    /// Whose vCPUs run; `None`: nobody's.
    pub group: Option<GroupId>,
    /// How long, in ticks of the host's counter.
    pub ticks: u64,
}

/// Why a table makes no sense.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum BadTable {
    /// No pCPU has a window for anybody.
    NoWindow,
    /// This pCPU has a frame without windows.
    EmptyFrame(PcpuId),
    /// This pCPU has two frames.
    TwoFrames(PcpuId),
    /// This window of this pCPU, counted from 0, has no ticks.
    EmptyWindow(PcpuId, usize),
    /// The frame of this pCPU is longer than a counter can count.
    TooLong(PcpuId),
}

impl fmt::Display for BadTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoWindow => f.write_str("a table needs at least one window for a VM"),
            Self::EmptyFrame(pcpu) => write!(f, "the frame of {pcpu} has no windows"),
            Self::TwoFrames(pcpu) => write!(f, "{pcpu} has two frames"),
            Self::EmptyWindow(pcpu, index) => {
                write!(
                    f,
                    "window {index} of {pcpu} has 0 ticks: it needs at least 1"
                )
            }
            Self::TooLong(pcpu) => {
                write!(f, "the frame of {pcpu} has more than {} ticks", u64::MAX)
            }
        }
    }
}

impl core::error::Error for BadTable {}

/// The frames of all pCPUs. Those without one idle.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Table(Vec<(PcpuId, Frame)>);

/// Windows with the times at which they end, counted from the start of the frame.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct Frame(Vec<(u64, Option<GroupId>)>);

impl Frame {
    fn length(&self) -> u64 {
        self.0.last().map_or(0, |&(end, _)| end)
    }

    /// Whose window it is at `now`, and for how many ticks yet; `None`: there are no windows.
    fn at(&self, now: u64) -> Option<(Option<GroupId>, u64)> {
        let time = now.checked_rem(self.length())?;
        let index = self.0.partition_point(|&(end, _)| end <= time);
        self.0.get(index).map(|&(end, group)| (group, end - time))
    }

    fn has(&self, group: GroupId) -> bool {
        self.0.iter().any(|&(_, whose)| whose == Some(group))
    }
}

impl Table {
    /// A frame for each pCPU of `frames`.
    ///
    /// # Errors
    /// It makes no sense.
    pub fn new(frames: impl IntoIterator<Item = (PcpuId, Vec<Window>)>) -> Result<Self, BadTable> {
        let mut table = Self(Vec::new());
        for (pcpu, windows) in frames {
            if table.frame(pcpu).is_some() {
                return Err(BadTable::TwoFrames(pcpu));
            }
            let mut frame = Frame::default();
            for (index, Window { group, ticks }) in windows.into_iter().enumerate() {
                if ticks == 0 {
                    return Err(BadTable::EmptyWindow(pcpu, index));
                }
                let end = frame.length().checked_add(ticks);
                frame.0.push((end.ok_or(BadTable::TooLong(pcpu))?, group));
            }
            if frame.0.is_empty() {
                return Err(BadTable::EmptyFrame(pcpu));
            }
            table.0.push((pcpu, frame));
        }
        let mut windows = table.0.iter().flat_map(|(_, frame)| &frame.0);
        if !windows.any(|(_, group)| group.is_some()) {
            return Err(BadTable::NoWindow);
        }
        Ok(table)
    }

    fn frame(&self, pcpu: PcpuId) -> Option<&Frame> {
        let mut frames = self.0.iter().filter(|&&(whose, _)| whose == pcpu);
        frames.next().map(|(_, frame)| frame)
    }

    /// The pCPUs of the table.
    pub fn pcpus(&self) -> PcpuSet {
        self.pcpus_where(|_| true)
    }

    /// The pCPUs that have a window for `group`.
    fn pcpus_for(&self, group: GroupId) -> PcpuSet {
        self.pcpus_where(|frame| frame.has(group))
    }

    fn pcpus_where(&self, is_wanted: impl Fn(&Frame) -> bool) -> PcpuSet {
        let wanted = self.0.iter().filter(|(_, frame)| is_wanted(frame));
        let each = wanted.map(|&(pcpu, _)| PcpuSet::only(pcpu));
        each.fold(PcpuSet::EMPTY, PcpuSet::union)
    }
}

/// Runs VMs as a table says.
pub struct TableDriven {
    slice_ticks: u64,
    shared: Arc<Shared>,
}

/// What the pCPUs have in common.
struct Shared {
    table: Table,
    members: Members,
}

impl TableDriven {
    /// The name by which it is chosen.
    pub const NAME: &str = "table";

    /// For up to `max_vcpus` vCPUs. Within a window those without a slice of their own run for `slice_ticks` at a time.
    pub fn new(slice_ticks: u64, table: Table, max_vcpus: u16) -> Self {
        let shared = Shared {
            table,
            members: Members::new(max_vcpus),
        };
        Self {
            slice_ticks,
            shared: Arc::new(shared),
        }
    }
}

impl Policy for TableDriven {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn room(&self) -> usize {
        self.shared.members.room()
    }

    /// While the pCPUs that have windows for a VM are drained, it waits.
    fn bounds(&self, _ready: usize) -> Bounds {
        Bounds {
            work_conserving: false,
            longest_wait: None,
        }
    }

    fn admit(
        &self,
        vcpu: VcpuId,
        entitlement: &Entitlement,
        affinity: PcpuSet,
    ) -> Result<Option<PcpuId>, Refusal> {
        let Shared { table, members } = &*self.shared;
        let group = entitlement.group;
        let (name, windows) = (group.index(), table.pcpus_for(group));
        let possible = windows.intersection(affinity);
        if windows.is_empty() {
            let reason = format!("VM {name} has no window in the table");
            return Err(Refusal::Words(reason));
        }
        if possible.is_empty() {
            return Err(Refusal::Words(format!(
                "VM {name} has windows on pCPUs {windows} only, and its vCPU may run on {affinity} only"
            )));
        }
        let order = u32::from(members.order_in(group, vcpu)) % possible.len();
        members.join(vcpu, group);
        Ok(possible.iter().nth(order as usize))
    }

    fn release(&self, vcpu: VcpuId) {
        self.shared.members.leave(vcpu);
    }

    fn renew(&self, _pcpus: PcpuSet) -> Box<dyn Policy> {
        let Shared { table, members } = &*self.shared;
        Box::new(Self::new(
            self.slice_ticks,
            table.clone(),
            members.room() as u16,
        ))
    }

    fn local(&self, pcpu: PcpuId, entitlements: &Arc<Entitlements>) -> Box<dyn LocalPolicy> {
        let frame = self.shared.table.frame(pcpu);
        Box::new(Queue {
            slice_ticks: self.slice_ticks,
            frame: frame.cloned().unwrap_or_default(),
            ready: Fifo::with_capacity(entitlements.len()),
            shared: Arc::clone(&self.shared),
            entitlements: Arc::clone(entitlements),
        })
    }
}

/// First in, first out, as far as the window lets them.
struct Queue {
    slice_ticks: u64,
    frame: Frame,
    ready: Fifo<VcpuId>,
    shared: Arc<Shared>,
    entitlements: Arc<Entitlements>,
}

impl Queue {
    /// The slice of `vcpu` if it is in its window.
    fn slice(&self, vcpu: VcpuId, now: u64) -> Option<Slice> {
        let (whose, left) = self.frame.at(now)?;
        let entitlement = self.entitlements.get(vcpu);
        let slice = entitlement.slice.unwrap_or(self.slice_ticks).max(1);
        let left = if cfg!(mutant = "table_overruns_windows") {
            slice
        } else {
            left
        };
        (whose == Some(entitlement.group)).then(|| Slice::strictly(slice.min(left)))
    }
}

impl LocalPolicy for Queue {
    fn enqueue(&mut self, vcpu: VcpuId, why: Ready, _now: u64) {
        self.ready.join(vcpu, why);
    }

    fn pick(&mut self, now: u64) -> Choice {
        let run = |(index, &vcpu)| Some((index, vcpu, self.slice(vcpu, now)?));
        let next = self.ready.iter().enumerate().find_map(run);
        if let Some((index, vcpu, slice)) = next {
            self.ready.remove(index);
            return Choice::Run(Pick { vcpu, slice });
        }
        // Without windows here, those that have come all the same ask from time to time whether they can go home.
        let left = self
            .frame
            .at(now)
            .map_or(self.slice_ticks, |(_, left)| left);
        let has_ready = !self.ready.is_empty();
        Choice::Idle(has_ready.then(|| now.saturating_add(left.max(1))))
    }

    fn take(&mut self, vcpu: VcpuId, now: u64) -> Option<Slice> {
        let index = self.ready.position(vcpu)?;
        let slice = self.slice(vcpu, now)?;
        self.ready.call(index).map(|_| slice)
    }

    fn withdraw(&mut self, vcpu: VcpuId, _now: u64) {
        if let Some(index) = self.ready.position(vcpu) {
            self.ready.remove(index);
        }
    }

    /// An idle pCPU is idle on purpose.
    fn surrender(&mut self, _allowed: &mut dyn FnMut(VcpuId) -> bool) -> Option<VcpuId> {
        None
    }

    fn charge(&mut self, _vcpu: VcpuId, _ticks: u64, _now: u64) {}

    /// One whose VM has no window here goes home, or where it has one.
    fn push(&mut self, _now: u64, allowed: Allowed<'_>) -> Option<(VcpuId, PcpuId)> {
        let place = |(index, &vcpu): (usize, &VcpuId)| {
            let group = self.entitlements.group(vcpu);
            if self.frame.has(group) {
                return None;
            }
            let windows = self.shared.table.pcpus_for(group);
            let home = self.entitlements.home(vcpu);
            let mut places = home.into_iter().chain(windows.iter());
            Some((index, vcpu, places.find(|&to| allowed(vcpu, to))?))
        };
        let (index, vcpu, to) = self.ready.iter().enumerate().find_map(place)?;
        self.ready.remove(index);
        Some((vcpu, to))
    }

    fn waiting(&self) -> usize {
        self.ready.len()
    }
}

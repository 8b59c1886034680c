//! What happened on a pCPU lately: a ring of typed events, written in a handful of instructions.
//!
//! Its pCPU writes, anybody reads. A reader drops what the writer may have overwritten meanwhile, so it never shows half
//! an event. The ring is memory of the last moments, for a panic or a test; it is not a log that keeps everything.

use crate::{PcpuId, VcpuId};
use alloc::{boxed::Box, vec::Vec};
use core::sync::atomic::{AtomicU64, Ordering, fence};

/// How many events a ring holds; a power of two.
pub const TRACE_CAPACITY: usize = 256;

/// What happened.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum TraceEvent {
    /// This pCPU has bound the vCPU.
    Switch(VcpuId),
    /// This pCPU has unbound and parked the vCPU.
    Park(VcpuId),
    /// The vCPU waits with its registers loaded.
    WaitLoaded(VcpuId),
    /// This pCPU woke the vCPU.
    Wake(VcpuId),
    /// This pCPU put the vCPU into the inbox of another, or its own.
    Post(VcpuId, PcpuId),
    /// This pCPU gave the vCPU, which was ready, to another pCPU.
    HandOver(VcpuId, PcpuId),
    /// This pCPU moved the vCPU because it was asked to, or must.
    Migrate(VcpuId, PcpuId),
    /// This pCPU kicked another.
    Kick(PcpuId),
    /// Others waited, and the vCPU's slice was over.
    Preempt(VcpuId),
    /// The vCPU let others run.
    Yield(VcpuId),
    /// This pCPU folded the vCPU's interrupt state for somebody.
    Sync(VcpuId),
    /// The vCPU was reset before it was bound.
    Reset(VcpuId),
    /// No vCPU can run here.
    Idle,
    /// The pCPU has been drained.
    Drained,
    /// The vCPU left its guest; the number is the embedder's name for why.
    Exit(VcpuId, u32),
    /// A physical interrupt was taken; the number is its INTID.
    Interrupt(u32),
    /// Another policy took over.
    Policy,
    /// The policy let this vCPU wait too long, and round-robin took over.
    Starved(VcpuId),
}

impl TraceEvent {
    /// Kind in bits 7:0, vCPU in 23:8, argument in 63:32.
    // Whoever records an event knows its kind: inlined, this is a constant and a shift.
    #[inline(always)]
    fn pack(self) -> u64 {
        let word = |kind: u64, vcpu: VcpuId, argument: u32| {
            kind | u64::from(vcpu.raw()) << 8 | u64::from(argument) << 32
        };
        let none = VcpuId::new(0);
        match self {
            Self::Switch(vcpu) => word(0, vcpu, 0),
            Self::Park(vcpu) => word(1, vcpu, 0),
            Self::WaitLoaded(vcpu) => word(2, vcpu, 0),
            Self::Wake(vcpu) => word(3, vcpu, 0),
            Self::Post(vcpu, pcpu) => word(4, vcpu, pcpu.index() as u32),
            Self::HandOver(vcpu, pcpu) => word(5, vcpu, pcpu.index() as u32),
            Self::Migrate(vcpu, pcpu) => word(6, vcpu, pcpu.index() as u32),
            Self::Kick(pcpu) => word(7, none, pcpu.index() as u32),
            Self::Preempt(vcpu) => word(8, vcpu, 0),
            Self::Yield(vcpu) => word(9, vcpu, 0),
            Self::Sync(vcpu) => word(10, vcpu, 0),
            Self::Reset(vcpu) => word(11, vcpu, 0),
            Self::Idle => word(12, none, 0),
            Self::Drained => word(13, none, 0),
            Self::Exit(vcpu, class) => word(14, vcpu, class),
            Self::Interrupt(intid) => word(15, none, intid),
            Self::Policy => word(16, none, 0),
            Self::Starved(vcpu) => word(17, vcpu, 0),
        }
    }

    fn unpack(word: u64) -> Option<Self> {
        let vcpu = VcpuId::new((word >> 8) as u16);
        let argument = (word >> 32) as u32;
        let pcpu = PcpuId::from_low_bits(argument);
        Some(match word & 0xff {
            0 => Self::Switch(vcpu),
            1 => Self::Park(vcpu),
            2 => Self::WaitLoaded(vcpu),
            3 => Self::Wake(vcpu),
            4 => Self::Post(vcpu, pcpu),
            5 => Self::HandOver(vcpu, pcpu),
            6 => Self::Migrate(vcpu, pcpu),
            7 => Self::Kick(pcpu),
            8 => Self::Preempt(vcpu),
            9 => Self::Yield(vcpu),
            10 => Self::Sync(vcpu),
            11 => Self::Reset(vcpu),
            12 => Self::Idle,
            13 => Self::Drained,
            14 => Self::Exit(vcpu, argument),
            15 => Self::Interrupt(argument),
            16 => Self::Policy,
            17 => Self::Starved(vcpu),
            _ => return None,
        })
    }
}

/// An event and when it happened.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TraceRecord {
    /// The host's counter, in ticks.
    pub time: u64,
    /// What happened.
    pub event: TraceEvent,
}

struct Entry {
    time: AtomicU64,
    event: AtomicU64,
}

/// The last [`TRACE_CAPACITY`] events of one pCPU.
pub struct TraceRing {
    entries: Box<[Entry; TRACE_CAPACITY]>,
    /// How many events were ever written: the next goes to this number modulo the capacity.
    written: AtomicU64,
}

impl TraceRing {
    pub(crate) fn new() -> Self {
        let entry = || Entry {
            time: AtomicU64::new(0),
            event: AtomicU64::new(0),
        };
        let entries: Box<[Entry]> = (0..TRACE_CAPACITY).map(|_| entry()).collect();
        Self {
            entries: entries
                .try_into()
                .unwrap_or_else(|_| unreachable!("rule: there are so many")),
            written: AtomicU64::new(0),
        }
    }

    /// Adds an event. Only the ring's own pCPU calls it, with interrupts masked.
    #[inline]
    pub fn record(&self, time: u64, event: TraceEvent) {
        let written = self.written.load(Ordering::Relaxed);
        let entry = &self.entries[written as usize % TRACE_CAPACITY];
        // Whoever reads one of these sees that the event before this one is written, and that the one that was here is not.
        entry.time.store(time, Ordering::Release);
        entry.event.store(event.pack(), Ordering::Release);
        self.written.store(written + 1, Ordering::Release);
    }

    /// Gives the last events to `visit`, oldest first; allocates nothing, so that a panic handler can call it. The pCPU
    /// may go on writing: an event that it overwrites meanwhile is left out.
    pub fn visit(&self, mut visit: impl FnMut(TraceRecord)) {
        let end = self.written.load(Ordering::Acquire);
        for number in end.saturating_sub(TRACE_CAPACITY as u64 - 1)..end {
            let entry = &self.entries[number as usize % TRACE_CAPACITY];
            let (time, event) = (
                entry.time.load(Ordering::Relaxed),
                entry.event.load(Ordering::Relaxed),
            );
            fence(Ordering::Acquire);
            // The event that is being written now goes where event `written - TRACE_CAPACITY` is.
            let is_intact = self.written.load(Ordering::Relaxed) < number + TRACE_CAPACITY as u64;
            if let Some(event) = TraceEvent::unpack(event).filter(|_| is_intact) {
                visit(TraceRecord { time, event });
            }
        }
    }

    /// The last events, oldest first.
    pub fn records(&self) -> Vec<TraceRecord> {
        let mut records = Vec::with_capacity(TRACE_CAPACITY);
        self.visit(|record| records.push(record));
        records
    }
}

//! A lottery: who runs next is drawn, and each ready vCPU has as many tickets as its weight says.
//!
//! ```text
//!   tickets   | a: 1024 | b: 512 | c: 2048       |      drawn: 1200 --> b runs for a slice
//! ```
//! Over many slices each gets its share, and whoever has a ticket wins some day: but no bound can be promised.
//! [Waldspurger, Weihl: Lottery Scheduling: Flexible Proportional-Share Resource Management, 1994]

use alloc::{boxed::Box, sync::Arc, vec::Vec};

use trapline_sched::{
    Bounds, Choice, Entitlements, LocalPolicy, PcpuId, PcpuSet, Pick, Policy, Ready, Slice, VcpuId,
};

/// The part that all pCPUs share: there is nothing to share but the length of a slice.
pub struct Lottery {
    slice: Slice,
}

impl Lottery {
    /// A winner runs for `ticks` of the host's counter while others wait.
    pub const fn with_slice(ticks: u64) -> Self {
        Self {
            slice: Slice::of(ticks),
        }
    }
}

impl Policy for Lottery {
    fn name(&self) -> &'static str {
        "lottery"
    }

    fn bounds(&self, _ready: usize) -> Bounds {
        Bounds {
            work_conserving: true,
            longest_wait: None,
        }
    }

    fn renew(&self, _pcpus: PcpuSet) -> Box<dyn Policy> {
        Box::new(Self { slice: self.slice })
    }

    fn local(&self, pcpu: PcpuId, entitlements: &Arc<Entitlements>) -> Box<dyn LocalPolicy> {
        Box::new(Drum {
            slice: self.slice,
            ready: Vec::with_capacity(entitlements.len()),
            entitlements: Arc::clone(entitlements),
            random: pcpu.index() as u64 + 1,
        })
    }
}

/// The part of one pCPU: who takes part in the next draw.
struct Drum {
    slice: Slice,
    ready: Vec<VcpuId>,
    entitlements: Arc<Entitlements>,
    random: u64,
}

impl Drum {
    fn tickets(&self, vcpu: VcpuId) -> u64 {
        self.entitlements.weight(vcpu).get().into()
    }

    /// A number below `limit`. [Marsaglia: Xorshift RNGs]
    fn draw(&mut self, limit: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 11) % limit
    }

    /// Who has won; `None` if nobody takes part.
    fn winner(&mut self) -> Option<usize> {
        let all: u64 = self.ready.iter().map(|&vcpu| self.tickets(vcpu)).sum();
        if all == 0 {
            return None;
        }
        let mut drawn = self.draw(all);
        (0..self.ready.len()).find(|&index| {
            let tickets = self.tickets(self.ready[index]);
            let has_won = drawn < tickets;
            drawn = drawn.saturating_sub(tickets);
            has_won
        })
    }

    fn remove(&mut self, vcpu: VcpuId) -> Option<VcpuId> {
        let index = self.ready.iter().position(|&ready| ready == vcpu)?;
        Some(self.ready.swap_remove(index))
    }
}

impl LocalPolicy for Drum {
    fn enqueue(&mut self, vcpu: VcpuId, _why: Ready, _now: u64) {
        self.ready.push(vcpu);
    }

    fn pick(&mut self, _now: u64) -> Choice {
        match self.winner() {
            Some(index) => Choice::Run(Pick {
                vcpu: self.ready.swap_remove(index),
                slice: self.slice,
            }),
            None => Choice::Idle(None),
        }
    }

    fn take(&mut self, vcpu: VcpuId, _now: u64) -> Option<Slice> {
        self.remove(vcpu).map(|_| self.slice)
    }

    fn withdraw(&mut self, vcpu: VcpuId, _now: u64) {
        self.remove(vcpu);
    }

    fn surrender(&mut self, allowed: &mut dyn FnMut(VcpuId) -> bool) -> Option<VcpuId> {
        let index = self.ready.iter().position(|&ready| allowed(ready))?;
        Some(self.ready.swap_remove(index))
    }

    fn charge(&mut self, _vcpu: VcpuId, _ticks: u64, _now: u64) {}

    fn waiting(&self) -> usize {
        self.ready.len()
    }
}

//! What guests of a scenario do: models of what vCPUs are used for, each with random numbers of its own.
//!
//! A model is a program: asked for its next instruction whenever the last one is done, it answers from a few words of its own
//! and from what the vCPUs of its VM share ([`Shared`]: a lock, who waits for whose answer).

use super::guest::Instruction;
use crate::VcpuId;
use alloc::collections::VecDeque;
use core::{
    cell::{Cell, RefCell},
    ops::Range,
};

/// What each vCPU of a VM plays. Times are in ns.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Workload {
    /// Computes for ever.
    CpuBound,
    /// It has `work` to do in every period, the first of which begins at any time within one. It misses a deadline if that is
    /// not done when the next period begins, and goes on with what is due then.
    Periodic {
        /// How often.
        period: u64,
        /// How much.
        work: u64,
    },
    /// Computes, then waits for its timer.
    Sleeper {
        /// For how long it computes.
        work: Spread,
        /// For how long it waits.
        wait: Spread,
    },
    /// Sleeps just before its slice or a tick ends, and wakes at once: it takes advantage of a scheduler that trusts sleepers.
    Dodger {
        /// For how long it computes.
        work: u64,
        /// For how long it waits.
        wait: u64,
    },
    /// Computes, and computes with the ticket lock of its VM. One that waits for the lock spins.
    SpinLock {
        /// For how long it computes without the lock.
        outside: Spread,
        /// For how long it has the lock.
        inside: Spread,
        /// After spinning for so long it yields to the vCPU that has the lock, again and again.
        directed_yield: Option<u64>,
    },
    /// Computes, interrupts siblings, and spins until each has taken its interrupt, as a TLB shootdown does.
    IpiStorm {
        /// For how long it computes.
        work: Spread,
        /// It interrupts all siblings, and not one at random.
        to_all: bool,
    },
    /// The first vCPU wakes all others at once, again and again; each computes and waits for the next time.
    WakeStorm {
        /// How often.
        period: u64,
        /// For how long each computes.
        work: Spread,
    },
    /// The first vCPU computes, turns the next one on, which does the same, and so on. Each computes a while longer, and then
    /// sleeps for good.
    Boot {
        /// For how long each computes before it turns the next one on.
        work: Spread,
        /// For how long it computes afterwards.
        after: u64,
    },
}

/// A time between two, both included, all of them equally likely. In ns.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Spread {
    /// The shortest.
    pub least: u64,
    /// The longest; not less than the shortest.
    pub most: u64,
}

impl Spread {
    /// Always the same.
    pub const fn exactly(time: u64) -> Self {
        Self {
            least: time,
            most: time,
        }
    }

    fn draw(self, random: &mut Random) -> u64 {
        self.least + random.below((self.most - self.least).saturating_add(1))
    }
}

/// Random numbers. [Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators: SplitMix64]
#[derive(Clone, Debug)]
pub(super) struct Random(u64);

impl Random {
    const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

    /// Those of `stream`, which have nothing to do with those of other streams.
    pub(super) fn new(seed: u64, stream: u64) -> Self {
        let mut random = Self(seed);
        let seed = random.next() ^ stream.wrapping_mul(0xd134_2543_de82_ef95);
        let mut random = Self(seed);
        Self(random.next())
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(Self::STEP);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// From 1 to twice `mean`, which it is in the mean.
    pub(super) fn around(&mut self, mean: u64) -> u64 {
        1 + self.below(mean.saturating_mul(2).max(1))
    }

    /// A number below `limit`, which is not 0.
    pub(super) fn below(&mut self, limit: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(limit)) >> 64) as u64
    }
}

/// What the vCPUs of a VM share.
pub(super) struct Shared {
    pub(super) vcpus: Range<u16>,
    /// Who has the lock.
    holder: Cell<Option<VcpuId>>,
    /// Who waits for the lock, in turn.
    waiting: RefCell<VecDeque<VcpuId>>,
    /// How often all have been woken at once.
    storms: Cell<u64>,
    pub(super) progress: Progress,
}

/// What the vCPUs of a VM have done together.
#[derive(Default)]
pub(super) struct Progress {
    pub(super) rounds: Cell<u64>,
    pub(super) deadlines: Cell<u64>,
    pub(super) misses: Cell<u64>,
    /// Of the misses, those of jobs that took more than is reserved for them.
    pub(super) excused: Cell<u64>,
    pub(super) finished_at: Cell<Option<u64>>,
}

fn increment(cell: &Cell<u64>) {
    cell.set(cell.get() + 1);
}

impl Shared {
    pub(super) fn new(vcpus: Range<u16>) -> Self {
        Self {
            holder: Cell::new(None),
            waiting: RefCell::new(VecDeque::with_capacity(vcpus.len())),
            storms: Cell::new(0),
            progress: Progress::default(),
            vcpus,
        }
    }

    /// `vcpu` asks for the lock; true if it has it.
    pub(super) fn acquire(&self, vcpu: VcpuId) -> bool {
        if self.holder.get().is_none() {
            self.holder.set(Some(vcpu));
            return true;
        }
        self.waiting.borrow_mut().push_back(vcpu);
        false
    }

    /// Whoever has the lock lets it go; the result is who has it now.
    pub(super) fn release(&self) -> Option<VcpuId> {
        self.holder.set(self.waiting.borrow_mut().pop_front());
        self.holder.get()
    }

    pub(super) fn holder(&self) -> Option<VcpuId> {
        self.holder.get()
    }

    pub(super) fn siblings(&self, vcpu: VcpuId) -> impl Iterator<Item = VcpuId> {
        self.vcpus
            .clone()
            .map(VcpuId::new)
            .filter(move |&sibling| sibling != vcpu)
    }
}

/// How far a vCPU is with its workload.
pub(super) struct Model {
    workload: Workload,
    vcpu: VcpuId,
    random: Random,
    step: u32,
    /// When its period began, or its wait ends.
    time: u64,
    /// Of the wake-ups of all at once, the last that it has seen.
    storm: u64,
    job: Job,
}

/// What jobs take of a reservation.
#[derive(Default)]
struct Job {
    /// How much there is for each.
    budget: u64,
    /// How much of that is for switches and interrupts.
    margin: u64,
    /// For how long the vCPU had run when the last one was done.
    ran: u64,
    /// By how much they have taken more, which the budgets of later periods make up for.
    debt: u64,
}

impl Job {
    /// One is done, the vCPU having run for `ran`, in part because it was interrupted, bound anew, or woken up for nothing. True if it
    /// may be late for that.
    fn is_excused(&mut self, ran: u64) -> bool {
        let taken = ran - core::mem::replace(&mut self.ran, ran);
        let needed = self.debt + taken;
        self.debt = needed.saturating_sub(self.budget);
        needed > self.budget.saturating_sub(self.margin)
    }
}

impl Model {
    /// If its jobs come in periods, `budget` is reserved for each, and `margin` of that is for switches and interrupts.
    pub(super) fn new(
        workload: Workload,
        vcpu: VcpuId,
        seed: u64,
        [budget, margin]: [u64; 2],
    ) -> Self {
        let random = Random::new(seed, vcpu.index() as u64);
        Self {
            workload,
            vcpu,
            random,
            step: 0,
            time: 0,
            storm: 0,
            job: Job {
                budget,
                margin,
                ..Job::default()
            },
        }
    }

    /// It begins anew; its random numbers go on.
    pub(super) fn reset(&mut self) {
        (self.step, self.time) = (0, 0);
    }

    /// What it does next, having run for `ran` until now.
    pub(super) fn next(&mut self, now: u64, ran: u64, shared: &Shared) -> Instruction {
        match self.workload {
            Workload::CpuBound => Instruction::Compute(LONG),
            Workload::Periodic { period, work } => self.periodic(period, work, now, ran, shared),
            Workload::Sleeper { work, wait } => self.sleeper(work, wait, now, shared),
            Workload::Dodger { work, wait } => {
                self.sleeper(Spread::exactly(work), Spread::exactly(wait), now, shared)
            }
            Workload::SpinLock {
                outside,
                inside,
                directed_yield,
            } => self.spin_lock(outside, inside, directed_yield, shared),
            Workload::IpiStorm { work, to_all } => self.ipi_storm(work, to_all, shared),
            Workload::WakeStorm { period, work } => self.wake_storm(period, work, now, shared),
            Workload::Boot { work, after } => self.boot(work, after, now, shared),
        }
    }

    /// The number of the step, which the next call will find to be one more, or 0 after the last.
    fn advance(&mut self, steps: u32) -> u32 {
        let step = self.step;
        self.step = (step + 1) % steps;
        step
    }

    fn draw(&mut self, spread: Spread) -> Instruction {
        Instruction::Compute(spread.draw(&mut self.random))
    }

    fn periodic(
        &mut self,
        period: u64,
        work: u64,
        now: u64,
        ran: u64,
        shared: &Shared,
    ) -> Instruction {
        if self.step == 0 {
            self.step = 1;
            self.time = now + self.random.below(period);
            return Instruction::WaitUntil(self.time);
        }
        if self.step == 2 {
            increment(&shared.progress.deadlines);
            increment(&shared.progress.rounds);
            self.time += period;
            let is_excused = self.job.is_excused(ran);
            if now > self.time {
                increment(&shared.progress.misses);
                if is_excused {
                    increment(&shared.progress.excused);
                }
            }
            self.step = 1;
        }
        if now < self.time {
            return Instruction::WaitUntil(self.time);
        }
        self.step = 2;
        Instruction::Compute(work)
    }

    fn sleeper(&mut self, work: Spread, wait: Spread, now: u64, shared: &Shared) -> Instruction {
        match self.step {
            0 => {
                self.step = 1;
                self.draw(work)
            }
            1 => {
                self.step = 2;
                self.time = now + wait.draw(&mut self.random).max(1);
                Instruction::WaitUntil(self.time)
            }
            // Something else than its timer has woken it.
            _ if now < self.time => Instruction::WaitUntil(self.time),
            _ => {
                increment(&shared.progress.rounds);
                self.step = 1;
                self.draw(work)
            }
        }
    }

    fn spin_lock(
        &mut self,
        outside: Spread,
        inside: Spread,
        patience: Option<u64>,
        shared: &Shared,
    ) -> Instruction {
        match self.advance(4) {
            0 => self.draw(outside),
            1 => Instruction::Acquire { patience },
            2 => self.draw(inside),
            _ => {
                increment(&shared.progress.rounds);
                Instruction::Release
            }
        }
    }

    fn ipi_storm(&mut self, work: Spread, to_all: bool, shared: &Shared) -> Instruction {
        if self.advance(2) == 0 {
            return self.draw(work);
        }
        increment(&shared.progress.rounds);
        let others = shared.vcpus.len() as u64 - 1;
        match others {
            0 => Instruction::Compute(1),
            _ if to_all => Instruction::Shootdown(None),
            _ => {
                let chosen = self.random.below(others) as usize;
                Instruction::Shootdown(shared.siblings(self.vcpu).nth(chosen))
            }
        }
    }

    fn wake_storm(&mut self, period: u64, work: Spread, now: u64, shared: &Shared) -> Instruction {
        let is_first = self.vcpu.index() == usize::from(shared.vcpus.start);
        if self.step == 1 {
            self.step = 0;
            increment(&shared.progress.rounds);
            return self.draw(work);
        }
        if is_first {
            if now < self.time {
                return Instruction::WaitUntil(self.time);
            }
            self.step = 1;
            // Those that it could not keep are left out.
            self.time = now - now.saturating_sub(self.time) % period + period;
            increment(&shared.storms);
            return Instruction::InterruptAll;
        }
        if self.storm == shared.storms.get() {
            return Instruction::Wait;
        }
        (self.step, self.storm) = (0, shared.storms.get());
        increment(&shared.progress.rounds);
        self.draw(work)
    }

    fn boot(&mut self, work: Spread, after: u64, now: u64, shared: &Shared) -> Instruction {
        let next = self.vcpu.index() as u16 + 1;
        self.step += 1;
        match self.step {
            1 => self.draw(work),
            2 if next < shared.vcpus.end => Instruction::PowerOn(VcpuId::new(next)),
            2 => {
                increment(&shared.progress.rounds);
                shared.progress.finished_at.set(Some(now));
                Instruction::Compute(after)
            }
            3 if next < shared.vcpus.end => Instruction::Compute(after),
            _ => {
                self.step = 3;
                Instruction::Wait
            }
        }
    }
}

/// Longer than any scenario.
const LONG: u64 = 1 << 55;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_is_drawn_evenly_and_within_its_ends() {
        let mut random = Random::new(1, 2);
        let spread = Spread {
            least: 10,
            most: 19,
        };
        let mut counts = [0; 10];
        for _ in 0..10_000 {
            counts[spread.draw(&mut random) as usize - 10] += 1;
        }
        assert!(
            counts.iter().all(|count| (850..1150).contains(count)),
            "{counts:?}"
        );
        assert_eq!(Spread::exactly(7).draw(&mut random), 7);
        let all = Spread {
            least: 0,
            most: u64::MAX,
        };
        all.draw(&mut random);
    }

    #[test]
    fn streams_of_one_seed_differ_and_come_again() {
        let first = |seed, stream| Random::new(seed, stream).next();
        assert_eq!(first(1, 1), first(1, 1));
        let mut all: alloc::vec::Vec<_> = (0..100)
            .flat_map(|seed| (0..100).map(move |stream| first(seed, stream)))
            .collect();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 10_000);
    }

    #[test]
    fn a_lock_goes_to_those_that_wait_in_turn() {
        let shared = Shared::new(0..3);
        let [a, b, c] = [0, 1, 2].map(VcpuId::new);
        assert!(shared.acquire(a) && !shared.acquire(c) && !shared.acquire(b));
        assert_eq!(shared.release(), Some(c));
        assert_eq!(shared.release(), Some(b));
        assert_eq!(shared.release(), None);
        assert!(shared.acquire(b));
    }

    #[test]
    fn a_period_that_is_not_kept_is_a_miss_and_the_next_follows_at_once() {
        let shared = Shared::new(0..1);
        let workload = Workload::Periodic {
            period: 100,
            work: 10,
        };
        let mut model = Model::new(workload, VcpuId::new(0), 1, [14, 2]);
        let Instruction::WaitUntil(first) = model.next(0, 0, &shared) else {
            panic!("it waits for its first period")
        };
        let mut next = |at, ran| model.next(first + at, ran, &shared);
        let (wait, compute) = (Instruction::WaitUntil, Instruction::Compute(10));
        assert_eq!(next(0, 1), compute);
        assert_eq!(next(40, 11), wait(first + 100));
        assert_eq!(next(100, 11), compute);
        let counts = || {
            let progress = &shared.progress;
            [&progress.deadlines, &progress.misses, &progress.excused].map(Cell::get)
        };
        assert_eq!(next(201, 21), compute);
        assert_eq!(counts(), [2, 1, 0]);
        assert_eq!(next(211, 31), wait(first + 300));
        // It takes 13 of its 14, and so has not all of the margin left.
        assert_eq!(next(300, 31), compute);
        assert_eq!(next(401, 44), compute);
        assert_eq!(counts(), [4, 2, 1]);
        assert_eq!(next(501, 55), compute);
        assert_eq!(counts(), [5, 3, 1]);
        // It takes 16, and the next one has to make up for 2 of them.
        assert_eq!(next(601, 71), compute);
        assert_eq!(counts(), [6, 4, 2]);
        assert_eq!(next(701, 82), compute);
        assert_eq!(counts(), [7, 5, 3]);
        assert_eq!(next(801, 93), compute);
        assert_eq!(counts(), [8, 6, 3]);
    }
}

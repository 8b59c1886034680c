use super::{Model, SLICE, VCPUS, cases, compare, events};
use crate::{Entitlement, Ready, Reservation, policies::Deadline};
use alloc::vec::Vec;
use proptest::prelude::*;

/// A constant bandwidth server, or one that has only turns.
#[derive(Clone, Copy)]
struct Server {
    /// Budget and period.
    reservation: Option<(i128, i128)>,
    left: i128,
    deadline: i128,
    turn: u64,
}

impl Server {
    fn has_budget(&self) -> bool {
        self.reservation.is_some() && self.left > 0
    }

    /// Begins a period now, unless what is left is no more than its part of the time until its deadline.
    fn wake(&mut self, now: i128) {
        if let Some((budget, period)) = self.reservation {
            let rest = (self.deadline - now).max(0);
            if rest == 0 || self.left * period > rest * budget {
                (self.left, self.deadline) = (budget, now + period);
            }
        }
    }

    /// The next period has begun, if that is so.
    fn replenish(&mut self, now: i128) {
        if let Some((budget, period)) = self.reservation
            && self.left <= 0
            && self.deadline <= now
        {
            self.left += budget;
            self.deadline += period;
            if self.deadline <= now {
                self.wake(now);
            }
        }
    }
}

struct Servers {
    all: Vec<Server>,
    /// In the order in which those without budget take turns.
    ready: Vec<usize>,
    running: Option<usize>,
}

impl Model for Servers {
    fn enqueue(&mut self, vcpu: u16, why: Ready, now: u64) {
        let index = usize::from(vcpu);
        let has_run = self.running.take_if(|running| *running == index).is_some();
        let server = &mut self.all[index];
        if !has_run {
            server.wake(now.into());
            server.turn = 0;
        }
        server.replenish(now.into());
        if why == Ready::Yielded || server.turn == 0 {
            server.turn = SLICE;
            self.ready.push(index);
        } else {
            self.ready.insert(0, index);
        }
    }

    fn leave(&mut self, vcpu: u16, _now: u64) {
        let index = usize::from(vcpu);
        self.running.take_if(|running| *running == index);
        self.ready.retain(|&ready| ready != index);
    }

    fn charge(&mut self, vcpu: u16, ticks: u64, _now: u64) {
        let server = &mut self.all[usize::from(vcpu)];
        if server.has_budget() {
            server.left -= i128::from(ticks);
            if server.left <= 0 {
                server.turn = 0;
            }
        } else {
            server.turn = server.turn.saturating_sub(ticks);
        }
    }

    fn pick(&mut self, now: u64) -> Option<u16> {
        for &vcpu in &self.ready {
            self.all[vcpu].replenish(now.into());
        }
        let ready = self.ready.iter().copied();
        let with_budget = ready.filter(|&vcpu| self.all[vcpu].has_budget());
        let earliest = with_budget.min_by_key(|&vcpu| self.all[vcpu].deadline);
        let next = earliest.or_else(|| self.ready.first().copied())?;
        self.ready.retain(|&ready| ready != next);
        self.running = Some(next);
        Some(next as u16)
    }

    /// By an earlier deadline. That the turn of who runs has become shorter is the policy's own affair.
    fn is_preempted(&mut self, running: u16, _now: u64) -> Option<bool> {
        let running = &self.all[usize::from(running)];
        let outranks = |&vcpu: &usize| {
            let server = &self.all[vcpu];
            let is_earlier = server.deadline < running.deadline;
            server.has_budget() && (is_earlier || !running.has_budget())
        };
        self.ready.iter().any(outranks).then_some(true)
    }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn deadline_is_what_its_model_says(
        periods in prop::collection::vec(prop::option::of((50..150_u64, 1..=10_u64)), usize::from(VCPUS)),
        events in events(),
    ) {
        // All together reserve the pCPU at most.
        let reservation = |&(period, tenths): &(u64, u64)| (tenths * period / (10 * u64::from(VCPUS))).max(1);
        let entitlement = |demand: &Option<(u64, u64)>| Entitlement {
            reservation: demand
                .as_ref()
                .and_then(|demand| Reservation::new(reservation(demand), demand.0).ok()),
            ..Entitlement::default()
        };
        let entitlements: Vec<_> = periods.iter().map(entitlement).collect();
        let server = |demand: &Option<(u64, u64)>| Server {
            reservation: demand
                .as_ref()
                .map(|demand| (reservation(demand).into(), demand.0.into())),
            left: 0,
            deadline: 0,
            turn: 0,
        };
        let mut model = Servers { all: periods.iter().map(server).collect(), ready: Vec::new(), running: None };
        compare(&Deadline::with_slice(SLICE, VCPUS), &mut model, &entitlements, &events);
    }
}

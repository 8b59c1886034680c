use super::{Model, SLICE, VCPUS, cases, compare, events_and_stalls, turns::Turns};
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

    /// Begins a period now, unless what is left is no more than its part of the time until its deadline. Debts are paid first, with
    /// the budgets of the periods that have begun since.
    fn wake(&mut self, now: i128) {
        if let Some((budget, period)) = self.reservation {
            let rest = (self.deadline - now).max(0);
            if rest == 0 || self.left * period > rest * budget {
                self.left = self.left.min(0);
                let mut begins = self.deadline.min(now);
                while begins <= now && self.left < budget {
                    self.left = (self.left + budget).min(budget);
                    begins += period;
                }
                self.deadline = now + period;
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
    /// Those without budget take turns in this order.
    turns: Turns,
    running: Option<u16>,
    /// When the turn is over that was given away last.
    given_until: u64,
}

impl Servers {
    fn server(&mut self, vcpu: u16) -> &mut Server {
        &mut self.all[usize::from(vcpu)]
    }

    fn ready(&self) -> Vec<(u16, Server)> {
        let ready = self.turns.ready().into_iter();
        ready
            .map(|vcpu| (vcpu, self.all[usize::from(vcpu)]))
            .collect()
    }

    /// Somebody who is ready without budget gets some before `end`.
    fn get_budget_before(&self, end: u64) -> bool {
        let gets_budget = |(_, server): &(u16, Server)| {
            let is_due = server.deadline < i128::from(end);
            server.reservation.is_some() && !server.has_budget() && is_due
        };
        self.ready().iter().any(gets_budget)
    }
}

impl Model for Servers {
    fn enqueue(&mut self, vcpu: u16, why: Ready, now: u64) {
        let has_run = self.running.take_if(|running| *running == vcpu).is_some();
        let is_called = self.turns.is_called(vcpu);
        let server = self.server(vcpu);
        if !has_run {
            server.wake(now.into());
            server.turn = 0;
        }
        server.replenish(now.into());
        if !is_called && (why == Ready::Yielded || server.turn == 0) {
            server.turn = SLICE;
            self.turns.join(vcpu, why);
        } else if is_called {
            self.turns.join(vcpu, why);
        } else {
            self.turns.join_first(vcpu);
        }
    }

    fn leave(&mut self, vcpu: u16, _now: u64) {
        self.running.take_if(|running| *running == vcpu);
        self.turns.leave(vcpu);
    }

    fn charge(&mut self, vcpu: u16, ticks: u64, _now: u64) {
        let is_called = self.turns.is_called(vcpu);
        let server = self.server(vcpu);
        if server.has_budget() {
            server.left -= i128::from(ticks);
            if server.left <= 0 {
                server.turn = 0;
            }
        } else if !is_called {
            server.turn = server.turn.saturating_sub(ticks);
        }
    }

    fn pick(&mut self, now: u64) -> Option<u16> {
        for vcpu in self.turns.ready() {
            self.server(vcpu).replenish(now.into());
        }
        let ready = self.ready();
        let with_budget = ready.iter().filter(|(_, server)| server.has_budget());
        let earliest = with_budget.min_by_key(|(_, server)| server.deadline);
        let (next, _) = *earliest.or_else(|| ready.first())?;
        self.turns.leave(next);
        self.running = Some(next);
        self.running
    }

    /// If nobody who is ready has budget, or gets some before the turn that is given ends.
    fn call(&mut self, vcpu: u16, end: Option<u64>, _now: u64) -> bool {
        let has_budget = |(_, server): &(u16, Server)| server.has_budget();
        let is_free = |end| !self.ready().iter().any(has_budget) && !self.get_budget_before(end);
        let Some(end) = end.filter(|&end| is_free(end)) else {
            return false;
        };
        self.turns.call(vcpu);
        (self.running, self.given_until) = (Some(vcpu), end);
        true
    }

    /// By an earlier deadline. That the turn of who runs has become shorter is the policy's own affair, but one that was given to it
    /// becomes shorter only by somebody's budget.
    fn is_preempted(&mut self, running: u16, _now: u64) -> Option<bool> {
        let is_called = self.turns.is_called(running);
        let running = *self.server(running);
        let outranks = |(_, server): &(u16, Server)| {
            let is_earlier = server.deadline < running.deadline;
            server.has_budget() && (is_earlier || !running.has_budget())
        };
        let is_outranked = self.ready().iter().any(outranks);
        match is_called {
            true => Some(is_outranked || self.get_budget_before(self.given_until)),
            false => is_outranked.then_some(true),
        }
    }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn deadline_is_what_its_model_says(
        periods in prop::collection::vec(prop::option::of((50..150_u64, 1..=10_u64)), usize::from(VCPUS)),
        events in events_and_stalls(),
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
        let mut model = Servers { all: periods.iter().map(server).collect(), turns: Turns::default(), running: None, given_until: 0 };
        compare(&Deadline::with_slice(SLICE, VCPUS), &mut model, &entitlements, &events);
    }
}

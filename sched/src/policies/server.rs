//! A constant bandwidth server: what one vCPU has of its budget, until when, and when it gets more. See [`super::deadline`].

use super::fifo::Member;
use crate::{Reservation, VcpuId};

/// No time.
pub(super) const NEVER: u64 = u64::MAX;

/// A vCPU that is ready or runs here.
#[derive(Clone, Copy)]
pub(super) struct Entity {
    pub(super) vcpu: VcpuId,
    /// `None` if it has none, or not here.
    pub(super) reservation: Option<Reservation>,
    /// Below 0 if it could not be stopped in time: its next budget is smaller.
    pub(super) left: i64,
    pub(super) deadline: u64,
    /// What is left of its turn when it runs without budget.
    pub(super) turn: u64,
    /// Where it stands among those that take turns.
    pub(super) place: u64,
    /// It has a home, elsewhere.
    pub(super) is_astray: bool,
}

impl Member for Entity {
    fn vcpu(&self) -> VcpuId {
        self.vcpu
    }
}

impl Entity {
    pub(super) fn has_budget(&self) -> bool {
        self.reservation.is_some() && self.left > 0
    }

    /// Whose is less runs first.
    pub(super) fn rank(&self) -> u64 {
        if self.has_budget() {
            self.deadline
        } else {
            NEVER
        }
    }

    /// If it waits for budget: when it gets some, and its rank then.
    pub(super) fn next_budget(&self) -> Option<(u64, u64)> {
        let reservation = self.reservation.filter(|_| self.left <= 0)?;
        Some((
            self.deadline,
            self.deadline.saturating_add(reservation.period()),
        ))
    }

    /// Starts anew, unless what is left is no more than its part of the time until its deadline.
    pub(super) fn restart(&mut self, now: u64) {
        let Some(reservation) = self.reservation else {
            return;
        };
        let time = self.deadline.saturating_sub(now);
        let claim = i128::from(self.left) * i128::from(reservation.period());
        let is_too_much = claim > i128::from(time) * i128::from(reservation.budget());
        if time == 0 || is_too_much || cfg!(mutant = "deadline_starts_anew_at_each_wake") {
            self.left = self.fresh(reservation, now);
            self.deadline = now.saturating_add(reservation.period());
        }
    }

    /// The budget with which it starts at `now`: the whole of it, less what it owes beyond those of the periods since its deadline.
    /// It has no more than if it had stayed ready, and no more than a budget until a period from now.
    fn fresh(&self, reservation: Reservation, now: u64) -> i64 {
        if cfg!(mutant = "deadline_forgives_debts") {
            return ticks(reservation.budget());
        }
        let periods = now.saturating_sub(self.deadline) / reservation.period() + 1;
        let budgets = i128::from(periods) * i128::from(reservation.budget());
        let left = i128::from(self.left.min(0)) + budgets;
        left.min(i128::from(reservation.budget())) as i64
    }

    /// As it is at `now`, with `reservation` from now on.
    pub(super) fn renew(&mut self, reservation: Option<Reservation>, now: u64) {
        if reservation != self.reservation {
            self.reservation = reservation;
            self.restart(now);
        }
        if let (Some((due, next)), Some(reservation)) = (self.next_budget(), self.reservation)
            && due <= now
        {
            self.left = self.left.saturating_add(ticks(reservation.budget()));
            self.deadline = next;
            if next <= now {
                self.restart(now);
            }
        }
    }
}

pub(super) fn ticks(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

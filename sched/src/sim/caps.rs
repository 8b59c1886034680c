//! Whether each VM gets no more than its cap, in every period while it is under a policy that knows caps.
//!
//! ```text
//!   end of a period   owed += what its vCPUs ran in it - what the cap allows, and at least 0: never more than what happens to jobs
//!   other terms       (its cap, pool or policy, or that pool's pCPUs) the account begins anew, for the rest of the period
//! ```
//! What is owed has to be made up for in the next periods, so what is true of it is true of any number of periods together.

use super::{PolicySpec, agenda::NEVER, engine::Engine};
use crate::{PcpuSet, PoolId, VcpuId, policies::Credit};
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

/// What VMs with caps are held to, and what they have had.
pub(super) struct Caps {
    /// What a pool's policy says of them, by the pool's number.
    rules: RefCell<[Rule; PoolId::LIMIT]>,
    accounts: RefCell<Vec<Account>>,
    /// When the first period of an account ends, or `NEVER`.
    next: Cell<u64>,
    /// By how much a vCPU may run for too long.
    tolerance: Cell<u64>,
}

/// What the policy of a pool says of caps.
#[derive(Clone, Copy, Default, Eq, PartialEq)]
struct Rule {
    /// They hold in each so many ns; `None`: it knows none.
    period: Option<u64>,
    /// So many policies the pool has had.
    policies: u64,
}

/// What a VM is held to. While these are the same its account goes on.
#[derive(Clone, Copy, Eq, PartialEq)]
struct Terms {
    cap: u32,
    period: u64,
    pool: PoolId,
    pcpus: PcpuSet,
    rule: Rule,
}

struct Account {
    vm: usize,
    terms: Terms,
    /// What its vCPUs had run when the period began.
    run: u64,
    /// What they have had too much.
    owed: u64,
    /// When the period ends.
    end: u64,
    /// The cap was another one when it began, of which vCPUs had taken some time to run and gave back the rest.
    is_mixed: bool,
}

impl Default for Caps {
    fn default() -> Self {
        Self {
            rules: RefCell::default(),
            accounts: RefCell::default(),
            next: Cell::new(NEVER),
            tolerance: Cell::new(0),
        }
    }
}

impl Caps {
    /// A vCPU may run for so much too long, twice: as a turn ends, and until a change has come to its pCPU.
    pub(super) fn tolerate(&self, disturbance: u64) {
        self.tolerance.set(2 * disturbance);
    }

    /// `pool` follows `policy` from now on.
    pub(super) fn set_policy(&self, pool: PoolId, policy: &PolicySpec) {
        let rule = &mut self.rules.borrow_mut()[pool.index()];
        let knows_caps = policy.name == Credit::NAME;
        rule.period = knows_caps.then_some(policy.options.period_ticks.max(1));
        rule.policies += 1;
    }

    fn note_next(&self) {
        let accounts = self.accounts.borrow();
        let next = accounts.iter().map(|account| account.end).min();
        self.next.set(next.unwrap_or(NEVER));
    }
}

impl Engine {
    /// What VM `vm` is held to now, if it is.
    fn terms_of(&self, vm: usize) -> Option<Terms> {
        let handle = self.handle(VcpuId::new(self.vcpus_of(vm).start));
        let cap = handle.entitlement().cap?;
        let pool = handle.pool_id();
        let rule = self.caps.rules.borrow()[pool.index()];
        Some(Terms {
            cap,
            period: rule.period?,
            pool,
            pcpus: self.scheduler().partition(pool).pcpus(),
            rule,
        })
    }

    /// How long the vCPUs of `vm` have run until `time`, before which nothing more happens.
    fn run_of(&self, vm: usize, time: u64) -> u64 {
        let vcpus = self.vcpus_of(vm).map(VcpuId::new);
        vcpus.map(|vcpu| self.handle(vcpu).times(time).run).sum()
    }

    /// Something has changed: who is held to something else begins anew.
    pub(super) fn review_caps(&self) {
        let now = self.now();
        let mut accounts = self.caps.accounts.borrow_mut();
        for vm in 0..self.vms().count() {
            let terms = self.terms_of(vm);
            let place = accounts.iter().position(|account| account.vm == vm);
            let before = place.map(|place| accounts[place].terms);
            if before == terms {
                continue;
            }
            if let Some(place) = place {
                accounts.swap_remove(place);
            }
            accounts.extend(terms.map(|terms| Account {
                vm,
                terms,
                run: self.run_of(vm, now),
                owed: 0,
                is_mixed: before.is_some_and(|before| {
                    Terms {
                        cap: terms.cap,
                        ..before
                    } == terms
                }),
                end: (now / terms.period + 1).saturating_mul(terms.period),
            }));
        }
        drop(accounts);
        self.caps.note_next();
    }

    /// Time passes until `time`, and nothing happens before: periods that end before it are over.
    #[inline]
    pub(super) fn check_caps(&self, time: u64) {
        if time > self.caps.next.get() {
            self.close_periods(time);
        }
    }

    #[inline(never)]
    fn close_periods(&self, time: u64) {
        let tolerance = self.caps.tolerance.get();
        for account in &mut *self.caps.accounts.borrow_mut() {
            let Terms { cap, period, .. } = account.terms;
            let budget = (u128::from(cap) * u128::from(period) / 100) as u64;
            let most = tolerance * self.vcpus_of(account.vm).len() as u64;
            while account.end < time {
                let run = self.run_of(account.vm, account.end);
                let ran = run - account.run;
                let is_mixed = core::mem::take(&mut account.is_mixed);
                let owed = (account.owed + ran).saturating_sub(budget);
                account.owed = if is_mixed { 0 } else { owed };
                assert!(
                    account.owed <= most,
                    "{} VM {} ran for {ran} ns in the period until {} ns, and has had {} ns more by then than its cap of {cap} lets it run",
                    self.name(),
                    account.vm,
                    account.end,
                    account.owed,
                );
                account.run = run;
                account.end += period;
            }
        }
        self.caps.note_next();
    }
}

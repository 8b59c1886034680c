//! How several vCPUs get something else at once: all of them what they shall have, or none.
//!
//! A VM's vCPUs are changed one after the other while nobody else can change anything. When the policy refuses one, those before
//! it get back what they had, in reverse order and where they were: each step back ends where the step forward began, so a policy
//! that admitted that once admits it again.

use crate::{AffinityError, Entitlement, PcpuSet, Policy, Scheduler, Vcpu, VcpuHandle, VcpuId};
use alloc::{sync::Arc, vec::Vec};

/// What one vCPU shall have from now on.
pub struct Change<V: Vcpu> {
    /// Which.
    pub vcpu: Arc<VcpuHandle<V>>,
    /// What it shall get.
    pub entitlement: Entitlement,
    /// Where it may run; `None`: where it may run already.
    pub affinity: Option<PcpuSet>,
}

impl<V: Vcpu> Scheduler<V> {
    /// Makes all `changes`, which are of different vCPUs, as [`VcpuHandle::set_entitlement`] and [`VcpuHandle::set_affinity`] would
    /// make them. Those of vCPUs that were retired are left out. On no exit path.
    ///
    /// # Errors
    /// The first vCPU that cannot have it, and why; nothing has changed then.
    pub fn set_all(&self, changes: &[Change<V>]) -> Result<(), (VcpuId, AffinityError)> {
        let entitlements = self.entitlements();
        let changed = self.with_regime(|regime| {
            let mut admitted = Vec::with_capacity(changes.len());
            for change in changes {
                let id = change.vcpu.id();
                let pool = entitlements.pool(id);
                let policy = regime.policy(pool).ok();
                let Some(policy) = policy.filter(|_| !change.vcpu.is_gone()) else {
                    continue;
                };
                let allowed = match change.affinity {
                    Some(affinity) => self.check_affinity(affinity, pool),
                    None => Ok(entitlements.affinity(id)),
                };
                let place = allowed.and_then(|allowed| {
                    let home = self.ask(&**policy, id, &change.entitlement, allowed);
                    Ok((allowed, home.map_err(AffinityError::Entitlement)?))
                });
                match place {
                    Ok(place) => admitted.push((change, policy, place)),
                    Err(error) => {
                        let before = admitted.iter().rev();
                        before.for_each(|(change, policy, _)| {
                            self.give_back(&***policy, &change.vcpu);
                        });
                        return Err((id, error));
                    }
                }
            }
            let mut changed = Vec::with_capacity(admitted.len());
            for (change, _, (allowed, home)) in admitted {
                let id = change.vcpu.id();
                changed.push(change);
                entitlements.set(id, &change.entitlement);
                if let Some(affinity) = change.affinity {
                    entitlements.set_pool(id, entitlements.pool(id), affinity);
                }
                entitlements.set_place(id, allowed, home);
            }
            Ok(changed)
        })?;
        for change in changed {
            if change.affinity.is_some() {
                change.vcpu.request_migrate();
            }
            change.vcpu.end_turn();
        }
        Ok(())
    }

    /// `policy` takes `vcpu` again as it had it before it admitted the change that is not made.
    fn give_back(&self, policy: &dyn Policy, vcpu: &VcpuHandle<V>) {
        let (id, entitlements) = (vcpu.id(), self.entitlements());
        let home = entitlements.home(id);
        let affinity = home.map_or(entitlements.affinity(id), PcpuSet::only);
        if cfg!(mutant = "keep_half_of_a_change") {
            return;
        }
        // One of the embedder's that breaks the rule in the head is unfair, no more.
        let _ = self.ask(policy, id, &entitlements.get(id), affinity);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::{
        Host, PcpuId, Reservation, SchedulerConfig, Weight,
        policies::{Deadline, RoundRobin},
    };
    use alloc::{boxed::Box, string::ToString};

    struct Idle;

    impl Host for Idle {
        fn now(&self) -> u64 {
            0
        }

        fn kick(&self, _pcpu: PcpuId) {}

        fn this_pcpu(&self) -> Option<PcpuId> {
            None
        }
    }

    struct Plain(Arc<VcpuHandle<Plain>>);

    impl Vcpu for Plain {
        type Shared = ();

        fn handle(&self) -> &Arc<VcpuHandle<Self>> {
            &self.0
        }
    }

    type Handles = Vec<Arc<VcpuHandle<Plain>>>;

    fn reserved(percent: u64) -> Entitlement {
        Entitlement {
            reservation: Reservation::new(percent, 100).ok(),
            ..Entitlement::default()
        }
    }

    /// A scheduler of two pCPUs with vCPUs that have these parts of one, in percent.
    fn machine(policy: Box<dyn Policy>, percents: &[u64]) -> (Arc<Scheduler<Plain>>, Handles) {
        let scheduler = Scheduler::new(SchedulerConfig {
            name: "all".into(),
            pcpus: PcpuSet::all(2),
            max_vcpus: 8,
            policy,
            fallback_slice: 1,
            host: Arc::new(Idle),
        });
        let scheduler = scheduler.unwrap();
        let create = |&percent: &u64| {
            let (all, entitlement) = (PcpuSet::all(2), reserved(percent));
            let vcpu = scheduler.create_vcpu(all, &entitlement, Plain, ());
            vcpu.unwrap()
        };
        let handles = percents.iter().map(create).collect();
        (scheduler, handles)
    }

    fn all_at(
        handles: &Handles,
        entitlement: &Entitlement,
        affinity: PcpuSet,
    ) -> Vec<Change<Plain>> {
        let change = |vcpu: &Arc<VcpuHandle<Plain>>| Change {
            vcpu: vcpu.clone(),
            entitlement: *entitlement,
            affinity: Some(affinity),
        };
        handles.iter().map(change).collect()
    }

    fn state(
        scheduler: &Scheduler<Plain>,
        handles: &Handles,
    ) -> Vec<(Entitlement, PcpuSet, Option<PcpuId>)> {
        let handles = handles.iter();
        let state = handles.map(|vcpu| {
            let home = scheduler.entitlements().home(vcpu.id());
            (vcpu.entitlement(), vcpu.affinity(), home)
        });
        state.collect()
    }

    #[test]
    fn all_of_them_get_it() {
        let (scheduler, handles) = machine(Box::new(RoundRobin::with_slice(1)), &[10, 10, 10]);
        let entitlement = Entitlement {
            weight: Weight::new(7).unwrap(),
            ..Entitlement::default()
        };
        let first = PcpuSet::all(1);
        assert_eq!(
            scheduler.set_all(&all_at(&handles, &entitlement, first)),
            Ok(())
        );
        assert_eq!(state(&scheduler, &handles), [(entitlement, first, None); 3]);
    }

    /// The third of three is refused after the first has moved away and the second to where the first was.
    #[test]
    fn none_gets_it_if_one_cannot() {
        let (scheduler, handles) = machine(Box::new(Deadline::with_slice(1, 8)), &[60, 50, 30]);
        let before = state(&scheduler, &handles);
        let mut changes = all_at(&handles, &reserved(40), PcpuSet::all(2));
        let [first, second] = [0, 1].map(|index| PcpuSet::only(PcpuId::new(index).unwrap()));
        changes[0].affinity = Some(second);
        changes[0].entitlement = reserved(20);
        changes[1].affinity = Some(first);
        changes[2].affinity = Some(second);
        changes[2].entitlement = reserved(90);
        let (vcpu, why) = scheduler.set_all(&changes).unwrap_err();
        assert_eq!(vcpu, handles[2].id());
        assert!(why.to_string().contains("90 ticks"), "{why}");
        assert_eq!(state(&scheduler, &handles), before);
        // Nothing of it is left with the policy either: what fitted beside the three fits now, and no more.
        let create =
            |percent| scheduler.create_vcpu(PcpuSet::all(2), &reserved(percent), Plain, ());
        assert!(create(41).is_err());
        assert!(create(40).is_ok());
        assert!(create(20).is_ok());
        assert!(create(1).is_err());
    }

    #[test]
    fn a_pcpu_that_the_pool_does_not_have_is_named_before_anything_is_asked() {
        let (scheduler, handles) = machine(Box::new(Deadline::with_slice(1, 8)), &[60, 50]);
        let before = state(&scheduler, &handles);
        let mut changes = all_at(&handles, &reserved(1), PcpuSet::all(2));
        changes[1].affinity = Some(PcpuSet::all(3));
        let absent = AffinityError::AbsentPcpu(PcpuId::new(2).unwrap());
        assert_eq!(scheduler.set_all(&changes), Err((handles[1].id(), absent)));
        changes[1].affinity = Some(PcpuSet::EMPTY);
        assert_eq!(
            scheduler.set_all(&changes),
            Err((handles[1].id(), AffinityError::Empty))
        );
        assert_eq!(state(&scheduler, &handles), before);
    }

    #[test]
    fn one_that_is_gone_is_left_out() {
        let (scheduler, handles) = machine(Box::new(RoundRobin::with_slice(1)), &[10, 10]);
        let _ = handles[0].retire().unwrap();
        let changes = all_at(&handles, &reserved(50), PcpuSet::all(1));
        assert_eq!(scheduler.set_all(&changes), Ok(()));
        assert_eq!(handles[1].entitlement(), reserved(50));
        let (_, _, home) = state(&scheduler, &handles)[0];
        assert_eq!(
            (scheduler.entitlements().affinity(handles[0].id()), home),
            (PcpuSet::EMPTY, None)
        );
    }
}

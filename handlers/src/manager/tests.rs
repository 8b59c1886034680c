use alloc::{boxed::Box, string::ToString, sync::Arc, vec, vec::Vec};
use core::cell::{Cell, RefCell};

use trapline_sched::{
    Entitlement, Host, PcpuId, PcpuSet, PolicyOptions, Reservation, Scheduler, SchedulerConfig,
    Vcpu, VcpuHandle, Weight, policies::RoundRobin,
};

use super::*;

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

/// Two pCPUs, `web` with two vCPUs, and `db` with one, which is off.
struct Fake {
    scheduler: Arc<Scheduler<Plain>>,
    vms: [RefCell<(Settings, Handles)>; 2],
    asked: Cell<Option<(usize, Request)>>,
}

impl Managed for Fake {
    type Vcpu = Plain;

    fn scheduler(&self) -> &Scheduler<Plain> {
        &self.scheduler
    }

    fn vm_count(&self) -> usize {
        2
    }

    fn vm_name(&self, vm: usize) -> &str {
        ["web", "db"][vm]
    }

    fn vm_state(&self, vm: usize) -> &'static str {
        ["on", "off"][vm]
    }

    fn with_vm<R>(&self, vm: usize, visit: impl FnOnce(&mut Settings, &[Handle<Self>]) -> R) -> R {
        let (settings, handles) = &mut *self.vms[vm].borrow_mut();
        visit(settings, handles)
    }

    fn request(&self, vm: usize, request: Request) {
        self.asked.set(Some((vm, request)));
    }
}

const MAX_VCPUS: u16 = 4;

fn settings(vm: u16, vcpus: usize) -> Settings {
    let one = VcpuSettings {
        entitlement: Entitlement {
            group: trapline_sched::GroupId::new(vm),
            ..Entitlement::default()
        },
        affinity: PcpuSet::all(2),
        soft_affinity: PcpuSet::EMPTY,
    };
    Settings::new(PoolId::FIRST, vec![one; vcpus])
}

fn fake() -> Fake {
    let scheduler = Scheduler::new(SchedulerConfig {
        name: "all".into(),
        pcpus: PcpuSet::all(2),
        max_vcpus: MAX_VCPUS,
        policy: Box::new(RoundRobin::with_slice(1)),
        fallback_slice: 1,
        host: Arc::new(Idle),
    });
    let scheduler = scheduler.expect("it has pCPUs and room");
    let (web, db) = (settings(0, 2), settings(1, 1));
    let handles = web.vcpus().iter().map(|vcpu| {
        let handle = scheduler.create_vcpu(vcpu.affinity, &vcpu.entitlement, Plain, ());
        handle.expect("there is room")
    });
    let handles = handles.collect();
    Fake {
        scheduler,
        vms: [RefCell::new((web, handles)), RefCell::new((db, vec![]))],
        asked: Cell::new(None),
    }
}

fn options() -> PolicyOptions {
    PolicyOptions {
        slice_ticks: 10,
        max_vcpus: MAX_VCPUS,
        pcpus: PcpuSet::all(2),
        period_ticks: 100,
        table: None,
    }
}

const WEB: Target = Target { vm: 0, vcpu: None };
const SECOND: Target = Target {
    vm: 0,
    vcpu: Some(1),
};
const DB: Target = Target { vm: 1, vcpu: None };

fn weight(number: u16) -> Weight {
    Weight::new(number).expect("in range")
}

fn reservation(budget: u64, period: u64) -> Option<Reservation> {
    Some(Reservation::new(budget, period).expect("it fits"))
}

/// What the scheduler has for each vCPU of `web`, and what stands in its settings, which is the same.
fn of_web(machine: &Fake) -> Vec<VcpuSettings> {
    machine.with_vm(0, |settings, handles| {
        let scheduled = handles.iter().map(|handle| VcpuSettings {
            entitlement: handle.entitlement(),
            affinity: handle.affinity(),
            soft_affinity: handle.soft_affinity(),
        });
        assert_eq!(settings.vcpus(), scheduled.collect::<Vec<_>>());
        settings.vcpus().to_vec()
    })
}

#[test]
fn each_change_reaches_the_pool() {
    let machine = fake();
    let manager = Manager::new(&machine);
    let one = PcpuSet::only(PcpuId::new(1).expect("in range"));
    let done = [
        manager.set_weight(WEB, weight(7)),
        manager.set_weight(SECOND, weight(9)),
        manager.set_slice(WEB, Some(0)),
        manager.set_priority(SECOND, 3),
        manager.set_halt_poll(SECOND, 11),
        manager.set_reservation(SECOND, reservation(2, 5)),
        manager.set_cap(0, Some(150)),
        manager.set_affinity(SECOND, one),
        manager.set_soft_affinity(WEB, one),
    ];
    assert_eq!(done, [const { Ok(()) }; 9]);
    let [first, second] = of_web(&machine)[..] else {
        panic!("it has two");
    };
    let expected = Entitlement {
        weight: weight(7),
        slice: Some(1),
        cap: Some(150),
        ..Entitlement::default()
    };
    assert_eq!(
        (first.entitlement, first.affinity),
        (expected, PcpuSet::all(2))
    );
    let expected = Entitlement {
        weight: weight(9),
        priority: 3,
        halt_poll: 11,
        reservation: reservation(2, 5),
        ..expected
    };
    assert_eq!((second.entitlement, second.affinity), (expected, one));
    assert_eq!([first, second].map(|vcpu| vcpu.soft_affinity), [one; 2]);
    let gone = [
        manager.set_slice(WEB, None),
        manager.set_cap(0, None),
        manager.set_reservation(WEB, None),
        manager.set_soft_affinity(WEB, PcpuSet::EMPTY),
    ];
    assert_eq!(gone, [const { Ok(()) }; 4]);
    let second = of_web(&machine)[1].entitlement;
    assert_eq!(
        (second.slice, second.cap, second.reservation),
        (None, None, None)
    );
}

#[test]
fn what_is_set_for_a_vm_that_is_off_is_kept_for_it() {
    let machine = fake();
    let manager = Manager::new(&machine);
    assert_eq!(manager.set_weight(DB, weight(5)), Ok(()));
    let status = manager.vm(1);
    assert_eq!(
        (status.name.as_str(), status.state, status.vcpus),
        ("db", "off", 1)
    );
    assert_eq!(
        status.settings.map(|vcpu| vcpu.entitlement.weight),
        Some(weight(5))
    );
    let vcpu = manager.vcpu(1, 0, 9).expect("it has one");
    assert_eq!((vcpu.activity, vcpu.pcpu), (VcpuActivity::Off, None));
    for beyond in [
        manager.set_affinity(DB, PcpuSet::all(3)),
        manager.set_soft_affinity(DB, PcpuSet::all(3)),
    ] {
        assert_eq!(beyond.unwrap_err().to_string(), "the machine has no pcpu2");
    }
}

#[test]
fn what_is_refused_changes_nothing() {
    let machine = fake();
    let manager = Manager::new(&machine);
    manager
        .set_policy(PoolId::FIRST, "deadline", options())
        .expect("nothing is reserved");
    let before = of_web(&machine);
    let third = Target {
        vm: 0,
        vcpu: Some(2),
    };
    let refused = [
        (
            manager.set_weight(third, weight(1)),
            "web has no vCPU 2: it has 2, from 0",
        ),
        (
            manager.set_cap(0, Some(201)),
            "a cap of 201 hundredths of a pCPU: it must be 1 to 200, which is all that the pool has",
        ),
        (
            manager.set_cap(0, Some(0)),
            "a cap of 0 hundredths of a pCPU: it must be 1 to 200, which is all that the pool has",
        ),
        (
            manager.set_affinity(SECOND, PcpuSet::EMPTY),
            "an affinity needs at least one pCPU",
        ),
        (
            manager.set_affinity(WEB, PcpuSet::all(3)),
            "the machine has no pcpu2",
        ),
        (
            manager.set_policy(PoolId::FIRST, "lottery", options()),
            "there is no policy \"lottery\"; there are: round-robin pinned fair deadline priority credit table gang",
        ),
        (
            manager.set_policy(PoolId::FIRST, "table", options()),
            "the policy table needs a table",
        ),
    ];
    for (result, expected) in refused {
        assert_eq!(
            result.map_err(|error| error.to_string()),
            Err(expected.to_string())
        );
        assert_eq!(of_web(&machine), before, "{expected}");
        assert_eq!(manager.pools()[0].info.policy, "deadline", "{expected}");
    }
    assert_eq!(
        manager.find("mail").map_err(|error| error.to_string()),
        Err("there is no VM \"mail\"; there are: web db".into())
    );
    assert_eq!(manager.find("db"), Ok(1));
}

/// The first vCPU of `web` would fit, the second does not.
#[test]
fn a_policy_refuses_in_its_own_words_and_for_the_whole_vm() {
    let machine = fake();
    let manager = Manager::new(&machine);
    manager
        .set_policy(PoolId::FIRST, "deadline", options())
        .expect("nothing is reserved");
    let one = PcpuSet::all(1);
    manager.set_affinity(WEB, one).expect("it may run there");
    let before = of_web(&machine);
    let refused = manager
        .set_reservation(WEB, reservation(3, 5))
        .unwrap_err()
        .to_string();
    let expected = "policy deadline refuses it for vCPU 1 of web: a budget of 3 ticks in a period of 5 needs 60.0 % of a pCPU, \
                    and the emptiest of those it may use has 40.0 % left";
    assert_eq!(refused, expected);
    assert_eq!(of_web(&machine), before);
    // It would have been refused if something were left of it.
    assert_eq!(manager.set_reservation(SECOND, reservation(1, 1)), Ok(()));
}

#[test]
fn a_policy_that_cannot_keep_what_was_promised_does_not_take_over() {
    let machine = fake();
    let manager = Manager::new(&machine);
    manager
        .set_affinity(WEB, PcpuSet::all(1))
        .expect("it may run there");
    manager
        .set_reservation(WEB, reservation(3, 5))
        .expect("round-robin does not look at it");
    let refused = manager
        .set_policy(PoolId::FIRST, "deadline", options())
        .unwrap_err()
        .to_string();
    assert!(
        refused.starts_with("policy deadline cannot take over: a budget of 3 ticks"),
        "{refused}"
    );
    assert_eq!(manager.pools()[0].info.policy, "round-robin");
}

#[test]
fn lives_are_asked_for_and_pcpus_looked_at() {
    let machine = fake();
    let manager = Manager::new(&machine);
    manager.request(1, Request::Start);
    assert_eq!(machine.asked.get(), Some((1, Request::Start)));
    let pcpu = PcpuId::new(1).expect("in range");
    let status = manager.pcpu(pcpu, 9).expect("the machine has it");
    assert_eq!((status.is_idle, status.counters.times.idle), (false, 9));
    assert_eq!(manager.pcpu(PcpuId::new(2).expect("in range"), 9), None);
    assert_eq!(manager.pools()[0].info.pcpus, PcpuSet::all(2));
}

#[test]
fn pools_come_and_go_with_what_belongs_to_them() {
    let machine = fake();
    let manager = Manager::new(&machine);
    let [first, second] = [0, 1].map(|index| PcpuId::new(index).expect("in range"));
    let only = PcpuSet::only(second);
    let fast = manager.create_pool("fast", only, "fair", options());
    let fast = fast.expect("the other pool keeps a pCPU");
    assert_eq!(manager.find_pool("fast"), Ok(fast));
    assert_eq!(manager.find_pool(&fast.to_string()), Ok(fast));
    let said = |result: Result<(), ManageError>| result.unwrap_err().to_string();
    assert_eq!(
        said(manager.find_pool("slow").map(drop)),
        "there is no pool \"slow\"; there are: all fast"
    );
    assert_eq!(manager.set_pool(0, fast), Ok(()));
    assert_eq!(manager.set_pool(1, fast), Ok(()));
    assert_eq!((manager.vm(0).pool, manager.vm(1).pool), (fast, fast));
    let handles = machine.with_vm(0, |_, handles| handles.to_vec());
    assert!(handles.iter().all(|handle| handle.pool_id() == fast));
    // Both may still run wherever their pool is, and a cap is measured by it.
    assert_eq!(manager.set_weight(WEB, weight(3)), Ok(()));
    assert_eq!(manager.set_affinity(SECOND, only), Ok(()));
    assert!(said(manager.set_affinity(SECOND, PcpuSet::only(first))).contains("pcpu0 is not in"));
    assert!(said(manager.set_cap(0, Some(101))).contains("it must be 1 to 100"));
    assert_eq!(
        said(manager.remove_pool(fast, PoolId::FIRST)),
        "web belongs to pool1: move it first"
    );
    assert_eq!(manager.set_affinity(SECOND, PcpuSet::all(2)), Ok(()));
    assert_eq!(manager.set_pool(0, PoolId::FIRST), Ok(()));
    assert_eq!(
        said(manager.remove_pool(fast, PoolId::FIRST)),
        "db belongs to pool1: move it first",
        "a VM that is off belongs to it as well"
    );
    assert_eq!(manager.set_pool(1, PoolId::FIRST), Ok(()));
    assert!(said(manager.move_pcpu(second, PoolId::FIRST)).contains("needs at least one"));
    assert_eq!(manager.remove_pool(fast, PoolId::FIRST), Ok(()));
    assert_eq!(manager.pools().len(), 1);
    assert_eq!(manager.pools()[0].info.pcpus, PcpuSet::all(2));
}

#[test]
fn a_vcpu_that_is_in_the_way_is_named_as_its_user_knows_it() {
    let machine = fake();
    let manager = Manager::new(&machine);
    let [first, second] = [0, 1].map(|index| PcpuSet::only(PcpuId::new(index).expect("in range")));
    manager
        .set_affinity(SECOND, second)
        .expect("it may run there");
    let refused = manager.create_pool("fast", second, "fair", options());
    let said = refused.unwrap_err().to_string();
    assert!(said.starts_with("vCPU 1 of web: "), "{said}");
    assert_eq!(manager.pools().len(), 1);
    assert_eq!(manager.set_affinity(SECOND, first), Ok(()));
    assert!(
        manager
            .create_pool("fast", second, "fair", options())
            .is_ok()
    );
}

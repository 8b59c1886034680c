//! What the deadline policy keeps, on whole machines.

use super::{
    Instruction::*,
    Outside, Script, Setup, Simulation,
    short::{busy, pcpu},
};
use crate::{
    AffinityError, Choice, Entitlement, Entitlements, PcpuId, PcpuSet, Policy, Ready, Reservation,
    VcpuId, policies::Deadline,
};
use alloc::{boxed::Box, string::ToString, sync::Arc, vec::Vec};

const SLICE: u64 = 3;
const VCPU0: VcpuId = VcpuId::new(0);
const VCPU1: VcpuId = VcpuId::new(1);
const VCPU2: VcpuId = VcpuId::new(2);

type Guest = (Script, Option<(u64, u64)>);

fn entitlement(reservation: Option<(u64, u64)>) -> Entitlement {
    let good = |(budget, period)| Reservation::new(budget, period).expect("a good reservation");
    Entitlement {
        reservation: reservation.map(good),
        ..Entitlement::default()
    }
}

fn machine(pcpus: u16, guests: impl IntoIterator<Item = Guest>) -> Simulation {
    let (scripts, reservations): (Vec<_>, Vec<_>) = guests.into_iter().unzip();
    Simulation::with_setup(Setup {
        pcpus,
        policy: Box::new(Deadline::with_slice(SLICE, scripts.len() as u16)),
        entitlements: reservations.into_iter().map(entitlement).collect(),
        scripts,
        affinities: Vec::new(),
        seed: None,
    })
}

/// How long `vcpu` had run at each tick until `end`.
fn run_times(sim: &Simulation, vcpu: VcpuId, end: u64) -> Vec<u64> {
    let mut times = alloc::vec![0; end as usize + 1];
    for stretch in sim.stretches().iter().filter(|s| s.vcpu == vcpu) {
        for tick in stretch.start..(stretch.start + stretch.duration).min(end) {
            times[tick as usize + 1] = 1;
        }
    }
    for tick in 1..times.len() {
        times[tick] += times[tick - 1];
    }
    times
}

/// What `vcpu`, which always has something to do from `start` on, has got in each of its periods until `end`.
fn windows(sim: &Simulation, vcpu: VcpuId, start: u64, period: u64, end: u64) -> Vec<u64> {
    let times = run_times(sim, vcpu, end);
    let starts = (start..=end - period).step_by(period as usize);
    let window = |start: u64| times[(start + period) as usize] - times[start as usize];
    starts.map(window).collect()
}

#[track_caller]
fn expect_no_miss(
    sim: &Simulation,
    vcpu: VcpuId,
    start: u64,
    (budget, period): (u64, u64),
    end: u64,
) {
    let windows = windows(sim, vcpu, start, period, end);
    let miss = windows.iter().position(|&window| window < budget);
    assert_eq!(
        miss, None,
        "{vcpu} got less than {budget} in this period: {windows:?}"
    );
}

fn run(sim: &Simulation, vcpu: VcpuId) -> u64 {
    sim.times(vcpu).run
}

#[test]
fn two_fifths_and_four_sevenths_of_one_pcpu_miss_nothing_beside_busy_others() {
    const END: u64 = 35 * 1000;
    let guests = [Some((2, 5)), Some((4, 7)), None, None].map(|r| (busy(), r));
    let mut sim = machine(1, guests);
    sim.run_until(END);
    expect_no_miss(&sim, VCPU0, 0, (2, 5), END);
    expect_no_miss(&sim, VCPU1, 0, (4, 7), END);
    // One tick of 35 is nobody's.
    for vcpu in [VCPU2, VcpuId::new(3)] {
        let run = run(&sim, vcpu);
        assert!(run.abs_diff(END / 35 / 2) <= SLICE, "{vcpu} ran for {run}");
    }
}

#[test]
fn the_others_get_what_reserved_vcpus_leave() {
    const END: u64 = 100_000;
    // The first asks for 20 of its 40 in a hundred, the second for all its 30.
    let frugal = Script::forever([Compute(19), WaitFor(80)]);
    let guests = [
        (frugal, Some((40, 100))),
        (busy(), Some((30, 100))),
        (busy(), None),
        (busy(), None),
    ];
    let mut sim = machine(1, guests);
    sim.run_until(END);
    expect_no_miss(&sim, VCPU1, 0, (30, 100), END);
    let [frugal, reserved, first, second] = [0, 1, 2, 3].map(|index| run(&sim, VcpuId::new(index)));
    assert!(frugal * 1000 / END >= 180, "{frugal}");
    // A third of the rest each: the reserved one takes its turns too.
    let rest = (END - frugal - 30 * END / 100) / 3;
    for run in [reserved - 30 * END / 100, first, second] {
        assert!(run.abs_diff(rest) <= END / 50, "{run} instead of {rest}");
    }
}

#[test]
fn a_budget_is_not_exceeded_while_others_need_the_pcpu() {
    const END: u64 = 50_000;
    let guests = [(30, 100), (35, 50)].map(|r| (busy(), Some(r)));
    let mut sim = machine(1, guests.into_iter().chain([(busy(), None)]));
    sim.run_until(END);
    let exactly = |vcpu, period| windows(&sim, vcpu, 0, period, END);
    assert!(exactly(VCPU0, 100).iter().all(|&window| window == 30));
    assert!(exactly(VCPU1, 50).iter().all(|&window| window == 35));
    assert_eq!(run(&sim, VCPU2), 0, "everything is reserved");
}

#[test]
fn an_earlier_deadline_preempts_and_a_later_one_waits() {
    let early = Script::forever([WaitFor(19), Compute(4)]);
    let guests = [(busy(), Some((50, 100))), (early, Some((5, 20)))];
    let mut sim = machine(1, guests);
    sim.run_until(60);
    sim.expect_trace([
        "0 vcpu1 for 1",
        "1 vcpu0 for 19",
        "20 vcpu1 for 5",
        "25 vcpu0 for 19",
        "44 vcpu1 for 5",
        "49 vcpu0 for 11",
    ]);
}

#[test]
fn a_budget_that_comes_due_interrupts_a_later_deadline() {
    // It wakes up before its next budget while the other may run for long.
    let early = Script::forever([Compute(9), WaitFor(5), Compute(1_000_000)]);
    let guests = [(early, Some((10, 50))), (busy(), Some((400, 1000)))];
    let mut sim = machine(1, guests);
    sim.run_until(120);
    sim.expect_trace([
        "0 vcpu0 for 10",
        "10 vcpu1 for 40",
        "50 vcpu0 for 10",
        "60 vcpu1 for 40",
        "100 vcpu0 for 10",
        "110 vcpu1 for 10",
    ]);
}

#[test]
fn who_sleeps_at_the_right_moments_gains_nothing() {
    const END: u64 = 20_000;
    // It sleeps shortly before its budget is over, or shortly before its deadline, for another budget too soon.
    for (compute, wait) in [(8, 1), (1, 1), (4, 40), (9, 60), (1, 91), (1, 88)] {
        // Each victim needs all the rest, with a deadline that is earlier, the same, or later.
        for victim in [(9, 10), (90, 100), (900, 1000)] {
            let attack = Script::forever([Compute(compute), WaitFor(wait), Compute(7)]);
            let guests = [
                (attack, Some((10, 100))),
                (busy(), Some(victim)),
                (busy(), None),
            ];
            let mut sim = machine(1, guests);
            sim.run_until(END);
            expect_no_miss(&sim, VCPU1, 0, victim, END);
            let attacker = run_times(&sim, VCPU0, END);
            let name = (compute, wait, victim);
            let in_period = |time: usize| attacker[time + 100] - attacker[time];
            let most = (0..END as usize - 100).map(in_period).max();
            assert!(
                most <= Some(20),
                "{name:?}: at most the end of one budget and the next"
            );
            assert!(attacker[END as usize] <= END / 10, "{name:?}");
        }
    }
}

#[test]
fn who_asks_for_no_more_than_its_budget_has_it_before_its_deadline() {
    const END: u64 = 70_000;
    let periodic = |budget, wait| {
        (
            Script::forever([Compute(budget - 1), WaitFor(wait)]),
            Some((budget, 100)),
        )
    };
    let guests = [periodic(20, 90), periodic(30, 110), periodic(40, 130)];
    let mut sim = machine(
        1,
        guests.into_iter().chain([(busy(), None), (busy(), None)]),
    );
    sim.run_until(END);
    for (index, budget) in [20, 30, 40].into_iter().enumerate() {
        let vcpu = VcpuId::new(index as u16);
        let times = sim.times(vcpu);
        let jobs = times.run / budget;
        assert!(jobs > 300, "{vcpu} did {jobs}");
        assert!(
            times.ready <= jobs * (100 - budget),
            "{vcpu} waited for {}",
            times.ready
        );
        // Between two of its sleeps there is at most a period.
        let run = run_times(&sim, vcpu, END);
        let slow = (0..END as usize - 240).find(|&t| run[t + 240] - run[t] < budget);
        assert_eq!(slow, None, "{vcpu}");
    }
}

#[test]
fn reserved_vcpus_stay_at_home_and_the_others_go_where_pcpus_idle() {
    const END: u64 = 20_000;
    let sleeper = Script::forever([Compute(299), WaitFor(300)]);
    let guests = [
        (busy(), Some((60, 100))),
        (sleeper, Some((60, 100))),
        (busy(), Some((30, 100))),
        (busy(), None),
        (busy(), None),
    ];
    let mut sim = machine(2, guests);
    sim.run_until(END);
    expect_no_miss(&sim, VCPU0, 0, (60, 100), END);
    expect_no_miss(&sim, VCPU2, 0, (30, 100), END);
    let homes = [pcpu(0), pcpu(1), pcpu(0)];
    let strays = sim.stretches().into_iter();
    let strays = strays.filter(|s| {
        homes
            .get(s.vcpu.index())
            .is_some_and(|&home| home != s.pcpu)
    });
    assert_eq!(strays.count(), 0);
    for vcpu in [3, 4].map(VcpuId::new) {
        assert!(
            run(&sim, vcpu) > END / 10,
            "{vcpu} has its part: {}",
            run(&sim, vcpu)
        );
    }
    let idle = [0, 1].map(|index| sim.counters(pcpu(index)).unwrap().times.idle);
    assert!(idle.iter().sum::<u64>() <= END / 100, "idle for {idle:?}");
}

#[test]
fn an_unreserved_vcpu_leaves_a_pcpu_that_is_all_reserved() {
    const END: u64 = 10_000;
    let guests = [
        (busy(), Some((10, 10))),
        (busy(), None),
        (busy(), None),
        (busy(), None),
    ];
    let mut sim = machine(2, guests);
    sim.run_until(END);
    assert_eq!(run(&sim, VCPU0), END);
    for vcpu in [1, 2, 3].map(VcpuId::new) {
        assert!(
            run(&sim, vcpu).abs_diff(END / 3) <= END / 50,
            "{vcpu}: {}",
            run(&sim, vcpu)
        );
    }
}

#[test]
fn an_affinity_that_excludes_the_home_is_refused_or_moves_it() {
    let guests = [Some((60, 100)), Some((60, 100)), None].map(|r| (busy(), r));
    let mut sim = machine(2, guests);
    sim.run_until(1000);
    let only_1 = PcpuSet::only(pcpu(1));
    let refused = sim.handle(VCPU0).set_affinity(only_1).unwrap_err();
    assert!(matches!(refused, AffinityError::Entitlement(_)));
    assert_eq!(
        refused.to_string(),
        "a budget of 60 ticks in a period of 100 needs 60.0 % of a pCPU, and the emptiest of those it may use has 40.0 % left"
    );
    assert_eq!(sim.handle(VCPU0).affinity(), PcpuSet::all(2));
    sim.run_until(2000);
    expect_no_miss(&sim, VCPU0, 0, (60, 100), 2000);
    // Once there is room it goes.
    let less = sim
        .handle(VCPU1)
        .set_entitlement(&entitlement(Some((40, 100))));
    assert_eq!(less, Ok(()));
    sim.act(Outside::SetAffinity(VCPU0, only_1));
    sim.run_until(5000);
    assert!(
        sim.stretches()
            .iter()
            .all(|s| s.vcpu != VCPU0 || s.start < 2000 || s.pcpu == pcpu(1))
    );
    for (vcpu, budget) in [(VCPU0, 60), (VCPU1, 40)] {
        let windows = windows(&sim, vcpu, 2200, 100, 5000);
        assert!(
            windows.iter().all(|&window| window == budget),
            "{vcpu}: {windows:?}"
        );
    }
}

#[test]
fn a_reserved_vcpu_that_was_sent_away_comes_home() {
    let guests = [Some((50, 100)), None, None, None].map(|r| (busy(), r));
    let mut sim = machine(2, guests);
    sim.run_until(1000);
    sim.act(Outside::Drain(pcpu(0)));
    sim.run_until(2000);
    let at_home = |sim: &Simulation, from: u64| {
        let since = sim.stretches().into_iter().filter(move |s| s.start >= from);
        since.filter(|s| s.vcpu == VCPU0).all(|s| s.pcpu == pcpu(0))
    };
    assert!(!at_home(&sim, 1000));
    sim.act(Outside::Undrain(pcpu(0)));
    sim.run_until(4000);
    assert!(at_home(&sim, 2100));
    let windows = windows(&sim, VCPU0, 2200, 100, 4000);
    assert!(windows.iter().all(|&window| window >= 50), "{windows:?}");
}

#[test]
fn a_reservation_counts_from_the_next_turn_on() {
    let mut sim = machine(1, [None, None, None].map(|r| (busy(), r)));
    sim.run_until(100);
    let half = sim
        .handle(VCPU0)
        .set_entitlement(&entitlement(Some((40, 50))));
    assert_eq!(half, Ok(()));
    sim.run_until(1110);
    let windows = windows(&sim, VCPU0, 110, 50, 1110);
    assert!(windows.iter().all(|&window| window >= 40), "{windows:?}");
    assert_eq!(
        sim.handle(VCPU0).set_entitlement(&entitlement(None)),
        Ok(())
    );
    sim.run_until(1200);
    let before = run(&sim, VCPU0);
    sim.run_until(2100);
    assert!((run(&sim, VCPU0) - before).abs_diff(300) <= SLICE);
}

/// A number below `limit` by chance.
fn below(x: &mut u64, limit: u64) -> u64 {
    *x ^= *x << 13;
    *x ^= *x >> 7;
    *x ^= *x << 17;
    (*x >> 11) % limit
}

/// Earliest deadline first, one tick after the other: in how many ticks each of `servers`, which wake up at the given times
/// and then always want more, has run on its budget in each of its periods until `end`.
fn model(servers: &[(u64, (u64, u64))], end: u64) -> Vec<Vec<u64>> {
    let mut served: Vec<Vec<u64>> = servers.iter().map(|_| Vec::new()).collect();
    for now in 0..end {
        for (server, &(start, (_, period))) in served.iter_mut().zip(servers) {
            if now >= start && (now - start) % period == 0 {
                server.push(0);
            }
        }
        let wants = |&index: &usize| {
            let (_, (budget, _)) = servers[index];
            served[index].last().is_some_and(|&got| got < budget)
        };
        let deadline = |&index: &usize| {
            let (start, (_, period)) = servers[index];
            start + served[index].len() as u64 * period
        };
        let first = (0..servers.len()).filter(wants).min_by_key(deadline);
        if let Some(got) = first.and_then(|first| served[first].last_mut()) {
            *got += 1;
        }
    }
    served
}

/// A machine by chance with as many reservations as fit, and where each vCPU has its home. Each sleeps first, until the budget
/// that it got when it was turned on is over.
fn full_machine(x: &mut u64) -> (Simulation, Vec<Reserved>) {
    let pcpus = 1 + below(x, 3) as u16;
    let policy = Deadline::with_slice(SLICE, 16);
    let (mut guests, mut reserved) = (Vec::new(), Vec::new());
    for index in 0..2 + below(x, 9) as u16 {
        let period = 2 + below(x, 60);
        let (sleep, budget) = (period + below(x, 60), 1 + below(x, period));
        let (vcpu, wanted) = (VcpuId::new(index), (budget, period));
        let admitted = policy.admit(vcpu, &entitlement(Some(wanted)), PcpuSet::all(pcpus));
        let script = Script::forever([WaitFor(sleep), Compute(1_000_000)]);
        guests.push((script, admitted.is_ok().then_some(wanted)));
        reserved.extend(admitted.ok().flatten().map(|home| Reserved {
            vcpu,
            home,
            sleep,
            wanted,
        }));
    }
    let guests = guests.into_iter().chain([(busy(), None)]);
    (machine(pcpus, guests), reserved)
}

struct Reserved {
    vcpu: VcpuId,
    home: PcpuId,
    sleep: u64,
    wanted: (u64, u64),
}

#[test]
fn whatever_is_admitted_is_kept_as_in_a_machine_that_decides_at_each_tick() {
    const END: u64 = 3000;
    let mut full = 0;
    for seed in 1..=150_u64 {
        let (mut sim, reserved) = full_machine(&mut seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        sim.run_until(END);
        // It sets its timer in its first tick.
        let start = |guest: &Reserved| {
            let times = run_times(&sim, guest.vcpu, END);
            let set = times.iter().position(|&time| time == 1);
            set.expect("it has begun") as u64 + guest.sleep
        };
        for home in PcpuSet::all(3).iter() {
            let there: Vec<_> = reserved.iter().filter(|guest| guest.home == home).collect();
            let servers: Vec<_> = there
                .iter()
                .map(|guest| (start(guest), guest.wanted))
                .collect();
            let parts = servers.iter().map(|&(_, (q, p))| q as f64 / p as f64);
            full += u32::from(parts.sum::<f64>() > 0.95);
            let models = model(&servers, END);
            for ((guest, (start, (budget, period))), model) in there.iter().zip(servers).zip(models)
            {
                let windows = windows(&sim, guest.vcpu, start, period, END);
                let in_both = windows
                    .iter()
                    .zip(&model)
                    .map(|(got, model)| got.min(model));
                let miss = in_both.clone().position(|&got| got < budget);
                assert_eq!(
                    miss, None,
                    "seed {seed}: {} {budget}/{period}: {windows:?}",
                    guest.vcpu
                );
            }
        }
    }
    assert!(full > 25, "{full} pCPUs had little to give away");
}

#[test]
fn one_that_waited_where_it_was_shares_with_who_comes() {
    let [a, b] = [VCPU0, VCPU1];
    let entitlements = Arc::new(Entitlements::new(2));
    let mut local = Deadline::with_slice(SLICE, 2).local(pcpu(0), &entitlements);
    for vcpu in [a, b] {
        local.enqueue(vcpu, Ready::Woken, 0);
    }
    // It has a turn while the other one waits, which then goes elsewhere.
    assert!(matches!(local.pick(0), Choice::Run(pick) if pick.vcpu == a));
    assert_eq!(local.surrender(&mut |vcpu| vcpu == b), Some(b));
    local.charge(a, 10, 10);
    local.leave(a, 10);
    let slice = local.resume(a, 20).unwrap_or_else(|| match local.pick(20) {
        Choice::Run(pick) => pick.slice,
        Choice::Idle(_) => unreachable!("it is ready"),
    });
    local.enqueue(b, Ready::MigratedIn, 30);
    assert!(
        slice.duration.is_some() || local.preempts(a, 30),
        "its turn ends"
    );
}

#[test]
fn who_overruns_its_budget_pays_for_that_also_if_it_sleeps_past_its_deadline() {
    const BUDGET: u64 = 10;
    let entitlements = Arc::new(Entitlements::new(2));
    for wait in [0, 1, 30, 99, 100, 250] {
        let policy = Deadline::with_slice(SLICE, 2);
        let reserved = entitlement(Some((BUDGET, 100)));
        let admitted = policy.admit(VCPU0, &reserved, PcpuSet::all(1));
        assert_eq!(admitted, Ok(Some(pcpu(0))));
        entitlements.set(VCPU0, &reserved);
        let mut local = policy.local(pcpu(0), &entitlements);
        local.enqueue(VCPU1, Ready::Woken, 0);
        // Whenever it has budget, a long exit takes more than that, and it sleeps until its deadline or a while longer.
        let (mut used, mut most) = (0, 0);
        for now in (0..20_000).step_by(100).map(|deadline| deadline + wait) {
            most = now / 100 * BUDGET + BUDGET + 24;
            local.enqueue(VCPU0, Ready::Woken, now);
            let Choice::Run(pick) = local.pick(now) else {
                unreachable!("two are ready");
            };
            if pick.vcpu == VCPU0 {
                used += 25;
                local.charge(VCPU0, 25, now + 25);
                local.leave(VCPU0, now + 25);
            } else {
                local.enqueue(VCPU1, Ready::Preempted, now);
                local.withdraw(VCPU0, now);
            }
            assert!(used <= most, "{wait}: {used} until {now}");
        }
        assert!(used + 75 > most, "{wait}: it has had {used} of {most}");
    }
}

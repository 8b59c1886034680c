//! What the heads of the scenarios that come with Trapline say is so.

use trapline_sched::sim::PoolOutcome;

use crate::{run, run_under};

/// `value` is within `tolerance` of `expected`.
#[track_caller]
fn near(value: f64, expected: f64, tolerance: f64) {
    assert!(
        (value - expected).abs() <= tolerance,
        "{value} is not {expected} +- {tolerance}"
    );
}

const MS: u64 = 1_000_000;

#[test]
fn shares_are_as_weights() {
    for policy in ["fair", "credit"] {
        let shown = run_under("weights", Some(policy));
        for (name, weight) in [("one", 1.0), ("two", 2.0), ("four", 4.0)] {
            near(shown.part(name).share, weight / 7.0, 0.01);
        }
    }
    let shown = run_under("weights", Some("round-robin"));
    for name in ["one", "two", "four"] {
        near(shown.part(name).share, 1.0 / 3.0, 0.01);
    }
}

#[test]
fn caps_hold_on_a_machine_that_idles() {
    let shown = run("caps");
    near(shown.part("half").share, 0.125, 0.004);
    near(shown.part("two").share, 0.5, 0.015);
    let idle: u64 = shown.outcome.pcpus.iter().map(|pcpu| pcpu.idle).sum();
    let all: u64 = shown
        .outcome
        .pcpus
        .iter()
        .map(|pcpu| pcpu.busy + pcpu.idle)
        .sum();
    assert!(idle * 5 > all, "{idle} of {all} idle");
    let fair = run_under("caps", Some("fair"));
    near(fair.part("half").share + fair.part("two").share, 1.0, 0.01);
}

#[test]
fn who_has_a_reservation_misses_nothing_under_overload() {
    let shown = run("edf-overload");
    for name in ["sensor", "control"] {
        let part = shown.part(name);
        assert!(part.deadlines > 200, "{} deadlines", part.deadlines);
        assert_eq!(part.misses, 0, "{name}");
    }
    assert!(shown.part("greedy").misses > 0, "it wants more than it has");
    assert!(shown.part("batch").run > 0, "what is left is used");
    let other = run_under("edf-overload", Some("round-robin"));
    let sensor = other.part("sensor");
    assert!(
        sensor.misses * 2 > sensor.deadlines,
        "{} of {}",
        sensor.misses,
        sensor.deadlines
    );
}

#[test]
fn directed_yield_ends_a_convoy() {
    let (spinning, yielding) = (run("convoy"), run("convoy-yield"));
    let (spinning, yielding) = (spinning.part("locks"), yielding.part("locks"));
    assert!(spinning.rounds > 0 && yielding.yields > 0);
    assert!(
        yielding.rounds > 3 * spinning.rounds,
        "{} rounds with directed yield, {} without",
        yielding.rounds,
        spinning.rounds
    );
}

#[test]
fn sleepers_do_not_gain() {
    let shown = run("sleepers");
    let (steady, bursts) = (shown.part("steady"), shown.part("bursts"));
    assert!(steady.worst_wait < 8 * MS, "{} ns", steady.worst_wait);
    // It wants the pCPU for 200 ms of wall clock, half of which it has, in every 400.
    near(bursts.share, 0.25, 0.03);
    near(steady.share, 0.75, 0.03);
}

#[test]
fn an_attack_on_those_who_wait_for_io_gains_nothing() {
    let shown = run("io-attack");
    let attacker = shown.part("attacker");
    assert!(attacker.wakeup.count() > 100, "it sleeps");
    assert!(attacker.share < 0.27, "{}", attacker.share);
    near(shown.part("victim").share, 0.75, 0.03);
}

#[test]
fn sleepers_stay_near_their_caches_and_what_is_busy_evens_out() {
    let shown = run("clusters");
    let (server, batch) = (shown.part("server"), shown.part("batch"));
    assert!(server.migrations > 10_000, "{}", server.migrations);
    // Of 15 other pCPUs 3 are near: by chance four of five moves would be far.
    assert!(
        5 * server.far_migrations < 3 * server.migrations,
        "{} of {} moves are far",
        server.far_migrations,
        server.migrations
    );
    near(batch.share, 0.5, 0.005);
    near(server.share, 0.47, 0.015);
    assert!(batch.migrations < 400, "{} moves", batch.migrations);
    assert!(server.worst_wait < MS, "{} ns", server.worst_wait);
}

#[test]
fn a_boot_storm_leaves_the_server_awake() {
    let shown = run("boot-storm");
    let (server, guests) = (shown.part("server"), shown.part("guest"));
    assert_eq!(guests.vms, 64);
    assert!(
        guests.finished_at.is_some_and(|time| time > 100 * MS),
        "{:?}",
        guests.finished_at
    );
    let late = server.wakeup.percentile(99.0);
    assert!(
        server.wakeup.count() > 400 && late < 5 * MS,
        "{late} ns at the 99th percentile"
    );
}

#[test]
fn a_big_machine_is_busy_and_fair() {
    let shown = run("big");
    let idle: u64 = shown.outcome.pcpus.iter().map(|pcpu| pcpu.idle).sum();
    let all: u64 = shown
        .outcome
        .pcpus
        .iter()
        .map(|pcpu| pcpu.busy + pcpu.idle)
        .sum();
    assert_eq!(shown.outcome.pcpus.len(), 256);
    assert!(idle * 100 < all, "{idle} of {all} idle");
    // Twice as many vCPUs of half the weight.
    let (heavy, light) = (shown.part("heavy"), shown.part("light"));
    near(heavy.share / light.share, 1.0, 0.1);
}

#[test]
fn a_pool_of_its_own_keeps_deadlines_whatever_happens_beside_it() {
    let shown = run("pools");
    let (sensor, web, batch) = (shown.part("sensor"), shown.part("web"), shown.part("batch"));
    assert!(sensor.deadlines > 300, "{} deadlines", sensor.deadlines);
    assert_eq!(sensor.misses, 0);
    assert_eq!(shown.outcome.actions, 7);
    let names: Vec<_> = shown.outcome.pools.iter().collect();
    let names: Vec<_> = names
        .iter()
        .map(|pool| (&*pool.name, pool.pcpus.len()))
        .collect();
    assert_eq!(names, [("rest", 3), ("control", 1), ("background", 0)]);
    assert!(web.run > batch.run && batch.run > 0);
    // Of its 501 ms as a pool, `background` had one pCPU for 300 and two for 200.
    let background = &shown.outcome.pools[2].work;
    assert_eq!(background.busy + background.idle, 701 * MS);
}

#[test]
fn nobody_idles_while_pcpus_go_and_come_back() {
    let shown = run("hotplug");
    let time = |pool: &PoolOutcome| pool.work.busy + pool.work.idle;
    let pools = &shown.outcome.pools;
    for pool in pools {
        let (all, idle) = (time(pool), pool.work.idle);
        assert!(idle * 200 < all, "{}: {idle} of {all} idle", pool.name);
    }
    // For half of the time one of four is off, and one of two.
    assert_eq!((time(&pools[0]), time(&pools[1])), (3_500 * MS, 1_500 * MS));
    near(shown.part("beside").run as f64 / MS as f64, 1500.0, 15.0);
}

#[test]
fn pcpus_where_many_wait_give_to_those_where_few_do() {
    let shown = run("even-out");
    for (index, vm) in shown.outcome.vms.iter().enumerate() {
        // The others are paused.
        let expected = if index % 2 == 0 { 0.0 } else { 0.5 };
        near(vm.share * 2.0, expected, 0.01);
    }
}

#[test]
fn who_has_to_move_to_be_fair_moves() {
    let shown = run("uneven");
    let part = |name| shown.part(name).share * 6.0;
    near(part("five"), 4.0, 0.01);
    near(part("three"), 2.0, 0.01);
    for vm in &shown.outcome.vms {
        let expected = if vm.name.starts_with("five") {
            0.8
        } else {
            0.667
        };
        near(vm.share * 6.0, expected, 0.01);
    }
}

#[test]
fn who_yields_gives_away_only_what_is_its_own() {
    let shown = run("convoy-beside");
    assert!(shown.part("locks").yields > 1000);
    assert!(shown.part("others").share >= 0.49);
}

#[test]
fn a_budget_is_a_floor_and_no_way_around_the_turns_of_others() {
    let shown = run("servers");
    for name in ["restless", "greedy"] {
        assert!(shown.part(name).share >= 0.099, "{name}");
    }
    assert!(shown.part("batch").share >= 0.47);
}

#[test]
fn halt_polling_lets_wake_ups_come_sooner_where_nobody_else_needs_the_pcpu() {
    let shown = run("halt-poll");
    let late = |name| shown.part(name).wakeup.percentile(90.0);
    let (polled, plain) = (late("polled"), late("plain"));
    let (notice, kick) = (shown.scenario.costs.notice, shown.scenario.costs.kick_delay);
    assert!(
        polled < 2 * notice && plain >= kick,
        "{polled} and {plain} ns"
    );
    let [polled, plain] = ["polled-crowd", "plain-crowd"].map(|name| shown.part(name));
    assert_eq!(polled.wakeup, plain.wakeup);
    assert_eq!(
        (polled.run, polled.worst_wait),
        (plain.run, plain.worst_wait)
    );
    let kicks: u64 = shown.outcome.pcpus[..2].iter().map(|pcpu| pcpu.kicks).sum();
    assert!(kicks < 20, "{kicks} kicks for `polled`");
}

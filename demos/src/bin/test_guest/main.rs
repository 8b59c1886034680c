//! One promise of the machine at a time: `test=NAME` on the command line selects it.
//!
//! Each test prints `TEST NAME PASS`, with figures where it counts something, or `TEST NAME FAIL cpu=.. why`, and turns the machine
//! off. Those that need no hypervisor pass on bare QEMU as they are, which says that the test is right. `strict=1` adds what
//! the specifications ask and QEMU's own firmware does not do.
#![no_std]
#![no_main]

mod aarch32;
mod alone;
mod caches;
mod calls;
mod churn;
mod debug;
mod devices;
mod disk;
mod exclusive;
mod floating_point;
mod fresh;
mod gic_active;
mod gic_any;
mod gic_due;
mod gic_groups;
mod gic_levels;
mod gic_priority;
mod gic_remote;
mod gic_v2;
mod hidden;
mod hypervisor_calls;
mod isv;
mod its;
mod levels;
mod lives;
mod migrate;
mod own_registers;
mod passed;
mod power_states;
mod read_only;
mod restless;
mod serrors;
mod siblings;
mod sleep;
mod support;
mod timer_values;
mod timers;
mod translations;
mod typed;
mod undefined;
mod unmapped;
mod waits;

use trapline_demos::guest::{cpu, machine, power};
use trapline_demos::guest_program;

guest_program! {
    main: main,
    secondary: support::secondary,
    interrupt: support::interrupt,
    exception: support::exception,
}

/// A test: its name, how many CPUs it needs, what it does. It returns if it passed.
type Test = (&'static str, usize, fn());

#[rustfmt::skip] // read by column
const TESTS: &[Test] = &[
    ("vgic-priority",       1, gic_priority::preemption),
    ("vgic-pmr",            1, gic_priority::mask),
    ("vgic-eoimode1-dir",   1, gic_active::split_end),
    ("vgic-disable-active", 1, gic_active::disable_while_active),
    ("vgic-level-lowered",  1, gic_levels::lowered_before_it_is_taken),
    ("vgic-level-resample", 1, gic_levels::taken_again_while_high),
    ("vgic-40-due",         1, gic_due::forty_at_once),
    ("vgic-active-read",    2, gic_remote::state_of_another_cpu),
    ("vgic-retarget",       2, gic_remote::retarget_while_pending),
    ("vgic-group0",         1, gic_groups::both),
    ("vgic-messages",       1, gic_any::messages),
    ("vgic-any",            2, gic_any::to_any),
    ("vgic2-sgi-sources",   3, gic_v2::sgis_by_source),
    ("vgic2-sgi-filters",   3, gic_v2::sgi_filters),
    ("vgic2-targets",       3, gic_v2::targets),
    ("its",                 2, its::commands),
    ("sgi-all",             1, gic_remote::sgis_from_all_to_all),
    ("timer-istatus",       1, timers::handler_sees_istatus),
    ("timer-imask",         1, timers::mask_holds_it_back),
    ("timer-deadlines",     1, timer_values::deadlines),
    ("timer-masked-late",   1, timer_values::masked_after_it_fired),
    ("wfi-masked",          2, waits::masked),
    ("undef-unknown",       1, undefined::unknown_registers),
    ("hidden-features",     1, undefined::hidden_features),
    ("pmu",                 1, hidden::pmu),
    ("timed-waits",         2, hidden::timed_waits),
    ("aarch32",             1, aarch32::all),
    ("illegal-returns",     1, levels::illegal_returns),
    ("calls-from-el0",      1, levels::calls_from_el0),
    ("caches",              1, caches::off_and_on),
    ("own-registers",       2, own_registers::patterns),
    ("own-registers-reset", 2, own_registers::reset_by_power),
    ("exclusive-switch",    2, exclusive::across_switches),
    ("exclusive-move",      1, exclusive::across_moves),
    ("local-maintenance",   1, translations::local_maintenance),
    ("unknown-calls",       1, calls::unknown),
    ("many-calls",          1, calls::many),
    ("unmapped",            1, unmapped::aborts),
    ("isv",                 1, isv::forms),
    ("isv-waits",           2, gic_remote::pair_of_another_cpu),
    ("clock",               1, devices::clock),
    ("pins",                1, devices::pins),
    ("power-key",           1, devices::power_key),
    ("clock-moves",         1, passed::moves),
    ("clock-retarget",      2, passed::retarget),
    ("clock-disable",       1, passed::disable),
    ("clock-reset",         1, passed::reset),
    ("disk-many",           1, disk::many),
    ("disk-edges",          1, disk::edges),
    ("disk-reset",          1, disk::reset),
    ("random-numbers",      1, hypervisor_calls::random_numbers),
    ("stolen-time",         1, hypervisor_calls::stolen_time),
    ("yields",              2, siblings::yields),
    ("debug-registers",     1, debug::registers),
    ("debug-step",          1, debug::step),
    ("debug-shared",        2, debug::shared),
    ("psci",                2, power_states::all),
    ("system-suspend",      2, sleep::until_the_timer),
    ("cpu-suspend",         2, sleep::one_cpu),
    ("fp-switch",           2, floating_point::patterns),
    ("serrors",             2, serrors::taken_once),
    ("pauth",               1, floating_point::pointer_authentication),
    ("migrate-live",        1, migrate::live),
    ("handler-churn",       1, churn::reads),
    ("reset",               1, reset),
    ("fresh",               1, fresh::each_life),
    ("reset-wiped",         1, lives::wipe_and_reset),
    ("stop-start",          1, lives::stop_and_start),
    ("start-in-vain",       1, lives::start_in_vain),
    ("pause-others",        1, lives::pause_others),
    ("paused",              1, lives::is_paused),
    ("all-off",             1, lives::all_off),
    ("unplug",              1, restless::unplug),
    ("swap-policies",       1, restless::swap),
    ("break-policies",      1, restless::break_policies),
    ("together",            1, restless::together),
    ("alone",               2, alone::no_exit),
    ("stops-reading",       1, typed::stop_reading),
    ("spin",                1, spin),
    ("fail-hypervisor",     2, || fail_hypervisor(0xc600_0005)),
    ("overflow-hypervisor", 1, || fail_hypervisor(0xc600_000b)),
];

fn main() -> ! {
    let name = machine::parameters().text("test").unwrap_or("");
    let Some((name, cpus, run)) = TESTS.iter().find(|test| test.0 == name) else {
        support::begin("unknown");
        support::fail(format_args!("test={name} names no test"));
    };
    support::begin(name);
    support::check!(machine::cpu_count() >= *cpus, "it needs {cpus} CPUs");
    run();
    support::pass()
}

/// Resets the machine; it does not come back from that, so nothing is printed after this.
fn reset() {
    support::note(format_args!("resetting"));
    power::system_reset();
}

/// Asks the hypervisor of the tests to fail; with any other this says that it did not.
fn fail_hypervisor(function: u32) {
    support::start_all();
    let result = power::call(function, [0; 3]);
    support::fail(format_args!("the call returned {result}"));
}

/// Never ends: for whoever tests a deadline.
fn spin() {
    support::note(format_args!("spinning"));
    loop {
        cpu::relax();
    }
}

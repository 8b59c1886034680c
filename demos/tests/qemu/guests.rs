//! The test guest: one promise of the machine at a time. QEMU itself is asked first: what passes there is what hardware does.

use crate::harness::{Run, runs_long_tests};

/// Checks also what QEMU's own firmware does not do.
const STRICT: &str = "strict=1";

#[track_caller]
pub fn expect_pass(run: Run, name: &str, parameters: &str) {
    let output = run
        .append(&format!("test={name} {parameters}"))
        .deadline(60)
        .start();
    output.expect_exit(0);
    output.expect_in_order([&format!("TEST {name} PASS")]);
    output.expect_absent("FAIL");
}

/// For each test its name in the guest, and how many vCPUs and pCPUs it has.
macro_rules! tests {
    ($($test:ident = $name:literal on $vcpus:literal over $pcpus:literal;)+) => {
        mod on_bare_qemu {
            use super::*;
            $(
                #[test]
                fn $test() {
                    if runs_long_tests() {
                        expect_pass(Run::guest("test-guest").vcpus($vcpus).bare(), $name, "");
                    }
                }
            )+
        }

        mod under_trapline {
            use super::*;
            $(
                #[test]
                fn $test() {
                    expect_pass(Run::guest("test-guest").vcpus($vcpus).pcpus($pcpus), $name, STRICT);
                }
            )+
        }
    };
}

tests! {
    a_more_urgent_interrupt_preempts = "vgic-priority" on 1 over 1;
    the_priority_mask_holds_back = "vgic-pmr" on 1 over 1;
    priority_drop_and_deactivation_are_apart = "vgic-eoimode1-dir" on 1 over 1;
    an_active_interrupt_is_disabled = "vgic-disable-active" on 1 over 1;
    a_level_is_lowered_before_it_is_taken = "vgic-level-lowered" on 1 over 1;
    a_level_that_stays_is_taken_again = "vgic-level-resample" on 1 over 1;
    forty_interrupts_are_due_at_once = "vgic-40-due" on 1 over 1;
    the_state_of_another_cpu_is_seen = "vgic-active-read" on 2 over 2;
    a_pending_interrupt_changes_its_target = "vgic-retarget" on 2 over 2;
    group_0_comes_as_fiqs = "vgic-group0" on 1 over 1;
    messages_are_levels_or_edges = "vgic-messages" on 1 over 1;
    what_any_cpu_may_take_is_taken_once = "vgic-any" on 4 over 2;
    the_its_does_what_it_is_told = "its" on 2 over 2;
    sgis_go_from_all_to_all = "sgi-all" on 4 over 2;
    sgis_reach_beyond_one_cluster = "sgi-all" on 20 over 2;
    a_timers_handler_sees_why = "timer-istatus" on 1 over 1;
    a_masked_timer_is_silent = "timer-imask" on 1 over 1;
    a_deadline_is_one_interrupt = "timer-deadlines" on 1 over 1;
    a_timer_that_is_masked_too_late_interrupts_once_at_most = "timer-masked-late" on 1 over 1;
    a_masked_interrupt_ends_a_wait = "wfi-masked" on 2 over 1;
    a_masked_interrupt_ends_a_wait_on_a_pcpu_of_its_own = "wfi-masked" on 2 over 2;
    unknown_registers_are_undefined = "undef-unknown" on 1 over 1;
    hidden_features_are_undefined = "hidden-features" on 1 over 1;
    the_pmu_is_hidden_whole = "pmu" on 1 over 1;
    waits_with_a_timeout_are_undefined = "timed-waits" on 2 over 1;
    code_of_32_bits_runs_at_el0 = "aarch32" on 1 over 1;
    code_of_32_bits_shares_a_pcpu = "aarch32" on 2 over 1;
    illegal_returns_end_in_the_guest = "illegal-returns" on 1 over 1;
    el0_calls_nobody = "calls-from-el0" on 1 over 1;
    registers_are_ones_own = "own-registers" on 2 over 1;
    a_cpu_that_was_off_starts_reset = "own-registers-reset" on 2 over 1;
    a_load_before_a_switch_has_no_store_after_it = "exclusive-switch" on 2 over 1;
    unknown_calls_are_not_supported = "unknown-calls" on 1 over 1;
    unmapped_addresses_abort = "unmapped" on 1 over 1;
    undescribed_loads_and_stores_reach_devices = "isv" on 1 over 1;
    the_clock_tells_the_time_and_wakes = "clock" on 1 over 1;
    a_clocks_alarm_is_one_interrupt = "clock-moves" on 1 over 1;
    a_clocks_alarm_goes_where_it_is_routed = "clock-retarget" on 2 over 2;
    a_clocks_alarm_may_be_disabled = "clock-disable" on 1 over 1;
    pins_interrupt_by_level = "pins" on 1 over 1;
    random_numbers_are_called_for = "random-numbers" on 1 over 1;
    nothing_is_stolen_from_a_cpu_alone = "stolen-time" on 1 over 1;
    a_cpu_that_is_yielded_to_runs_at_once = "yields" on 2 over 1;
    a_cpu_sees_what_is_stolen_from_it = "stolen-time" on 2 over 1;
    breakpoints_and_watchpoints_fire = "debug-registers" on 1 over 1;
    a_step_is_one_instruction = "debug-step" on 1 over 1;
    breakpoints_are_ones_own = "debug-shared" on 4 over 1;
    psci_turns_cpus_on_and_off = "psci" on 4 over 2;
    floating_point_registers_are_ones_own = "fp-switch" on 2 over 1;
    pointer_authentication_works = "pauth" on 1 over 1;
}

/// QEMU alone makes one access of 64 bits of the pair, which these registers do not take.
#[test]
fn an_undescribed_load_waits_in_its_middle() {
    let run = Run::guest("test-guest").vcpus(2).pcpus(2);
    expect_pass(run, "isv-waits", STRICT);
}

/// Each burst by set and way is a pass over all memory, so there is little of it.
#[test]
fn caches_go_off_and_on() {
    let guest = || Run::guest("test-guest").option("--memory", 16);
    for vcpus in [1, 2] {
        if runs_long_tests() {
            expect_pass(guest().vcpus(vcpus).bare(), "caches", "");
        }
        expect_pass(guest().vcpus(vcpus).pcpus(1), "caches", STRICT);
    }
}

/// Only the hypervisor of the tests has a call that presses the key.
#[test]
fn a_pressed_power_key_interrupts_and_is_let_go() {
    let run = Run::guest("test-guest").hypervisor("test-hypervisor");
    expect_pass(run.vcpus(1).pcpus(1), "power-key", STRICT);
}

/// One that has been taken does not come back when other vCPUs of the pCPU become ready, or no longer are.
#[test]
fn an_serror_is_taken_once() {
    let run = Run::guest("test-guest").hypervisor("test-hypervisor");
    expect_pass(run.vcpus(2).pcpus(1), "serrors", STRICT);
}

/// The most vCPUs, in four clusters of affinities, on more pCPUs than one cluster has.
#[test]
fn sixty_four_vcpus_on_many_pcpus_pass() {
    if runs_long_tests() {
        let guest = || Run::guest("test-guest").vcpus(64);
        for (name, pcpus) in [
            ("psci", 17),
            ("sgi-all", 33),
            ("vgic-active-read", 64),
            ("vgic-retarget", 64),
        ] {
            expect_pass(guest().bare(), name, "");
            expect_pass(guest().pcpus(pcpus), name, STRICT);
        }
    }
}

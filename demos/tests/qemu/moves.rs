//! vCPUs that are moved while their timers, SGIs, FP registers and active interrupts are live.

use crate::harness::{Output, Run, runs_long_tests};

const PLACES: [&str; 3] = ["loaded", "queued", "parked"];

/// The test guest does `moves` tasks, each with about one call that moves a vCPU, and finds nothing lost, doubled or damaged.
#[track_caller]
fn move_vcpus(run: Run, vcpus: usize, pcpus: usize, moves: u64, seed: u64) -> Output {
    let parameters = format!("test=migrate-live moves={moves} pcpus={pcpus} seed={seed}");
    let run = run.append(&parameters).vcpus(vcpus).pcpus(pcpus);
    let output = run.deadline(300).start();
    output.expect_exit(0);
    output.expect_in_order(["TEST migrate-live PASS"]);
    output.expect_absent("FAIL");
    output.expect_no_exit_allocation();
    let moved = output.said("migrate-live", "moved");
    // Some tasks of the guest wait instead.
    output.require(moved >= moves / 10 * 9, || {
        format!("only {moved} of {moves} calls moved a vCPU")
    });
    output
}

fn guest() -> Run {
    Run::guest("test-guest").hypervisor("test-hypervisor")
}

/// How many moves there were of vCPUs that were in each of [`PLACES`].
fn counted(output: &Output) -> [u64; 3] {
    PLACES.map(|place| {
        let moves = output.column("vcpus", &format!("migrations_{place}"));
        moves.iter().sum()
    })
}

#[test]
fn nothing_is_lost_when_vcpus_move_ten_thousand_times() {
    let output = move_vcpus(guest(), 8, 4, 20_000, 1);
    let moves = counted(&output);
    output.require(moves.iter().sum::<u64>() >= 10_000, || {
        format!("moves of vCPUs {PLACES:?}: {moves:?}")
    });
    output.require(moves.iter().all(|moves| *moves >= 200), || {
        format!("moves of vCPUs {PLACES:?}: {moves:?}")
    });
}

/// One vCPU that moves itself between two pCPUs at places that matter.
#[track_caller]
fn move_alone(name: &str) {
    let run = guest().append(&format!("test={name} strict=1"));
    let output = run.vcpus(1).pcpus(2).start();
    output.expect_exit(0);
    output.expect_in_order([&format!("TEST {name} PASS")]);
    output.expect_absent("FAIL");
}

#[test]
fn a_load_before_a_move_has_no_store_after_it() {
    move_alone("exclusive-move");
}

/// QEMU flushes more than it must, so this cannot show that HCR_EL2.FB is needed; it shows what it is for.
#[test]
fn maintenance_of_ones_own_cpu_counts_after_a_move() {
    move_alone("local-maintenance");
}

#[test]
fn nothing_is_lost_when_vcpus_move_between_two_pcpus() {
    for (vcpus, seed) in [(2, 2), (5, 3)] {
        let moves = counted(&move_vcpus(guest(), vcpus, 2, 2_000, seed));
        assert!(moves.iter().all(|moves| *moves > 0), "{moves:?}");
    }
}

#[test]
fn nothing_is_lost_when_vcpus_of_the_max_model_move() {
    if runs_long_tests() {
        move_vcpus(guest().cpu("max"), 6, 3, 4_000, 4);
    }
}

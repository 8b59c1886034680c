//! A machine whose pCPUs come and go, or whose policy changes, while guests run: nobody is lost, hung or damaged.

use crate::harness::{Output, Run, is_full_tier, runs_long_tests};

/// How long the load runs, in seconds: in the full tier `full`.
fn seconds(full: u64) -> u64 {
    if is_full_tier() { full } else { 4 }
}

/// For what is to be shown in a minute: pCPUs that leave, and policies that change, while all pCPUs are busy.
const MINUTE: u64 = 60;
/// For what differs from that in one respect.
const SHORT: u64 = 10;

/// `test` of the test guest drives the machine, of which the configuration says `machine`, while `load` runs.
fn drive(machine: &str, test: &str, load: &str) -> Run {
    let text = format!(
        "{machine}
[[vm]]
name = \"driver\"
guest = \"test-guest\"
memory = \"16M\"
append = \"test={test} seconds=600\"
[[vm]]
name = \"load\"
{load}
"
    );
    let run = Run::described(&text).hypervisor("test-hypervisor");
    run.deadline(500)
}

fn stress(vcpus: usize, seed: usize, seconds: u64) -> String {
    format!(
        "guest = \"stress\"\nmemory = \"64M\"\nvcpus = {vcpus}\nappend = \"seconds={seconds} seed={seed}\""
    )
}

#[track_caller]
fn expect_undisturbed(output: &Output, vcpus: usize) {
    output.expect_exit(0);
    output.expect_in_order([&format!("STRESS PASS vcpus={vcpus}")]);
    output.expect_absent("FAIL");
    output.expect_no_exit_allocation();
}

/// At least so many pCPUs went off, and each came back.
#[track_caller]
fn expect_unplugged(output: &Output, least: u64) {
    let [unplugged, plugged] = ["unplugged", "plugged"].map(|what| output.said("unplug", what));
    output.require(unplugged >= least && plugged == unplugged, || {
        format!("unplugged {unplugged} times, plugged {plugged} times")
    });
    // The log says of guests that they are off as well.
    let seen = |what: &str| {
        let lines = output.log.lines();
        let who = lines.filter_map(|line| line.strip_suffix(what)?.split_whitespace().next_back());
        who.filter(|who| who.starts_with("pcpu")).count() as u64
    };
    let (went, came) = (seen(" is off"), seen(" is on"));
    // Some unplugs are called off.
    output.require((least..=unplugged).contains(&went) && came == went, || {
        format!("{went} times off and {came} times on of {unplugged}")
    });
    output.require(!output.log.contains("stays"), || "one stayed".into());
}

/// pCPUs of a machine with `pcpus` come and go while `vcpus` vCPUs check themselves for `seconds`.
#[track_caller]
fn unplug_under_stress(pcpus: usize, vcpus: usize, gic: u32, seconds: u64) {
    let machine = format!("pcpus = {pcpus}\ngic = {gic}");
    let test = format!("unplug pcpus={pcpus} seed={pcpus} pause_us=4000");
    let output = drive(&machine, &test, &stress(vcpus, pcpus, seconds)).start();
    expect_undisturbed(&output, vcpus);
    expect_unplugged(&output, 5 * seconds);
}

#[test]
fn pcpus_come_and_go_under_sixteen_vcpus() {
    if runs_long_tests() {
        unplug_under_stress(4, 16, 3, seconds(MINUTE));
    }
}

#[test]
fn pcpus_that_poll_come_and_go() {
    if runs_long_tests() {
        let machine = "pcpus = 4\nhalt_poll_us = 1000";
        let test = "unplug pcpus=4 seed=9 pause_us=4000";
        let output = drive(machine, test, &stress(4, 9, seconds(SHORT))).start();
        expect_undisturbed(&output, 4);
        expect_unplugged(&output, 5 * seconds(SHORT));
    }
}

#[test]
fn with_gicv2_pcpus_come_and_go() {
    if runs_long_tests() {
        unplug_under_stress(4, 8, 2, seconds(SHORT));
    }
}

#[test]
fn pcpus_of_small_and_of_large_machines_come_and_go() {
    let sizes: &[usize] = if is_full_tier() {
        &[2, 3, 5, 6, 7, 8]
    } else {
        &[2, 8]
    };
    if runs_long_tests() {
        sizes
            .iter()
            .for_each(|&pcpus| unplug_under_stress(pcpus, 12, 3, seconds(SHORT)));
    }
}

#[test]
fn pcpus_come_and_go_under_linux() {
    if runs_long_tests() {
        let load = "guest = \"linux\"\nmemory = \"512M\"\nvcpus = 8";
        let test = "unplug pcpus=4 seed=3 pause_us=10000";
        let output = drive("pcpus = 4", test, load).start();
        output.expect_exit(0);
        output.expect_in_order(["[load] trapline: nproc=8", "[load] trapline: workload ok"]);
        output.expect_no_exit_allocation();
        expect_unplugged(&output, 20);
    }
}

/// Alarms of the machine's own clock reach the guest that has it, whichever pCPU its interrupt was routed to.
#[track_caller]
fn unplug_beside_a_clock(gic: u32) {
    let owner = "[[vm]]
name = \"owner\"
guest = \"test-guest\"
memory = \"16M\"
append = \"test=clock-moves guest=2 rounds=20000\"
[[vm.device]]
kind = \"pl031\"
";
    let load = stress(4, 1, seconds(SHORT)) + "\n" + owner;
    let test = "unplug pcpus=3 pause_us=3000";
    let output = drive(&format!("pcpus = 3\ngic = {gic}"), test, &load).start();
    expect_undisturbed(&output, 4);
    output.expect_in_order(["[owner] TEST clock-moves PASS interrupts=20000"]);
    expect_unplugged(&output, 5 * seconds(SHORT));
}

#[test]
fn interrupts_of_a_device_follow_when_their_pcpu_leaves() {
    if runs_long_tests() {
        unplug_beside_a_clock(3);
    }
}

#[test]
fn with_gicv2_interrupts_of_a_device_follow_when_their_pcpu_leaves() {
    if runs_long_tests() {
        unplug_beside_a_clock(2);
    }
}

/// Who ends waits for every pCPU that may have something of it, and for none that is off.
#[test]
fn guests_end_and_start_again_while_pcpus_come_and_go() {
    if !runs_long_tests() {
        return;
    }
    let wiper = "guest = \"test-guest\"\nmemory = \"16M\"\non_reset = \"restart\"\n\
                 append = \"test=reset-wiped guest=1 resets=20\"\n[[vm]]\nname = \"beside\"\n";
    let test = "unplug pcpus=3 until=2 pause_us=3000";
    let load = wiper.to_owned() + &stress(4, 1, seconds(SHORT));
    let output = drive("pcpus = 3", test, &load).start();
    expect_undisturbed(&output, 4);
    output.expect_in_order(["[load] test: life 1", "[load] test: life 21"]);
    expect_unplugged(&output, 5 * seconds(SHORT));
}

/// One after the other, each until it is off or on: also under the policies that have to know of all pCPUs.
#[test]
fn each_policy_goes_on_with_the_pcpus_that_are_left() {
    if !runs_long_tests() {
        return;
    }
    for policy in [
        "round-robin",
        "fair",
        "credit",
        "deadline",
        "priority",
        "gang",
    ] {
        let machine = format!("pcpus = 3\npolicy = \"{policy}\"");
        let test = "unplug pcpus=3 settle=1 pause_us=2000";
        let output = drive(&machine, test, &stress(6, 1, seconds(SHORT))).start();
        expect_undisturbed(&output, 6);
        expect_unplugged(&output, seconds(SHORT));
    }
}

#[test]
fn the_last_pcpu_stays() {
    let output = drive("pcpus = 1", "unplug pcpus=1", &stress(2, 1, 4)).start();
    expect_undisturbed(&output, 2);
    output.require(output.said("unplug", "unplugged") == 0, || {
        "it was unplugged".into()
    });
    let why = "pool0 has no pCPUs but 0, and needs at least one";
    output.require(output.log.contains(why), || "it does not say why".into());
}

#[test]
fn policies_take_over_ten_times_a_second() {
    let output = drive(
        "pcpus = 4",
        "swap-policies",
        &stress(16, 1, seconds(MINUTE)),
    )
    .start();
    expect_undisturbed(&output, 16);
    let swaps = output.said("swap-policies", "swaps");
    output.require(swaps >= 8 * seconds(MINUTE), || {
        format!("only {swaps} swaps")
    });
}

/// What is typed reaches a guest wherever the interrupt of the serial line goes meanwhile.
#[test]
fn what_is_typed_arrives_while_pcpus_come_and_go() {
    if !runs_long_tests() {
        return;
    }
    let load = "guest = \"linux\"\nmemory = \"512M\"\nvcpus = 2";
    let test = "unplug pcpus=2 settle=1 pause_us=3000";
    let mut run = drive("pcpus = 2", test, load).option("--input", "load");
    let mut prompt = String::from("guest /root # ");
    for number in 0..20 {
        run = run.type_after(&prompt, &format!("echo answer$(({number} + 100))\n"));
        prompt = format!("\n[load] answer{}", number + 100);
    }
    let output = run.type_after(&prompt, "poweroff\n").start();
    output.expect_exit(0);
    expect_unplugged(&output, 10);
}

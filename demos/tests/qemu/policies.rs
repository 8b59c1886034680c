//! Scheduling policies on the machine: shares and caps by counting instructions, everything else on as many threads as QEMU has.

use trapline_sched::policies::NAMES;

use crate::harness::{Output, Run, is_full_tier, runs_long_tests};

/// Four pCPUs under `policy`, with what it has to know of `guests`.
fn under(policy: &str, guests: &[&str]) -> String {
    let machine = format!("pcpus = 4\npolicy = \"{policy}\"\n");
    // A third of the time is nobody's.
    let windows = guests.iter().map(|guest| {
        let gap = "[[window]]\npcpus = \"0-3\"\nus = 1000\n";
        format!("[[window]]\npcpus = \"0-3\"\nvm = \"{guest}\"\nus = 2000\n{gap}")
    });
    let windows = windows.filter(|_| policy == "table");
    machine + &windows.collect::<String>()
}

/// A guest with so many vCPUs, which under `pinned` has the pCPUs from `first` to `last` for itself.
fn guest(policy: &str, name: &str, vcpus: usize, [first, last]: [usize; 2], more: &str) -> String {
    let pcpus = (first..=last).cycle().take(vcpus);
    let lists: Vec<String> = pcpus.map(|pcpu| format!("\"{pcpu}\"")).collect();
    let affinity = match policy {
        "pinned" => format!("affinity = [{}]\n", lists.join(", ")),
        _ => String::new(),
    };
    format!("[[vm]]\nname = \"{name}\"\nvcpus = {vcpus}\n{affinity}{more}\n")
}

/// A guest whose CPUs are busy for half a second, and say how much they did.
fn busy(name: &str, vcpus: usize, more: &str) -> String {
    format!(
        "[[vm]]
name = \"{name}\"
guest = \"bench-guest\"
memory = 64
vcpus = {vcpus}
append = \"figures=work milliseconds=500 after=150\"
{more}
"
    )
}

/// How much the busy guest `name` did.
fn work_of(output: &Output, name: &str) -> f64 {
    number_after(output, name, "WORK ")
}

/// How much guest `name` did, as the line that begins with `marker` says.
fn number_after(output: &Output, name: &str, marker: &str) -> f64 {
    // A guest that is alone has no name before its lines.
    let start = format!("[{name}] ");
    let line = output.console.lines().find_map(|line| {
        let line = line.strip_prefix(&start).unwrap_or(line);
        line.strip_prefix(marker)
    });
    let count = line.and_then(|line| {
        let field = line
            .split(' ')
            .find_map(|word| word.strip_prefix("iterations="))?;
        field.parse().ok()
    });
    output.require(count.is_some(), || {
        format!("{name} does not say what it did")
    });
    count.unwrap_or_default()
}

/// Counts what the guests of `text` do.
fn count(text: &str) -> Output {
    let output = Run::described(text).icount().deadline(120).start();
    output.expect_exit(0);
    output.expect_no_exit_allocation();
    output
}

#[track_caller]
fn expect_ratio(output: &Output, ratio: f64, expected: f64) {
    output.require((ratio / expected - 1.0).abs() <= 0.03, || {
        format!("a ratio of {ratio:.3} instead of {expected:.3}")
    });
}

fn expect_shares_by_weight(policy: &str) {
    let guests = [("a", 500), ("b", 1000), ("c", 2000)];
    let guests = guests.map(|(name, weight)| busy(name, 1, &format!("weight = {weight}")));
    let machine = format!("pcpus = 1\npolicy = \"{policy}\"\nslice_us = 1000\n");
    let output = count(&(machine + &guests.concat()));
    let [a, b, c] = ["a", "b", "c"].map(|name| work_of(&output, name));
    expect_ratio(&output, b / a, 2.0);
    expect_ratio(&output, c / a, 4.0);
}

#[test]
fn fair_shares_go_by_weight() {
    expect_shares_by_weight("fair");
}

#[test]
fn credit_shares_go_by_weight() {
    expect_shares_by_weight("credit");
}

/// How often eight vCPUs on four pCPUs take a lock, waiting for it as `wait` says. Who holds it when a turn ends is chance, so there
/// are many turns; and turns are long, so that spinning through one costs much.
fn locks(lock: &str, wait: &str) -> (Output, f64) {
    let text = format!(
        "pcpus = 4
policy = \"fair\"
slice_us = 5000

[[vm]]
name = \"a\"
guest = \"bench-guest\"
memory = 64
vcpus = 8
append = \"figures=spin lock={lock} wait={wait} milliseconds=200\"
"
    );
    let output = count(&text);
    output.expect_absent("BENCH ERROR");
    let rounds = number_after(&output, "a", "SPIN ");
    (output, rounds)
}

#[test]
fn who_yields_to_the_holder_of_a_lock_takes_it_more_often() {
    let (_, spinning) = locks("ticket", "spin");
    for wait in ["directed", "state"] {
        let (output, yielding) = locks("ticket", wait);
        output.require(yielding > 2.0 * spinning, || {
            format!("{yielding} rounds instead of {spinning}")
        });
    }
}

#[test]
fn a_cap_holds_on_an_idle_machine() {
    let work = |cap: &str| {
        let machine = "pcpus = 2\npolicy = \"credit\"\nslice_us = 1000\n".to_owned();
        let output = count(&(machine + &busy("a", 2, cap)));
        let work = work_of(&output, "a");
        (output, work)
    };
    let ((_, free), (output, capped)) = (work(""), work("cap = 50"));
    expect_ratio(&output, free / capped, 4.0);
}

/// What part of the time of all four pCPUs that vCPUs took was on the last two.
fn part_on_the_last_two(vcpus: usize, more: &str) -> (Output, f64) {
    let machine = "pcpus = 4\npolicy = \"round-robin\"\nslice_us = 1000\n".to_owned();
    let output = count(&(machine + &busy("a", vcpus, more)));
    let times = output.column("pcpus", "busy_ticks");
    let all: u64 = times.iter().sum();
    let part = times[2..].iter().sum::<u64>() as f64 / all as f64;
    (output, part)
}

#[test]
fn vcpus_run_on_the_pcpus_they_prefer_as_long_as_none_has_to_wait_for_that() {
    let preferring = "soft_affinity = \"2-3\"";
    let (output, anywhere) = part_on_the_last_two(2, "");
    output.require(anywhere < 0.6, || format!("{anywhere:.3} by chance"));
    let (output, preferred) = part_on_the_last_two(2, preferring);
    output.require(preferred > 0.98, || format!("only {preferred:.3}"));
    let (output, of_four) = part_on_the_last_two(4, preferring);
    output.require((0.45..0.55).contains(&of_four), || {
        format!("{of_four:.3} with two more vCPUs than pCPUs that they prefer")
    });
}

#[test]
fn a_reservation_is_kept_beside_sixteen_busy_vcpus() {
    let machine = "pcpus = 1\npolicy = \"deadline\"\nslice_us = 1000\n";
    let alone = count(&(machine.to_owned() + &busy("a", 1, "")));
    let reserved = busy("a", 1, "budget_us = 2000\nperiod_us = 10000");
    let beside = count(&(machine.to_owned() + &reserved + &busy("others", 16, "")));
    // A fifth, and its turns in what is left over.
    let share = work_of(&beside, "a") / work_of(&alone, "a");
    beside.require((0.195..0.27).contains(&share), || {
        format!("it got {share:.3}")
    });
}

/// How often a vCPU that computes 1.9 ms in each 10 ms is late beside 16 busy ones, of 50 times.
fn missed_periods(policy: &str, reservation: &str) -> u64 {
    let periodic = format!(
        "[[vm]]
name = \"periodic\"
guest = \"bench-guest\"
memory = 64
append = \"figures=periods work_us=1900 period_us=10000 count=50\"
{reservation}
"
    );
    let machine = format!("pcpus = 1\npolicy = \"{policy}\"\nslice_us = 1000\n");
    let output = count(&(machine + &periodic + &busy("others", 16, "")));
    let line = output
        .console
        .lines()
        .find(|line| line.contains("PERIODS count=50"));
    let missed = line.and_then(|line| {
        let missed = line
            .split(' ')
            .find_map(|word| word.strip_prefix("missed="))?;
        missed.parse().ok()
    });
    output.require(missed.is_some(), || {
        "it does not say how often it was late".into()
    });
    missed.unwrap_or_default()
}

#[test]
fn a_deadline_vcpu_misses_nothing_beside_sixteen_busy_ones() {
    assert_eq!(
        missed_periods("deadline", "budget_us = 2000\nperiod_us = 10000"),
        0
    );
    // So the machine is busy enough for it to matter.
    assert!(missed_periods("round-robin", "") > 40);
}

/// For how many thousandths of the time both vCPUs of a VM ran or none, beside another VM of two on two pCPUs.
fn together(policy: &str) -> u64 {
    let driver = "[[vm]]
name = \"driver\"
guest = \"test-guest\"
memory = 16
append = \"test=together\"
";
    let machine = format!("pcpus = 2\npolicy = \"{policy}\"\nslice_us = 2000\n");
    let text = machine + driver + &busy("gang", 2, "") + &busy("others", 2, "");
    let run = Run::described(&text).hypervisor("test-hypervisor").icount();
    let output = run.deadline(120).start();
    output.expect_exit(0);
    output.said("together", "permille")
}

#[test]
fn a_gang_runs_together_or_not_at_all() {
    let permille = together("gang");
    assert!(permille >= 950, "{permille} thousandths of the time");
    // Others do not do so by chance.
    if runs_long_tests() {
        let by_chance = together("fair");
        assert!(by_chance < 900, "{by_chance} thousandths of the time");
    }
}

#[test]
fn pinned_vcpus_that_are_alone_never_exit() {
    let text = "pcpus = 2
policy = \"pinned\"
[[vm]]
name = \"alone\"
guest = \"test-guest\"
memory = 16
vcpus = 2
affinity = [\"0\", \"1\"]
append = \"test=alone\"
";
    let output = Run::described(text).hypervisor("test-hypervisor").start();
    output.expect_exit(0);
    output.expect_in_order(["TEST alone PASS busy=0 waiting=0"]);
    let switches = output.column("pcpus", "switches");
    output.require(switches == [1, 1], || format!("switches: {switches:?}"));
}

#[test]
fn a_window_is_nobody_elses() {
    let windows = "[[window]]\npcpus = \"0\"\nvm = \"a\"\nus = 3000\n\
                   [[window]]\npcpus = \"0\"\nvm = \"b\"\nus = 1000\n";
    let machine = format!("pcpus = 1\npolicy = \"table\"\n{windows}");
    let output = count(&(machine + &busy("a", 1, "") + &busy("b", 3, "")));
    expect_ratio(&output, work_of(&output, "a") / work_of(&output, "b"), 3.0);
}

#[test]
fn sixteen_vcpus_on_four_pcpus_lose_nothing_under_any_policy() {
    let is_in_tier = |name: &&str| runs_long_tests() || *name == "fair";
    for policy in NAMES.into_iter().filter(is_in_tier) {
        let more = "guest = \"stress\"\nmemory = \"64M\"\nappend = \"seconds=2\"";
        let text = under(policy, &["a"]) + &guest(policy, "a", 16, [0, 3], more);
        let output = Run::described(&text).deadline(120).start();
        output.expect_exit(0);
        output.expect_in_order(["STRESS PASS vcpus=16"]);
        output.expect_no_exit_allocation();
    }
}

#[test]
fn two_linux_guests_boot_under_any_policy() {
    if !is_full_tier() {
        return;
    }
    for policy in NAMES {
        let more = "guest = \"linux\"\nmemory = \"512M\"";
        let machine = under(policy, &["left", "right"]);
        let left = guest(policy, "left", 4, [0, 1], more);
        let right = guest(policy, "right", 4, [2, 3], more);
        let output = Run::described(&(machine + &left + &right))
            .deadline(180)
            .start();
        output.expect_exit(0);
        for name in ["left", "right"] {
            output.expect_in_order([format!("[{name}] trapline: workload ok").as_str()]);
        }
    }
}

#[test]
fn a_policy_of_ones_own_takes_over_while_guests_run() {
    let run = Run::stress().vcpus(8).pcpus(2).hypervisor("example-policy");
    let output = run.option("--seconds", 2).deadline(120).start();
    output.expect_exit(0);
    output.expect_in_order(["STRESS PASS vcpus=8"]);
    let said = output.log.contains("policy lottery takes over");
    output.require(said, || "the lottery did not take over".into());
}

/// Who runs next is drawn: what the heavier one gets is a matter of chance, within four standard deviations of so many draws.
#[test]
fn a_lottery_shares_by_weight_as_far_as_chance_allows() {
    // One draw for each millisecond, which is how long a winner runs.
    let draws = 1000.0;
    let guests = [("a", 1000), ("b", 2000)];
    let guests = guests.map(|(name, weight)| busy(name, 1, &format!("weight = {weight}")));
    let guests = guests
        .concat()
        .replace("milliseconds=500", "milliseconds=1000");
    let text = format!("pcpus = 1\npolicy = \"fair\"\n{guests}");
    let run = Run::described(&text).hypervisor("example-policy").icount();
    let output = run.deadline(120).start();
    output.expect_exit(0);
    output.expect_no_exit_allocation();
    // Of two draws one after the other that many have different winners.
    let (share, alternations) = (2.0 / 3.0, 4.0 / 9.0);
    let switches = output.column("pcpus", "switches")[0] as f64;
    output.require(switches > 0.8 * alternations * draws, || {
        format!("only {switches} switches: winners run for too long")
    });
    let [a, b] = ["a", "b"].map(|name| work_of(&output, name));
    let error = b / (a + b) - share;
    let deviation = (share * (1.0 - share) / draws).sqrt();
    output.require(error.abs() <= 4.0 * deviation, || {
        format!("it is off by {error:.3}, and the standard deviation is {deviation:.3}")
    });
}

/// Weights count among the guests of a pool only, under its own policy.
#[test]
fn pools_keep_what_each_guest_shall_get() {
    let pools = "pcpus = 2
policy = \"fair\"
slice_us = 1000

[[pool]]
name = \"upper\"
pcpus = \"1\"
policy = \"credit\"

";
    let guests = [
        busy("a", 1, "weight = 500"),
        busy("b", 1, "weight = 1000"),
        busy("c", 1, "weight = 4000\npool = \"upper\""),
        busy("d", 1, "weight = 2000\npool = \"upper\""),
    ];
    let output = count(&(String::from(pools) + &guests.concat()));
    let [a, b, c, d] = ["a", "b", "c", "d"].map(|name| work_of(&output, name));
    expect_ratio(&output, b / a, 2.0);
    expect_ratio(&output, c / d, 2.0);
    expect_ratio(&output, (c + d) / (a + b), 1.0);
}

#[test]
fn two_pools_pass_stress_at_once() {
    let text = "pcpus = 4

[[pool]]
name = \"gangs\"
pcpus = \"2-3\"
policy = \"gang\"

[[vm]]
name = \"a\"
guest = \"stress\"
vcpus = 6

[[vm]]
name = \"b\"
guest = \"stress\"
vcpus = 4
pool = \"gangs\"
";
    let output = Run::described(text).deadline(120).start();
    output.expect_exit(0);
    let passes = output.console.matches("STRESS PASS").count();
    output.require(passes == 2, || format!("{passes} guests of 2 have passed"));
}

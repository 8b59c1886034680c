mod actions;

use std::{fs, path::PathBuf};

use trapline_sched::sim::{Action, Spread, When, Workload};

use super::*;
use crate::host::{failure::BAD_INPUT, places};

/// A machine with four pCPUs and whatever else.
fn machine(rest: &str) -> String {
    format!("duration_ms = 100\n{rest}\n[topology]\npcpus = 4\n")
}

/// One VM with these keys.
fn vm(keys: &str) -> String {
    format!("[[vm]]\nname = \"a\"\n{keys}\n")
}

fn parse(text: &str) -> Result<ScenarioFile> {
    ScenarioFile::parse(text, "s.toml")
}

/// It is refused, here or by its policy, with a line that has all `parts`.
#[track_caller]
fn refused(text: &str, parts: &[&str]) {
    let scenario = parse(text).and_then(|file| file.scenario(file.policy(), None));
    let failure = scenario.expect_err("it is wrong");
    assert_eq!(failure.status, BAD_INPUT);
    let said = failure.to_string();
    for part in parts {
        assert!(said.contains(part), "`{part}` is not in `{said}`");
    }
}

const BUSY: &str = "workload = \"cpu-bound\"";

#[test]
fn a_scenario_says_what_there_is() {
    let text = "\
duration_ms = 100
warm_up_ms = 10
policy = \"fair\"
policy_options.slice_us = 2000
topology = { pcpus = 8, pcpus_per_cluster = 4 }
costs = { switch_ns = 1, migration_far_ns = 7 }

[[vm]]
name = \"a\"
vcpus = 3
count = 2
affinity = \"0-1\"
soft_affinity = \"1-2\"
weight = 300
slice_us = 500
start_ms = 5
workload = { kind = \"sleeper\", work_us = \"50-150\", wait_ms = 2 }

[[vm]]
name = \"b\"
priority = 9
budget_us = 100
period_us = 1000
workload = { kind = \"spin-lock\", outside_us = 10, inside_ns = 500, directed_yield_us = 20 }

[[action]]
do = \"pause\"
vm = \"a\"
at_ms = 20
every_ms = 40

[[action]]
do = \"migrate\"
vm = \"a-1\"
vcpu = 2
pcpu = 1
every_ms = 3
";
    let file = parse(text).expect("a good file");
    let scenario = file.scenario(file.policy(), None).expect("it can be kept");
    assert_eq!((scenario.duration, scenario.warm_up), (100 * MS, 10 * MS));
    let Topology {
        pcpus,
        pcpus_per_cluster,
    } = scenario.topology;
    assert_eq!((pcpus, pcpus_per_cluster), (8, 4));
    assert_eq!(
        (scenario.costs.switch, scenario.costs.exit),
        (1, COSTS.exit)
    );
    assert_eq!(scenario.costs.migration_far, 7);
    let options = &scenario.policy.options;
    assert_eq!((options.slice_ticks, options.max_vcpus), (2_000_000, 7));
    let names: Vec<&str> = scenario.vms.iter().map(|vm| vm.name.as_str()).collect();
    assert_eq!(names, ["a-0", "a-1", "b"]);
    let (first, last) = (&scenario.vms[0], &scenario.vms[2]);
    let (least, most, wait) = (50_000, 150_000, 2_000_000);
    assert_eq!(
        first.workload,
        Workload::Sleeper {
            work: Spread { least, most },
            wait: Spread {
                least: wait,
                most: wait
            },
        }
    );
    assert_eq!(first.entitlement.weight.get(), 300);
    assert_eq!(first.entitlement.slice, Some(500_000));
    assert_eq!(first.affinity, Some(PcpuSet::all(2)));
    assert_eq!(first.preferred.to_string(), "1-2");
    assert!(last.preferred.is_empty());
    assert_eq!((first.start, last.start), (5 * MS, 0));
    let groups: Vec<usize> = scenario
        .vms
        .iter()
        .map(|vm| vm.entitlement.group.index())
        .collect();
    assert_eq!(groups, [0, 1, 2]);
    let reservation = last.entitlement.reservation.expect("it is given");
    assert_eq!(
        (reservation.budget(), reservation.period()),
        (100_000, 1_000_000)
    );
    let times: Vec<_> = scenario.actions.iter().map(|action| action.when).collect();
    let at = |first, every| When::At {
        first: first * MS,
        every: Some(every * MS),
    };
    assert_eq!(times, [at(20, 40), at(20, 40), at(3, 3)]);
    let [Action::Migrate { vm, vcpu, to }] = scenario.actions[2].choices[..] else {
        panic!("it is a migration");
    };
    assert_eq!((vm, vcpu, to.index()), (1, 2, 1));
    let short = file
        .scenario("credit", Some(10 * MS))
        .expect("it can be kept");
    assert_eq!((short.duration, short.warm_up), (10 * MS, 5 * MS));
    assert_eq!(short.policy.name, "credit");
}

#[test]
fn numbers_out_of_range_are_refused_with_their_line() {
    for (keys, parts) in [
        (
            "weight = 0",
            &["s.toml:7: weight of vm `a`", "give 1 to 10000"][..],
        ),
        ("weight = 10001", &["10001 is out of range"]),
        ("cap = 401", &["401 is out of range", "give 1 to 400"]),
        ("cap = 0", &["give 1 to 400"]),
        ("vcpus = 0", &["give 1 to 65535"]),
        (
            "count = 300\nvcpus = 300",
            &["90000 vCPUs together", "at most 65535"],
        ),
        (
            "budget_us = 200\nperiod_us = 100",
            &["a budget of 200 us in a period of 100 us"],
        ),
        ("budget_us = 200", &["a budget without a period"]),
        ("priority = 256", &["give 0 to 255"]),
        ("affinity = \"3-4\"", &["`3-4` is not among the 4 pCPUs"]),
        ("affinity = \"x\"", &["a pCPU list looks like"]),
        ("start_ms = 101", &["give 0 to 100"]),
        ("slice_us = 1", &["give 50 to"]),
        (
            "wieght = 1",
            &["unknown key `wieght`", "did you mean `weight`"],
        ),
    ] {
        refused(&(machine("") + &vm(&format!("{keys}\n{BUSY}"))), parts);
    }
    for (head, parts) in [
        (
            "duration_ms = 0",
            &["s.toml:1: duration_ms", "give 1 to 3600000"][..],
        ),
        (
            "duration_ms = 9\nwarm_up_ms = 9",
            &["s.toml:2: warm_up_ms", "give 0 to 8"],
        ),
        ("warm_up_ms = 9", &["missing field `duration_ms`"]),
        (
            "duration_ms = 9\npolicy = \"lottery\"",
            &["s.toml:2: policy", "choose one of round-robin"],
        ),
        (
            "duration_ms = 9\npolicy = \"fair\"\npolicy_options.period_us = 500",
            &["policy `fair` has no option `period_us`"],
        ),
        (
            "duration_ms = 9\npolicy = \"table\"",
            &["the policy table needs a table"],
        ),
        (
            "duration_ms = 9\ncosts.switch_ns = -1",
            &["s.toml:2: costs.switch_ns", "give 0 to"],
        ),
    ] {
        let text = format!("{head}\n[topology]\npcpus = 4\n{}", vm(BUSY));
        refused(&text, parts);
    }
    let pcpus = |count: u32| format!("duration_ms = 9\n[topology]\npcpus = {count}\n{}", vm(BUSY));
    refused(
        &pcpus(1025),
        &["s.toml:3: topology.pcpus", "give 1 to 1024"],
    );
    refused(&pcpus(0), &["give 1 to 1024"]);
    assert!(parse(&pcpus(1024)).is_ok());
    refused(&machine(""), &["there is no VM"]);
    refused(
        &(machine("") + &vm(BUSY) + &vm(BUSY)),
        &["s.toml:9", "two VMs have the name `a`"],
    );
    refused(
        &(machine("") + "[[vm]]\nname = \"a b\"\n" + BUSY),
        &["`a b` is no name"],
    );
}

#[test]
fn a_workload_gets_what_it_needs_and_nothing_else() {
    for (workload, parts) in [
        (
            "\"idle\"",
            &[
                "unknown workload `idle`",
                "choose one of cpu-bound, periodic",
            ][..],
        ),
        ("{ work_us = 5 }", &["missing field `kind`"]),
        ("5", &["cpu-bound"]),
        ("\"periodic\"", &["workload `periodic` needs period_us"]),
        (
            "{ kind = \"periodic\", period_us = 5, work = 3 }",
            &["workload.work of vm `a`", "does not say its unit"],
        ),
        (
            "{ kind = \"periodic\", period_us = \"5-6\", work_us = 3 }",
            &["period is a range"],
        ),
        (
            "{ kind = \"cpu-bound\", work_us = 3 }",
            &["workload `cpu-bound` has no key `work_us`", "it has none"],
        ),
        (
            "{ kind = \"sleeper\", work_us = 0, wait_us = 3 }",
            &["0 is out of range"],
        ),
        (
            "{ kind = \"sleeper\", work_us = \"9-3\", wait_us = 3 }",
            &["\"9-3\" ends before it starts"],
        ),
        (
            "{ kind = \"sleeper\", work_us = \"few\", wait_us = 3 }",
            &["\"few\" is no time"],
        ),
        (
            "{ kind = \"sleeper\", work_us = 3, work_ms = 3, wait_us = 3 }",
            &["work is given twice"],
        ),
        (
            "{ kind = \"sleeper\", work_s = 3601, wait_us = 3 }",
            &["give 1 to 3600"],
        ),
        (
            "{ kind = \"sleeper\", work_us = 3, wait_us = 3, wiat_us = 3 }",
            &["has no key `wiat_us`", "did you mean `wait_us`"],
        ),
        (
            "{ kind = \"ipi-storm\", work_us = 3, to_all = 1 }",
            &["1 is not true or false"],
        ),
    ] {
        refused(
            &(machine("") + &vm(&format!("workload = {workload}"))),
            parts,
        );
    }
}

#[test]
fn what_a_policy_cannot_keep_it_refuses_itself() {
    let reserved = |count: u16| {
        let keys = format!("count = {count}\nbudget_us = 600\nperiod_us = 1000\n{BUSY}");
        machine("policy = \"deadline\"") + &vm(&keys)
    };
    refused(
        &reserved(5),
        &[
            "policy `deadline` refuses `a-4`",
            "60.0 %",
            "40.0 % left",
            "s.toml:8: budget_us of vm `a`",
        ],
    );
    let file = parse(&reserved(4)).expect("a good file");
    assert!(file.scenario("deadline", None).is_ok());
    let failure = file
        .scenario("lottery", None)
        .expect_err("there is none")
        .to_string();
    assert!(
        failure.contains("--policy") && failure.contains("choose one of"),
        "{failure}"
    );
}

#[test]
fn windows_are_for_vms_and_pcpus_that_are_there() {
    let text = |window: &str| machine("policy = \"table\"") + &vm(BUSY) + "[[window]]\n" + window;
    refused(&text("pcpus = \"4\"\nus = 100"), &["at most 4 pCPUs"]);
    refused(
        &text("pcpus = \"0\"\nvm = \"b\"\nus = 100"),
        &["there is no guest `b`"],
    );
    let file = parse(&text("pcpus = \"0-3\"\nvm = \"a\"\nus = 100")).expect("a good file");
    assert!(file.scenario("table", None).is_ok());
    assert!(file.scenario("fair", None).is_ok(), "others do without");
}

#[test]
fn pools_have_pcpus_a_policy_and_vms() {
    let text = machine("policy = \"fair\"\npolicy_options.slice_us = 700")
        + "[[pool]]\nname = \"rt\"\npcpus = \"3\"\npolicy = \"credit\"\npolicy_options = { period_us = 900 }\n"
        + &vm(&format!("pool = \"rt\"\n{BUSY}"))
        + "[[vm]]\nname = \"b\"\naffinity = \"1-2\"\n"
        + BUSY;
    let file = parse(&text).expect("a good file");
    let scenario = file.scenario("fair", None).expect("it can be kept");
    let pools: Vec<_> = scenario
        .pools
        .iter()
        .map(|pool| {
            let options = &pool.policy.options;
            assert_eq!(options.pcpus, pool.pcpus);
            let times = (options.slice_ticks / US, options.period_ticks / US);
            (
                &*pool.name,
                pool.pcpus.to_string(),
                &*pool.policy.name,
                times,
            )
        })
        .collect();
    assert_eq!(
        pools,
        [
            ("rest", "0-2".into(), "fair", (700, 10_000)),
            ("rt", "3".into(), "credit", (700, 900)),
        ]
    );
    let of_vms: Vec<usize> = scenario.vms.iter().map(|vm| vm.pool).collect();
    assert_eq!(of_vms, [1, 0]);
    // Another policy is for the pools that name none.
    let other = file.scenario("round-robin", None).expect("it can be kept");
    let policies: Vec<&str> = other.pools.iter().map(|pool| &*pool.policy.name).collect();
    assert_eq!(policies, ["round-robin", "credit"]);
}

#[test]
fn pools_that_make_no_sense_are_refused() {
    let text = |pool: &str, keys: &str| {
        machine("") + &format!("[[pool]]\n{pool}\n") + &vm(&format!("{keys}\n{BUSY}"))
    };
    for (pool, keys, parts) in [
        (
            "name = \"p\"\npcpus = \"4\"",
            "",
            &[
                "s.toml:7: pcpus of pool `p`",
                "`4` is not among the 4 pCPUs",
            ][..],
        ),
        (
            "name = \"p\"\npcpus = \"\"",
            "",
            &["a pCPU list looks like"],
        ),
        (
            "name = \"p\"\npcpus = \"1\"\n[[pool]]\nname = \"q\"\npcpus = \"0-1\"",
            "",
            &["`p` has pCPU 1 already", "s.toml:10: pcpus of pool `q`"],
        ),
        (
            "name = \"p\"\npcpus = \"1\"\n[[pool]]\nname = \"p\"\npcpus = \"0\"",
            "",
            &["two pools have the name `p`"],
        ),
        (
            "name = \"rest\"\npcpus = \"1\"",
            "",
            &["`rest` is no name for this pool"],
        ),
        (
            "name = \"pool0\"\npcpus = \"1\"",
            "",
            &["`pool0` is no name"],
        ),
        (
            "name = \"p\"\npcpus = \"1\"\npolicy = \"fiar\"",
            "",
            &["unknown policy `fiar`", "did you mean `fair`"],
        ),
        (
            "name = \"p\"\npcpus = \"1\"\npolicy = \"fair\"\npolicy_options.slice_us = 1",
            "",
            &[
                "s.toml:9: policy_options.slice_us of pool `p`",
                "give 50 to",
            ],
        ),
        (
            "name = \"p\"\npcpus = \"1\"",
            "pool = \"p\"\ncap = 101",
            &["101 is out of range", "give 1 to 100"],
        ),
        (
            "name = \"p\"\npcpus = \"1\"",
            "pool = \"q\"",
            &["there is no pool `q`", "pool of vm `a`", "rest, p"],
        ),
        (
            "name = \"p\"\npcpus = \"0-3\"",
            "",
            &[
                "it has no pool, and every pCPU is in one",
                "choose one of p",
            ],
        ),
        (
            "name = \"p\"\npcpus = \"1\"",
            "pool = \"p\"\naffinity = \"1-2\"",
            &["pcpu2 is not in its pool `p`, which has pCPUs 1"],
        ),
        (
            "name = \"p\"\npcpus = \"1\"\npolicy = \"deadline\"",
            "pool = \"p\"\nvcpus = 2\nbudget_us = 600\nperiod_us = 1000",
            &["policy `deadline` refuses `a`", "40.0 % left"],
        ),
    ] {
        refused(&text(pool, keys), parts);
    }
}

/// The instructions of each record for a cortex-a72 in docs/bench, by name.
fn counted() -> Vec<BTreeMap<String, u64>> {
    let entry = |line: &str| {
        let (name, count) = line.split_once(' ').expect("a name and a count");
        (name.to_owned(), count.parse().expect("a count"))
    };
    let records = fs::read_dir(places::workspace().join("docs/bench")).expect("a directory");
    let paths = records.map(|record| record.expect("a file").path());
    let is_ours = |path: &PathBuf| path.to_string_lossy().contains("/cortex-a72-");
    let texts = paths.filter(is_ours).map(fs::read_to_string);
    texts
        .map(|text| text.expect("text").lines().map(entry).collect())
        .collect()
}

#[test]
fn costs_are_near_what_was_counted_and_the_guide_has_them() {
    let is_near = |cost: u64, count: u64| cost.abs_diff(count) * 20 <= count;
    let are_near = |counted: &BTreeMap<String, u64>| {
        let exit = counted["hvc_psci_version"];
        is_near(COSTS.exit, exit)
            && is_near(COSTS.switch, counted["vcpu_switch"] - 2 * exit)
            && is_near(COSTS.kick_delay, counted["sgi_running"] / 2)
    };
    let counted = counted();
    assert!(counted.iter().any(are_near), "{COSTS:?}: {counted:?}");
    let guide = places::workspace().join("docs/guide/simulator.md");
    let guide = fs::read_to_string(guide).expect("text");
    for (key, cost) in [
        ("switch_ns", COSTS.switch),
        ("exit_ns", COSTS.exit),
        ("kick_ns", COSTS.kick_delay),
        ("notice_ns", COSTS.notice),
        ("migration_near_ns", COSTS.migration_near),
        ("migration_far_ns", COSTS.migration_far),
    ] {
        let mut lines = guide.lines();
        let line = lines.find(|line| line.starts_with(&format!("| `{key}` |")));
        let line = line.expect("a line of the table");
        assert!(line.ends_with(&format!("| {cost} |")), "{line}");
    }
}

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
fn an_action_says_what_when_and_to_whom() {
    let text = |action: &str| machine("") + &vm(BUSY) + "[[action]]\n" + action;
    for (action, parts) in [
        (
            "do = \"explode\"\nat_ms = 1",
            &[
                "unknown action `explode`",
                "s.toml:9: do",
                "choose one of pause",
            ][..],
        ),
        ("do = \"pause\"\nvm = \"a\"", &["an action without a time"]),
        (
            "do = \"pause\"\nat_ms = 1",
            &["action `pause` needs a `vm`"],
        ),
        (
            "do = \"drain\"\nat_ms = 1\npcpu = 0\nvm = \"a\"",
            &["action `drain` has no `vm`"],
        ),
        (
            "do = \"pause\"\nat_ms = 1\nvm = \"b\"",
            &["there is no VM `b`"],
        ),
        (
            "do = \"pause\"\nat_ms = 101\nvm = \"a\"",
            &["give 0 to 100"],
        ),
        (
            "do = \"pause\"\nevery_ms = 0\nvm = \"a\"",
            &["give 1 to 100"],
        ),
        ("do = \"drain\"\nat_ms = 1\npcpu = 4", &["give 0 to 3"]),
        (
            "do = \"migrate\"\nat_ms = 1\npcpu = 1\nvm = \"a\"\nvcpu = 1",
            &["give 0 to 0"],
        ),
        (
            "do = \"set-weight\"\nat_ms = 1\nvm = \"a\"\nweight = 0",
            &["give 1 to 10000"],
        ),
        (
            "do = \"set-policy\"\nat_ms = 1\npolicy = \"x\"",
            &["unknown policy `x`"],
        ),
    ] {
        refused(&text(action), parts);
    }
    assert!(
        parse(&text(
            "do = \"set-policy\"\nevery_ms = 1\npolicy = \"credit\""
        ))
        .is_ok()
    );
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

#[test]
fn actions_on_pools_and_pcpus_are_checked_before_anything_runs() {
    let text = |actions: &str| {
        machine("policy = \"fair\"")
            + "[[pool]]\nname = \"p\"\npcpus = \"2-3\"\n"
            + &vm(&format!("pool = \"p\"\naffinity = \"3\"\n{BUSY}"))
            + actions
    };
    let action = |keys: &str| text(&format!("[[action]]\n{keys}"));
    for (keys, parts) in [
        (
            "do = \"unplug\"\nat_ms = 1",
            &["action `unplug` needs a `pcpu`"][..],
        ),
        ("do = \"unplug\"\nat_ms = 1\npcpu = 4", &["give 0 to 3"]),
        (
            "do = \"unplug\"\nat_ms = 1\npcpu = 3",
            &[
                "s.toml:14: do of this action",
                "what is done at 1 ms is refused: vcpu0 may run on pCPUs 3 only, and pool1 would have 2",
            ],
        ),
        (
            "do = \"plug\"\nat_ms = 1\npcpu = 2",
            &["pcpu2 is not unplugged: it belongs to pool1"],
        ),
        (
            "do = \"move-vm\"\nat_ms = 1\nvm = \"a\"\npool = \"q\"",
            &["there is no pool `q`", "rest, p"],
        ),
        (
            "do = \"move-vm\"\nat_ms = 1\nvm = \"a\"\npool = \"rest\"",
            &["vcpu0 may run on pCPUs 3 only, and pool0 would have 0-1"],
        ),
        (
            "do = \"move-pcpu\"\nat_ms = 1\npcpu = 0\nvm = \"a\"\npool = \"p\"",
            &["action `move-pcpu` has no `vm`", "give pcpu, pool"],
        ),
        (
            "do = \"create-pool\"\nat_ms = 1\npool = \"q\"\npcpus = \"0-1\"\npolicy = \"fair\"",
            &["pool0 has no pCPUs but 0-1, and needs at least one"],
        ),
        (
            "do = \"create-pool\"\nat_ms = 1\npool = \"p\"\npcpus = \"0\"\npolicy = \"fair\"",
            &["`p`"],
        ),
        (
            "do = \"create-pool\"\nat_ms = 1\npool = \"pool0\"\npcpus = \"0\"\npolicy = \"fair\"",
            &["`pool0` is no name", "s.toml:16: pool of this action"],
        ),
        (
            "do = \"create-pool\"\nat_ms = 1\npool = \"q r\"\npcpus = \"0\"\npolicy = \"fair\"",
            &["`q r` is no name", "s.toml:16: pool of this action"],
        ),
        (
            "do = \"create-pool\"\nabout_every_ms = 1\npcpus = \"0\"",
            &["action `create-pool` needs a `pool`"],
        ),
        (
            "do = \"remove-pool\"\nat_ms = 1\npool = \"p\"",
            &["pool1 still has 1 vCPUs"],
        ),
        (
            "do = \"pause\"\nvm = \"a\"\nat_ms = 1\nabout_every_ms = 2",
            &["an action at a time and by chance"],
        ),
        ("do = \"unplug\"\nabout_every_ms = 0", &["give 1 to 100"]),
    ] {
        refused(&action(keys), parts);
    }
    let by_chance = "[[action]]\ndo = \"move-vm\"\nabout_every_ms = 3\n[[action]]\ndo = \"plug\"\nabout_every_ms = 4\n";
    let file = parse(&text(by_chance)).expect("a good file");
    let scenario = file.scenario("fair", None).expect("chance decides later");
    let choices: Vec<usize> = scenario
        .actions
        .iter()
        .map(|action| action.choices.len())
        .collect();
    assert_eq!(choices, [2, 4], "one VM in two pools, four pCPUs");
    let mean = 3 * MS;
    assert_eq!(scenario.actions[0].when, When::ByChance { mean });
}

#[test]
fn an_action_by_chance_with_nothing_to_choose_from_is_refused() {
    let text = |action: &str| {
        machine("")
            + &vm(&format!("vcpus = 2\naffinity = \"1\"\n{BUSY}"))
            + "[[action]]\ndo = \"migrate\"\n"
            + action
    };
    let nobody = &[
        "there is no such vCPU that may run there",
        "s.toml:11: do of this action",
    ];
    for action in [
        "vm = \"a\"\npcpu = 0\nabout_every_ms = 5",
        "pcpu = 0\nabout_every_ms = 5",
        "vcpu = 50\nabout_every_ms = 5",
        "vcpu = 2\npcpu = 1\nabout_every_ms = 5",
        "vm = \"a\"\nvcpu = 0\npcpu = 0\nat_ms = 5",
    ] {
        refused(&text(action), nobody);
    }
    let file = parse(&text("about_every_ms = 5")).expect("a good file");
    let choices = &file.scenario.actions[0].choices;
    assert_eq!(choices.len(), 2, "two vCPUs, one pCPU");
}

#[test]
fn an_action_by_chance_is_one_of_not_too_many() {
    let text = |pcpus: u16, vm_keys: &str, action: &str| {
        format!("duration_ms = 100\n[topology]\npcpus = {pcpus}\n")
            + &vm(&format!("{vm_keys}\n{BUSY}"))
            + "[[action]]\nabout_every_ms = 5\n"
            + action
    };
    let migrate = "do = \"migrate\"";
    let choices = |text: &str| {
        let file = parse(text).expect("a good file");
        file.scenario.actions[0].choices.len()
    };
    let refused = |text: &str, count: &str| {
        let what = format!("{count} different actions");
        refused(text, &[&what, "do of this action", "at most 4096"]);
    };
    assert_eq!(choices(&text(4, "vcpus = 1024", migrate)), 4096);
    refused(&text(4, "vcpus = 1025", migrate), "4100");
    refused(&text(4, "vcpus = 5\ncount = 205", migrate), "4100");
    let near = "vcpus = 2048\naffinity = \"1-2\"";
    assert_eq!(choices(&text(4, near, migrate)), 4096);
    let one = "do = \"migrate\"\nvcpu = 65534";
    assert_eq!(choices(&text(4, "vcpus = 65535", one)), 4);
    let create = "do = \"create-pool\"\npool = \"p\"";
    let fair = format!("{create}\npolicy = \"fair\"");
    assert_eq!(choices(&text(1024, "", &fair)), 1024);
    let policies = choices(&text(1, "", create));
    let text = text(1024, "", create);
    refused(&text, &(policies * 1024).to_string());
}

#[test]
fn what_hinders_all_policies_is_said_instead_of_what_chance_lacks() {
    let text = machine("policy = \"fair\"")
        + &vm(BUSY)
        + "[[window]]\npcpus = \"0\"\nus = 100\n[[action]]\ndo = \"set-policy\"\nabout_every_ms = 5\n";
    refused(&text, &["a table needs at least one window for a VM"]);
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

use super::*;

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
            "do = \"set-priority\"\nat_ms = 1\nvm = \"a\"\npriority = 256",
            &["give 0 to 255"],
        ),
        (
            "do = \"set-cap\"\nat_ms = 1\nvm = \"a\"\ncap = 401",
            &["give 1 to 400"],
        ),
        (
            "do = \"set-cap\"\nat_ms = 1\nvm = \"a\"",
            &["action `set-cap` needs a `cap`", "give vm, cap"],
        ),
        (
            "do = \"set-budget\"\nat_ms = 1\nvm = \"a\"\nbudget_us = 100",
            &["action `set-budget` needs a `period_us`"],
        ),
        (
            "do = \"set-budget\"\nat_ms = 1\nvm = \"a\"\nbudget_us = 200\nperiod_us = 100",
            &["a budget of 200 us in a period of 100 us"],
        ),
        (
            "do = \"set-budget\"\nabout_every_ms = 1\nvm = \"a\"\nbudget_us = 200",
            &["a budget without a period"],
        ),
        (
            "do = \"set-affinity\"\nat_ms = 1\nvm = \"a\"\npcpus = \"3-4\"",
            &["`3-4` is not among the 4 pCPUs"],
        ),
        (
            "do = \"set-affinity\"\nat_ms = 1\nvm = \"a\"\npcpus = \"1\"\ncap = 5",
            &["action `set-affinity` has no `cap`"],
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

#[test]
fn what_a_vm_shall_get_can_change() {
    let text = |actions: &str| {
        machine("policy = \"deadline\"") + &vm(&format!("vcpus = 2\n{BUSY}")) + actions
    };
    let action = |keys: &str| format!("[[action]]\nvm = \"a\"\n{keys}\n");
    let all = [
        "do = \"set-priority\"\npriority = 7\nat_ms = 1",
        "do = \"set-cap\"\ncap = 50\nat_ms = 1",
        "do = \"set-budget\"\nbudget_us = 200\nperiod_us = 500\nat_ms = 1",
        "do = \"set-affinity\"\npcpus = \"1-2\"\nat_ms = 1",
    ];
    let file = parse(&text(&all.map(action).concat())).expect("a good file");
    let scenario = file.scenario("deadline", None).expect("it can be kept");
    let done = scenario
        .actions
        .iter()
        .map(|spec| spec.choices[0].to_string());
    assert_eq!(
        done.collect::<Vec<_>>(),
        [
            "gives VM 0 priority 7",
            "gives VM 0 a cap of 50",
            "reserves 200000 ns of every 500000 for VM 0",
            "lets VM 0 run on 1-2",
        ]
    );
    // Two of them do not fit on one pCPU, and what is refused there has its line.
    let pin = action("do = \"set-affinity\"\npcpus = \"1\"\nat_ms = 1");
    let reserve = action("do = \"set-budget\"\nbudget_us = 300\nperiod_us = 500\nat_ms = 2");
    let what = "what is done at 2 ms is refused: vcpu1: ";
    refused(
        &text(&(pin + &reserve)),
        &[what, "s.toml:16: do of this action"],
    );
    let drawn = ["set-priority", "set-cap", "set-budget", "set-affinity"].map(|kind| {
        let text = text(&action(&format!("do = \"{kind}\"\nabout_every_ms = 5")));
        let file = parse(&text).expect("a good file");
        file.scenario.actions[0].choices.len()
    });
    assert_eq!(drawn, [3, 4, 6, 5], "as many as chance has, and five sets");
}

#[test]
fn who_prefers_pcpus_names_some_that_there_are() {
    let text = |list: &str| machine("") + &vm(&format!("soft_affinity = \"{list}\"\n{BUSY}"));
    refused(
        &text("4"),
        &["`4` is not among the 4 pCPUs", "soft_affinity"],
    );
    assert!(parse(&text("2-3")).is_ok());
}

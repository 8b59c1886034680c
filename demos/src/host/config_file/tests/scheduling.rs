//! What a file says of who shares which pCPUs, and how.

use super::*;
use crate::config::EntitlementConfig;

const SHARED: &str = r#"
policy = "table"
[[window]]
pcpus = "0-1"
vm = "second"
us = 3000
[[window]]
pcpus = "1"
us = 500
[[vm]]
name = "first"
guest = "linux"
slice_us = 700
cap = 150
priority = 7
halt_poll_us = 200
budget_us = 2000
period_us = 5000
[[vm]]
name = "second"
guest = "stress"
"#;

#[test]
fn a_file_says_what_vcpus_shall_get() {
    let config = parse(SHARED, Path::new("x.toml")).expect("a good file");
    assert_eq!(
        config.vms[0].guest.entitlement,
        EntitlementConfig {
            weight: 1024,
            slice_us: Some(700),
            cap: Some(150),
            priority: 7,
            reservation_us: Some((2000, 5000)),
            halt_poll_us: Some(200),
        }
    );
    let window = |pcpus, guest, us| WindowConfig { pcpus, guest, us };
    assert_eq!(
        config.machine.windows,
        [window(0b11, Some(1), 3000), window(0b10, None, 500)]
    );
    let credit = "policy = \"credit\"\npolicy_options.period_us = 4000\n[[vm]]\nguest = \"linux\"";
    let config = parse(credit, Path::new("x.toml")).expect("a good file");
    assert_eq!(config.machine.period_us, Some(4000));
}

#[test]
fn what_vcpus_cannot_get_is_refused() {
    for (after, parts) in [
        (
            "halt_poll_us = 1001",
            ["x.toml:4: halt_poll_us of vm `linux`", "0 to 1000"],
        ),
        ("cap = 0", ["x.toml:4: cap of vm `linux`", "1 to 6400"]),
        ("priority = 256", ["x.toml:4: priority", "0 to 255"]),
        (
            "budget_us = 2000",
            ["x.toml:4: budget_us", "without a period"],
        ),
        (
            "period_us = 2000",
            ["x.toml:4: period_us", "without a budget"],
        ),
        (
            "budget_us = 2001\nperiod_us = 2000",
            ["a budget of 2001 us in a period of 2000 us", "x.toml:4"],
        ),
    ] {
        refuse("", after, &parts);
    }
    let window =
        |line: &str| format!("policy = \"table\"\n[[window]]\npcpus = \"0\"\nus = 500\n{line}");
    refuse(
        &window("vm = \"linu\""),
        "",
        &["no guest `linu`", "did you mean `linux`?"],
    );
    let bad = window("").replace("\"0\"", "\"x\"");
    refuse(&bad, "", &["window: `x`", "x.toml"]);
    refuse(
        &window("").replace("500", "5"),
        "",
        &["5 is out of range", "50 to"],
    );
}

const POOLS: &str = r#"
pcpus = 4

[[pool]]
name = "shared"
pcpus = "0-1"
policy = "fair"
policy_options = { slice_us = 700 }

[[pool]]
name = "real-time"
pcpus = "3"
policy = "deadline"

[[vm]]
name = "first"
guest = "stress"
pool = "real-time"
vcpus = 2

[[vm]]
name = "second"
guest = "stress"
"#;

/// The request that the file makes, as the command line completes it.
fn request_of(text: &str) -> Result<crate::host::request::Request> {
    let file = parse(text, Path::new("x.toml"))?;
    let policy = PolicyConfig::new("round-robin", 5000);
    Ok(crate::host::request::Request {
        guests: file.vms.into_iter().map(|vm| vm.guest).collect(),
        pcpus: file.machine.pcpus.unwrap_or(1).into(),
        cpu: "max".into(),
        gic: GicVersion::V3,
        pools: file
            .pools
            .into_iter()
            .map(|pool| pool.request(&policy))
            .collect(),
        policy,
        is_counting: false,
        is_bare: false,
        hypervisor: "hypervisor".into(),
        place: file.machine.place,
    })
}

#[test]
fn pools_take_their_pcpus_and_the_rest_is_one_of_its_own() {
    let (plans, of_guests) = request_of(POOLS)
        .expect("a good file")
        .pool_plans()
        .expect("good pools");
    let plans: Vec<_> = plans
        .iter()
        .map(|plan| {
            (
                plan.name.as_str(),
                plan.pcpus,
                plan.policy.name.as_str(),
                plan.policy.slice_us,
            )
        })
        .collect();
    let expected = [
        ("rest", 0b100, "round-robin", 5000),
        ("shared", 0b11, "fair", 700),
        ("real-time", 0b1000, "deadline", 5000),
    ];
    assert_eq!(plans, expected);
    assert_eq!(of_guests, [2, 0]);
    assert!(
        request_of(POOLS)
            .expect("a good file")
            .check_plain_values()
            .is_ok()
    );
}

#[test]
fn pools_that_make_no_sense_are_refused_with_their_line() {
    let refuse = |from: &str, to: &str, said: &str| {
        assert!(POOLS.contains(from), "{from}");
        let text = POOLS.replacen(from, to, 1);
        let checked = request_of(&text).and_then(|request| request.check_plain_values());
        let failure = checked.expect_err(said).to_string();
        assert!(failure.contains(said), "{failure}");
    };
    refuse(
        "\"3\"",
        "\"1-3\"",
        "x.toml:12: pcpus of pool `real-time`: give each pCPU to one pool",
    );
    refuse("\"3\"", "\"1-3\"", "`shared` has pCPU 1 already");
    refuse("\"3\"", "\"4\"", "`4` is not among the 4 pCPUs");
    refuse("\"3\"", "\"\"", "`` is no list of pCPUs");
    refuse(
        "\"real-time\"\npcpus",
        "\"shared\"\npcpus",
        "x.toml:11: name of pool `shared`",
    );
    refuse(
        "\"real-time\"\npcpus",
        "\"rest\"\npcpus",
        "`rest` is no name for this pool",
    );
    refuse("\"deadline\"", "\"lottery\"", "unknown policy `lottery`");
    refuse(
        "\"deadline\"",
        "\"lottery\"",
        "x.toml:13: policy of pool `real-time`: choose one of round-robin, pinned, fair",
    );
    refuse("slice_us", "slices", "policy `fair` has no option `slices`");
    refuse(
        "pool = \"real-time\"",
        "pool = \"fast\"",
        "there is no pool `fast`",
    );
    refuse(
        "pool = \"real-time\"",
        "pool = \"fast\"",
        "x.toml:18: pool of vm `first`: choose one of rest, shared, real-time",
    );
    refuse(
        "vcpus = 2",
        "affinity = \"2-3\"",
        "pcpu2 is not in its pool `real-time`, which has pCPUs 3",
    );
    refuse(
        "\"0-1\"",
        "\"0-2\"",
        "it has no pool, and every pCPU is in one",
    );
    refuse(
        "vcpus = 2",
        "cap = 101",
        "a cap of 101 hundredths of a pCPU, and its pool `real-time` has 100",
    );
    refuse(
        "vcpus = 2",
        "soft_affinity = \"0-1\"",
        "it prefers pCPUs 0-1, and its pool `real-time` has 3",
    );
    refuse(
        "vcpus = 2",
        "soft_affinity = \"x\"",
        "x.toml:19: soft_affinity of vm `first`",
    );
    refuse(
        "vcpus = 2",
        "vcpus = 2\nbudget_us = 600\nperiod_us = 1000",
        "policy `deadline` refuses `first`",
    );
}

use super::*;
use crate::config::EntitlementConfig;

const TWO: &str = r#"
pcpus = 2
policy = "round-robin"
timeout = 60

[policy_options]
slice_us = 2000

[[vm]]
name = "first"
guest = "linux"
vcpus = 4
memory = "1G"
affinity = ["0", "1", "0-1", "1"]
on_reset = "restart"

[[vm]]
name = "second"
kernel = "images/kernel.bin"
initrd = "/initrd"
append = "a=b"
memory = 64
affinity = "1"
weight = 300
start = false
console = "out.txt"
dtb = "own.dtb"
dma = "trusted"
[[vm.device]]
kind = "virtio-blk"
file = "disk.img"
read_only = true
[[vm.device]]
kind = "virtio-rng"
[[vm.device]]
kind = "gpio"
"#;

#[test]
fn a_file_describes_a_machine_and_its_guests() {
    let config = parse(TWO, Path::new("/configs/two.toml")).expect("a good file");
    let machine = &config.machine;
    assert_eq!(
        (machine.pcpus, machine.slice_us, machine.timeout),
        (Some(2), Some(2000), Some(60))
    );
    let [first, second] = [0, 1].map(|index| &config.vms[index].guest);
    assert_eq!(
        (first.source.clone(), first.vcpus, first.memory_mib),
        (GuestSource::Stock, 4, 1024)
    );
    assert_eq!(
        (first.affinity.len(), first.on_reset, first.starts),
        (4, OnReset::Restart, true)
    );
    assert_eq!(
        second.source,
        GuestSource::File("/configs/images/kernel.bin".into())
    );
    assert_eq!(second.initrd.as_deref(), Some(Path::new("/initrd")));
    assert!(
        second
            .dtb
            .as_ref()
            .is_some_and(|path| path.ends_with("own.dtb"))
    );
    assert_eq!(
        (second.vcpus, second.memory_mib, second.entitlement.weight),
        (1, 64, 300)
    );
    assert_eq!((second.bootargs.as_str(), second.starts), ("a=b", false));
    assert_eq!(
        config.vms[1].console,
        Some(Target::File("/configs/out.txt".into()))
    );
    let disk = Backend::Disk {
        file: "/configs/disk.img".into(),
        is_read_only: true,
    };
    assert_eq!(second.virtio, [disk, Backend::RandomNumbers]);
    assert_eq!(second.devices, [PassedDevice::Pins]);
    assert!(second.is_dma_trusted && !first.is_dma_trusted);
    assert_eq!(
        second.place.of("weight"),
        "/configs/two.toml:24: weight of vm `second`"
    );
    assert_eq!(
        second.place.of("vcpus"),
        "/configs/two.toml:17: vm `second`"
    );
}

/// A file with one guest in it, and `text` before and after.
#[track_caller]
fn refuse(before: &str, after: &str, parts: &[&str]) {
    let text = format!("{before}\n[[vm]]\nguest = \"linux\"\n{after}\n");
    let failure = parse(&text, Path::new("x.toml"))
        .expect_err(&text)
        .to_string();
    assert_eq!(failure.lines().count(), 1, "{failure}");
    for part in parts {
        assert!(failure.contains(part), "{failure}: no `{part}`");
    }
}

#[test]
fn unknown_words_come_with_a_suggestion() {
    refuse(
        "",
        "memroy = 5",
        &["unknown key `memroy`", "x.toml:4", "did you mean `memory`?"],
    );
    refuse(
        "pcpu = 5",
        "",
        &["unknown key `pcpu`", "x.toml:1", "did you mean `pcpus`?"],
    );
    refuse("colour = 5", "", &["x.toml:1", "choose one of", "slice_us"]);
    refuse(
        "",
        "on_reset = \"restrat\"",
        &["unknown value", "x.toml:4", "did you mean `restart`?"],
    );
    refuse(
        "[[vm]]\nguest = \"stres\"",
        "",
        &[
            "unknown guest `stres`",
            "x.toml:2",
            "did you mean `stress`?",
        ],
    );
    refuse(
        "[policy_options]\nslice = 5",
        "",
        &["no option `slice`", "x.toml:2", "did you mean `slice_us`?"],
    );
    refuse(
        "policy = \"pinned\"\n[policy_options]\nperiod_us = 5",
        "",
        &[
            "no option `period_us`",
            "x.toml:3",
            "choose one of slice_us",
        ],
    );
    refuse(
        "",
        "[[vm.device]]\nkind = \"floppy\"",
        &[
            "device `floppy`",
            "x.toml",
            "choose one of pl031, gpio, virtio-blk",
        ],
    );
    refuse(
        "",
        "[[vm.device]]\nkin = \"floppy\"",
        &["unknown key `kin`", "x.toml:5", "did you mean `kind`?"],
    );
    refuse("", "dma = \"yes\"", &["unknown value", "x.toml:4"]);
    refuse(
        "",
        "[[vm.device]]\nkind = \"virtio-blk\"",
        &["no file", "x.toml", "file = \"FILE\""],
    );
    refuse(
        "",
        "[[vm.device]]\nkind = \"pl031\"\nfile = \"x\"",
        &["a pl031 has no file", "leave file"],
    );
}

#[test]
fn values_of_the_wrong_type_are_refused() {
    for (after, parts) in [
        ("vcpus = \"four\"", &["x.toml:4", "string \"four\""][..]),
        ("vcpus = 4.5", &["x.toml:4", "4.5"]),
        ("name = 5", &["x.toml:4", "integer"]),
        ("memory = true", &["x.toml:4", "512M"]),
        ("memory = 0", &["x.toml:4", "512M"]),
        ("memory = \"99999999999999999G\"", &["x.toml:4", "512M"]),
        ("memory = \"12K\"", &["x.toml:4", "512M"]),
        ("affinity = 3", &["x.toml:4", "array"]),
        ("affinity = []", &["x.toml:4", "array"]),
        ("start = \"no\"", &["x.toml:4", "boolean"]),
        ("vcpus = ", &["x.toml:4"]),
        ("vcpus = 4\nvcpus = 5", &["x.toml:5", "duplicate"]),
    ] {
        refuse("", after, parts);
    }
    refuse("vm = 5\n[", "", &["x.toml"]);
    let failure = parse("vm = 5", Path::new("x.toml")).expect_err("not a table");
    assert!(failure.to_string().contains("x.toml:1"), "{failure}");
}

#[test]
fn numbers_out_of_range_are_refused() {
    for (before, after, parts) in [
        ("pcpus = 0", "", ["x.toml:1: pcpus", "1 to 64"]),
        ("pcpus = 65", "", ["x.toml:1: pcpus", "1 to 64"]),
        ("gic = 4", "", ["x.toml:1: gic", "2 to 3"]),
        ("slice_us = 1", "", ["x.toml:1: slice_us", "50 to"]),
        ("timeout = 0", "", ["x.toml:1: timeout", "1 to"]),
        (
            "policy_options.slice_us = -1",
            "",
            ["x.toml:1: policy_options.slice_us", "50 to"],
        ),
        (
            "slice_us = 99\npolicy_options.slice_us = 99",
            "",
            ["x.toml:1", "given twice"],
        ),
        (
            "",
            "vcpus = 65",
            ["x.toml:4: vcpus of vm `linux`", "1 to 64"],
        ),
        ("", "weight = -5", ["x.toml:4: weight", "1 to 10000"]),
        ("", "weight = 0", ["x.toml:4: weight", "1 to 10000"]),
        ("", "weight = 10001", ["x.toml:4: weight", "1 to 10000"]),
    ] {
        refuse(before, after, &parts);
    }
}

#[test]
fn each_guest_has_one_kernel() {
    refuse(
        "",
        "kernel = \"a\"",
        &["x.toml:3: guest of vm `linux`", "a kernel and a guest"],
    );
    refuse(
        "",
        "[[vm]]\nname = \"b\"",
        &["x.toml:4: vm `b`", "no kernel"],
    );
    for text in ["", "pcpus = 4", "# nothing"] {
        let failure = parse(text, Path::new("x.toml")).expect_err("no guest");
        assert!(
            failure
                .to_string()
                .contains("x.toml: describe at least one in a [[vm]]")
        );
    }
}

#[test]
fn what_is_no_text_is_refused() {
    let directory = tempfile::tempdir().expect("a directory for temporary files");
    let file = directory.path().join("x.toml");
    std::fs::write(&file, b"pcpus = 1 # \xff").expect("room for a file");
    for (path, said) in [
        (file.as_path(), "not text"),
        (Path::new("/dev/zero"), "longer than"),
        (directory.path(), "directory"),
        (Path::new("/nonexistent.toml"), "/nonexistent.toml"),
    ] {
        let failure = read(path).expect_err(said).to_string();
        assert!(failure.contains(said), "{failure}");
    }
}

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

mod scheduling;

use super::*;

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

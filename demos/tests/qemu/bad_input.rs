//! Bad input: one line that says what, where and what to do, status 2, and no machine starts.

use std::{
    env, fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use trapline_demos::{
    config::{GicVersion, guest_machine::RAM_BASE},
    host::device_tree,
};

use crate::harness::Run;

/// What stands in for QEMU: it answers questions, and leaves a trace when it is asked for a machine.
const FAKE_QEMU: &str = "#!/bin/sh
case \"$*\" in
    --version) echo 'QEMU emulator version 10.0.2 (fake)' ;;
    '-M virt -cpu help') printf 'Available CPUs:\\n  cortex-a72\\n  max\\n' ;;
    *) touch \"$0.started\" ;;
esac
";

struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let place = Self {
            directory: tempfile::tempdir().expect("a directory for temporary files"),
        };
        let qemu = place.file("qemu-system-aarch64", FAKE_QEMU.as_bytes());
        fs::set_permissions(qemu, fs::Permissions::from_mode(0o755)).expect("our file");
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn file(&self, name: &str, contents: &[u8]) -> String {
        let path = self.path(name);
        fs::write(&path, contents).expect("room for a file");
        path.to_string_lossy().into_owned()
    }

    /// `arguments` are refused with one line that has all `parts`.
    #[track_caller]
    fn refuse(&self, arguments: &[&str], parts: &[&str]) {
        let path = format!(
            "{}:{}",
            self.directory.path().display(),
            env::var("PATH").unwrap_or_default()
        );
        let run = arguments
            .iter()
            .fold(Run::command(), |run, argument| run.argument(argument));
        let output = run.search_path(path).start();
        output.expect_exit(2);
        let is_one_line =
            output.log.lines().count() == 1 && output.log.starts_with("trapline: error: ");
        output.require(is_one_line, || "not one line on stderr".into());
        for part in parts {
            output.require(output.log.contains(part), || {
                format!("`{part}` is not said")
            });
        }
        output.require(output.console.is_empty(), || "something on stdout".into());
        let trace = Path::new(&self.path("qemu-system-aarch64.started")).exists();
        output.require(!trace, || "QEMU was started".into());
    }
}

/// The smallest file that looks like a Linux `Image`, with room for `size` bytes in memory.
fn image(size: u64) -> Vec<u8> {
    let mut bytes = vec![0; 64];
    bytes[16..24].copy_from_slice(&size.to_le_bytes());
    bytes[56..60].copy_from_slice(b"ARM\x64");
    bytes
}

#[test]
fn bad_kernels_are_refused() {
    let place = Place::new();
    let mut x86 = b"\x7fELF\x02\x01\x01".to_vec();
    x86.resize(64, 0);
    x86[18] = 62;
    let missing = place.path("missing").to_string_lossy().into_owned();
    place.refuse(&["run", "--kernel", &missing], &["missing"]);
    place.refuse(&["run", "--kernel", "/"], &["not a file"]);
    place.refuse(&["run", "--kernel", "/dev/zero"], &["not a file"]);
    let endless = place.file("endless", b"MZ");
    let file = fs::File::options().write(true).open(&endless);
    file.expect("our file")
        .set_len(1 << 40)
        .expect("a file with a hole");
    place.refuse(&["run", "--kernel", &endless], &["larger", "--memory"]);
    for (name, contents, said) in [
        ("empty", &b""[..], "empty"),
        ("cut", &image(1 << 20)[..60], "cut off"),
        ("packed", b"\x1f\x8b\x08", "a gzip file that is cut off"),
        ("zeros", &[0; 4096], "zeros"),
        ("x86", &x86, "x86"),
    ] {
        let file = place.file(name, contents);
        place.refuse(&["run", "--kernel", &file], &[said, &file]);
    }
}

#[test]
fn bad_initial_ramdisks_are_refused() {
    let place = Place::new();
    let kernel = place.file("kernel", &image(1 << 20));
    for (name, contents) in [
        ("empty", &b""[..]),
        ("text", b"hello"),
        ("cut", b"070701000"),
    ] {
        let initrd = place.file(name, contents);
        place.refuse(
            &["run", "--kernel", &kernel, "--initrd", &initrd],
            &["initial ramdisk", &initrd],
        );
    }
    place.refuse(
        &["run", "--kernel", &kernel, "--initrd", "/nonexistent"],
        &["/nonexistent"],
    );
}

#[test]
fn bad_device_trees_are_refused() {
    let place = Place::new();
    let kernel = place.file("kernel", &image(1 << 20));
    let tree = device_tree::build(&device_tree::Guest {
        gic: GicVersion::V3,
        vcpu_count: 2,
        ram: RAM_BASE..RAM_BASE + (512 << 20),
        bootargs: "",
        initrd: None,
        transports: &[],
        seed: [0; 40],
    });
    let tree = tree.expect("a well-formed tree");
    let whole = place.file("whole.dtb", &tree);
    let cut = place.file("cut.dtb", &tree[..100]);
    let text = place.file("text.dts", b"/dts-v1/; / { };");
    let run = ["run", "--kernel", &kernel, "--vcpus", "2", "--dtb"];
    let refuse = |file: &str, more: &[&str], parts: &[&str]| {
        place.refuse(&[&run[..], &[file], more].concat(), parts);
    };
    refuse(&cut, &[], &["device tree", &cut]);
    refuse(&text, &[], &["device tree", &text]);
    refuse("/nonexistent", &[], &["/nonexistent"]);
    refuse("/dev/zero", &[], &["not a file"]);
    refuse(
        &whole,
        &["--memory", "256"],
        &["memory at", "0x40000000..0x50000000"],
    );
    place.refuse(
        &["run", "--kernel", &kernel, "--vcpus", "1", "--dtb", &whole],
        &["a CPU 0x1", "--vcpus"],
    );
    refuse(
        &whole,
        &["--gic", "2"],
        &["a `arm,gic-v3`", "arm,cortex-a15-gic"],
    );
}

#[test]
fn what_does_not_fit_is_refused() {
    let place = Place::new();
    let kernel = place.file("kernel", &image(64 << 20));
    place.refuse(
        &["run", "--kernel", &kernel, "--memory", "32"],
        &["--memory", "at least"],
    );
    place.refuse(
        &["run", "--kernel", &kernel, "--memory", "99999999"],
        &["--memory", "at most"],
    );
    place.refuse(
        &["run", "--kernel", &kernel, "--memory", "0"],
        &["--memory"],
    );
}

#[test]
fn bad_options_are_refused() {
    let place = Place::new();
    let kernel = place.file("kernel", &image(1 << 20));
    for (option, value, said) in [
        ("--vcpus", "0", "--vcpus"),
        ("--vcpus", "65", "1..=64"),
        ("--pcpus", "0", "--pcpus"),
        ("--pcpus", "65", "1..=64"),
        ("--cpu", "pentium", "cortex-a72"),
        ("--gic", "4", "2..=3"),
        ("--policy", "lottery", "round-robin"),
        ("--slice", "0", "--slice"),
        ("--affinity", "9", "--affinity"),
        ("--affinity", "0:1", "2 lists for 8 vCPUs"),
        ("--timeout", "0", "--timeout"),
        ("--frobnicate", "1", "--help"),
        ("--log", "/nonexistent/log", "/nonexistent/log"),
        ("--stats", "/nonexistent/stats", "/nonexistent/stats"),
        ("--control", "/nonexistent/socket", "/nonexistent/socket"),
        ("--control", "/", "--control"),
    ] {
        place.refuse(&["run", "--kernel", &kernel, option, value], &[said]);
    }
    for (option, said) in [("--vcpus", "9 vCPUs"), ("--pcpus", "9 pCPUs")] {
        let run = ["run", "--kernel", &kernel, "--gic", "2", option, "9"];
        place.refuse(&run, &[option, said, "GICv2 serves 8"]);
    }
    let long = "a".repeat(3000);
    place.refuse(
        &["run", "--kernel", &kernel, "--append", &long],
        &["--append"],
    );
    place.refuse(&["stress", "--seconds", "0"], &["--seconds"]);
    let taken = place.file("taken", b"mine");
    place.refuse(
        &["run", "--kernel", &kernel, "--control", &taken],
        &["is there already", "--control", &taken],
    );
    place.refuse(
        &["control", &taken, "list"],
        &["SOCKET", "--control", &taken],
    );
    place.refuse(&["control"], &["<SOCKET>"]);
    place.refuse(&["explode"], &["explode"]);
}

#[test]
fn bad_files_are_refused() {
    let place = Place::new();
    let kernel = place.file("kernel", &image(1 << 20));
    let vm = |name: &str, rest: &str| {
        format!("[[vm]]\nname = \"{name}\"\nkernel = \"kernel\"\n{rest}\n")
    };
    let both = |first: &str, second: &str| vm("a", first) + &vm("b", second);
    for (text, parts) in [
        (String::new(), &["there is no guest"][..]),
        (vm("a", "memroy = 5"), &["memroy", "bad.toml:4", "`memory`"]),
        (vm("a", "vcpus = \"two\""), &["bad.toml:4", "two"]),
        (vm("a b", ""), &["bad.toml:2", "no name"]),
        (vm("a", "") + &vm("a", ""), &["bad.toml:6", "two guests"]),
        (
            vm("a", "affinity = \"9\""),
            &["bad.toml:4: affinity of vm `a`", "4 pCPUs"],
        ),
        (
            both("memory = \"90G\"", "memory = \"400G\""),
            &["bad.toml:8: memory of vm `b`", "together"],
        ),
        (
            both("console = \"out\"", "console = \"./out\""),
            &["console of a and the console of b"],
        ),
        (vm("a", "console = \"kernel\""), &["overwrite"]),
        (vm("a", "kernel = \"x\""), &["bad.toml:4", "duplicate"]),
        (vm("a", "initrd = \"absent\""), &["absent"]),
        (vm("a", "memory = 1"), &["at least"]),
        (
            "policy = \"lottery\"\n".to_owned() + &vm("a", ""),
            &["bad.toml:1: policy", "lottery"],
        ),
        (
            "policy = \"pinned\"\n".to_owned() + &both("", "affinity = \"1\""),
            &["bad.toml:2: vm `a`", "no affinity"],
        ),
        (
            "cpu = \"pentium\"\n".to_owned() + &vm("a", ""),
            &["bad.toml:1: cpu", "cortex-a72"],
        ),
        (
            "gic = 2\n".to_owned() + &vm("a", "vcpus = 9\n"),
            &["bad.toml:5: vcpus", "give at most 8"],
        ),
    ] {
        let file = place.file("bad.toml", text.as_bytes());
        place.refuse(&["run", "--config", &file], parts);
        assert!(!place.path("out").exists(), "a file was left behind");
    }
    let file = place.file("good.toml", both("", "").as_bytes());
    for (arguments, said) in [
        (["--kernel", &kernel], "--kernel"),
        (["--vcpus", "3"], "--vcpus"),
        (["--input", "c"], "choose one of a, b"),
        (["--console", "c=pty"], "choose one of a, b"),
        (["--console", "pty"], "NAME=FILE"),
        (["--policy", "lottery"], "--policy"),
        (["--pcpus", "99"], "--pcpus"),
    ] {
        place.refuse(
            &["run", "--config", &file, arguments[0], arguments[1]],
            &[said],
        );
    }
    place.refuse(
        &["run", "--config", "/nonexistent.toml"],
        &["/nonexistent.toml"],
    );
}

#[test]
fn a_refused_run_leaves_no_file_behind() {
    let place = Place::new();
    let old = place.file("old", b"before");
    let new = place.path("new").to_string_lossy().into_owned();
    let refused = [
        "run",
        "--kernel",
        "/nonexistent",
        "--log",
        &new,
        "--stats",
        &old,
    ];
    place.refuse(&refused, &["/nonexistent"]);
    assert!(!place.path("new").exists());
    assert_eq!(fs::read(&old).expect("it is there"), b"before");
    place.refuse(
        &["run", "--log", &new, "--stats", &new],
        &["--log and --stats"],
    );
    assert!(!place.path("new").exists());
}

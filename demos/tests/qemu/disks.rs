//! virtio devices that a guest drives itself, beside another guest.

use std::{fs, path::PathBuf};

use crate::harness::{Output, Run, runs_long_tests};

const MIB: usize = 1 << 20;
/// What the disk is full of at first.
const FILL: u8 = 0xa5;

struct Disk {
    directory: tempfile::TempDir,
    path: PathBuf,
}

impl Disk {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory for temporary files");
        let path = directory.path().join("disk.img");
        fs::write(&path, vec![FILL; 16 * MIB]).expect("room for a file");
        Self { directory, path }
    }

    fn contents(&self) -> Vec<u8> {
        fs::read(&self.path).expect("our file")
    }

    /// Runs the machine that `text` describes, in which `disk.img` is this one.
    fn run(&self, text: &str) -> Run {
        let path = self.directory.path().join("vms.toml");
        fs::write(&path, text).expect("room for a file");
        Run::linux().option("--config", path.display())
    }
}

/// Runs the test guest with the disk and random numbers, and the stress guest beside it, on three pCPUs.
fn run(disk: &Disk, test: &str, more: &str) -> Output {
    run_with("3", disk, test, more)
}

/// The same with this version of the interrupt controller.
fn run_with(gic: &str, disk: &Disk, test: &str, more: &str) -> Output {
    let text = format!(
        "pcpus = 3
gic = {gic}
[[vm]]
name = \"beside\"
guest = \"stress\"
memory = \"16M\"
vcpus = 4
append = \"seconds=3\"
[[vm]]
name = \"owner\"
guest = \"test-guest\"
memory = \"64M\"
append = \"test={test} guest=1 pcpus=3\"
dma = \"trusted\"
{more}
[[vm.device]]
kind = \"virtio-blk\"
file = \"disk.img\"
[[vm.device]]
kind = \"virtio-rng\"
"
    );
    let output = disk
        .run(&text)
        .hypervisor("test-hypervisor")
        .deadline(120)
        .start();
    output.expect_exit(0);
    output.expect_in_order([format!("TEST {test} PASS").as_str()]);
    output.expect_in_order(["STRESS PASS vcpus=4"]);
    output.expect_absent("FAIL");
    output.expect_no_exit_allocation();
    output
}

#[test]
fn a_disk_is_read_and_written_wherever_its_vcpu_is() {
    let disk = Disk::new();
    let output = run(&disk, "disk-many", "");
    let requests = output.said("disk-many", "requests");
    let moves = output.said("disk-many", "moves");
    output.require(moves >= 300, || format!("only {moves} moves"));
    let contents = disk.contents();
    let (used, rest) = contents.split_at(64 * 4096);
    let is_written = used.chunks(4096).all(|place| place != [FILL; 4096]);
    output.require(is_written && requests >= 800, || {
        "not every place was written".into()
    });
    output.require(rest.iter().all(|byte| *byte == FILL), || {
        "something else was written".into()
    });
}

/// What the test guest expects of the disk is what QEMU does.
#[test]
fn the_disk_is_the_same_on_bare_qemu() {
    if !runs_long_tests() {
        return;
    }
    for test in ["disk-many", "disk-edges"] {
        let text = format!(
            "[[vm]]
guest = \"test-guest\"
append = \"test={test}\"
dma = \"trusted\"
[[vm.device]]
kind = \"virtio-blk\"
file = \"disk.img\"
[[vm.device]]
kind = \"virtio-rng\"
"
        );
        let output = Disk::new().run(&text).bare().deadline(60).start();
        output.expect_exit(0);
        output.expect_in_order([format!("TEST {test} PASS").as_str()]);
    }
}

#[test]
fn an_edge_comes_once_for_each_rise() {
    run(&Disk::new(), "disk-edges", "");
}

#[test]
fn with_gicv2_an_edge_comes_once_for_each_rise() {
    if runs_long_tests() {
        run_with("2", &Disk::new(), "disk-edges", "");
    }
}

#[test]
fn a_reset_in_the_middle_of_requests_leaves_a_disk_that_is_quiet() {
    let output = run(&Disk::new(), "disk-reset", "on_reset = \"restart\"");
    output.expect_in_order(["[owner] test: life 1", "[owner] test: life 4"]);
}

/// What Linux writes is in the file, what it wrote it reads again, and the disk is there after a reset.
#[test]
fn linux_reads_and_writes_a_disk() {
    let disk = Disk::new();
    let text = "pcpus = 2
[[vm]]
name = \"linux\"
guest = \"linux\"
vcpus = 2
on_reset = \"restart\"
dma = \"trusted\"
[[vm.device]]
kind = \"virtio-rng\"
[[vm.device]]
kind = \"virtio-blk\"
file = \"disk.img\"
";
    let write = "dd if=/dev/hwrng of=/mnt/numbers bs=16k count=16; sha256sum < /mnt/numbers > /tmp/sum; umount /mnt";
    let read = "mount -t ext4 /dev/vda /mnt; sha256sum < /mnt/numbers | cmp - /tmp/sum";
    let run = disk
        .run(text)
        .option("--input", "linux")
        .type_after("# ", "cat /sys/class/misc/hw_random/rng_current\n")
        .type_after("virtio_rng", "od -An -tx1 -N4 /dev/vda\n")
        .type_after("a5 a5 a5 a5", "mke2fs /dev/vda > /dev/null; mkdir /mnt\n")
        .type_after(
            "# ",
            "mount -t ext4 /dev/vda /mnt && echo is $((40 + 2)) there\n",
        )
        .type_after(
            "is 42 there",
            &format!("{write} && echo is $((40 + 3)) written\n"),
        )
        .type_after(
            "is 43 written",
            &format!("{read} && echo is $((40 + 4)) equal\n"),
        )
        .type_after(
            "is 44 equal",
            "echo written by Linux > /mnt/text; umount /mnt; reboot\n",
        )
        .type_after(
            "Leave with poweroff",
            "mkdir /mnt; mount -t ext4 /dev/vda /mnt; cat /mnt/text; poweroff\n",
        );
    let output = run.deadline(240).start();
    output.expect_exit(0);
    output.expect_in_order([
        "is 44 equal",
        "reboot: Restarting system",
        "written by Linux",
        "Power down",
    ]);
    let contents = disk.contents();
    let is_there = |text: &[u8]| contents.windows(text.len()).any(|part| part == text);
    output.require(is_there(b"written by Linux\n"), || {
        "the text is not in the file".into()
    });
    output.expect_no_exit_allocation();
}

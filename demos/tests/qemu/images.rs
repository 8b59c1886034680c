//! The formats that kernels and initial ramdisks come in, each from the command line to the end of the guest's work.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
};

use trapline_demos::{
    config::{GicVersion, guest_machine::RAM_BASE},
    host::{cross, device_tree, setup::u_boot},
};

use crate::harness::{Run, runs_long_tests, stock_guest};

/// The stock guest's files, and others made of them.
struct Files {
    directory: tempfile::TempDir,
    kernel: Vec<u8>,
    initrd: Vec<u8>,
}

impl Files {
    fn new() -> Self {
        let guest = stock_guest();
        let read = |path: &Path| fs::read(path).expect("the stock guest");
        Self {
            directory: tempfile::tempdir().expect("a directory for temporary files"),
            kernel: read(&guest.kernel),
            initrd: read(&guest.initrd),
        }
    }

    /// A file with a name that QEMU would split if it were not told otherwise.
    fn file(&self, name: &str, contents: &[u8]) -> PathBuf {
        let path = self.directory.path().join(format!("{name},x=y"));
        fs::write(&path, contents).expect("room for a file");
        path
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).expect("memory takes it");
    encoder.finish().expect("memory takes it")
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
}

/// The EFI program that unpacks `payload`, as far as a boot loader reads it.
/// [Linux: drivers/firmware/efi/libstub/zboot-header.S]
fn zboot(packing: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut program = vec![0; 512];
    program[..8].copy_from_slice(b"MZ\0\0zimg");
    program[8..12].copy_from_slice(&512_u32.to_le_bytes());
    program[12..16].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    program[24..24 + packing.len()].copy_from_slice(packing);
    program[60..64].copy_from_slice(&64_u32.to_le_bytes());
    program[64..70].copy_from_slice(b"PE\0\0\x64\xaa");
    program.extend(payload);
    program
}

/// The stock guest's workload ends well with this kernel and this initial ramdisk.
#[track_caller]
fn expect_boot(kernel: &Path, initrd: &Path) {
    let run = Run::kernel(kernel).option("--initrd", initrd.display());
    let run = run.append("trapline=batch panic=-1").vcpus(2).pcpus(2);
    let output = run.deadline(300).start();
    output.expect_exit(0);
    output.expect_in_order(["trapline: nproc=2", "trapline: workload ok"]);
}

#[test]
fn linux_boots_from_a_gzip_file_with_a_zstd_initrd() {
    let files = Files::new();
    let kernel = files.file("Image.gz", &gzip(&files.kernel));
    let initrd = files.file("initramfs.zst", &zstd(&files.initrd));
    expect_boot(&kernel, &initrd);
}

#[test]
fn linux_boots_from_a_zboot_file_with_joined_initrds() {
    let files = Files::new();
    let kernel = zboot(b"zstd22", &zstd(&files.kernel));
    let kernel = files.file("vmlinuz.efi", &kernel);
    // An archive of its own first, as distributions put microcode there.
    let first = cpio::write_cpio(
        [(
            cpio::NewcBuilder::new("first").mode(0o100_644),
            std::io::Cursor::new(b"1"),
        )]
        .into_iter(),
        Vec::new(),
    );
    let mut joined = first.expect("memory takes it");
    joined.resize(joined.len().next_multiple_of(512), 0);
    joined.extend(gzip(&files.initrd));
    expect_boot(&kernel, &files.file("initramfs", &joined));
}

#[test]
fn linux_boots_from_a_zboot_file_of_gzip() {
    if runs_long_tests() {
        let files = Files::new();
        let kernel = files.file("vmlinuz.efi", &zboot(b"gzip", &gzip(&files.kernel)));
        expect_boot(&kernel, &stock_guest().initrd);
    }
}

#[test]
fn an_elf_file_runs() {
    let built = cross::build(&["stress-guest"]).expect("the image is needed");
    let run = Run::kernel(&built[0].elf).append("seconds=1 seed=1 strict=1");
    let output = run.vcpus(4).pcpus(2).deadline(300).start();
    output.expect_exit(0);
    output.expect_in_order(["STRESS PASS vcpus=4"]);
}

#[test]
fn linux_runs_with_a_device_tree_of_its_own() {
    let files = Files::new();
    // Half of the memory; the command line in it stays.
    let tree = device_tree::build(&device_tree::Guest {
        gic: GicVersion::V3,
        vcpu_count: 2,
        ram: RAM_BASE..RAM_BASE + (256 << 20),
        bootargs: "trapline=batch",
        initrd: None,
        transports: &[],
        seed: [0; 40],
    });
    let tree = files.file("own.dtb", &tree.expect("a well-formed tree"));
    let guest = stock_guest();
    let run = Run::kernel(&guest.kernel).option("--initrd", guest.initrd.display());
    let run = run.option("--dtb", tree.display()).vcpus(2).pcpus(1);
    let output = run.deadline(300).start();
    output.expect_exit(0);
    output.expect_in_order([
        "Kernel command line: trapline=batch",
        "K/262144K available",
        "trapline: nproc=2",
        "trapline: workload ok",
    ]);
    output.expect_in_order(["random: crng init done", "trapline: nproc=2"]);
}

/// What U-Boot says when it waits for a command.
const PROMPT: &str = "=> ";

#[test]
fn u_boot_answers_at_its_prompt() {
    let kernel = u_boot::set_up().expect("U-Boot is needed");
    let run = Run::kernel(&kernel)
        .vcpus(2)
        .pcpus(1)
        .type_after("stop autoboot", "\n")
        .type_after(PROMPT, "version\n")
        .type_after(PROMPT, "bdinfo\n")
        .type_after(PROMPT, "dm tree\n")
        .type_after(PROMPT, "help\n")
        .type_after("virtio block devices", "mw.l 0 1\n");
    let output = run.type_after("Resetting CPU", "").deadline(240).start();
    output.expect_exit(0);
    output.expect_in_order([
        "U-Boot",
        "DRAM:  512 MiB",
        "=> version",
        "=> bdinfo",
        "-> start    = 0x0000000040000000",
        "=> dm tree",
        "psci-sysreset",
        "pl011@9000000",
        "=> help",
        "poweroff  - Perform POWEROFF",
        // Nobody writes to flash as to RAM.
        "=> mw.l 0 1",
        "\"Synchronous Abort\" handler",
    ]);
}

#[test]
fn u_boot_turns_the_machine_off() {
    let kernel = u_boot::set_up().expect("U-Boot is needed");
    for run in [Run::kernel(&kernel), Run::kernel(&kernel).bare()] {
        let run = run.vcpus(1).type_after("stop autoboot", "\n");
        let output = run.type_after(PROMPT, "poweroff\n").deadline(240).start();
        output.expect_exit(0);
        output.expect_in_order(["U-Boot", "=> poweroff"]);
    }
}

//! Builds the images for AArch64, in a target directory of its own, and makes flat files of them.

use std::{
    env, fs,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    Failure,
    failure::{Result, at},
    flatten::flatten,
    places,
    setup::{SetupLock, command, progress::Step, toolchain},
};

/// Flags of all images: they run where they are linked, and a panic can walk the frames.
const FLAGS: [&str; 2] = ["-Crelocation-model=static", "-Cforce-frame-pointers=yes"];

/// More than the slowest build takes; a build that hangs must end.
const BUILD_LIMIT: Duration = Duration::from_secs(1200);

/// A mutant of the images to build instead, for the tests that must catch it.
const MUTANT: &str = "TRAPLINE_IMAGE_MUTANT";

/// The guests of this repository.
pub const GUESTS: [&str; 5] = [
    "stress-guest",
    "bench-guest",
    "test-guest",
    "rogue-guest",
    "example-guest",
];

/// The hypervisor of this repository.
pub const HYPERVISOR: &str = "hypervisor";

/// All hypervisor images: that one, and those that show, test or measure something.
pub const HYPERVISORS: [&str; 6] = [
    HYPERVISOR,
    "test-hypervisor",
    "bench-hypervisor",
    "example-device",
    "example-policy",
    "example-loop",
];

/// A built image.
#[derive(Clone, Debug)]
pub struct Built {
    /// The ELF file, with symbols and line numbers.
    pub elf: PathBuf,
    /// The flat file, as QEMU loads it.
    pub flat: PathBuf,
}

/// Builds the images called `names`, which are binaries of this package, and returns them in the same order.
pub fn build(names: &[&str]) -> Result<Vec<Built>> {
    let target = target();
    let directory = target.join(toolchain::TARGET).join("release");
    let is_first = names.iter().any(|name| !directory.join(name).exists());
    run_cargo("build", names, is_first, &[])?;
    names
        .iter()
        .map(|name| make_flat(&directory.join(name)))
        .collect()
}

/// Looks for mistakes in the images called `names`. Debian's compiler comes without clippy: then nothing is looked for.
pub fn lint(names: &[&str]) -> Result<()> {
    if toolchain::Toolchain::set_up()? == toolchain::Toolchain::Debian {
        eprintln!("trapline: Debian's compiler has no clippy: the images are not checked");
        return Ok(());
    }
    run_cargo("clippy", names, true, &["--", "-D", "warnings"])
}

/// Runs cargo on the images called `names`; what it says is shown if it fails.
fn run_cargo(subcommand: &str, names: &[&str], is_slow: bool, rest: &[&str]) -> Result<()> {
    let _lock = SetupLock::take()?;
    let toolchain = toolchain::Toolchain::set_up()?;
    let (mut cargo, linker) = toolchain.cargo(subcommand);
    let cfg = mutant().map(|mutant| format!("--cfg=mutant=\"{mutant}\""));
    let flags: Vec<&str> = FLAGS
        .into_iter()
        .chain(linker)
        .chain(cfg.as_deref())
        .collect();
    cargo
        .current_dir(places::workspace())
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
        .arg("--target-dir")
        .arg(target())
        .args([
            "--package",
            env!("CARGO_PKG_NAME"),
            "--release",
            "--features",
            "image",
        ]);
    if cfg.is_some() {
        // A mutant runs once: the time to optimise it as a whole is lost.
        cargo.env("CARGO_PROFILE_RELEASE_LTO", "off");
        cargo.env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16");
    }
    for name in names {
        cargo.args(["--bin", name]);
    }
    let step = is_slow.then(|| Step::start("Building the images for AArch64"));
    let ended = command::run(cargo.args(rest), BUILD_LIMIT).map_err(at("cargo"))?;
    drop(step);
    if ended.is_success {
        return Ok(());
    }
    eprintln!("{}", ended.stderr.trim_end());
    Err(Failure::input(
        "the images do not build",
        names.join(", "),
        "see the compiler's messages above",
    ))
}

fn mutant() -> Option<String> {
    env::var(MUTANT).ok()
}

fn target() -> PathBuf {
    let target = places::cross_target();
    match mutant() {
        Some(mutant) => target.join(mutant),
        None => target,
    }
}

/// Writes the flat file next to the ELF file. An up-to-date one stays: others may be reading it.
fn make_flat(elf: &Path) -> Result<Built> {
    let flat = elf.with_extension("bin");
    let file = fs::read(elf).map_err(at(elf.display()))?;
    let bytes = flatten(&file)
        .map_err(|why| Failure::input(why, elf.display(), "check the image's linker script"))?;
    if fs::read(&flat).ok().as_deref() != Some(&bytes[..]) {
        fs::write(&flat, bytes).map_err(at(flat.display()))?;
    }
    Ok(Built {
        elf: elf.to_path_buf(),
        flat,
    })
}

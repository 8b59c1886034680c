//! Which compiler builds the images: one that has the target, or one that can build `core` itself.
//!
//! In this order: what is installed (the target; the source of `core`; Debian's own compiler), then what can be installed
//! (the target, by rustup; Debian's compiler, by apt), else an error that names both. Looking comes first, so that a
//! machine that is ready downloads nothing.

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use super::{command, debian, progress::Step};
use crate::host::{Failure, failure::Result, places};

/// What the images are built for: no FP register is touched at EL2. [DDI0487: CPTR_EL2.TFP]
pub const TARGET: &str = "aarch64-unknown-none-softfloat";

const DEBIAN_PACKAGES: [&str; 4] = ["rustc-web", "cargo-web", "rust-web-src", "lld"];
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_CARGO: &str = "/usr/bin/cargo";
const OLDEST_DEBIAN_RUSTC: u32 = 95;
const LINKER: &str = "ld.lld";
/// A compiler answers at once, except when rustup has something to do first.
const QUESTION_LIMIT: Duration = Duration::from_secs(60);
/// A rustup that reaches nothing may wait for long.
const DOWNLOAD_LIMIT: Duration = Duration::from_secs(90);

/// A way to build the images.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Toolchain {
    /// The current toolchain has the target's libraries.
    Target,
    /// The current toolchain has the source of `core` and `alloc`.
    Source,
    /// Debian's compiler, with the source of `core` and `alloc`.
    Debian,
}

impl Toolchain {
    /// Finds a way, and installs what is missing.
    pub fn set_up() -> Result<Self> {
        if let Some(found) = Self::installed() {
            return Ok(found);
        }
        if add_target() {
            return Ok(Self::Target);
        }
        debian::install(&DEBIAN_PACKAGES, "a compiler for the images").map_err(|why| {
            Failure::input(
                format!("no compiler for {TARGET} ({why})"),
                "this machine",
                "run `rustup target add aarch64-unknown-none-softfloat`, or as root on Debian install rustc-web, \
                 cargo-web, rust-web-src and lld",
            )
        })?;
        if has_debian_compiler() {
            Ok(Self::Debian)
        } else {
            Err(Failure::input(
                "Debian's compiler is too old or incomplete",
                DEBIAN_RUSTC,
                "run `rustup target add aarch64-unknown-none-softfloat`",
            ))
        }
    }

    /// What is there already.
    fn installed() -> Option<Self> {
        let sysroot = sysroot(rustc());
        let library = |path: &str| {
            sysroot
                .as_ref()
                .is_some_and(|root| root.join(path).exists())
        };
        if library(&format!("lib/rustlib/{TARGET}/lib")) {
            Some(Self::Target)
        } else if library(SOURCE) {
            Some(Self::Source)
        } else if has_debian_compiler() {
            Some(Self::Debian)
        } else {
            None
        }
    }

    /// The compiler's version, as in `1.96.0`.
    pub fn compiler_version(&self) -> String {
        let rustc = match self {
            Self::Target | Self::Source => rustc(),
            Self::Debian => DEBIAN_RUSTC.into(),
        };
        let ended = command::run(Command::new(rustc).arg("--version"), QUESTION_LIMIT);
        let text = ended.map(|ended| ended.stdout).unwrap_or_default();
        let version = text.split_ascii_whitespace().nth(1);
        version.unwrap_or("unknown").to_owned()
    }

    /// `cargo SUBCOMMAND` for [`TARGET`], with the right compiler, and the compiler's flags that this way needs.
    pub fn cargo(&self, subcommand: &str) -> (Command, Vec<&'static str>) {
        let (program, flags) = match self {
            Self::Target | Self::Source => (current_cargo(), Vec::new()),
            Self::Debian => (OsString::from(DEBIAN_CARGO), vec!["-Clinker=ld.lld"]),
        };
        let mut command = command::outside_cargo(program);
        command.args([subcommand, "--target", TARGET]);
        if *self == Self::Debian {
            command.env("RUSTC", DEBIAN_RUSTC);
        } else if let Some(rustc) = env::var_os("RUSTC") {
            command.env("RUSTC", rustc);
        }
        if *self != Self::Target {
            // A stable compiler builds `core` only when told that it may.
            command.env("RUSTC_BOOTSTRAP", "1").args([
                "-Zbuild-std=core,alloc",
                "-Zbuild-std-features=compiler-builtins-mem",
            ]);
        }
        (command, flags)
    }
}

const SOURCE: &str = "lib/rustlib/src/rust/library/core/src/lib.rs";

fn rustc() -> OsString {
    env::var_os("RUSTC").unwrap_or_else(|| "rustc".into())
}

fn current_cargo() -> OsString {
    env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

fn sysroot(rustc: impl AsRef<std::ffi::OsStr>) -> Option<PathBuf> {
    let ended = command::run(
        Command::new(rustc).args(["--print", "sysroot"]),
        QUESTION_LIMIT,
    );
    let ended = ended.ok().filter(|ended| ended.is_success)?;
    Some(PathBuf::from(ended.stdout.trim()))
}

/// Debian's compiler, new enough, with its source and a linker.
fn has_debian_compiler() -> bool {
    if !Path::new(DEBIAN_CARGO).exists() || places::find_program(LINKER).is_none() {
        return false;
    }
    let version = command::run(
        command::outside_cargo(DEBIAN_RUSTC).arg("--version"),
        QUESTION_LIMIT,
    );
    let is_new = version.is_ok_and(|ended| {
        minor_version(&ended.stdout).is_some_and(|minor| minor >= OLDEST_DEBIAN_RUSTC)
    });
    is_new && sysroot(DEBIAN_RUSTC).is_some_and(|root| root.join(SOURCE).exists())
}

/// 96 for `rustc 1.96.0 (...)`.
fn minor_version(text: &str) -> Option<u32> {
    let version = text.strip_prefix("rustc 1.")?;
    version.split('.').next()?.parse().ok()
}

/// Whether rustup could add the target to the current toolchain.
fn add_target() -> bool {
    let Some(rustup) = places::find_program("rustup") else {
        return false;
    };
    let _step =
        Step::start("Adding the target aarch64-unknown-none-softfloat to the Rust toolchain");
    let ended = command::run(
        Command::new(rustup).args(["target", "add", TARGET]),
        DOWNLOAD_LIMIT,
    );
    ended.is_ok_and(|ended| ended.is_success)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        assert_eq!(
            minor_version("rustc 1.96.0 (ac68faa20 2026-05-25)"),
            Some(96)
        );
        assert_eq!(minor_version("rustc 2.0.0"), None);
        assert_eq!(minor_version(""), None);
    }
}

//! Which QEMU runs the machine, and how it gets here.

use std::{path::PathBuf, process::Command, time::Duration};

use super::{SetupLock, command, debian};
use crate::host::{Failure, failure::Result, places};

const PROGRAM: &str = "qemu-system-aarch64";
const LIMIT: Duration = Duration::from_secs(60);

/// The models of CPU that Trapline is tested on: from 40-bit addresses and no pointer authentication to all that QEMU has.
pub const TESTED_MODELS: [&str; 7] = [
    "cortex-a53",
    "cortex-a57",
    "cortex-a72",
    "cortex-a76",
    "neoverse-n1",
    "neoverse-v1",
    "max",
];

/// QEMU, and what it can do.
#[derive(Clone, Debug)]
pub struct Qemu {
    /// The program.
    pub program: PathBuf,
    /// Its version, as in `10.0.2`.
    pub version: String,
}

impl Qemu {
    /// Finds QEMU, and installs it if there is none.
    pub fn set_up() -> Result<Self> {
        if let Some(found) = Self::find() {
            return Ok(found);
        }
        let _lock = SetupLock::take()?;
        let missing = |why: &str| {
            Failure::input(
                format!("{PROGRAM} is missing ({why})"),
                "this machine",
                "install QEMU for Arm: on Debian and Ubuntu `apt-get install qemu-system-arm`",
            )
        };
        // Somebody else may have installed it while this process waited for the lock.
        if Self::find().is_none() {
            debian::install_newest(&["qemu-system-arm"], "QEMU").map_err(|why| missing(&why))?;
        }
        Self::find().ok_or_else(|| missing("it was installed and still is not there"))
    }

    fn find() -> Option<Self> {
        let program = places::find_program(PROGRAM)?;
        let ended = command::run(Command::new(&program).arg("--version"), LIMIT).ok()?;
        let version = parse_version(&ended.stdout)?;
        Some(Self { program, version })
    }

    /// The models of CPU that `virt` takes and that have EL2: 64-bit ones.
    pub fn cpu_models(&self) -> Vec<String> {
        let help = Command::new(&self.program)
            .args(["-M", "virt", "-cpu", "help"])
            .output();
        let text = help.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
        parse_models(&text.unwrap_or_default())
    }

    /// Of [`TESTED_MODELS`] those that this QEMU has, and those that it has not.
    pub fn tested_models(&self) -> (Vec<&'static str>, Vec<&'static str>) {
        let models = self.cpu_models();
        let is_known = |model: &&str| models.iter().any(|known| known == model);
        TESTED_MODELS.into_iter().partition(is_known)
    }

    /// QEMU's major version, 0 if it is not a number.
    pub fn major(&self) -> u32 {
        let major = self.version.split('.').next();
        major.and_then(|major| major.parse().ok()).unwrap_or(0)
    }
}

fn parse_version(text: &str) -> Option<String> {
    let rest = text.split_once("version ")?.1;
    let version = rest.split(|c: char| c.is_whitespace() || c == '(').next()?;
    Some(version.to_owned())
}

/// QEMU lists 32-bit models too, which cannot run EL2 in AArch64.
fn parse_models(help: &str) -> Vec<String> {
    let is_64bit = |model: &&str| {
        let old_cortex = ["a7", "a8", "a9", "a15"].map(|core| format!("cortex-{core}"));
        let is_old = old_cortex.iter().any(|old| old == model);
        let is_cortex_a = model.starts_with("cortex-a") && !is_old;
        is_cortex_a || model.starts_with("neoverse-") || ["max", "a64fx"].contains(model)
    };
    let names = help
        .lines()
        .filter_map(|line| line.split_ascii_whitespace().next());
    names.filter(is_64bit).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        let text = "QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)\nCopyright";
        assert_eq!(parse_version(text).as_deref(), Some("10.0.2"));
        assert_eq!(parse_version("something else"), None);
    }

    #[test]
    fn only_models_with_el2_are_offered() {
        let help = "Available CPUs:\n  a64fx\n  arm926\n  cortex-a15\n  cortex-a72\n  cortex-m4\n  cortex-r52\n  max\n  \
                    neoverse-n1\n  pxa250 (deprecated)\n";
        assert_eq!(
            parse_models(help),
            ["a64fx", "cortex-a72", "max", "neoverse-n1"]
        );
    }
}

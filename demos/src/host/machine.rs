//! The machine that QEMU is asked for, as its command line.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, Read},
    iter,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
    process::Command,
};

use super::{
    failure::{Result, at},
    input::Contents,
    layout::{Load, MachineLayout},
    places,
    setup::qemu::Qemu,
};
use crate::config::{self, GicVersion};

/// QEMU's counter and its instructions have the same rate: one instruction is one tick of one nanosecond.
const ICOUNT_FREQUENCY_HZ: u64 = 1_000_000_000;

/// QEMU reads a file with one system call, which Linux ends before 2 GiB.
const LARGEST_FILE: u64 = 1 << 30;

/// What every machine has.
#[derive(Clone, Debug)]
pub struct Machine<'a> {
    /// The program.
    pub qemu: &'a Qemu,
    /// The model of its CPUs.
    pub cpu: &'a str,
    /// How many it has.
    pub cpu_count: usize,
    /// Its interrupt controller.
    pub gic: GicVersion,
    /// Count instructions instead of time: the same run every time.
    pub is_counting: bool,
}

impl Machine<'_> {
    /// A machine that boots `hypervisor` and has `layout` in its memory. The files are written to `directory`, which must
    /// outlive QEMU.
    pub fn boot_hypervisor(
        &self,
        hypervisor: &Path,
        layout: &MachineLayout,
        directory: &Path,
    ) -> Result<Command> {
        let mut command = self.command(",virtualization=on,memory-backend=ram", layout.memory_mib);
        // Between the guests' memory are gaps that nobody uses: Linux must not be asked to hold memory for them.
        let ram = format!(
            "memory-backend-ram,id=ram,size={}M,reserve=off",
            layout.memory_mib
        );
        command.args(["-object", &ram]);
        command.arg("-kernel").arg(hypervisor);
        command.args(["-append", &config::bootargs(layout.config)]);
        for (index, load) in layout.loads.iter().enumerate() {
            for (address, file) in place(load, directory, index)? {
                let mut device = OsString::from("loader,force-raw=on,file=");
                device.push(doubled_commas(&file));
                device.push(format!(",addr={address:#x}"));
                command.arg("-device").arg(device);
            }
        }
        Ok(command)
    }

    /// A machine with no hypervisor, to compare with.
    pub fn bare(&self, memory_mib: u64) -> Command {
        self.command("", memory_mib)
    }

    /// QEMU, with a machine that has also what is in `more`.
    fn command(&self, more: &str, memory_mib: u64) -> Command {
        let mut command = with_parent(&self.qemu.program);
        let machine = format!("virt,gic-version={}{more}", self.gic.number());
        // With semihosting a guest could reach the host: it stays off. The default network card wants a file that
        // minimal installations lack.
        command.args([
            "-M",
            &machine,
            "-nodefaults",
            "-nic",
            "none",
            "-display",
            "none",
            "-monitor",
            "none",
        ]);
        command.args([
            "-chardev",
            "stdio,id=line,signal=off",
            "-serial",
            "chardev:line",
            "-no-reboot",
        ]);
        command.args([
            "-smp",
            &self.cpu_count.to_string(),
            "-m",
            &format!("{memory_mib}M"),
        ]);
        if self.is_counting {
            let cpu = format!("{},cntfrq={ICOUNT_FREQUENCY_HZ}", self.cpu);
            command.args(["-cpu", &cpu, "-icount", "shift=0,sleep=off"]);
        } else {
            command.args(["-cpu", self.cpu, "-accel", "tcg,thread=multi"]);
        }
        command
    }
}

/// Has QEMU boot `kernel` by itself.
pub fn boot(command: &mut Command, kernel: &Path, initrd: Option<&PathBuf>, bootargs: &str) {
    command
        .arg("-kernel")
        .arg(kernel)
        .args(["-append", bootargs]);
    if let Some(initrd) = initrd {
        command.arg("-initrd").arg(initrd);
    }
}

/// The files that QEMU loads for `load`, the `index`th, and their addresses; what is no file yet becomes one in `directory`.
fn place(load: &Load, directory: &Path, index: usize) -> Result<Vec<(u64, PathBuf)>> {
    let path = match &load.contents {
        Contents::Bytes(bytes) => {
            let file = directory.join(format!("{index}.bin"));
            fs::write(&file, &**bytes).map_err(at(file.display()))?;
            file
        }
        Contents::File { path, length } if *length > LARGEST_FILE => {
            let mut whole = File::open(path).map_err(at(path.display()))?;
            let mut parts = Vec::new();
            for start in (0..*length).step_by(LARGEST_FILE as usize) {
                let file = directory.join(format!("{index}.{}.bin", parts.len()));
                let mut part = File::create(&file).map_err(at(file.display()))?;
                io::copy(&mut (&mut whole).take(LARGEST_FILE), &mut part)
                    .map_err(at(file.display()))?;
                parts.push((load.address + start, file));
            }
            return Ok(parts);
        }
        Contents::File { path, .. } => path.clone(),
    };
    Ok(vec![(load.address, path)])
}

/// As a value in one of QEMU's lists of options.
pub(super) fn doubled_commas(path: &Path) -> OsString {
    let bytes = path.as_os_str().as_bytes().iter();
    let doubled = bytes.flat_map(|byte| iter::repeat_n(*byte, 1 + usize::from(*byte == b',')));
    OsString::from_vec(doubled.collect())
}

/// A command whose process ends when this one is killed, where the system can do that.
fn with_parent(program: &Path) -> Command {
    match places::find_program("setpriv") {
        Some(setpriv) => {
            let mut command = Command::new(setpriv);
            command.args(["--pdeathsig", "KILL", "--"]).arg(program);
            command
        }
        None => Command::new(program),
    }
}

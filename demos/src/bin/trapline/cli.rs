//! The command line.

use std::{num::NonZero, ops::Range, path::PathBuf};

use clap::{Args, Parser, Subcommand, value_parser};
use trapline_demos::{
    config::{GicVersion, MAX_PCPUS, MAX_VCPUS},
    host::config_file::{HALT_POLL_US, SLICE_US},
};

/// Runs guests with many virtual CPUs over few physical ones, on QEMU.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

impl Cli {
    /// With no command, the stock guest runs.
    pub fn command(self) -> Command {
        let stock = || match Self::parse_from(["trapline", "run"]).command {
            Some(command) => command,
            None => unreachable!("the command line names one"),
        };
        self.command.unwrap_or_else(stock)
    }
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Runs a guest: the user's, or Debian's stock Linux.
    Run(Box<RunOptions>),
    /// Runs a guest that uses all that Trapline emulates at once, and checks that nothing is lost, doubled or damaged.
    Stress(Box<StressOptions>),
    /// Gives commands to a run that was started with --control.
    Control(ControlOptions),
    /// Simulates VMs under a scheduling policy, on a machine that exists only in memory.
    Sim(SimOptions),
    /// Measures what Trapline costs.
    Bench(BenchOptions),
    /// Builds the images for AArch64 and says where they are.
    Images(ImageOptions),
}

/// What every run has.
#[derive(Args, Clone, Debug)]
pub struct MachineOptions {
    /// CPUs of the guest [default: 8]
    #[arg(long, value_name = "N", value_parser = value_parser!(u16).range(1..=MAX_VCPUS as i64))]
    pub vcpus: Option<u16>,
    /// CPUs of the machine under it [default: 4]
    #[arg(long, value_name = "M", value_parser = value_parser!(u16).range(1..=MAX_PCPUS as i64))]
    pub pcpus: Option<u16>,
    /// Model of the machine's CPUs, as QEMU calls it [default: cortex-a72]
    #[arg(long, value_name = "MODEL")]
    pub cpu: Option<String>,
    /// Interrupt controller of the machine and of the guests: GICv2, for 8 CPUs at most, or GICv3 [default: 3]
    #[arg(long, value_name = "2|3", value_parser = value_parser!(u8).range(2..=3))]
    pub gic: Option<u8>,
    /// Scheduling policy: round-robin, pinned, fair, credit, deadline, priority or gang; table needs --config [default: round-robin]
    #[arg(long, value_name = "NAME")]
    pub policy: Option<String>,
    /// How long a vCPU runs while others wait, in microseconds [default: 5000]
    #[arg(long, value_name = "US", value_parser = value_parser!(u32).range(SLICE_US))]
    pub slice: Option<u32>,
    /// How long an idle pCPU looks for the wake-up of the vCPU that waits there, in microseconds at most [default: 0, not at all]
    #[arg(long, value_name = "US", value_parser = value_parser!(u32).range(HALT_POLL_US))]
    pub halt_poll: Option<u32>,
    /// pCPUs that the vCPUs may use: lists like 0-1:2:3, one for each vCPU or one for all
    #[arg(long, value_name = "LIST")]
    pub affinity: Option<String>,
    /// Count instructions instead of time: the same run every time, on one thread
    #[arg(long)]
    pub icount: bool,
    /// End after so many seconds, with status 124 [default: none; 600 for the stock guest's workload]
    #[arg(long, value_name = "S", value_parser = value_parser!(u32).range(1..))]
    pub timeout: Option<u32>,
    /// Show nothing but the guest's console
    #[arg(long)]
    pub quiet: bool,
    /// File for the hypervisor's log
    #[arg(long, value_name = "FILE")]
    pub log: Option<PathBuf>,
    /// File for all that was counted, as JSON
    #[arg(long, value_name = "FILE.json")]
    pub stats: Option<PathBuf>,
    /// Unix socket, made for this run, on which `trapline control` and others give commands, see docs/guide/control.md
    #[arg(long, value_name = "SOCKET", conflicts_with = "bare")]
    pub control: Option<PathBuf>,
    /// No hypervisor: the guest directly on QEMU, to compare with
    #[arg(long, hide = true)]
    pub bare: bool,
    /// Another hypervisor image of this repository
    #[arg(long, hide = true, default_value = "hypervisor")]
    pub hypervisor: String,
}

impl MachineOptions {
    /// The machine's interrupt controller.
    pub fn gic_version(&self) -> GicVersion {
        let version = self
            .gic
            .and_then(|number| GicVersion::from_number(number.into()));
        version.unwrap_or_default()
    }

    /// What describes the machine, as it is given on the command line, each option with a space before it.
    pub fn as_arguments(&self) -> String {
        let mut text = String::new();
        let mut add = |name: &str, value: Option<String>| {
            if let Some(value) = value {
                text += &format!(" --{name} {value}");
            }
        };
        add("vcpus", self.vcpus.map(|count| count.to_string()));
        add("pcpus", self.pcpus.map(|count| count.to_string()));
        add("cpu", self.cpu.clone());
        add("gic", self.gic.map(|version| version.to_string()));
        add("policy", self.policy.clone());
        add("slice", self.slice.map(|slice| slice.to_string()));
        add("halt-poll", self.halt_poll.map(|us| us.to_string()));
        add("timeout", self.timeout.map(|seconds| seconds.to_string()));
        text += if self.icount { " --icount" } else { "" };
        text
    }
}

#[derive(Args, Clone, Debug)]
pub struct RunOptions {
    /// TOML file that describes a machine and its guests, see docs/guide/several-guests.md
    #[arg(long, value_name = "FILE.toml", conflicts_with_all = ["kernel", "initrd", "dtb", "append", "memory", "guest", "vcpus", "affinity"])]
    pub config: Option<PathBuf>,
    /// Linux Image for arm64 (also gzip, zboot, ...), ELF file, U-Boot or flat binary, see docs/guide/images.md [default: Debian's stock Linux, with a shell on a terminal and a short workload
    /// elsewhere]
    #[arg(long, value_name = "FILE")]
    pub kernel: Option<PathBuf>,
    /// Initial ramdisk: a cpio archive, plain or compressed
    #[arg(long, value_name = "FILE")]
    pub initrd: Option<PathBuf>,
    /// Device tree, in place of the one that describes the guest's machine: it may leave out, but not add
    #[arg(long, value_name = "FILE")]
    pub dtb: Option<PathBuf>,
    /// Added to the kernel's command line
    #[arg(
        long,
        value_name = "STR",
        default_value = "",
        allow_hyphen_values = true
    )]
    pub append: String,
    /// Memory of the guest in MiB [default: 512]
    #[arg(long, value_name = "MIB", value_parser = value_parser!(u64).range(1..))]
    pub memory: Option<u64>,
    /// Guest that gets what comes on stdin; on a terminal, the one that has the keys at first
    #[arg(long, value_name = "NAME")]
    pub input: Option<String>,
    /// Where the console of the guest NAME goes instead of stdout: into a file, or to a new pseudo-terminal
    #[arg(long, value_name = "NAME=FILE|pty", value_parser = console)]
    pub console: Vec<String>,
    /// One of this repository's guests in place of a kernel
    #[arg(long, hide = true, conflicts_with = "kernel")]
    pub guest: Option<String>,
    #[command(flatten)]
    pub machine: MachineOptions,
}

#[derive(Args, Clone, Debug)]
pub struct StressOptions {
    /// How long, in seconds of the guest
    #[arg(long, value_name = "S", default_value_t = 5, value_parser = value_parser!(u32).range(1..))]
    pub seconds: u32,
    /// Where its random numbers start; with --matrix those of the first machine
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// All sizes of machine on several models of CPU, one after the other, with a table at the end
    #[arg(long, conflicts_with_all = ["seconds", "boots", "vcpus", "pcpus", "cpu", "affinity", "log", "stats", "control", "bare", "hypervisor"])]
    pub matrix: bool,
    /// How long all machines of --matrix take together; each gets a second at least, with 0 each gets one
    #[arg(long, value_name = "N", default_value_t = 30, requires = "matrix", value_parser = value_parser!(u32).range(..=10_000))]
    pub minutes: u32,
    /// Only these models of CPU, as QEMU calls them, with --matrix
    #[arg(
        long,
        value_name = "MODEL,MODEL",
        requires = "matrix",
        value_delimiter = ','
    )]
    pub models: Vec<String>,
    /// Only these numbers of vCPUs and pCPUs, as in 16x4,2x1, with --matrix
    #[arg(long, value_name = "NxM,NxM", requires = "matrix", value_delimiter = ',', value_parser = size)]
    pub sizes: Vec<Size>,
    /// Instead, so many times a machine with three Linux guests of four vCPUs each, from power-on to power-off
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..=100_000),
          conflicts_with_all = ["seconds", "seed", "affinity", "log", "stats", "control", "bare", "hypervisor"])]
    pub boots: Option<u32>,
    #[command(flatten)]
    pub machine: MachineOptions,
}

/// How many CPUs a guest has, and the machine under it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Size {
    pub vcpus: u16,
    pub pcpus: u16,
}

#[derive(Args, Clone, Debug)]
pub struct ControlOptions {
    /// What the run was given with --control
    #[arg(value_name = "SOCKET")]
    pub socket: PathBuf,
    /// One command, for example `list vcpus`; `help` has them all [default: what comes on stdin, one a line]
    #[arg(
        value_name = "COMMAND",
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    pub command: Vec<String>,
    /// Each answer as one line of JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Args, Clone, Debug)]
#[command(
    after_help = "Status: 0 all went well; 1 a rule was broken; 2 bad usage or bad input; 128 + n signal n ended it."
)]
pub struct SimOptions {
    /// TOML file that describes a machine, its VMs and what they do, or the name of a scenario that comes with Trapline, see
    /// docs/guide/simulator.md [default: lists those that come with it]
    pub scenario: Option<String>,
    /// List the scenarios that come with Trapline
    #[arg(long)]
    pub list: bool,
    /// Scheduling policy, or several to compare with the same seed: round-robin, pinned, fair, credit, deadline, priority, gang,
    /// or table if the scenario has windows [default: the scenario's]
    #[arg(long, value_name = "NAME,NAME", value_delimiter = ',')]
    pub policy: Vec<String>,
    /// Where all random numbers come from: with the same one, the same happens
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Hunt instead for a seed, A to B - 1, that breaks a rule: others act between any two steps of a pCPU, and kicks come late
    #[arg(long, value_name = "A..B", value_parser = range, conflicts_with_all = ["seed", "plot"])]
    pub seeds: Option<Range<u64>>,
    /// Threads that hunt [default: as many as this machine has CPUs]
    #[arg(long, value_name = "N", requires = "seeds")]
    pub jobs: Option<NonZero<usize>>,
    /// Hunt on after a failure, and show all
    #[arg(long, requires = "seeds")]
    pub keep_going: bool,
    /// End after so many milliseconds of the machine's time, if the scenario is longer
    #[arg(long, value_name = "MS", value_parser = value_parser!(u64).range(1..=3_600_000))]
    pub duration: Option<u64>,
    /// Print all that was measured as JSON
    #[arg(long)]
    pub json: bool,
    /// Draw who ran where, and how long wake-ups took
    #[arg(long, value_name = "FILE.svg")]
    pub plot: Option<PathBuf>,
    /// Draw only from A to B milliseconds
    #[arg(long, value_name = "A..B", value_parser = range, requires = "plot")]
    pub plot_ms: Option<Range<u64>>,
}

#[derive(Args, Clone, Debug)]
pub struct BenchOptions {
    #[command(subcommand)]
    pub what: Bench,
}

#[derive(Clone, Debug, Subcommand)]
pub enum Bench {
    /// Instructions for exits, interrupts and switches, counted by QEMU; compared with the record in docs/bench
    Figures {
        /// Model of the machine's CPUs, as QEMU calls it
        #[arg(long, value_name = "MODEL", default_value = "cortex-a72")]
        cpu: String,
        /// Make these figures the record
        #[arg(long)]
        record: bool,
    },
    /// Wall clock from start to power-off of the stock guest, as a ratio to bare QEMU with four CPUs
    Boot {
        /// Four vCPUs on four pCPUs, on each model of CPU that Trapline is tested on
        #[arg(long)]
        models: bool,
        /// How often each is run
        #[arg(long, value_name = "N", default_value_t = 5, value_parser = value_parser!(u16).range(1..=99))]
        runs: u16,
    },
    /// What is lost of CPU-bound work when eight vCPUs share four pCPUs, by counting instructions
    Work,
    /// How often more vCPUs than pCPUs take a lock, and what yielding to its holder and running them as a gang change; by counting
    /// instructions
    Spin {
        /// Of the guest's time, for each run
        #[arg(long, value_name = "N", default_value_t = 400, value_parser = value_parser!(u32).range(1..=60_000))]
        milliseconds: u32,
    },
    /// Instructions for a switch of vCPUs and for wake-ups, under each policy
    Policies,
    /// Bytes that the hypervisor takes: its image, its heap, and what a VM and a vCPU add to it
    Memory,
    /// Events that the simulator does in a second on machines of three sizes, and what a pick of each policy costs, on this host
    Sim {
        /// Scheduling policy of the machines
        #[arg(long, value_name = "NAME", default_value = "fair")]
        policy: String,
    },
    /// Wall clock of two stock guests with two vCPUs each on two pCPUs together, and one after the other
    Pair {
        /// How often each is run
        #[arg(long, value_name = "N", default_value_t = 3, value_parser = value_parser!(u16).range(1..=99))]
        runs: u16,
    },
}

#[derive(Args, Clone, Debug)]
pub struct ImageOptions {
    /// Look for mistakes with clippy instead
    #[arg(long)]
    pub lint: bool,
}

/// As in `0..1000`, `0..=999` or `7`.
fn range(text: &str) -> Result<Range<u64>, String> {
    let number = |text: &str| text.trim().parse::<u64>().ok();
    let range = match text.split_once("..") {
        None => number(text).and_then(|only| Some(only..only.checked_add(1)?)),
        Some((start, end)) => match end.strip_prefix('=') {
            Some(last) => number(start)
                .zip(number(last))
                .and_then(|(start, last)| Some(start..last.checked_add(1)?)),
            None => number(start)
                .zip(number(end))
                .map(|(start, end)| start..end),
        },
    };
    let range = range.filter(|range| !range.is_empty());
    range.ok_or_else(|| "give numbers as in 0..1000, 0..=999 or 7, and not none".into())
}

/// A guest's name and where its console goes.
fn console(text: &str) -> Result<String, String> {
    match text.split_once('=') {
        Some((name, target)) if !name.is_empty() && !target.is_empty() => Ok(text.to_owned()),
        _ => Err("give NAME=FILE or NAME=pty".into()),
    }
}

/// As in `16x4`.
fn size(text: &str) -> Result<Size, String> {
    let count =
        |text: &str, most: usize| text.parse().ok().filter(|count| (1..=most).contains(count));
    let (vcpus, pcpus) = text.split_once('x').unwrap_or((text, ""));
    match (count(vcpus, MAX_VCPUS), count(pcpus, MAX_PCPUS)) {
        (Some(vcpus), Some(pcpus)) => Ok(Size {
            vcpus: vcpus as u16,
            pcpus: pcpus as u16,
        }),
        _ => Err(format!(
            "give vCPUs and pCPUs as in 16x4, at most {MAX_VCPUS}x{MAX_PCPUS}"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(["trapline"].into_iter().chain(arguments.split(' ')))
    }

    #[test]
    fn a_machine_reads_back_what_it_writes() {
        let stress = |arguments: &str| match parse(arguments).expect("good usage").command() {
            Command::Stress(options) => options.machine.as_arguments(),
            _ => unreachable!("it is what was parsed"),
        };
        let all = " --vcpus 3 --pcpus 2 --cpu max --gic 2 --policy pinned --slice 700 --halt-poll 40 --timeout 9 --icount";
        assert_eq!(stress(&format!("stress{all}")), all);
        assert_eq!(stress("stress"), "");
    }

    #[test]
    fn many_machines_take_no_options_of_one() {
        for many in ["--matrix", "--boots 2"] {
            assert!(parse(&format!("stress {many} --policy pinned --icount")).is_ok());
            for one in [
                "--seconds 3",
                "--affinity 0",
                "--log x",
                "--stats x",
                "--control x",
                "--bare",
            ] {
                assert!(
                    parse(&format!("stress {many} {one}")).is_err(),
                    "{many} {one}"
                );
            }
        }
        for one in ["--vcpus 3", "--pcpus 3", "--cpu max", "--boots 2"] {
            assert!(parse(&format!("stress --matrix {one}")).is_err(), "{one}");
        }
        for of_matrix in ["--minutes 3", "--models max", "--sizes 2x1"] {
            assert!(
                parse(&format!("stress {of_matrix}")).is_err(),
                "{of_matrix}"
            );
            assert!(parse(&format!("stress --matrix {of_matrix}")).is_ok());
        }
        for bad in ["0x1", "1x0", "1", "x", "65x1", "1x65", "-1x1"] {
            assert!(
                parse(&format!("stress --matrix --sizes={bad}")).is_err(),
                "{bad}"
            );
        }
    }
}

//! The commands: what there is, and how it is written.

mod parse;
#[cfg(test)]
mod tests;

use alloc::string::String;
use core::fmt;

use trapline_sched::{PcpuId, PcpuSet, Weight};

/// How each command is written, and what it does.
pub const HELP: [(&str, &str); 25] = [
    ("help", "what there is"),
    (
        "list [vms]",
        "the VMs: what they do, and what their vCPUs shall get",
    ),
    (
        "list vcpus [VM]",
        "the vCPUs: what they do, where, and where their time went",
    ),
    ("list pools", "the pools of pCPUs, and their policies"),
    ("list pcpus", "the pCPUs, and where their time went"),
    (
        "set weight VM[/VCPU] N",
        "its share against others': 1 to 10000",
    ),
    (
        "set slice VM[/VCPU] US|default",
        "how long it runs at a time while others wait, in microseconds",
    ),
    (
        "set cap VM HUNDREDTHS|none",
        "the most that the VM gets, in hundredths of a pCPU",
    ),
    (
        "set priority VM[/VCPU] N",
        "it runs before all with less: 0 to 255",
    ),
    (
        "set budget VM[/VCPU] US PERIOD_US|none",
        "what each vCPU gets in each period in any case",
    ),
    (
        "set halt-poll VM[/VCPU] US",
        "how long its pCPU looks for its wake-up before it sleeps, at most: 0 to 1000",
    ),
    (
        "set affinity VM[/VCPU] LIST",
        "the pCPUs that it may run on, like 0-1,3",
    ),
    (
        "set soft-affinity VM[/VCPU] LIST|none",
        "the pCPUs that it runs on rather than elsewhere, if it need not wait for that",
    ),
    (
        "set pool VM POOL",
        "the pool that it belongs to, with all its vCPUs",
    ),
    (
        "policy NAME [pool=POOL] [slice_us=N] [period_us=N]",
        "who says what runs next in a pool, the first one if none is named",
    ),
    (
        "create pool POOL LIST POLICY [slice_us=N] [period_us=N]",
        "makes a pool of these pCPUs, which leave the pools that have them",
    ),
    (
        "remove pool POOL [HEIR]",
        "gives its pCPUs to another pool, the first one if none is named",
    ),
    ("move pcpu N POOL", "moves a pCPU to a pool"),
    (
        "unplug N",
        "takes a pCPU out of the machine: others get what it has",
    ),
    ("plug N", "brings it back to its pool"),
    ("start VM", "turns it on"),
    ("stop VM", "ends it"),
    (
        "reset VM",
        "ends it and turns it on again, with clean memory",
    ),
    ("pause VM, resume VM", "its vCPUs stand still, and go on"),
    ("button VM", "presses its power key"),
];

/// Something that the user wants.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Command {
    /// To know the commands.
    Help,
    /// To see how things are.
    List(Listing),
    /// That vCPUs get something else.
    Set(Who, Setting),
    /// That a VM belongs to another pool.
    SetPool {
        /// The VM.
        vm: String,
        /// The pool.
        pool: String,
    },
    /// That another policy says what runs next.
    Policy {
        /// The pool; `None`: the first one.
        pool: Option<String>,
        /// Which.
        policy: PolicyChoice,
    },
    /// A new pool.
    CreatePool {
        /// What it is to be called.
        name: String,
        /// What it is to have.
        pcpus: PcpuSet,
        /// Who says what runs next there.
        policy: PolicyChoice,
    },
    /// That a pool is no more.
    RemovePool {
        /// The pool.
        pool: String,
        /// The pool that gets its pCPUs; `None`: the first one.
        heir: Option<String>,
    },
    /// That a pCPU belongs to another pool.
    MovePcpu {
        /// The pCPU.
        pcpu: PcpuId,
        /// The pool.
        pool: String,
    },
    /// That a pCPU leaves.
    Unplug(PcpuId),
    /// That it comes back.
    Plug(PcpuId),
    /// That the VM of this name lives otherwise.
    Live(Life, String),
}

/// A policy and its options.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PolicyChoice {
    /// Its name; there may be no such policy.
    pub name: String,
    /// How long a vCPU runs while others wait, in microseconds. `None`: as the machine's configuration says.
    pub slice_us: Option<u32>,
    /// In what time a cap holds, in microseconds. `None`: as the machine's configuration says.
    pub period_us: Option<u32>,
}

/// What is shown as a table.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Listing {
    /// One row for each VM.
    Vms,
    /// One row for each vCPU, of the VM of this name or of all.
    Vcpus(Option<String>),
    /// One row for each pool.
    Pools,
    /// One row for each pCPU.
    Pcpus,
}

/// A VM, or one of its vCPUs.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Who {
    /// The VM's name; there may be none called so.
    pub vm: String,
    /// The vCPU's index; `None`: all.
    pub vcpu: Option<usize>,
}

/// What vCPUs shall get. Times are in microseconds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Setting {
    /// Their share against others'.
    Weight(Weight),
    /// How long each runs at a time while others wait; `None`: as the policy has it.
    Slice(Option<u32>),
    /// The most that the whole VM gets, in hundredths of a pCPU; `None`: no limit.
    Cap(Option<u32>),
    /// They run before all with less.
    Priority(u8),
    /// A budget of at least 1 in each period of at least as much; `None`: nothing is reserved.
    Budget(Option<(u32, u32)>),
    /// How long their pCPUs look for their wake-ups at most; 0: not at all.
    HaltPoll(u32),
    /// Where they may run.
    Affinity(PcpuSet),
    /// Where they run rather than elsewhere; `None`: they have no preference.
    SoftAffinity(Option<PcpuSet>),
}

/// A change in a VM's life.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Life {
    /// It is turned on.
    Start,
    /// It ends.
    Stop,
    /// It ends and is turned on again.
    Reset,
    /// Its vCPUs stand still.
    Pause,
    /// They go on.
    Resume,
    /// Its power key is pressed.
    Button,
}

/// Why a text is no command, in words, with what there is to choose from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct BadCommand(pub String);

impl fmt::Display for BadCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl core::error::Error for BadCommand {}

impl Setting {
    /// How it is written.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Weight(_) => "weight",
            Self::Slice(_) => "slice",
            Self::Cap(_) => "cap",
            Self::Priority(_) => "priority",
            Self::Budget(_) => "budget",
            Self::HaltPoll(_) => "halt-poll",
            Self::Affinity(_) => "affinity",
            Self::SoftAffinity(_) => "soft-affinity",
        }
    }
}

impl Life {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Start,
        Self::Stop,
        Self::Reset,
        Self::Pause,
        Self::Resume,
        Self::Button,
    ];

    /// How it is written.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Reset => "reset",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Button => "button",
        }
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.vcpu {
            Some(vcpu) => write!(f, "{}/{vcpu}", self.vm),
            None => f.write_str(&self.vm),
        }
    }
}

impl PolicyChoice {
    fn write_options(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, value) in [("slice_us", self.slice_us), ("period_us", self.period_us)] {
            if let Some(value) = value {
                write!(f, " {name}={value}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Help => f.write_str("help"),
            Self::List(Listing::Vms) => f.write_str("list vms"),
            Self::List(Listing::Vcpus(None)) => f.write_str("list vcpus"),
            Self::List(Listing::Vcpus(Some(vm))) => write!(f, "list vcpus {vm}"),
            Self::List(Listing::Pools) => f.write_str("list pools"),
            Self::List(Listing::Pcpus) => f.write_str("list pcpus"),
            Self::Set(who, setting) => {
                write!(f, "set {} {who} ", setting.name())?;
                match setting {
                    Setting::Weight(weight) => write!(f, "{}", weight.get()),
                    Setting::Slice(Some(us)) | Setting::HaltPoll(us) => write!(f, "{us}"),
                    Setting::Slice(None) => f.write_str("default"),
                    Setting::Cap(Some(cap)) => write!(f, "{cap}"),
                    Setting::Priority(priority) => write!(f, "{priority}"),
                    Setting::Budget(Some((budget, period))) => write!(f, "{budget} {period}"),
                    Setting::Cap(None) | Setting::Budget(None) | Setting::SoftAffinity(None) => {
                        f.write_str("none")
                    }
                    Setting::Affinity(pcpus) | Setting::SoftAffinity(Some(pcpus)) => {
                        write!(f, "{pcpus}")
                    }
                }
            }
            Self::SetPool { vm, pool } => write!(f, "set pool {vm} {pool}"),
            Self::Policy { pool, policy } => {
                write!(f, "policy {}", policy.name)?;
                if let Some(pool) = pool {
                    write!(f, " pool={pool}")?;
                }
                policy.write_options(f)
            }
            Self::CreatePool {
                name,
                pcpus,
                policy,
            } => {
                write!(f, "create pool {name} {pcpus} {}", policy.name)?;
                policy.write_options(f)
            }
            Self::RemovePool { pool, heir: None } => write!(f, "remove pool {pool}"),
            Self::RemovePool {
                pool,
                heir: Some(heir),
            } => write!(f, "remove pool {pool} {heir}"),
            Self::MovePcpu { pcpu, pool } => write!(f, "move pcpu {} {pool}", pcpu.index()),
            Self::Unplug(pcpu) => write!(f, "unplug {}", pcpu.index()),
            Self::Plug(pcpu) => write!(f, "plug {}", pcpu.index()),
            Self::Live(life, vm) => write!(f, "{} {vm}", life.word()),
        }
    }
}

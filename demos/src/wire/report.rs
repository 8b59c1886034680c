//! What the hypervisor says of a run: one fact a frame, as text. [`Report::parse`] reads what its `Display` writes.

use core::fmt;

use serde::Serialize;

/// One fact for the runner. The hypervisor sends all facts at the end of a run, [`Report::Exit`] last.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Report<'a> {
    /// The run is over: the status that the runner ends with, and one line that says why.
    Exit(ExitStatus, &'a str),
    /// How long the run took.
    Clock(ClockReport),
    /// How one guest ended: its number, its status, its name without white space, and one line that says why.
    Guest(u64, ExitStatus, &'a str, &'a str),
    /// What one vCPU did.
    Vcpu(VcpuReport),
    /// What one pCPU did.
    Pcpu(PcpuReport),
    /// Any other counter: a name without white space, and its value.
    Counter(&'a str, u64),
}

/// How a run ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ExitStatus {
    /// The guest powered itself off.
    PoweredOff,
    /// The guest crashed, or was stopped for cause.
    GuestFailed,
    /// The machine cannot do what the configuration asks for.
    BadInput,
    /// The hypervisor failed, or its configuration contradicts itself or the machine.
    HypervisorFailed,
}

impl ExitStatus {
    /// The status of the process that runs the hypervisor.
    pub const fn code(self) -> u8 {
        match self {
            Self::PoweredOff => 0,
            Self::GuestFailed => 1,
            Self::BadInput => 2,
            Self::HypervisorFailed => 3,
        }
    }

    const fn from_code(code: u64) -> Option<Self> {
        Some(match code {
            0 => Self::PoweredOff,
            1 => Self::GuestFailed,
            2 => Self::BadInput,
            3 => Self::HypervisorFailed,
            _ => return None,
        })
    }
}

/// Declares a record of counters that is written as `keyword field=value ...` and read back.
macro_rules! record {
    (
        $(#[$meta:meta])*
        $name:ident = $keyword:literal { $( $(#[$field_meta:meta])* $field:ident, )+ }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
        pub struct $name { $( $(#[$field_meta])* pub $field: u64, )+ }

        impl $name {
            const KEYWORD: &'static str = $keyword;

            /// Fields that the text does not have stay 0; those that this version does not know are skipped.
            fn parse(fields: &str) -> Option<Self> {
                let mut record = Self::default();
                for field in fields.split_ascii_whitespace() {
                    let (name, value) = field.split_once('=')?;
                    let value = value.parse().ok()?;
                    match name {
                        $( stringify!($field) => record.$field = value, )+
                        _ => {}
                    }
                }
                Some(record)
            }

            /// Adds what `other` counted, field by field.
            pub fn add(&mut self, other: &Self) {
                $( self.$field = self.$field.saturating_add(other.$field); )+
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(Self::KEYWORD)?;
                $( write!(f, " {}={}", stringify!($field), self.$field)?; )+
                Ok(())
            }
        }
    };
}

record! {
    /// How long the run took, and the unit of all times in ticks.
    ClockReport = "clock" {
        /// Ticks in a second. [CNTFRQ_EL0]
        frequency_hz,
        /// From the creation of the vCPUs to the end of the run.
        elapsed_ticks,
    }
}

record! {
    /// What one vCPU did. Its three times add up to its life.
    VcpuReport = "vcpu" {
        /// Its guest's number.
        guest,
        /// Its number within the guest.
        index,
        /// Time on a pCPU, its exits included.
        run_ticks,
        /// Time runnable and not running.
        ready_ticks,
        /// Time off, waiting or paused.
        blocked_ticks,
        /// How often it was put on a pCPU.
        switches,
        /// Moves to another pCPU while loaded.
        migrations_loaded,
        /// Moves to another pCPU while queued.
        migrations_queued,
        /// Moves to another pCPU while parked.
        migrations_parked,
        /// Exits by physical interrupts.
        exits_interrupt,
        /// Exits by HVC and SMC.
        exits_call,
        /// Exits by system registers.
        exits_register,
        /// Exits by device memory.
        exits_mmio,
        /// Exits by WFI and WFE.
        exits_wait,
        /// Exits by aborts that are not device accesses.
        exits_abort,
        /// Exits to get the FP registers.
        exits_fp,
        /// All other exits.
        exits_other,
    }
}

record! {
    /// What one pCPU did. Its two times add up to its life.
    PcpuReport = "pcpu" {
        /// Its number.
        index,
        /// Time with a vCPU on it.
        busy_ticks,
        /// Time without.
        idle_ticks,
        /// How often it put another vCPU on.
        switches,
        /// Kicks it sent to others.
        kicks_sent,
        /// Kicks it got.
        kicks_received,
        /// vCPUs it handed over to idle pCPUs.
        handed_over,
        /// Heap allocations while it handled an exit: there should be none.
        exit_allocations,
    }
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exit(status, reason) => write!(f, "exit {} {reason}", status.code()),
            Self::Clock(record) => record.fmt(f),
            Self::Guest(index, status, name, reason) => {
                write!(f, "guest {index} {} {name} {reason}", status.code())
            }
            Self::Vcpu(record) => record.fmt(f),
            Self::Pcpu(record) => record.fmt(f),
            Self::Counter(name, value) => write!(f, "counter {name}={value}"),
        }
    }
}

impl<'a> Report<'a> {
    /// Reads one report; `None` if it is not one.
    pub fn parse(text: &'a str) -> Option<Self> {
        let (keyword, rest) = text.split_once(' ').unwrap_or((text, ""));
        Some(match keyword {
            "exit" => {
                let (code, reason) = rest.split_once(' ').unwrap_or((rest, ""));
                Self::Exit(ExitStatus::from_code(code.parse().ok()?)?, reason)
            }
            "guest" => {
                let mut fields = rest.splitn(4, ' ');
                Self::Guest(
                    fields.next()?.parse().ok()?,
                    ExitStatus::from_code(fields.next()?.parse().ok()?)?,
                    fields.next()?,
                    fields.next()?,
                )
            }
            ClockReport::KEYWORD => Self::Clock(ClockReport::parse(rest)?),
            VcpuReport::KEYWORD => Self::Vcpu(VcpuReport::parse(rest)?),
            PcpuReport::KEYWORD => Self::Pcpu(PcpuReport::parse(rest)?),
            "counter" => {
                let (name, value) = rest.split_once('=')?;
                Self::Counter(name, value.parse().ok()?)
            }
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;

    use super::*;

    #[test]
    fn reports_read_back_as_written() {
        let vcpu = VcpuReport {
            index: 3,
            run_ticks: u64::MAX,
            exits_wait: 12,
            ..VcpuReport::default()
        };
        let pcpu = PcpuReport {
            index: 1,
            kicks_sent: 7,
            ..PcpuReport::default()
        };
        let clock = ClockReport {
            frequency_hz: 62_500_000,
            elapsed_ticks: 1,
        };
        for report in [
            Report::Exit(ExitStatus::GuestFailed, "vCPU 3: reset requested"),
            Report::Exit(ExitStatus::PoweredOff, ""),
            Report::Clock(clock),
            Report::Guest(31, ExitStatus::PoweredOff, "linux", "it powered off"),
            Report::Guest(0, ExitStatus::GuestFailed, "a", ""),
            Report::Vcpu(vcpu),
            Report::Pcpu(pcpu),
            Report::Counter("trace.lost", 9),
        ] {
            assert_eq!(Report::parse(&report.to_string()), Some(report));
        }
    }

    #[test]
    fn what_is_not_a_report_is_refused() {
        for text in [
            "",
            "exit",
            "exit x",
            "exit 9 why",
            "vcpu index",
            "guest 0 0 name",
            "guest 0 9 name why",
            "vcpu index=-1",
            "hello 1",
        ] {
            assert_eq!(Report::parse(text), None, "{text}");
        }
        assert_eq!(
            Report::parse("exit 3"),
            Some(Report::Exit(ExitStatus::HypervisorFailed, ""))
        );
    }
}

//! All that a run reported, collected from its report frames: for the table and for `--stats`.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::wire::{ClockReport, ExitStatus, PcpuReport, Report, VcpuReport};

/// How one guest ended.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct GuestEnd {
    /// Its number, as in `vcpus`.
    pub guest: u64,
    /// Its name.
    pub name: String,
    /// The status that a run with it alone would end with.
    pub status: u8,
    /// Why it ended, in one line.
    pub reason: String,
}

/// What a run reported. `--stats` writes it as JSON; times are in ticks of `clock.frequency_hz`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct RunReport {
    /// The status that `trapline` ends with.
    pub status: u8,
    /// Why the run ended, in one line.
    pub reason: String,
    /// From the start of QEMU to its end.
    pub wall_seconds: f64,
    /// QEMU's version.
    pub qemu: String,
    /// How long the guest ran.
    pub clock: ClockReport,
    /// One for each guest, in the order in which they ended.
    pub guests: Vec<GuestEnd>,
    /// One for each vCPU.
    pub vcpus: Vec<VcpuReport>,
    /// One for each pCPU.
    pub pcpus: Vec<PcpuReport>,
    /// Everything else that was counted.
    pub counters: BTreeMap<String, u64>,
    /// The hypervisor's last report has come.
    #[serde(skip)]
    pub exit: Option<ExitStatus>,
}

impl RunReport {
    /// Adds what one report frame says; false if it is not a report.
    pub fn add(&mut self, frame: &[u8]) -> bool {
        let Some(report) = std::str::from_utf8(frame).ok().and_then(Report::parse) else {
            return false;
        };
        match report {
            Report::Exit(status, reason) => {
                self.exit = Some(status);
                self.reason = reason.to_owned();
            }
            Report::Clock(clock) => self.clock = clock,
            Report::Guest(guest, status, name, reason) => self.guests.push(GuestEnd {
                guest,
                name: name.to_owned(),
                status: status.code(),
                reason: reason.to_owned(),
            }),
            Report::Vcpu(vcpu) => self.vcpus.push(vcpu),
            Report::Pcpu(pcpu) => self.pcpus.push(pcpu),
            Report::Counter(name, value) => {
                self.counters.insert(name.to_owned(), value);
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_are_collected() {
        let mut report = RunReport::default();
        assert!(report.add(b"vcpu index=0 run_ticks=5"));
        assert!(report.add(b"counter a.b=7"));
        assert!(report.add(b"exit 1 guest reset"));
        assert!(!report.add(b"\xff"));
        assert_eq!(report.vcpus[0].run_ticks, 5);
        assert_eq!(report.counters["a.b"], 7);
        assert_eq!(report.exit, Some(ExitStatus::GuestFailed));
        assert_eq!(report.reason, "guest reset");
    }
}

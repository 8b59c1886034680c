//! Instructions for exits, interrupts and switches, and whether they got worse.
//!
//! Figures depend on the compiler and on QEMU: docs/bench has one file for each pair, a figure a line.

use std::{collections::BTreeMap, fmt::Write, fs, path::PathBuf};

use trapline_demos::host::{
    Failure,
    failure::{Result, at},
    places,
    setup::toolchain::Toolchain,
};

use super::{bench_guest, field, machine, measure};
use crate::{cli::MachineOptions, run::GUEST_FAILED};

const MARKER: &str = "BENCH ";
/// A figure that grew by more than this has got worse, in percent.
const TOLERANCE: u64 = 3;

/// The machines to measure on: vCPUs, pCPUs, the guest's parameters.
const MACHINES: [(u16, u16, &str); 2] = [(2, 2, "figures=machine"), (2, 1, "figures=switch")];

/// The one where the vCPU that waits is polled for, for so many microseconds at most: one figure differs.
const POLLED: (&str, &str) = ("sgi_waiting", "sgi_waiting_polled");
const POLLED_US: u32 = 200;

/// Instructions by name.
type Figures = BTreeMap<String, u64>;

pub fn figures(cpu: &str, record: bool) -> Result<u8> {
    let mut figures = Figures::new();
    let mut qemu = String::new();
    for (vcpus, pcpus, parameters) in MACHINES {
        let options = MachineOptions {
            icount: true,
            ..machine(vcpus, pcpus, cpu)
        };
        let ended = measure(bench_guest(), parameters, &options, &[MARKER])?;
        figures.extend(ended.marked[0].iter().filter_map(|line| parse(line)));
        qemu = ended.report.qemu;
    }
    if figures.is_empty() {
        return Err(Failure::hypervisor("the bench guest printed no figures"));
    }
    let (own, polled) = POLLED;
    let value = figure_named(own, &measure_polled(cpu)?)?;
    figures.insert(polled.to_owned(), value);
    let path = record_path(cpu, &qemu)?;
    let recorded = fs::read_to_string(&path)
        .ok()
        .map(|text| parse_record(&text));
    print!("{}", render(&figures, recorded.as_ref()));
    if record {
        let lines: String = figures
            .iter()
            .map(|(name, value)| format!("{name} {value}\n"))
            .collect();
        let directory = path.parent().unwrap_or(&path);
        fs::create_dir_all(directory).map_err(at(directory.display()))?;
        fs::write(&path, lines).map_err(at(path.display()))?;
        return Ok(0);
    }
    let Some(recorded) = recorded else {
        eprintln!(
            "trapline: no record for this compiler and this QEMU: {}",
            path.display()
        );
        return Ok(0);
    };
    let worse: Vec<&str> = worse(&figures, &recorded);
    if worse.is_empty() {
        return Ok(0);
    }
    eprintln!(
        "trapline: error: worse than {}: {}",
        path.display(),
        worse.join(", ")
    );
    Ok(GUEST_FAILED)
}

/// The figures of the first machine while pCPUs poll.
fn measure_polled(cpu: &str) -> Result<Figures> {
    let (vcpus, pcpus, parameters) = MACHINES[0];
    let options = MachineOptions {
        icount: true,
        halt_poll: Some(POLLED_US),
        ..machine(vcpus, pcpus, cpu)
    };
    let ended = measure(bench_guest(), parameters, &options, &[MARKER])?;
    let lines = ended.marked[0].iter();
    Ok(lines.filter_map(|line| parse(line)).collect())
}

/// The one of `figures` that has this name.
///
/// # Errors
/// There is none: the guest does not measure it any more, or calls it otherwise.
fn figure_named(name: &str, figures: &Figures) -> Result<u64> {
    let figure = figures.get(name).copied();
    figure.ok_or_else(|| Failure::hypervisor(format!("the bench guest does not say `{name}`")))
}

fn record_path(cpu: &str, qemu: &str) -> Result<PathBuf> {
    let compiler = Toolchain::set_up()?.compiler_version();
    Ok(places::workspace().join(format!("docs/bench/{cpu}-qemu-{qemu}-rustc-{compiler}.txt")))
}

fn parse(line: &str) -> Option<(String, u64)> {
    Some((
        field(line, "name")?.to_owned(),
        field(line, "instructions")?.parse().ok()?,
    ))
}

fn parse_record(text: &str) -> Figures {
    let entry = |line: &str| {
        let (name, value) = line.split_once(' ')?;
        Some((name.to_owned(), value.trim().parse().ok()?))
    };
    text.lines().filter_map(entry).collect()
}

/// Figures that grew beyond the tolerance, or are gone.
fn worse<'a>(figures: &Figures, recorded: &'a Figures) -> Vec<&'a str> {
    let is_worse = |name: &str, old: u64| {
        figures
            .get(name)
            .is_none_or(|new| *new > old + old * TOLERANCE / 100)
    };
    let names = recorded.iter().filter(|(name, old)| is_worse(name, **old));
    names.map(|(name, _)| name.as_str()).collect()
}

fn render(figures: &Figures, recorded: Option<&Figures>) -> String {
    let mut text = String::new();
    for (name, value) in figures {
        let old = recorded.and_then(|recorded| recorded.get(name));
        let old = old.map_or_else(String::new, |old| format!("  (recorded {old})"));
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{name:32} {value:>8}{old}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_beyond_the_tolerance_is_noticed() {
        let recorded = parse_record("hvc 100\nsgi 1000\nold 5\n");
        let now = parse_record("hvc 103\nsgi 1031\nnew 7\n");
        assert_eq!(worse(&now, &recorded), ["old", "sgi"]);
        assert!(worse(&recorded, &recorded).is_empty());
    }

    #[test]
    fn a_figure_that_is_missing_is_an_error() {
        let figures = parse_record("sgi_running 1685\nsgi_waiting 2905\n");
        assert_eq!(figure_named("sgi_waiting", &figures).ok(), Some(2905));
        let failure = figure_named("sgi", &figures).expect_err("there is none");
        assert!(failure.to_string().contains("`sgi`"), "{failure}");
    }

    #[test]
    fn results_are_read() {
        let line = "BENCH name=hvc_version instructions=155 floor=2 least=155 most=160";
        assert_eq!(parse(line), Some(("hvc_version".into(), 155)));
        assert_eq!(parse("BENCH END"), None);
    }
}

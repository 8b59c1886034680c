//! The table at the end of a run.

use std::fmt::Write;

use super::report::RunReport;
use crate::wire::{PcpuReport, VcpuReport};

/// A column: its heading, and what a row has there.
type Column<T> = (&'static str, fn(&T, &Scale) -> String);

/// A column before the others: its heading, and what a row has there.
type Leader<'a, T> = Option<(&'static str, &'a dyn Fn(&T) -> String)>;

/// Turns ticks into text.
struct Scale {
    frequency_hz: u64,
}

impl Scale {
    fn milliseconds(&self, ticks: u64) -> String {
        format!(
            "{:.1}",
            ticks as f64 * 1e3 / self.frequency_hz.max(1) as f64
        )
    }
}

#[rustfmt::skip] // read by column
const VCPU_COLUMNS: &[Column<VcpuReport>] = &[
    ("vcpu",       |row, _| row.index.to_string()),
    ("run ms",     |row, scale| scale.milliseconds(row.run_ticks)),
    ("ready ms",   |row, scale| scale.milliseconds(row.ready_ticks)),
    ("blocked ms", |row, scale| scale.milliseconds(row.blocked_ticks)),
    ("switches",   |row, _| row.switches.to_string()),
    ("migrations", |row, _| (row.migrations_loaded + row.migrations_queued + row.migrations_parked).to_string()),
    ("irq",        |row, _| row.exits_interrupt.to_string()),
    ("call",       |row, _| row.exits_call.to_string()),
    ("sysreg",     |row, _| row.exits_register.to_string()),
    ("mmio",       |row, _| row.exits_mmio.to_string()),
    ("wait",       |row, _| row.exits_wait.to_string()),
    ("abort",      |row, _| row.exits_abort.to_string()),
    ("fp",         |row, _| row.exits_fp.to_string()),
    ("other",      |row, _| row.exits_other.to_string()),
];

#[rustfmt::skip] // read by column
const PCPU_COLUMNS: &[Column<PcpuReport>] = &[
    ("pcpu",        |row, _| row.index.to_string()),
    ("busy ms",     |row, scale| scale.milliseconds(row.busy_ticks)),
    ("idle ms",     |row, scale| scale.milliseconds(row.idle_ticks)),
    ("switches",    |row, _| row.switches.to_string()),
    ("kicks sent",  |row, _| row.kicks_sent.to_string()),
    ("kicks got",   |row, _| row.kicks_received.to_string()),
    ("handed over", |row, _| row.handed_over.to_string()),
    ("exit allocs", |row, _| row.exit_allocations.to_string()),
];

/// The table for `report`, empty if it has no rows.
pub fn render(report: &RunReport) -> String {
    let scale = Scale {
        frequency_hz: report.clock.frequency_hz,
    };
    let mut text = String::new();
    if report.guests.len() > 1 {
        let name = |vcpu: &VcpuReport| {
            let guest = report.guests.iter().find(|end| end.guest == vcpu.guest);
            guest.map_or_else(|| vcpu.guest.to_string(), |end| end.name.clone())
        };
        section(
            &mut text,
            Some(("vm", &name)),
            VCPU_COLUMNS,
            &report.vcpus,
            &scale,
        );
    } else {
        section(&mut text, None, VCPU_COLUMNS, &report.vcpus, &scale);
    }
    section(&mut text, None, PCPU_COLUMNS, &report.pcpus, &scale);
    text
}

fn section<T>(
    text: &mut String,
    leader: Leader<'_, T>,
    columns: &[Column<T>],
    rows: &[T],
    scale: &Scale,
) {
    if rows.is_empty() {
        return;
    }
    let leading = leader.map(|(heading, _)| heading.to_owned());
    let headings = columns.iter().map(|(heading, _)| (*heading).to_owned());
    let mut lines: Vec<Vec<String>> = vec![leading.into_iter().chain(headings).collect()];
    for row in rows {
        let leading = leader.map(|(_, cell)| cell(row));
        let cells = columns.iter().map(|(_, cell)| cell(row, scale));
        lines.push(leading.into_iter().chain(cells).collect());
    }
    *text += &align(&lines);
}

/// The cells of each line, right-aligned in columns of the same width; all lines have as many cells as the first.
pub(super) fn align(lines: &[Vec<String>]) -> String {
    let count = lines.first().map_or(0, Vec::len);
    let width = |column: usize| {
        let cells = lines.iter().map(|line| line[column].chars().count());
        cells.max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..count).map(width).collect();
    let mut text = String::new();
    for line in lines {
        let cells = line
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:>width$}"));
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{}", cells.collect::<Vec<_>>().join("  "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut report = RunReport::default();
        for frame in [
            "clock frequency_hz=1000 elapsed_ticks=10",
            "vcpu index=0 run_ticks=1500 migrations_loaded=1 migrations_parked=2 exits_wait=7",
            "vcpu index=10 exits_wait=123456",
            "pcpu index=0 busy_ticks=1 idle_ticks=2 kicks_sent=3",
        ] {
            assert!(report.add(frame.as_bytes()));
        }
        let text = render(&report);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 5);
        assert!(lines[1].contains("1500.0") && lines[1].contains(" 3 "));
        assert_eq!(lines[0].len(), lines[1].len());
        assert_eq!(lines[0].len(), lines[2].len());
        assert_eq!(render(&RunReport::default()), "");
    }

    #[test]
    fn the_vcpus_of_several_guests_say_whose_they_are() {
        let mut report = RunReport::default();
        for frame in [
            "vcpu guest=0 index=0",
            "vcpu guest=1 index=0",
            "guest 1 0 second x",
            "guest 0 0 first x",
        ] {
            assert!(report.add(frame.as_bytes()));
        }
        let text = render(&report);
        let starts: Vec<&str> = text.lines().map(|line| &line[..12]).collect();
        assert_eq!(starts, ["    vm  vcpu", " first     0", "second     0"]);
        report.guests.pop();
        assert!(render(&report).starts_with("vcpu"));
    }
}

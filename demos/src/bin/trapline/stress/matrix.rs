//! `trapline stress --matrix`: the stress guest on machines of all sizes and models.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use trapline_demos::host::{Failure, failure::Result, launch::Inputs, setup::qemu::TESTED_MODELS};

use super::series::{Outcome, Series, Trial};
use crate::{
    cli::{MachineOptions, Size, StressOptions},
    judge::Judge,
};

const VCPUS: [u16; 6] = [1, 2, 4, 8, 16, 32];
const PCPUS: [u16; 4] = [1, 2, 4, 8];
/// What a machine takes beside the guest's own seconds.
const START: Duration = Duration::from_secs(1);

/// One machine of the matrix, and what became of it.
struct Cell {
    model: String,
    size: Size,
    outcome: Option<Outcome>,
}

/// Runs all of the matrix; the status to end with.
pub fn matrix(options: &StressOptions) -> Result<u8> {
    let mut inputs = Inputs::default();
    let models = models(&options.models, &inputs.emulator()?.models)?;
    let most = options.machine.gic_version().most_cpus();
    let mut cells = cells(&models, &sizes(&options.sizes, most));
    // What is wrong with it is said, and what is missing is set up, before anything is counted.
    drop(
        trial(&cells[0], 1, 1, options)
            .request
            .prepare(&mut inputs)?,
    );
    let mut series = Series::new(cells.len(), inputs, options.machine.quiet)?;
    let end = Instant::now() + Duration::from_secs(60) * options.minutes;
    let count = cells.len();
    for (index, cell) in cells.iter_mut().enumerate() {
        let left = end.saturating_duration_since(Instant::now());
        let seconds = share(left, count - index);
        let trial = trial(cell, seconds, options.seed + index as u64, options);
        cell.outcome = series.run(trial)?;
        if cell.outcome.is_none() {
            break;
        }
    }
    Ok(series.conclude(&render(&cells)))
}

/// Those of `wanted`, or of all, that QEMU has; it says which it lacks.
fn models(wanted: &[String], offered: &[String]) -> Result<Vec<String>> {
    let all = TESTED_MODELS.map(String::from);
    let wanted = if wanted.is_empty() { &all } else { wanted };
    let (here, missing): (Vec<&String>, Vec<&String>) =
        wanted.iter().partition(|model| offered.contains(*model));
    for model in missing {
        eprintln!("trapline: this QEMU has no {model}: skipped");
    }
    if here.is_empty() {
        let remedy = format!("choose some of {}", offered.join(", "));
        let what = "this QEMU has none of the CPU models";
        return Err(Failure::input(what, "--models", &remedy));
    }
    Ok(here.into_iter().cloned().collect())
}

/// Those of `wanted`, or all that have at most `most` CPUs.
fn sizes(wanted: &[Size], most: usize) -> Vec<Size> {
    if !wanted.is_empty() {
        return wanted.to_vec();
    }
    let row = |vcpus| PCPUS.map(|pcpus| Size { vcpus, pcpus });
    let fits = |size: &Size| usize::from(size.vcpus.max(size.pcpus)) <= most;
    let all = VCPUS.into_iter().flat_map(row);
    all.filter(fits).collect()
}

fn cells(models: &[String], sizes: &[Size]) -> Vec<Cell> {
    let cell = |model: &String, size: Size| Cell {
        model: model.clone(),
        size,
        outcome: None,
    };
    let row = |model| sizes.iter().map(move |size| cell(model, *size));
    models.iter().flat_map(row).collect()
}

/// The guest's seconds of the next of `count` cells that have `left` together.
fn share(left: Duration, count: usize) -> u32 {
    let count = u32::try_from(count.max(1)).unwrap_or(u32::MAX);
    let seconds = (left / count).saturating_sub(START).as_secs();
    u32::try_from(seconds).unwrap_or(u32::MAX).max(1)
}

fn trial(cell: &Cell, seconds: u32, seed: u64, options: &StressOptions) -> Trial {
    let Size { vcpus, pcpus } = cell.size;
    let machine = MachineOptions {
        vcpus: Some(vcpus),
        pcpus: Some(pcpus),
        cpu: Some(cell.model.clone()),
        ..options.machine.clone()
    };
    Trial {
        name: format!("{}, {vcpus} vCPUs on {pcpus} pCPUs", cell.model),
        file_name: format!("{}-{vcpus}x{pcpus}", cell.model),
        request: super::request(seconds, seed, &machine),
        judge: Judge::Stress,
        deadline: super::patience(seconds),
        replay: format!(
            "stress --seconds {seconds} --seed {seed}{}",
            machine.as_arguments()
        ),
        options: machine,
    }
}

/// A row for each model and number of vCPUs, a column for each number of pCPUs.
fn render(cells: &[Cell]) -> String {
    let pcpus: BTreeSet<u16> = cells.iter().map(|cell| cell.size.pcpus).collect();
    let mut text = format!("{:<14}{:>5}", "model", "vCPUs");
    for pcpus in &pcpus {
        text += &format!("{:>15}", format!("{pcpus} pCPUs"));
    }
    text.push('\n');
    let mut rows: Vec<(&str, u16)> = Vec::new();
    for cell in cells {
        let row = (cell.model.as_str(), cell.size.vcpus);
        if !rows.contains(&row) {
            rows.push(row);
        }
    }
    for (model, vcpus) in rows {
        text += &format!("{model:<14}{vcpus:>5}");
        for pcpus in &pcpus {
            let size = Size {
                vcpus,
                pcpus: *pcpus,
            };
            let cell = cells
                .iter()
                .find(|cell| cell.model == model && cell.size == size);
            let verdict = match cell.and_then(|cell| cell.outcome) {
                None => "-".into(),
                Some(Outcome { is_good, seconds }) => {
                    let word = if is_good { "ok" } else { "FAIL" };
                    format!("{word} {seconds:.1} s")
                }
            };
            text += &format!("{verdict:>15}");
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use trapline_demos::config::GicVersion;

    use super::*;

    #[test]
    fn the_time_is_shared_among_the_cells() {
        let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
        assert_eq!(share(minutes(30), 168), 9);
        assert_eq!(share(minutes(6), 168), 1);
        assert_eq!(share(Duration::ZERO, 3), 1, "each runs for a second");
        assert_eq!(share(minutes(1), 1), 59);
    }

    #[test]
    fn the_table_has_a_place_for_each_cell() {
        let models = ["max".to_owned(), "cortex-a53".to_owned()];
        let size = |vcpus, pcpus| Size { vcpus, pcpus };
        let mut cells = cells(&models, &[size(1, 8), size(16, 8), size(16, 2)]);
        cells[1].outcome = Some(Outcome {
            is_good: true,
            seconds: 2.04,
        });
        cells[5].outcome = Some(Outcome {
            is_good: false,
            seconds: 300.0,
        });
        let table = render(&cells);
        let rows: Vec<Vec<&str>> = table
            .lines()
            .map(|line| {
                line.split("  ")
                    .map(str::trim)
                    .filter(|cell| !cell.is_empty())
                    .collect()
            })
            .collect();
        assert_eq!(rows[0], ["model", "vCPUs", "2 pCPUs", "8 pCPUs"]);
        assert_eq!(rows[1], ["max", "1", "-", "-"]);
        assert_eq!(rows[2], ["max", "16", "-", "ok 2.0 s"]);
        assert_eq!(rows[3], ["cortex-a53", "1", "-", "-"]);
        assert_eq!(rows[4], ["cortex-a53", "16", "FAIL 300.0 s", "-"]);
        assert_eq!(rows.len(), 5);
    }

    #[test]
    fn models_that_qemu_lacks_are_left_out() {
        let names = |names: &[&str]| {
            names
                .iter()
                .map(|name| (*name).to_owned())
                .collect::<Vec<_>>()
        };
        let offered = names(&["a64fx", "cortex-a53", "max"]);
        assert_eq!(models(&[], &offered), Ok(names(&["cortex-a53", "max"])));
        let wanted = names(&["max", "nothing"]);
        assert_eq!(models(&wanted, &offered), Ok(names(&["max"])));
        let failure = models(&names(&["nothing"]), &offered).expect_err("nothing is left");
        assert!(
            failure.to_string().contains("choose some of a64fx"),
            "{failure}"
        );
    }

    #[test]
    fn the_whole_matrix_has_all_sizes() {
        let cells = cells(&TESTED_MODELS.map(String::from), &sizes(&[], 64));
        assert_eq!(cells.len(), 7 * 6 * 4);
        assert_eq!(sizes(&[], GicVersion::V2.most_cpus()).len(), 4 * 4);
    }
}

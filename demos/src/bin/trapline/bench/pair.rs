//! Wall clock of two guests that share the machine, against one after the other. The two ways take turns.

use trapline_demos::host::{
    Failure,
    failure::Result,
    request::{GuestRequest, GuestSource},
};

use super::{WORKLOAD, WORKLOAD_OK, machine, measure_all, median};
use crate::run;

pub fn pair(runs: usize) -> Result<u8> {
    let (mut apart, mut together) = (Vec::new(), Vec::new());
    for run in 0..runs {
        let one_by_one = seconds(&["first"])? + seconds(&["second"])?;
        let at_once = seconds(&["first", "second"])?;
        eprintln!(
            "trapline: run {} of {runs}: one after the other {one_by_one:.2} s, together {at_once:.2} s",
            run + 1
        );
        apart.push(one_by_one);
        together.push(at_once);
    }
    let (apart, together) = (median(apart), median(together));
    println!("one after the other: median {apart:.2} s");
    println!(
        "together: median {together:.2} s, ratio {:.2}",
        together / apart
    );
    Ok(0)
}

/// How long guests with these names take together.
fn seconds(names: &[&str]) -> Result<f64> {
    let options = machine(2, 2, "cortex-a72");
    let guest = |name: &&str| GuestRequest {
        name: (*name).to_owned(),
        ..GuestRequest::new(GuestSource::Stock, WORKLOAD.into(), 2)
    };
    let request = run::machine(names.iter().map(guest).collect(), &options);
    let ended = measure_all(&request, &options, &[WORKLOAD_OK])?;
    if ended.marked.iter().any(Vec::is_empty) {
        return Err(Failure::hypervisor("the workload failed"));
    }
    Ok(ended.report.wall_seconds)
}

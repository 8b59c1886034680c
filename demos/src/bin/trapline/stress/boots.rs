//! `trapline stress --boots N`: several Linux guests at once, from power-on to power-off, again and again.

use std::time::Duration;

use trapline_demos::host::{
    failure::Result,
    launch::Inputs,
    request::{GuestRequest, GuestSource},
};

use super::series::{Series, Trial};
use crate::{cli::StressOptions, judge::Judge, run};

const GUESTS: [&str; 3] = ["first", "second", "third"];
const VCPUS: u16 = 4;
/// A boot takes seconds; this is for a host under load.
const LIMIT: Duration = Duration::from_secs(120);

/// Boots so many times; the status to end with.
pub fn boots(count: u32, options: &StressOptions) -> Result<u8> {
    let machine = &options.machine;
    let vcpus = usize::from(machine.vcpus.unwrap_or(VCPUS));
    let guests = GUESTS.map(|name| GuestRequest {
        name: name.into(),
        ..GuestRequest::new(GuestSource::Stock, "panic=-1 trapline=batch".into(), vcpus)
    });
    let request = run::machine(guests.into(), machine);
    let mut inputs = Inputs::default();
    // What is wrong with it is said, and what is missing is set up, before anything is counted.
    drop(request.prepare(&mut inputs)?);
    let mut series = Series::new(count as usize, inputs, machine.quiet)?;
    let replay = format!("stress --boots {count}{}", machine.as_arguments());
    let mut seconds = Vec::new();
    for boot in 1..=count {
        let trial = Trial {
            name: format!("boot {boot}"),
            file_name: format!("boot-{boot}"),
            request: request.clone(),
            options: machine.clone(),
            judge: Judge::Workload,
            deadline: LIMIT,
            replay: replay.clone(),
        };
        match series.run(trial)? {
            Some(outcome) if outcome.is_good => seconds.push(outcome.seconds),
            Some(_) => {}
            None => break,
        }
    }
    seconds.sort_by(f64::total_cmp);
    let well = seconds.len();
    let guests = GUESTS.len();
    let pcpus = request.pcpus;
    let mut summary = format!(
        "{well} of {count} boots of {guests} Linux guests with {vcpus} vCPUs on {pcpus} pCPUs went well"
    );
    if let [least, .., most] | [least @ most] = seconds.as_slice() {
        let median = seconds[well / 2];
        summary += &format!(": min {least:.1} s, median {median:.1} s, max {most:.1} s");
    }
    Ok(series.conclude(&(summary + "\n")))
}

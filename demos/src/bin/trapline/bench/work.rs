//! CPU-bound work: what eight vCPUs on four pCPUs get done, against four on four.
//!
//! By counting instructions, so the difference is exactly what scheduling costs.

use trapline_demos::host::{Failure, failure::Result};

use super::{bench_guest, field, machine, measure};
use crate::cli::MachineOptions;

const MARKER: &str = "WORK ";
const PARAMETERS: &str = "figures=work milliseconds=400";

pub fn work() -> Result<u8> {
    let alone = iterations(4)?;
    let shared = iterations(8)?;
    let lost = (1.0 - shared as f64 / alone as f64) * 100.0;
    println!("4 vCPUs on 4 pCPUs: {alone} iterations");
    println!("8 vCPUs on 4 pCPUs: {shared} iterations, {lost:.2} % lost");
    Ok(0)
}

fn iterations(vcpus: u16) -> Result<u64> {
    let options = MachineOptions {
        icount: true,
        ..machine(vcpus, 4, "cortex-a72")
    };
    let ended = measure(bench_guest(), PARAMETERS, &options, &[MARKER])?;
    let result = ended.marked[0]
        .iter()
        .find_map(|line| field(line, "iterations")?.parse().ok());
    result.ok_or_else(|| Failure::hypervisor("the bench guest printed no result"))
}

//! Samples of one figure, and the line that reports them.

use trapline_demos::guest_println;

/// Samples taken for each figure; odd, so that the median is one of them.
pub const SAMPLES: usize = 101;

/// Takes the samples of a figure by `sample`, which returns ticks, and prints the figure: each sample less `overhead`, divided
/// by `parts`.
pub fn report(name: &str, floor: u64, overhead: u64, parts: u64, mut sample: impl FnMut() -> u64) {
    let mut ticks = [0; SAMPLES];
    for one in &mut ticks {
        *one = sample().saturating_sub(overhead) / parts;
    }
    ticks.sort_unstable();
    guest_println!(
        "BENCH name={name} instructions={} floor={floor} least={} most={}",
        ticks[SAMPLES / 2],
        ticks[0],
        ticks[SAMPLES - 1]
    );
}

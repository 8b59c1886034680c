//! What the command does around a run: what it shows, what it writes, how it ends a run that does not end.

use std::fs;

use crate::harness::Run;

/// A guest that is through in a moment.
fn short() -> Run {
    Run::guest("test-guest")
        .append("test=vgic-pmr")
        .vcpus(1)
        .pcpus(1)
}

#[test]
fn quiet_shows_nothing_but_the_guests_console() {
    let output = short().argument("--quiet").start();
    output.expect_exit(0);
    output.expect_in_order(["TEST vgic-pmr PASS"]);
    output.require(output.log.is_empty(), || "something on stderr".into());
}

#[test]
fn the_log_and_the_table_can_be_had() {
    let directory = tempfile::tempdir().expect("a directory for temporary files");
    let log = directory.path().join("log");
    let output = short().option("--log", log.display()).start();
    output.expect_exit(0);
    let log = fs::read_to_string(log).unwrap_or_default();
    output.require(log.contains("pCPU"), || format!("the log is `{log}`"));
    output.require(!output.log.contains("INFO"), || {
        "the log is on stderr too".into()
    });
    output.require(output.log.contains("blocked ms"), || "no table".into());
    output.require(output.counter("calls_psci") > 0, || {
        "PSCI was never called".into()
    });
}

#[test]
fn a_guest_that_never_ends_meets_its_deadline() {
    let directory = tempfile::tempdir().expect("a directory for temporary files");
    let kernel = directory.path().join("loop.bin");
    // The instruction `b .`
    fs::write(&kernel, 0x1400_0000_u32.to_le_bytes()).expect("room for a file");
    Run::kernel(&kernel).deadline(3).start().expect_exit(124);
}

#[test]
fn counting_instructions_makes_runs_equal() {
    let run = || {
        let figures = Run::guest("bench-guest").append("figures=machine").icount();
        figures.vcpus(2).pcpus(2).start()
    };
    let (first, second) = (run(), run());
    first.expect_exit(0);
    first.expect_in_order(["BENCH name=", "BENCH END"]);
    first.require(first.console == second.console, || {
        format!("then: {}", second.console)
    });
}

//! A guest that does what no guest should, beside one that must not notice: it goes on or is stopped, and nothing else happens.

use crate::harness::{Run, is_full_tier, runs_long_tests};

/// What the rogue guest does, with its parameters and how many vCPUs do it.
const MISCHIEF: [(&str, &str, usize); 9] = [
    ("devices", "count=10000", 2),
    ("register-reads", "", 1),
    ("register-writes", "count=20000", 2),
    ("calls", "", 4),
    ("semihosting", "", 1),
    ("storms", "ms=1000", 8),
    ("nowhere", "ms=1000", 8),
    ("words", "ms=1000", 4),
    ("words32", "ms=1000", 1),
];

/// The rogue guest and the stress guest on two pCPUs: both reach their ends.
#[track_caller]
fn beside_each_other(cpu: &str, name: &str, parameters: &str, vcpus: usize) {
    beside_each_other_on(&format!("cpu = \"{cpu}\""), name, parameters, vcpus);
}

/// The same, with this in the description of the machine.
#[track_caller]
fn beside_each_other_on(machine: &str, name: &str, parameters: &str, vcpus: usize) {
    let machine = format!(
        "pcpus = 2\n{machine}\n\
         [[vm]]\nname = \"rogue\"\nguest = \"rogue-guest\"\nvcpus = {vcpus}\nappend = \"test={name} {parameters}\"\n\
         [[vm]]\nname = \"beside\"\nguest = \"stress\"\nvcpus = 2\nappend = \"seconds=1\"\n"
    );
    let directory = tempfile::tempdir().expect("a directory for temporary files");
    let file = directory.path().join("rogue.toml");
    std::fs::write(&file, machine).expect("room for a file");
    let output = Run::linux()
        .option("--config", file.display())
        .deadline(180)
        .start();
    output.expect_exit(0);
    output.expect_in_order([format!("ROGUE {name} END").as_str()]);
    output.expect_in_order(["STRESS PASS vcpus=2"]);
    output.expect_no_exit_allocation();
}

/// The models of a tier.
fn models() -> &'static [&'static str] {
    match (runs_long_tests(), is_full_tier()) {
        (false, _) => &["cortex-a72"],
        (true, false) => &["max"],
        (true, true) => &["cortex-a72", "max"],
    }
}

macro_rules! tests {
    ($($test:ident = $name:literal;)+) => {
        $(
            #[test]
            fn $test() {
                let found = MISCHIEF.iter().find(|mischief| mischief.0 == $name);
                let (name, parameters, vcpus) = *found.expect("the table has it");
                for model in models() {
                    beside_each_other(model, name, parameters, vcpus);
                }
            }
        )+
    };
}

tests! {
    any_access_to_any_device_is_answered = "devices";
    any_register_can_be_read = "register-reads";
    any_register_can_be_written = "register-writes";
    any_call_is_answered = "calls";
    semihosting_reaches_nobody = "semihosting";
    storms_of_exits_and_interrupts_starve_nobody = "storms";
    a_cpu_with_nothing_under_it_stops_nobody = "nowhere";
    any_instruction_can_be_executed = "words";
    any_instruction_of_32_bits_can_be_executed = "words32";
}

#[test]
fn with_gicv2_any_access_to_any_device_is_answered() {
    if runs_long_tests() {
        beside_each_other_on("gic = 2", "devices", "count=10000", 2);
    }
}

/// Other seeds than those of every day, on old models and new ones.
#[test]
fn many_instructions_can_be_executed() {
    let all = [
        (2, "cortex-a53"),
        (5, "max"),
        (3, "cortex-a76"),
        (4, "neoverse-n1"),
    ];
    let of_tier = match (runs_long_tests(), is_full_tier()) {
        (false, _) => 0,
        (true, false) => 2,
        (true, true) => all.len(),
    };
    for (seed, cpu) in &all[..of_tier] {
        beside_each_other(cpu, "words", &format!("ms=1500 seed={seed}"), 6);
    }
}

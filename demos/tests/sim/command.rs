//! `trapline sim` as it is typed: what it prints, what it writes, and the status that it ends with.

use std::{
    fs::{self, File},
    io::Read,
    path::Path,
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::terminal::Terminal;

fn command(arguments: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_trapline"));
    command.arg("sim").args(arguments.split_whitespace());
    command
}

fn start(arguments: &str) -> Output {
    command(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("the command starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What it prints when all goes well.
#[track_caller]
fn printed(arguments: &str) -> String {
    let output = start(arguments);
    assert_eq!(
        output.status.code(),
        Some(0),
        "{arguments}: {}",
        text(&output.stderr)
    );
    text(&output.stdout)
}

#[track_caller]
fn refused(arguments: &str, parts: &[&str]) {
    let output = start(arguments);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{arguments}: {said}");
    assert!(output.stdout.is_empty(), "something on stdout");
    assert!(
        said.lines().count() == 1 && said.starts_with("trapline: error: "),
        "{said}"
    );
    for part in parts {
        assert!(said.contains(part), "`{part}` is not in `{said}`");
    }
}

#[test]
fn without_a_scenario_those_that_there_are_are_listed() {
    let listed = printed("");
    assert_eq!(listed, printed("--list"));
    // An empty line ends the list.
    let lines = listed.lines().take_while(|line| !line.is_empty());
    let names: Vec<&str> = lines
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let paths = fs::read_dir(directory).expect("a directory");
    let paths = paths.map(|entry| entry.expect("a file").path());
    let files = paths.filter(|path| path.extension() == Some("toml".as_ref()));
    let mut files: Vec<String> = files
        .filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned()))
        .collect();
    files.sort_unstable();
    assert!(files.len() > 1);
    assert_eq!(names, files);
}

#[test]
fn what_can_never_be_done_is_bad_input_in_its_line() {
    let directory = tempfile::tempdir().expect("a directory for temporary files");
    let path = directory.path().join("nobody.toml");
    for action in ["pcpu = 0", "vcpu = 50"] {
        let text = format!(
            "duration_ms = 60\n[topology]\npcpus = 2\n\
             [[vm]]\nname = \"a\"\naffinity = \"1\"\nworkload = \"cpu-bound\"\n\
             [[action]]\ndo = \"migrate\"\n{action}\nabout_every_ms = 5\n"
        );
        fs::write(&path, text).expect("a file");
        let arguments = path.display().to_string();
        refused(&arguments, &["nobody.toml:9: do of this action"]);
    }
}

#[test]
fn the_same_seed_prints_the_same() {
    let table = printed("weights --duration 100 --seed 7");
    assert!(
        table.contains("share %") && table.contains("four"),
        "{table}"
    );
    assert_eq!(table, printed("weights --duration 100 --seed 7"));
    let jobs = |jobs: u32| printed(&format!("caps --duration 20 --seeds 0..20 --jobs {jobs}"));
    assert_eq!(jobs(1), jobs(3));
    assert_eq!(jobs(1), "caps under credit: 20 seeds, 0 broke a rule\n");
}

#[test]
fn a_hunt_shows_on_a_terminal_how_far_it_is_and_nowhere_else() {
    let hunt = "weights --duration 50 --seeds 0..40";
    let found = "weights under fair: 40 seeds, 0 broke a rule\n";
    let directory = tempfile::tempdir().expect("a directory for temporary files");
    let path = directory.path().join("screen");
    let terminal = Terminal::new(File::create(&path).expect("a file"));
    let output = command(hunt)
        .env("TERM", "xterm")
        .stdin(Stdio::null())
        .stderr(terminal.end())
        .output()
        .expect("the command starts");
    drop(terminal);
    let screen = fs::read_to_string(&path).expect("a file");
    assert!(
        screen.contains("trapline: [") && screen.contains(" of 40, "),
        "{screen}"
    );
    assert_eq!(text(&output.stdout), found);
    let output = start(hunt);
    assert_eq!(text(&output.stderr), "");
    assert_eq!(text(&output.stdout), found);
}

#[test]
fn policies_stand_side_by_side() {
    let table = printed("weights --duration 100 --policy fair,credit,round-robin");
    let first = table.lines().next().unwrap_or_default();
    let groups: Vec<&str> = first.split_whitespace().collect();
    assert_eq!(groups, ["fair", "|", "credit", "|", "round-robin"]);
    assert_eq!(table.matches("share %").count(), 3);
}

#[test]
fn json_has_the_keys_that_are_promised() {
    let json = printed("sleepers --duration 300 --seed 5 --json --policy fair,credit");
    let json: Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(
        (&json["scenario"], &json["seed"]),
        (&"sleepers".into(), &5.into())
    );
    let run = &json["runs"][1];
    assert_eq!(run["policy"], "credit");
    // The scenario warms up for 100 ms.
    assert_eq!(run["virtual_time_ns"], 200_000_000);
    assert!(run["events"].as_u64().is_some_and(|events| events > 0));
    let vm = &run["vms"][1];
    assert_eq!(
        (&vm["name"], &vm["part"], &vm["vcpus"]),
        (&"bursts".into(), &"bursts".into(), &1.into())
    );
    for key in [
        "run_ns",
        "ready_ns",
        "blocked_ns",
        "worst_wait_ns",
        "migrations",
        "far_migrations",
        "switches",
        "yields",
        "deadlines",
        "misses",
        "rounds",
    ] {
        assert!(vm[key].is_u64(), "{key}");
    }
    assert!(vm["share"].is_f64());
    assert!(vm.get("entitled").is_some() && vm.get("finished_at_ns").is_some());
    for key in ["count", "min", "mean", "p50", "p90", "p99", "p99_9", "max"] {
        assert!(vm["wakeup_ns"][key].is_u64(), "{key}");
    }
    for key in ["busy_ns", "idle_ns", "overhead_ns", "switches", "kicks"] {
        assert!(run["pcpus"][0][key].is_u64(), "{key}");
    }
    let hunts: Value =
        serde_json::from_str(&printed("caps --duration 10 --seeds 3 --json")).expect("JSON");
    assert_eq!(hunts["hunts"][0]["seeds"], 1);
    assert!(
        hunts["hunts"][0]["failures"]
            .as_array()
            .is_some_and(Vec::is_empty)
    );
}

#[test]
fn pools_are_in_the_table_and_in_json() {
    let table = printed("hotplug --duration 300");
    let line = |start: &str| {
        let lines = table.lines().map(|line| line.split_whitespace().collect());
        let mut found = lines.filter(|words: &Vec<&str>| words.first() == Some(&start));
        found
            .next()
            .unwrap_or_else(|| panic!("no {start}: {table}"))
    };
    assert_eq!(line("beside")[1], "pair");
    // pCPU 5 is off by then.
    assert_eq!(line("pair")[1..4], ["4", "credit", "3"]);
    assert!(table.trim_end().ends_with("11 actions"), "{table}");
    let json = printed("hotplug --duration 300 --json");
    let json: Value = serde_json::from_str(&json).expect("JSON");
    let run = &json["runs"][0];
    assert_eq!(
        (&run["actions"], &run["refused_actions"]),
        (&11.into(), &0.into())
    );
    assert_eq!(run["vms"][2]["pool"], "pair");
    let pool = &run["pools"][1];
    assert_eq!(
        (
            &pool["name"],
            &pool["policy"],
            &pool["pcpus"],
            &pool["vcpus"]
        ),
        (&"pair".into(), &"credit".into(), &"4".into(), &3.into())
    );
    for key in ["busy_ns", "idle_ns", "overhead_ns", "switches", "kicks"] {
        assert!(pool[key].is_u64(), "{key}");
    }
}

#[test]
fn a_failure_shows_what_somebody_did_and_the_command_that_shows_it_again() {
    let directory = tempfile::tempdir().expect("a directory for temporary files");
    let path = directory.path().join("both.toml");
    // What is unplugged at 50 ms may be gone by chance then: nobody knows before.
    let text = "duration_ms = 60\n[topology]\npcpus = 2\n[[vm]]\nname = \"a\"\nworkload = \"cpu-bound\"\n\
                [[action]]\ndo = \"unplug\"\npcpu = 1\nabout_every_ms = 5\n\
                [[action]]\ndo = \"unplug\"\npcpu = 1\nat_ms = 50\n";
    fs::write(&path, text).expect("a file");
    let output = start(&format!("{} --seed 7", path.display()));
    assert_eq!(output.status.code(), Some(1), "{}", text_of(&output));
    let said = text_of(&output);
    let first = said.lines().next().unwrap_or_default();
    assert_eq!(
        first,
        "FAIL seed 7 under round-robin, at 50000000 ns: unplugs pcpu1 at 50000000 ns is refused: \
         pcpu1 is unplugged: it belongs to no pool"
    );
    assert!(said.contains("pcpu1 is drained\n"), "{said}");
    assert!(said.contains("somebody unplugs pcpu1\n"), "{said}");
    assert!(said.contains("somebody unplugs pcpu1: refused, "), "{said}");
    let again = format!(
        "  again: cargo run -- sim {} --policy round-robin --seed 7\n",
        path.display()
    );
    assert!(said.ends_with(&again), "{said}");
    assert!(said.lines().count() < 60, "{said}");
}

fn text_of(output: &Output) -> String {
    text(&output.stdout)
}

#[test]
fn a_plot_is_written_where_it_should_be() {
    let directory = tempfile::tempdir().expect("a directory for temporary files");
    let plot = directory.path().join("plot.svg");
    printed(&format!(
        "weights --duration 50 --plot {} --plot-ms 10..20",
        plot.display()
    ));
    let svg = fs::read_to_string(&plot).expect("it is written");
    assert!(svg.starts_with("<svg") && svg.contains("pcpu3"));
    let absent = directory.path().join("absent.svg");
    refused(
        &format!(
            "weights --duration 50 --plot {} --plot-ms 60..70",
            absent.display()
        ),
        &["nothing happens after 50 ms"],
    );
    assert!(!absent.exists(), "a file was left behind");
}

#[test]
fn bad_usage_is_refused() {
    refused(
        "weigths",
        &["there is no scenario `weigths`", "did you mean `weights`?"],
    );
    refused("absent.toml", &["absent.toml", "check that it exists"]);
    refused(
        "weights --policy lottery",
        &[
            "unknown policy `lottery`",
            "--policy",
            "choose one of round-robin",
        ],
    );
    refused(
        "weights --policy table",
        &["the policy table needs a table"],
    );
    refused("weights --seeds 5..5", &["--seeds", "0..1000"]);
    refused("weights --seeds 0..5 --seed 1", &["--seed"]);
    refused("weights --jobs 2", &["--seeds"]);
    refused("weights --duration 0", &["--duration"]);
    refused(
        "weights --plot /nonexistent/plot.svg",
        &["/nonexistent/plot.svg"],
    );
}

#[test]
fn nobody_need_read_to_the_end() {
    let mut child = command("--list")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    drop(child.stdout.take());
    let status = child.wait().expect("our child");
    let mut said = String::new();
    let stderr = child.stderr.as_mut().expect("a pipe");
    stderr.read_to_string(&mut said).expect("text");
    assert_eq!((status.code(), said.as_str()), (Some(0), ""));
}

#[test]
fn a_hunt_ends_when_the_user_wants_it() {
    let mut child = command("weights --duration 20 --seeds 0..1000000000 --jobs 2")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    thread::sleep(Duration::from_millis(500));
    let pid = Pid::from_child(&child);
    kill_process(pid, Signal::INT).expect("our child");
    let limit = Instant::now() + Duration::from_secs(60);
    while child.try_wait().expect("our child").is_none() {
        if Instant::now() > limit {
            child.kill().expect("our child");
            panic!("it goes on");
        }
        thread::sleep(Duration::from_millis(10));
    }
    let output = child.wait_with_output().expect("our child");
    assert_eq!(output.status.code(), Some(130), "{}", text(&output.stderr));
    assert!(
        text(&output.stderr).contains("stopped after"),
        "{}",
        text(&output.stderr)
    );
    assert!(
        text(&output.stdout).contains("0 broke a rule"),
        "{}",
        text(&output.stdout)
    );
}

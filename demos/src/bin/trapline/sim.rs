//! `trapline sim`: runs a scenario on a machine in memory, compares policies, or hunts for a seed that breaks a rule.

use std::{
    fmt::Write as _,
    io::{ErrorKind, IsTerminal, Write as _, stderr, stdout},
    num::NonZero,
    ops::Range,
    panic,
    path::Path,
    process, thread,
    time::Instant,
};

use trapline_demos::host::{
    Failure,
    failure::{Result, at},
    output_file::OutputFile,
    sim::{
        self, Broken, Outcome, RunOptions, Scenario, ScenarioFile,
        hunt::Hunt,
        json::{self, HuntResult, Hunts, Runs},
        plot::{self, Panel},
        shipped,
        summary::{self, Summary},
    },
};

use crate::{
    batch::{Signals, progress_bar},
    cli::SimOptions,
};

/// A rule was broken.
const RULE_BROKEN: u8 = 1;
const MS: u64 = 1_000_000;

/// Runs what was asked for; the status to end with.
pub fn sim(options: &SimOptions) -> Result<u8> {
    let Some(given) = options.scenario.as_deref().filter(|_| !options.list) else {
        return list();
    };
    let path = shipped::find(given)?;
    let file = ScenarioFile::read(&path)?;
    let policies = match options.policy.as_slice() {
        [] => vec![file.policy().to_owned()],
        named => named.to_vec(),
    };
    let limit = options.duration.map(|duration| duration * MS);
    let scenario = |policy: &String| file.scenario(policy, limit);
    let scenarios = policies.iter().map(scenario).collect::<Result<Vec<_>>>()?;
    let asked = Asked {
        options,
        given,
        file: &file,
        scenarios: &scenarios,
    };
    match &options.seeds {
        Some(seeds) => asked.hunt(seeds),
        None => asked.run(&path),
    }
}

/// Writes to stdout, where nobody may be left to read.
fn print(text: &str) -> Result<()> {
    match stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(at("stdout")(error)),
        _ => Ok(()),
    }
}

fn list() -> Result<u8> {
    let all = shipped::all()?;
    let width = all
        .iter()
        .map(|shipped| shipped.name.len())
        .max()
        .unwrap_or(0);
    let mut text = String::new();
    for shipped in &all {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{:width$}  {}", shipped.name, shipped.about);
    }
    text += "\nRun one with `cargo run -- sim NAME`, or a file of your own: see docs/guide/simulator.md\n";
    print(&text)?;
    Ok(0)
}

/// What the user asked for.
struct Asked<'a> {
    options: &'a SimOptions,
    /// The scenario, as the user named it.
    given: &'a str,
    file: &'a ScenarioFile,
    /// One for each policy.
    scenarios: &'a [Scenario],
}

impl Asked<'_> {
    /// A rule that breaks is a panic in the scheduler. Where panics unwind, that is a failure of the run, which is told then;
    /// elsewhere it is told here, and ends the process. `option` says how a seed is given.
    fn expect_panics(&self, scenario: &Scenario, option: &str) {
        if cfg!(panic = "unwind") {
            return;
        }
        let before = panic::take_hook();
        let policy = scenario.policy.name.clone();
        let again = self.command(scenario, option);
        panic::set_hook(Box::new(move |info| {
            let message = info.payload_as_str().unwrap_or_default();
            let Some(failure) = sim::failure_of_panic(message) else {
                return before(info);
            };
            let broken = Broken::new(&failure, format!("{again} {}", failure.seed));
            // There is nobody left to tell if stdout has gone.
            let _ = print(&told(&broken, &policy));
            process::exit(RULE_BROKEN.into());
        }));
    }

    /// Each policy once, with the same seed.
    fn run(&self, path: &Path) -> Result<u8> {
        let seed = self.options.seed;
        let drawn = self.drawn()?;
        let plot = match &self.options.plot {
            Some(plot) => Some(OutputFile::open(plot, "--plot", &[], &[path.to_owned()])?),
            None => None,
        };
        let options = RunOptions {
            interleave: false,
            record_stretches: plot.is_some(),
        };
        let mut outcomes: Vec<Outcome> = Vec::new();
        for scenario in self.scenarios {
            self.expect_panics(scenario, "--seed");
            let began = Instant::now();
            match sim::run(scenario, seed, &options) {
                Ok(outcome) => outcomes.push(outcome),
                Err(failure) => {
                    let replay = self.command(scenario, &format!("--seed {seed}"));
                    print(&told(&Broken::new(&failure, replay), &scenario.policy.name))?;
                    return Ok(RULE_BROKEN);
                }
            }
            if let Some(outcome) = outcomes.last().filter(|_| !self.options.json) {
                self.say_how_fast(outcome, began);
            }
        }
        let summarise = |outcome| Summary::new(self.file, outcome);
        let summaries: Vec<Summary> = outcomes.iter().map(summarise).collect();
        if self.options.json {
            let run = |outcome| json::Run::new(self.file, outcome);
            self.print_json(&Runs {
                scenario: self.given.to_owned(),
                seed,
                runs: outcomes.iter().map(run).collect(),
            })?;
        } else {
            print(&match (summaries.as_slice(), outcomes.as_slice()) {
                ([summary], [outcome]) => summary::table(summary, outcome),
                (summaries, _) => summary::comparison(summaries),
            })?;
        }
        if let Some(plot) = plot {
            self.plot(plot, drawn, &outcomes, &summaries)?;
        }
        Ok(0)
    }

    fn say_how_fast(&self, outcome: &Outcome, began: Instant) {
        let seconds = began.elapsed().as_secs_f64();
        eprintln!(
            "trapline: {} under {}, seed {}: {:.1} ms of {} pCPUs in {seconds:.2} s, {:.2} million events a second",
            self.given,
            outcome.policy,
            outcome.seed,
            outcome.virtual_time as f64 / MS as f64,
            outcome.pcpus.len(),
            outcome.events as f64 / seconds / 1e6
        );
    }

    /// What of the time is drawn.
    fn drawn(&self) -> Result<Range<u64>> {
        let end = self.scenarios[0].duration;
        match &self.options.plot_ms {
            Some(asked) if asked.start.saturating_mul(MS) < end => {
                Ok(asked.start * MS..asked.end.saturating_mul(MS).min(end))
            }
            Some(asked) => {
                let what = format!("nothing happens after {} ms", end / MS);
                let remedy = format!("begin before {} ms", asked.start);
                Err(Failure::input(what, "--plot-ms", &remedy))
            }
            None => Ok(0..end),
        }
    }

    fn plot(
        &self,
        file: OutputFile,
        drawn: Range<u64>,
        outcomes: &[Outcome],
        summaries: &[Summary],
    ) -> Result<()> {
        let panels: Vec<Panel<'_>> = (self.scenarios.iter().zip(outcomes).zip(summaries))
            .map(|((scenario, outcome), summary)| Panel {
                scenario,
                outcome,
                summary,
            })
            .collect();
        let svg = plot::svg(self.file, &panels, drawn)
            .map_err(|error| Failure::input(error, "--plot", "leave it out"))?;
        file.commit()?
            .write_all(svg.as_bytes())
            .map_err(at("--plot"))
    }

    /// Each policy with each of `seeds`, interleaved.
    fn hunt(&self, seeds: &Range<u64>) -> Result<u8> {
        let signals = Signals::catch()?;
        let jobs = self.options.jobs.or(thread::available_parallelism().ok());
        let mut hunts = Vec::new();
        for scenario in self.scenarios {
            self.expect_panics(scenario, "--seeds");
            let policy = &scenario.policy.name;
            let count = seeds.end - seeds.start;
            let bar = stderr().is_terminal().then(|| progress_bar(count));
            if let Some(bar) = &bar {
                bar.set_message(policy.clone());
            }
            let hunt = Hunt {
                scenario,
                seeds: seeds.clone(),
                jobs: jobs.unwrap_or(NonZero::<usize>::MIN),
                keeps_going: self.options.keep_going,
                signal: signals.number(),
            };
            let caught = hunt.run(&|| {
                if let Some(bar) = &bar {
                    bar.inc(1);
                }
            });
            if let Some(bar) = &bar {
                bar.finish_and_clear();
            }
            let broken = caught.failures.iter().map(|failure| {
                let again = format!("--seeds {}", failure.seed);
                Broken::new(failure, self.command(scenario, &again))
            });
            let found = HuntResult {
                policy: policy.clone(),
                seeds: caught.done,
                failures: broken.collect(),
            };
            if !self.options.json {
                self.tell(&found)?;
            }
            hunts.push(found);
            if signals.has_come() {
                eprintln!("trapline: stopped after {} of {count} seeds", caught.done);
                break;
            }
        }
        let is_bad = hunts.iter().any(|hunt| !hunt.failures.is_empty());
        if self.options.json {
            let scenario = self.given.to_owned();
            self.print_json(&Hunts { scenario, hunts })?;
        }
        Ok(if is_bad {
            RULE_BROKEN
        } else {
            signals.status()
        })
    }

    fn tell(&self, hunt: &HuntResult) -> Result<()> {
        let mut text = String::new();
        for broken in &hunt.failures {
            text += &told(broken, &hunt.policy);
        }
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{} under {}: {} seeds, {} broke a rule",
            self.given,
            hunt.policy,
            hunt.seeds,
            hunt.failures.len()
        );
        print(&text)
    }

    fn print_json(&self, value: &impl serde::Serialize) -> Result<()> {
        let text =
            serde_json::to_string_pretty(value).map_err(|error| at("stdout")(error.into()))?;
        print(&format!("{text}\n"))
    }

    /// The command that runs `scenario` alone, with `more` options.
    fn command(&self, scenario: &Scenario, more: &str) -> String {
        let duration = match self.options.duration {
            Some(duration) => format!(" --duration {duration}"),
            None => String::new(),
        };
        let policy = &scenario.policy.name;
        format!(
            "cargo run -- sim {} --policy {policy}{duration} {more}",
            self.given
        )
    }
}

/// What is said of a rule that was broken.
fn told(broken: &Broken, policy: &str) -> String {
    let mut text = format!(
        "FAIL seed {} under {policy}, at {} ns: {}\n",
        broken.seed, broken.time_ns, broken.rule
    );
    for line in &broken.history {
        text += &format!("  {line}\n");
    }
    text + &format!("  again: {}\n", broken.replay)
}

//! What a run printed, and what a test expects of it.

use serde_json::Value;

/// All that came out of one run.
#[derive(Debug)]
pub struct Output {
    pub command: String,
    /// `None` if it had to be killed.
    pub status: Option<i32>,
    pub console: String,
    pub log: String,
    /// What `--stats` wrote, as JSON.
    pub stats: Option<Value>,
}

impl Output {
    /// It ended with `status`.
    #[track_caller]
    pub fn expect_exit(&self, status: i32) {
        self.require(self.status == Some(status), || {
            format!("status {:?} instead of {status}", self.status)
        });
    }

    /// The console has all `lines`, in this order, each as a part of a line, with anything between.
    #[track_caller]
    pub fn expect_in_order<const N: usize>(&self, lines: [&str; N]) {
        let mut rest = self.console.lines();
        for expected in lines {
            let is_there = rest.any(|line| line.contains(expected));
            self.require(is_there, || {
                format!("no `{expected}` on the console, in its place")
            });
        }
    }

    /// The console does not have `text`.
    #[track_caller]
    pub fn expect_absent(&self, text: &str) {
        self.require(!self.console.contains(text), || {
            format!("`{text}` on the console")
        });
    }

    /// What each row of `table` (`vcpus` or `pcpus`) has in `field`.
    #[track_caller]
    pub fn column(&self, table: &str, field: &str) -> Vec<u64> {
        let rows = self
            .stats
            .as_ref()
            .and_then(|stats| stats[table].as_array());
        let values = rows.map(|rows| rows.iter().filter_map(|row| row[field].as_u64()).collect());
        self.require(values.is_some(), || {
            format!("no `{table}` in the statistics")
        });
        values.unwrap_or_default()
    }

    /// What was counted under `name`.
    #[track_caller]
    pub fn counter(&self, name: &str) -> u64 {
        let value = self
            .stats
            .as_ref()
            .and_then(|stats| stats["counters"][name].as_u64());
        self.require(value.is_some(), || {
            format!("no counter `{name}` in the statistics")
        });
        value.unwrap_or_default()
    }

    /// The number that the test guest says after `NAME=` in the line in which `test` passes.
    #[track_caller]
    pub fn said(&self, test: &str, name: &str) -> u64 {
        let verdict = format!("TEST {test} PASS ");
        let words = self
            .console
            .lines()
            .filter_map(|line| line.split_once(&verdict));
        let mut words = words.flat_map(|(_, said)| said.split_whitespace());
        let value = words.find_map(|word| word.strip_prefix(name)?.strip_prefix('=')?.parse().ok());
        self.require(value.is_some(), || format!("{test} does not say `{name}=`"));
        value.unwrap_or_default()
    }

    /// No pCPU allocated while it answered an exit.
    #[track_caller]
    pub fn expect_no_exit_allocation(&self) {
        let allocations = self.column("pcpus", "exit_allocations");
        self.require(allocations.iter().all(|count| *count == 0), || {
            format!("exits allocate: {allocations:?}")
        });
    }

    /// Fails with everything that the run printed, unless `is_true`.
    #[track_caller]
    pub fn require(&self, is_true: bool, what: impl FnOnce() -> String) {
        assert!(
            is_true,
            "{}\n--- command: {}\n--- console:\n{}\n--- log:\n{}",
            what(),
            self.command,
            self.console,
            self.log
        );
    }
}

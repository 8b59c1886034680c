//! Runs the `trapline` command and judges what comes out.
//!
//! ```text
//! let run = Run::linux().vcpus(8).pcpus(4).start();
//! run.expect_exit(0);
//! run.expect_in_order(["trapline: nproc=8", "trapline: workload ok"]);
//! ```
//! A failed expectation prints the command, the console and the log.

mod output;

use std::{
    env,
    process::{Command, Stdio},
    sync::{Mutex, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use trapline_demos::host::{
    cross,
    setup::{guest::StockGuest, qemu::Qemu},
};

pub use self::output::Output;

/// One QEMU at a time: their deadlines suppose that the machine is theirs.
static MACHINE: Mutex<()> = Mutex::new(());
/// Downloads and builds happen once, before any deadline counts.
static SET_UP: OnceLock<()> = OnceLock::new();

/// The command itself ends a run at its deadline; this much later the harness ends the command.
const GRACE: Duration = Duration::from_secs(60);

/// The tests that take long run too.
pub fn is_full_tier() -> bool {
    env::var("TRAPLINE_TIER").as_deref() != Ok("quick")
}

/// Everything that a run on QEMU needs is there.
fn set_up() {
    SET_UP.get_or_init(|| {
        Qemu::set_up().expect("QEMU is needed");
        StockGuest::set_up().expect("the stock guest is needed");
        let images: Vec<&str> = cross::GUESTS
            .into_iter()
            .chain([cross::HYPERVISOR])
            .collect();
        cross::build(&images).expect("the images are needed");
    });
}

/// A run of the command, described before it starts.
#[derive(Clone, Debug)]
pub struct Run {
    arguments: Vec<String>,
    deadline: Duration,
    is_on_qemu: bool,
    input: Vec<u8>,
    search_path: Option<String>,
}

impl Run {
    /// `trapline` with nothing else.
    pub fn command() -> Self {
        Self {
            arguments: Vec::new(),
            deadline: Duration::from_secs(120),
            is_on_qemu: false,
            input: Vec::new(),
            search_path: None,
        }
    }

    /// Debian's stock Linux and its short workload.
    pub fn linux() -> Self {
        Self::on_qemu("run")
    }

    /// One of our guests, with its parameters given by [`Run::append`].
    pub fn guest(name: &str) -> Self {
        Self::on_qemu("run").option("--guest", name)
    }

    /// The stress guest.
    pub fn stress() -> Self {
        Self::on_qemu("stress")
    }

    fn on_qemu(command: &str) -> Self {
        let run = Self {
            is_on_qemu: true,
            ..Self::command()
        };
        run.argument(command)
    }

    pub fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    pub fn option(self, name: &str, value: impl ToString) -> Self {
        self.argument(name).argument(&value.to_string())
    }

    pub fn vcpus(self, count: usize) -> Self {
        self.option("--vcpus", count)
    }

    pub fn pcpus(self, count: usize) -> Self {
        self.option("--pcpus", count)
    }

    pub fn cpu(self, model: &str) -> Self {
        self.option("--cpu", model)
    }

    pub fn policy(self, name: &str) -> Self {
        self.option("--policy", name)
    }

    pub fn affinity(self, lists: &str) -> Self {
        self.option("--affinity", lists)
    }

    /// The guest's parameters.
    pub fn append(self, bootargs: &str) -> Self {
        self.option("--append", bootargs)
    }

    /// An example or test device that the hypervisor registers.
    pub fn with(self, extra: &str) -> Self {
        self.option("--with", extra)
    }

    /// Another hypervisor image.
    pub fn hypervisor(self, name: &str) -> Self {
        self.option("--hypervisor", name)
    }

    /// Counts instructions instead of time.
    pub fn icount(self) -> Self {
        self.argument("--icount")
    }

    /// No hypervisor: what QEMU itself does is the truth.
    pub fn bare(self) -> Self {
        self.argument("--bare")
    }

    /// The guest must be through by then, 120 s if not said.
    pub fn deadline(mut self, seconds: u64) -> Self {
        self.deadline = Duration::from_secs(seconds);
        self
    }

    /// What the guest's user types.
    pub fn input(mut self, bytes: &[u8]) -> Self {
        self.input = bytes.to_vec();
        self
    }

    /// Where the command finds programs.
    pub fn search_path(mut self, path: String) -> Self {
        self.search_path = Some(path);
        self
    }

    /// Runs the command to its end.
    pub fn start(self) -> Output {
        // A test that failed while it held the machine has left nothing behind.
        let _machine = MACHINE.lock().unwrap_or_else(PoisonError::into_inner);
        let scratch = tempfile::tempdir().expect("a directory for temporary files");
        let stats = scratch.path().join("stats.json");
        let mut command = Command::new(env!("CARGO_BIN_EXE_trapline"));
        command.args(&self.arguments);
        if self.is_on_qemu {
            set_up();
            command.args(["--timeout", &self.deadline.as_secs().to_string()]);
            command.arg("--stats").arg(&stats);
        }
        if let Some(path) = &self.search_path {
            command.env("PATH", path);
        }
        let files = ["in", "out", "err"].map(|name| scratch.path().join(name));
        std::fs::write(&files[0], &self.input).expect("room for a file");
        let open = |index: usize| std::fs::File::open(&files[index]).expect("just written");
        let create = |index: usize| std::fs::File::create(&files[index]).expect("room for a file");
        command
            .stdin(Stdio::from(open(0)))
            .stdout(create(1))
            .stderr(create(2));
        let started = Instant::now();
        let mut child = command.spawn().expect("the command starts");
        let limit = started + self.deadline + GRACE;
        let status = loop {
            if let Some(status) = child.try_wait().expect("our child") {
                break status.code();
            }
            if Instant::now() > limit {
                child.kill().expect("our child");
                child.wait().expect("our child");
                break None;
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        let read = |index: usize| std::fs::read(&files[index]).expect("just written");
        Output {
            command: format!("trapline {}", self.arguments.join(" ")),
            status,
            console: String::from_utf8_lossy(&read(1)).into_owned(),
            log: String::from_utf8_lossy(&read(2)).into_owned(),
            stats: std::fs::read(&stats)
                .ok()
                .and_then(|json| serde_json::from_slice(&json).ok()),
        }
    }
}

//! Runs the `trapline` command and judges what comes out.
//!
//! ```text
//! let run = Run::linux().vcpus(8).pcpus(4).start();
//! run.expect_exit(0);
//! run.expect_in_order(["trapline: nproc=8", "trapline: workload ok"]);
//! ```
//! A failed expectation prints the command, the console and the log.

mod control;
mod host_cpus;
mod output;
mod terminal;

use std::{
    collections::BTreeSet,
    env,
    fs::{self, File},
    io::Write,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::Path,
    process::{Command, Stdio},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use trapline_demos::host::{
    cross, places,
    setup::{guest::StockGuest, qemu::Qemu},
};

pub use self::{control::Control, output::Output};
use self::{host_cpus::HostCpus, terminal::Terminal};

/// Two runs are under way at the same time only where each has CPUs of its own.
static HOST: HostCpus = HostCpus::new();
/// The images that are up to date.
static BUILT: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// The command itself ends a run at its deadline; this much later the harness ends the command.
const GRACE: Duration = Duration::from_secs(300);

/// The tests that take tens of seconds run too.
pub fn runs_long_tests() -> bool {
    env::var("TRAPLINE_TIER").as_deref() != Ok("quick")
}

/// The tests that take minutes run too.
pub fn is_full_tier() -> bool {
    env::var("TRAPLINE_TIER").as_deref() == Ok("full")
}

/// The files of the stock guest.
pub fn stock_guest() -> StockGuest {
    StockGuest::set_up().expect("the stock guest is needed")
}

/// A run of the command, described before it starts.
#[derive(Clone, Debug)]
pub struct Run {
    arguments: Vec<String>,
    deadline: Duration,
    is_on_qemu: bool,
    typed: Vec<(String, String)>,
    is_on_terminal: bool,
    search_path: Option<String>,
}

impl Run {
    /// `trapline` with nothing else.
    pub fn command() -> Self {
        Self {
            arguments: Vec::new(),
            deadline: Duration::from_secs(120),
            is_on_qemu: false,
            typed: Vec::new(),
            is_on_terminal: false,
            search_path: None,
        }
    }

    /// Debian's stock Linux and its short workload.
    pub fn linux() -> Self {
        Self::on_qemu("run")
    }

    /// A kernel of the user's.
    pub fn kernel(path: &Path) -> Self {
        Self::on_qemu("run").option("--kernel", path.display())
    }

    /// One of our guests, with its parameters given by [`Run::append`].
    pub fn guest(name: &str) -> Self {
        Self::on_qemu("run").option("--guest", name)
    }

    /// The machine and the guests that `demos/configs/NAME.toml` describes.
    pub fn config(name: &str) -> Self {
        let path = places::workspace().join(format!("demos/configs/{name}.toml"));
        Self::on_qemu("run").option("--config", path.display())
    }

    /// The machine and the guests that `text` describes.
    pub fn described(text: &str) -> Self {
        let directory = tempfile::tempdir().expect("a directory for temporary files");
        // It stays until the end of the test process: the run reads it when it starts.
        let path = directory.keep().join("vms.toml");
        fs::write(&path, text).expect("room for a file");
        Self::on_qemu("run").option("--config", path.display())
    }

    /// The stress guest.
    pub fn stress() -> Self {
        Self::on_qemu("stress")
    }

    /// A subcommand that needs a machine.
    pub fn on_qemu(command: &str) -> Self {
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

    /// Types `text` once the console has `prompt`, after what was typed before.
    pub fn type_after(mut self, prompt: &str, text: &str) -> Self {
        self.typed.push((prompt.to_owned(), text.to_owned()));
        self
    }

    /// The user sits at a terminal: stdin and stdout are one.
    pub fn on_terminal(mut self) -> Self {
        self.is_on_terminal = true;
        self
    }

    /// Where the command finds programs.
    pub fn search_path(mut self, path: String) -> Self {
        self.search_path = Some(path);
        self
    }

    fn value(&self, option: &str) -> Option<&str> {
        let mut arguments = self.arguments.iter();
        arguments.find(|argument| *argument == option)?;
        arguments.next().map(String::as_str)
    }

    /// How many CPUs of the host it keeps busy. QEMU has a thread for each CPU of its machine, or one for all of them when it
    /// counts instructions. What says nothing of its machine, or builds, gets all.
    fn busy_cpus(&self) -> usize {
        let has = |option: &str| self.arguments.iter().any(|argument| argument == option);
        let option = self.value(if has("--bare") { "--vcpus" } else { "--pcpus" });
        let described = || {
            let text = fs::read_to_string(self.value("--config")?).ok()?;
            let machine: toml::Table = text.parse().ok()?;
            usize::try_from(machine.get("pcpus")?.as_integer()?).ok()
        };
        let given = option.and_then(|count| count.parse().ok());
        match given.or_else(described) {
            _ if has("--icount") => 1,
            Some(cpus) if self.is_on_qemu => cpus,
            _ => usize::MAX,
        }
    }

    /// The images that the command will want, so that building them is over before its deadline counts.
    fn images(&self) -> Vec<&str> {
        let is_stress = self
            .arguments
            .first()
            .is_some_and(|command| command == "stress")
            || self.value("--config").is_some();
        let guest = self
            .value("--guest")
            .or(is_stress.then_some("stress-guest"));
        let hypervisor = self.value("--hypervisor").unwrap_or(cross::HYPERVISOR);
        guest.into_iter().chain([hypervisor]).collect()
    }

    /// Everything that the run needs is there. What has to be fetched or built has the whole host, while nobody's deadline counts.
    fn prepare(&self) {
        let images = self.images();
        let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
        if images.iter().all(|&image| built.contains(image)) {
            return;
        }
        let _all = HOST.take(usize::MAX);
        Qemu::set_up().expect("QEMU is needed");
        stock_guest();
        cross::build(&images).expect("the images are needed");
        built.extend(images.into_iter().map(str::to_owned));
    }

    /// Runs the command to its end, while `act` gives commands on its control socket. What `act` fails with is seen when the run
    /// has ended.
    pub fn start_and(self, act: impl FnOnce(&Control) + Send) -> Output {
        let scratch = tempfile::tempdir().expect("a directory for temporary files");
        let socket = scratch.path().join("control");
        let run = self.option("--control", socket.display());
        let has_ended = AtomicBool::new(false);
        let (output, acted) = thread::scope(|scope| {
            let actor = scope.spawn(|| {
                let control = Control::wait(&socket, &has_ended);
                let acted = catch_unwind(AssertUnwindSafe(|| act(&control)));
                acted.inspect_err(|_| control.end())
            });
            let output = catch_unwind(AssertUnwindSafe(|| run.start()));
            has_ended.store(true, Ordering::Relaxed);
            (output, actor.join().and_then(|acted| acted))
        });
        let output = output.unwrap_or_else(|panic| resume_unwind(panic));
        output.require(acted.is_ok(), || {
            "what was done meanwhile failed, see above".into()
        });
        output.require(!socket.exists(), || "the socket is left behind".into());
        output
    }

    /// Runs the command to its end.
    pub fn start(self) -> Output {
        if self.is_on_qemu {
            self.prepare();
        }
        let _share = HOST.take(self.busy_cpus());
        let scratch = tempfile::tempdir().expect("a directory for temporary files");
        let stats = scratch.path().join("stats.json");
        let mut command = Command::new(env!("CARGO_BIN_EXE_trapline"));
        command.args(&self.arguments);
        if self.is_on_qemu {
            command.args(["--timeout", &self.deadline.as_secs().to_string()]);
            command.arg("--stats").arg(&stats);
        }
        if let Some(path) = &self.search_path {
            command.env("PATH", path);
        }
        let files = ["out", "err"].map(|name| scratch.path().join(name));
        let create = |index: usize| File::create(&files[index]).expect("room for a file");
        let terminal = self.is_on_terminal.then(|| Terminal::new(create(0)));
        match &terminal {
            Some(terminal) => command.stdin(terminal.end()).stdout(terminal.end()),
            None => command.stdin(Stdio::piped()).stdout(create(0)),
        };
        command.stderr(create(1));
        let status = self.attend(&mut command, &files[0], terminal.as_ref());
        // The command holds ends of the terminal, which closes with the last of them.
        drop(command);
        drop(terminal);
        let read = |index: usize| fs::read(&files[index]).expect("just written");
        Output {
            command: format!("trapline {}", self.arguments.join(" ")),
            status,
            console: String::from_utf8_lossy(&read(0)).into_owned(),
            log: String::from_utf8_lossy(&read(1)).into_owned(),
            stats: fs::read(&stats)
                .ok()
                .and_then(|json| serde_json::from_slice(&json).ok()),
        }
    }

    /// Starts `command`, types what is to be typed when `console` asks for it, and waits for the end.
    fn attend(
        &self,
        command: &mut Command,
        console: &Path,
        terminal: Option<&Terminal>,
    ) -> Option<i32> {
        let limit = Instant::now() + self.deadline + GRACE;
        let mut child = command.spawn().expect("the command starts");
        let mut keyboard: Box<dyn Write> = match terminal {
            Some(terminal) => Box::new(terminal.keyboard()),
            None => Box::new(child.stdin.take().expect("a pipe")),
        };
        let mut typed = self.typed.iter().peekable();
        let mut seen = 0;
        while Instant::now() < limit {
            if let Some(status) = child.try_wait().expect("our child") {
                return status.code();
            }
            if let Some((prompt, text)) = typed.peek() {
                let console = fs::read(console).expect("our file");
                let new = String::from_utf8_lossy(&console[seen..]);
                if new.contains(prompt.as_str()) {
                    seen = console.len();
                    keyboard
                        .write_all(text.as_bytes())
                        .expect("the command reads");
                    typed.next();
                }
            }
            thread::sleep(Duration::from_millis(10));
        }
        child.kill().expect("our child");
        child.wait().expect("our child");
        None
    }
}

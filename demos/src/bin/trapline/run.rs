//! `trapline run`, and what every command that runs guests shares.

use std::{
    fs::File,
    io::{IsTerminal, Write, stdin},
    path::{Path, PathBuf},
    time::Duration,
};

use trapline_demos::{
    config::PolicyConfig,
    host::{
        consoles::{Pty, Sink, Target},
        control_socket::ControlSocket,
        failure::{HYPERVISOR_FAILED, Result, TIMEOUT, at},
        launch::Inputs,
        output_file::OutputFile,
        report::RunReport,
        request::{GuestRequest, GuestSource, Place, Request},
        session::{Ended, Session},
        table,
    },
};

use crate::{
    cli::{MachineOptions, RunOptions},
    judge::Judge,
    plan,
};

/// The guest crashed, or was stopped for cause, or its own checks failed.
pub const GUEST_FAILED: u8 = 1;

const DEFAULT_VCPUS: u16 = 8;
pub const DEFAULT_PCPUS: u16 = 4;
pub const DEFAULT_CPU: &str = "cortex-a72";
pub const DEFAULT_POLICY: &str = "round-robin";
pub const DEFAULT_SLICE_US: u32 = 5000;

/// Runs guests; the status to end with.
pub fn run(options: &RunOptions) -> Result<u8> {
    let is_terminal = stdin().is_terminal();
    let (request, run) = match &options.config {
        Some(path) => plan::from_file(path, options, is_terminal)?,
        None => plan::one_guest(options, is_terminal)?,
    };
    let ended = run.execute(&request, &options.machine)?;
    finish(&ended, &options.machine)
}

/// The request for `guest` on the machine that `options` describe, with 512 MiB and no initial ramdisk.
pub fn request(guest: GuestSource, bootargs: String, options: &MachineOptions) -> Request {
    let vcpus = options.vcpus.unwrap_or(DEFAULT_VCPUS);
    let mut guest = GuestRequest::new(guest, bootargs, usize::from(vcpus));
    if let Some(lists) = &options.affinity {
        guest.affinity = lists.split(':').map(str::to_owned).collect();
    }
    machine(vec![guest], options)
}

/// The request for `guests` on the machine that `options` describe.
pub fn machine(mut guests: Vec<GuestRequest>, options: &MachineOptions) -> Request {
    for guest in &mut guests {
        let own = &mut guest.entitlement.halt_poll_us;
        *own = own.or(options.halt_poll);
    }
    let text = |option: &Option<String>, default: &str| option.as_deref().unwrap_or(default).into();
    Request {
        guests,
        pcpus: usize::from(options.pcpus.unwrap_or(DEFAULT_PCPUS)),
        cpu: text(&options.cpu, DEFAULT_CPU),
        gic: options.gic_version(),
        policy: PolicyConfig::new(
            options.policy.as_deref().unwrap_or(DEFAULT_POLICY),
            options.slice.unwrap_or(DEFAULT_SLICE_US),
        ),
        pools: Vec::new(),
        is_counting: options.icount,
        is_bare: options.bare,
        hypervisor: options.hypervisor.clone(),
        place: Place::default(),
    }
}

/// How one command runs its guests.
#[derive(Default)]
pub struct Run<'a> {
    /// The guest that stdin goes to.
    pub input: Option<usize>,
    /// The consoles that are not elsewhere go to stdout.
    pub shows_console: bool,
    /// If the user gives none.
    pub default_timeout: Option<Duration>,
    /// What is expected of each guest; of those that are not listed, nothing.
    pub judges: Vec<Judge>,
    /// For each guest that has its console elsewhere, where.
    pub consoles: Vec<(usize, Target)>,
    /// Other console lines to keep.
    pub markers: &'a [&'a str],
    /// A file that the request was read from.
    pub config: Option<PathBuf>,
}

impl Run<'_> {
    /// Prepares `request`, runs it to its end, and judges its guests.
    pub fn execute(&self, request: &Request, options: &MachineOptions) -> Result<Ended> {
        self.execute_with(request, options, &mut Inputs::default())
    }

    /// The same with what an earlier run left in `inputs`.
    pub fn execute_with(
        &self,
        request: &Request,
        options: &MachineOptions,
        inputs: &mut Inputs,
    ) -> Result<Ended> {
        // Files that cannot be written are refused first. They keep their contents until the run is certain to start.
        let files = Files::open(self, request, options)?;
        let launch = request.prepare(inputs)?;
        let (log, sinks, control) = files.commit(request.guests.len())?;
        let names = request.guests.iter().map(|guest| guest.name.clone());
        let timeout = options
            .timeout
            .map(|seconds| Duration::from_secs(seconds.into()));
        let judges = self
            .judges
            .iter()
            .flat_map(|judge| judge.markers())
            .copied();
        let markers: Vec<&str> = self.markers.iter().copied().chain(judges).collect();
        let session = Session {
            command: launch.command,
            guests: names.zip(sinks).collect(),
            input: self.input,
            timeout: timeout.or(self.default_timeout),
            is_framed: launch.hypervisor.is_some(),
            shows_console: self.shows_console,
            shows_log: !options.quiet,
            log,
            markers: &markers,
            control,
            elf: launch.hypervisor.as_ref().map(|built| built.elf.as_path()),
        };
        let mut ended = session.run()?;
        ended.report.qemu = launch.qemu_version;
        self.judge(&mut ended);
        Ok(ended)
    }

    /// What the consoles say against guests that ended well.
    fn judge(&self, ended: &mut Ended) {
        let report = &mut ended.report;
        for ((judge, lines), end) in self
            .judges
            .iter()
            .zip(&ended.marked)
            .zip(&mut report.guests)
        {
            if end.status == 0
                && let Some(complaint) = judge.complaint(lines)
            {
                end.status = GUEST_FAILED;
                end.reason = complaint;
                if report.status == 0 {
                    report.status = GUEST_FAILED;
                    report.reason = end.reason.clone();
                }
            }
        }
    }
}

/// The files that a run writes.
struct Files {
    log: Option<OutputFile>,
    stats: Option<OutputFile>,
    consoles: Vec<(usize, Elsewhere)>,
    control: Option<ControlSocket>,
}

/// Where a console goes that does not go to the screen.
enum Elsewhere {
    File(OutputFile),
    Pty(Pty),
}

impl Files {
    fn open(run: &Run<'_>, request: &Request, options: &MachineOptions) -> Result<Self> {
        let mut inputs: Vec<PathBuf> = run.config.iter().cloned().collect();
        for guest in &request.guests {
            inputs.extend(guest.initrd.clone());
            inputs.extend(guest.dtb.clone());
            if let GuestSource::File(kernel) = &guest.source {
                inputs.push(kernel.clone());
            }
        }
        let mut files = Self {
            log: None,
            stats: None,
            consoles: Vec::new(),
            control: None,
        };
        let open = |path: &Path, option: String, files: &Self| {
            OutputFile::open(path, option, &files.opened(), &inputs)
        };
        if let Some(path) = &options.log {
            files.log = Some(open(path, "--log".into(), &files)?);
        }
        if let Some(path) = &options.stats {
            files.stats = Some(open(path, "--stats".into(), &files)?);
        }
        for (guest, target) in &run.consoles {
            let name = &request.guests[*guest].name;
            let opened = match target {
                Target::File(path) => {
                    Elsewhere::File(open(path, format!("the console of {name}"), &files)?)
                }
                Target::Pty => Elsewhere::Pty(Pty::open().map_err(at("a pseudo-terminal"))?),
            };
            files.consoles.push((*guest, opened));
        }
        let control = options.control.as_deref();
        files.control = control.map(ControlSocket::bind).transpose()?;
        Ok(files)
    }

    fn opened(&self) -> Vec<&OutputFile> {
        let consoles = self
            .consoles
            .iter()
            .filter_map(|(_, console)| match console {
                Elsewhere::File(file) => Some(file),
                Elsewhere::Pty(_) => None,
            });
        self.log.iter().chain(&self.stats).chain(consoles).collect()
    }

    /// The log, each guest's console, and the socket for commands.
    fn commit(
        self,
        guest_count: usize,
    ) -> Result<(Option<File>, Vec<Sink>, Option<ControlSocket>)> {
        let log = self.log.map(OutputFile::commit).transpose()?;
        if let Some(stats) = self.stats {
            stats.commit()?;
        }
        let mut sinks: Vec<Sink> = (0..guest_count).map(|_| Sink::Screen).collect();
        for (guest, console) in self.consoles {
            sinks[guest] = match console {
                Elsewhere::File(file) => Sink::File(file.commit()?),
                Elsewhere::Pty(pty) => Sink::Pty(pty),
            };
        }
        Ok((log, sinks, self.control))
    }
}

/// Shows how the run went, and returns the status to end with.
pub fn finish(ended: &Ended, options: &MachineOptions) -> Result<u8> {
    let report = &ended.report;
    if let Some(panic) = &ended.panic {
        eprint!("{panic}");
    }
    if !options.quiet {
        eprint!("{}", table::render(report));
    }
    if let Some(path) = &options.stats {
        let mut file = File::create(path).map_err(at(path.display()))?;
        let written = serde_json::to_writer_pretty(&mut file, report).map_err(std::io::Error::from);
        written
            .and_then(|()| writeln!(file))
            .map_err(at(path.display()))?;
    }
    let reason = reason(report);
    match report.status {
        0 if options.quiet => {}
        0 if report.guests.len() > 1 => {
            eprintln!(
                "trapline: ended after {:.1} s: {reason}",
                report.wall_seconds
            );
        }
        0 => eprintln!("trapline: {reason} after {:.1} s", report.wall_seconds),
        GUEST_FAILED if report.guests.len() > 1 => {
            eprintln!("trapline: error: a guest failed: {reason}");
        }
        GUEST_FAILED => eprintln!("trapline: error: the guest failed: {reason}"),
        HYPERVISOR_FAILED => eprintln!("trapline: error: the hypervisor failed: {reason}"),
        TIMEOUT => eprintln!("trapline: error: timeout: {reason}"),
        _ => eprintln!("trapline: {reason}"),
    }
    Ok(report.status)
}

/// Why the run ended; with several guests, how each of them did.
fn reason(report: &RunReport) -> String {
    if report.guests.len() < 2 {
        return report.reason.clone();
    }
    let is_guests_end = report.status <= GUEST_FAILED && report.exit.is_some();
    let told = report.guests.iter();
    let told = told.filter(|end| is_guests_end || end.reason != report.reason);
    let told = told.map(|end| format!("{}: {}", end.name, end.reason));
    let run = (!is_guests_end).then(|| report.reason.clone());
    run.into_iter().chain(told).collect::<Vec<_>>().join("; ")
}

//! `trapline run`, and what every command that runs a guest shares.

use std::{
    fs::File,
    io::{IsTerminal, Write, stdin},
    path::Path,
    time::Duration,
};

use trapline_demos::host::{
    failure::{HYPERVISOR_FAILED, Result, TIMEOUT, at},
    request::{GuestRequest, GuestSource, Place, Request},
    session::{Ended, Session},
    table,
};

use crate::cli::{MachineOptions, RunOptions};

/// The stock guest's workload takes seconds; this is for a machine under load, and for CI.
const BATCH_LIMIT: Duration = Duration::from_secs(600);
/// What the stock guest prints when its workload went well; see `setup/init.sh`.
const WORKLOAD: &str = "trapline: workload ";
const WORKLOAD_OK: &str = "trapline: workload ok";
/// What Linux prints when it gives up; it then resets the machine or stays, as its command line says.
const LINUX_PANIC: &str = "Kernel panic";
/// The guest crashed, or was stopped for cause, or its own checks failed.
pub const GUEST_FAILED: u8 = 1;

/// Runs a guest; the status to end with.
pub fn run(options: &RunOptions) -> Result<u8> {
    let guest = match (&options.kernel, &options.guest) {
        (Some(path), _) => GuestSource::File(path.clone()),
        (None, Some(name)) => GuestSource::Own(name.clone()),
        (None, None) => GuestSource::Stock,
    };
    let is_stock = guest == GuestSource::Stock && options.initrd.is_none();
    let is_batch = is_stock && !stdin().is_terminal();
    let mut bootargs = Vec::new();
    if guest == GuestSource::Stock {
        bootargs.push("panic=-1");
    }
    if is_batch {
        bootargs.push("trapline=batch");
    }
    if !options.append.is_empty() {
        bootargs.push(&options.append);
    }
    let mut request = request(guest, bootargs.join(" "), &options.machine);
    request.guests[0].initrd = options.initrd.clone();
    request.guests[0].memory_mib = options.memory;
    let run = Run {
        has_input: !is_batch,
        shows_console: true,
        default_timeout: is_batch.then_some(BATCH_LIMIT),
        markers: &[WORKLOAD, LINUX_PANIC],
    };
    let mut ended = run.execute(&request, &options.machine)?;
    if ended.report.status == 0
        && let Some(complaint) = complaint(&ended, is_batch)
    {
        ended.report.status = GUEST_FAILED;
        ended.report.reason = complaint;
    }
    finish(&ended, &options.machine)
}

/// What the console says against a guest that powered off.
fn complaint(ended: &Ended, is_batch: bool) -> Option<String> {
    let mut lines = ended.marked.iter();
    if let Some(panic) = lines.clone().find(|line| line.starts_with(LINUX_PANIC)) {
        return Some(panic.clone());
    }
    let is_done = !is_batch || lines.any(|line| line == WORKLOAD_OK);
    (!is_done).then(|| "the workload did not end well".into())
}

/// The request for `guest` on the machine that `options` describe, with 512 MiB and no initial ramdisk.
pub fn request(guest: GuestSource, bootargs: String, options: &MachineOptions) -> Request {
    let mut guest = GuestRequest::new(guest, bootargs, usize::from(options.vcpus));
    if let Some(lists) = &options.affinity {
        guest.affinity = lists.split(':').map(str::to_owned).collect();
    }
    Request {
        guests: vec![guest],
        pcpus: usize::from(options.pcpus),
        cpu: options.cpu.clone(),
        policy: options.policy.clone(),
        slice_us: options.slice,
        is_counting: options.icount,
        is_bare: options.bare,
        hypervisor: options.hypervisor.clone(),
        place: Place::default(),
    }
}

/// How one command runs its guest.
pub struct Run<'a> {
    /// stdin goes to the guest.
    pub has_input: bool,
    /// The console goes to stdout.
    pub shows_console: bool,
    /// If the user gives none.
    pub default_timeout: Option<Duration>,
    /// Console lines to keep.
    pub markers: &'a [&'a str],
}

impl Run<'_> {
    /// Prepares `request` and runs it to its end.
    pub fn execute(&self, request: &Request, options: &MachineOptions) -> Result<Ended> {
        // Files that cannot be written are refused first. They keep their contents until the run is certain to start.
        let open = |path: &Path| {
            let mut options = File::options();
            options.write(true).create(true).truncate(false);
            options.open(path).map_err(at(path.display()))
        };
        let log = options.log.as_deref().map(open).transpose()?;
        options.stats.as_deref().map(open).transpose()?;
        let launch = request.prepare()?;
        if let Some(log) = &log {
            log.set_len(0).map_err(at("--log"))?;
        }
        let timeout = options
            .timeout
            .map(|seconds| Duration::from_secs(seconds.into()));
        let session = Session {
            command: launch.command,
            has_input: self.has_input,
            timeout: timeout.or(self.default_timeout),
            is_framed: launch.hypervisor.is_some(),
            shows_console: self.shows_console,
            shows_log: !options.quiet,
            log,
            markers: self.markers,
            elf: launch.hypervisor.as_ref().map(|built| built.elf.as_path()),
        };
        let mut ended = session.run()?;
        ended.report.qemu = launch.qemu_version;
        Ok(ended)
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
    match report.status {
        0 if options.quiet => {}
        0 => eprintln!(
            "trapline: {} after {:.1} s",
            report.reason, report.wall_seconds
        ),
        GUEST_FAILED => eprintln!("trapline: error: the guest failed: {}", report.reason),
        HYPERVISOR_FAILED => eprintln!("trapline: error: the hypervisor failed: {}", report.reason),
        TIMEOUT => eprintln!("trapline: error: timeout: {}", report.reason),
        _ => eprintln!("trapline: {}", report.reason),
    }
    Ok(report.status)
}

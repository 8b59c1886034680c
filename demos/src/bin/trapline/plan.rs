//! From the options of `trapline run`, and the file that they name, to what is run and what is expected of it.

use std::{path::Path, time::Duration};

use trapline_demos::host::{
    Failure,
    config_file::{self, ConfigFile},
    consoles::Target,
    failure::Result,
    request::{GuestRequest, GuestSource, Request},
};

use crate::{
    cli::RunOptions,
    judge::Judge,
    run::{self, Run},
};

/// The stock guest's workload takes seconds; this is for a machine under load, and for CI.
const BATCH_LIMIT: Duration = Duration::from_secs(600);

/// The one guest that the command line describes.
pub fn one_guest(options: &RunOptions, is_terminal: bool) -> Result<(Request, Run<'static>)> {
    let source = match (&options.kernel, &options.guest) {
        (Some(path), _) => GuestSource::File(path.clone()),
        (None, Some(name)) => GuestSource::Own(name.clone()),
        (None, None) => GuestSource::Stock,
    };
    let mut request = run::request(source, options.append.clone(), &options.machine);
    let guest = &mut request.guests[0];
    guest.initrd = options.initrd.clone();
    guest.dtb = options.dtb.clone();
    guest.memory_mib = options.memory.unwrap_or(guest.memory_mib);
    complete(request, options, Vec::new(), is_terminal)
}

/// The machine and the guests of the file at `path`. What the command line says of the machine goes before.
pub fn from_file(
    path: &Path,
    options: &RunOptions,
    is_terminal: bool,
) -> Result<(Request, Run<'static>)> {
    let ConfigFile {
        machine: mut keys,
        pools,
        vms,
    } = config_file::read(path)?;
    let mut options = options.clone();
    let machine = &mut options.machine;
    let mut overrides = Vec::new();
    let mut merge = |is_given: bool, key: &'static str| overrides.extend(is_given.then_some(key));
    merge(machine.pcpus.is_some(), "pcpus");
    merge(machine.cpu.is_some(), "cpu");
    merge(machine.gic.is_some(), "gic");
    merge(machine.policy.is_some(), "policy");
    machine.pcpus = machine.pcpus.or(keys.pcpus);
    machine.cpu = machine.cpu.take().or(keys.cpu.take());
    machine.gic = machine
        .gic
        .or(keys.gic.map(|version| version.number() as u8));
    machine.policy = machine.policy.take().or(keys.policy.take());
    machine.slice = machine.slice.or(keys.slice_us);
    machine.halt_poll = machine.halt_poll.or(keys.halt_poll_us);
    machine.icount |= keys.icount;
    let timeout = keys
        .timeout
        .map(|seconds| Duration::from_secs(seconds.into()));
    for key in overrides {
        // What is wrong with it is the option's fault, not the line's.
        keys.place.lines.remove(key);
    }
    let consoles = vms.iter().enumerate();
    let consoles = consoles
        .filter_map(|(guest, vm)| Some((guest, vm.console.clone()?)))
        .collect();
    let guests = vms.into_iter().map(|vm| vm.guest).collect();
    let mut request = run::machine(guests, &options.machine);
    request.policy.period_us = keys.period_us.unwrap_or(request.policy.period_us);
    request.policy.windows = keys.windows;
    request.pools = pools
        .into_iter()
        .map(|pool| pool.request(&request.policy))
        .collect();
    request.place = keys.place;
    let (request, mut run) = complete(request, &options, consoles, is_terminal)?;
    run.default_timeout = timeout.or(run.default_timeout);
    run.config = Some(path.to_owned());
    Ok((request, run))
}

/// Decides who gets stdin, where the consoles go, and what is expected of each guest.
fn complete(
    mut request: Request,
    options: &RunOptions,
    mut consoles: Vec<(usize, Target)>,
    is_terminal: bool,
) -> Result<(Request, Run<'static>)> {
    for (name, target) in options
        .console
        .iter()
        .filter_map(|option| option.split_once('='))
    {
        let guest = find(&request.guests, name, "--console")?;
        consoles.retain(|(other, _)| *other != guest);
        consoles.push((guest, Target::parse(target, Path::new(""))));
    }
    let is_elsewhere = |guest: usize| consoles.iter().any(|(other, _)| *other == guest);
    let named = options.input.as_deref();
    let named = named
        .map(|name| find(&request.guests, name, "--input"))
        .transpose()?;
    let mut input = match (named, request.guests.as_slice()) {
        (Some(guest), _) => Some(guest),
        (None, [_]) => Some(0),
        (None, guests) if is_terminal => (0..guests.len())
            .find(|guest| !is_elsewhere(*guest))
            .or(Some(0)),
        (None, _) => None,
    };
    let is_alone = request.guests.len() == 1;
    let is_file = options.config.is_some();
    let mut judges = Vec::new();
    for (index, guest) in request.guests.iter_mut().enumerate() {
        let has_pty = consoles.contains(&(index, Target::Pty));
        let is_attended = is_terminal || named == Some(index) || has_pty;
        judges.push(expect(guest, is_attended, is_file));
    }
    if is_alone && judges[0] == Judge::Workload {
        input = None;
    }
    let is_batch = judges.iter().all(|judge| judge.is_batch());
    let run = Run {
        input,
        shows_console: true,
        default_timeout: is_batch.then_some(BATCH_LIMIT),
        judges,
        consoles,
        ..Run::default()
    };
    Ok((request, run))
}

/// Completes the command line of `guest`, and says what is expected of it. `is_attended`: somebody can type there.
fn expect(guest: &mut GuestRequest, is_attended: bool, is_file: bool) -> Judge {
    let is_stock = guest.source == GuestSource::Stock;
    let is_stress = guest.source == GuestSource::Own("stress-guest".into());
    let is_batch = is_stock && guest.initrd.is_none() && !is_attended;
    let words = [
        is_stock.then_some("panic=-1"),
        is_batch.then_some("trapline=batch"),
        (is_stress && is_file).then_some("strict=1"),
        Some(guest.bootargs.as_str()),
    ];
    let words = words
        .into_iter()
        .flatten()
        .filter(|words| !words.is_empty());
    guest.bootargs = words.collect::<Vec<_>>().join(" ");
    if !guest.starts {
        Judge::NoPanic
    } else if is_batch {
        Judge::Workload
    } else if is_stress {
        Judge::Stress
    } else {
        Judge::NoPanic
    }
}

fn find(guests: &[GuestRequest], name: &str, option: &str) -> Result<usize> {
    let found = guests.iter().position(|guest| guest.name == name);
    found.ok_or_else(|| {
        let names: Vec<&str> = guests.iter().map(|guest| guest.name.as_str()).collect();
        let what = format!("there is no guest `{}`", name.escape_debug());
        Failure::input(what, option, &format!("choose one of {}", names.join(", ")))
    })
}

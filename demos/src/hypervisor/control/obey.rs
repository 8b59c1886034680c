//! What each command does: the words of a user turned into calls of the manager.

use alloc::{
    format,
    string::{String, ToString},
};

use trapline_demos::{
    config::PolicyConfig,
    control::{Command, Life, Listing, Part, Setting, Who},
};
use trapline_handlers::{Request, manager::Target};
use trapline_platform::timer;
use trapline_sched::{Reservation, policies::setting_names};

use super::{answer, tables::Table};
use crate::hypervisor::Machine;

/// Does what `command`, which has this number, says. The answer is a table if there is more to show, comes by itself later, or
/// has been given.
///
/// # Errors
/// It was not done: why.
pub(super) fn obey(
    machine: &Machine,
    number: u32,
    command: &Command,
) -> Result<Option<Table>, String> {
    let find = |name: &str| {
        machine
            .manager()
            .find(name)
            .map_err(|error| error.to_string())
    };
    match command {
        Command::Help => Ok(Some(Table::help())),
        Command::List(Listing::Vms) => Ok(Some(Table::vms(machine))),
        Command::List(Listing::Vcpus(None)) => Ok(Some(Table::vcpus(0..machine.slots.len()))),
        Command::List(Listing::Vcpus(Some(vm))) => {
            let vm = find(vm)?;
            Ok(Some(Table::vcpus(vm..vm + 1)))
        }
        Command::List(Listing::Pools) => Ok(Some(Table::pools())),
        Command::List(Listing::Pcpus) => Ok(Some(Table::pcpus(machine))),
        Command::Set(who, setting) => {
            let vm = find(&who.vm)?;
            set(machine, vm, who, *setting)?;
            remark(machine, number, vm, setting);
            answer(number, Part::Done);
            Ok(None)
        }
        Command::Policy {
            name,
            slice_us,
            period_us,
        } => {
            choose_policy(machine, name, *slice_us, *period_us)?;
            log::info!("policy {name} takes over");
            answer(number, Part::Done);
            Ok(None)
        }
        Command::Live(Life::Button, vm) => {
            if !machine.press_power_key(find(vm)?) {
                return Err(format!(
                    "{vm} has no power key now: it is off, or drives its own pins"
                ));
            }
            answer(number, Part::Done);
            Ok(None)
        }
        Command::Live(life, vm) => {
            let request = match life {
                Life::Start => Request::Start,
                Life::Stop => Request::Stop,
                Life::Reset => Request::Reset,
                Life::Pause => Request::Pause,
                Life::Resume | Life::Button => Request::Resume,
            };
            machine.ask(find(vm)?, request, number);
            Ok(None)
        }
    }
}

fn set(machine: &Machine, vm: usize, who: &Who, setting: Setting) -> Result<(), String> {
    let manager = machine.manager();
    let target = Target { vm, vcpu: who.vcpu };
    let ticks = timer::ticks_of_us;
    let result = match setting {
        Setting::Weight(weight) => manager.set_weight(target, weight),
        Setting::Slice(us) => manager.set_slice(target, us.map(ticks)),
        Setting::Cap(cap) => manager.set_cap(vm, cap),
        Setting::Priority(priority) => manager.set_priority(target, priority),
        Setting::Budget(None) => manager.set_reservation(target, None),
        Setting::Budget(Some((budget, period))) => {
            let reservation = Reservation::new(ticks(budget), ticks(period));
            let reservation = reservation.map_err(|error| error.to_string())?;
            manager.set_reservation(target, Some(reservation))
        }
        Setting::Affinity(pcpus) => manager.set_affinity(target, pcpus),
    };
    result.map_err(|error| error.to_string())
}

/// Says why what was set has no effect yet.
fn remark(machine: &Machine, number: u32, vm: usize, setting: &Setting) {
    let status = machine.manager().vm(vm);
    if status.state == "off" {
        let text = format!("{} is off: it has this from its next start on", status.name);
        answer(number, Part::Line(&text));
    }
    let policy = machine.pool.policy_name();
    let name = setting.name();
    if let Some(known) = setting_names(policy)
        && !known.contains(&name)
    {
        let text = format!("policy {policy} does not look at it");
        answer(number, Part::Line(&text));
    }
}

/// Lets the policy called `name` take over, with the windows of the machine's configuration, and with the options of the last
/// policy that are not given.
fn choose_policy(
    machine: &Machine,
    name: &str,
    slice_us: Option<u32>,
    period_us: Option<u32>,
) -> Result<(), String> {
    let mut current = machine.desk.policy.lock();
    let next = PolicyConfig {
        name: name.into(),
        slice_us: slice_us.unwrap_or(current.slice_us),
        period_us: period_us.unwrap_or(current.period_us),
        windows: current.windows.clone(),
    };
    let (max_vcpus, pcpus) = (machine.pool.max_vcpus(), machine.pool.pcpus());
    let options = next.options(max_vcpus, pcpus, timer::ticks_of_us)?;
    let result = machine.manager().set_policy(name, options);
    result.map_err(|error| error.to_string())?;
    *current = next;
    Ok(())
}

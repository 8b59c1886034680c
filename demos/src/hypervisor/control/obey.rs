//! What each command does: the words of a user turned into calls of the manager.

use alloc::{
    format,
    string::{String, ToString},
};

use trapline_demos::{
    config::PolicyConfig,
    control::{Command, Life, Listing, Part, PolicyChoice, Setting, Who},
};
use trapline_handlers::{
    Request,
    manager::{ManageError, Target},
};
use trapline_platform::timer;
use trapline_sched::{
    PcpuId, PcpuSet, PolicyOptions, PoolId, Reservation, policies::setting_names,
};

use super::{answer, tables::Table};
use crate::hypervisor::{Machine, UnplugError};

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
        Command::List(Listing::Pools) => Ok(Some(Table::pools(machine))),
        Command::List(Listing::Pcpus) => Ok(Some(Table::pcpus(machine))),
        Command::Set(who, setting) => {
            let vm = find(&who.vm)?;
            set(machine, vm, who, *setting)?;
            remark(machine, number, vm, setting);
            done(number, Ok(()))
        }
        Command::SetPool { vm, pool } => {
            let vm = find(vm)?;
            let pool = find_pool(machine, pool)?;
            let result = machine.manager().set_pool(vm, pool);
            done(number, result)
        }
        Command::Policy { pool, policy } => {
            let pool = pool_or_first(machine, pool.as_deref())?;
            let pcpus = machine.manager().pcpus_of(pool);
            let options = options(machine, policy, pcpus)?;
            let result = machine.manager().set_policy(pool, &policy.name, options);
            if result.is_ok() {
                log::info!("policy {} takes over in {pool}", policy.name);
            }
            done(number, result)
        }
        Command::CreatePool {
            name,
            pcpus,
            policy,
        } => {
            let options = options(machine, policy, *pcpus)?;
            let manager = machine.manager();
            let result = manager.create_pool(name, *pcpus, &policy.name, options);
            done(number, result.map(drop))
        }
        Command::RemovePool { pool, heir } => {
            let pool = find_pool(machine, pool)?;
            let heir = pool_or_first(machine, heir.as_deref())?;
            done(number, machine.manager().remove_pool(pool, heir))
        }
        Command::MovePcpu { pcpu, pool } => {
            let pool = find_pool(machine, pool)?;
            done(number, machine.manager().move_pcpu(*pcpu, pool))
        }
        Command::Unplug(pcpu) => {
            machine.unplug(*pcpu).map_err(|error| match error {
                UnplugError::Needed(error) => machine.manager().pool_error(error).to_string(),
                other => other.to_string(),
            })?;
            announced(number, *pcpu, "off")
        }
        Command::Plug(pcpu) => {
            machine.plug(*pcpu).map_err(|error| error.to_string())?;
            announced(number, *pcpu, "on")
        }
        Command::Live(Life::Button, vm) => {
            if !machine.press_power_key(find(vm)?) {
                return Err(format!(
                    "{vm} has no power key now: it is off, or drives its own pins"
                ));
            }
            done(number, Ok(()))
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
        Setting::HaltPoll(us) => manager.set_halt_poll(target, ticks(us)),
        Setting::Cap(cap) => manager.set_cap(vm, cap),
        Setting::Priority(priority) => manager.set_priority(target, priority),
        Setting::Budget(None) => manager.set_reservation(target, None),
        Setting::Budget(Some((budget, period))) => {
            let reservation = Reservation::new(ticks(budget), ticks(period));
            let reservation = reservation.map_err(|error| error.to_string())?;
            manager.set_reservation(target, Some(reservation))
        }
        Setting::Affinity(pcpus) => manager.set_affinity(target, pcpus),
        Setting::SoftAffinity(pcpus) => {
            manager.set_soft_affinity(target, pcpus.unwrap_or(PcpuSet::EMPTY))
        }
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
    let policy = machine
        .scheduler
        .policy_name(status.pool)
        .unwrap_or_default();
    let name = setting.name();
    if let Some(known) = setting_names(policy)
        && !known.contains(&name)
    {
        let text = format!("policy {policy} does not look at it");
        answer(number, Part::Line(&text));
    }
}

fn find_pool(machine: &Machine, name: &str) -> Result<PoolId, String> {
    let found = machine.manager().find_pool(name);
    found.map_err(|error| error.to_string())
}

fn pool_or_first(machine: &Machine, name: Option<&str>) -> Result<PoolId, String> {
    name.map_or(Ok(PoolId::FIRST), |name| find_pool(machine, name))
}

/// What `policy` is told on `pcpus`: what is not given is as the machine's configuration has it, the windows included.
fn options(
    machine: &Machine,
    policy: &PolicyChoice,
    pcpus: PcpuSet,
) -> Result<PolicyOptions, String> {
    let configured = &machine.desk.policy;
    let config = PolicyConfig {
        name: policy.name.clone(),
        slice_us: policy.slice_us.unwrap_or(configured.slice_us),
        period_us: policy.period_us.unwrap_or(configured.period_us),
        windows: configured.windows.clone(),
    };
    config.options(machine.scheduler.max_vcpus(), pcpus, timer::ticks_of_us)
}

/// Answers command `number`, after which `pcpu` is soon `state`.
fn announced(number: u32, pcpu: PcpuId, state: &str) -> Result<Option<Table>, String> {
    let text = format!("the log says when {pcpu} is {state}, and `list pcpus` shows it");
    answer(number, Part::Line(&text));
    done(number, Ok(()))
}

/// Answers command `number`, whose doing ended with `result`.
fn done(number: u32, result: Result<(), ManageError>) -> Result<Option<Table>, String> {
    result.map_err(|error| error.to_string())?;
    answer(number, Part::Done);
    Ok(None)
}

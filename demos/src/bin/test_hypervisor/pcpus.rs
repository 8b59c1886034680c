//! The calls with which a guest unplugs and plugs in pCPUs, and lets one policy after the other take over, broken ones too.

use alloc::{string::ToString, sync::Arc};
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use trapline_demos::config::{PolicyConfig, WindowConfig};
use trapline_handlers::{Claim, ExitHandler, GuestCpu};
use trapline_platform::{engine, relax::Lock, timer};
use trapline_sched::{PcpuId, PoolId, policies};
use trapline_vcpu::{Action, Exit};

use crate::{
    broken, counts,
    hypervisor::{self, Guest, Machine, PcpuPower},
};

/// Has pCPU x1 asked to leave; [`ANSWER`] says how that went.
const UNPLUG: u32 = 0xc600_000d;
/// Has pCPU x1 brought back; likewise.
const PLUG: u32 = 0xc600_000e;
/// Where pCPU x1 is: 0 on, 1 on its way out, 2 off, 3 on its way in.
const POWER: u32 = 0xc600_000f;
/// From now on another policy takes over every x1 microseconds; 0: the one that is there stays.
const SWAP: u32 = 0xc600_0010;
/// How often one has taken over.
const SWAPS: u32 = 0xc600_0011;
/// Has it looked for how much of the time lately all vCPUs of guest x1 ran or none, in thousandths.
const TOGETHER: u32 = 0xc600_0014;
/// Has broken policies take over in all pools.
const BREAK: u32 = 0xc600_0016;
/// How the last call went that takes longer than an exit may.
const ANSWER: u32 = 0xc600_0012;

const SUCCESS: u64 = 0;
const INVALID_PARAMETERS: u64 = -2_i64 as u64;
/// The machine cannot do it, and says why in the log.
const DENIED: u64 = -3_i64 as u64;
/// It has not been done yet.
const PENDING: u64 = -100_i64 as u64;

/// How long vCPUs take turns, and a guest's window in the table of [`policies::TableDriven`] is.
const SLICE_US: u32 = 4000;

static PERIOD_US: AtomicU64 = AtomicU64::new(0);
static NEXT: AtomicU64 = AtomicU64::new(0);
static COUNT: AtomicU64 = AtomicU64::new(0);

/// What is to be done between two steps.
static ASKED: Lock<Option<(u32, u64)>> = Lock::new(None);
static LAST_ANSWER: AtomicU64 = AtomicU64::new(SUCCESS);

struct Pcpus;

impl ExitHandler for Pcpus {
    fn name(&self) -> &str {
        "pcpus"
    }

    fn handle(&self, guest: &mut GuestCpu<'_>, _exit: &Exit) -> Action {
        let answer = answer(guest.register(0) as u32, guest.register(1));
        guest.set_register(0, answer.unwrap_or(INVALID_PARAMETERS));
        Action::Finish
    }
}

fn answer(function: u32, argument: u64) -> Option<u64> {
    let machine = hypervisor::machine()?;
    let pcpu = || PcpuId::new(u16::try_from(argument).ok()?);
    Some(match function {
        UNPLUG | PLUG | TOGETHER | BREAK => {
            // First of all: somebody may be looking, and answer at once.
            LAST_ANSWER.store(PENDING, Relaxed);
            *ASKED.lock() = Some((function, argument));
            call_all(machine);
            SUCCESS
        }
        ANSWER => LAST_ANSWER.load(Relaxed),
        POWER => match machine.pcpu_power(pcpu()?)? {
            PcpuPower::On => 0,
            PcpuPower::Leaving => 1,
            PcpuPower::Off => 2,
            PcpuPower::Coming => 3,
        },
        SWAP => {
            PERIOD_US.store(argument, Relaxed);
            NEXT.store(timer::now(), Relaxed);
            call_all(machine);
            SUCCESS
        }
        SWAPS => COUNT.load(Relaxed),
        _ => return None,
    })
}

/// One of them sees to it.
fn call_all(machine: &Machine) {
    (0..machine.pcpu_count).for_each(|id| engine::call_attention(id as u16));
}

/// From now on `guest` can do so.
pub fn register(guest: &Guest) {
    let claims = [UNPLUG..=ANSWER, TOGETHER..=TOGETHER, BREAK..=BREAK].map(Claim::Calls);
    let registered = guest.vm.registry().register(&claims, Arc::new(Pcpus));
    registered.expect("nobody else claims calls of this owner");
}

/// Does what was asked for and takes longer than an exit may; returns when to come again. Called between two steps, by one pCPU at
/// a time.
pub fn attend(machine: &Machine) -> Option<u64> {
    let asked = ASKED.lock().take();
    if let Some((function, argument)) = asked {
        let answer = do_asked(machine, function, argument);
        LAST_ANSWER.store(answer.unwrap_or(INVALID_PARAMETERS), Relaxed);
    }
    swap(machine)
}

fn do_asked(machine: &Machine, function: u32, argument: u64) -> Option<u64> {
    match function {
        TOGETHER => return counts::together(machine, usize::try_from(argument).ok()?),
        BREAK => return broken::take_over(machine).then_some(SUCCESS),
        _ => {}
    }
    let pcpu = PcpuId::new(u16::try_from(argument).ok()?)?;
    let done = match function {
        UNPLUG => machine.unplug(pcpu).map_err(|error| error.to_string()),
        _ => machine.plug(pcpu).map_err(|error| error.to_string()),
    };
    Some(done.map_or_else(
        |why| {
            log::info!("no: {why}");
            DENIED
        },
        |()| SUCCESS,
    ))
}

/// Lets the next policy take over if it is time; returns when it will be.
fn swap(machine: &Machine) -> Option<u64> {
    let period = timer::ticks_of_us(PERIOD_US.load(Relaxed) as u32);
    if period == 0 {
        return None;
    }
    let now = timer::now();
    if NEXT.load(Relaxed) <= now {
        let count = COUNT.load(Relaxed) as usize;
        take_over(machine, policies::NAMES[count % policies::NAMES.len()]);
        COUNT.store(count as u64 + 1, Relaxed);
        NEXT.store(now + period, Relaxed);
    }
    Some(NEXT.load(Relaxed))
}

fn take_over(machine: &Machine, name: &str) {
    let guests = 0..machine.guest_count() as u16;
    let config = PolicyConfig {
        windows: guests
            .map(|guest| WindowConfig {
                pcpus: machine.scheduler.pcpus().bits(),
                guest: Some(guest),
                us: SLICE_US,
            })
            .collect(),
        ..PolicyConfig::new(name, SLICE_US)
    };
    let (max_vcpus, pcpus) = (machine.scheduler.max_vcpus(), machine.scheduler.pcpus());
    let policy = config.policy(max_vcpus, pcpus, timer::ticks_of_us);
    let policy = policy.expect("its options make sense");
    if let Err(refusal) = machine.scheduler.set_policy(PoolId::FIRST, policy) {
        panic!("{name} does not take over: {refusal}");
    }
}

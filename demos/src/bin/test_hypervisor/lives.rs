//! The calls with which a guest sees to the lives of others, and looks what they leave behind.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use trapline_demos::config::{MAX_GUESTS, MAX_PCPUS};
use trapline_handlers::{Claim, ExitHandler, GuestCpu, Request, timers::TimerPlace};
use trapline_platform::{heap, mmu, relax::Lock};
use trapline_vcpu::{Action, Exit};

use crate::hypervisor::{self, Guest};

/// Asks for a change in the life of the guest numbered x1: x2 is the request's place in [`Request::ALL`].
const REQUEST: u32 = 0xc600_0006;
/// How the guest numbered x1 is: the first eight letters of the word for it, the first one in the lowest byte.
const STATE: u32 = 0xc600_0007;
/// How often the guest numbered x1 has been built.
const LIVES: u32 = 0xc600_0008;
/// How much memory of the hypervisor is in use, in bytes: 0 in x1 means its heap, 1 the RAM that it has mapped; 2: how often an exit has
/// used the heap.
const MEMORY: u32 = 0xc600_0009;
/// Presses the power key of the guest numbered x1.
const POWER_KEY: u32 = 0xc600_000a;
/// With 1 in x1 takes all timers that devices could have, so that no guest can be built; with 0 gives them back.
const TIMERS: u32 = 0xc600_000c;

const SUCCESS: u64 = 0;
const INVALID_PARAMETERS: u64 = -2_i64 as u64;

static TAKEN: Lock<[Option<TimerPlace>; MOST_TIMERS]> = Lock::new([const { None }; MOST_TIMERS]);
/// More than there are.
const MOST_TIMERS: usize = 8 * MAX_GUESTS;

static BUILT: [AtomicU64; MAX_GUESTS] = [const { AtomicU64::new(0) }; MAX_GUESTS];

struct Lives;

impl ExitHandler for Lives {
    fn name(&self) -> &str {
        "lives"
    }

    fn handle(&self, guest: &mut GuestCpu<'_>, _exit: &Exit) -> Action {
        let answer = answer(
            guest.register(0) as u32,
            guest.register(1),
            guest.register(2),
        );
        guest.set_register(0, answer.unwrap_or(INVALID_PARAMETERS));
        Action::Finish
    }
}

fn answer(function: u32, first: u64, second: u64) -> Option<u64> {
    let machine = hypervisor::machine()?;
    let index = usize::try_from(first).ok()?;
    Some(match function {
        REQUEST => {
            let request = *Request::ALL.get(usize::try_from(second).ok()?)?;
            machine.request(index, request).then_some(SUCCESS)?
        }
        STATE => {
            let word = machine.state(index)?.as_bytes();
            let letters = word.iter().take(8).rev();
            letters.fold(0, |sum, &letter| sum << 8 | u64::from(letter))
        }
        POWER_KEY => machine.press_power_key(index).then_some(SUCCESS)?,
        TIMERS => {
            for place in &mut *TAKEN.lock() {
                *place = (first != 0)
                    .then(|| machine.timers.reserve().ok())
                    .flatten();
            }
            SUCCESS
        }
        LIVES => BUILT.get(index)?.load(Relaxed),
        MEMORY if first == 0 => heap::bytes_in_use(),
        MEMORY if first == 1 => mmu::mapped_ram(),
        MEMORY if first == 2 => {
            let counts = (0..MAX_PCPUS as u16).map(heap::counts);
            counts
                .map(|counts| counts.allocations_on_exit_path + counts.frees_on_exit_path)
                .sum()
        }
        _ => return None,
    })
}

/// From now on `guest` can see to the lives of others.
pub fn register(guest: &Guest) {
    BUILT[guest.index].fetch_add(1, Relaxed);
    let registered = guest.vm.registry().register(
        &[REQUEST..=POWER_KEY, TIMERS..=TIMERS].map(Claim::Calls),
        Arc::new(Lives),
    );
    registered.expect("nobody else claims calls of this owner");
}

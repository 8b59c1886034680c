//! A machine whose pCPUs come and go, or whose policy changes, while other guests run. The calls are those of the test hypervisor.
//!
//! Parameters: `seconds=` how long at most, or until guest `until=` (1) has ended; `seed=`; `pcpus=` how many there are; `pause_us=` how long at
//! most nothing happens; `settle=1` waits until each pCPU is there.

use trapline_demos::guest::{cpu, power, random::Random, timer::Timer};

use crate::{
    lives::{self, number},
    support::{self, check},
};

const UNPLUG: u32 = 0xc600_000d;
const PLUG: u32 = 0xc600_000e;
const POWER: u32 = 0xc600_000f;
const SWAP: u32 = 0xc600_0010;
const SWAPS: u32 = 0xc600_0011;
const ANSWER: u32 = 0xc600_0012;
const TOGETHER: u32 = 0xc600_0014;
const BREAK: u32 = 0xc600_0016;

/// What `ANSWER` answers while there is none.
const PENDING: i64 = -100;
/// What `POWER` answers.
const ON: i64 = 0;
const OFF: i64 = 2;

/// How long a pCPU has to come or go.
const PATIENCE_US: u64 = 30_000_000;

fn power_of(pcpu: u64) -> i64 {
    power::call(POWER, [pcpu, 0, 0])
}

/// Asks for what takes longer than an exit may, and waits for the answer.
fn ask(call: u32, argument: u64) -> i64 {
    let asked = power::call(call, [argument, 0, 0]);
    check!(asked == 0, "the call is not taken: {asked}");
    let end = Timer::Virtual.now() + cpu::microseconds(PATIENCE_US);
    loop {
        let answer = power::call(ANSWER, [0; 3]);
        if answer != PENDING {
            return answer;
        }
        check!(Timer::Virtual.now() < end, "nobody answers");
        sleep(100);
    }
}

fn sleep(us: u64) {
    lives::wait_for_timer(Timer::Virtual.now() + cpu::microseconds(us));
}

fn settle(pcpu: u64, state: i64) {
    let end = Timer::Virtual.now() + cpu::microseconds(PATIENCE_US);
    while power_of(pcpu) != state {
        check!(
            Timer::Virtual.now() < end,
            "pcpu{pcpu} is {} and does not become {state}",
            power_of(pcpu)
        );
        sleep(100);
    }
}

/// Nobody else runs any more, or it has taken long enough.
fn is_over(end: u64) -> bool {
    Timer::Virtual.now() > end || lives::is_off(number("until", 1))
}

fn end() -> u64 {
    Timer::Virtual.now() + cpu::microseconds(number("seconds", 10) * 1_000_000)
}

/// Unplugs pCPUs that are on, and plugs in those that are off, at random. In the end all are on.
pub fn unplug() {
    let (pcpus, pause) = (number("pcpus", 2), number("pause_us", 5000));
    let must_settle = number("settle", 0) != 0;
    let mut random = Random::new(number("seed", 1), 0);
    lives::take_timer();
    let (mut unplugged, mut plugged, mut refused) = (0, 0, 0);
    let end = end();
    while !is_over(end) {
        let pcpu = random.below(pcpus);
        let (call, count, state) = if power_of(pcpu) == ON {
            (UNPLUG, &mut unplugged, OFF)
        } else {
            (PLUG, &mut plugged, ON)
        };
        if ask(call, pcpu) == 0 {
            *count += 1;
            if must_settle {
                settle(pcpu, state);
            }
        } else {
            refused += 1;
        }
        sleep(1 + random.below(pause));
    }
    for pcpu in 0..pcpus {
        plugged += u64::from(ask(PLUG, pcpu) == 0);
        settle(pcpu, ON);
    }
    check!(
        pcpus > 1 || unplugged == 0,
        "the last pCPU was unplugged {unplugged} times"
    );
    support::say(format_args!(
        "unplugged={unplugged} plugged={plugged} refused={refused}"
    ));
}

/// Lets another policy take over every `period_ms=` thousandths of a second.
pub fn swap() {
    let period = number("period_ms", 100) * 1000;
    lives::take_timer();
    let end = end();
    power::call(SWAP, [period, 0, 0]);
    while !is_over(end) {
        sleep(period);
    }
    power::call(SWAP, [0; 3]);
    support::say(format_args!("swaps={}", power::call(SWAPS, [0; 3])));
}

/// Lets broken policies take over in all pools, `rounds=` times, each after `period_ms=` thousandths of a second.
pub fn break_policies() {
    let (rounds, period) = (number("rounds", 5), number("period_ms", 200) * 1000);
    lives::take_timer();
    for _ in 0..rounds {
        sleep(period);
        let answer = ask(BREAK, 0);
        check!(answer == 0, "they do not take over: {answer}");
    }
    let end = end();
    while !is_over(end) {
        sleep(period);
    }
}

/// Looks `rounds=` times, `period_ms=` thousandths of a second apart and from `after_ms=` on, for how much of the time all vCPUs of
/// guest 1 ran or none, by the last events of each pCPU.
pub fn together() {
    let (rounds, period) = (number("rounds", 5), number("period_ms", 50) * 1000);
    lives::take_timer();
    sleep(number("after_ms", 250) * 1000);
    let mut sum = 0;
    for _ in 0..rounds {
        sleep(period);
        let share = ask(TOGETHER, 1);
        check!(share >= 0, "no answer: {share}");
        sum += share as u64;
    }
    support::say(format_args!("permille={}", sum / rounds));
}

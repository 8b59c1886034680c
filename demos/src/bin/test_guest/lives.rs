//! Guests that end, start again and are paused, and a guest that sees to it. The calls are those of the test hypervisor.

use trapline_demos::guest::{cpu, gic, machine, power, timer::Timer, wipe};

use crate::support::{self, check, on_interrupt};

/// x1 is a guest's number, x2 one of the requests below.
const REQUEST: u32 = 0xc600_0006;
const STATE: u32 = 0xc600_0007;
const LIVES: u32 = 0xc600_0008;
const MEMORY: u32 = 0xc600_0009;
const TIMERS: u32 = 0xc600_000c;

const START: u64 = 0;
const STOP: u64 = 1;
const PAUSE: u64 = 3;
const RESUME: u64 = 4;

/// The words for how a guest is, as `STATE` answers them.
const ON: i64 = word(b"on");
const OFF: i64 = word(b"off");
const PAUSED: i64 = word(b"paused");

/// How long the other guest has for what was asked of it, in microseconds.
const PATIENCE_US: u64 = 20_000_000;

const fn word(letters: &[u8]) -> i64 {
    let mut sum = 0;
    let mut index = letters.len();
    while index > 0 {
        index -= 1;
        sum = sum << 8 | letters[index] as i64;
    }
    sum
}

pub fn number(key: &str, default: u64) -> u64 {
    machine::parameters().number(key, default)
}

/// Makes the guest numbered `guest` do something, and waits until it is in `state`.
fn bring(guest: u64, request: u64, state: i64) {
    let answer = power::call(REQUEST, [guest, request, 0]);
    check!(answer == 0, "request {request} of guest {guest}: {answer}");
    let is_there = cpu::wait_until(cpu::microseconds(PATIENCE_US), || {
        power::call(STATE, [guest, 0, 0]) == state
    });
    check!(is_there, "guest {guest} does not follow request {request}");
}

/// Wipes its own image and resets itself, `resets` times; its number is `guest`.
pub fn wipe_and_reset() {
    let lives = power::call(LIVES, [number("guest", 0), 0, 0]);
    support::note(format_args!("life {lives}"));
    if lives as u64 <= number("resets", 3) {
        wipe::wipe_and_reset();
    }
    support::say(format_args!("lives={lives}"));
}

/// Stops and starts guest 1 `rounds` times, or for `seconds`, while guest `beside` runs: in the end the hypervisor uses as much memory as after the
/// first time, when it has what it keeps of a guest that is off; and no exit of anybody has used its heap.
pub fn stop_and_start() {
    let rounds = number("rounds", 10);
    bring(1, STOP, OFF);
    let before = memory();
    let end = cpu::now() + cpu::microseconds(number("seconds", 60) * 1_000_000);
    for _ in (0..rounds).take_while(|_| cpu::now() < end) {
        bring(1, START, ON);
        bring(1, STOP, OFF);
    }
    let after = memory();
    check!(
        before == after,
        "the hypervisor's memory was {before:?} and is {after:?}"
    );
    let beside = number("beside", 0);
    check!(
        power::call(STATE, [beside, 0, 0]) == ON,
        "guest {beside} ended before this test"
    );
    check!(after[2] == 0, "exits used the heap {} times", after[2]);
    let lives = power::call(LIVES, [1, 0, 0]);
    support::say(format_args!(
        "lives={lives} heap={} mapped={}",
        after[0], after[1]
    ));
}

/// Starts guest 1 while the hypervisor cannot give it all its devices, three times: of the later ones no more is left than of the
/// first one, which is why it did not start. Then it starts.
pub fn start_in_vain() {
    bring(1, START, ON);
    bring(1, STOP, OFF);
    power::call(TIMERS, [1, 0, 0]);
    be_refused();
    let before = memory();
    be_refused();
    be_refused();
    let after = memory();
    check!(
        before[..2] == after[..2],
        "the hypervisor's memory was {before:?} and is {after:?}"
    );
    power::call(TIMERS, [0, 0, 0]);
    bring(1, START, ON);
    bring(1, STOP, OFF);
}

fn be_refused() {
    power::call(REQUEST, [1, START, 0]);
    let state = || power::call(STATE, [1, 0, 0]);
    let has_begun = cpu::wait_until(cpu::microseconds(PATIENCE_US), || state() != OFF);
    let is_over = cpu::wait_until(cpu::microseconds(PATIENCE_US), || state() == OFF);
    check!(has_begun && is_over, "guest 1 is not refused");
}

fn memory() -> [i64; 3] {
    [0, 1, 2].map(|what| power::call(MEMORY, [what, 0, 0]))
}

/// Pauses guest 1 for `ms` thousandths of a second, again and again, until it has ended.
pub fn pause_others() {
    let pause = cpu::microseconds(number("ms", 200) * 1000);
    let state = || power::call(STATE, [1, 0, 0]);
    let mut pauses = 0;
    while state() != OFF {
        power::call(REQUEST, [1, PAUSE, 0]);
        let is_settled = || [PAUSED, OFF].contains(&state());
        let is_there = cpu::wait_until(cpu::microseconds(PATIENCE_US), is_settled);
        check!(is_there, "guest 1 is not paused");
        cpu::wait_until(pause, || false);
        if state() == PAUSED {
            bring(1, RESUME, ON);
            pauses += 1;
        }
        cpu::wait_until(pause, || false);
    }
    support::say(format_args!("pauses={pauses}"));
}

/// Is paused until the physical counter has counted `pauses` times `ms` thousandths of a second more than the virtual one,
/// which never jumped. Half of the time it waits for its virtual timer, which never fires early.
pub fn is_paused() {
    let pause = cpu::microseconds(number("ms", 200) * 1000);
    let wanted = number("pauses", 3) * pause;
    let tick = cpu::microseconds(10_000);
    take_timer();
    // The two are read one after the other.
    let ahead = || Timer::Physical.now().wrapping_sub(Timer::Virtual.now()) as i64;
    let (start, first) = (Timer::Virtual.now(), ahead());
    let lost = || (ahead() - first).max(0) as u64;
    let mut longest_step = 0;
    let mut last = start;
    let mut has_waited = false;
    while lost() < wanted {
        let now = Timer::Virtual.now();
        check!(now >= last, "the virtual counter went from {last} to {now}");
        longest_step = longest_step.max(now - last);
        last = now;
        let deadline = now + tick;
        if has_waited {
            cpu::wait_until(tick, || false);
        } else {
            wait_for_timer(deadline);
        }
        has_waited = !has_waited;
    }
    let spent = Timer::Virtual.now() - start;
    check!(
        longest_step < tick + pause,
        "the virtual counter jumped by {longest_step} of {pause}"
    );
    // Between two pauses the guest runs as long as it is paused.
    support::say(format_args!(
        "lost_us={} spent_us={}",
        microseconds(lost()),
        microseconds(spent)
    ));
}

/// Prepares for [`wait_for_timer`].
pub fn take_timer() {
    on_interrupt(|intid| {
        Timer::Virtual.set_control(0);
        support::log(intid);
        gic::end(intid);
    });
    gic::enable(Timer::Virtual.intid());
}

/// Guest `guest` is off.
pub fn is_off(guest: u64) -> bool {
    power::call(STATE, [guest, 0, 0]) == OFF
}

/// Sleeps until the virtual counter is at `deadline`; the timer does not fire early.
pub fn wait_for_timer(deadline: u64) {
    support::clear_log();
    Timer::Virtual.arm(deadline);
    while support::logged() == 0 {
        cpu::wait_for_interrupt();
        cpu::unmask_interrupts();
        cpu::mask_interrupts();
    }
    let now = Timer::Virtual.now();
    check!(
        now >= deadline,
        "the virtual timer fired at {now}, not {deadline}"
    );
}

fn microseconds(ticks: u64) -> u64 {
    ticks * 1_000_000 / cpu::frequency()
}

/// Turns the only CPU off: the guest has nobody left, and is stopped for it.
pub fn all_off() {
    support::note(format_args!("going off"));
    power::stop_this_cpu();
}

//! The small devices of QEMU's `virt` that a guest has beside its console: clock, power key, random numbers; and the timers
//! behind them, which one pCPU keeps between its steps.

use alloc::{
    format,
    sync::{Arc, Weak},
};
use core::sync::atomic::{
    AtomicU16,
    Ordering::{Relaxed, SeqCst},
    fence,
};

use trapline_demos::config::{GuestConfig, MAX_GUESTS, PassedDevice, guest_machine};
use trapline_handlers::{
    ExitHandler, TimerHost, TimerQueue,
    pl031::{Pl031, WallTime},
    pl061::{Pin, Pl061},
    trng::{RandomNumbers, Trng},
    vgic::InterruptLine,
};
use trapline_platform::{engine, relax::Lock, timer};
use trapline_sched::PcpuId;

use super::{Guest, Refusal};

/// Two for each guest, and as many again for the devices that an image adds.
const TIMERS: usize = 4 * MAX_GUESTS;
/// The pCPU that keeps them, which is on.
static KEEPER: AtomicU16 = AtomicU16::new(0);

const POWER_KEY: Pin = match Pin::new(guest_machine::POWER_KEY_PIN) {
    Some(pin) => pin,
    None => panic!("a PL061 has eight pins"),
};

/// What stays when a guest ends, for its next life.
pub(super) struct Lasting {
    numbers: Arc<RandomNumbers>,
    /// Where the power key of the guest's present life is.
    pins: Lock<Weak<Pl061>>,
}

impl Lasting {
    pub(super) fn new(config: &GuestConfig) -> Self {
        Self {
            numbers: RandomNumbers::from_seed(config.random_seed),
            pins: Lock::new(Weak::new()),
        }
    }

    /// Presses the guest's power key; false if the guest is off, or drives the machine's own pins.
    pub(super) fn press_power_key(&self) -> bool {
        let pins = self.pins.lock().upgrade();
        if let Some(pins) = &pins {
            pins.press(POWER_KEY);
        }
        pins.is_some()
    }
}

/// Gives `guest` the devices, but for those that it drives itself (`passed`). `boot` is what time it was at some moment.
pub(super) fn add(
    guest: &Guest,
    lasting: &Lasting,
    passed: &[PassedDevice],
    boot: WallTime,
) -> Result<(), Refusal> {
    let line = |intid| {
        let line = InterruptLine::claim(guest.vm.vgic(), intid);
        line.map(Arc::new)
            .map_err(|error| Refusal(format!("a device's interrupt: {error}")))
    };
    let timers = &guest.timers;
    let registry = guest.vm.registry();
    let register = |claims: &[_], device: Arc<dyn ExitHandler>| {
        let name = format!("device {}", device.name());
        registry
            .register(claims, device)
            .map(drop)
            .map_err(|error| Refusal(format!("{name}: {error}")))
    };
    if !passed.contains(&PassedDevice::Clock) {
        let clock_line = line(guest_machine::CLOCK_INTID)?;
        let clock = Pl031::new(guest_machine::CLOCK.start, boot, timers, clock_line)
            .map_err(|error| ("clock", error))?;
        register(&clock.claims(), clock)?;
    }
    if !passed.contains(&PassedDevice::Pins) {
        let pins_line = line(guest_machine::PINS_INTID)?;
        let pins = Pl061::new(guest_machine::PINS.start, timers, pins_line)
            .map_err(|error| ("power key", error))?;
        register(&pins.claims(), pins.clone())?;
        *lasting.pins.lock() = Arc::downgrade(&pins);
    }
    register(&Trng::CLAIMS, Arc::new(Trng::new(lasting.numbers.clone())))
}

/// The timers of all guests' devices.
pub(super) fn timers() -> Arc<TimerQueue> {
    TimerQueue::new(Arc::new(Counter), TIMERS)
}

/// This machine's counter, and the pCPU that looks at it.
struct Counter;

impl TimerHost for Counter {
    fn now(&self) -> u64 {
        timer::now()
    }

    fn frequency(&self) -> u64 {
        timer::frequency()
    }

    fn attend(&self) {
        // With the fence in `hand_over`: either this sees the new keeper, or that one sees the deadline.
        fence(SeqCst);
        engine::call_attention(keeper());
    }
}

/// The pCPU that keeps the timers.
pub(super) fn keeper() -> u16 {
    KEEPER.load(Relaxed)
}

/// pCPU `from` leaves: if it keeps the timers, `to` does from now on. Whoever calls it calls `to`, which looks at them.
pub(super) fn hand_over(from: PcpuId, to: PcpuId) {
    if from.index() == usize::from(keeper()) {
        KEEPER.store(to.index() as u16, Relaxed);
        fence(SeqCst);
    }
}

/// One pCPU's part in keeping the timers.
pub(super) struct Keeper<'a> {
    id: u16,
    timers: &'a TimerQueue,
    next: Option<u64>,
}

impl<'a> Keeper<'a> {
    /// That of pCPU `id`.
    pub(super) fn new(id: PcpuId, timers: &'a TimerQueue) -> Self {
        Self {
            id: id.index() as u16,
            timers,
            next: None,
        }
    }

    /// It is this one.
    pub(super) fn is_at_it(&self) -> bool {
        keeper() == self.id
    }

    /// If this pCPU keeps the timers, tells devices whose time has come, if there may be any, between two steps; returns when to
    /// come again. `is_asked`: somebody has called for this pCPU's attention.
    pub(super) fn keep(&mut self, is_asked: bool) -> Option<u64> {
        if !self.is_at_it() {
            self.next = None;
        } else if is_asked || self.next.is_some_and(|next| next <= timer::now()) {
            self.next = self.timers.run();
        }
        self.next
    }
}

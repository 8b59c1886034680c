//! pCPUs that leave the machine while guests run, and come back.
//!
//! ```text
//!   On --unplug--> Leaving --- drained, closed, all handed over ---> GoingOff --- firmware says: off ---> Off
//!    ^                |'--- plug, or it cannot leave ---> On                                               |
//!    '----------------------------- Coming <--------------------- plug: CPU_ON ----------------------------'
//! ```
//! Whoever asks does not wait: the log says when a pCPU is off, is on, or stays. One pCPU at a time goes off, and hands over to one
//! that stays. The order in which it does is in `docs/architecture.md`.

use alloc::{boxed::Box, vec};
use core::{
    fmt,
    sync::atomic::{Ordering::SeqCst, fence},
};

use trapline_handlers::Dispatcher;
use trapline_platform::{
    engine::{self, EngineHost},
    gic, hotplug,
    relax::Lock,
    timer,
};
use trapline_sched::{CloseError, PcpuId, PoolChangeError, PoolId};
use trapline_vcpu::Aarch64PerCpu;

use super::{Machine, devices};

/// How long a pCPU waits until it may leave, in seconds.
const PATIENCE_SECONDS: u64 = 2;
/// How often whoever waits for a pCPU looks, in microseconds.
pub(super) const LOOK_US: u32 = 100;

/// Whether a pCPU executes anything.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PcpuPower {
    /// It runs vCPUs.
    On,
    /// It was asked to leave, and gives away what it has, or is about to be off.
    Leaving,
    /// It is off.
    Off,
    /// It was started, and is on its way.
    Coming,
}

/// Why a pCPU is not unplugged. Nothing has changed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum UnplugError {
    /// It is not on.
    NotOn(PcpuId, PcpuPower),
    /// Its pool needs it, or there is no such pCPU.
    Needed(PoolChangeError),
}

/// Why a pCPU is not plugged in. Nothing has changed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum PlugError {
    /// It is on, or on its way.
    NotOff(PcpuId, PcpuPower),
    /// Firmware does not start it.
    Firmware(PcpuId, hotplug::Error),
    /// Its pool does not take it, or there is no such pCPU.
    Refused(PoolChangeError),
}

impl fmt::Display for PcpuPower {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::On => "on",
            Self::Leaving => "on its way out",
            Self::Off => "off",
            Self::Coming => "on its way in",
        })
    }
}

impl fmt::Display for UnplugError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotOn(pcpu, power) => write!(f, "{pcpu} is {power}"),
            Self::Needed(error) => error.fmt(f),
        }
    }
}

impl fmt::Display for PlugError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotOff(pcpu, power) => write!(f, "{pcpu} is {power}"),
            Self::Firmware(pcpu, error) => write!(f, "firmware does not start {pcpu}: {error}"),
            Self::Refused(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for UnplugError {}
impl core::error::Error for PlugError {}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Stage {
    On,
    /// It stays if it has not left by then.
    Leaving {
        until: u64,
    },
    /// It has handed everything over. `again`: somebody wants it back.
    GoingOff {
        again: bool,
    },
    Off,
    Coming,
}

impl Stage {
    const fn power(self) -> PcpuPower {
        match self {
            Self::On => PcpuPower::On,
            Self::Leaving { .. } | Self::GoingOff { .. } => PcpuPower::Leaving,
            Self::Off => PcpuPower::Off,
            Self::Coming => PcpuPower::Coming,
        }
    }
}

/// A pCPU of those that run vCPUs.
#[derive(Clone, Copy)]
struct Place {
    stage: Stage,
    /// The pool that has it, or had it when it was unplugged.
    pool: PoolId,
}

/// Where all pCPUs are, by number. Whoever changes something holds the lock, for a moment.
pub(super) struct Hotplug(Lock<Box<[Place]>>);

impl Hotplug {
    /// `count` pCPUs that are on their way.
    pub(super) fn new(count: usize) -> Self {
        let place = Place {
            stage: Stage::Coming,
            pool: PoolId::FIRST,
        };
        Self(Lock::new(vec![place; count].into()))
    }

    /// pCPU `pcpu` is there, and has its scheduler.
    pub(super) fn arrive(&self, pcpu: PcpuId) {
        self.0.lock()[pcpu.index()].stage = Stage::On;
    }

    /// Calls `visit` with each pCPU that has registers, translations or handlers of vCPUs, or may get some. None of them leaves
    /// meanwhile.
    pub(super) fn with_holders<R>(
        &self,
        visit: impl FnOnce(&mut dyn Iterator<Item = PcpuId>) -> R,
    ) -> R {
        let places = self.0.lock();
        visit(&mut numbered(&places).filter_map(|(pcpu, stage)| {
            matches!(stage, Stage::On | Stage::Leaving { .. }).then_some(pcpu)
        }))
    }

    /// Looks whether those that have left are off; true if there was one. What such a one was asked for, and has not seen, the caller
    /// looks for afterwards, as often as this is true.
    pub(super) fn is_waiting(&self) -> bool {
        look(&mut self.0.lock())
    }
}

/// As [`Hotplug::is_waiting`].
fn look(places: &mut [Place]) -> bool {
    let mut is_waiting = false;
    for (index, Place { stage, .. }) in places.iter_mut().enumerate() {
        let Stage::GoingOff { again } = *stage else {
            continue;
        };
        is_waiting = true;
        let id = index as u16;
        if hotplug::is_off(id) != Ok(true) {
            continue;
        }
        log::info!("pcpu{id} is off");
        *stage = Stage::Off;
        if again {
            match hotplug::start(id) {
                Ok(()) => *stage = Stage::Coming,
                Err(error) => log::error!("firmware does not start pcpu{id}: {error}"),
            }
        }
    }
    // With the other fence: who has called one that is off now did so after writing down what for.
    fence(SeqCst);
    is_waiting
}

fn numbered(places: &[Place]) -> impl Iterator<Item = (PcpuId, Stage)> {
    let pcpus = (0..).filter_map(PcpuId::new);
    pcpus.zip(places.iter().map(|place| place.stage))
}

/// What a pCPU that was asked to leave does next.
enum Next {
    /// It was not asked.
    Nothing,
    /// It takes another step, and looks again at this time.
    StepUntil(u64),
    Stay(Why),
    GoOff,
}

/// Why a pCPU cannot leave.
enum Why {
    Scheduler(CloseError),
    /// This shared interrupt is active since it was taken there.
    Interrupt(u32),
    /// It is needed no more, and its pool does not take it back.
    Pool(PoolChangeError),
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Scheduler(error) => error.fmt(f),
            Self::Interrupt(intid) => write!(f, "a guest does not end interrupt {intid}"),
            Self::Pool(error) => write!(f, "but belongs to no pool: {error}"),
        }
    }
}

impl Machine {
    /// Asks pCPU `pcpu` to leave: its vCPUs, their timers, physical interrupts and everything else that it sees to go to others,
    /// then it is off. On any pCPU, not in the middle of an exit; the log says when it is off, or why it stays.
    ///
    /// # Errors
    /// It cannot leave.
    pub fn unplug(&self, pcpu: PcpuId) -> Result<(), UnplugError> {
        let mut places = self.hotplug.0.lock();
        let place = places.get_mut(pcpu.index());
        let absent = UnplugError::Needed(PoolChangeError::AbsentPcpu(pcpu));
        let Place { stage, pool } = place.ok_or(absent)?;
        if *stage != Stage::On {
            return Err(UnplugError::NotOn(pcpu, stage.power()));
        }
        *pool = self.scheduler.unplug(pcpu).map_err(UnplugError::Needed)?;
        *stage = Stage::Leaving {
            until: timer::now() + timer::frequency() * PATIENCE_SECONDS,
        };
        engine::call_attention(pcpu.index() as u16);
        Ok(())
    }

    /// Brings pCPU `pcpu` back to its pool, or has it stay if it has not left yet. On any pCPU, not in the middle of an exit; the log
    /// says when it is on.
    ///
    /// # Errors
    /// It does not come.
    pub fn plug(&self, pcpu: PcpuId) -> Result<(), PlugError> {
        let mut places = self.hotplug.0.lock();
        let place = places.get_mut(pcpu.index());
        let absent = PlugError::Refused(PoolChangeError::AbsentPcpu(pcpu));
        let Place { stage, pool } = place.ok_or(absent)?;
        match *stage {
            Stage::Coming | Stage::GoingOff { again: true } => {
                return Err(PlugError::NotOff(pcpu, stage.power()));
            }
            // One that was refused by its pool is on and in no pool.
            Stage::On => {
                let joined = self.join(pcpu, pool);
                return joined.map_err(PlugError::Refused);
            }
            Stage::Leaving { .. } => {
                self.join(pcpu, pool).map_err(PlugError::Refused)?;
                gic::accept_shared(pcpu.index() as u16);
                *stage = Stage::On;
            }
            Stage::GoingOff { again: false } => *stage = Stage::GoingOff { again: true },
            Stage::Off => {
                let started = hotplug::start(pcpu.index() as u16);
                started.map_err(|error| PlugError::Firmware(pcpu, error))?;
                *stage = Stage::Coming;
            }
        }
        Ok(())
    }

    /// Whether pCPU `pcpu` executes anything now; `None` if no vCPU may run on it in any case.
    pub fn pcpu_power(&self, pcpu: PcpuId) -> Option<PcpuPower> {
        let places = self.hotplug.0.lock();
        places.get(pcpu.index()).map(|place| place.stage.power())
    }

    /// Takes the pCPU of `engine`, the caller's own, off if it was asked to leave and may: then it is back when this returns.
    /// Returns when to come again, between two steps.
    pub(super) fn leave_if_asked(
        &self,
        engine: &mut Aarch64PerCpu<Dispatcher, EngineHost>,
    ) -> Option<u64> {
        if !engine.scheduler().is_drained() {
            return None;
        }
        match self.prepare_to_leave(engine) {
            Next::Nothing => None,
            Next::StepUntil(time) => Some(time),
            Next::Stay(why) => {
                log::warn!("{} stays: {why}", engine.scheduler().id());
                Some(timer::now())
            }
            Next::GoOff => {
                let left = engine::leave(engine);
                let joined = self.come_back(engine);
                let id = engine.scheduler().id();
                match left {
                    Ok(()) => log::info!("{id} is on"),
                    Err(error) => log::warn!("{id} stays: firmware says: {error}"),
                }
                if let Err(error) = joined {
                    log::warn!("{id} belongs to no pool: {error}");
                }
                Some(timer::now())
            }
        }
    }

    /// Hands over what the pCPU of `engine`, which is drained, sees to, as far as it may.
    fn prepare_to_leave(&self, engine: &mut Aarch64PerCpu<Dispatcher, EngineHost>) -> Next {
        let id = engine.scheduler().id();
        let mut places = self.hotplug.0.lock();
        if look(&mut places) {
            // Whoever goes off hands over to one that stays until then. If that one has been found off here, this pCPU looks for
            // what it has missed.
            engine::call_attention(id.index() as u16);
            return Next::StepUntil(timer::now() + timer::ticks_of_us(LOOK_US));
        }
        let heir = numbered(&places).find(|(_, stage)| *stage == Stage::On);
        let Place { stage, pool } = &mut places[id.index()];
        let Stage::Leaving { until } = *stage else {
            return Next::Nothing;
        };
        let Some((heir, _)) = heir else {
            // Its pool has another one, which has not come yet: it will.
            return Next::StepUntil(timer::now() + timer::ticks_of_us(LOOK_US));
        };
        let to = heir.index() as u16;
        let handed_over = gic::hand_over_shared(to).map_err(Why::Interrupt);
        let closed = handed_over.and_then(|()| engine.close().map_err(Why::Scheduler));
        match closed {
            Ok(()) => {}
            Err(Why::Scheduler(CloseError::Raised)) => return Next::StepUntil(timer::now()),
            Err(Why::Interrupt(_)) if timer::now() < until => {
                return Next::StepUntil(timer::now() + timer::ticks_of_us(LOOK_US));
            }
            Err(why) => {
                *stage = Stage::On;
                // It is on, whatever its pool says.
                gic::accept_shared(id.index() as u16);
                return match self.join(id, pool) {
                    Ok(()) => Next::Stay(why),
                    Err(error) => Next::Stay(Why::Pool(error)),
                };
            }
        }
        devices::hand_over(id, heir);
        engine.let_go(&self.nobody);
        self.slots.iter().for_each(|slot| self.has_let_go(slot, id));
        *stage = Stage::GoingOff { again: false };
        // It waits until this pCPU is off, and looks for what that was called for and has not seen.
        engine::call_attention(to);
        Next::GoOff
    }

    /// pCPU `pcpu` belongs to `pool`, or to the first one if that is no more.
    fn join(&self, pcpu: PcpuId, pool: &mut PoolId) -> Result<(), PoolChangeError> {
        self.scheduler
            .plug(pcpu, *pool)
            .or_else(|error| match error {
                PoolChangeError::NoPool(_) => {
                    *pool = PoolId::FIRST;
                    self.scheduler.plug(pcpu, *pool)
                }
                other => Err(other),
            })
    }

    /// The pCPU of `engine` is on again.
    fn come_back(
        &self,
        engine: &mut Aarch64PerCpu<Dispatcher, EngineHost>,
    ) -> Result<(), PoolChangeError> {
        let id = engine.scheduler().id();
        engine.reopen();
        let mut places = self.hotplug.0.lock();
        let Place { stage, pool } = &mut places[id.index()];
        *stage = Stage::On;
        self.join(id, pool)
    }
}

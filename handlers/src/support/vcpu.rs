//! A vCPU for host tests, as others control it.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

use trapline_sched::{MigrateError, PcpuId, PowerOnError, PowerState, VcpuId};

use crate::vm::VcpuControl;

/// A vCPU as others control it: its power state, and what they did.
#[derive(Default)]
pub(crate) struct FakeVcpu {
    power: Mutex<FakePower>,
    pub(crate) wakes: AtomicU64,
    pub(crate) stops: AtomicU64,
    pub(crate) ready: AtomicU64,
    pub(crate) hurries: AtomicU64,
    pub(crate) place: Mutex<FakePlace>,
    id: u16,
    is_paused: AtomicBool,
}

/// Where a vCPU is: it waits until somebody says otherwise.
#[derive(Clone, Copy, Default)]
pub(crate) struct FakePlace {
    pub(crate) pcpu: u16,
    pub(crate) is_ready: bool,
    pub(crate) has_yielded: bool,
}

impl FakePlace {
    /// It runs on `pcpu`.
    pub(crate) fn running(pcpu: u16) -> Self {
        Self {
            pcpu,
            ..Self::default()
        }
    }

    /// It could run on `pcpu`.
    pub(crate) fn ready(pcpu: u16) -> Self {
        Self {
            is_ready: true,
            ..Self::running(pcpu)
        }
    }
}

#[derive(Default)]
struct FakePower {
    state: Option<PowerState>,
    entry: (u64, u64),
}

impl FakeVcpu {
    /// vCPU `id`, which is off.
    pub(crate) fn new(id: u16) -> Self {
        Self {
            id,
            ..Self::default()
        }
    }

    /// The vCPU runs, from where it was told to.
    pub(crate) fn enter(&self) -> (u64, u64) {
        let mut power = self.power.lock().unwrap();
        power.state = Some(PowerState::On);
        power.entry
    }

    /// The core has acted on `Action::PowerOff`.
    pub(crate) fn leave(&self) {
        self.power.lock().unwrap().state = None;
    }
}

impl VcpuControl for FakeVcpu {
    fn id(&self) -> VcpuId {
        VcpuId::new(self.id)
    }

    fn wake(&self) {
        self.wakes.fetch_add(1, SeqCst);
    }

    fn complete(&self) {}

    fn request_sync(&self) -> bool {
        false
    }

    fn power_on(&self, entry: u64, context: u64) -> Result<(), PowerOnError> {
        let mut power = self.power.lock().unwrap();
        match power.state {
            None | Some(PowerState::Off) => {
                *power = FakePower {
                    state: Some(PowerState::OnPending),
                    entry: (entry, context),
                };
                Ok(())
            }
            Some(PowerState::OnPending) => Err(PowerOnError::OnPending),
            Some(PowerState::On) => Err(PowerOnError::AlreadyOn),
        }
    }

    fn power_state(&self) -> PowerState {
        self.power.lock().unwrap().state.unwrap_or(PowerState::Off)
    }

    fn stop(&self) {
        self.stops.fetch_add(1, SeqCst);
    }

    fn pause(&self) {
        self.is_paused.store(true, SeqCst);
    }

    fn resume(&self) {
        self.is_paused.store(false, SeqCst);
    }

    fn is_parked(&self) -> bool {
        self.is_paused.load(SeqCst)
    }

    fn migrate(&self, _to: PcpuId) -> Result<(), MigrateError> {
        Ok(())
    }

    fn ready_ticks(&self) -> u64 {
        self.ready.load(SeqCst)
    }

    fn last_pcpu(&self) -> PcpuId {
        PcpuId::new(self.place.lock().unwrap().pcpu).unwrap()
    }

    fn ready_on(&self) -> Option<PcpuId> {
        let place = *self.place.lock().unwrap();
        place.is_ready.then(|| self.last_pcpu())
    }

    fn preempted_on(&self) -> Option<PcpuId> {
        let has_yielded = self.place.lock().unwrap().has_yielded;
        self.ready_on().filter(|_| !has_yielded)
    }

    fn hurry(&self) {
        self.hurries.fetch_add(1, SeqCst);
    }
}

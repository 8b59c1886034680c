//! What the scheduler tells the hardware of its pCPU, and what it answers to the loop there.

/// What the scheduler tells the pCPU to do. Called on that pCPU only, from [`crate::LocalScheduler::schedule`].
pub trait Machine<V> {
    /// Puts the vCPU's registers into the hardware, and looks at everything that could have become pending since it was
    /// unbound. `exclusive`: no other vCPU is ready here, and the policy lets it have the pCPU, its WFI included.
    fn bind(&mut self, vcpu: &mut V, exclusive: bool);

    /// Takes them out again. The result is when its next timer expires, in ticks of [`crate::Host::now`], if that would
    /// wake it; it is used only if the vCPU waits.
    fn unbind(&mut self, vcpu: &mut V) -> Option<u64>;

    /// The bound vCPU has the pCPU to itself, as [`Self::bind`] says, or no longer has it. Called only when that changes.
    fn set_exclusive(&mut self, vcpu: &mut V, exclusive: bool);

    /// Others are ready on this pCPU, so a bound vCPU that spins should let them run; or they no longer are, and it has yielded in
    /// vain. Called while a vCPU is bound, and only when that changes; at first nobody is.
    fn contend(&mut self, _is_contended: bool) {}

    /// The bound vCPU waits with its registers in the hardware, or no longer does.
    fn wait(&mut self, _vcpu: &mut V, _is_waiting: bool) {}

    /// Folds the bound vCPU's interrupt state and tells who waits for it; the vCPU stays bound.
    fn sync(&mut self, vcpu: &mut V);

    /// PSCI turned the vCPU on: its registers go to their reset values and its PC to the entry point. It is not bound.
    fn reset(&mut self, vcpu: &mut V);

    /// The pCPU must call [`crate::LocalScheduler::timer_fired`] at this time, and not before another time is set; `None`: never.
    /// Called only when the time changes.
    fn set_timer(&mut self, deadline: Option<u64>);
}

/// What the pCPU does next.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[must_use]
pub enum Decision {
    /// Enter the guest of the loaded vCPU.
    Run,
    /// Wait for a physical interrupt, answer it, and call `schedule` again.
    Idle,
    /// As `Idle`, but the vCPU that waits here is soon woken, perhaps: first call [`crate::LocalScheduler::look`] until that answers
    /// something else than [`Look::Again`].
    Poll,
    /// The pCPU is drained: nothing is loaded. Wait as for `Idle`; a kick says that something changed.
    Drained,
}

/// What a pCPU that polls does next.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[must_use]
pub enum Look {
    /// Look again.
    Again,
    /// Call [`crate::LocalScheduler::schedule`].
    Schedule,
    /// As [`Decision::Idle`] says. Until then, polling is over.
    Idle,
}

/// The vCPU is not blocked: a wake came first, and it is consumed. Bring its interrupts up to date and go on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Woken;

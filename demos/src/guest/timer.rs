//! The EL1 timers of this CPU. [DDI0487: The Generic Timer]

use aarch64_cpu::{
    asm::barrier,
    registers::{
        CNTP_CTL_EL0, CNTP_CVAL_EL0, CNTPCT_EL0, CNTV_CTL_EL0, CNTV_CVAL_EL0, CNTVCT_EL0, Readable,
        Writeable,
    },
};

/// CTL.ENABLE: the timer runs.
pub const ENABLE: u64 = 1;
/// CTL.IMASK: its output is off.
pub const IMASK: u64 = 2;
/// CTL.ISTATUS: its deadline has passed.
pub const ISTATUS: u64 = 4;

/// A deadline that no run reaches. Later ones hang QEMU 7.2 for good when CNTVOFF_EL2 is not 0: it adds the two, the sum wraps, and
/// its timer fires without end.
pub const NEVER: u64 = u64::MAX / 4;

/// One of the two timers that a guest at EL1 has.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Timer {
    /// CNTV, on PPI 27.
    Virtual,
    /// CNTP, on PPI 30.
    Physical,
}

impl Timer {
    /// The INTID of its interrupt.
    pub const fn intid(self) -> u32 {
        match self {
            Self::Virtual => 27,
            Self::Physical => 30,
        }
    }

    /// The counter that it compares with.
    #[inline(always)]
    pub fn now(self) -> u64 {
        barrier::isb(barrier::SY);
        match self {
            Self::Virtual => CNTVCT_EL0.get(),
            Self::Physical => CNTPCT_EL0.get(),
        }
    }

    /// Interrupts once its counter reaches `deadline`.
    #[inline(always)]
    pub fn arm(self, deadline: u64) {
        self.arm_with(deadline, ENABLE);
    }

    /// Sets the deadline, then the control register.
    #[inline(always)]
    pub fn arm_with(self, deadline: u64, control: u64) {
        match self {
            Self::Virtual => CNTV_CVAL_EL0.set(deadline),
            Self::Physical => CNTP_CVAL_EL0.set(deadline),
        }
        self.set_control(control);
    }

    /// Writes the control register, for example 0 to turn the timer off.
    #[inline(always)]
    pub fn set_control(self, value: u64) {
        match self {
            Self::Virtual => CNTV_CTL_EL0.set(value),
            Self::Physical => CNTP_CTL_EL0.set(value),
        }
        barrier::isb(barrier::SY);
    }

    /// The control register: [`ENABLE`], [`IMASK`], [`ISTATUS`].
    #[inline(always)]
    pub fn control(self) -> u64 {
        match self {
            Self::Virtual => CNTV_CTL_EL0.get(),
            Self::Physical => CNTP_CTL_EL0.get(),
        }
    }

    /// The deadline that was last armed.
    #[inline(always)]
    pub fn deadline(self) -> u64 {
        match self {
            Self::Virtual => CNTV_CVAL_EL0.get(),
            Self::Physical => CNTP_CVAL_EL0.get(),
        }
    }
}

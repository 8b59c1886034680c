//! Which EL1 registers move when a pCPU changes vCPU.
//!
//! All that a guest can see is here, in [`crate::frame`], in the FP state, or in the list registers; what is not is trapped
//! or hidden. Nothing here moves on an exit.

/// SCTLR_EL1 at reset: MMU and caches off, RES1 bits set. [DDI0487: SCTLR_EL1]
const SCTLR_EL1_RESET: u64 = 0x30d0_0800;

switched_registers! {
    /// EL1 and EL0 state of an unbound vCPU.
    ///
    /// The registers that steer translation come first: they are in place before the guest's stage 2 is.
    GuestSystemRegisters {
        sctlr_el1: "sctlr_el1" = SCTLR_EL1_RESET,
        tcr_el1: "tcr_el1" = 0,
        ttbr0_el1: "ttbr0_el1" = 0,
        ttbr1_el1: "ttbr1_el1" = 0,
        mair_el1: "mair_el1" = 0,
        amair_el1: "amair_el1" = 0,
        contextidr_el1: "contextidr_el1" = 0,
        cpacr_el1: "cpacr_el1" = 0,
        vbar_el1: "vbar_el1" = 0,
        sp_el0: "sp_el0" = 0,
        sp_el1: "sp_el1" = 0,
        elr_el1: "elr_el1" = 0,
        spsr_el1: "spsr_el1" = 0,
        esr_el1: "esr_el1" = 0,
        far_el1: "far_el1" = 0,
        afsr0_el1: "afsr0_el1" = 0,
        afsr1_el1: "afsr1_el1" = 0,
        par_el1: "par_el1" = 0,
        tpidr_el0: "tpidr_el0" = 0,
        tpidr_el1: "tpidr_el1" = 0,
        tpidrro_el0: "tpidrro_el0" = 0,
        csselr_el1: "csselr_el1" = 0,
        cntkctl_el1: "cntkctl_el1" = 0,
        cntv_cval_el0: "cntv_cval_el0" = 0,
        cntv_ctl_el0: "cntv_ctl_el0" = 0,
        cntp_cval_el0: "cntp_cval_el0" = 0,
        cntp_ctl_el0: "cntp_ctl_el0" = 0,
    }
}

switched_registers! {
    /// The pointer authentication keys, on pCPUs that have FEAT_PAuth. [DDI0487: APIAKeyLo_EL1 and the others]
    PointerAuthKeys {
        apia_lo: "S3_0_C2_C1_0" = 0,
        apia_hi: "S3_0_C2_C1_1" = 0,
        apib_lo: "S3_0_C2_C1_2" = 0,
        apib_hi: "S3_0_C2_C1_3" = 0,
        apda_lo: "S3_0_C2_C2_0" = 0,
        apda_hi: "S3_0_C2_C2_1" = 0,
        apdb_lo: "S3_0_C2_C2_2" = 0,
        apdb_hi: "S3_0_C2_C2_3" = 0,
        apga_lo: "S3_0_C2_C3_0" = 0,
        apga_hi: "S3_0_C2_C3_1" = 0,
    }
}

switched_registers! {
    /// Virtual SErrors, on pCPUs that have FEAT_RAS: what the guest's DISR_EL1 means, and the syndrome of a pended one.
    /// [DDI0487: VDISR_EL2, VSESR_EL2]
    VirtualErrors {
        vdisr_el2: "S3_4_C12_C1_1" = 0,
        vsesr_el2: "S3_4_C5_C2_3" = 0,
    }
}

/// ENABLE of CNTV_CTL_EL0 and CNTP_CTL_EL0. [DDI0487: CNTV_CTL_EL0]
pub const TIMER_ENABLE: u64 = 1 << 0;
/// IMASK of the same registers.
pub const TIMER_IMASK: u64 = 1 << 1;
/// ISTATUS of the same registers: the condition is met.
pub const TIMER_ISTATUS: u64 = 1 << 2;

/// The timer with this control register would raise its interrupt once its condition is met.
pub const fn is_timer_armed(control: u64) -> bool {
    control & (TIMER_ENABLE | TIMER_IMASK) == TIMER_ENABLE
}

/// The timer with this control register, just read from hardware, raises its interrupt now.
pub const fn is_timer_firing(control: u64) -> bool {
    is_timer_armed(control) && control & TIMER_ISTATUS != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timer_fires_when_enabled_unmasked_and_due() {
        for control in 0..8 {
            assert_eq!(
                is_timer_firing(control),
                control == TIMER_ENABLE | TIMER_ISTATUS
            );
        }
    }

    #[test]
    fn a_reset_vcpu_has_mmu_caches_and_timers_off() {
        let registers = GuestSystemRegisters::default();
        let (mmu, data_cache, instruction_cache) = (1 << 0, 1 << 2, 1 << 12);
        assert_eq!(
            registers.sctlr_el1 & (mmu | data_cache | instruction_cache),
            0
        );
        assert_eq!((registers.cntv_ctl_el0, registers.cntp_ctl_el0), (0, 0));
    }
}

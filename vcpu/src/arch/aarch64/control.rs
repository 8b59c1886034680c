//! What EL2 traps while guests run.
//!
//! Most control registers are UNKNOWN at reset: each one that a pCPU has gets a named value here. The tables list them
//! once; `takeover` saves the host's values by them and puts those back.

use aarch64_cpu::registers::HCR_EL2;

/// HCR_EL2 for a vCPU whose caches are still off (TVM) on a pCPU that it shares (TWI, TWE).
///
/// FB and BSU make the guest's own TLB and cache maintenance reach every pCPU, since a vCPU may move between two
/// instructions; TSC, TACR, TIDCP, TID3, TSW, TERR and TLOR hide or emulate what is not switched; API and APK leave pointer
/// authentication alone, whose keys are switched. [DDI0487: HCR_EL2]
pub fn guest_hcr() -> u64 {
    (HCR_EL2::VM::Enable
        + HCR_EL2::SWIO::SET
        + HCR_EL2::PTW::SET
        + HCR_EL2::FMO::SET
        + HCR_EL2::IMO::SET
        + HCR_EL2::AMO::SET
        + HCR_EL2::FB::SET
        + HCR_EL2::BSU::InnerShareable
        + HCR_EL2::TWI::SET
        + HCR_EL2::TWE::SET
        + HCR_EL2::TID3::SET
        + HCR_EL2::TSC::SET
        + HCR_EL2::TIDCP::SET
        + HCR_EL2::TACR::SET
        + HCR_EL2::TSW::SET
        + HCR_EL2::TVM::SET
        + HCR_EL2::RW::EL1IsAarch64
        + HCR_EL2::TERR::SET
        + HCR_EL2::TLOR::SET
        + HCR_EL2::TEA::SET
        + HCR_EL2::APK::SET
        + HCR_EL2::API::SET)
        .value
}

/// HCR_EL2 traps that only a shared pCPU needs: a vCPU that has its pCPU for itself waits in hardware.
pub fn wait_traps() -> u64 {
    (HCR_EL2::TWI::SET + HCR_EL2::TWE::SET).value
}

/// HCR_EL2.TWE: WFE traps, for the sake of others that are ready on the pCPU.
pub fn event_trap() -> u64 {
    HCR_EL2::TWE::SET.value
}

/// HCR_EL2.TVM: the guest's writes to its translation registers trap.
pub fn translation_register_traps() -> u64 {
    HCR_EL2::TVM::SET.value
}

/// HCR_EL2.VSE: a virtual SError is pending; the hardware clears it when the guest takes it.
pub fn virtual_serror() -> u64 {
    HCR_EL2::VSE::SET.value
}

/// `kept`, what HCR_EL2 is to be, less a virtual SError that the guest has taken: the hardware has cleared it in `actual`, the
/// register, and it must not come back.
pub fn without_taken_serror(kept: u64, actual: u64) -> u64 {
    if cfg!(mutant = "taken_serror_comes_back") {
        return kept;
    }
    kept & (actual | !virtual_serror())
}

/// CPTR_EL2 with E2H=0: its RES1 bits, of which TZ hides SVE and TSM hides SME, and TTA and TAM, which hide trace and activity
/// monitors. [DDI0487: CPTR_EL2]
pub const CPTR_TRAP_NONE: u64 = 0x33ff | 1 << 20 | 1 << 30;
/// The same, and the first FP or SIMD instruction traps (TFP).
pub const CPTR_TRAP_FP: u64 = CPTR_TRAP_NONE | 1 << 10;

/// CNTHCTL_EL2 with E2H=0: the guest reads the physical counter and uses the physical timer (EL1PCTEN, EL1PCEN).
const CNTHCTL_GUEST: u64 = 0b11;

/// MDCR_EL2: debug (TDRA, TDOSA, TDA; see `debug`), PMU (TPM, TPMCR), profiling (TPMS) and trace-filter (TTRF) registers trap; profiling
/// and trace buffers stay EL2's (E2PB, E2TB are 0). HPMN keeps the host's value, which is a valid one.
const MDCR_TRAP_ALL: u64 = 1 << 19 | 1 << 14 | 1 << 11 | 1 << 10 | 1 << 9 | 1 << 6 | 1 << 5;
/// MDCR_EL2.HPMN: how many event counters EL1 would have.
pub const MDCR_COUNTERS: u64 = 0x1f;

/// ICC_SRE_EL2: system registers only (SRE, DFB, DIB), and the guest's ICC_SRE_EL1, which is not switched, traps (Enable is 0).
const SRE_SYSTEM_REGISTERS: u64 = 0b0111;

/// ICH_VMCR_EL2 and ICH_HCR_EL2 off: no vCPU is bound.
const INTERFACE_OFF: u64 = 0;

switched_registers! {
    /// Control registers that every pCPU has. The default is what holds while no vCPU is bound.
    ControlRegisters {
        vttbr_el2: "vttbr_el2" = 0,
        vtcr_el2: "vtcr_el2" = 1 << 31,
        cptr_el2: "cptr_el2" = CPTR_TRAP_FP,
        mdcr_el2: "mdcr_el2" = MDCR_TRAP_ALL,
        cnthctl_el2: "cnthctl_el2" = CNTHCTL_GUEST,
        cntvoff_el2: "cntvoff_el2" = 0,
        hstr_el2: "hstr_el2" = 0,
        vpidr_el2: "vpidr_el2" = 0,
        vmpidr_el2: "vmpidr_el2" = 1 << 31,
        hcr_el2: "hcr_el2" = guest_hcr(),
    }
}

switched_registers! {
    /// The virtual CPU interface, on pCPUs that have it in system registers (GICv3).
    InterfaceRegisters {
        icc_sre_el2: "S3_4_C12_C9_5" = SRE_SYSTEM_REGISTERS,
        ich_vmcr_el2: "ich_vmcr_el2" = INTERFACE_OFF,
        ich_hcr_el2: "ich_hcr_el2" = INTERFACE_OFF,
    }
}

switched_registers! {
    /// Fine-grained traps (FEAT_FGT). The bits that trap by being 1 are off; those that enable a feature by being 1
    /// (their names begin with n) are off too, so what is newer than this list traps. [DDI0487: HFGRTR_EL2]
    FineGrainedTraps {
        hfgrtr_el2: "S3_4_C1_C1_4" = 0,
        hfgwtr_el2: "S3_4_C1_C1_5" = 0,
        hfgitr_el2: "S3_4_C1_C1_6" = 0,
        hdfgrtr_el2: "S3_4_C3_C1_4" = 0,
        hdfgwtr_el2: "S3_4_C3_C1_5" = 0,
    }
}

switched_registers! {
    /// Extended configuration (FEAT_HCX): every feature that it could enable is hidden. [DDI0487: HCRX_EL2]
    ExtendedConfiguration {
        hcrx_el2: "S3_4_C1_C2_2" = 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_virtual_serror_that_was_taken_does_not_come_back() {
        let (pending, other) = (virtual_serror(), event_trap());
        assert_eq!(without_taken_serror(pending | other, 0), other);
        assert_eq!(without_taken_serror(pending, pending | other), pending);
        assert_eq!(without_taken_serror(other, pending), other);
    }

    #[test]
    fn a_guest_runs_with_every_trap_that_hides_something() {
        let bits = [
            0, 1, 2, 3, 4, 5, 9, 10, 13, 14, 18, 19, 20, 21, 22, 26, 31, 35, 36, 37, 40, 41,
        ];
        let expected = bits.into_iter().fold(0u64, |value, bit| value | 1 << bit);
        assert_eq!(guest_hcr(), expected);
    }

    #[test]
    fn waiting_is_trapped_only_on_a_shared_pcpu() {
        assert_eq!(wait_traps(), 1 << 13 | 1 << 14);
        assert_eq!(guest_hcr() & wait_traps(), wait_traps());
        assert_eq!(event_trap(), 1 << 14);
    }
}

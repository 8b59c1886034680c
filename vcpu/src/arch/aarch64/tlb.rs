//! TLB maintenance of guests' translations. [DDI0487: TLB maintenance instructions]

/// Drops this pCPU's stage-1 and combined entries of the VMID in VTTBR_EL2.
pub(crate) fn flush_local_guest() {
    // SAFETY: invalidation only costs refills; the VMID in VTTBR_EL2 is that of the vCPU being bound.
    unsafe { core::arch::asm!("dsb nshst", "tlbi vmalle1", "dsb nsh", "isb", options(nostack, preserves_flags)) }
}

/// Drops this pCPU's guest entries of every VMID.
pub(crate) fn flush_local_all_guests() {
    // SAFETY: invalidation only costs refills.
    unsafe { core::arch::asm!("dsb nshst", "tlbi alle1", "dsb nsh", "isb", options(nostack, preserves_flags)) }
}

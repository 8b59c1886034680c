//! Which affinity a vCPU has: 16 at level 0, as many clusters at level 1 as it takes.
//!
//! SGIs name up to 16 targets of one cluster, so a cluster has 16 vCPUs, as on QEMU's `virt` with a GICv3. [IHI0069:
//! ICC_SGI1R_EL1.TargetList; DDI0487: MPIDR_EL1]

/// vCPUs in a cluster.
const CLUSTER: usize = 16;

/// Aff3 in bits 39:32 and Aff2 to Aff0 in bits 23:0, as in MPIDR_EL1. Everything else is RES0 in PSCI and in GICD_IROUTER.
pub const AFFINITY_MASK: u64 = 0xff_00ff_ffff;

/// The affinity of the vCPU with this index in its VM, below 4096.
pub const fn affinity_of(index: usize) -> u64 {
    ((index / CLUSTER) as u64 & 0xff) << 8 | (index % CLUSTER) as u64
}

/// The index of the vCPU that would have this affinity; `None` if none can. It may be past the VM's last.
pub const fn index_of(affinity: u64) -> Option<usize> {
    let (cluster, within) = (affinity >> 8 & 0xff, affinity & 0xff);
    if affinity & !0xffff == 0 && within < CLUSTER as u64 {
        Some(cluster as usize * CLUSTER + within as usize)
    } else {
        None
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn affinities_name_vcpus_one_to_one() {
        for index in 0..4096 {
            assert_eq!(index_of(affinity_of(index)), Some(index));
        }
    }

    #[test]
    fn the_seventeenth_vcpu_starts_a_cluster() {
        assert_eq!(
            [affinity_of(15), affinity_of(16), affinity_of(63)],
            [0xf, 0x100, 0x30f]
        );
    }

    #[test]
    fn affinities_that_no_vcpu_has_name_none() {
        for affinity in [0x10, 0x11f, 0x1_0000, 1 << 24, 1 << 31, 1 << 32, u64::MAX] {
            assert_eq!(index_of(affinity), None, "{affinity:#x}");
        }
    }
}

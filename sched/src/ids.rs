//! How physical and virtual CPUs are named.

use core::fmt;

/// A physical CPU of the machine: 0 to 63, or to 1,023 with the feature `many-pcpus`.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct PcpuId(u16);

impl PcpuId {
    /// How many pCPUs there can be; a multiple of 64.
    pub const LIMIT: u16 = if cfg!(feature = "many-pcpus") {
        1024
    } else {
        64
    };

    /// `None` from [`Self::LIMIT`] on, so that every `PcpuId` is a bit of a [`crate::PcpuSet`].
    pub const fn new(index: u16) -> Option<Self> {
        if index < Self::LIMIT {
            Some(Self(index))
        } else {
            None
        }
    }

    /// The number, below [`Self::LIMIT`].
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    pub(crate) const fn from_low_bits(bits: u32) -> Self {
        Self((bits % Self::LIMIT as u32) as u16)
    }
}

impl fmt::Display for PcpuId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pcpu{}", self.0)
    }
}

/// A vCPU, numbered within its scheduler. Its index in its VM and its MPIDR are other numbers.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct VcpuId(u16);

impl VcpuId {
    /// The vCPU with this number; whether there is one is another question.
    pub const fn new(index: u16) -> Self {
        Self(index)
    }

    /// The number, below the scheduler's `max_vcpus` for every vCPU that it has created.
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    pub(crate) const fn raw(self) -> u16 {
        self.0
    }
}

impl fmt::Display for VcpuId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "vcpu{}", self.0)
    }
}

/// A pool of pCPUs. The number of one that is gone is used again, but as another `PoolId`: whoever remembers the one that is gone
/// means no other.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct PoolId(
    /// How many have had the number before in bits 31:8, the number in bits 7:0.
    u32,
);

impl PoolId {
    /// How many pools there can be at a time; a power of two.
    pub const LIMIT: usize = if cfg!(loom) { 2 } else { 16 };
    /// The one that is there from the start.
    pub const FIRST: Self = Self(0);

    /// The first pool that has this number; `None` from [`Self::LIMIT`] on.
    pub const fn new(index: usize) -> Option<Self> {
        if index < Self::LIMIT {
            Some(Self(index as u32))
        } else {
            None
        }
    }

    /// The next one that gets the number of this one. After 16 million of them they are the same again.
    pub(crate) const fn successor(self) -> Self {
        Self(self.0.wrapping_add(1 << 8))
    }

    pub(crate) const fn raw(self) -> u32 {
        self.0
    }

    pub(crate) const fn from_raw(raw: u32) -> Self {
        Self(raw)
    }

    /// Every number that a pool can have.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..Self::LIMIT).filter_map(Self::new)
    }

    /// The number, below [`Self::LIMIT`]. The mask tells the compiler what every `PoolId` promises.
    pub const fn index(self) -> usize {
        self.0 as usize & (Self::LIMIT - 1)
    }
}

impl fmt::Display for PoolId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pool{}", self.index())
    }
}

/// A VM, as policies see it: what its vCPUs have in common. Numbered from 0 within the machine.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct GroupId(u16);

impl GroupId {
    /// The group with this number.
    pub const fn new(index: u16) -> Self {
        Self(index)
    }

    /// Its number.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

//! How physical and virtual CPUs are named, and how a set of pCPUs is written.

use core::{fmt, str::FromStr};

/// A physical CPU of the pool, 0 to 63.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct PcpuId(u16);

impl PcpuId {
    /// How many pCPUs there can be.
    pub const LIMIT: u16 = 64;

    /// `None` from [`Self::LIMIT`] on, so that every `PcpuId` is a bit of a [`PcpuSet`].
    pub const fn new(index: u16) -> Option<Self> {
        if index < Self::LIMIT {
            Some(Self(index))
        } else {
            None
        }
    }

    /// The number, 0 to 63.
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

/// A vCPU, numbered within its pool. Its index in its VM and its MPIDR are other numbers.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct VcpuId(u16);

impl VcpuId {
    /// The vCPU with this number; whether the pool has one is another question.
    pub const fn new(index: u16) -> Self {
        Self(index)
    }

    /// The number, below the pool's `max_vcpus` for every vCPU that the pool has created.
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

/// A VM, as policies see it: what its vCPUs have in common. Numbered from 0 within the pool.
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

/// A set of pCPUs, written `0-3,5`.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct PcpuSet(u64);

impl PcpuSet {
    /// No pCPU.
    pub const EMPTY: Self = Self(0);

    /// pCPUs 0 to `count - 1`; all 64 if `count` is more.
    pub const fn all(count: u16) -> Self {
        Self(if count >= PcpuId::LIMIT {
            u64::MAX
        } else {
            (1 << count) - 1
        })
    }

    /// Only `pcpu`.
    pub const fn only(pcpu: PcpuId) -> Self {
        Self(1 << pcpu.0)
    }

    /// Bit n stands for pCPU n.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// The pCPUs whose bits are set.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// `pcpu` is in the set.
    pub const fn contains(self, pcpu: PcpuId) -> bool {
        self.0 & Self::only(pcpu).0 != 0
    }

    /// Adds `pcpu`.
    pub const fn insert(&mut self, pcpu: PcpuId) {
        self.0 |= Self::only(pcpu).0;
    }

    /// Takes `pcpu` out.
    pub const fn remove(&mut self, pcpu: PcpuId) {
        self.0 &= !Self::only(pcpu).0;
    }

    /// Those that are in both sets.
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Those that are not in `other`.
    pub const fn difference(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// How many there are.
    pub const fn len(self) -> u32 {
        self.0.count_ones()
    }

    /// There is none.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The lowest.
    pub const fn first(self) -> Option<PcpuId> {
        PcpuId::new(self.0.trailing_zeros() as u16)
    }

    /// Each of them, lowest first.
    pub fn iter(self) -> impl Iterator<Item = PcpuId> {
        let mut rest = self;
        core::iter::from_fn(move || {
            let next = rest.first()?;
            rest.remove(next);
            Some(next)
        })
    }
}

impl fmt::Display for PcpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = *self;
        let mut separator = "";
        while let Some(first) = rest.first() {
            let length = (!(rest.0 >> first.0)).trailing_zeros() as u16;
            let last = first.0 + length - 1;
            rest = Self(rest.0 & !Self::all(last + 1).0);
            match length {
                1 => write!(f, "{separator}{}", first.0)?,
                _ => write!(f, "{separator}{}-{last}", first.0)?,
            }
            separator = ",";
        }
        Ok(())
    }
}

/// A text that is not a set of pCPUs such as `0-3,5`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ParsePcpuSetError {
    /// A part is neither a number nor a range `first-last`.
    NotANumber,
    /// A number is above 63.
    TooLarge,
    /// A range ends before it starts.
    Reversed,
}

impl fmt::Display for ParsePcpuSetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotANumber => "a pCPU list looks like 0-3,5",
            Self::TooLarge => "pCPU numbers end at 63",
            Self::Reversed => "a pCPU range must not end before it starts",
        })
    }
}

impl core::error::Error for ParsePcpuSetError {}

impl FromStr for PcpuSet {
    type Err = ParsePcpuSetError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = |text: &str| {
            let index = text
                .trim()
                .parse()
                .map_err(|_| ParsePcpuSetError::NotANumber)?;
            PcpuId::new(index).ok_or(ParsePcpuSetError::TooLarge)
        };
        let mut set = Self::EMPTY;
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (number(first)?, number(last)?);
            if last < first {
                return Err(ParsePcpuSetError::Reversed);
            }
            set.0 |= Self::all(last.0 + 1).0 & !Self::all(first.0).0;
        }
        Ok(set)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn a_set_reads_and_prints_as_ranges() {
        for text in [
            "0", "0-3", "0-3,5", "1,3,5", "0-63", "62-63", "63", "0-1,3-4",
        ] {
            assert_eq!(text.parse::<PcpuSet>().unwrap().to_string(), text);
        }
        assert_eq!("5,0-3, 2".parse::<PcpuSet>().unwrap().to_string(), "0-3,5");
        assert_eq!(
            PcpuSet::all(4)
                .iter()
                .map(PcpuId::index)
                .collect::<Vec<_>>(),
            [0, 1, 2, 3]
        );
        assert_eq!(PcpuSet::all(64).len(), 64);
    }

    #[test]
    fn a_bad_set_says_why() {
        assert_eq!("".parse::<PcpuSet>(), Err(ParsePcpuSetError::NotANumber));
        assert_eq!("a".parse::<PcpuSet>(), Err(ParsePcpuSetError::NotANumber));
        assert_eq!("1-".parse::<PcpuSet>(), Err(ParsePcpuSetError::NotANumber));
        assert_eq!("64".parse::<PcpuSet>(), Err(ParsePcpuSetError::TooLarge));
        assert_eq!("3-1".parse::<PcpuSet>(), Err(ParsePcpuSetError::Reversed));
    }
}

//! Which pCPU each reservation is kept on, so that none is asked for more than it has.

use crate::{
    PcpuId, PcpuSet, Refusal, Reservation, VcpuId,
    sync::{AtomicU32, AtomicU64, Ordering::Relaxed},
};
use alloc::boxed::Box;

/// A whole pCPU, in the unit in which the reserved parts of one are added up. Parts like 2/5, 1/7, 1/24 or 33.3 % are exact;
/// others are rounded up, so a sum of many that is just a whole may count as more.
const WHOLE: u64 = 64 * 27 * 625 * 7 * 11 * 13 * 17 * 19;
const NO_HOME: u32 = PcpuId::LIMIT as u32;

/// Who has reserved what, where. One caller at a time changes it.
pub(super) struct Homes {
    /// What part of each pCPU is reserved.
    reserved: [AtomicU64; PcpuId::LIMIT as usize],
    /// By vCPU number.
    places: Box<[Place]>,
}

struct Place {
    home: AtomicU32,
    part: AtomicU64,
}

impl Homes {
    /// Those of up to `max_vcpus` vCPUs, none of which has one yet.
    pub(super) fn new(max_vcpus: u16) -> Self {
        let place = |_| Place {
            home: AtomicU32::new(NO_HOME),
            part: AtomicU64::new(0),
        };
        Self {
            reserved: core::array::from_fn(|_| AtomicU64::new(0)),
            places: (0..max_vcpus).map(place).collect(),
        }
    }

    /// Where `vcpu` has its reservation.
    pub(super) fn of(&self, vcpu: VcpuId) -> Option<PcpuId> {
        let home = self.places.get(vcpu.index())?.home.load(Relaxed);
        PcpuId::new(home as u16)
    }

    /// What part of `pcpu` nobody has reserved.
    pub(super) fn room(&self, pcpu: PcpuId) -> u64 {
        WHOLE.saturating_sub(self.reserved[pcpu.index()].load(Relaxed))
    }

    /// `vcpu` has `reservation`, and not what it had before: where it was if there is room, else where there is most.
    ///
    /// # Errors
    /// There is too little on each pCPU of `affinity`.
    pub(super) fn admit(
        &self,
        vcpu: VcpuId,
        reservation: Reservation,
        affinity: PcpuSet,
    ) -> Result<(), Refusal> {
        let (old, part) = (self.of(vcpu), part_of(reservation));
        let room = |pcpu| {
            let freed = if old == Some(pcpu) {
                self.part(vcpu)
            } else {
                0
            };
            self.room(pcpu) + freed
        };
        let stays = old.filter(|&old| affinity.contains(old) && room(old) >= part);
        let emptiest = affinity.iter().min_by_key(|&pcpu| WHOLE - room(pcpu));
        match stays.or(emptiest) {
            Some(home) if room(home) >= part => {
                self.assign(vcpu, Some(home), part);
                Ok(())
            }
            _ => Err(refusal(reservation, emptiest.map_or(0, room))),
        }
    }

    /// `vcpu` has no reservation any more.
    pub(super) fn release(&self, vcpu: VcpuId) {
        self.assign(vcpu, None, 0);
    }

    fn part(&self, vcpu: VcpuId) -> u64 {
        let place = self.places.get(vcpu.index());
        place.map_or(0, |place| place.part.load(Relaxed))
    }

    fn assign(&self, vcpu: VcpuId, home: Option<PcpuId>, part: u64) {
        let Some(place) = self.places.get(vcpu.index()) else {
            return;
        };
        if let Some(old) = self.of(vcpu) {
            self.reserved[old.index()].fetch_sub(self.part(vcpu), Relaxed);
        }
        if let Some(home) = home {
            self.reserved[home.index()].fetch_add(part, Relaxed);
        }
        place.part.store(part, Relaxed);
        let home = home.map_or(NO_HOME, |home| home.index() as u32);
        place.home.store(home, Relaxed);
    }
}

/// What part of a pCPU it takes, never less than it does.
fn part_of(reservation: Reservation) -> u64 {
    let budget = u128::from(reservation.budget()) * u128::from(WHOLE);
    budget.div_ceil(u128::from(reservation.period())) as u64
}

fn refusal(reservation: Reservation, room: u64) -> Refusal {
    let (budget, period) = (reservation.budget(), reservation.period());
    let needed = (u128::from(budget) * 1000).div_ceil(u128::from(period)) as u64;
    Refusal::NoRoom {
        reservation,
        needed,
        left: room * 1000 / WHOLE,
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use alloc::string::ToString;

    const A: VcpuId = VcpuId::new(0);
    const B: VcpuId = VcpuId::new(1);
    const C: VcpuId = VcpuId::new(2);

    fn percent(budget: u64) -> Reservation {
        Reservation::new(budget, 100).unwrap()
    }

    fn pcpu(index: u16) -> Option<PcpuId> {
        PcpuId::new(index)
    }

    fn rooms(homes: &Homes) -> Vec<u64> {
        let pcpus = PcpuSet::all(4).iter();
        pcpus.map(|pcpu| homes.room(pcpu)).collect()
    }

    #[test]
    fn a_reservation_goes_where_there_is_most_room() {
        let homes = Homes::new(8);
        let all = PcpuSet::all(3);
        let expected = [
            (50, 0),
            (30, 1),
            (20, 2),
            (50, 2),
            (40, 1),
            (30, 0),
            (30, 1),
        ];
        for (index, (budget, home)) in expected.into_iter().enumerate() {
            let vcpu = VcpuId::new(index as u16);
            homes.admit(vcpu, percent(budget), all).unwrap();
            assert_eq!(homes.of(vcpu), pcpu(home), "{vcpu}");
        }
    }

    #[test]
    fn what_cannot_be_kept_is_refused_with_the_numbers_and_changes_nothing() {
        let homes = Homes::new(3);
        let both = PcpuSet::all(2);
        homes.admit(A, percent(75), both).unwrap();
        homes.admit(B, percent(80), both).unwrap();
        let before = rooms(&homes);
        let refusal = homes.admit(C, Reservation::new(2, 5).unwrap(), both);
        assert_eq!(
            refusal.unwrap_err().to_string(),
            "a budget of 2 ticks in a period of 5 needs 40.0 % of a pCPU, and the emptiest of those it may use has 25.0 % left"
        );
        let only_b = PcpuSet::only(homes.of(B).unwrap());
        assert!(homes.admit(C, percent(25), only_b).is_err());
        assert_eq!((rooms(&homes), homes.of(C)), (before, None));
        homes.admit(C, percent(25), both).unwrap();
        assert_eq!(homes.of(C), homes.of(A));
    }

    #[test]
    fn a_change_first_frees_what_was_there() {
        let homes = Homes::new(3);
        let both = PcpuSet::all(2);
        homes.admit(A, percent(60), both).unwrap();
        homes.admit(B, percent(60), both).unwrap();
        homes.admit(A, percent(100), both).unwrap();
        assert_eq!(homes.of(A), pcpu(0), "it stays where it is");
        let before = rooms(&homes);
        let elsewhere = PcpuSet::only(pcpu(1).unwrap());
        assert!(homes.admit(A, percent(50), elsewhere).is_err());
        assert_eq!((rooms(&homes), homes.of(A)), (before, pcpu(0)));
        homes.admit(A, percent(40), elsewhere).unwrap();
        assert_eq!(homes.of(A), pcpu(1));
        homes.release(A);
        homes.release(B);
        assert_eq!(rooms(&homes), [WHOLE; 4]);
    }

    #[test]
    fn rounding_never_admits_more_than_a_whole() {
        let admitted = |part: Reservation| {
            let homes = Homes::new(200);
            let vcpus = (0..200).map(VcpuId::new);
            let admit = |&vcpu: &VcpuId| homes.admit(vcpu, part, PcpuSet::all(1)).is_ok();
            vcpus.filter(admit).count()
        };
        for (parts, count) in [
            (1, 1),
            (3, 3),
            (7, 7),
            (24, 24),
            (100, 100),
            (23, 22),
            (163, 162),
        ] {
            let one = Reservation::new(1, parts).unwrap();
            assert_eq!(admitted(one), count, "1/{parts}");
        }
        let homes = Homes::new(2);
        homes.admit(B, percent(1), PcpuSet::all(1)).unwrap();
        let huge =
            Reservation::new(Reservation::LONGEST_PERIOD - 1, Reservation::LONGEST_PERIOD).unwrap();
        homes.admit(A, huge, PcpuSet::all(2)).unwrap();
        assert_eq!(homes.of(A), pcpu(1));
    }
}

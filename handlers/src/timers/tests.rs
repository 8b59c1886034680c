//! Deadlines come in time, once, and none is lost between the pCPU that sets it and the one that keeps it.

use alloc::sync::{Arc, Weak};

use super::*;
use crate::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};

/// A clock of 1,000 ticks a second that stands where it is put.
#[derive(Default)]
pub(crate) struct Clock {
    pub(crate) now: AtomicU64,
    calls: AtomicUsize,
}

impl TimerHost for Clock {
    fn now(&self) -> u64 {
        self.now.load(SeqCst)
    }

    fn frequency(&self) -> u64 {
        1000
    }

    fn attend(&self) {
        self.calls.fetch_add(1, SeqCst);
    }
}

/// Counts its alarms.
#[derive(Default)]
struct Bell(AtomicUsize);

impl Alarm for Bell {
    fn expired(&self, _now: u64) {
        self.0.fetch_add(1, SeqCst);
    }
}

struct Setup {
    clock: Arc<Clock>,
    queue: Arc<TimerQueue>,
}

impl Setup {
    fn new(capacity: usize) -> Self {
        let clock = Arc::new(Clock::default());
        let queue = TimerQueue::new(clock.clone(), capacity);
        Self { clock, queue }
    }

    fn timer(&self) -> (Arc<Bell>, DeviceTimer) {
        let bell = Arc::new(Bell::default());
        let alarm: Weak<dyn Alarm> = Arc::downgrade(&bell) as _;
        let place = self.queue.reserve().expect("there is room");
        (bell, place.timer_of(alarm))
    }

    fn run_at(&self, now: u64) -> Option<u64> {
        self.clock.now.store(now, SeqCst);
        self.queue.run()
    }

    fn calls(&self) -> usize {
        self.clock.calls.swap(0, SeqCst)
    }
}

#[cfg(not(loom))]
mod alone {
    use alloc::vec::Vec;

    use super::*;

    #[test]
    fn an_alarm_comes_once_and_not_before_its_time() {
        let setup = Setup::new(2);
        let (bell, timer) = setup.timer();
        assert_eq!(setup.run_at(0), None, "nothing is armed");
        timer.arm(100);
        assert_eq!(setup.calls(), 1);
        assert_eq!(setup.run_at(99), Some(100));
        assert_eq!(bell.0.load(SeqCst), 0);
        assert_eq!(setup.run_at(100), None);
        assert_eq!(setup.run_at(200), None);
        assert_eq!(bell.0.load(SeqCst), 1);
    }

    #[test]
    fn only_an_earlier_deadline_calls_for_attention() {
        let setup = Setup::new(2);
        let ((_, early), (_, late)) = (setup.timer(), setup.timer());
        early.arm(100);
        assert_eq!((setup.calls(), setup.run_at(0)), (1, Some(100)));
        late.arm(200);
        assert_eq!(setup.calls(), 0);
        late.arm(50);
        assert_eq!((setup.calls(), setup.run_at(0)), (1, Some(50)));
        late.arm(300);
        assert_eq!((setup.calls(), setup.run_at(60)), (0, Some(100)));
    }

    /// A guest sets its clock's alarm to ever earlier times, all of them far ahead.
    #[test]
    fn deadlines_that_come_closer_from_far_away_do_not_call_for_attention_each_time() {
        let setup = Setup::new(1);
        let (bell, timer) = setup.timer();
        let mut calls = 0;
        for closer in 0..1_000 {
            timer.arm(2_000_000 - closer * 1_000);
            calls += setup.calls();
            if calls > 0 {
                setup.run_at(0);
            }
        }
        assert_eq!(calls, 1);
        timer.arm(25_000);
        let visits = [0, 10_000, 20_000].map(|now| setup.run_at(now));
        assert_eq!(visits, [10_000, 20_000, 25_000].map(Some));
        assert_eq!((setup.run_at(25_000), bell.0.load(SeqCst)), (None, 1));
    }

    #[test]
    fn a_timer_that_was_disarmed_or_dropped_is_silent_and_its_place_is_used_again() {
        let setup = Setup::new(1);
        let (bell, timer) = setup.timer();
        timer.arm(10);
        timer.disarm();
        assert_eq!((setup.run_at(20), bell.0.load(SeqCst)), (None, 0));
        assert_eq!(setup.queue.reserve().err(), Some(QueueFull));
        timer.arm(30);
        drop(timer);
        let (next, _timer) = setup.timer();
        assert_eq!(setup.run_at(40), None);
        assert_eq!((bell.0.load(SeqCst), next.0.load(SeqCst)), (0, 0));
    }

    #[test]
    fn one_call_sends_a_bounded_number_of_alarms_and_all_get_theirs() {
        let setup = Setup::new(3 * MOST_ALARMS);
        let all: Vec<_> = (0..3 * MOST_ALARMS).map(|_| setup.timer()).collect();
        let rung = || -> usize { all.iter().map(|(bell, _)| bell.0.load(SeqCst)).sum() };
        all.iter().for_each(|(_, timer)| timer.arm(10));
        for calls in 1..=3 {
            let again = setup.run_at(10);
            assert_eq!(rung(), calls * MOST_ALARMS);
            assert_eq!(again, (calls < 3).then_some(10));
        }
    }

    #[test]
    fn a_device_that_is_always_due_does_not_starve_the_others() {
        let setup = Setup::new(2 * MOST_ALARMS);
        let all: Vec<_> = (0..2 * MOST_ALARMS).map(|_| setup.timer()).collect();
        for _ in 0..2 {
            all.iter().for_each(|(_, timer)| timer.arm(1));
            setup.run_at(1);
        }
        assert!(all.iter().all(|(bell, _)| bell.0.load(SeqCst) == 1));
    }
}

#[cfg(loom)]
mod loom_models {
    use super::*;

    #[test]
    fn loom_no_deadline_is_lost_between_arm_and_run() {
        for (deadline, alarms, next) in [(5, 1, None), (20, 0, Some(20))] {
            loom::model(move || {
                let setup = Setup::new(2);
                // Whoever comes after this one does not ask for a call of its own.
                let ((_, earlier), (bell, timer)) = (setup.timer(), setup.timer());
                earlier.arm(4);
                setup.calls();
                let arming = loom::thread::spawn(move || {
                    timer.arm(deadline);
                    timer
                });
                // What the embedder's loop was told last is when it comes by itself.
                let mut told = setup.run_at(10);
                let _timer = arming.join().unwrap();
                if setup.calls() > 0 {
                    told = setup.run_at(10);
                }
                assert_eq!(bell.0.load(SeqCst), alarms, "the deadline {deadline}");
                assert_eq!(told, next, "the deadline {deadline}");
            });
        }
    }
}

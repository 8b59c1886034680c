//! Every transition from every word, and every pair of transitions where the order of two actors matters.

use super::*;

const HERE: PcpuId = PcpuId::from_low_bits(3);
const THERE: PcpuId = PcpuId::from_low_bits(5);

/// Each combination of place, reasons, token and requests that the protocol can reach.
fn words() -> impl Iterator<Item = State> {
    (0..1u32 << 11).map(|bits| {
        let (place, reasons, flags) = (bits & 3, bits >> 2 & 0x1f, bits >> 7);
        State(place | (HERE.index() as u32) << PCPU_SHIFT | reasons << 8 | flags << 16)
    })
}

/// A parked vCPU that nothing blocks would never run again; these are the words without one.
fn legal_words() -> impl Iterator<Item = State> {
    words().filter(|word| word.0 & PLACE != PARKED || word.is_blocked())
}

/// Every transition that somebody other than the owner makes.
fn others(word: State) -> [State; 10] {
    [
        word.wake(BlockReason::Waiting).0,
        word.wake(BlockReason::Remote).0,
        word.suspend(BlockReason::Paused).0,
        word.suspend(BlockReason::Stopped).0,
        word.unblock(BlockReason::Paused).0,
        word.unblock(BlockReason::Off).0,
        word.request_migrate().0,
        word.request_sync().0,
        word.claim_power_on().0,
        word.without_reset().0,
    ]
}

#[test]
fn no_transition_of_others_parks_a_runnable_vcpu_or_moves_a_box() {
    for word in legal_words() {
        for next in others(word) {
            assert!(
                next.0 & PLACE != PARKED || next.is_blocked(),
                "{word:?} -> {next:?}"
            );
            let is_claim = word.0 & PLACE == PARKED && next.0 & PLACE == QUEUED;
            assert!(
                is_claim || next.place() == word.place(),
                "{word:?} -> {next:?}"
            );
        }
    }
}

#[test]
fn a_box_is_claimed_exactly_when_the_last_reason_goes_while_parked() {
    for word in legal_words() {
        for reason in BlockReason::ALL {
            let (next, outcome) = word.unblock(reason);
            let is_last = word.0 & PLACE == PARKED && word.0 & REASONS == reason.bit();
            assert_eq!(outcome, is_last.then_some(HERE), "{word:?} - {reason:?}");
            assert_eq!(
                next.0 & PLACE == QUEUED,
                is_last || word.0 & PLACE == QUEUED
            );
            // Whoever comes second finds nothing to claim.
            assert_eq!(next.unblock(reason).1, None);
        }
    }
}

#[test]
fn a_wake_is_never_lost() {
    for word in legal_words().filter(|word| word.0 & PLACE != GONE) {
        let (woken, outcome) = word.wake(BlockReason::Waiting);
        assert!(
            !woken.is_blocked_by(BlockReason::Waiting),
            "{word:?} still waits"
        );
        let is_loaded = word.0 & PLACE == LOADED;
        if is_loaded || !word.is_blocked_by(BlockReason::Waiting) {
            assert_eq!(
                woken.block(BlockReason::Waiting).1,
                Block::Woken,
                "{word:?} waits after a wake"
            );
        }
        // Once a token is there, the one who left it tells the pCPU.
        let is_news = !word.has_wake() || word.is_blocked_by(BlockReason::Waiting);
        assert_eq!(
            outcome == Wake::Nudge(HERE),
            is_loaded && is_news,
            "{word:?}"
        );
    }
}

#[test]
fn turning_oneself_off_always_succeeds() {
    for word in words().filter(|word| word.0 & PLACE == LOADED) {
        let (off, outcome) = word.block(BlockReason::Off);
        assert_eq!(outcome, Block::Blocked);
        assert!(off.is_blocked_by(BlockReason::Off));
    }
}

#[test]
fn only_a_runnable_vcpu_is_loaded_and_its_reset_is_seen_once() {
    for word in words().filter(|word| word.0 & PLACE == QUEUED) {
        let (next, outcome) = word.load(THERE);
        match outcome {
            Load::Loaded { reset } => {
                assert!(!word.is_blocked() && !word.has_migrate());
                assert_eq!(reset, word.has_reset());
                assert_eq!(next.place(), Place::Loaded(THERE));
                assert!(!next.has_reset() && !next.has_wake());
            }
            Load::Blocked => assert!(word.is_blocked() && next == word),
            Load::Migrate => assert!(word.has_migrate() && next == word),
        }
    }
}

#[test]
fn nobody_leaves_while_somebody_waits_for_its_interrupts() {
    for word in words().filter(|word| matches!(word.0 & PLACE, QUEUED | LOADED)) {
        let must_fold = word.0 & PLACE == LOADED && word.has_sync();
        assert_eq!(word.park().1 == Park::SyncFirst, must_fold);
        assert_eq!(word.route(THERE).1 == Leave::SyncFirst, must_fold);
        if !must_fold {
            assert_eq!(
                matches!(word.park().1, Park::Parked { .. }),
                word.is_blocked()
            );
            assert_eq!(word.route(THERE).0.place(), Place::Queued(THERE));
        }
    }
}

#[test]
fn power_on_has_one_claim_and_a_dropped_one_changes_nothing() {
    for word in words() {
        let (claimed, outcome) = word.claim_power_on();
        if outcome == Claim::Claimed {
            assert_eq!(claimed.power(), PowerState::OnPending);
            assert_eq!(claimed.claim_power_on().1, Claim::OnPending);
            assert_eq!(claimed.without_reset().0, word);
        } else {
            assert_eq!(claimed, word);
        }
    }
}

#[test]
fn psci_does_not_end_a_stop() {
    for word in legal_words().filter(|word| word.is_blocked_by(BlockReason::Stopped)) {
        let claimed = word.claim_power_on().0;
        let on = claimed.unblock(BlockReason::Off).0;
        assert!(on.is_blocked_by(BlockReason::Stopped));
        let (fresh, is_rearmed) = word.rearm();
        let is_claimed = word.has_reset() && word.is_blocked_by(BlockReason::Off);
        assert_eq!(is_rearmed, word.0 & PLACE == PARKED && !is_claimed);
        assert!(!is_rearmed || fresh == State::created(HERE));
    }
}

//! Random numbers for a guest that has just begun: the TRNG firmware interface. [DEN0098: TRNG Firmware Interface 1.0]
//!
//! They come from a cipher's key stream, and only the embedder's seed says how good they are. One [`RandomNumbers`] outlives the
//! restarts of a VM, so that no life gets the numbers of another.

use alloc::sync::Arc;

use chacha20::{
    ChaCha20Rng,
    rand_core::{Rng, SeedableRng},
};
use trapline_vcpu::{Action, Exit};

use crate::{
    handler::{ExitHandler, GuestCpu},
    registry::Claim,
    smccc::{NOT_SUPPORTED, uuid_registers},
    sync::Mutex,
};

const TRNG_VERSION: u32 = 0x8400_0050;
const TRNG_FEATURES: u32 = 0x8400_0051;
const TRNG_GET_UUID: u32 = 0x8400_0052;
const TRNG_RND32: u32 = 0x8400_0053;
const TRNG_RND64: u32 = 0xc400_0053;

/// 1.0: major in bits 30:16, minor in bits 15:0.
const VERSION: u64 = 0x1_0000;
/// Of this source of random numbers, 6f2d52b7-41c5-4c0e-9a0b-6d3d1b0f8e27.
const UUID: u128 = 0x6f2d_52b7_41c5_4c0e_9a0b_6d3d_1b0f_8e27;
const INVALID_PARAMETERS: u64 = -2i64 as u64;

/// An endless stream of random numbers, for one VM.
pub struct RandomNumbers(Mutex<ChaCha20Rng>);

impl RandomNumbers {
    /// The stream of `seed`: 32 bytes that nobody can guess, or known ones for a run that shall be repeated.
    pub fn from_seed(seed: [u8; 32]) -> Arc<Self> {
        Arc::new(Self(Mutex::new(ChaCha20Rng::from_seed(seed))))
    }

    fn fill(&self, words: &mut [u64]) {
        let mut stream = self.0.lock();
        words.fill_with(|| stream.next_u64());
    }
}

/// Answers TRNG calls. Not one of the standard handlers: the embedder has to bring a seed.
pub struct Trng(Arc<RandomNumbers>);

impl Trng {
    /// The function numbers that the interface may use, 32 and 64 bit.
    pub const CLAIMS: [Claim; 2] = [
        Claim::Calls(0x8400_0050..=0x8400_005f),
        Claim::Calls(0xc400_0050..=0xc400_005f),
    ];

    /// Answers from `numbers`.
    pub fn new(numbers: Arc<RandomNumbers>) -> Self {
        Self(numbers)
    }

    /// What x0 to x3 hold after a call for `count` random bits: the lowest in x3, those that were not asked for zero.
    fn bits(&self, count: u64, register_width: u32) -> [u64; 4] {
        let width = u64::from(register_width);
        if count == 0 || count > 3 * width {
            return [INVALID_PARAMETERS, 0, 0, 0];
        }
        let mut words = [0; 3];
        let used = &mut words[..count.div_ceil(width) as usize];
        self.0.fill(used);
        for (index, word) in used.iter_mut().enumerate() {
            let wanted = (count - index as u64 * width).min(width);
            *word >>= 64 - wanted;
        }
        let [low, middle, high] = words;
        [0, high, middle, low]
    }
}

impl ExitHandler for Trng {
    fn name(&self) -> &str {
        "trng"
    }

    fn handle(&self, guest: &mut GuestCpu<'_>, _exit: &Exit) -> Action {
        let argument = guest.register(1);
        let answers = match guest.register(0) as u32 {
            TRNG_RND32 => self.bits(argument & 0xffff_ffff, 32),
            TRNG_RND64 => self.bits(argument, 64),
            TRNG_GET_UUID => uuid_registers(UUID),
            function => {
                let answer = match function {
                    TRNG_VERSION => VERSION,
                    TRNG_FEATURES => features(argument as u32),
                    _ => return Action::Decline,
                };
                guest.set_register(0, answer);
                return Action::Finish;
            }
        };
        (0..)
            .zip(answers)
            .for_each(|(index, value)| guest.set_register(index, value));
        Action::Finish
    }
}

fn features(function: u32) -> u64 {
    match function {
        TRNG_VERSION | TRNG_FEATURES | TRNG_GET_UUID | TRNG_RND32 | TRNG_RND64 => 0,
        _ => NOT_SUPPORTED,
    }
}

#[cfg(all(test, not(loom)))]
mod tests;

//! Each call of the TRNG interface, and what its numbers look like.

use super::*;
use crate::support::{Cpu, Machine};

const SUCCESS: u64 = 0;

fn cpu_with_seed(seed: u8) -> Cpu {
    let machine = Machine::with_vcpus(1);
    let numbers = RandomNumbers::from_seed([seed; 32]);
    machine.register(&Trng::CLAIMS, Trng::new(numbers));
    machine.cpu(0)
}

fn call(cpu: &mut Cpu, function: u32, argument: u64) -> [u64; 4] {
    (4..18).for_each(|index| cpu.set(index, 0x1000 + u64::from(index)));
    let (action, x0) = cpu.call(function.into(), [argument, 2, 3]);
    assert_eq!(action, Action::Finish);
    assert!(
        (4..18).all(|index| cpu.get(index) == 0x1000 + u64::from(index)),
        "x4 to x17 are preserved"
    );
    [x0, cpu.get(1), cpu.get(2), cpu.get(3)]
}

#[test]
fn version_and_features_say_what_there_is() {
    let mut cpu = cpu_with_seed(1);
    assert_eq!(call(&mut cpu, TRNG_VERSION, 0)[0], 0x1_0000);
    for function in 0x8400_0050..=0x8400_005f {
        let answer = if function <= TRNG_RND32 {
            SUCCESS
        } else {
            NOT_SUPPORTED
        };
        assert_eq!(call(&mut cpu, TRNG_FEATURES, function.into())[0], answer);
    }
    assert_eq!(call(&mut cpu, TRNG_FEATURES, 0xc400_0053)[0], SUCCESS);
    assert_eq!(call(&mut cpu, TRNG_FEATURES, 0xc400_0050)[0], NOT_SUPPORTED);
    for function in [0x8400_0054, 0xc400_0050, 0xc400_005f] {
        assert_eq!(call(&mut cpu, function, 0)[0], NOT_SUPPORTED);
    }
}

#[test]
fn the_uuid_is_no_error() {
    let uuid = call(&mut cpu_with_seed(1), TRNG_GET_UUID, 0);
    // Bytes 0 to 3 are in w0, byte 0 lowest.
    assert_eq!(uuid, [0xb752_2d6f, 0x0e4c_c541, 0x3d6d_0b9a, 0x278e_0f1b]);
}

#[test]
fn as_many_bits_as_were_asked_for_are_random_and_the_others_zero() {
    for (function, width) in [(TRNG_RND32, 32), (TRNG_RND64, 64)] {
        let mut cpu = cpu_with_seed(2);
        for count in 1..=3 * width {
            let (mut ones, mut zeros) = ([0; 3], [0; 3]);
            for _ in 0..64 {
                let [status, high, middle, low] = call(&mut cpu, function, count);
                assert_eq!(status, SUCCESS);
                for (index, word) in [low, middle, high].into_iter().enumerate() {
                    ones[index] |= word;
                    zeros[index] |= !word;
                }
            }
            for index in 0..3 {
                let wanted = count.saturating_sub(width * index as u64).min(width);
                let mask = if wanted == 0 {
                    0
                } else {
                    u64::MAX >> (64 - wanted)
                };
                assert_eq!(ones[index], mask, "{count} bits, word {index}");
                assert_eq!(zeros[index] & mask, mask, "{count} bits, word {index}");
            }
        }
    }
}

#[test]
fn a_count_out_of_range_is_refused() {
    let mut cpu = cpu_with_seed(3);
    let refused = [INVALID_PARAMETERS, 0, 0, 0];
    for (function, counts) in [
        (TRNG_RND32, [0, 97, 0xffff_ffff]),
        (TRNG_RND64, [0, 193, u64::MAX]),
    ] {
        for count in counts {
            assert_eq!(call(&mut cpu, function, count), refused, "{count}");
        }
    }
    let high_bits_set = call(&mut cpu, TRNG_RND32, 1 << 32 | 96);
    assert_eq!(
        high_bits_set[0], SUCCESS,
        "a 32-bit call has 32-bit arguments"
    );
}

#[test]
fn numbers_depend_on_the_seed_and_do_not_repeat() {
    let draw = |seed| {
        let mut cpu = cpu_with_seed(seed);
        [(); 2].map(|()| call(&mut cpu, TRNG_RND64, 192))
    };
    let [first, second] = draw(4);
    assert_eq!(draw(4), [first, second]);
    assert_ne!(first, second);
    assert_ne!(draw(5)[0], first);
}

//! Where the linker has put the parts of the image.

use core::{ops::Range, ptr::addr_of};

unsafe extern "C" {
    safe static __image_start: u8;
    safe static __image_end: u8;
    safe static __text_start: u8;
    safe static __text_end: u8;
    safe static __rodata_start: u8;
    safe static __rodata_end: u8;
    safe static __data_start: u8;
    safe static __data_end: u8;
    safe static __stacks_start: u8;
    safe static __stacks_end: u8;
    safe static __heap_start: u8;
    safe static __heap_end: u8;
}

macro_rules! range {
    ($name:ident, $start:ident, $end:ident, $what:literal) => {
        #[doc = $what]
        pub fn $name() -> Range<u64> {
            addr_of!($start) as u64..addr_of!($end) as u64
        }
    };
}
range!(image, __image_start, __image_end, "The whole image.");
range!(text, __text_start, __text_end, "Code.");
range!(rodata, __rodata_start, __rodata_end, "Constants.");
range!(
    data,
    __data_start,
    __data_end,
    "Per-pCPU areas and variables."
);
range!(
    stacks,
    __stacks_start,
    __stacks_end,
    "The boot pCPU's guard page and stacks."
);
range!(heap, __heap_start, __heap_end, "The heap.");

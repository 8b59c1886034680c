//! A guest's RAM, from the copy of its images to the last zero; and where the images lie.
//!
//! Both the copy and the scrub go in pieces, because other guests wait for the pCPU that does them.

use alloc::{format, vec::Vec};
use core::ops::Range;

use trapline_demos::config::{BootConfig, GuestConfig, StagedImage, whole_pages};
use trapline_handlers::memory::{GuestMemory, NotRam};
use trapline_platform::{mmu::Access, ram::Ram};

use super::Refusal;

/// How much is copied or scrubbed at a time: some ten thousandths of a second.
const PIECE: u64 = 256 << 10;

/// The images, as QEMU has put them into RAM. Guests that start again are loaded from there.
pub(super) struct Staging(Vec<Ram>);

impl Staging {
    /// Maps the images of all guests.
    pub(super) fn map(config: &BootConfig) -> Result<Self, Refusal> {
        let images = config.guests.iter().flat_map(|guest| &guest.images);
        let mut places: Vec<_> = images
            .map(|image| whole_pages(image.source.address, image.source.length))
            .filter(|place| !place.is_empty())
            .collect();
        places.sort_by_key(|place| place.start);
        // Guests may share an image, and images a page.
        places.dedup_by(|next, place| {
            let is_joined = next.start <= place.end;
            if is_joined {
                place.end = place.end.max(next.end);
            }
            is_joined
        });
        let map = |place: Range<u64>| {
            let start = place.start;
            Ram::map(place, Access::ReadOnly)
                .map_err(|error| Refusal(format!("the images at {start:#x}: {error:?}")))
        };
        places
            .into_iter()
            .map(map)
            .collect::<Result<_, _>>()
            .map(Self)
    }

    fn holding(&self, address: u64) -> Option<&Ram> {
        self.0.iter().find(|ram| ram.range().contains(&address))
    }
}

/// How far the images have been copied.
#[derive(Default)]
pub(super) struct Loaded {
    images: usize,
    bytes: u64,
}

/// The guest's RAM, one range of it.
pub(super) struct GuestRam {
    range: Range<u64>,
    ram: Ram,
}

impl GuestRam {
    /// Claims the RAM of the guest of `config`, whose contents are zero: it is fresh, or was scrubbed.
    pub(super) fn map(config: &GuestConfig) -> Result<Self, Refusal> {
        let place = config.ram.address..config.ram.address.saturating_add(config.ram.length);
        let ram = Ram::map(place, Access::ReadWrite)
            .map_err(|error| Refusal(format!("the RAM of guest {}: {error:?}", config.name)))?;
        Ok(Self {
            range: config.ram_base..config.ram_base + config.ram.length,
            ram,
        })
    }

    /// Copies a piece more of `images`; `true`: all is there.
    pub(super) fn load(
        &self,
        images: &[StagedImage],
        staging: &Staging,
        loaded: &mut Loaded,
    ) -> Result<bool, Refusal> {
        let Some(image) = images.get(loaded.images) else {
            return Ok(true);
        };
        let left = image.source.length - loaded.bytes;
        if left == 0 {
            *loaded = Loaded {
                images: loaded.images + 1,
                bytes: 0,
            };
            return Ok(false);
        }
        let piece = left.min(PIECE);
        self.copy(image, staging, loaded.bytes, piece)
            .ok_or_else(|| {
                Refusal(format!(
                    "the image for guest address {:#x} does not fit",
                    image.destination
                ))
            })?;
        loaded.bytes += piece;
        Ok(false)
    }

    fn copy(&self, image: &StagedImage, staging: &Staging, done: u64, piece: u64) -> Option<()> {
        let source = staging.holding(image.source.address)?;
        let from = image.source.address - source.range().start + done;
        let to = image.destination.wrapping_sub(self.range.start) + done;
        self.ram.copy_from(to, source, from, piece).ok()
    }

    /// Makes a piece more of it zero, from `*done` on; `true`: all of it is.
    pub(super) fn scrub(&self, done: &mut u64) -> bool {
        if !cfg!(mutant = "forget_scrub") {
            self.ram.scrub(*done..*done + PIECE);
        }
        *done += PIECE;
        *done >= self.range.end - self.range.start
    }
}

impl GuestMemory for GuestRam {
    fn ranges(&self) -> &[Range<u64>] {
        core::slice::from_ref(&self.range)
    }

    fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), NotRam> {
        self.ram
            .read(address.wrapping_sub(self.range.start), bytes)
            .map_err(|_| NotRam)
    }

    fn write(&self, address: u64, bytes: &[u8]) -> Result<(), NotRam> {
        self.ram
            .write(address.wrapping_sub(self.range.start), bytes)
            .map_err(|_| NotRam)
    }

    fn clean_and_invalidate(&self, range: Range<u64>) {
        let base = self.range.start;
        self.ram
            .clean_and_invalidate(range.start.saturating_sub(base)..range.end.saturating_sub(base));
    }
}

//! `trapline images`.

use trapline_demos::host::{cross, failure::Result};

use crate::cli::ImageOptions;

/// Builds all images, or looks for mistakes in them.
pub fn images(options: &ImageOptions) -> Result<u8> {
    let names: Vec<&str> = cross::HYPERVISORS
        .into_iter()
        .chain(cross::GUESTS)
        .collect();
    if options.lint {
        cross::lint(&names)?;
        return Ok(0);
    }
    for image in cross::build(&names)? {
        println!("{}", image.flat.display());
    }
    Ok(0)
}

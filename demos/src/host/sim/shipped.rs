//! The scenarios that come with Trapline, each by its name, in `demos/scenarios`.

use std::{fs, path::PathBuf};

use crate::host::{
    Failure,
    failure::{Result, at},
    places,
    toml_text::choose,
};

/// A scenario that comes with Trapline.
#[derive(Clone, Debug)]
pub struct Shipped {
    /// Its name: that of its file, without what comes after the dot.
    pub name: String,
    /// Its file.
    pub path: PathBuf,
    /// What it shows, in one line: the first of its head.
    pub about: String,
}

/// All that are there, by their names.
///
/// # Errors
/// They cannot be read.
pub fn all() -> Result<Vec<Shipped>> {
    let directory = places::workspace().join("demos/scenarios");
    let entries = fs::read_dir(&directory).map_err(at(directory.display()))?;
    let mut all = Vec::new();
    for entry in entries {
        let path = entry.map_err(at(directory.display()))?.path();
        let name = path
            .file_stem()
            .and_then(|name| name.to_str())
            .map(str::to_owned);
        let (Some(name), Some("toml")) = (
            name,
            path.extension().and_then(|extension| extension.to_str()),
        ) else {
            continue;
        };
        let text = fs::read_to_string(&path).map_err(at(path.display()))?;
        let about = text.lines().next().unwrap_or_default();
        all.push(Shipped {
            name,
            about: about.trim_start_matches(['#', ' ']).to_owned(),
            path,
        });
    }
    all.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(all)
}

/// The file that the user means by `given`: its path, or the name of one that comes with Trapline.
///
/// # Errors
/// There is no such scenario.
pub fn find(given: &str) -> Result<PathBuf> {
    let path = PathBuf::from(given);
    if path.extension().is_some() || given.contains('/') || path.is_file() {
        return Ok(path);
    }
    let all = all()?;
    if let Some(shipped) = all.iter().find(|shipped| shipped.name == given) {
        return Ok(shipped.path.clone());
    }
    let names: Vec<&str> = all.iter().map(|shipped| shipped.name.as_str()).collect();
    let what = format!("there is no scenario `{}`", given.escape_debug());
    Err(Failure::input(what, "SCENARIO", &choose(given, &names)))
}

//! Where the runner keeps things: the workspace, the cache of what was set up, the cross build's own target directory.

use std::{
    env,
    path::{Path, PathBuf},
};

/// The root of the workspace that this program was built from.
pub fn workspace() -> PathBuf {
    let demos = Path::new(env!("CARGO_MANIFEST_DIR"));
    demos.parent().unwrap_or(demos).to_path_buf()
}

/// What the set-up fetched. Deleting it is safe: it is fetched again.
pub fn cache() -> PathBuf {
    workspace().join(".trapline")
}

/// The target directory of the cross build: its own, so that it never waits for the build that started it.
pub fn cross_target() -> PathBuf {
    let target = env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
    workspace().join(target).join("cross")
}

/// The program `name` on the search path.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path)
        .map(|directory| directory.join(name))
        .find(|candidate| candidate.is_file())
}

//! Gets packages from Debian's archive, without touching the package lists of the user's machine.
//!
//! The mirror is the one that the user's apt is configured for. The lists go into a state directory of our own, so that
//! suites and architectures that the user does not have (backports, arm64) stay out of the user's lists.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use super::{
    command::{self, Ended},
    progress::Step,
};
use crate::host::places;

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
const UPDATE_LIMIT: Duration = Duration::from_secs(300);
const DOWNLOAD_LIMIT: Duration = Duration::from_secs(900);

/// A suite of the archive and where it is, as the user's apt has it.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Suite {
    mirror: String,
    name: String,
}

/// An apt of our own: lists, cache and sources in one directory.
#[derive(Debug)]
pub struct Apt {
    directory: PathBuf,
    options: Vec<String>,
}

impl Apt {
    /// The host's architecture, with the user's suites: for packages to install.
    fn for_host() -> Result<Self, String> {
        Self::new("host", &configured_suites(&codename()?)?, &[])
    }

    /// As [`Apt::for_host`], with backports, which not every release has.
    fn for_host_with_backports() -> Result<Self, String> {
        let codename = codename()?;
        let mut suites = configured_suites(&codename)?;
        let backports = Suite {
            mirror: suites[0].mirror.clone(),
            name: format!("{codename}-backports"),
        };
        if !suites.contains(&backports) {
            suites.push(backports);
        }
        Self::new("backports", &suites, &[])
    }

    /// Architecture arm64, the main suite: for packages to unpack, never to install.
    pub fn for_guest() -> Result<Self, String> {
        let suites = configured_suites(&codename()?)?;
        let main = suites.first().cloned().into_iter().collect::<Vec<_>>();
        let architecture = ["APT::Architecture=arm64", "APT::Architectures=arm64"];
        let apt = Self::new("guest", &main, &architecture)?;
        // Nothing is installed as far as this apt knows.
        let status = apt.directory.join("status");
        fs::write(&status, "").map_err(|error| format!("{}: {error}", status.display()))?;
        Ok(apt)
    }

    fn new(name: &str, suites: &[Suite], options: &[&str]) -> Result<Self, String> {
        let directory = places::cache().join("apt").join(name);
        let create = |path: &Path| {
            fs::create_dir_all(path).map_err(|error| format!("{}: {error}", path.display()))
        };
        create(&directory.join("lists/partial"))?;
        create(&directory.join("cache/archives/partial"))?;
        let signed_by = if Path::new(KEYRING).exists() {
            format!(" [signed-by={KEYRING}]")
        } else {
            String::new()
        };
        let sources: String = suites
            .iter()
            .map(|suite| format!("deb{signed_by} {} {} main\n", suite.mirror, suite.name))
            .collect();
        let list = directory.join("sources.list");
        fs::write(&list, sources).map_err(|error| format!("{}: {error}", list.display()))?;
        let mut all = vec![
            format!("Dir::Etc::SourceList={}", list.display()),
            "Dir::Etc::SourceParts=/dev/null".into(),
            format!("Dir::State::Lists={}", directory.join("lists").display()),
            format!("Dir::Cache={}", directory.join("cache").display()),
            "Acquire::Languages=none".into(),
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".into(),
            "APT::Sandbox::User=".into(),
            "DPkg::Lock::Timeout=300".into(),
        ];
        if !options.is_empty() {
            all.push(format!(
                "Dir::State::status={}",
                directory.join("status").display()
            ));
            all.extend(options.iter().map(|option| (*option).to_owned()));
        }
        Ok(Self {
            directory,
            options: all,
        })
    }

    /// Gets the lists of packages.
    pub fn update(&self) -> Result<(), String> {
        self.run("apt-get", &["update"], UPDATE_LIMIT).map(drop)
    }

    /// The first package that `package` depends on and whose name starts with `prefix`.
    pub fn dependency(&self, package: &str, prefix: &str) -> Result<String, String> {
        let ended = self.run("apt-cache", &["depends", package], UPDATE_LIMIT)?;
        let depends = ended
            .stdout
            .lines()
            .filter_map(|line| line.trim().strip_prefix("Depends: "));
        depends
            .map(str::trim)
            .find(|name| name.starts_with(prefix))
            .map(str::to_owned)
            .ok_or_else(|| format!("{package} has no dependency {prefix}*"))
    }

    /// Downloads `packages` and unpacks them below `root`.
    pub fn unpack(&self, packages: &[&str], root: &Path) -> Result<(), String> {
        let downloads = self.directory.join("downloads");
        let prepare = || {
            if downloads.exists() {
                fs::remove_dir_all(&downloads)?;
            }
            fs::create_dir_all(&downloads)?;
            fs::create_dir_all(root)
        };
        prepare().map_err(|error| format!("{}: {error}", downloads.display()))?;
        let mut arguments = vec!["download"];
        arguments.extend(packages);
        let mut apt = self.command("apt-get", &arguments);
        check("apt-get", apt.current_dir(&downloads), DOWNLOAD_LIMIT)?;
        let files = fs::read_dir(&downloads)
            .map_err(|error| format!("{}: {error}", downloads.display()))?;
        for file in files.flatten() {
            let mut unpack = Command::new("dpkg-deb");
            unpack.arg("-x").arg(file.path()).arg(root);
            check("dpkg-deb", &mut unpack, DOWNLOAD_LIMIT)?;
        }
        // The packages themselves are not needed again; failing to delete them only costs space.
        let _ = fs::remove_dir_all(&downloads);
        Ok(())
    }

    fn install(&self, packages: &[&str], release: Option<&str>) -> Result<(), String> {
        let mut arguments = vec!["install", "--yes", "--no-install-recommends"];
        if let Some(release) = release {
            arguments.extend(["--target-release", release]);
        }
        arguments.extend(packages);
        self.run("apt-get", &arguments, DOWNLOAD_LIMIT).map(drop)
    }

    fn run(&self, program: &str, arguments: &[&str], limit: Duration) -> Result<Ended, String> {
        check(program, &mut self.command(program, arguments), limit)
    }

    fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command
            .env("DEBIAN_FRONTEND", "noninteractive")
            .env("LC_ALL", "C");
        for option in &self.options {
            command.args(["-o", option]);
        }
        command.args(arguments);
        command
    }
}

/// Installs `packages`, which are for `purpose`.
///
/// # Errors
/// Not root, not Debian, no network: the error says which.
pub fn install(packages: &[&str], purpose: &str) -> Result<(), String> {
    require_root()?;
    let apt = Apt::for_host()?;
    let step = Step::start(&format!("Looking for packages: {purpose}"));
    apt.update()?;
    drop(step);
    let _step = Step::start(&format!("Installing {}", packages.join(", ")));
    apt.install(packages, None)
}

/// As [`install`], from the release's backports if they have the packages.
pub fn install_newest(packages: &[&str], purpose: &str) -> Result<(), String> {
    require_root()?;
    install_from_backports(packages, purpose).or_else(|_| install(packages, purpose))
}

fn install_from_backports(packages: &[&str], purpose: &str) -> Result<(), String> {
    let backports = format!("{}-backports", codename()?);
    let apt = Apt::for_host_with_backports()?;
    let step = Step::start(&format!("Looking for packages: {purpose}"));
    apt.update()?;
    drop(step);
    let _step = Step::start(&format!("Installing {}", packages.join(", ")));
    apt.install(packages, Some(&backports))
}

fn require_root() -> Result<(), String> {
    if rustix::process::geteuid().is_root() {
        Ok(())
    } else {
        Err("not root, so nothing can be installed".into())
    }
}

fn check(program: &str, command: &mut Command, limit: Duration) -> Result<Ended, String> {
    let ended = command::run(command, limit).map_err(|error| format!("{program}: {error}"))?;
    if ended.is_success {
        Ok(ended)
    } else {
        Err(format!("{program}: {}", ended.last_words()))
    }
}

/// The release of this Debian, as its archive calls it.
fn codename() -> Result<String, String> {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let field = |key: &str| {
        let value = release
            .lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        value.map(|value| value.trim_matches('"').to_owned())
    };
    match (field("ID").as_deref(), field("VERSION_CODENAME")) {
        (Some("debian"), Some(codename)) => Ok(codename),
        (id, _) => Err(format!(
            "{} is not a Debian release",
            id.unwrap_or("this system")
        )),
    }
}

/// The suites of release `codename` that the user's apt knows, the main one first.
fn configured_suites(codename: &str) -> Result<Vec<Suite>, String> {
    let mut list = Command::new("apt-get");
    list.args([
        "indextargets",
        "--format",
        "$(REPO_URI) $(RELEASE) $(COMPONENT)",
    ]);
    list.arg("Created-By: Packages");
    let ended = check("apt-get", &mut list, UPDATE_LIMIT)?;
    let suites = parse_suites(&ended.stdout, codename);
    if suites.first().is_some_and(|suite| suite.name == codename) {
        Ok(suites)
    } else {
        Err(format!("apt has no source for {codename} main"))
    }
}

fn parse_suites(targets: &str, codename: &str) -> Vec<Suite> {
    let mut suites: Vec<Suite> = Vec::new();
    for target in targets.lines() {
        let mut words = target.split_ascii_whitespace();
        let (Some(mirror), Some(name), Some("main")) = (words.next(), words.next(), words.next())
        else {
            continue;
        };
        let is_ours = name
            .strip_prefix(codename)
            .is_some_and(|rest| ["", "-updates", "-security", "-backports"].contains(&rest));
        let suite = Suite {
            mirror: mirror.to_owned(),
            name: name.to_owned(),
        };
        if is_ours && !suites.contains(&suite) {
            suites.push(suite);
        }
    }
    suites.sort_by_key(|suite| suite.name != codename);
    suites
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_release_itself_is_used_from_the_users_sources() {
        let targets = "http://mirror/d-security/ bookworm-security main\n\
                       http://mirror/d/ bookworm main\n\
                       http://mirror/d/ bookworm main\n\
                       http://mirror/d/ bookworm contrib\n\
                       http://elsewhere/ cloud-sdk-bookworm main\n\
                       http://elsewhere/ nodistro main\n";
        let suites = parse_suites(targets, "bookworm");
        let names: Vec<&str> = suites.iter().map(|suite| suite.name.as_str()).collect();
        assert_eq!(names, ["bookworm", "bookworm-security"]);
        assert_eq!(suites[0].mirror, "http://mirror/d/");
    }
}

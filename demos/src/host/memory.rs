//! How much memory this machine can give: what Linux has left, and what the control group of this process may still use.

use std::{fs, path::Path};

/// Bytes that can still be taken; `None` if nothing here says so.
pub fn available() -> Option<u64> {
    let text = |path: &str| fs::read_to_string(path).ok();
    let machine = text("/proc/meminfo").and_then(|text| available_memory(&text));
    let groups = text("/proc/self/cgroup").unwrap_or_default();
    let group = group_room(Path::new("/sys/fs/cgroup"), &groups);
    [machine, group].into_iter().flatten().min()
}

/// What Linux says can be allocated without swapping, in bytes. [Linux: proc(5), MemAvailable]
fn available_memory(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// The files that say a group's limit and its use, and what `memory.stat` calls the memory that is given back under pressure.
struct Names {
    limit: &'static str,
    usage: &'static str,
    reclaimable: [&'static str; 2],
}

const VERSION_1: Names = Names {
    limit: "memory.limit_in_bytes",
    usage: "memory.usage_in_bytes",
    reclaimable: ["total_inactive_file", "total_active_file"],
};
const VERSION_2: Names = Names {
    limit: "memory.max",
    usage: "memory.current",
    reclaimable: ["inactive_file", "active_file"],
};

/// The least room in the groups that `groups` names, and in those around them. [Linux: cgroups(7); cgroup-v2, memory.max]
fn group_room(root: &Path, groups: &str) -> Option<u64> {
    let rooms = groups.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?);
        let path = path.trim_start_matches('/');
        if controllers.is_empty() {
            least_room(root, path, &VERSION_2)
        } else if controllers.split(',').any(|name| name == "memory") {
            least_room(&root.join("memory"), path, &VERSION_1)
        } else {
            None
        }
    });
    rooms.min()
}

/// In a container the group's path may be one outside: then only the root is there to be read.
fn least_room(root: &Path, path: &str, names: &Names) -> Option<u64> {
    let group = root.join(path);
    let around = group
        .ancestors()
        .take_while(|group| group.starts_with(root));
    around.filter_map(|group| room(group, names)).min()
}

fn room(group: &Path, names: &Names) -> Option<u64> {
    let read = |name: &str| fs::read_to_string(group.join(name)).ok();
    let number = |name: &str| read(name)?.trim().parse::<u64>().ok();
    let limit = number(names.limit)?;
    let stat = read("memory.stat").unwrap_or_default();
    let reclaimable: u64 = stat
        .lines()
        .filter_map(|line| line.split_once(' '))
        .filter(|(name, _)| names.reclaimable.contains(name))
        .filter_map(|(_, bytes)| bytes.parse::<u64>().ok())
        .sum();
    let used = number(names.usage)?.saturating_sub(reclaimable);
    Some(limit.saturating_sub(used))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn available_memory_is_read() {
        let text = "MemTotal:       24 kB\nMemFree: 3 kB\nMemAvailable:    1024 kB\n";
        assert_eq!(available_memory(text), Some(1 << 20));
        assert_eq!(available_memory(""), None);
    }

    fn group(root: &Path, path: &str, files: &[(&str, &str)]) {
        let directory = root.join(path);
        fs::create_dir_all(&directory).expect("room for a directory");
        for (name, contents) in files {
            fs::write(directory.join(name), contents).expect("room for a file");
        }
    }

    #[test]
    fn the_narrowest_group_counts() {
        let root = tempfile::tempdir().expect("a directory for temporary files");
        let inner = [
            ("memory.max", "1000\n"),
            ("memory.current", "700\n"),
            ("memory.stat", "anon 1\ninactive_file 100\nactive_file 50\n"),
        ];
        group(root.path(), "a/b", &inner);
        assert_eq!(group_room(root.path(), "0::/a/b\n"), Some(450));
        group(
            root.path(),
            "a",
            &[("memory.max", "500"), ("memory.current", "300")],
        );
        assert_eq!(group_room(root.path(), "0::/a/b\n"), Some(200));
        group(root.path(), "a", &[("memory.max", "max")]);
        assert_eq!(group_room(root.path(), "0::/a/b\n"), Some(450));
        assert_eq!(group_room(root.path(), "0::/a\n"), None);
    }

    #[test]
    fn the_first_version_of_groups_is_read_too() {
        let root = tempfile::tempdir().expect("a directory for temporary files");
        let files = [
            ("memory.limit_in_bytes", "900"),
            ("memory.usage_in_bytes", "1000"),
        ];
        group(root.path(), "memory", &files);
        let groups = "5:cpu:/x\n4:memory:/outside/this/container\n0::/\n";
        assert_eq!(group_room(root.path(), groups), Some(0));
        assert_eq!(group_room(root.path(), "5:cpu:/x\n"), None);
    }
}

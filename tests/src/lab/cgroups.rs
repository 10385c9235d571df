//! Control groups of a lab: one group for its own processes, by which they are found, and one a node for its pods.
//!
//! Version 1 has a hierarchy for each controller and every group must exist in all of them; version 2 has one.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::layout::{Layout, NODES};

/// Controllers without which a kubelet does not start.
const REQUIRED_V1: [&str; 8] = ["cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids"];
const REQUIRED_V2: [&str; 4] = ["cpu", "cpuset", "memory", "pids"];

/// The group inside a lab's group that holds its processes; on version 2 only leaves may hold any.
const PROCESSES: &str = "processes";

/// Control group hierarchies of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hierarchies {
    /// Version 1 or 2.
    version: u8,
    /// Mount points of the hierarchies; exactly one in version 2.
    mounted_at: Vec<PathBuf>,
    /// Mount points of version 2 beside version 1; runc makes groups there, too.
    unified: Vec<PathBuf>,
}

impl Hierarchies {
    /// Reads the hierarchies of this machine.
    ///
    /// # Errors
    /// When a controller that the kubelet needs is missing.
    pub(super) fn of_machine() -> Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mounts").context("cannot read /proc/self/mounts")?;
        let controllers = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
        Self::from_mounts(&mounts, &controllers)
    }

    /// Parses /proc/self/mounts and the controllers of version 2's root.
    fn from_mounts(mounts: &str, controllers: &str) -> Result<Self> {
        let lines: Vec<Vec<&str>> = mounts.lines().map(|line| line.split(' ').collect()).collect();
        let of_type = |kind: &'static str| lines.iter().filter(move |line| line.get(2) == Some(&kind));
        if of_type("cgroup2").any(|line| line.get(1) == Some(&"/sys/fs/cgroup")) {
            let available: Vec<&str> = controllers.split_ascii_whitespace().collect();
            let missing: Vec<&str> = REQUIRED_V2.into_iter().filter(|name| !available.contains(name)).collect();
            if !missing.is_empty() {
                bail!("the kernel has no control group controller for {}", missing.join(", "));
            }
            return Ok(Self { version: 2, mounted_at: vec![PathBuf::from("/sys/fs/cgroup")], unified: Vec::new() });
        }
        let options: Vec<&str> = of_type("cgroup").filter_map(|line| line.get(3).copied()).collect();
        let is_mounted = |name: &&str| options.iter().any(|mounted| mounted.split(',').any(|option| option == *name));
        let missing: Vec<&str> = REQUIRED_V1.into_iter().filter(|name| !is_mounted(name)).collect();
        if !missing.is_empty() {
            bail!("no control group hierarchy is mounted at /sys/fs/cgroup for {}", missing.join(", "));
        }
        let paths = |kind: &'static str| of_type(kind).filter_map(|line| line.get(1).map(PathBuf::from)).collect();
        Ok(Self { version: 1, mounted_at: paths("cgroup"), unified: paths("cgroup2") })
    }

    /// Returns the version, 1 or 2.
    #[must_use]
    pub(super) fn version(&self) -> u8 {
        self.version
    }

    /// Creates the groups of a lab.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(super) fn create(&self, layout: &Layout) -> Result<()> {
        for hierarchy in &self.mounted_at {
            let lab = hierarchy.join(layout.cgroup());
            let members = std::iter::once(PROCESSES).chain(NODES.iter().map(|node| node.name));
            if self.version == 2 {
                delegate(hierarchy);
            }
            make(hierarchy, &lab)?;
            if self.version == 2 {
                delegate(&lab);
            }
            for member in members {
                make(&lab, &lab.join(member))?;
            }
        }
        Ok(())
    }

    /// Returns the file that moves a process into the lab's own group.
    #[must_use]
    pub(super) fn processes_file(&self, layout: &Layout) -> PathBuf {
        let memory = self.mounted_at.iter().find(|path| path.ends_with("memory"));
        let hierarchy = memory.or_else(|| self.mounted_at.first()).cloned().unwrap_or_default();
        hierarchy.join(layout.cgroup()).join(PROCESSES).join("cgroup.procs")
    }

    /// Returns the processes of the lab's groups, of those below `member` only if one is given; each once.
    #[must_use]
    pub(super) fn processes(&self, layout: &Layout, member: Option<&str>) -> Vec<u32> {
        let mut found = Vec::new();
        for group in self.groups(layout, member) {
            let text = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
            found.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()));
        }
        found.sort_unstable();
        found.dedup();
        found
    }

    /// Returns all existing groups of the lab, inner ones first.
    #[must_use]
    pub(super) fn groups(&self, layout: &Layout, member: Option<&str>) -> Vec<PathBuf> {
        let mut groups = Vec::new();
        for hierarchy in self.mounted_at.iter().chain(&self.unified) {
            let lab = hierarchy.join(layout.cgroup());
            collect(&member.map_or_else(|| lab.clone(), |member| lab.join(member)), &mut groups);
        }
        groups
    }
}

/// Creates one group. In version 1, cpusets start empty and accept no process until they are filled.
fn make(parent: &Path, group: &Path) -> Result<()> {
    fs::create_dir_all(group).with_context(|| format!("cannot make the control group {}", group.display()))?;
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let from = parent.join(file);
        let to = group.join(file);
        if fs::read_to_string(&to).is_ok_and(|text| text.trim().is_empty()) {
            let value = fs::read_to_string(&from).unwrap_or_default();
            if !value.trim().is_empty() {
                fs::write(&to, value).with_context(|| format!("cannot write {}", to.display()))?;
            }
        }
    }
    Ok(())
}

/// Delegates every controller of `group` to the groups below (version 2).
fn delegate(group: &Path) {
    let controllers = fs::read_to_string(group.join("cgroup.controllers")).unwrap_or_default();
    for controller in controllers.split_ascii_whitespace() {
        // The kubelet reports a controller that could not be delegated.
        drop(fs::write(group.join("cgroup.subtree_control"), format!("+{controller}")));
    }
}

fn collect(group: &Path, groups: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(group) else { return };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect(&entry.path(), groups);
        }
    }
    groups.push(group.to_owned());
}

#[cfg(test)]
mod tests {
    use super::*;

    const V1: &str = "cgroup /sys/fs/cgroup/cpu cgroup rw,cpu,cpuacct 0 0\n\
        cgroup /sys/fs/cgroup/cpuset cgroup rw,cpuset 0 0\n\
        cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0\n\
        cgroup /sys/fs/cgroup/devices cgroup rw,devices,freezer 0 0\n\
        cgroup /sys/fs/cgroup/blkio cgroup rw,blkio 0 0\n\
        cgroup /sys/fs/cgroup/pids cgroup rw,pids 0 0\n\
        cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";

    #[test]
    fn both_versions_are_told_apart() {
        let one = Hierarchies::from_mounts(V1, "").unwrap();
        assert_eq!((one.version, one.mounted_at.len()), (1, 6));
        let two = "cgroup2 /sys/fs/cgroup cgroup2 rw,nsdelegate 0 0\n";
        assert_eq!(Hierarchies::from_mounts(two, "cpuset cpu io memory pids").unwrap().version, 2);
    }

    #[test]
    fn a_missing_controller_is_named() {
        let error = Hierarchies::from_mounts(&V1.replace("pids", "x"), "").unwrap_err().to_string();
        assert!(error.ends_with("for pids"), "{error}");
        let two = "cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n";
        assert!(Hierarchies::from_mounts(two, "cpu io pids").unwrap_err().to_string().contains("cpuset, memory"));
    }

    #[test]
    fn the_process_group_lies_in_the_memory_hierarchy() {
        let layout = Layout::new("x").unwrap();
        let file = Hierarchies::from_mounts(V1, "").unwrap().processes_file(&layout);
        assert_eq!(file, Path::new("/sys/fs/cgroup/memory/dnstier-lab-x/processes/cgroup.procs"));
    }
}

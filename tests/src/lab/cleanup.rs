//! Removal of a lab in any state: its processes, mounts, namespaces, folders and control groups.
//!
//! Nothing is assumed about how far `up` came. Processes are found by what they cannot change (control group, network
//! namespace, mark in the environment, record), mounts and files by the lab's folder.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::mount::{UnmountFlags, unmount};

use super::cgroups::Hierarchies;
use super::fabric::mounts_below;
use super::layout::{Layout, MARK, STATE_ROOT};
use super::process::{Identity, Record, Signal, send, wait_until};
use super::requirements;

/// Removes the lab. A lab that does not exist is fine.
///
/// # Errors
/// When a part of it cannot be removed, with what is left.
pub(super) fn remove(layout: &Layout) -> Result<()> {
    requirements::remove_policy();
    let mut leftovers = Vec::new();
    // More than once: a start that was killed while it started a process may show that process only now.
    for _ in 0..3 {
        clear(layout)?;
        drop(fs::remove_dir(layout.state()));
        // The folder of all labs is removed with the last one.
        drop(fs::remove_dir(STATE_ROOT));
        leftovers = remains(layout);
        if leftovers.is_empty() {
            return Ok(());
        }
    }
    bail!("of lab `{}` there is left: {}", layout.name(), leftovers.join(", "))
}

/// Removes everything of the lab but its folder, which may be locked.
///
/// # Errors
/// When a part of it cannot be removed.
pub(super) fn clear(layout: &Layout) -> Result<()> {
    end_processes(layout)?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("cannot read /proc/self/mountinfo")?;
    for mount in mounts_below(&mounts, &layout.state().display().to_string()) {
        unmount(Path::new(&mount), UnmountFlags::DETACH).with_context(|| format!("cannot unmount {mount}"))?;
    }
    // Files may appear while namespaces are torn down.
    let files = || fs::read_dir(layout.state()).into_iter().flatten().flatten();
    let gone = wait_until(Duration::from_secs(5), || {
        for file in files() {
            let path = file.path();
            drop(if path.is_dir() && !path.is_symlink() { fs::remove_dir_all(path) } else { fs::remove_file(path) });
        }
        files().next().is_none().then_some(())
    });
    gone.with_context(|| format!("cannot remove what is in {}", layout.state().display()))?;
    remove_groups(layout)
}

/// Kills every process of the lab at once: none needs an orderly shutdown.
fn end_processes(layout: &Layout) -> Result<()> {
    let mut remaining = BTreeSet::new();
    let ended = wait_until(Duration::from_secs(20), || {
        remaining = processes(layout);
        for pid in &remaining {
            drop(send(*pid, Signal::KILL));
        }
        remaining.is_empty().then_some(())
    });
    if ended.is_none() {
        bail!("processes {remaining:?} of lab `{}` do not end", layout.name());
    }
    Ok(())
}

/// Returns every process of the lab but this one and its parents.
#[must_use]
pub(super) fn processes(layout: &Layout) -> BTreeSet<u32> {
    let mut found = BTreeSet::new();
    if let Ok(hierarchies) = Hierarchies::of_machine() {
        found.extend(hierarchies.processes(layout, None));
    }
    let records = Record::all(layout).unwrap_or_default();
    found.extend(
        records.iter().map(|record| record.identity).filter(|process| process.is_alive()).map(|process| process.pid),
    );
    let namespaces = network_namespaces(layout);
    let mark = format!("{MARK}={}", layout.state().display());
    for pid in all_processes() {
        let is_inside = || namespace_of(pid).is_some_and(|inode| namespaces.contains(&inode));
        let is_marked = || {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|entry| entry == mark.as_bytes())
        };
        if is_inside() || is_marked() {
            found.insert(pid);
        }
    }
    found.retain(|pid| Identity::of(*pid).is_some());
    let mut ancestor = Some(std::process::id());
    while let Some(pid) = ancestor.filter(|pid| *pid > 0) {
        found.remove(&pid);
        ancestor = parent(pid);
    }
    found
}

/// Returns the inodes of the network namespaces that the lab has pinned.
fn network_namespaces(layout: &Layout) -> BTreeSet<u64> {
    let Ok(entries) = fs::read_dir(layout.namespaces()) else { return BTreeSet::new() };
    // A pin that nothing is mounted on is a plain file, whose inode means nothing.
    let device = fs::metadata(layout.state()).map(|metadata| metadata.dev()).ok();
    let metadata = entries.flatten().filter_map(|entry| fs::metadata(entry.path()).ok());
    metadata.filter(|metadata| Some(metadata.dev()) != device).map(|metadata| metadata.ino()).collect()
}

fn namespace_of(pid: u32) -> Option<u64> {
    fs::metadata(format!("/proc/{pid}/ns/net")).ok().map(|metadata| metadata.ino())
}

fn all_processes() -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// Removes the lab's control groups; the kernel needs a moment after the last process of one.
fn remove_groups(layout: &Layout) -> Result<()> {
    let Ok(hierarchies) = Hierarchies::of_machine() else { return Ok(()) };
    let gone = wait_until(Duration::from_secs(10), || {
        for group in hierarchies.groups(layout, None).iter().filter(|group| group.exists()) {
            drop(fs::remove_dir(group));
        }
        hierarchies.groups(layout, None).iter().all(|group| !group.exists()).then_some(())
    });
    gone.with_context(|| format!("cannot remove the control groups {}", layout.cgroup()))
}

/// Returns everything of a lab that is still on the machine, in words; nothing after [`remove`].
#[must_use]
pub fn remains(layout: &Layout) -> Vec<String> {
    let mut found: Vec<String> = processes(layout).iter().map(|pid| format!("process {pid}")).collect();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    found.extend(
        mounts_below(&mounts, &layout.state().display().to_string()).iter().map(|mount| format!("mount {mount}")),
    );
    if layout.state().exists() {
        found.push(format!("folder {}", layout.state().display()));
    }
    if let Ok(hierarchies) = Hierarchies::of_machine() {
        let groups = hierarchies.groups(layout, None);
        let existing = groups.iter().filter(|group| group.exists());
        found.extend(existing.map(|group| format!("control group {}", group.display())));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_takes_a_lab_away_is_not_taken_away_with_it() {
        let layout = Layout::new("nobody").unwrap();
        assert!(!processes(&layout).contains(&std::process::id()));
        assert!(parent(std::process::id()).is_some());
    }

    #[test]
    fn a_lab_that_never_was_leaves_nothing() {
        assert_eq!(remains(&Layout::new("never-was").unwrap()), Vec::<String>::new());
    }
}

//! Namespaces of its own for each part, so that no traffic and no mount of the machine is touched.

use std::process::{Command, exit};

/// Shell command that runs in the new namespaces: the loopback interface is the only one and is down at first, and not
/// every machine has mounted tracefs, where the kernel's event counters are found.
const SETUP: &str = "mountpoint -q /sys/kernel/tracing || mount -t tracefs tracefs /sys/kernel/tracing; \
                     ip link set lo up && exec \"$0\" \"$@\"";

/// Shell command that runs in the new namespaces of [`run_contained`]: files are in memory, and gone with them.
const CONTAINED_SETUP: &str = "mount -t tmpfs -o mode=0755 tmpfs /run && ip link set lo up && exec \"$0\" \"$@\"";

/// Runs this program again with these arguments in new namespaces of networks, mounts and processes, and ends this
/// process with its exit code. However this process ends, the kernel ends everything that was started in them. Needs
/// root.
pub(crate) fn run_contained(arguments: &[&str]) -> ! {
    let program = std::env::current_exe().unwrap();
    let status = Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "unshare", "--net", "--mount", "--pid", "--fork", "--kill-child"])
        .args(["--mount-proc", "sh", "-c", CONTAINED_SETUP])
        .arg(program)
        .args(arguments)
        .status()
        .expect("unshare runs");
    exit(status.code().unwrap_or(1));
}

/// Runs this program again with these arguments in a new network namespace and a new mount namespace, and ends this
/// process with its exit code. Needs root.
pub(crate) fn run_isolated(arguments: &[&str]) -> ! {
    let program = std::env::current_exe().unwrap();
    let status = Command::new("unshare")
        .args(["--net", "--mount", "sh", "-c", SETUP])
        .arg(program)
        .args(arguments)
        .status()
        .expect("unshare runs");
    exit(status.code().unwrap_or(1));
}

//! Requirements of a lab on the machine, and the Debian packages that can be installed.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::cgroups::Hierarchies;
use super::layout::{Layout, STATE_ROOT};
use super::process::run;
use super::progress::Progress;

/// Debian packages, each with a file that shows whether it is installed.
const PACKAGES: [(&str, &str); 12] = [
    ("runc", "/usr/sbin/runc"),
    ("containernetworking-plugins", "/usr/lib/cni/bridge"),
    ("iproute2", "/usr/sbin/ip"),
    ("nftables", "/usr/sbin/nft"),
    ("iptables", "/usr/sbin/iptables"),
    ("conntrack", "/usr/sbin/conntrack"),
    ("util-linux", "/usr/bin/nsenter"),
    ("binutils", "/usr/bin/strip"),
    ("busybox-static", "/bin/busybox"),
    ("nsd", "/usr/sbin/nsd"),
    ("unbound", "/usr/sbin/unbound"),
    ("ldnsutils", "/usr/bin/ldns-signzone"),
];

/// Oldest Go that compiles the pinned programs.
const MIN_GO: (u32, u32) = (1, 26);

/// Free bytes that a first start needs, and a later one.
const MIN_DISK_COLD: u64 = 15 << 30;
const MIN_DISK_WARM: u64 = 4 << 30;

/// Checks what cannot be installed from here.
///
/// `compiles` says whether Go programs have to be compiled, which needs Go and more disk.
///
/// # Errors
/// With one sentence for each missing requirement, one a line.
pub(super) fn check(compiles: bool, caches: &Path) -> Result<()> {
    let mut missing = Vec::new();
    if !rustix::process::geteuid().is_root() {
        missing.push("The lab makes network namespaces and mounts and needs root: run it with sudo.".to_owned());
    }
    if compiles {
        missing.extend(go());
    }
    if run(Command::new("cargo").arg("--version")).is_err() {
        missing.push("The images are built with cargo, which is not in PATH: install Rust from rustup.rs.".to_owned());
    }
    if let Err(error) = Hierarchies::of_machine() {
        missing.push(format!("The kubelet needs control groups, but {error}."));
    }
    let min = if compiles { MIN_DISK_COLD } else { MIN_DISK_WARM };
    missing.extend(disk(STATE_ROOT.as_ref(), MIN_DISK_WARM));
    missing.extend(disk(caches, min));
    report(missing)
}

fn go() -> Option<String> {
    let Ok(output) = run(Command::new("go").arg("version")) else {
        return Some(
            "Kubernetes is compiled from its sources and Go is not in PATH: install Go 1.26 or later.".to_owned(),
        );
    };
    let version = go_version(&output);
    version.is_none_or(|found| found < MIN_GO).then(|| {
        format!("Go 1.26 or later is needed to compile Kubernetes, but `go version` says `{}`.", output.trim())
    })
}

/// Returns major and minor version in `go version go1.26.8 linux/amd64`.
fn go_version(output: &str) -> Option<(u32, u32)> {
    let mut parts = output.split(' ').nth(2)?.strip_prefix("go")?.split('.');
    let minor: String = parts.clone().nth(1)?.chars().take_while(char::is_ascii_digit).collect();
    Some((parts.next()?.parse().ok()?, minor.parse().ok()?))
}

/// Returns a sentence if less than `min` bytes are free where `path` is or will be.
fn disk(path: &Path, min: u64) -> Option<String> {
    let existing = path.ancestors().find(|ancestor| ancestor.exists())?;
    let free = rustix::fs::statvfs(existing).map(|stat| stat.f_bavail * stat.f_frsize).ok()?;
    let gib = |bytes: u64| bytes >> 30;
    (free < min)
        .then(|| format!("{} GiB must be free at {}, but only {} GiB are.", gib(min), path.display(), gib(free)))
}

/// Installs the missing Debian packages.
///
/// # Errors
/// On a machine without apt-get, with the list; when apt-get fails.
pub(super) fn install_packages(progress: &Progress) -> Result<()> {
    let missing: Vec<&str> =
        PACKAGES.iter().filter(|(_, file)| !Path::new(file).exists()).map(|(package, _)| *package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names = missing.join(" ");
    if run(Command::new("apt-get").arg("--version")).is_err() {
        bail!("This machine has no apt-get; install by its own means what Debian calls: {names}.");
    }
    progress.step(&format!("packages: apt-get install {names}"), || {
        let quiet = NoNewServices::begin()?;
        let apt = |arguments: &[&str]| {
            let mut command = Command::new("apt-get");
            // An apt-get that a killed start has left runs to its end.
            command.env("DEBIAN_FRONTEND", "noninteractive").args(["-o", "DPkg::Lock::Timeout=300"]);
            run(command.args(arguments))
        };
        apt(&["update", "-qq"])?;
        let mut install = vec!["install", "-y", "-qq", "--no-install-recommends"];
        install.extend(&missing);
        apt(&install)?;
        quiet.end(&missing)
    })
}

/// Guard that keeps packages from starting their services when they are installed (nsd and unbound do).
struct NoNewServices {
    ours: bool,
}

impl NoNewServices {
    const POLICY: &str = "/usr/sbin/policy-rc.d";
    const TEXT: &str = "#!/bin/sh\n# Stands here while the lab of DnsTier installs packages.\nexit 101\n";

    fn begin() -> Result<Self> {
        remove_policy();
        let ours = !Path::new(Self::POLICY).exists();
        if ours {
            use std::os::unix::fs::PermissionsExt;
            fs::write(Self::POLICY, Self::TEXT)
                .and_then(|()| fs::set_permissions(Self::POLICY, fs::Permissions::from_mode(0o755)))
                .with_context(|| format!("cannot write {}", Self::POLICY))?;
        }
        Ok(Self { ours })
    }

    /// Keeps the services of the `installed` packages from starting with the machine, too.
    fn end(self, installed: &[&str]) -> Result<()> {
        if Path::new("/run/systemd/system").exists() {
            for service in ["nsd", "unbound"] {
                if installed.contains(&service) {
                    run(Command::new("systemctl").args(["disable", "--quiet", service]))?;
                }
            }
        }
        Ok(())
    }
}

impl Drop for NoNewServices {
    fn drop(&mut self) {
        if self.ours {
            remove_policy();
        }
    }
}

/// Removes the policy of a start that was killed while it installed packages, and no other one.
pub(super) fn remove_policy() {
    if fs::read_to_string(NoNewServices::POLICY).is_ok_and(|text| text == NoNewServices::TEXT) {
        drop(fs::remove_file(NoNewServices::POLICY));
    }
}

/// Features of the kernel: a trial of each, inside namespaces that vanish at once, and the message when it fails.
const KERNEL_FEATURES: [(&str, &str); 6] = [
    ("true", "The kernel refuses to make network and mount namespaces, in which the nodes live"),
    ("ip link add br0 type bridge", "The kernel has no bridge device, which joins the nodes (modprobe bridge)"),
    ("ip link add one type veth peer name other", "The kernel has no veth devices (modprobe veth)"),
    (
        "ls /proc/sys/net/bridge/bridge-nf-call-iptables",
        "The kernel does not filter bridged packets, so that Services fail between pods of a node \
         (modprobe br_netfilter)",
    ),
    (
        "nft 'add table inet t; add chain inet t n { type nat hook postrouting priority 100; }; add rule inet t n \
         masquerade; add chain inet t r { type filter hook prerouting priority -300; }; add rule inet t r \
         fib daddr type local notrack'",
        "nftables cannot masquerade, look up routes and skip connection tracking \
         (modprobe nf_tables nft_fib_inet nft_masq nft_ct)",
    ),
    (
        "cd \"$1\" && mkdir -p lower upper work merged && mount -t overlay overlay \
         -o lowerdir=lower,upperdir=upper,workdir=work merged",
        "No overlay filesystem can be mounted on /var/lib, where containers keep their files",
    ),
];

/// Tries the features of the kernel that a lab needs.
///
/// # Errors
/// With one sentence for each that is missing.
pub(super) fn check_kernel(layout: &Layout) -> Result<()> {
    // Loads missing modules where that is possible; the trials below show whether it helped.
    let modules = ["overlay", "br_netfilter", "nf_tables"];
    drop(Command::new("modprobe").args(["--all", "--quiet"]).args(modules).output());
    // In the lab's folder, where it is removed even if this process is killed.
    let scratch = layout.file("tmp").join("trial");
    fs::create_dir_all(&scratch).with_context(|| format!("cannot make {}", scratch.display()))?;
    let mut missing = Vec::new();
    for (trial, sentence) in KERNEL_FEATURES {
        let mut command = Command::new("unshare");
        command.args(["--net", "--mount", "sh", "-c", trial, "trial"]).arg(&scratch);
        if let Err(error) = run(&mut command) {
            let output = error.to_string();
            missing.push(format!("{sentence}: {}.", output.rsplit(": ").next().unwrap_or_default()));
        }
    }
    fs::remove_dir_all(&scratch)?;
    report(missing)
}

fn report(missing: Vec<String>) -> Result<()> {
    if missing.is_empty() { Ok(()) } else { bail!("\n{}", missing.join("\n")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_go_are_read_and_compared() {
        assert_eq!(go_version("go version go1.26.8 linux/amd64"), Some((1, 26)));
        assert_eq!(go_version("go version go1.27rc1 linux/arm64"), Some((1, 27)));
        assert_eq!(go_version("go version devel +abc"), None);
    }

    #[test]
    fn too_little_disk_is_said_with_both_figures() {
        let output = disk("/nowhere/at/all".as_ref(), u64::MAX).unwrap();
        assert!(output.contains("must be free at /nowhere/at/all, but only"), "{output}");
        assert_eq!(disk("/".as_ref(), 0), None);
    }

    #[test]
    fn everything_missing_is_said_at_once() {
        let error = report(vec!["One.".to_owned(), "Two.".to_owned()]).unwrap_err();
        assert_eq!(error.to_string(), "\nOne.\nTwo.");
    }
}

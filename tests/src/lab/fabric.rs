//! Network between the members of a lab: a bridge in a namespace of its own and a namespace for each member.
//!
//! Nothing of it is in the machine's own network namespace, so labs with the same addresses run side by side.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use rustix::mount::{MountPropagationFlags, mount_bind, mount_change};

use super::layout::{FABRIC, Layout, NODES, STATE_ROOT, WORLD};
use super::process::{command, inside, run, run_with_input};

/// Addresses of the control plane, which is in the bridge's namespace.
pub(super) const CONTROL_PLANE: [&str; 2] = ["10.88.0.1", "fd88::1"];
/// Addresses of the small internet's router.
pub(super) const WORLD_ROUTER: [&str; 2] = ["10.88.0.254", "fd88::fe"];
/// Addresses of the nodes.
pub(super) const NODE_RANGES: [&str; 2] = ["10.88.0.0/24", "fd88::/64"];
/// Addresses of all pods.
pub(super) const POD_RANGES: [&str; 2] = ["10.89.0.0/16", "fd89::/16"];
/// Addresses of Services.
pub(super) const SERVICE_RANGES: [&str; 2] = ["10.96.0.0/16", "fd96::/112"];

/// Creates the namespaces, the bridge and the routes.
///
/// # Errors
/// When the kernel refuses.
pub(super) fn create(layout: &Layout) -> Result<()> {
    pin_folder(layout)?;
    for member in [FABRIC, WORLD].into_iter().chain(NODES.iter().map(|node| node.name)) {
        let pin = layout.network(member);
        fs::write(&pin, "")?;
        run(command(layout, "unshare").arg(format!("--net={}", pin.display())).arg("true"))?;
        settings(layout, member)?;
    }
    ip(layout, FABRIC, &bridge(layout))?;
    ip(layout, WORLD, &uplink(WORLD_ROUTER, None))?;
    for node in NODES {
        ip(layout, node.name, &uplink([&node.ipv4(), &node.ipv6()], Some(CONTROL_PLANE)))?;
        ip(layout, node.name, &pod_routes(Some(node.name)))?;
        masquerade(layout, node.name)?;
    }
    // The way back to pods, for the API server (webhooks, aggregated APIs) and for connections to pods from there.
    ip(layout, FABRIC, &pod_routes(None))
}

/// Creates the folder of pins. Namespaces are pinned by mounts below a private mount: a mount namespace can only be
/// pinned there, and no pin is propagated to other mount namespaces.
fn pin_folder(layout: &Layout) -> Result<()> {
    let folder = layout.namespaces();
    fs::create_dir_all(&folder)?;
    mount_bind(&folder, &folder).with_context(|| format!("cannot mount {}", folder.display()))?;
    mount_change(&folder, MountPropagationFlags::PRIVATE).with_context(|| format!("cannot set up {}", folder.display()))
}

/// Sets the kernel's parameters of a network namespace: forwarding, no source check, no duplicate address detection.
fn settings(layout: &Layout, member: &str) -> Result<()> {
    let script = "cd /proc/sys/net && echo 1 > ipv4/ip_forward && echo 0 > ipv4/conf/all/rp_filter && \
                  echo 0 > ipv4/conf/default/rp_filter && \
                  for c in all default; do echo 0 > ipv6/conf/$c/disable_ipv6; echo 0 > ipv6/conf/$c/accept_dad; \
                  echo 0 > ipv6/conf/$c/accept_ra; echo 1 > ipv6/conf/$c/forwarding; done";
    run(&mut inside(layout, member, &["sh", "-c", script])).context("cannot set up a network namespace")?;
    ip(layout, member, "link set lo up\n")
}

fn bridge(layout: &Layout) -> String {
    let mut lines = "link add br0 type bridge\nlink set br0 up\n".to_owned();
    lines +=
        &format!("address add {}/24 dev br0\naddress add {}/64 dev br0 nodad\n", CONTROL_PLANE[0], CONTROL_PLANE[1]);
    for member in std::iter::once(WORLD).chain(NODES.iter().map(|node| node.name)) {
        let namespace = layout.network(member);
        lines += &format!("link add {member} type veth peer name eth0 netns {}\n", namespace.display());
        lines += &format!("link set {member} master br0 up\n");
    }
    lines + &default_routes(WORLD_ROUTER)
}

/// Returns the `ip` commands of a member's link to the bridge.
fn uplink(addresses: [&str; 2], routers: Option<[&str; 2]>) -> String {
    let [ipv4, ipv6] = addresses;
    let lines = format!("address add {ipv4}/24 dev eth0\naddress add {ipv6}/64 dev eth0 nodad\nlink set eth0 up\n");
    lines + &routers.map(default_routes).unwrap_or_default()
}

fn default_routes([ipv4, ipv6]: [&str; 2]) -> String {
    format!("route add default via {ipv4}\nroute add default via {ipv6}\n")
}

/// Returns routes to the pods of all nodes but `excluded`.
fn pod_routes(excluded: Option<&str>) -> String {
    let others = NODES.iter().filter(|node| Some(node.name) != excluded);
    others
        .map(|node| {
            let ipv4 = node.ipv4();
            let ipv6 = node.ipv6();
            format!("route add {} via {ipv4}\nroute add {} via {ipv6}\n", node.pods_ipv4(), node.pods_ipv6())
        })
        .collect()
}

/// Masquerades packets from pods to outside the cluster by their node's address: a provider's resolver answers nodes
/// only, and limits them one by one.
fn masquerade(layout: &Layout, node: &str) -> Result<()> {
    let [pods, pods6] = POD_RANGES;
    let [nodes, nodes6] = NODE_RANGES;
    let rules = format!(
        "table inet lab-egress {{ chain postrouting {{ type nat hook postrouting priority srcnat; policy accept; \
         oifname \"eth0\" ip saddr {pods} ip daddr != {{ {pods}, {nodes} }} masquerade; \
         oifname \"eth0\" ip6 saddr {pods6} ip6 daddr != {{ {pods6}, {nodes6} }} masquerade; }}; }}"
    );
    run_with_input(&mut inside(layout, node, &["nft", "-f", "-"]), &rules).map(drop)
}

/// Runs lines of `ip` in a member's network namespace.
///
/// # Errors
/// When one of them fails.
pub(super) fn ip(layout: &Layout, member: &str, lines: &str) -> Result<()> {
    run_with_input(&mut inside(layout, member, &["ip", "-batch", "-"]), lines).map(drop)
}

/// Gives a node a mount namespace of its own, in which the fixed places that programs write to (`/run/containerd`,
/// `/var/lib/cni`, `/var/log/containers`) belong to the node and vanish with it.
///
/// `visible` are folders that stay visible, wherever they are.
///
/// # Errors
/// When the kernel refuses.
pub(super) fn isolate_files(layout: &Layout, node: &str, visible: &[&Path]) -> Result<()> {
    let pin = layout.mounts(node);
    fs::write(&pin, "")?;
    let pinned = format!("--mount={}", pin.display());
    run(command(layout, "unshare").args([&pinned, "--propagation", "private", "true"]))?;
    let run_inside = |arguments: &[&str]| run(command(layout, "nsenter").arg(&pinned).args(arguments));
    // Copies of pins, this lab's and others', would keep network namespaces alive after their end.
    for mount in mounts_below(&run_inside(&["cat", "/proc/self/mountinfo"])?, STATE_ROOT) {
        run_inside(&["umount", "--lazy", &mount])?;
    }
    run_inside(&["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run"])?;
    // Folders below a hidden one are bound elsewhere in the meantime.
    let visible: Vec<(String, String)> = visible
        .iter()
        .enumerate()
        .map(|(number, folder)| (folder.display().to_string(), format!("/run/kept-{number}")))
        .collect();
    for (folder, bind) in &visible {
        run_inside(&["mkdir", bind])?;
        run_inside(&["mount", "--bind", folder, bind])?;
    }
    for hidden in ["/var/log", "/var/lib"] {
        run_inside(&["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", hidden])?;
    }
    for (folder, bind) in &visible {
        run_inside(&["mkdir", "-p", folder])?;
        run_inside(&["mount", "--bind", bind, folder])?;
        run_inside(&["umount", bind])?;
    }
    // Kubelet and containerd propagate mounts to containers that request it.
    run_inside(&["mount", "--make-rshared", "/"]).map(drop)
}

/// Returns the mount points below `folder` in a mountinfo file, inner ones first.
#[must_use]
pub(super) fn mounts_below(mountinfo: &str, folder: &str) -> Vec<String> {
    let points = mountinfo.lines().filter_map(|line| line.split(' ').nth(4));
    let mut points: Vec<String> =
        points.filter(|point| Path::new(point).starts_with(folder)).map(str::to_owned).collect();
    points.reverse();
    points
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_taken_off_inner_ones_first() {
        let mountinfo = "1 0 0:1 / / rw - ext4 a rw\n2 1 0:1 / /lab rw - ext4 a rw\n\
                         3 2 0:4 net:[1] /lab/x.net rw - nsfs n rw\n4 1 0:1 / /laboratory rw - ext4 a rw\n";
        assert_eq!(mounts_below(mountinfo, "/lab"), ["/lab/x.net", "/lab"]);
    }

    #[test]
    fn a_node_has_no_route_to_its_own_pods() {
        assert!(!pod_routes(Some("node-a")).contains("10.89.2."));
        assert_eq!(pod_routes(None).lines().count(), 12);
    }
}

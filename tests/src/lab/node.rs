//! Node: containerd, kubelet and kube-proxy in namespaces of their own, and the faults that tests inject.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::cgroups::Hierarchies;
use super::fabric::{self, POD_RANGES};
use super::layout::{Layout, NodeName};
use super::process::{Daemon, Record, Signal, command, inside, run, send, wait_until};
use super::programs::{Programs, cache};

/// Mode of kube-proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum KubeProxyMode {
    /// A table of nftables.
    Nftables,
    /// Rules of iptables.
    Iptables,
}

impl KubeProxyMode {
    /// Returns the value of kube-proxy's flag.
    #[must_use]
    pub fn flag(self) -> &'static str {
        match self {
            Self::Nftables => "nftables",
            Self::Iptables => "iptables",
        }
    }
}

/// Node of a running lab.
#[derive(Clone, Debug)]
pub struct Node {
    layout: Layout,
    programs: Programs,
    name: NodeName,
}

impl Node {
    pub(super) fn new(layout: &Layout, programs: &Programs, name: NodeName) -> Self {
        Self { layout: layout.clone(), programs: programs.clone(), name }
    }

    /// Returns the names and addresses of the node.
    #[must_use]
    pub fn name(&self) -> NodeName {
        self.name
    }

    /// Starts containerd, imports `archives`, then starts kubelet and kube-proxy.
    pub(super) fn start(&self, pause: &str, archives: &[PathBuf], proxy: KubeProxyMode) -> Result<()> {
        self.write_configuration(pause)?;
        fabric::isolate_files(&self.layout, self.name.name, &[self.layout.state(), &cache()?])?;
        self.containerd().start(&self.layout)?;
        // The pause image must be there before the kubelet: its first pods would wait in a pull that cannot succeed.
        self.wait_for_containerd()?;
        self.import(archives)?;
        self.kubelet().start(&self.layout)?;
        self.kube_proxy(proxy).start(&self.layout)?;
        Ok(())
    }

    fn write_configuration(&self, pause: &str) -> Result<()> {
        let folder = self.layout.node(self.name.name);
        fs::create_dir_all(folder.join("cni"))?;
        // The kubelet refuses version 1 of control groups by default.
        let version_1 = Hierarchies::of_machine()?.version() == 1;
        let fill = |template: &str| {
            fill(
                template,
                &[
                    ("name", self.name.name),
                    ("node", &folder.display().to_string()),
                    ("state", &self.layout.state().display().to_string()),
                    ("cgroup", &self.layout.cgroup()),
                    ("cgroup_version_1", if version_1 { "failCgroupV1: false" } else { "" }),
                    ("pods_ipv4", &self.name.pods_ipv4()),
                    ("pods_ipv6", &self.name.pods_ipv6()),
                    ("pause", pause),
                ],
            )
        };
        fs::write(folder.join("containerd.toml"), fill(include_str!("manifests/containerd.toml")))?;
        fs::write(folder.join("kubelet.yaml"), fill(include_str!("manifests/kubelet.yaml")))?;
        fs::write(folder.join("cni/10-lab.conflist"), fill(include_str!("manifests/cni.json")))?;
        Ok(())
    }

    fn daemon(&self, program: &str, flags: Vec<String>) -> Daemon {
        let command = std::iter::once(self.programs.argument(program)).chain(flags).collect();
        Daemon {
            name: format!("{program}-{}", self.name.name),
            network: self.name.name.to_owned(),
            mounts: Some(self.name.name.to_owned()),
            // containerd looks for its shim in PATH.
            path: self.programs.path("containerd").parent().map(Path::to_owned),
            command,
        }
    }

    fn containerd(&self) -> Daemon {
        let config = self.layout.node(self.name.name).join("containerd.toml");
        self.daemon("containerd", vec![format!("--config={}", config.display())])
    }

    fn kubelet(&self) -> Daemon {
        let folder = self.layout.node(self.name.name);
        let path = |file: &str| folder.join(file).display().to_string();
        let flags = vec![
            format!("--config={}", path("kubelet.yaml")),
            format!("--kubeconfig={}", self.layout.kubeconfig(self.name.name).display()),
            format!("--root-dir={}", path("kubelet")),
            format!("--cert-dir={}", path("kubelet-pki")),
            format!("--hostname-override={}", self.name.name),
            format!("--node-ip={},{}", self.name.ipv4(), self.name.ipv6()),
            format!("--node-labels=topology.kubernetes.io/zone={},topology.kubernetes.io/region=lab", self.name.zone),
        ];
        self.daemon("kubelet", flags)
    }

    fn kube_proxy(&self, mode: KubeProxyMode) -> Daemon {
        let flags = vec![
            format!("--kubeconfig={}", self.layout.kubeconfig("kube-proxy").display()),
            format!("--proxy-mode={}", mode.flag()),
            format!("--cluster-cidr={}", POD_RANGES.join(",")),
            format!("--hostname-override={}", self.name.name),
            // The limits of connection tracking belong to the machine, not to a namespace.
            "--conntrack-max-per-core=0".to_owned(),
            "--metrics-bind-address=127.0.0.1:10249".to_owned(),
        ];
        self.daemon("kube-proxy", flags)
    }

    fn socket(&self) -> PathBuf {
        self.layout.node(self.name.name).join("containerd.sock")
    }

    fn ctr(&self, arguments: &[&str]) -> Result<String> {
        run(&mut self.ctr_command(arguments))
    }

    /// Builds a command of containerd's own client, not started yet, in the namespace of images and containers that
    /// the kubelet uses.
    #[must_use]
    pub fn ctr_command(&self, arguments: &[&str]) -> Command {
        let mut ctr = command(&self.layout, self.programs.path("ctr"));
        ctr.arg("--address").arg(self.socket()).args(["--namespace", "k8s.io"]).args(arguments);
        ctr
    }

    fn wait_for_containerd(&self) -> Result<()> {
        wait_until(Duration::from_secs(20), || self.ctr(&["version"]).ok().map(drop)).with_context(|| {
            let log = self.layout.log(&format!("containerd-{}", self.name.name));
            format!("containerd of {} does not answer; its log is {}", self.name.name, log.display())
        })
    }

    /// Imports image archives.
    pub(super) fn import(&self, archives: &[PathBuf]) -> Result<()> {
        for archive in archives {
            self.ctr(&["images", "import", &archive.display().to_string()])?;
        }
        Ok(())
    }

    /// Gives an image of the node a second name.
    pub(super) fn tag(&self, image: &str, name: &str) -> Result<()> {
        self.ctr(&["images", "tag", "--force", image, name]).map(drop)
    }

    /// Runs a command in the node's network namespace and returns its standard output.
    ///
    /// # Errors
    /// When it fails; the error carries its standard error.
    pub fn run(&self, arguments: &[&str]) -> Result<String> {
        run(&mut self.command(arguments))
    }

    /// Builds a command in the node's network namespace, not started yet.
    #[must_use]
    pub fn command(&self, arguments: &[&str]) -> Command {
        inside(&self.layout, self.name.name, arguments)
    }

    /// Returns the IDs of a container's processes, without those of the pod's pause container.
    ///
    /// # Errors
    /// When containerd does not respond, or no such container runs.
    pub fn pid_of_container(&self, pod_uid: &str, container: &str) -> Result<Vec<u32>> {
        let filter = format!(
            "labels.\"io.kubernetes.pod.uid\"=={pod_uid},labels.\"io.kubernetes.container.name\"=={container},\
             labels.\"io.cri-containerd.kind\"==container"
        );
        let ids = self.ctr(&["containers", "ls", "--quiet", &filter])?;
        let hierarchies = Hierarchies::of_machine()?;
        let groups = hierarchies.groups(&self.layout, Some(self.name.name));
        let mut found = Vec::new();
        for group in groups.iter().filter(|group| ids.lines().any(|id| group.ends_with(id))) {
            let text = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
            found.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()));
        }
        found.sort_unstable();
        found.dedup();
        if found.is_empty() {
            bail!("no container `{container}` of pod {pod_uid} runs on {}", self.name.name);
        }
        Ok(found)
    }

    /// Returns the IDs of all processes of a pod, the pause container's among them. Works without containerd.
    #[must_use]
    pub fn pids_of_pod(&self, pod_uid: &str) -> Vec<u32> {
        let Ok(hierarchies) = Hierarchies::of_machine() else { return Vec::new() };
        let pod_group = format!("pod{pod_uid}");
        let mut found = Vec::new();
        for group in hierarchies.groups(&self.layout, Some(self.name.name)) {
            if group.components().any(|part| part.as_os_str() == pod_group.as_str()) {
                let text = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
                found.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()));
            }
        }
        found.sort_unstable();
        found.dedup();
        found
    }

    /// Returns the ID of the first process of the node's toolbox pod. Works without kubelet and containerd.
    ///
    /// # Errors
    /// When no toolbox runs on the node.
    pub fn toolbox_pid(&self) -> Result<u32> {
        let mark = format!("LAB_TOOLBOX={}", self.name.name);
        let node_processes = Hierarchies::of_machine()?.processes(&self.layout, Some(self.name.name));
        let is_toolbox = |pid: &u32| {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|entry| entry == mark.as_bytes())
        };
        node_processes.into_iter().find(is_toolbox).with_context(|| format!("no toolbox runs on {}", self.name.name))
    }

    /// Sends a signal to a process of the node; one that has ended already is fine.
    ///
    /// # Errors
    /// When the process belongs to no pod of the node, or the kernel refuses.
    pub fn kill(&self, pid: u32, signal: Signal) -> Result<()> {
        let node_processes = Hierarchies::of_machine()?.processes(&self.layout, Some(self.name.name));
        if !node_processes.contains(&pid) && Path::new(&format!("/proc/{pid}")).exists() {
            bail!("process {pid} is not in a pod of {}", self.name.name);
        }
        send(pid, signal)
    }

    /// Stops the kubelet; pods keep running.
    ///
    /// # Errors
    /// When it does not end.
    pub fn stop_kubelet(&self) -> Result<()> {
        self.stop("kubelet")
    }

    /// Starts the kubelet again.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_kubelet(&self) -> Result<()> {
        self.restart("kubelet")
    }

    /// Stops containerd; containers keep running.
    ///
    /// # Errors
    /// When it does not end.
    pub fn stop_containerd(&self) -> Result<()> {
        self.stop("containerd")
    }

    /// Starts containerd again and waits until it responds.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_containerd(&self) -> Result<()> {
        self.restart("containerd")?;
        self.wait_for_containerd()
    }

    /// Stops kube-proxy; its rules stay.
    ///
    /// # Errors
    /// When it does not end.
    pub fn stop_kube_proxy(&self) -> Result<()> {
        self.stop("kube-proxy")
    }

    /// Starts kube-proxy again.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_kube_proxy(&self) -> Result<()> {
        self.restart("kube-proxy")
    }

    /// Returns the mode of the node's kube-proxy.
    ///
    /// # Errors
    /// When the lab has no record of it.
    pub fn kube_proxy_mode(&self) -> Result<KubeProxyMode> {
        let record = self.record("kube-proxy")?;
        let has = |mode: KubeProxyMode| record.daemon.command.contains(&format!("--proxy-mode={}", mode.flag()));
        Ok(if has(KubeProxyMode::Nftables) { KubeProxyMode::Nftables } else { KubeProxyMode::Iptables })
    }

    fn record(&self, program: &str) -> Result<Record> {
        Record::read(&self.layout, &format!("{program}-{}", self.name.name))
    }

    fn stop(&self, program: &str) -> Result<()> {
        self.record(program)?.stop(Duration::from_secs(5))
    }

    fn restart(&self, program: &str) -> Result<()> {
        let record = self.record(program)?;
        if !record.identity.is_alive() {
            record.daemon.start(&self.layout)?;
        }
        Ok(())
    }
}

/// Fills the `{placeholders}` of a template.
#[must_use]
pub(super) fn fill(template: &str, values: &[(&str, &str)]) -> String {
    values.iter().fold(template.to_owned(), |text, (place, value)| text.replace(&format!("{{{place}}}"), value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_have_no_place_that_nobody_fills() {
        let places = ["name", "node", "state", "cgroup", "cgroup_version_1", "pods_ipv4", "pods_ipv6", "pause"];
        let values: Vec<(&str, &str)> = places.iter().map(|place| (*place, "x")).collect();
        for template in [
            include_str!("manifests/containerd.toml"),
            include_str!("manifests/kubelet.yaml"),
            include_str!("manifests/cni.json"),
        ] {
            let filled = fill(template, &values);
            for place in places {
                assert!(!filled.contains(&format!("{{{place}}}")), "{place}");
            }
        }
        serde_json::from_str::<serde_json::Value>(&fill(include_str!("manifests/cni.json"), &values)).unwrap();
    }
}

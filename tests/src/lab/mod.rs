//! The lab: a real Kubernetes cluster of three zones on one machine, with a small internet beside it.
//!
//! `up` walks through the modules in the order in which they are declared. A lab is identified by its name; all of it
//! is in one folder and in namespaces and control groups named after it, so labs run side by side and leave nothing.
//!
//! `loopback` is a control plane alone, for tests that need neither nodes nor root.

mod layout;

mod cgroups;
mod process;
pub mod progress;

mod requirements;

pub mod programs;

mod images;

mod fabric;
mod pki;
mod world;

mod control_plane;
mod node;
mod workloads;

mod install;

mod cleanup;

mod loopback;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

pub use cleanup::remains;
pub use images::{Build, Image, ImageSet, published_images, table};
pub use layout::{FABRIC, Layout, NodeName, STATE_ROOT, Shape, WORLD};
pub use loopback::{AUDITED_USER, LoopbackControlPlane};
pub use node::{KubeProxyMode, Node};
pub use process::{Record, Signal};
pub use programs::{CHECKOUT, Programs};
pub use progress::Progress;
pub use world::{PROVIDER, PUBLIC_RESOLVER, World};

use layout::NODES;
use process::{inside, run, run_with_input};

/// Modes of kube-proxy in the zones of a new lab: clusters use both.
const KUBE_PROXY: [KubeProxyMode; 3] = [KubeProxyMode::Nftables, KubeProxyMode::Nftables, KubeProxyMode::Iptables];

/// Options of bringing a lab up.
#[derive(Clone, Debug)]
pub struct Options {
    /// Name of the lab; see [`Layout::new`].
    pub name: String,
    /// Whether to leave DnsTier out: only the cluster and the world.
    pub bare: bool,
    /// How many nodes run. A lab with one node a zone gets the second ones; one with two is replaced by a new one.
    pub shape: Shape,
    /// Mode of kube-proxy in each zone; by default a new lab has both modes, and a running one keeps its own.
    pub kube_proxy: Option<[KubeProxyMode; 3]>,
    /// Where progress is reported.
    pub progress: Progress,
}

impl Options {
    /// Options of the lab that all tests share.
    #[must_use]
    pub fn for_tests() -> Self {
        Self { progress: Progress::to_stdout(), ..Self::new("tests") }
    }

    /// Options of a silent lab with the whole tier in it.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            bare: false,
            shape: Shape::default(),
            kube_proxy: None,
            progress: Progress::silent(),
        }
    }
}

/// State of a lab that is kept in its folder (`lab.json`).
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct SavedState {
    /// Images in use: short names and references.
    images: BTreeMap<String, String>,
    /// Nodes that run.
    #[serde(default)]
    shape: Shape,
}

/// Running lab.
#[derive(Clone, Debug)]
pub struct Lab {
    layout: Layout,
    programs: Programs,
    saved: SavedState,
}

impl Lab {
    /// Brings a lab up, or updates what has changed in one that runs.
    ///
    /// # Errors
    /// With what is missing on the machine, or the step that failed. [`down`] removes what has been started.
    pub fn up(options: &Options) -> Result<Self> {
        let layout = Layout::new(&options.name)?;
        let progress = &options.progress;
        let programs = prepare(&layout, progress)?;
        let _lock = lock(&layout, true)?;
        let set = if options.bare { ImageSet::Cluster } else { ImageSet::All };
        let lab = match Self::open(&options.name).and_then(Self::if_all_run) {
            Ok(mut lab) if lab.saved.shape <= options.shape => {
                lab.check_kube_proxies(options.kube_proxy)?;
                let images = lab.build(set, progress)?;
                lab.update_images(&images, progress)?;
                lab.add_nodes(&images, options)?;
                lab
            }
            // An incomplete lab is replaced by a new one, and so is one with too many nodes.
            _ => {
                let mut lab = Self { layout, programs, saved: SavedState::default() };
                lab.create(set, options)?;
                lab
            }
        };
        if !options.bare {
            progress.step("tier: install the chart", || install::chart(&lab))?;
            progress.step("tier: apply examples/dnstier.yaml and wait until it is ready", || install::example(&lab))?;
            install::show(&lab, progress)?;
        }
        Ok(lab)
    }

    /// Installs or upgrades the chart with the lab's images, applies the example and waits until its tier is ready.
    ///
    /// # Errors
    /// When Helm or the API server refuses, or the tier does not become ready within three minutes.
    pub fn install(&self) -> Result<()> {
        install::chart(self)?;
        install::example(self)
    }

    /// Uninstalls the chart. The CustomResourceDefinition and the tiers stay.
    ///
    /// # Errors
    /// When Helm fails.
    pub fn uninstall(&self) -> Result<()> {
        install::remove_chart(self)
    }

    /// Opens a running lab.
    ///
    /// # Errors
    /// When there is none of this name, or its start was not completed.
    pub fn open(name: &str) -> Result<Self> {
        let layout = Layout::new(name)?;
        let text = fs::read(layout.file("lab.json"))
            .with_context(|| format!("lab `{name}` is not up; `lab up --name {name}` brings it up"))?;
        let saved = serde_json::from_slice(&text).context("lab.json is damaged")?;
        let programs = Programs::locate()?.for_lab(&layout);
        Ok(Self { layout, programs, saved })
    }

    /// Returns the lab if all of its processes run.
    fn if_all_run(self) -> Result<Self> {
        match self.processes()?.iter().find(|record| !record.identity.is_alive()) {
            Some(record) => bail!("{} of lab `{}` has ended", record.daemon.name, self.layout.name()),
            None => Ok(self),
        }
    }

    /// Fails when a running lab has other modes of kube-proxy than these.
    fn check_kube_proxies(&self, wanted: Option<[KubeProxyMode; 3]>) -> Result<()> {
        let Some(wanted) = wanted else { return Ok(()) };
        for (name, wanted) in self.nodes().iter().zip(wanted.into_iter().cycle()) {
            let has = self.node(name.name)?.kube_proxy_mode()?;
            if has != wanted {
                let node = name.name;
                let has = has.flag();
                let lab = self.layout.name();
                bail!(
                    "the kube-proxy of {node} works with {has}; remove lab `{lab}` to start one that works otherwise"
                );
            }
        }
        Ok(())
    }

    /// Creates a cluster that resolves names.
    fn create(&mut self, set: ImageSet, options: &Options) -> Result<()> {
        let progress = &options.progress;
        let layout = self.layout.clone();
        // The folder stays: it is locked.
        progress.step("cluster: clear what an earlier start has left", || cleanup::clear(&layout))?;
        for folder in ["log", "processes"] {
            fs::create_dir_all(layout.file(folder))?;
        }
        let images = std::thread::scope(|scope| {
            let images = scope.spawn(|| self.build(set, progress));
            let cluster = self.start_control_plane(progress);
            let images = images.join().map_err(|_| anyhow::anyhow!("the building of images was aborted"))?;
            cluster.and(images)
        })?;
        self.saved.images = images.iter().map(|image| (image.name.to_owned(), image.reference())).collect();
        self.saved.shape = options.shape;
        self.start_nodes(self.nodes(), &images, options)?;
        progress.step("cluster: wait for the nodes, the cluster DNS and a toolbox pod on each node", || {
            workloads::apply(self)?;
            workloads::wait(self)
        })?;
        self.save()
    }

    fn start_control_plane(&self, progress: &Progress) -> Result<()> {
        let layout = &self.layout;
        progress.step("cluster: network namespaces, bridge, routes, control groups, keys", || {
            cgroups::Hierarchies::of_machine()?.create(layout)?;
            fabric::create(layout)?;
            pki::create(layout)
        })?;
        progress.step("cluster: a small internet and the provider's resolver", || self.world().start())?;
        progress.step("cluster: etcd, API server, controller manager, scheduler", || {
            control_plane::start(layout, &self.programs, |arguments| self.kubectl(arguments))
        })
    }

    /// Starts the nodes that the shape of the options has and the lab has not.
    fn add_nodes(&mut self, images: &[Image], options: &Options) -> Result<()> {
        let new = &options.shape.nodes()[self.nodes().len()..];
        if new.is_empty() {
            return Ok(());
        }
        // A lab whose new nodes did not come up is no complete one.
        fs::remove_file(self.layout.file("lab.json"))?;
        self.start_nodes(new, images, options)?;
        self.saved.shape = options.shape;
        options.progress.step("cluster: wait for the new nodes", || workloads::wait(self))?;
        self.save()
    }

    fn start_nodes(&self, nodes: &[NodeName], images: &[Image], options: &Options) -> Result<()> {
        let archives: Vec<PathBuf> = images.iter().map(|image| image.archive.clone()).collect();
        let pause = self.image("pause").context("the lab has no image pause")?;
        options.progress.step("cluster: containerd, kubelet and kube-proxy on the nodes", || {
            std::thread::scope(|scope| {
                let starts: Vec<_> = nodes
                    .iter()
                    .zip(options.kube_proxy.unwrap_or(KUBE_PROXY).into_iter().cycle())
                    .map(|(name, mode)| {
                        let node = Node::new(&self.layout, &self.programs, *name);
                        let pause = &pause;
                        let archives = &archives;
                        scope.spawn(move || node.start(pause, archives, mode).with_context(|| name.name))
                    })
                    .collect();
                starts.into_iter().try_for_each(|start| {
                    start.join().map_err(|_| anyhow::anyhow!("the start of a node was aborted"))?
                })
            })
        })
    }

    /// Brings new images to a running lab.
    fn update_images(&mut self, images: &[Image], progress: &Progress) -> Result<()> {
        // containerd reads the name of its pause image at its start: that one stays.
        let is_new =
            |image: &&Image| image.name != "pause" && self.image(image.name).as_deref() != Some(&image.reference());
        let new: Vec<&Image> = images.iter().filter(is_new).collect();
        if new.is_empty() {
            return Ok(());
        }
        let names: Vec<&str> = new.iter().map(|image| image.name).collect();
        progress.step(&format!("cluster: take over {}", names.join(", ")), || {
            let archives: Vec<PathBuf> = new.iter().map(|image| image.archive.clone()).collect();
            for name in self.nodes() {
                self.node(name.name)?.import(&archives)?;
            }
            self.saved.images.extend(new.iter().map(|image| (image.name.to_owned(), image.reference())));
            workloads::apply(self)?;
            workloads::wait(self)?;
            self.save()
        })
    }

    fn build(&self, set: ImageSet, progress: &Progress) -> Result<Vec<Image>> {
        let scratch = self.layout.file("build");
        fs::create_dir_all(&scratch)?;
        Build::for_lab(set, self.programs.path("coredns"), scratch, self.layout.clone()).run(progress)
    }

    fn save(&self) -> Result<()> {
        process::write_atomically(&self.layout.file("lab.json"), &serde_json::to_vec_pretty(&self.saved)?)
    }

    /// Returns the paths and names of the lab.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Returns the lab's processes.
    ///
    /// # Errors
    /// When a record cannot be read.
    pub fn processes(&self) -> Result<Vec<Record>> {
        Record::all(&self.layout)
    }

    /// Returns the references of the images in use, by their short names.
    #[must_use]
    pub fn images(&self) -> &BTreeMap<String, String> {
        &self.saved.images
    }

    /// Returns the reference of an image in use.
    #[must_use]
    pub fn image(&self, name: &str) -> Option<String> {
        self.saved.images.get(name).cloned()
    }

    /// Gives an image in use a second tag on all nodes, so that pods can be moved to it; returns the reference.
    ///
    /// # Errors
    /// When a node does not have the image.
    pub fn alias_image(&self, reference: &str, tag: &str) -> Result<String> {
        let (repository, _) = reference.rsplit_once(':').with_context(|| format!("{reference} has no tag"))?;
        let alias = format!("{repository}:{tag}");
        self.nodes().iter().try_for_each(|node| self.node(node.name)?.tag(reference, &alias))?;
        Ok(alias)
    }

    /// Returns the nodes that run.
    #[must_use]
    pub fn nodes(&self) -> &'static [NodeName] {
        self.saved.shape.nodes()
    }

    /// Returns the node `name`, such as `node-a`.
    ///
    /// # Errors
    /// When the lab has no such node.
    pub fn node(&self, name: &str) -> Result<Node> {
        let found = NODES.into_iter().find(|node| node.name == name);
        let name = found.with_context(|| format!("a lab's nodes are node-a to node-f, and {name} is none"))?;
        Ok(Node::new(&self.layout, &self.programs, name))
    }

    /// Returns the small internet.
    #[must_use]
    pub fn world(&self) -> World {
        World::new(&self.layout)
    }

    /// Builds a kubectl command with the administrator's rights, not started yet.
    #[must_use]
    pub fn kubectl_command(&self, arguments: &[&str]) -> Command {
        self.administrator("kubectl", arguments)
    }

    /// Runs kubectl and returns its standard output.
    ///
    /// # Errors
    /// When it fails; the error carries its standard error.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        run(&mut self.kubectl_command(arguments))
    }

    /// Runs kubectl with a standard input, such as a manifest for `apply -f -`, and returns its standard output.
    ///
    /// # Errors
    /// As [`Self::kubectl`].
    pub fn kubectl_with_input(&self, arguments: &[&str], input: &str) -> Result<String> {
        run_with_input(&mut self.kubectl_command(arguments), input)
    }

    /// Builds a Helm command with the administrator's rights, not started yet.
    #[must_use]
    pub fn helm_command(&self, arguments: &[&str]) -> Command {
        self.administrator("helm", arguments)
    }

    /// Runs Helm and returns its standard output.
    ///
    /// # Errors
    /// When it fails; the error carries its standard error.
    pub fn helm(&self, arguments: &[&str]) -> Result<String> {
        run(&mut self.helm_command(arguments))
    }

    /// Builds a command of a client of the API server, with the administrator's kubeconfig and caches in the lab's
    /// folder.
    fn administrator(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = inside(&self.layout, FABRIC, &[self.programs.path(program)]);
        command.env("KUBECONFIG", self.layout.kubeconfig("admin"));
        command.env("KUBECACHEDIR", self.layout.file("kubectl-cache"));
        for (variable, folder) in
            [("HELM_CACHE_HOME", "cache"), ("HELM_CONFIG_HOME", "config"), ("HELM_DATA_HOME", "data")]
        {
            command.env(variable, self.layout.file("helm").join(folder));
        }
        command.args(arguments);
        command
    }

    /// Returns the name of the toolbox pod on a node.
    ///
    /// # Errors
    /// When there is none.
    pub fn toolbox(&self, node: &str) -> Result<String> {
        let of_node = format!("--field-selector=spec.nodeName={node}");
        let name = "--output=jsonpath={.items[0].metadata.name}";
        let namespace = format!("--namespace={}", workloads::TOOLBOX_NAMESPACE);
        let found = self.kubectl(&["get", "pod", &namespace, "--selector=app=toolbox", &of_node, name])?;
        if found.is_empty() { bail!("no toolbox pod is on {node}") } else { Ok(found) }
    }

    /// Builds a command in the toolbox pod of a node, not started yet: in the pod's network, with the pod's files.
    ///
    /// The command enters the pod's namespaces without the API server, so that tests can send queries from pods while
    /// kubelets, containerd or the API server are down.
    ///
    /// # Errors
    /// When no toolbox runs on the node.
    pub fn exec_command(&self, node: &str, arguments: &[&str]) -> Result<Command> {
        let pid = self.node(node)?.toolbox_pid()?.to_string();
        let mut command = process::command(&self.layout, "nsenter");
        command.args(["--target", &pid, "--net", "--mount", "--uts", "--ipc", "--root", "--wd"]);
        // `env` of the pod looks programs up in the pod's files.
        command.args(["/bin/env", "PATH=/:/bin"]).args(arguments);
        Ok(command)
    }

    /// Runs a command in the toolbox pod of a node and returns its standard output; see [`Self::exec_command`].
    ///
    /// # Errors
    /// When it fails; the error carries its standard error.
    pub fn exec(&self, node: &str, arguments: &[&str]) -> Result<String> {
        run(&mut self.exec_command(node, arguments)?)
    }

    /// Starts a command in the toolbox pod of a node, its input and outputs in pipes; see [`Self::exec_command`].
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn_exec(&self, node: &str, arguments: &[&str]) -> Result<Child> {
        let mut command = self.exec_command(node, arguments)?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().with_context(|| format!("cannot start {} on {node}", arguments.join(" ")))
    }
}

/// Checks that a lab can be brought up on this machine. Installs and changes nothing.
///
/// # Errors
/// With one sentence for each part that is missing, one a line.
pub fn check_machine() -> Result<()> {
    locate_programs().map(drop)
}

fn locate_programs() -> Result<Programs> {
    // Without Go nothing can be located; its absence is reported with all others.
    let programs = Programs::locate();
    let compiles = programs.as_ref().map_or(true, |programs| !programs.missing().is_empty());
    requirements::check(compiles, &programs::cache()?)?;
    programs
}

/// Installs the packages and compiles the programs that a lab needs.
fn prepare(layout: &Layout, progress: &Progress) -> Result<Programs> {
    let programs = progress.step("machine: look for what a lab needs", locate_programs)?;
    requirements::install_packages(progress)?;
    progress.step("machine: try the kernel's features", || requirements::check_kernel(layout))?;
    let programs = programs.for_lab(layout);
    programs.build(progress)?;
    Ok(programs)
}

/// Locks a lab against being brought up or removed by others, until the file is dropped.
fn lock(layout: &Layout, wait: bool) -> Result<fs::File> {
    loop {
        fs::create_dir_all(layout.state()).with_context(|| format!("cannot make {}", layout.state().display()))?;
        let folder = fs::File::open(layout.state())?;
        if wait {
            folder.lock()?;
        // A killed process may hold the lock for a moment more, by a child that has not called `exec` yet.
        } else if process::wait_until(Duration::from_secs(2), || folder.try_lock().ok()).is_none() {
            bail!("lab `{}` is just being brought up or removed by another process; end that first", layout.name());
        }
        // The former owner of the lock may have removed the folder, and another one may have its name by now.
        let is_same = |one: &fs::Metadata, other: &fs::Metadata| one.ino() == other.ino() && one.dev() == other.dev();
        if fs::metadata(layout.state()).is_ok_and(|now| folder.metadata().is_ok_and(|then| is_same(&then, &now))) {
            return Ok(folder);
        }
    }
}

/// Removes a lab in any state; a lab that does not exist is fine.
///
/// # Errors
/// When a part of it cannot be removed, or it is just being brought up.
pub fn down(name: &str) -> Result<()> {
    let layout = Layout::new(name)?;
    let _lock = if layout.state().exists() { Some(lock(&layout, false)?) } else { None };
    cleanup::remove(&layout)
}

/// Returns the names of the labs on this machine.
#[must_use]
pub fn names() -> Vec<String> {
    let entries = fs::read_dir(STATE_ROOT).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

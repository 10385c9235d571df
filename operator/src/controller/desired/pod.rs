//! Parts that node pods and zone resolvers share: environment, volumes, probes, security contexts, resources.

use std::collections::BTreeMap;

use dnstier_crds::v1alpha1::PodSettings;
use k8s_openapi::api::core::v1::{
    Capabilities, ConfigMapProjection, Container, DownwardAPIProjection, DownwardAPIVolumeFile, EmptyDirVolumeSource,
    EnvVar, EnvVarSource, ExecAction, HTTPGetAction, LocalObjectReference, ObjectFieldSelector, Probe,
    ProjectedVolumeSource, ResourceRequirements, SeccompProfile, SecurityContext, Volume, VolumeMount,
    VolumeProjection,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use node_cache_config::names::{
    CONFIG_DIR, REVISION_ANNOTATION, REVISION_FILE, RUN_DIR, ZONE_ANNOTATION, ZONE_FILE, ZONE_LABEL, ZONE_LABEL_FILE,
};

use crate::controller::owned::{labels, names};
use crate::settings::Settings;

/// User and group of processes without privileges, and group of the files that containers of a pod share.
pub(super) const UNPRIVILEGED_ID: i64 = 65532;
/// Memory that a process needs beside its cache, in bytes: code, buffers and queries in flight.
const MEMORY_BESIDE_CACHE: u64 = 32 << 20;
/// Maximum size of the shared directory, which holds sockets and little else.
const MAX_RUN_DIR_SIZE: &str = "8Mi";
const CONFIG_VOLUME: &str = "config";
const RUN_VOLUME: &str = "run";

/// Builds a container of the data plane.
#[must_use]
pub(super) fn container(name: &str, image: &str, command: &str, args: Vec<String>, settings: &Settings) -> Container {
    Container {
        name: name.to_owned(),
        image: Some(image.to_owned()),
        image_pull_policy: Some(settings.image_pull_policy.clone()),
        command: Some(vec![command.to_owned()]),
        args: Some(args),
        env: Some(environment()),
        volume_mounts: Some(vec![mount(CONFIG_VOLUME, CONFIG_DIR, true), mount(RUN_VOLUME, RUN_DIR, false)]),
        ..Container::default()
    }
}

/// Returns the arguments of a process: the subcommand `run`, its own flags, and the directories.
#[must_use]
pub(super) fn run_args(own_flags: &[(&str, String)]) -> Vec<String> {
    let mut args = vec!["run".to_owned()];
    let directories = [("--config-dir", CONFIG_DIR.to_owned()), ("--run-dir", RUN_DIR.to_owned())];
    args.extend(own_flags.iter().chain(&directories).flat_map(|(flag, value)| [(*flag).to_owned(), value.clone()]));
    args
}

/// Builds a probe that queries a process over its Unix socket, so that a network failure cannot fail the probe.
#[must_use]
pub(super) fn exec_probe(command: &str, args: &[&str], period_seconds: i32, failure_threshold: i32) -> Probe {
    let words = [&[command, "probe"], args, &["--run-dir", RUN_DIR]].concat();
    Probe {
        exec: Some(ExecAction { command: Some(words.into_iter().map(str::to_owned).collect()) }),
        ..probe_times(period_seconds, failure_threshold)
    }
}

/// Builds an HTTP probe, which starts no process in the container.
#[must_use]
pub(super) fn http_probe(path: &str, port: u16, period_seconds: i32, failure_threshold: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::Int(port.into()),
            ..HTTPGetAction::default()
        }),
        ..probe_times(period_seconds, failure_threshold)
    }
}

/// Returns a probe with its period, its timeout and the number of consecutive failures that fail it.
fn probe_times(period_seconds: i32, failure_threshold: i32) -> Probe {
    Probe {
        period_seconds: Some(period_seconds),
        timeout_seconds: Some(3),
        failure_threshold: Some(failure_threshold),
        ..Probe::default()
    }
}

/// Builds the two volumes of a pod: the configuration, and the directory of the sockets that its containers share. The
/// first one has a file for each of `annotations` too, which are given with the name of the file.
#[must_use]
pub(super) fn volumes(tier: &str, annotations: &[(&str, &str)]) -> Vec<Volume> {
    let file = |(name, annotation): &(&str, &str)| downward_file(name, format!("metadata.annotations['{annotation}']"));
    let common = [(REVISION_FILE, REVISION_ANNOTATION), (ZONE_FILE, ZONE_ANNOTATION)];
    let zone_label = downward_file(ZONE_LABEL_FILE, format!("metadata.labels['{ZONE_LABEL}']"));
    let files = common.iter().map(file).chain([zone_label]).chain(annotations.iter().map(file));
    let sources = vec![
        VolumeProjection {
            config_map: Some(ConfigMapProjection {
                name: names::revisions(tier),
                optional: Some(true),
                ..ConfigMapProjection::default()
            }),
            ..VolumeProjection::default()
        },
        VolumeProjection {
            downward_api: Some(DownwardAPIProjection { items: Some(files.collect()) }),
            ..VolumeProjection::default()
        },
    ];
    vec![
        Volume {
            name: CONFIG_VOLUME.to_owned(),
            projected: Some(ProjectedVolumeSource { sources: Some(sources), default_mode: Some(0o444) }),
            ..Volume::default()
        },
        Volume {
            name: RUN_VOLUME.to_owned(),
            empty_dir: Some(EmptyDirVolumeSource {
                medium: Some("Memory".to_owned()),
                size_limit: Some(Quantity(MAX_RUN_DIR_SIZE.to_owned())),
            }),
            ..Volume::default()
        },
    ]
}

/// Builds the security context of a container: no privilege escalation, a read-only root file system, and no
/// capability but `added`.
#[must_use]
pub(super) fn security_context(user: i64, added: &[&str]) -> SecurityContext {
    SecurityContext {
        run_as_user: Some(user),
        run_as_group: Some(user),
        run_as_non_root: Some(user != 0),
        allow_privilege_escalation: Some(false),
        read_only_root_filesystem: Some(true),
        capabilities: Some(Capabilities {
            drop: Some(vec!["ALL".to_owned()]),
            add: (!added.is_empty()).then(|| added.iter().map(|name| (*name).to_owned()).collect()),
        }),
        ..SecurityContext::default()
    }
}

/// Returns the seccomp profile of every pod.
#[must_use]
pub(super) fn seccomp_profile() -> SeccompProfile {
    SeccompProfile { type_: "RuntimeDefault".to_owned(), localhost_profile: None }
}

/// Returns the resources of a container with a cache of `cache_size` bytes, or those that the user configured.
///
/// The memory limit is the size of the cache and 32 MiB. There is no CPU limit, because throttling delays the responses
/// to all clients. A user's resources without a memory limit get this one.
#[must_use]
pub(super) fn cache_resources(
    configured: Option<&ResourceRequirements>,
    cache_size: u64,
    cpu: &str,
) -> ResourceRequirements {
    let limit = bytes_quantity(cache_size + MEMORY_BESIDE_CACHE);
    let Some(configured) = configured else { return resources(cpu, "32Mi", limit) };
    let mut resources = configured.clone();
    resources.limits.get_or_insert_default().entry("memory".to_owned()).or_insert(limit);
    resources
}

/// Converts a number of bytes to the form in which the API server returns it.
fn bytes_quantity(bytes: u64) -> Quantity {
    const MEBIBYTE: u64 = 1 << 20;
    Quantity(if bytes.is_multiple_of(MEBIBYTE) { format!("{}Mi", bytes / MEBIBYTE) } else { bytes.to_string() })
}

/// Builds resources of requests and a memory limit.
#[must_use]
pub(super) fn resources(cpu: &str, memory: &str, memory_limit: Quantity) -> ResourceRequirements {
    let requests = [("cpu", cpu), ("memory", memory)].map(|(name, size)| (name.to_owned(), Quantity(size.to_owned())));
    ResourceRequirements {
        requests: Some(BTreeMap::from(requests)),
        limits: Some(BTreeMap::from([("memory".to_owned(), memory_limit)])),
        claims: None,
    }
}

/// Builds the metadata of a pod template. The user's labels and annotations never override those of the tier.
#[must_use]
pub(super) fn template_meta(
    pods: &PodSettings,
    tier_labels: BTreeMap<String, String>,
    metrics_port: u16,
) -> ObjectMeta {
    let mut labels = pods.pod_labels.clone();
    labels.extend(tier_labels);
    let mut annotations = pods.pod_annotations.clone();
    annotations.retain(|key, _| !key.starts_with(labels::PREFIX));
    annotations.insert(labels::METRICS_PORT.to_owned(), metrics_port.to_string());
    ObjectMeta { labels: Some(labels), annotations: Some(annotations), ..ObjectMeta::default() }
}

/// Returns the image of a pod: that of the tier, or that of the operator's settings.
#[must_use]
pub(super) fn image<'a>(pods: &'a PodSettings, settings: &'a Settings) -> &'a str {
    pods.image.as_deref().unwrap_or(&settings.image)
}

/// Returns the pull Secrets of a pod.
#[must_use]
pub(super) fn pull_secrets(settings: &Settings) -> Option<Vec<LocalObjectReference>> {
    let secrets = &settings.image_pull_secrets;
    (!secrets.is_empty()).then(|| secrets.iter().map(|name| LocalObjectReference { name: name.clone() }).collect())
}

fn environment() -> Vec<EnvVar> {
    [
        ("POD_UID", "metadata.uid"),
        ("POD_NAME", "metadata.name"),
        ("NODE_NAME", "spec.nodeName"),
        ("POD_IPS", "status.podIPs"),
        ("HOST_IPS", "status.hostIPs"),
    ]
    .map(|(name, path)| EnvVar {
        name: name.to_owned(),
        value: None,
        value_from: Some(EnvVarSource { field_ref: Some(field_ref(path.to_owned())), ..EnvVarSource::default() }),
    })
    .to_vec()
}

fn field_ref(field_path: String) -> ObjectFieldSelector {
    ObjectFieldSelector { api_version: Some("v1".to_owned()), field_path }
}

fn downward_file(path: &str, field_path: String) -> DownwardAPIVolumeFile {
    DownwardAPIVolumeFile {
        path: path.to_owned(),
        field_ref: Some(field_ref(field_path)),
        ..DownwardAPIVolumeFile::default()
    }
}

fn mount(name: &str, path: &str, read_only: bool) -> VolumeMount {
    VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        read_only: read_only.then_some(true),
        ..VolumeMount::default()
    }
}

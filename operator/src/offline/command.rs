//! The commands `render`, `validate` and `diff`: their flags, outputs and exit codes.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use kube::{Client, ResourceExt};

use crate::client::{self, Limits};
use crate::controller::apply::plan::plan_writes;
use crate::controller::finding::Finding;
use crate::offline::complaint::Complaint;
use crate::offline::diff::difference;
use crate::offline::live_cluster::LiveCluster;
use crate::offline::planned_cluster::PlannedCluster;
use crate::offline::render::{bodies, to_yaml};
use crate::offline::settle::{Settled, settle};
use crate::offline::tiers::{FileTier, TierFile};
use crate::request_counter::RequestCounter;
use crate::settings::Settings;

/// Exit code: nothing to complain about, or no difference.
const FINE: u8 = 0;
/// Exit code: complaints, or differences.
const NOT_FINE: u8 = 1;
/// Exit code: the command could not do its work.
const FAILED: u8 = 2;

/// Command that shows what the operator would do.
#[derive(Clone, Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Print every object that the operator would apply for the DnsTiers of a file, as YAML
    ///
    /// ClusterIPs that the API server would allocate are placeholders from 198.18.0.0/15. Exit codes: 0 printed, 1 the
    /// file has an invalid DnsTier, 2 error.
    Render {
        /// YAML file; - for standard input
        file: PathBuf,
        #[command(flatten)]
        cluster: PlannedCluster,
    },
    /// Print every complaint about the DnsTiers of a file, with line and field
    ///
    /// Exit codes: 0 no complaint, 1 complaints, 2 error.
    Validate {
        /// YAML file; - for standard input
        file: PathBuf,
        #[command(flatten)]
        cluster: PlannedCluster,
    },
    /// Print what the operator would change in the cluster for the DnsTiers of a file, as a unified diff
    ///
    /// The cluster is the one of the current context of the kubeconfig, or the one that the command runs in. Nothing is
    /// written. Exit codes: 0 no difference, 1 differences, 2 error or an invalid DnsTier.
    Diff {
        /// YAML file; - for standard input
        file: PathBuf,
    },
}

impl Command {
    /// Runs the command, and returns its exit code.
    pub(crate) async fn run(self, settings: &Settings) -> ExitCode {
        let result = match &self {
            Self::Render { file, cluster } => read(file).and_then(|text| render(&text, file, cluster, settings)),
            Self::Validate { file, cluster } => read(file).map(|text| validate(&text, file, cluster, settings)),
            Self::Diff { file } => match (read(file), connect().await) {
                (Ok(text), Ok(client)) => diff(&text, file, &client, settings).await,
                (Err(error), _) | (_, Err(error)) => Err(error),
            },
        };
        let report = result.unwrap_or_else(|error| Report::failed(&error));
        report.print().unwrap_or_else(|_| ExitCode::from(FAILED))
    }
}

/// Output of a command.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Report {
    /// Text for standard output.
    pub(super) output: String,
    /// Text for standard error.
    pub(super) notes: String,
    /// Exit code.
    pub(super) code: u8,
}

impl Report {
    fn failed(error: &anyhow::Error) -> Self {
        Self { notes: format!("error: {error:#}\n"), code: FAILED, ..Self::default() }
    }

    fn print(&self) -> io::Result<ExitCode> {
        io::stderr().lock().write_all(self.notes.as_bytes())?;
        let mut output = io::stdout().lock();
        output.write_all(self.output.as_bytes())?;
        output.flush()?;
        Ok(ExitCode::from(self.code))
    }
}

fn read(file: &Path) -> anyhow::Result<String> {
    let mut text = String::new();
    let result = if file == Path::new("-") {
        io::stdin().lock().read_to_string(&mut text).map(drop)
    } else {
        std::fs::read_to_string(file).map(|content| text = content)
    };
    result.with_context(|| format!("cannot read {}", name_of(file)))?;
    Ok(text)
}

async fn connect() -> anyhow::Result<Client> {
    let config = kube::Config::infer().await.map_err(|error| anyhow::anyhow!("there is no cluster: {error}"))?;
    Ok(client::build(config, Limits::OPERATOR, &RequestCounter::default())?)
}

/// Prints the objects of all tiers of a file, or the complaints about it.
pub(super) fn render(text: &str, file: &Path, cluster: &PlannedCluster, settings: &Settings) -> anyhow::Result<Report> {
    let (settled, complaints) = settle_all(text, cluster, settings);
    if let Some(report) = refusal(file, &complaints, settled.is_empty()) {
        let code = report.code;
        return Ok(Report { output: String::new(), notes: report.output + &report.notes, code });
    }
    let mut output = String::new();
    for (tier, settled) in settled {
        let bodies = bodies(&settled.objects)?;
        output += &format!(
            "# DnsTier {}: {} objects. Addresses in 198.18.0.0/15 and the owner's UID are placeholders.\n",
            tier.tier.name_any(),
            bodies.len()
        );
        for body in bodies {
            output += "---\n";
            output += &to_yaml(&body)?;
        }
    }
    Ok(Report { output, notes: list(file, &complaints), code: FINE })
}

/// Prints all complaints about a file.
pub(super) fn validate(text: &str, file: &Path, cluster: &PlannedCluster, settings: &Settings) -> Report {
    let (settled, complaints) = settle_all(text, cluster, settings);
    refusal(file, &complaints, settled.is_empty()).unwrap_or_else(|| Report {
        output: list(file, &complaints),
        code: FINE,
        ..Report::default()
    })
}

/// Prints what the tiers of a file would change in a cluster.
pub(super) async fn diff(text: &str, file: &Path, client: &Client, settings: &Settings) -> anyhow::Result<Report> {
    let content = TierFile::read(text);
    if let Some(report) = refusal(file, &content.complaints, content.tiers.is_empty()) {
        return Ok(Report { output: String::new(), notes: report.output + &report.notes, code: FAILED });
    }
    let cluster = LiveCluster::read(client, settings).await?;
    let (mut output, mut notes, mut code) = (String::new(), String::new(), FINE);
    for FileTier { tier, lines } in &content.tiers {
        let name = tier.name_any();
        if let Some(release) = cluster.other_release(&name) {
            anyhow::bail!("DnsTier {name} belongs to the release in namespace {release}; name it with --namespace");
        }
        let observed = cluster.observe(tier, &content.others(&name)).await?;
        let settled = match settle(&observed, settings) {
            Ok(settled) => settled,
            Err(findings) => {
                let complaints: Vec<_> = findings.iter().map(|finding| Complaint::of_finding(finding, lines)).collect();
                return Ok(Report { output: String::new(), notes: list(file, &complaints), code: FAILED });
            }
        };
        let warnings = settled.warnings.iter().map(|finding| Complaint::of_finding(finding, lines).into_warning());
        notes += &list(file, &warnings.collect::<Vec<_>>());
        let (mut created, mut changed, mut deleted) = (0, 0, 0);
        for write in plan_writes(&settled.objects, &observed.owned)? {
            let difference = difference(client, &write).await?;
            if !difference.is_empty() {
                match (&write.existing, &write.body) {
                    (None, _) => created += 1,
                    (_, None) => deleted += 1,
                    _ => changed += 1,
                }
                output += &difference;
                code = NOT_FINE;
            }
        }
        notes += &format!("DnsTier {name}: {created} created, {changed} changed, {deleted} deleted\n");
    }
    Ok(Report { output, notes, code })
}

/// Returns the desired state of each tier of a file in a planned cluster, and the complaints about the file.
fn settle_all(text: &str, cluster: &PlannedCluster, settings: &Settings) -> (Vec<(FileTier, Settled)>, Vec<Complaint>) {
    let content = TierFile::read(text);
    let mut complaints = content.complaints.clone();
    let mut all = Vec::new();
    for file_tier in &content.tiers {
        let FileTier { tier, lines } = file_tier;
        let observed = cluster.observe(tier, &content.others(&tier.name_any()), settings);
        match settle(&observed, settings) {
            Ok(settled) => {
                // Nodes that nobody named are no reason to warn of.
                let warnings =
                    settled.warnings.iter().filter(|warning| cluster.zones.is_some() && is_about_spec(warning));
                complaints.extend(warnings.map(|finding| Complaint::of_finding(finding, lines).into_warning()));
                all.push((file_tier.clone(), settled));
            }
            Err(findings) => complaints.extend(findings.iter().map(|finding| Complaint::of_finding(finding, lines))),
        }
    }
    complaints.sort_by_key(|complaint| complaint.line);
    (all, complaints)
}

/// Returns whether a warning is about a field and not about the nodes.
fn is_about_spec(warning: &Finding) -> bool {
    warning.message.starts_with("spec.")
}

/// Returns the report about a file that is not as it should be; `None` for one that has tiers and no error.
fn refusal(file: &Path, complaints: &[Complaint], has_no_tier: bool) -> Option<Report> {
    if complaints.iter().any(|complaint| !complaint.is_warning) {
        return Some(Report { output: list(file, complaints), code: NOT_FINE, ..Report::default() });
    }
    has_no_tier.then(|| Report::failed(&anyhow::anyhow!("{} has no DnsTier", name_of(file))))
}

/// Returns complaints as compilers write them: `file:line: field: message`.
fn list(file: &Path, complaints: &[Complaint]) -> String {
    complaints.iter().map(|complaint| format!("{}:{complaint}\n", name_of(file))).collect()
}

fn name_of(file: &Path) -> String {
    if file == Path::new("-") { "stdin".to_owned() } else { file.display().to_string() }
}

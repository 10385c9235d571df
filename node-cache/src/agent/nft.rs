//! Synchronization of the packet rules with the kernel, through the program `nft`.
//!
//! A task of its own, because `nft` may take long where other tables are huge, and nothing may delay the renewal of the
//! addresses. The task applies the desired rules, checks every few seconds that the table is unchanged, and restores it
//! when another program flushed or changed it.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::pod_packets::{PacketWatch, PodPackets};
use super::rules::{Rules, pod_packets, removal_script, table};

/// Time that one run of `nft` may take.
const NFT_TIMEOUT: Duration = Duration::from_secs(3);
/// Interval at which the table is compared with what was applied.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);
/// Pause after a failure.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Reason why the rules are not installed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NftError {
    /// `nft` cannot be run.
    #[error("{program} cannot be run: {source}")]
    Start {
        /// Path of the program.
        program: String,
        /// Reason.
        source: std::io::Error,
    },
    /// `nft` took too long and was killed.
    #[error("nft did not finish within {NFT_TIMEOUT:?}")]
    Timeout,
    /// `nft` refused the script.
    #[error("nft refused the packet rules: {0}")]
    Refused(String),
    /// The table is not as it was applied.
    #[error("somebody else changed the packet rules of this tier; they are put back")]
    Changed,
}

/// The program `nft`.
#[derive(Clone, Debug)]
pub(crate) struct Nft {
    program: PathBuf,
}

impl Nft {
    /// Returns the program at this path, or the one of this name in `PATH` where there is none at the path.
    #[must_use]
    pub(crate) fn at(path: &Path) -> Self {
        let program = if path.exists() { path.to_owned() } else { path.file_name().unwrap_or_default().into() };
        Self { program }
    }

    /// Applies a script as one transaction.
    ///
    /// # Errors
    ///
    /// `nft` cannot be run or refuses; then nothing was changed.
    pub(crate) async fn apply(&self, script: &str) -> Result<(), NftError> {
        let output = self.run(&["-f", "-"], script).await?;
        if output.status.success() { Ok(()) } else { Err(NftError::Refused(first_line(&output.stderr))) }
    }

    /// Returns the listing of a tier's table; `None` if there is no table.
    ///
    /// # Errors
    ///
    /// `nft` cannot be run.
    pub(crate) async fn list(&self, tier: &str) -> Result<Option<String>, NftError> {
        let output = self.run(&["--stateless", "list", "table", "inet", &table(tier)], "").await?;
        Ok(output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned()))
    }

    /// Returns the packets of pods that a tier's table has counted, IPv4 and IPv6; `None` without a whole table.
    async fn pod_packets(&self, tier: &str) -> Option<[PodPackets; 2]> {
        let output = self.run(&["list", "table", "inet", &table(tier)], "").await.ok()?;
        pod_packets(&String::from_utf8_lossy(&output.stdout))
    }

    async fn run(&self, arguments: &[&str], input: &str) -> Result<Output, NftError> {
        let start = |source| NftError::Start { program: self.program.display().to_string(), source };
        let mut child = Command::new(&self.program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(start)?;
        let stdin = child.stdin.take();
        let finish = async {
            if let Some(mut stdin) = stdin {
                // A program that exits without reading its input prints the reason.
                let _ = stdin.write_all(input.as_bytes()).await;
            }
            child.wait_with_output().await
        };
        timeout(NFT_TIMEOUT, finish).await.map_err(|_| NftError::Timeout)?.map_err(start)
    }
}

fn first_line(text: &[u8]) -> String {
    String::from_utf8_lossy(text).lines().next().unwrap_or("it did not say why").to_owned()
}

/// Rules that the kernel has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct InstalledRules {
    /// The rules; `None` while the table is not known to be as desired.
    pub(crate) rules: Option<Rules>,
    /// Reason why not.
    pub(crate) problem: Option<String>,
    /// Number of times that the table had to be restored since the start.
    pub(crate) restored: u64,
    /// Whether packet filters of the node drop what pods send to captured addresses, IPv4 and IPv6.
    pub(crate) blocked: [bool; 2],
}

/// Handle of the task that synchronizes the rules. Dropping it ends the task; the rules stay.
#[derive(Debug)]
pub(crate) struct RuleSync {
    nft: Nft,
    desired: watch::Sender<Option<Rules>>,
    installed: watch::Receiver<InstalledRules>,
    check: Arc<Notify>,
    task: JoinHandle<()>,
}

impl RuleSync {
    /// Starts the task, which does nothing before the first [`RuleSync::set_desired`].
    #[must_use]
    pub(crate) fn start(nft: Nft) -> Self {
        let (desired, changes) = watch::channel(None);
        let (publisher, installed) = watch::channel(InstalledRules::default());
        let check = Arc::new(Notify::new());
        let task = RuleSyncTask {
            nft: nft.clone(),
            installed: publisher,
            check: Arc::clone(&check),
            listing: String::new(),
            packets: [PacketWatch::default(); 2],
            next_count: Instant::now(),
        };
        Self { nft, desired, installed, check, task: tokio::spawn(task.run(changes)) }
    }

    /// Sets the desired rules.
    pub(crate) fn set_desired(&self, rules: &Rules) {
        self.desired.send_if_modified(|desired| {
            let changed = desired.as_ref() != Some(rules);
            *desired = Some(rules.clone());
            changed
        });
    }

    /// Returns the rules that the kernel has, and their changes.
    #[must_use]
    pub(crate) fn installed(&self) -> watch::Receiver<InstalledRules> {
        self.installed.clone()
    }

    /// Requests a check of the table now, because a self-query failed.
    pub(crate) fn check_now(&self) {
        self.check.notify_one();
    }

    /// Ends the task and removes the table.
    ///
    /// # Errors
    ///
    /// `nft` cannot be run or refuses.
    pub(crate) async fn finish(self) -> Result<(), NftError> {
        self.task.abort();
        let tier = self.desired.borrow().as_ref().map(|rules| rules.tier.clone());
        match tier {
            Some(tier) => self.nft.apply(&removal_script(&tier)).await,
            None => Ok(()),
        }
    }
}

impl Drop for RuleSync {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct RuleSyncTask {
    nft: Nft,
    installed: watch::Sender<InstalledRules>,
    check: Arc<Notify>,
    /// Listing of the table as it was applied; empty before the first time.
    listing: String,
    /// Packets of pods, IPv4 and IPv6.
    packets: [PacketWatch; 2],
    next_count: Instant,
}

impl RuleSyncTask {
    async fn run(mut self, mut changes: watch::Receiver<Option<Rules>>) {
        loop {
            let desired = changes.borrow_and_update().clone();
            let pause = match desired {
                Some(rules) => self.sync(&rules).await,
                None => CHECK_INTERVAL,
            };
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                () = self.check.notified() => {}
                () = sleep(pause) => {}
            }
        }
    }

    /// Applies the rules, or checks that they are unchanged. Returns when to check again.
    async fn sync(&mut self, rules: &Rules) -> Duration {
        let current = self.installed.borrow().rules.clone();
        let result = match current {
            Some(current) if current == *rules => {
                self.count_packets(&rules.tier).await;
                self.check_unchanged(rules).await
            }
            // A table that was changed is replaced in the next pass.
            Some(current) => self.apply(rules, &rules.update_script(&current)).await,
            None if self.listing.is_empty() && self.adopt(rules).await => return Duration::ZERO,
            None => self.apply(rules, &rules.script()).await,
        };
        let Err(error) = result else { return CHECK_INTERVAL };
        tracing::warn!(%error, "the packet rules are not as desired");
        let is_check_failure = matches!(error, NftError::Start { .. } | NftError::Timeout) && self.is_installed(rules);
        if !is_check_failure {
            self.installed.send_modify(|installed| {
                let was_installed = installed.rules.take().is_some();
                // An element of a table that is gone is refused.
                let changed =
                    matches!(error, NftError::Changed) || (was_installed && matches!(error, NftError::Refused(_)));
                installed.restored += u64::from(changed);
                installed.problem = Some(error.to_string());
            });
        }
        match error {
            NftError::Changed => Duration::ZERO,
            _ => RETRY_INTERVAL,
        }
    }

    fn is_installed(&self, rules: &Rules) -> bool {
        self.installed.borrow().rules.as_ref() == Some(rules)
    }

    /// Adopts a whole table that an earlier agent left, if there is one: a table is not replaced while queries pass
    /// through it. Returns whether there was one.
    async fn adopt(&mut self, rules: &Rules) -> bool {
        let Ok(Some(listing)) = self.nft.list(&rules.tier).await else { return false };
        let adopted = Rules::from_listing(&rules.tier, &listing);
        let is_whole = adopted.are_listed_in(&listing);
        if is_whole {
            self.listing = listing;
            self.installed.send_modify(|installed| installed.rules = Some(adopted));
        }
        is_whole
    }

    /// Reads the packets of pods and notes where none passes the packet filters of the node.
    async fn count_packets(&mut self, tier: &str) {
        if Instant::now() < self.next_count {
            return;
        }
        self.next_count = Instant::now() + CHECK_INTERVAL;
        let Some(packets) = self.nft.pod_packets(tier).await else { return };
        for (watch, packets) in self.packets.iter_mut().zip(packets) {
            watch.record(packets);
        }
        let blocked = self.packets.map(|watch| watch.is_blocked());
        self.installed.send_if_modified(|installed| std::mem::replace(&mut installed.blocked, blocked) != blocked);
    }

    async fn check_unchanged(&self, rules: &Rules) -> Result<(), NftError> {
        let listing = self.nft.list(&rules.tier).await?;
        if listing.as_ref() == Some(&self.listing) { Ok(()) } else { Err(NftError::Changed) }
    }

    async fn apply(&mut self, rules: &Rules, script: &str) -> Result<(), NftError> {
        self.nft.apply(script).await?;
        let listing = self.nft.list(&rules.tier).await?.filter(|listing| rules.are_listed_in(listing));
        self.listing = listing.ok_or(NftError::Changed)?;
        self.installed.send_modify(|installed| {
            installed.rules = Some(rules.clone());
            installed.problem = None;
        });
        Ok(())
    }
}

//! Keeps the packet rules in force through the program `nft`.
//!
//! A task of its own, because the program may take long where other tables are huge, and nothing may hold up the
//! renewal of the addresses. It applies what is wanted, looks now and then whether the table is still what it made of
//! it, and puts it back when somebody flushed or changed it.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::rules::{Rules, removal, table};

/// How long one run of the program may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// How often the table is compared with what it was.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// After a failure.
const RETRY: Duration = Duration::from_secs(1);

/// Why the rules are not in force.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    /// The program cannot be run.
    #[error("{program} cannot be run: {source}")]
    Start {
        /// Its path.
        program: String,
        /// Why.
        source: std::io::Error,
    },
    /// The program took too long and was ended.
    #[error("nft did not finish within {PATIENCE:?}")]
    Slow,
    /// The program refused.
    #[error("nft refused the packet rules: {0}")]
    Refused(String),
    /// The table is not what was just made of it.
    #[error("somebody else changed the packet rules of this tier; they are put back")]
    Changed,
}

/// The program.
#[derive(Clone, Debug)]
pub struct Nft {
    program: PathBuf,
}

impl Nft {
    /// The program at this path, or the one of this name in `PATH` where there is none at the path.
    #[must_use]
    pub fn at(path: &Path) -> Self {
        let program = if path.exists() { path.to_owned() } else { path.file_name().unwrap_or_default().into() };
        Self { program }
    }

    /// Runs a script as one transaction.
    ///
    /// # Errors
    ///
    /// The program cannot be run or refuses; then nothing was changed.
    pub async fn apply(&self, script: &str) -> Result<(), NftError> {
        let output = self.run(&["-f", "-"], script).await?;
        if output.status.success() { Ok(()) } else { Err(NftError::Refused(first_line(&output.stderr))) }
    }

    /// What there is of a tier's table; none if it is not there.
    ///
    /// # Errors
    ///
    /// The program cannot be run.
    pub async fn list(&self, tier: &str) -> Result<Option<String>, NftError> {
        let output = self.run(&["--stateless", "list", "table", "inet", &table(tier)], "").await?;
        Ok(output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned()))
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
                // A program that ends without reading says why in its output.
                let _ = stdin.write_all(input.as_bytes()).await;
            }
            child.wait_with_output().await
        };
        timeout(PATIENCE, finish).await.map_err(|_| NftError::Slow)?.map_err(start)
    }
}

fn first_line(text: &[u8]) -> String {
    String::from_utf8_lossy(text).lines().next().unwrap_or("it did not say why").to_owned()
}

/// What the kernel has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InstalledRules {
    /// The rules; none while they are not known to be what is wanted of them.
    pub rules: Option<Rules>,
    /// Why not.
    pub problem: Option<String>,
    /// How often the table had to be put back since the start.
    pub reasserted: u64,
}

/// The task that keeps the rules in force. It ends when this is dropped; the rules stay.
#[derive(Debug)]
pub struct RuleSync {
    nft: Nft,
    wanted: watch::Sender<Option<Rules>>,
    in_force: watch::Receiver<InstalledRules>,
    look: Arc<Notify>,
    task: JoinHandle<()>,
}

impl RuleSync {
    /// Starts the task; it does nothing before the first [`RuleSync::want`].
    #[must_use]
    pub fn start(nft: Nft) -> Self {
        let (wanted, wanting) = watch::channel(None);
        let (telling, in_force) = watch::channel(InstalledRules::default());
        let look = Arc::new(Notify::new());
        let keeping = RuleSyncTask { nft: nft.clone(), telling, look: Arc::clone(&look), made: String::new() };
        Self { nft, wanted, in_force, look, task: tokio::spawn(keeping.keep(wanting)) }
    }

    /// Says which rules are wanted from now on.
    pub fn want(&self, rules: &Rules) {
        self.wanted.send_if_modified(|wanted| {
            let changed = wanted.as_ref() != Some(rules);
            *wanted = Some(rules.clone());
            changed
        });
    }

    /// What the kernel has.
    #[must_use]
    pub fn in_force(&self) -> watch::Receiver<InstalledRules> {
        self.in_force.clone()
    }

    /// Asks for a look at the table now, because something does not work as it should.
    pub fn look_now(&self) {
        self.look.notify_one();
    }

    /// Ends the task and removes the table.
    ///
    /// # Errors
    ///
    /// The program cannot be run or refuses.
    pub async fn finish(self) -> Result<(), NftError> {
        self.task.abort();
        let tier = self.wanted.borrow().as_ref().map(|rules| rules.tier.clone());
        match tier {
            Some(tier) => self.nft.apply(&removal(&tier)).await,
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
    telling: watch::Sender<InstalledRules>,
    look: Arc<Notify>,
    /// What `nft` prints of the table as it was made.
    made: String,
}

impl RuleSyncTask {
    async fn keep(mut self, mut wanting: watch::Receiver<Option<Rules>>) {
        loop {
            let wanted = wanting.borrow_and_update().clone();
            let pause = match wanted {
                Some(rules) => self.care_for(&rules).await,
                None => LOOK_EVERY,
            };
            tokio::select! {
                changed = wanting.changed() => if changed.is_err() { return },
                () = self.look.notified() => {}
                () = sleep(pause) => {}
            }
        }
    }

    /// Makes the table what it should be or sees that it is. Says when to look again.
    async fn care_for(&mut self, rules: &Rules) -> Duration {
        let known = self.telling.borrow().rules.clone();
        let done = match known {
            Some(known) if known == *rules => self.look(rules).await,
            // A table that is not what it was is made anew in the next turn.
            Some(known) => self.make(rules, &rules.change_from(&known)).await,
            None if self.made.is_empty() && self.go_on(rules).await => return Duration::ZERO,
            None => self.make(rules, &rules.script()).await,
        };
        let Err(error) = done else { return LOOK_EVERY };
        tracing::warn!("{error}");
        let looked_in_vain = matches!(error, NftError::Start { .. } | NftError::Slow) && self.is_known(rules);
        if !looked_in_vain {
            self.telling.send_modify(|told| {
                let known = told.rules.take().is_some();
                // An element of a table that is gone is refused.
                let changed = matches!(error, NftError::Changed) || (known && matches!(error, NftError::Refused(_)));
                told.reasserted += u64::from(changed);
                told.problem = Some(error.to_string());
            });
        }
        match error {
            NftError::Changed => Duration::ZERO,
            _ => RETRY,
        }
    }

    fn is_known(&self, rules: &Rules) -> bool {
        self.telling.borrow().rules.as_ref() == Some(rules)
    }

    /// Goes on with a whole table that an earlier agent left, if there is one: it is not replaced while questions go
    /// through it.
    async fn go_on(&mut self, rules: &Rules) -> bool {
        let Ok(Some(listing)) = self.nft.list(&rules.tier).await else { return false };
        let left = Rules::from_listing(&rules.tier, &listing);
        let whole = left.are_listed_in(&listing);
        if whole {
            self.made = listing;
            self.telling.send_modify(|told| told.rules = Some(left));
        }
        whole
    }

    async fn look(&self, rules: &Rules) -> Result<(), NftError> {
        let listing = self.nft.list(&rules.tier).await?;
        if listing.as_ref() == Some(&self.made) { Ok(()) } else { Err(NftError::Changed) }
    }

    async fn make(&mut self, rules: &Rules, script: &str) -> Result<(), NftError> {
        self.nft.apply(script).await?;
        let made = self.nft.list(&rules.tier).await?.filter(|listing| rules.are_listed_in(listing));
        self.made = made.ok_or(NftError::Changed)?;
        self.telling.send_modify(|told| {
            told.rules = Some(rules.clone());
            told.problem = None;
        });
        Ok(())
    }
}

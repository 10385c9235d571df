//! Commands that run to their end, and daemons: started into the lab's control group and namespaces, recorded by ID and
//! start time, by which they are found again and ended.

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
pub use rustix::process::Signal;
use rustix::process::{Pid, kill_process};
use serde::{Deserialize, Serialize};

use super::cgroups::Hierarchies;
use super::layout::{Layout, MARK};

/// Folders of Debian's programs; a user's PATH may lack some.
const SYSTEM_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Long-running process of a lab, with everything that is needed to start it again.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Daemon {
    /// Name in the lab, such as `kubelet-node-a`.
    pub name: String,
    /// Member of the lab whose network namespace it runs in.
    pub network: String,
    /// Node whose mount namespace it runs in, if any.
    pub mounts: Option<String>,
    /// Folder that comes first in its PATH.
    pub path: Option<PathBuf>,
    /// Program and arguments.
    pub command: Vec<String>,
}

/// Identity of a process: its ID and start time, which the kernel never gives twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Process ID.
    pub pid: u32,
    /// Clock ticks from the machine's boot to the start of the process.
    pub started: u64,
}

/// Record of a daemon in the lab's folder.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    /// How the process was started.
    pub daemon: Daemon,
    /// Identity of the process.
    pub identity: Identity,
}

impl Identity {
    /// Returns the identity of the process with this ID; `None` when there is none or it is a zombie.
    #[must_use]
    pub fn of(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let after_name = stat.rsplit_once(')')?.1;
        let mut fields = after_name.split_ascii_whitespace();
        let state = fields.next()?;
        let started = fields.nth(18)?.parse().ok()?;
        (!matches!(state, "Z" | "X")).then_some(Self { pid, started })
    }

    /// Returns whether this process still runs.
    #[must_use]
    pub fn is_alive(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    /// Sends a signal, if this process still runs.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn signal(self, signal: Signal) -> Result<()> {
        if !self.is_alive() {
            return Ok(());
        }
        send(self.pid, signal)
    }

    /// Waits until the process has ended; `false` when it still runs after `timeout`.
    #[must_use]
    pub fn wait(self, timeout: Duration) -> bool {
        wait_until(timeout, || (!self.is_alive()).then_some(())).is_some()
    }
}

/// Sends a signal to a process; one that has ended already is fine.
///
/// # Errors
/// When the kernel refuses.
pub(super) fn send(pid: u32, signal: Signal) -> Result<()> {
    let raw = i32::try_from(pid).ok().and_then(Pid::from_raw).with_context(|| format!("{pid} is no process id"))?;
    match kill_process(raw, signal) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("cannot signal process {pid}")),
    }
}

impl Daemon {
    /// Starts the process and records it. Its output is appended to its log.
    ///
    /// # Errors
    /// When it cannot be started. A process that ends at once is noticed by the code that waits for it.
    pub fn start(&self, layout: &Layout) -> Result<Identity> {
        let log = layout.log(&self.name);
        let output =
            fs::File::options().create(true).append(true).open(&log).with_context(|| log.display().to_string())?;
        let mut command = command(layout, "sh");
        // Into the control group before anything else, so that the process can be found even without a record.
        command.args(["-c", "echo $$ > \"$0\" && exec \"$@\""]);
        command.arg(Hierarchies::of_machine()?.processes_file(layout));
        command.arg("setsid").arg("nsenter").arg(flag("--net=", layout.network(&self.network)));
        if let Some(node) = &self.mounts {
            command.arg(flag("--mount=", layout.mounts(node)));
        }
        if let Some(path) = &self.path {
            command.env("PATH", format!("{}:{SYSTEM_PATH}", path.display()));
        }
        command.args(&self.command).current_dir("/");
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let child = command.spawn().with_context(|| format!("cannot start {}", self.name))?;
        let identity = Identity::of(child.id())
            .with_context(|| format!("{} ended at once; its log is {}", self.name, log.display()))?;
        let record = Record { daemon: self.clone(), identity };
        write_atomically(&layout.record(&self.name), &serde_json::to_vec_pretty(&record)?)?;
        Ok(identity)
    }
}

impl Record {
    /// Reads the record of the process `name`.
    ///
    /// # Errors
    /// When there is none.
    pub fn read(layout: &Layout, name: &str) -> Result<Self> {
        let path = layout.record(name);
        let text = fs::read(&path).with_context(|| format!("lab `{}` has no process `{name}`", layout.name()))?;
        serde_json::from_slice(&text).with_context(|| format!("{} is damaged", path.display()))
    }

    /// Reads all records of the lab, by name; none when the lab does not exist.
    ///
    /// # Errors
    /// When a record cannot be read.
    pub fn all(layout: &Layout) -> Result<Vec<Self>> {
        let Ok(entries) = fs::read_dir(layout.file("processes")) else { return Ok(Vec::new()) };
        let mut names: Vec<String> = entries
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.strip_suffix(".json").map(str::to_owned))
            .collect();
        names.sort();
        names.iter().map(|name| Self::read(layout, name)).collect()
    }

    /// Sends SIGTERM to the process, and SIGKILL after `timeout`.
    ///
    /// # Errors
    /// When the process survives SIGKILL.
    pub fn stop(&self, timeout: Duration) -> Result<()> {
        self.identity.signal(Signal::TERM)?;
        if !self.identity.wait(timeout) {
            self.identity.signal(Signal::KILL)?;
            ensure!(self.identity.wait(Duration::from_secs(5)), "{} does not end", self.daemon.name);
        }
        Ok(())
    }
}

/// Builds a command that carries the lab's mark and finds the system's programs.
#[must_use]
pub(super) fn command(layout: &Layout, program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.env(MARK, layout.state()).env("PATH", SYSTEM_PATH);
    command
}

/// Builds a command of a build tool with the user's environment; for a lab, it and its temporary files are removed with
/// the lab.
///
/// # Errors
/// When the folder for its temporary files cannot be made.
pub(crate) fn build_tool(program: &str, lab: Option<&Layout>) -> Result<Command> {
    let mut tool = Command::new(program);
    if let Some(lab) = lab {
        let temporary = lab.file("tmp");
        fs::create_dir_all(&temporary).with_context(|| format!("cannot make {}", temporary.display()))?;
        tool.env(MARK, lab.state()).env("TMPDIR", temporary);
    }
    Ok(tool)
}

/// Builds a command inside the network namespace of a member of the lab.
#[must_use]
pub(super) fn inside(layout: &Layout, member: &str, arguments: &[impl AsRef<OsStr>]) -> Command {
    let mut command = command(layout, "nsenter");
    command.arg(flag("--net=", layout.network(member))).args(arguments);
    command
}

/// Runs a command to its end and returns its standard output.
///
/// # Errors
/// When it cannot be started or ends with another code than 0; the error carries its standard error.
pub(super) fn run(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {}", display(command)))?;
    check_output(command, &output)
}

/// Runs a command with `input` as its standard input and returns its standard output.
///
/// # Errors
/// As [`run`].
pub(super) fn run_with_input(command: &mut Command, input: &str) -> Result<String> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("cannot run {}", display(command)))?;
    let mut stdin = child.stdin.take().context("no standard input")?;
    // A program that ends before it has read everything reports why by itself.
    let written = stdin.write_all(input.as_bytes());
    drop(stdin);
    let output = child.wait_with_output()?;
    let text = check_output(command, &output)?;
    written.map(|()| text).with_context(|| format!("{} did not read its input", display(command)))
}

fn check_output(command: &Command, output: &std::process::Output) -> Result<String> {
    if !output.status.success() {
        let message = String::from_utf8_lossy(&output.stderr);
        let message = if message.trim().is_empty() { String::from_utf8_lossy(&output.stdout) } else { message };
        bail!("{} failed ({}): {}", display(command), output.status, message.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Returns the command for messages, without the way into a namespace.
fn display(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args()).map(OsStr::to_string_lossy);
    let mut words: Vec<String> = words.map(std::borrow::Cow::into_owned).collect();
    if words.first().is_some_and(|word| word == "nsenter") {
        words.retain(|word| word != "nsenter" && !word.starts_with("--net=") && !word.starts_with("--mount="));
    }
    let text = words.join(" ");
    if text.len() > 300 { format!("{}…", text.chars().take(300).collect::<String>()) } else { text }
}

/// Joins an option and its value, a path.
fn flag(option: &str, path: PathBuf) -> std::ffi::OsString {
    let mut flag = std::ffi::OsString::from(option);
    flag.push(path);
    flag
}

/// Polls until there is a value or `timeout` has passed.
pub(super) fn wait_until<T>(timeout: Duration, mut poll: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + timeout;
    let mut interval = Duration::from_millis(10);
    loop {
        if let Some(value) = poll() {
            return Some(value);
        }
        if Instant::now() >= deadline {
            return None;
        }
        sleep(interval);
        interval = (interval * 2).min(Duration::from_millis(250));
    }
}

/// Writes a file completely or not at all.
///
/// # Errors
/// When it cannot be written.
pub(super) fn write_atomically(path: &std::path::Path, content: &[u8]) -> Result<()> {
    let partial = path.with_extension("partial");
    fs::write(&partial, content)
        .and_then(|()| fs::rename(&partial, path))
        .with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_its_start_and_not_only_by_its_id() {
        let me = Identity::of(std::process::id()).unwrap();
        assert!(me.is_alive());
        assert!(!Identity { started: me.started + 1, ..me }.is_alive());
    }

    #[test]
    fn a_failure_carries_what_the_program_said() {
        let error = run(Command::new("sh").args(["-c", "echo the reason >&2; exit 3"])).unwrap_err();
        assert!(error.to_string().contains("the reason"), "{error}");
    }

    #[test]
    fn a_process_that_only_waits_to_be_reaped_is_not_alive() {
        let mut child = Command::new("true").spawn().unwrap();
        assert!(wait_until(Duration::from_secs(5), || Identity::of(child.id()).is_none().then_some(())).is_some());
        child.wait().unwrap();
    }
}

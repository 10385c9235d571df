//! Operator as the chart starts it: its process, and what it and the kernel tell about it.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::seconds::now;

/// Ticks of the kernel's clock of processes in a second.
const TICKS: f64 = 100.0;
const LIMIT: Duration = Duration::from_secs(120);

/// Process of the operator. It is killed on drop.
#[derive(Debug)]
pub(crate) struct Operator {
    child: Child,
    port: u16,
    /// Time of its start, in seconds of the Unix epoch.
    pub(crate) started: f64,
}

impl Operator {
    /// Starts an operator with this kubeconfig, and with a log in this folder.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(crate) fn start(kubeconfig: &Path, folder: &Path) -> Result<Self> {
        let log = std::fs::File::options().create(true).append(true).open(folder.join("operator.log"))?;
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", env!("CARGO_BIN_EXE_dnstier-operator")]);
        command.args(["--node-cache-image=registry.example/node-cache:1", &format!("--metrics-port={port}")]);
        command.env_clear().env("KUBECONFIG", kubeconfig).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command.env("DNSTIER_LOG", std::env::var("DNSTIER_LOG").unwrap_or_else(|_| "info".to_owned()));
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let started = now();
        let child = command.spawn().context("cannot start the operator")?;
        Ok(Self { child, port, started })
    }

    /// Ends the operator as a kubelet does, so that it frees its Lease, and waits for its end.
    ///
    /// # Errors
    /// When it does not end.
    pub(crate) async fn stop(mut self) -> Result<()> {
        self.terminate()?;
        for _ in 0..LIMIT.as_millis() / 50 {
            if self.child.try_wait()?.is_some() {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        anyhow::bail!("the operator does not end")
    }

    /// Asks the operator to end, as a kubelet does.
    ///
    /// # Errors
    /// When the signal cannot be sent.
    pub(crate) fn terminate(&self) -> Result<()> {
        let pid = self.child.id().to_string();
        anyhow::ensure!(Command::new("kill").args(["-TERM", &pid]).status()?.success(), "cannot end the operator");
        Ok(())
    }

    /// Waits until it is the leader, or stands by, and returns the time at which it was seen.
    ///
    /// # Errors
    /// When it does not come to that.
    pub(crate) async fn wait_for_role(&self, is_leader: bool) -> Result<f64> {
        let limit = now() + LIMIT.as_secs_f64();
        while now() < limit {
            if let Ok(metrics) = self.metrics().await
                && metrics.get("dnstier_operator_leader").is_some_and(|value| (*value == 1.0) == is_leader)
            {
                return Ok(now());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        anyhow::bail!("the operator {} lead", if is_leader { "does not" } else { "does not cease to" })
    }

    /// Waits until its first reconciliation has ended, and returns the time since its start.
    ///
    /// # Errors
    /// When there is none.
    pub(crate) async fn first_pass(&self) -> Result<f64> {
        let limit = now() + LIMIT.as_secs_f64();
        while now() < limit {
            if let Ok(metrics) = self.metrics().await
                && metrics.get("dnstier_operator_reconciles_total").is_some_and(|count| *count >= 1.0)
            {
                return Ok(now() - self.started);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        anyhow::bail!("the operator reconciles nothing")
    }

    /// Returns its metrics by name and labels.
    ///
    /// # Errors
    /// When it does not answer.
    pub(crate) async fn metrics(&self) -> Result<BTreeMap<String, f64>> {
        let mut stream = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))).await?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        let lines = text.lines().filter_map(|line| line.rsplit_once(' '));
        Ok(lines.filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?))).collect())
    }

    /// Returns its present and its largest resident memory, in MiB.
    ///
    /// # Errors
    /// When it does not run.
    pub(crate) fn memory(&self) -> Result<(f64, f64)> {
        let text = self.proc("status")?;
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
            line.trim_matches([':', ' ', '\t']).trim_end_matches(" kB").trim().parse::<f64>().map(|kib| kib / 1024.0)
        };
        Ok((field("VmRSS")?, field("VmHWM")?))
    }

    /// Returns the processor time that it has used, in seconds.
    ///
    /// # Errors
    /// When it does not run.
    pub(crate) fn processor_time(&self) -> Result<f64> {
        let text = self.proc("stat")?;
        let (_, fields) = text.rsplit_once(") ").context("no process")?;
        let ticks = fields.split(' ').skip(11).take(2).map(str::parse::<f64>);
        Ok(ticks.sum::<Result<f64, _>>()? / TICKS)
    }

    fn proc(&self, file: &str) -> Result<String> {
        let path = format!("/proc/{}/{file}", self.child.id());
        std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

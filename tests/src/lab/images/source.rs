//! Source of a build: the revision and the repository of the checkout, from git.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use super::super::process::run;

/// Returns the commit that is checked out, with `-dirty` when files differ from it; `None` where there is no git.
pub(super) fn revision(checkout: &Path) -> Option<String> {
    let commit = git(checkout, &["rev-parse", "HEAD"]).ok()?;
    let changes = git(checkout, &["status", "--porcelain"]).ok()?;
    let dirty = if changes.trim().is_empty() { "" } else { "-dirty" };
    Some(format!("{}{dirty}", commit.trim()))
}

/// Returns the address of the repository that the checkout is a clone of; `None` for one that is not in the web.
pub(super) fn repository(checkout: &Path) -> Option<String> {
    web_address(git(checkout, &["remote", "get-url", "origin"]).ok()?.trim())
}

fn git(checkout: &Path, arguments: &[&str]) -> Result<String> {
    // Nobody but this build decides what git does here, also where another user owns the folder.
    run(Command::new("git").arg("-C").arg(checkout).args(["-c", "safe.directory=*"]).args(arguments))
}

/// Returns the address for a browser of a remote, without user, password and `.git`.
fn web_address(remote: &str) -> Option<String> {
    let rest = match remote.split_once("://") {
        Some(("https" | "http" | "ssh" | "git", rest)) => rest.to_owned(),
        Some(_) => return None,
        // git@host:path
        None => {
            let (host, path) = remote.split_once(':').filter(|(host, _)| host.contains('@'))?;
            format!("{host}/{path}")
        }
    };
    let (host, path) = rest.split_once('/')?;
    let host = host.rsplit('@').next()?;
    // The port of SSH is not that of a browser.
    let host = if remote.starts_with("ssh:") { host.split(':').next()? } else { host };
    let path = path.trim_end_matches('/').trim_end_matches(".git");
    (!host.is_empty() && !path.is_empty()).then(|| format!("https://{host}/{path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_remote_becomes_an_address_for_browsers_without_secrets_and_paths_of_the_machine() {
        for (remote, address) in [
            ("https://host.example/group/dnstier.git", Some("https://host.example/group/dnstier")),
            ("https://user:token@host.example/dnstier", Some("https://host.example/dnstier")),
            ("https://host.example:8443/dnstier/", Some("https://host.example:8443/dnstier")),
            ("git@host.example:group/dnstier.git", Some("https://host.example/group/dnstier")),
            ("ssh://git@host.example:22/dnstier.git", Some("https://host.example/dnstier")),
            ("/srv/dnstier", None),
            ("file:///srv/dnstier", None),
            ("../dnstier", None),
            ("https://host.example", None),
            ("", None),
        ] {
            assert_eq!(web_address(remote).as_deref(), address, "{remote}");
        }
    }

    #[test]
    fn a_revision_is_that_of_the_commit_and_says_when_files_differ_from_it() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(revision(folder.path()), None);
        let git = |arguments: &[&str]| git(folder.path(), arguments).unwrap();
        git(&["init", "--quiet"]);
        let identity = ["-c", "user.name=name", "-c", "user.email=name@host.example"];
        git(&[&identity[..], &["commit", "--quiet", "--allow-empty", "--message=first"]].concat());
        let commit = git(&["rev-parse", "HEAD"]).trim().to_owned();
        assert_eq!(revision(folder.path()), Some(commit.clone()));
        std::fs::write(folder.path().join("new"), "").unwrap();
        assert_eq!(revision(folder.path()), Some(format!("{commit}-dirty")));
    }
}

//! Requirements that tests have of the machine. A test whose requirement is not met is skipped.
//!
//! Included by every test program of the package, and by its unit tests.

#![allow(dead_code, reason = "each test program uses some of the requirements")]

use std::io::Write;
use std::net::UdpSocket;

/// Environment variable that turns a skipped test into a failed one. `make test` sets it.
const REQUIRE_ALL: &str = "DNSTIER_TESTS_REQUIRE_ALL";

/// `Ok` on a machine that meets a requirement, else what is missing: "needs …".
pub(crate) type Requirement = Result<(), String>;

/// Skips the calling test unless the machine meets these requirements. First line of a test.
macro_rules! require {
    ($($requirement:expr),+) => {
        $(if let Err(missing) = $requirement {
            fn here() {}
            $crate::require::skip(std::any::type_name_of_val(&here), &missing);
            return;
        })+
    };
}
pub(crate) use require;

/// Reports a test as skipped, or fails it where `make test` runs it.
///
/// `here` is the type name of a function inside the test. The line goes to standard error directly: the test harness
/// shows nothing that a passing test prints.
pub(crate) fn skip(here: &str, missing: &str) {
    let test = here.trim_end_matches("::here").trim_end_matches("::{{closure}}");
    let test = test.split_once("::").map_or(test, |(_crate, path)| path);
    let line = format!("skipped: {test}: {missing}");
    assert!(std::env::var_os(REQUIRE_ALL).is_none(), "{line} ({REQUIRE_ALL} is set)");
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Requires root, and the programs with which network namespaces are made and entered.
pub(crate) fn network_namespaces() -> Requirement {
    root("to make network namespaces")?;
    ["ip", "nft", "nsenter", "setpriv", "sysctl"].into_iter().try_for_each(program)
}

/// Requires root for a purpose such as "to open raw sockets".
pub(crate) fn root(purpose: &str) -> Requirement {
    if rustix::process::geteuid().is_root() { Ok(()) } else { Err(format!("needs root {purpose}")) }
}

/// Requires the right to bind port 53, which only root has on most machines.
pub(crate) fn port_53() -> Requirement {
    match UdpSocket::bind(("127.53.53.1", 53)) {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => root("to bind port 53"),
        _ => Ok(()),
    }
}

/// Requires a limit of open files. Raises the process's soft limit, often 1,024, as far as the hard limit allows.
pub(crate) fn open_files(count: u64) -> Requirement {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let is_enough = |limit: Option<u64>| limit.is_none_or(|limit| limit >= count);
    let is_raised = || setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).is_ok();
    if is_enough(limit.current) || (is_enough(limit.maximum) && is_raised()) {
        return Ok(());
    }
    Err(format!("needs {count} open files, and the limit is {} (ulimit -n)", limit.maximum.unwrap_or_default()))
}

/// Requires a program in `PATH`.
pub(crate) fn program(name: &str) -> Requirement {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let is_found = std::env::split_paths(&path).any(|folder| folder.join(name).is_file());
    if is_found { Ok(()) } else { Err(format!("needs the program {name}, which is not in PATH")) }
}

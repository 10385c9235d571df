//! Files of Debian's packages in images: `nft` with its libraries, and the licenses of all that is Debian's.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::super::process::run;
use super::files::Files;
use super::licenses::FOLDER;

const NFT: &str = "/usr/sbin/nft";

/// Packages whose code is linked into every static program: the C library and the unwinder.
const LINKED: [&str; 2] = ["libc6", "libgcc-s1"];

/// Licenses of the packages, as SPDX expressions. Their copyright files have no form that a program reads reliably.
const LICENSES: [(&str, &str); 14] = [
    ("libbsd0", "BSD-3-Clause AND BSD-2-Clause AND ISC AND Beerware"),
    ("libc6", "LGPL-2.1-or-later"),
    ("libedit2", "BSD-3-Clause"),
    ("libgcc-s1", "GPL-3.0-or-later WITH GCC-exception-3.1"),
    ("libgmp10", "LGPL-3.0-or-later OR GPL-2.0-or-later"),
    ("libjansson4", "MIT"),
    ("libmd0", "BSD-3-Clause AND BSD-2-Clause AND ISC AND Beerware"),
    ("libmnl0", "LGPL-2.1-or-later"),
    ("libnftables1", "GPL-2.0-only"),
    ("libnftnl11", "GPL-2.0-or-later"),
    ("libreadline8", "GPL-3.0-or-later"),
    ("libtinfo6", "X11-distribute-modifications-variant"),
    ("libxtables12", "GPL-2.0-or-later"),
    ("nftables", "GPL-2.0-only"),
];

/// Adds nft and its libraries at the paths where it looks for them, and returns these paths.
///
/// # Errors
/// When nft is not installed.
pub(super) fn add_nft(files: &mut Files) -> Result<Vec<String>> {
    if !Path::new(NFT).exists() {
        bail!("the image of the node cache has nft in it, and {NFT} is missing: apt-get install nftables");
    }
    let output = run(Command::new("ldd").arg(NFT))?;
    let mut paths: Vec<String> = libraries(&output).into_iter().map(str::to_owned).collect();
    if paths.is_empty() {
        bail!("ldd names no library of {NFT}: {}", output.trim());
    }
    paths.push(NFT.to_owned());
    for path in &paths {
        files.add_program(path, path.as_ref())?;
    }
    Ok(paths)
}

/// Returns the paths in the output of ldd: `libx.so.1 => /lib/libx.so.1 (0x…)` and `/lib64/ld-linux.so.2 (0x…)`.
fn libraries(output: &str) -> Vec<&str> {
    output.split_ascii_whitespace().filter(|word| word.starts_with('/')).collect()
}

/// Adds the licenses of the packages that these files and all static programs are from; returns the SPDX expressions.
///
/// # Errors
/// On a machine without dpkg, and when the license of a package is unknown.
pub(super) fn add_licenses(files: &mut Files, paths: &[String]) -> Result<Vec<String>> {
    let mut packages: BTreeSet<String> = LINKED.iter().map(|name| (*name).to_owned()).collect();
    for path in paths {
        packages.insert(package_of(path)?);
    }
    let mut common = BTreeSet::new();
    let mut licenses = Vec::new();
    for package in &packages {
        licenses.push(license_of(package)?.to_owned());
        let format = "${Package} ${Version}, from Debian's source package ${source:Package} ${source:Version}";
        let title = run(Command::new("dpkg-query").args(["--show", &format!("--showformat={format}"), package]))?;
        let path = format!("/usr/share/doc/{package}/copyright");
        let text = fs::read(&path).with_context(|| format!("cannot read {path}"))?;
        let text = String::from_utf8_lossy(&text);
        common.extend(common_licenses(&text).map(str::to_owned));
        files.add_data(&format!("{FOLDER}/debian/{package}.txt"), format!("{title}\n\n{text}"));
    }
    for name in common {
        let path = format!("/usr/share/common-licenses/{name}");
        let text = fs::read(&path).with_context(|| format!("cannot read {path}"))?;
        files.add_data(&format!("{FOLDER}/debian/common-licenses/{name}"), text);
    }
    Ok(licenses)
}

/// Returns the name of the package that a file is from. Debian records some files without `/usr`, some with it.
fn package_of(path: &str) -> Result<String> {
    let without = path.strip_prefix("/usr").unwrap_or(path);
    let found = [without.to_owned(), format!("/usr{without}")].iter().find_map(|path| {
        let output = run(Command::new("dpkg-query").args(["--search", path])).ok()?;
        package_in(&output).map(str::to_owned)
    });
    found.with_context(|| format!("dpkg-query knows no package with {path}, so its license is unknown"))
}

/// Returns the package in a line of `dpkg-query --search`: `libc6:amd64: /lib/…`.
fn package_in(output: &str) -> Option<&str> {
    let (packages, _) = output.lines().find(|line| !line.starts_with("diversion "))?.split_once(": ")?;
    packages.split([',', ':']).next().filter(|name| !name.is_empty())
}

fn license_of(package: &str) -> Result<&'static str> {
    // Debian renamed some libraries when their times became 64 bits wide.
    let name = package.strip_suffix("t64").unwrap_or(package);
    let known = LICENSES.iter().find(|(other, _)| *other == name).map(|(_, license)| *license);
    known.with_context(|| format!("an image would have files of {package}, whose license is not in debian.rs"))
}

/// Returns the names of the licenses that a copyright file leaves to /usr/share/common-licenses.
fn common_licenses(text: &str) -> impl Iterator<Item = &str> {
    text.split("/usr/share/common-licenses/").skip(1).filter_map(|rest| {
        let end = rest.find(|letter: char| !(letter.is_ascii_alphanumeric() || ".-".contains(letter)));
        let name = rest[..end.unwrap_or(rest.len())].trim_end_matches('.');
        (!name.is_empty()).then_some(name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_found_in_what_ldd_says() {
        let output = "\tlinux-vdso.so.1 (0x1)\n\tlibnft.so.1 => /lib/x/libnft.so.1 (0x2)\n\t/lib64/ld.so.2 (0x3)\n";
        assert_eq!(libraries(output), ["/lib/x/libnft.so.1", "/lib64/ld.so.2"]);
    }

    #[test]
    fn packages_are_found_in_what_dpkg_says() {
        assert_eq!(package_in("libc6:amd64: /lib/x86_64-linux-gnu/libc.so.6\n"), Some("libc6"));
        assert_eq!(package_in("nftables: /usr/sbin/nft\n"), Some("nftables"));
        assert_eq!(package_in("diversion by a from: /x\na, b: /x\n"), Some("a"));
        assert_eq!(package_in(""), None);
    }

    #[test]
    fn a_package_of_an_unknown_license_is_refused() {
        assert_eq!(license_of("libreadline8t64").unwrap(), "GPL-3.0-or-later");
        assert!(license_of("libnew1").unwrap_err().to_string().contains("libnew1"));
    }

    #[test]
    fn licenses_that_debian_keeps_once_are_found_in_the_texts_that_name_them() {
        let text = "in `/usr/share/common-licenses/GPL-2'.\nSee /usr/share/common-licenses/LGPL-2.1. And \
                    /usr/share/common-licenses/GPL";
        assert_eq!(common_licenses(text).collect::<Vec<_>>(), ["GPL-2", "LGPL-2.1", "GPL"]);
    }
}

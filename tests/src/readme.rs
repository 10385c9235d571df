//! Commands that README tells its readers to run.

use std::path::Path;

use anyhow::{Context, Result};

use crate::lab::CHECKOUT;

/// Returns the commands in the section of README with this heading, each as its words.
///
/// # Errors
/// When README has no such section.
pub fn commands(heading: &str) -> Result<Vec<Vec<String>>> {
    let text = std::fs::read_to_string(Path::new(CHECKOUT).join("README.md"))?;
    commands_in(&text, heading).with_context(|| format!("README has no section `{heading}`"))
}

fn commands_in(text: &str, heading: &str) -> Option<Vec<Vec<String>>> {
    let (_, section) = text.split_once(&format!("\n## {heading}\n"))?;
    let section = section.split("\n## ").next().unwrap_or_default();
    let blocks = section.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next());
    let lines = blocks.map(|block| block.replace("\\\n", " ")).collect::<String>();
    let words = |line: &str| line.split_whitespace().take_while(|word| *word != "#").map(str::to_owned).collect();
    Some(lines.lines().map(words).filter(|words: &Vec<String>| !words.is_empty()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_read_without_remarks_and_in_one_line() {
        let text = "# A\n\n## B\n```sh\nno\n```\n## C\ntext\n\n```sh\none two   # remark\nthree \\\n  four\n```\n\
                    ```sh\nfive\n```\n## D\n```sh\nno\n```\n";
        let commands = commands_in(text, "C").unwrap();
        assert_eq!(commands.iter().map(|words| words.join(" ")).collect::<Vec<_>>(), ["one two", "three four", "five"]);
        assert_eq!(commands_in(text, "E"), None);
    }
}

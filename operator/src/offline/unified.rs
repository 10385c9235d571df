//! Unified diffs of two texts.

use std::fmt::Write as _;
use std::ops::Range;

/// Unchanged lines around a change.
const CONTEXT: usize = 3;
/// Maximum size of the table in which common lines are looked for. A larger change is shown as a replacement.
const MAX_CELLS: usize = 16_000_000;

/// Change of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Keep,
    Remove,
    Add,
}

/// Returns the unified diff of two texts without its header; empty when they are equal.
pub(super) fn diff(old: &str, new: &str) -> String {
    let (old, new): (Vec<&str>, Vec<&str>) = (old.lines().collect(), new.lines().collect());
    let changes = changes(&old, &new);
    let mut text = String::new();
    for hunk in hunks(&changes) {
        write_hunk(&mut text, &old, &new, &changes, hunk);
    }
    text
}

/// Returns the changes that make one list of lines of another.
fn changes(old: &[&str], new: &[&str]) -> Vec<Change> {
    let start = old.iter().zip(new).take_while(|(old, new)| old == new).count();
    let (old, new) = (&old[start..], &new[start..]);
    let end = old.iter().rev().zip(new.iter().rev()).take_while(|(old, new)| old == new).count();
    let (old, new) = (&old[..old.len() - end], &new[..new.len() - end]);
    let mut changes = vec![Change::Keep; start];
    changes.extend(changes_between(old, new));
    changes.extend(vec![Change::Keep; end]);
    changes
}

/// Returns the fewest changes, by the longest common subsequence of lines.
fn changes_between(old: &[&str], new: &[&str]) -> Vec<Change> {
    let width = new.len() + 1;
    if (old.len() + 1).saturating_mul(width) > MAX_CELLS {
        return [vec![Change::Remove; old.len()], vec![Change::Add; new.len()]].concat();
    }
    // Number of common lines of the rests of both from each position on.
    let mut common = vec![0_u32; (old.len() + 1) * width];
    for row in (0..old.len()).rev() {
        for column in (0..new.len()).rev() {
            common[row * width + column] = if old[row] == new[column] {
                common[(row + 1) * width + column + 1] + 1
            } else {
                common[(row + 1) * width + column].max(common[row * width + column + 1])
            };
        }
    }
    let (mut row, mut column) = (0, 0);
    let mut changes = Vec::new();
    while row < old.len() || column < new.len() {
        let change = if row < old.len() && column < new.len() && old[row] == new[column] {
            Change::Keep
        } else if column == new.len()
            || row < old.len() && common[(row + 1) * width + column] >= common[row * width + column + 1]
        {
            Change::Remove
        } else {
            Change::Add
        };
        row += usize::from(change != Change::Add);
        column += usize::from(change != Change::Remove);
        changes.push(change);
    }
    changes
}

/// Returns the ranges of changes with the lines around them.
fn hunks(changes: &[Change]) -> Vec<Range<usize>> {
    let mut hunks: Vec<Range<usize>> = Vec::new();
    for (position, _) in changes.iter().enumerate().filter(|(_, change)| **change != Change::Keep) {
        let (start, end) = (position.saturating_sub(CONTEXT), (position + CONTEXT + 1).min(changes.len()));
        match hunks.last_mut() {
            Some(last) if start <= last.end => last.end = end,
            _ => hunks.push(start..end),
        }
    }
    hunks
}

fn write_hunk(text: &mut String, old: &[&str], new: &[&str], changes: &[Change], hunk: Range<usize>) {
    let lines = |range: Range<usize>, other: Change| changes[range].iter().filter(|change| **change != other).count();
    let (mut row, mut column) = (lines(0..hunk.start, Change::Add), lines(0..hunk.start, Change::Remove));
    let (rows, columns) = (lines(hunk.clone(), Change::Add), lines(hunk.clone(), Change::Remove));
    let first = |before: usize, count: usize| if count == 0 { before } else { before + 1 };
    let _ = writeln!(text, "@@ -{},{rows} +{},{columns} @@", first(row, rows), first(column, columns));
    for change in &changes[hunk] {
        let (mark, line) = match change {
            Change::Keep => (' ', old[row]),
            Change::Remove => ('-', old[row]),
            Change::Add => ('+', new[column]),
        };
        row += usize::from(*change != Change::Add);
        column += usize::from(*change != Change::Remove);
        let _ = writeln!(text, "{mark}{line}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_texts_have_no_diff() {
        assert_eq!(diff("a\nb\n", "a\nb\n"), "");
    }

    #[test]
    fn a_change_is_shown_with_three_lines_around_it() {
        let old = "1\n2\n3\n4\n5\n6\n7\n8\n9\n";
        let new = "1\n2\n3\n4\nfive\n6\n7\n8\n9\n";
        assert_eq!(diff(old, new), "@@ -2,7 +2,7 @@\n 2\n 3\n 4\n-5\n+five\n 6\n 7\n 8\n");
    }

    #[test]
    fn changes_far_from_each_other_are_shown_apart() {
        let old: String = (0..30).map(|line| format!("{line}\n")).collect();
        let new = old.replace("3\n4\n", "3\nx\n4\n").replace("\n27\n", "\n");
        assert_eq!(
            diff(&old, &new),
            "@@ -2,6 +2,7 @@\n 1\n 2\n 3\n+x\n 4\n 5\n 6\n@@ -25,6 +26,5 @@\n 24\n 25\n 26\n-27\n 28\n 29\n"
        );
    }

    #[test]
    fn what_is_new_and_what_goes_is_shown_whole() {
        assert_eq!(diff("", "a\nb\n"), "@@ -0,0 +1,2 @@\n+a\n+b\n");
        assert_eq!(diff("a\nb\n", ""), "@@ -1,2 +0,0 @@\n-a\n-b\n");
    }

    #[test]
    fn common_lines_stay() {
        assert_eq!(diff("a\nb\nc\n", "b\nx\nc\n"), "@@ -1,3 +1,3 @@\n-a\n b\n+x\n c\n");
    }
}

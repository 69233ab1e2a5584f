//! The list of checks as a page.

use std::fmt::Write as _;

use super::{Category, all};

/// docs/checks.md.
#[must_use]
pub fn markdown() -> String {
    let mut text = String::from(
        "# Checks\n\n\
         What `coastal check` looks at. This page is made from the list in the program: `coastal check --list --format markdown`.\n\n\
         A failed check of level *error* makes the command end with exit code 8; with `--strict` a *warning* does, too, and so \
         does what could not be seen. *Fix* says what `coastal check --fix` can do. Checks marked *before up* are those of \
         `coastal check --pre`.\n",
    );
    for category in Category::ALL {
        let _ = writeln!(text, "\n## {category}\n");
        for check in all().into_iter().filter(|check| check.category == category) {
            let _ = writeln!(text, "### {}\n", check.id);
            let pre = if check.before_up { ", before up" } else { "" };
            let fix = if check.mend.is_some() { ", fix" } else { "" };
            let _ = writeln!(
                text,
                "*{}{pre}{fix}*: {}.\n\n{} What to do: {}.\n",
                check.level.word(),
                check.title,
                check.why,
                check.hint
            );
        }
    }
    text.truncate(text.trim_end().len());
    text.push('\n');
    text
}

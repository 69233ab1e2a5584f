//! A failure as text: the sentence, the facts below it, and what to do next.

use std::fmt::Write;

use crate::error::Failure;
use crate::ui::style::{Style, tame};

/// `label: sentence`, the facts of the failure and then `more` of them, and the next commands after a blank line.
pub(super) fn render(label: &str, failure: &Failure, more: &[String], style: Style) -> String {
    let mut text = format!("{} {}\n", style.bad(format!("{label}:")), tame(&failure.message));
    for fact in failure.facts.iter().map(|fact| tame(fact)).chain(more.iter().cloned()) {
        text.push_str("  ");
        text.push_str(fact.trim_end());
        text.push('\n');
    }
    text.push_str(&next(&failure.next, style));
    text
}

/// A blank line and one `next:` line each; nothing if there are none.
pub(super) fn next(lines: &[String], style: Style) -> String {
    let mut text = String::new();
    for (n, line) in lines.iter().enumerate() {
        text.push_str(if n == 0 { "\n" } else { "" });
        let _ = writeln!(text, "{} {}", style.strong("next:"), tame(line));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const STYLE: Style = Style { colour: false, unicode: true };

    #[test]
    fn sentence_facts_next() {
        let failure = Failure::tool("`helm upgrade` ended with exit code 1")
            .fact("it said: Error: \u{1b}[31mtimed out\u{1b}[0m")
            .next("look at it: `coastal logs spire-server`")
            .next("`coastal up` goes on");
        insta::assert_snapshot!(render("error", &failure, &["journal: `runs/1`".into()], STYLE), @r"
        error: `helm upgrade` ended with exit code 1
          it said: Error: timed out
          journal: `runs/1`

        next: look at it: `coastal logs spire-server`
        next: `coastal up` goes on
        ");
        assert_eq!(render("error", &Failure::usage("no"), &[], STYLE), "error: no\n");
    }

    #[test]
    fn colour_is_an_addition() {
        let failure = Failure::usage("no").next("`coastal --help`");
        let coloured = render("error", &failure, &[], Style { colour: true, ..STYLE });
        assert!(coloured.contains('\u{1b}'));
        assert_eq!(console::strip_ansi_codes(&coloured), render("error", &failure, &[], STYLE));
    }
}

//! The page: one file that needs no network and no script, readable in light and dark.

use std::fmt::Write;

use super::svg::{class, timeline};
use super::{Account, CommandRecord, State, Turn, accounts};
use crate::engine::Event;
use crate::error::Failure;
use crate::plan::StepId;
use crate::ui::style::duration;
use crate::ui::xml::escaped;

const STYLE: &str = include_str!("page.css");

/// The page of the runs that `events` tell of.
#[must_use]
pub fn render(events: &[Event]) -> String {
    let accounts = accounts(events);
    let title = accounts.last().map_or_else(
        || "coastal: nothing was run".to_owned(),
        |account| format!("coastal {}: {}", account.run.command, account.outcome()),
    );
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>{}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n",
        escaped(&title)
    );
    if accounts.is_empty() {
        page.push_str("<p>Nothing was run.</p>\n");
    }
    for account in &accounts {
        section(&mut page, account);
    }
    page.push_str("</body>\n</html>\n");
    page
}

// Writing to a String cannot fail.
fn section(page: &mut String, account: &Account) {
    let _ = writeln!(page, "<section>\n<h1>coastal <code>{}</code></h1>", escaped(&account.run.command));
    let _ = writeln!(page, "<p class=\"verdict {0}\">{0} in {1}</p>", account.outcome(), duration(account.took_ms()));
    facts(page, account);
    let cause = account.result.as_ref().and_then(|result| result.failure.as_ref()).map(|cause| {
        // The step's own words are the cleaned ones.
        let own = account.steps.values().filter_map(|turn| turn.failure.as_ref()).find(|f| f.kind == cause.kind);
        own.unwrap_or(cause)
    });
    match cause {
        Some(cause) => failure(page, cause),
        None if account.result.is_none() => page.push_str(
            "<div class=\"failure\"><strong>This journal has no end:</strong> the run was killed, or goes on still.</div>\n",
        ),
        None => {}
    }
    let picture = timeline(account);
    if !picture.is_empty() {
        let (path, path_ms) = account.run.critical_path();
        let _ = writeln!(page, "<h2>Timeline</h2>\n<div class=\"scroll\">\n{picture}</div>");
        if path.len() > 1 {
            let _ = writeln!(
                page,
                "<p class=\"need\">* the longest chain of steps that wait for each other: {} of {}</p>",
                duration(path_ms),
                duration(account.took_ms())
            );
        }
    }
    page.push_str("<h2>Steps</h2>\n");
    for (id, turn) in account.in_order() {
        step(page, account, id, turn, cause);
    }
    let next = account.result.as_ref().map(|result| result.next.as_slice()).unwrap_or_default();
    if !next.is_empty() {
        let commands: Vec<String> = next.iter().map(|command| format!("<code>{}</code>", escaped(command))).collect();
        let _ = writeln!(page, "<h2>Next</h2>\n<p>{}</p>", commands.join(", "));
    }
    let _ = writeln!(
        page,
        "<footer><p>{} events, event format {}</p></footer>\n</section>",
        account.events,
        crate::engine::event::SCHEMA
    );
}

/// A sentence, with what stands in backticks as code. A last one without its partner stays a backtick.
pub(super) fn marked(text: &str) -> String {
    let text = escaped(text);
    let mut parts = text.split('`');
    let mut html = parts.next().unwrap_or_default().to_owned();
    while let Some(code) = parts.next() {
        let _ = match parts.next() {
            Some(after) => write!(html, "<code>{code}</code>{after}"),
            None => write!(html, "`{code}"),
        };
    }
    html
}

fn facts(page: &mut String, account: &Account) {
    let mut rows = vec![
        ("run", account.run.id.clone()),
        ("began", format!("{:.0}", account.began)),
        ("coastal", account.coastal.clone()),
    ];
    // What the lab's first steps found out are the versions that everything else ran with.
    // Of a change, the meter's sums are what everybody asks for.
    for (label, step) in [
        ("tools", StepId::Tools),
        ("cluster", StepId::Cluster),
        ("SPIRE", StepId::Spire),
        ("continuity", StepId::Continuity),
    ] {
        let found = account.steps.get(&step).filter(|turn| matches!(turn.state, State::Done | State::Same));
        let words = found.map(|turn| turn.words.clone()).filter(|words| !words.is_empty());
        rows.extend(words.map(|words| (label, words)));
    }
    page.push_str("<dl>\n");
    for (label, value) in rows.iter().filter(|(_, value)| !value.is_empty()) {
        let _ = writeln!(page, "<dt>{label}</dt><dd>{}</dd>", escaped(value));
    }
    page.push_str("</dl>\n");
}

fn failure(page: &mut String, failure: &Failure) {
    let _ = write!(page, "<div class=\"failure\"><strong>{}</strong>", marked(&failure.message));
    let list = |page: &mut String, lead: &str, lines: &[String]| {
        if !lines.is_empty() {
            let _ = write!(page, "{lead}<ul>");
            for line in lines {
                let _ = write!(page, "<li>{}</li>", marked(line));
            }
            page.push_str("</ul>");
        }
    };
    list(page, "", &failure.facts);
    list(page, "What to do:", &failure.next);
    page.push_str("</div>\n");
}

/// `told` is the failure that stands above all steps.
fn step(page: &mut String, account: &Account, id: StepId, turn: &Turn, told: Option<&Failure>) {
    let failed = matches!(turn.state, State::Failed | State::Stopped | State::Running);
    let _ = writeln!(
        page,
        "<details id=\"{run}-{id}\"{open}><summary><span class=\"mark {class}\">{word}</span><code>{id}</code><span class=\"title\">{title}{need}</span><span class=\"time\">{took}</span></summary>",
        run = escaped(&account.run.id),
        open = if failed { " open" } else { "" },
        class = class(turn.state),
        word = turn.state.word(),
        title = escaped(&account.run.title(id)),
        need = if account.is_goal(id) { "" } else { " <span class=\"need\">(only looked at)</span>" },
        took = if turn.was_begun() { duration(turn.took_ms) } else { String::new() },
    );
    match &turn.failure {
        Some(cause) if told != Some(cause) => failure(page, cause),
        _ if !turn.words.is_empty() => {
            let _ = writeln!(page, "<p>{}</p>", marked(&turn.words));
        }
        _ => {}
    }
    if !turn.said.is_empty() {
        page.push_str("<table>");
        if turn.unsaid > 0 {
            let _ = write!(page, "<tr><td></td><td>({} earlier messages are left out)</td></tr>", turn.unsaid);
        }
        for (at, words) in &turn.said {
            let _ = write!(page, "<tr><td>{}</td><td>{}</td></tr>", duration(*at), escaped(words));
        }
        page.push_str("</table>\n");
    }
    for record in account.commands.values().filter(|record| record.step == id) {
        command(page, record);
    }
    if let Some(step) = account.run.step(id) {
        let _ = write!(
            page,
            "<details><summary class=\"need\">why, and by hand</summary><p>{}</p>",
            escaped(&step.explanation.why)
        );
        if !step.explanation.by_hand.is_empty() {
            let _ = write!(page, "<pre>{}</pre>", escaped(&step.explanation.by_hand.join("\n")));
        }
        page.push_str("</details>");
    }
    page.push_str("</details>\n");
}

fn command(page: &mut String, record: &CommandRecord) {
    let ending = match record.ended {
        Some((Some(0), took)) => duration(took),
        Some((Some(code), took)) => format!("exit code {code} after {}", duration(took)),
        Some((None, took)) => format!("no exit code after {}", duration(took)),
        None => "never ended".to_owned(),
    };
    let _ = write!(
        page,
        "<details{}><summary><code class=\"title\">$ {}</code><span class=\"time\">at {}, {ending}</span></summary>",
        if record.is_good() { "" } else { " open" },
        escaped(&record.line),
        duration(record.started_ms),
    );
    if record.output.is_empty() {
        page.push_str("<p class=\"need\">printed nothing</p>");
    } else {
        page.push_str("<pre>");
        if record.dropped > 0 {
            let _ = writeln!(page, "({} earlier lines are in the journal)", record.dropped);
        }
        page.push_str(&escaped(&record.output.join("\n")));
        page.push_str("</pre>");
    }
    page.push_str("</details>\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_in_sentences_are_code() {
        assert_eq!(marked("`a < b` and `c`: d"), "<code>a &lt; b</code> and <code>c</code>: d");
        assert_eq!(marked("it's `half"), "it's `half");
        assert_eq!(marked("plain"), "plain");
    }
}

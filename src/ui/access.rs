//! The lab's pages: where they were opened, and where they are.

use std::fmt::Write;

use serde::Serialize;

use crate::steps::access::Login;
use crate::ui::style::tame;
use crate::ui::table;

/// A page that was opened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Opened {
    /// Always `opened`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// Which page.
    pub page: &'static str,
    /// Where.
    pub url: String,
    /// How one logs in, if one has to and it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub login: Option<Login>,
}

/// Every page of the lab.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Pages {
    /// 1.
    pub schema: u32,
    /// Row by row.
    pub pages: Vec<PageRow>,
}

/// One page.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PageRow {
    /// Which.
    pub page: &'static str,
    /// Where `open` puts it, if the port is free.
    pub url: String,
    /// What opens it.
    pub command: String,
    /// How one logs in, if one has to and it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub login: Option<Login>,
    /// The pod that serves it now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// What is amiss.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub troubles: Vec<String>,
}

/// `grafana     http://localhost:8081`, and how one logs in.
pub(super) fn opened(opened: &Opened) -> String {
    let mut text = format!("{:<11} {}\n", opened.page, opened.url);
    if let Some(login) = &opened.login {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{:<11} {}", "", said(login));
    }
    text
}

fn said(login: &Login) -> String {
    format!("user {}, password {}", tame(&login.user), tame(&login.password))
}

/// A table, then what is amiss.
pub(super) fn pages(pages: &Pages, width: Option<u16>) -> String {
    let row = |page: &PageRow| {
        vec![
            page.page.to_owned(),
            page.url.clone(),
            page.login.as_ref().map(said).unwrap_or_default(),
            page.pod.clone().unwrap_or_else(|| "not there".to_owned()),
            page.command.clone(),
        ]
    };
    let rows: Vec<Vec<String>> = pages.pages.iter().map(row).collect();
    let mut text = table::render(&["page", "url", "login", "served by", "opened by"], &rows, width);
    for page in &pages.pages {
        for trouble in &page.troubles {
            let _ = writeln!(text, "{}: {}", page.page, tame(trouble));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login() -> Login {
        Login { user: "admin".into(), password: "prom\u{1b}[2Joperator".into() }
    }

    #[test]
    fn a_login_cannot_steer_the_terminal() {
        let shown = opened(&Opened {
            kind: "opened",
            page: "grafana",
            url: "http://localhost:8081".into(),
            login: Some(login()),
        });
        assert_eq!(shown, "grafana     http://localhost:8081\n            user admin, password promoperator\n");
    }

    #[test]
    fn a_narrow_terminal_folds_what_it_cannot_hold() {
        let row = PageRow {
            page: "grafana",
            url: "http://localhost:8081".into(),
            command: "coastal open grafana".into(),
            login: Some(login()),
            pod: None,
            troubles: vec!["there is no pod".into()],
        };
        let shown = pages(&Pages { schema: 1, pages: vec![row] }, Some(20));
        assert!(shown.contains("grafana: there is no pod"), "{shown}");
    }
}

//! Tables without lines, for people and for `awk` alike.

use comfy_table::{ContentArrangement, Table, presets};

/// Columns under `head`, two blanks between them. Cells are folded to fit `width`; without one each row is one line.
pub(super) fn render(head: &[&str], rows: &[Vec<String>], width: Option<u16>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(head.iter().map(|name| name.to_uppercase()));
    match width {
        Some(width) => table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width),
        None => table.set_content_arrangement(ContentArrangement::Disabled),
    };
    for row in rows {
        table.add_row(row);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.lines().flat_map(|line| [line.trim_end().to_owned(), "\n".to_owned()]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Vec<Vec<String>> {
        vec![vec!["spire-server-0".into(), "healthy, and in the bundle".into()], vec!["a".into(), "b".into()]]
    }

    #[test]
    fn one_row_is_one_line_unless_a_terminal_is_too_narrow() {
        insta::assert_snapshot!(render(&["server", "state"], &rows(), None), @r"
        SERVER          STATE
        spire-server-0  healthy, and in the bundle
        a               b
        ");
        let narrow = render(&["server", "state"], &rows(), Some(30));
        assert!(narrow.lines().count() > 3 && narrow.lines().all(|line| line.len() <= 30), "{narrow}");
    }
}

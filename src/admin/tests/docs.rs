//! `docs/console.md` against the program.

use super::*;
use crate::admin::show::Type;
use crate::admin::sql::{MAX_ANSWER_BYTES, MAX_HEAP_BYTES, MAX_ROWS, tables};

const PAGE: &str = include_str!("../../../docs/console.md");

#[test]
fn every_item_of_show_is_on_the_page() {
    for (name, _) in Item::ALL {
        let start = format!("| `SHOW {}` | ", name.to_ascii_uppercase());
        assert_eq!(PAGE.lines().filter(|line| line.starts_with(&start)).count(), 1, "docs/console.md lacks {start}");
    }
    for command in [
        "DISABLE",
        "ENABLE",
        "HA MAINTENANCE",
        "KILL",
        "KILL_CLIENT",
        "PAUSE",
        "RESUME",
        "RECONNECT",
        "RELOAD",
        "SET",
        "SHUTDOWN",
        "SUSPEND",
        "SWITCHOVER",
        "WAIT_CLOSE",
    ] {
        let row = PAGE.lines().find(|line| line.starts_with("| `") && line.contains(&format!("`{command}")));
        assert!(row.is_some(), "docs/console.md lacks {command}");
    }
}

#[test]
fn every_table_is_on_the_page_with_its_columns() {
    let mut wanted = vec!["| table | columns (`int8` where nothing is said) |".to_owned(), "|---|---|".to_owned()];
    for table in tables() {
        let columns: Vec<String> = table
            .columns()
            .map(|(name, ty)| match ty {
                Type::Text => format!("`{name}` text"),
                Type::Bytea => format!("`{name}` bytea"),
                _ => format!("`{name}`"),
            })
            .collect();
        wanted.push(format!("| `{}` | {} |", table.name(), columns.join(", ")));
    }
    let (_, found) = PAGE.split_once("## Tables\n\n").unwrap();
    assert_eq!(found.trim_end(), wanted.join("\n"), "docs/console.md is to end with:\n{}", wanted.join("\n"));
}

#[test]
fn the_bounds_are_on_the_page() {
    let mib = |bytes: usize| format!("{} MiB", bytes >> 20);
    let heap = usize::try_from(MAX_HEAP_BYTES).unwrap();
    let rows = format!("{},000 rows", MAX_ROWS / 1000);
    for bound in [format!("{} KiB of query", MAX_QUERY_BYTES >> 10), rows, mib(MAX_ANSWER_BYTES), mib(heap)] {
        assert!(PAGE.contains(&bound), "docs/console.md lacks {bound}");
    }
}

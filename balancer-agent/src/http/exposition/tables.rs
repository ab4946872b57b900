//! Metrics of the kernel's tables: how full they are.

use super::{Sheet, View};
use std::fmt;

pub(super) fn write(view: &View, sheet: &mut Sheet<'_>) -> fmt::Result {
    let Some(kernel) = &view.kernel else {
        return Ok(());
    };
    let label = |name: &str| name.to_lowercase().replace(' ', "-");
    let names: Vec<String> = kernel.tables.iter().map(|table| label(table.name)).collect();
    let tables = || names.iter().zip(&kernel.tables);
    sheet.gauges(
        ("table_entries", None, "Entries in use of a table of the kernel."),
        tables().map(|(name, table)| ([("table", name.as_str())], table.used)),
    )?;
    let strict = |strict: bool| if strict { "true" } else { "false" };
    sheet.gauges(
        ("table_entries_max", None, "Entries that fit; a full strict table leaves things out."),
        tables().map(|(name, table)| {
            ([("table", name.as_str()), ("strict", strict(table.strict))], table.limit)
        }),
    )
}

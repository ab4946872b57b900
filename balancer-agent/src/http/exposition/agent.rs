//! Metrics of the agent itself: what runs, whether it is ready, its configuration.

use super::{super::health, Sheet, View};
use balancer_common::abi::ABI_VERSION;
use std::fmt;

pub(super) fn write(view: &View, sheet: &mut Sheet<'_>) -> fmt::Result {
    let abi = ABI_VERSION.to_string();
    let facts = [("version", env!("CARGO_PKG_VERSION")), ("abi", abi.as_str())];
    sheet.info("build", "The agent that runs.", &facts)?;
    let vitals = view.vitals.as_ref();
    let responsive = u32::from(vitals.is_some());
    sheet.gauge(
        "agent_responsive",
        "Whether the agent's loop answered this scrape; without, what it alone knows is missing.",
        responsive,
    )?;
    let ready = u32::from(health::obstacles(vitals).is_empty());
    sheet.gauge("agent_ready", "Whether /readyz says that the agent is ready.", ready)?;
    let readable = u32::from(view.kernel.is_some());
    sheet.gauge("maps_readable", "Whether the kernel's maps could be read.", readable)?;
    let Some(vitals) = vitals else {
        return Ok(());
    };
    sheet.seconds("start_time", "When the agent started, since 1970.", vitals.started_unix_s)?;
    let passed = u32::from(vitals.self_test.passed);
    sheet.gauge("self_test_passed", "Whether the latest self-test passed.", passed)?;
    sheet.counter(
        "hooks_repaired",
        "Hooks that had to be attached again.",
        vitals.hooks_repaired,
    )?;
    let config = &vitals.config;
    let loads = [("applied", vitals.config_loaded), ("refused", config.rejections)];
    sheet.counters(
        ("config_loads", "Contents of the configuration file, by what became of them."),
        loads.map(|(result, count)| ([("result", result)], count)),
    )?;
    let refused = u32::from(config.rejected.is_some());
    sheet.gauge(
        "config_refused",
        "Whether the configuration file as it is now is refused, and an earlier one in force.",
        refused,
    )?;
    sheet.gauge(
        "config_restart_needed",
        "Sections of the configuration that wait for the agent's next start.",
        config.restart_needed.len(),
    )
}

//! The configuration file: one YAML document, validated whole before anything is applied.
//!
//! It stands apart from the sources because parsing needs no environment and no IO: a text goes in,
//! a [`Config`] or every mistake of the text comes out. The keys are described in
//! `docs/configuration.md`.

pub mod annotation;
mod behaviour;
mod cause;
mod dns;
mod endpoint;
mod error;
mod http;
mod kubernetes;
mod mapping;
mod scalar;
mod schema;
mod section;
mod service;
#[cfg(test)]
mod tests;
mod tree;

pub use cause::Cause;
pub use dns::DnsSettings;
pub use error::{ConfigError, Position, Problem};
pub use http::HttpSettings;
pub use kubernetes::KubernetesSettings;
pub use schema::keys;
pub use section::DatapathLevel;

use crate::core::{
    model::{Behaviour, Service},
    write::Limits,
};
use behaviour::BEHAVIOUR_KEYS;
use error::{KeyPath, Problems};
use mapping::Mapping;
use tree::{Node, Value};

/// The version of the schema that this build reads.
pub const CONFIG_VERSION: u32 = 1;

/// Everything that the file says, with defaults filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// This node's rank among the balancer's nodes: schedules start at that offset, so that many
    /// nodes together are balanced too. If not set, it is found out.
    pub node_rank: Option<u32>,
    /// How names are resolved.
    pub dns: DnsSettings,
    /// The cluster whose services are balanced.
    pub kubernetes: KubernetesSettings,
    /// Sizes of the maps.
    pub limits: Limits,
    /// How much the kernel programs log.
    pub datapath_log_level: DatapathLevel,
    /// What services are that do not say otherwise.
    pub defaults: Behaviour,
    /// Where metrics and health are served.
    pub http: HttpSettings,
    /// All services, in the order of the file.
    pub services: Vec<Service>,
}

// === impl Config ===

impl Default for Config {
    fn default() -> Self {
        Self {
            node_rank: None,
            dns: DnsSettings::default(),
            kubernetes: KubernetesSettings::default(),
            limits: section::default_limits(),
            datapath_log_level: DatapathLevel::default(),
            defaults: Behaviour::default(),
            http: HttpSettings::default(),
            services: Vec::new(),
        }
    }
}

impl Config {
    /// Reads `text`; `file_name` is for messages.
    ///
    /// # Errors
    /// Tells every mistake that one pass can find, with its line, key, cause and fix.
    pub fn parse(text: &str, file_name: &str) -> Result<Self, ConfigError> {
        let mut problems = Problems::default();
        let mut config = Self::default();
        match tree::read(text) {
            Ok(root) => config.read(&root, &mut problems),
            Err(problem) => problems = problem.into(),
        }
        problems.finish(file_name)?;
        Ok(config)
    }

    /// A complete, commented example.
    pub const fn example() -> &'static str {
        include_str!("../../deploy/config.example.yaml")
    }

    /// The keys that differ from `running` and take effect only when the agent starts anew.
    pub fn restart_needed(&self, running: &Self) -> Vec<&'static str> {
        let differences = [
            ("limits", self.limits != running.limits),
            ("kubernetes", self.kubernetes != running.kubernetes),
            ("log.datapath-level", self.datapath_log_level != running.datapath_log_level),
            ("http", self.http != running.http),
        ];
        differences.into_iter().filter(|(_, differs)| *differs).map(|(key, _)| key).collect()
    }

    fn read(&mut self, root: &Node<'_>, problems: &mut Problems) {
        if root.value == Value::Null {
            problems.add(root.at, KeyPath::ROOT, Cause::Empty);
            return;
        }
        let Some(map) = Mapping::open(root, KeyPath::ROOT, schema::ROOT_KEYS, problems) else {
            return;
        };
        map.require("version", "version: 1", problems, version);
        let path = |key| map.path.key(key);
        if let Some(node) = map.get("node") {
            self.node_rank = section::node_rank(node, path("node"), problems);
        }
        if let Some(node) = map.get("dns") {
            self.dns = section::dns(node, path("dns"), problems);
        }
        if let Some(node) = map.get("kubernetes") {
            self.kubernetes = kubernetes::kubernetes(node, path("kubernetes"), problems);
        }
        if let Some(node) = map.get("limits") {
            self.limits = section::limits(node, path("limits"), problems);
        }
        if let Some(node) = map.get("log") {
            self.datapath_log_level = section::log(node, path("log"), problems);
        }
        if let Some(node) = map.get("http") {
            self.http = http::http(node, path("http"), problems);
        }
        self.defaults = map
            .get("defaults")
            .and_then(|node| Mapping::open(node, path("defaults"), BEHAVIOUR_KEYS, problems))
            .map(|defaults| Behaviour::read(&defaults, Behaviour::default(), problems))
            .unwrap_or_default();
        self.services = service::services(&map, self.defaults, &self.limits, problems);
    }
}

fn version(node: &Node<'_>) -> Result<(), Cause> {
    match node.value {
        Value::Integer(version) if version == i64::from(CONFIG_VERSION) => Ok(()),
        Value::Integer(version) => Err(Cause::Version { version }),
        _ => Err(Cause::Kind { expected: "`1` without quotes", found: node.found() }),
    }
}

//! Which services a new content of the file changes, so that one change among thousands is cheap.

use super::hash;
use crate::core::model::{Service, ServiceName};
use std::collections::HashMap;

/// The services of a file: all of them at first, then what changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Services {
    /// Every service; nothing was told before.
    All(Vec<Service>),
    /// What differs from what was told before.
    Changes {
        /// New and different ones.
        changed: Vec<Service>,
        /// Those that are gone.
        removed: Vec<ServiceName>,
    },
}

/// The services that were told, by 64 bits of their content. Two contents of one service have the
/// same 64 bits once in 10^19 edits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Digests(Option<HashMap<ServiceName, u64>>);

impl Digests {
    /// Leaves out what was told already. Returns what is to be told, and what is known after that.
    pub(super) fn compare(&self, services: Vec<Service>) -> (Services, Self) {
        let now: HashMap<_, _> =
            services.iter().map(|service| (service.name.clone(), hash(service))).collect();
        let Some(before) = &self.0 else {
            return (Services::All(services), Self(Some(now)));
        };
        let differs = |service: &Service| before.get(&service.name) != now.get(&service.name);
        let changed = services.into_iter().filter(differs).collect();
        let removed = before.keys().filter(|name| !now.contains_key(*name)).cloned().collect();
        (Services::Changes { changed, removed }, Self(Some(now)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn services(weights: &[(&str, u32)]) -> Vec<Service> {
        let items = weights.iter().enumerate().map(|(index, (name, weight))| {
            format!(
                "- {{name: {name}, frontends: ['10.96.0.{}:80'], \
                 backends: [{{address: '10.1.0.1:80', weight: {weight}}}]}}\n",
                index + 1
            )
        });
        let text = format!("version: 1\nservices:\n{}", items.collect::<String>());
        Config::parse(&text, "test").unwrap().services
    }

    #[test]
    fn only_what_differs_is_told_again() {
        let first = services(&[("a", 1), ("b", 1), ("c", 1)]);
        let (told, digests) = Digests::default().compare(first.clone());
        assert_eq!(told, Services::All(first.clone()));
        let (told, digests) = digests.compare(first);
        assert_eq!(told, Services::Changes { changed: vec![], removed: vec![] });
        let second = services(&[("a", 1), ("b", 2)]);
        let (told, _) = digests.compare(second.clone());
        let removed = vec![ServiceName::new("c").unwrap()];
        assert_eq!(told, Services::Changes { changed: vec![second[1].clone()], removed });
    }
}

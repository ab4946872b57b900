//! Keeps count of HTTP/2 connections and of their moves, of all services together and of each. Pure.

use crate::{
    admin::{Http2Account, Http2Status, NOT_FOLLOWED},
    core::{model::ServiceName, rebalance::Cause},
};
use balancer_common::http2::flow::Visibility;

/// How a move ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The client was told.
    Made,
    /// No moment was found, or the connection could not be moved any more.
    GivenUp,
}

// === impl Http2Status ===

impl Http2Status {
    /// A look begins: what goes up and down is counted anew.
    pub(super) fn begin_look(&mut self) {
        for account in self.services.values_mut().chain([&mut self.all]) {
            account.connections.clear();
            account.stubborn = 0;
        }
    }

    /// Counts a service's connections, each by what is known of its frames if they are followed. The first
    /// one opens the service's account.
    pub(super) fn look_at(
        &mut self,
        service: &ServiceName,
        connections: impl IntoIterator<Item = Option<Visibility>>,
        stubborn: u64,
    ) {
        let mut now = Http2Account { stubborn, ..Http2Account::default() };
        for visibility in connections {
            let state = visibility.map_or(NOT_FOLLOWED, Visibility::name);
            *now.connections.entry(state.into()).or_default() += 1;
        }
        for (state, count) in &now.connections {
            *self.all.connections.entry(state.clone()).or_default() += count;
        }
        self.all.stubborn += stubborn;
        if !now.connections.is_empty() {
            let account = self.account(service);
            (account.connections, account.stubborn) = (now.connections, stubborn);
        }
    }

    /// Whether the last look saw connections. As long as it did there is another one, though no service may be
    /// left that they belong to: else what was seen would be told for ever.
    pub(super) fn has_connections(&self) -> bool {
        !self.all.connections.is_empty()
    }

    /// The kernel was asked for a move.
    pub(super) fn begin_move(&mut self, service: &ServiceName, cause: Cause) {
        *self.all.begun.entry(cause.name().into()).or_default() += 1;
        *self.account(service).begun.entry(cause.name().into()).or_default() += 1;
    }

    /// A move came to an end. If its service is gone, it counts only for all together: an account opened
    /// again would tell of an end without a beginning.
    pub(super) fn end_move(&mut self, service: &ServiceName, end: End) {
        let account = self.services.get_mut(service.as_str());
        for account in account.into_iter().chain([&mut self.all]) {
            match end {
                End::Made => account.made += 1,
                End::GivenUp => account.given_up += 1,
            }
        }
    }

    /// Closes the accounts of services that are gone.
    pub(super) fn retain_services(&mut self, is_there: impl Fn(&str) -> bool) {
        self.services.retain(|service, _| is_there(service));
    }

    fn account(&mut self, service: &ServiceName) -> &mut Http2Account {
        self.services.entry(service.to_string()).or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &str) -> ServiceName {
        ServiceName::new(name).unwrap()
    }

    /// A look at these services, each with so many visible connections.
    fn look(status: &mut Http2Status, services: &[(&str, usize)]) {
        status.begin_look();
        for (service, connections) in services {
            let seen = std::iter::repeat_n(Some(Visibility::Visible), *connections);
            status.look_at(&name(service), seen, u64::from(*connections > 2));
        }
    }

    #[test]
    fn looks_go_on_until_one_sees_no_connection() {
        let mut status = Http2Status::default();
        assert!(!status.has_connections());
        look(&mut status, &[("shop", 1)]);
        status.retain_services(|_| false);
        assert!(status.has_connections(), "its service is gone, and it is not");
        look(&mut status, &[]);
        assert!(!status.has_connections());
    }

    /// What a service's account says: connections, begun, made, given up.
    fn told(status: &Http2Status, service: &str) -> Option<[u64; 4]> {
        let sum = |counts: &std::collections::BTreeMap<String, u64>| counts.values().sum();
        let account = status.services.get(service)?;
        Some([sum(&account.connections), sum(&account.begun), account.made, account.given_up])
    }

    #[test]
    fn each_service_has_an_account_from_its_first_connection_on() {
        let mut status = Http2Status::default();
        look(&mut status, &[("shop", 3), ("idle", 0), ("zoo", 1)]);
        assert_eq!(status.services.keys().collect::<Vec<_>>(), ["shop", "zoo"]);
        assert_eq!((status.all.connections["visible"], status.all.stubborn), (4, 1));
        assert_eq!((status.services["shop"].stubborn, status.services["zoo"].stubborn), (1, 0));
        status.begin_move(&name("shop"), Cause::Leaving);
        status.begin_move(&name("shop"), Cause::Imbalance);
        status.begin_move(&name("zoo"), Cause::Leaving);
        status.end_move(&name("shop"), End::Made);
        status.end_move(&name("zoo"), End::GivenUp);
        assert_eq!(told(&status, "shop"), Some([3, 2, 1, 0]));
        assert_eq!(told(&status, "zoo"), Some([1, 1, 0, 1]));
        assert_eq!((status.all.begun["leaving"], status.all.begun["imbalance"]), (2, 1));
        assert_eq!((status.all.made, status.all.given_up), (1, 1));
    }

    #[test]
    fn counts_of_moves_outlast_connections_and_end_with_the_service() {
        let mut status = Http2Status::default();
        status.begin_look();
        status.look_at(&name("shop"), [None, Some(Visibility::Moved)], 0);
        let connections = &status.services["shop"].connections;
        assert_eq!((connections[NOT_FOLLOWED], connections["moved"]), (1, 1));
        status.begin_move(&name("shop"), Cause::NewBackend);
        look(&mut status, &[("shop", 0)]);
        status.retain_services(|service| service == "shop");
        assert_eq!(told(&status, "shop"), Some([0, 1, 0, 0]), "it is still there");
        look(&mut status, &[]);
        status.retain_services(|_| false);
        status.end_move(&name("shop"), End::Made);
        assert_eq!(told(&status, "shop"), None, "nobody is left to count it for");
        assert_eq!((status.all.begun["new-backend"], status.all.made), (1, 1));
    }

    #[test]
    fn the_account_of_all_is_told_as_the_status_itself() {
        let mut status = Http2Status::default();
        look(&mut status, &[("shop", 2)]);
        let told = serde_json::to_value(&status).unwrap();
        assert_eq!(told["connections"]["visible"], 2, "{told}");
        assert_eq!(told["services"]["shop"]["connections"]["visible"], 2, "{told}");
        assert_eq!(serde_json::from_value::<Http2Status>(told).unwrap(), status);
    }
}

//! What becomes of Services and EndpointSlices.

use super::{
    cluster::{Cluster, service, slice, two_services},
    server::{SERVICES, SLICES, Verb},
};

#[tokio::test]
async fn services_and_slices_become_services_of_the_core() {
    let mut cluster = Cluster::start(two_services).await;
    cluster.await_services(|it| it.count() == 2).await;
    assert_eq!(cluster.frontends("shop/a:grpc"), ["10.96.0.1:80"]);
    assert_eq!(cluster.backends("shop/a:grpc"), ["10.1.0.1:50051", "10.1.0.2:50051"]);

    cluster.server.apply(SLICES, slice("a", "a-2", &[5]));
    cluster.await_services(|it| it.backends("shop/a:grpc").len() == 3).await;
    cluster.server.delete(SLICES, slice("a", "a-1", &[]));
    cluster.await_services(|it| it.backends("shop/a:grpc") == ["10.1.0.5:50051"]).await;
    cluster.server.delete(SERVICES, service("a", 1));
    cluster.await_services(|it| it.count() == 1).await;
    assert_eq!(cluster.removed, ["shop/a:grpc"]);
    for kind in [SERVICES, SLICES] {
        let asked = cluster.server.asked(kind, Verb::List);
        let selector = "!service.kubernetes.io/service-proxy-name";
        assert_eq!(asked.len(), 1, "one list is enough");
        assert_eq!(asked[0].query["labelSelector"], selector);
    }
}

//! The world that tests, demo and benchmarks run in: namespaces, cgroups, clients and servers.

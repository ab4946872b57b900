//! Tells the owner of a Service what was refused of it, as a Kubernetes Event.
//!
//! Every agent of a cluster sees the same mistake. The Event's name is made of the mistake, so that
//! the first agent writes it and the others find it there: one Event, whatever the number of nodes,
//! with nothing but the right to create Events.

use super::{access, health::KubernetesHealth};
use crate::core::discovery::ObjectProblem;
use k8s_openapi::{
    api::{core::v1::ObjectReference, events::v1::Event},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
    jiff::Timestamp,
};
use kube::{Api, Client, api::PostParams};
use std::{
    hash::{DefaultHasher, Hash, Hasher},
    time::Duration,
};
use tokio::sync::mpsc;

/// Problems that wait to be written at most; those beyond are counted as failed.
pub(super) const WAITING_MAX: usize = 256;
/// Longest note (validation of events.k8s.io/v1).
const NOTE_BYTES_MAX: usize = 1_024;
/// How long writing one may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Who speaks.
const CONTROLLER: &str = "balancer.dev/agent";

/// Writes an Event for every problem, one after the other, once each.
pub(super) async fn run(
    client: Client,
    node: String,
    mut problems: mpsc::Receiver<ObjectProblem>,
    health: KubernetesHealth,
) {
    let mut failing = false;
    while let Some(problem) = problems.recv().await {
        let api: Api<Event> = Api::namespaced(client.clone(), &problem.service.namespace);
        let event = event(&problem, &node);
        let parameters = PostParams::default();
        let error = match tokio::time::timeout(TIMEOUT, api.create(&parameters, &event)).await {
            Ok(Ok(_)) => None,
            // 409: another agent, or an earlier one, has said it.
            Ok(Err(kube::Error::Api(status))) if status.code == 409 => None,
            Ok(Err(kube::Error::Api(status))) => {
                Some(format!("{status}{}", access::hint(status.code)))
            }
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some("the API does not answer".into()),
        };
        health.note_event_written(error.is_none());
        if let Some(error) = &error
            && !failing
        {
            tracing::warn!(
                error,
                "a Kubernetes Event cannot be written; the problem is in the log"
            );
        }
        failing = error.is_some();
    }
}

fn event(problem: &ObjectProblem, node: &str) -> Event {
    let mut hasher = DefaultHasher::new();
    (&problem.uid, problem.to_string()).hash(&mut hasher);
    let mut text = problem.to_string();
    while text.len() > NOTE_BYTES_MAX {
        text.pop();
    }
    let service = &problem.service;
    let uid = Some(problem.uid.to_string()).filter(|uid| !uid.is_empty());
    Event {
        metadata: ObjectMeta {
            name: Some(format!("balancer.{:016x}", hasher.finish())),
            namespace: Some(service.namespace.to_string()),
            ..ObjectMeta::default()
        },
        event_time: Some(MicroTime(Timestamp::now())),
        type_: Some("Warning".into()),
        reason: Some("NotBalancedAsDeclared".into()),
        action: Some("Balance".into()),
        note: Some(text),
        reporting_controller: Some(CONTROLLER.into()),
        reporting_instance: Some(node.to_owned()),
        regarding: Some(ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Service".into()),
            namespace: Some(service.namespace.to_string()),
            name: Some(service.name.to_string()),
            uid,
            ..ObjectReference::default()
        }),
        ..Event::default()
    }
}

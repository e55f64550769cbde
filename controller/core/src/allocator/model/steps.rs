//! The steps of a history.

use proptest::prelude::*;

use super::objects::{RequestChoice, SERVICES, crowded_request, request_choice};

#[derive(Clone, Debug)]
pub(super) enum Step {
    /// The Service is created, or its spec changes.
    Apply(u8, RequestChoice),
    /// The object is deleted.
    Delete(u8),
    /// It is no longer a load balancer.
    ChangeType(u8),
    /// The pending write of the Service is carried out and confirmed.
    Write(u8),
    /// It is carried out, but the answer is lost.
    WriteUnconfirmed(u8),
    /// It is not carried out, and the answer is lost.
    WriteLost(u8),
    /// The pools and their policies change.
    Configure(u8, u8),
    /// The pending write of the Service is sent; the server may carry it out much later.
    Begin(u8),
    /// A sent write is carried out, if the object has not changed since, and the answer is lost.
    CarryOut(u8),
    /// Another client writes the status.
    ForeignWrite(u8, u8),
    /// Machines use addresses.
    Quarantine(u8),
    /// Namespaces become known or unknown.
    Namespaces(u8),
    /// Time passes.
    Wait(u8),
    /// Another controller takes over. The bits select the sent writes that are carried out before.
    TakeOver(u8),
    /// The former leader, which has not noticed that nor anything since, writes its assignment.
    FormerLeader(u8),
}

/// Services come and go, and most ask for the same addresses.
pub(super) fn crowded_step() -> impl Strategy<Value = Step> {
    let service = 0..SERVICES;
    prop_oneof![
        4 => (service.clone(), crowded_request()).prop_map(|(service, choice)| Step::Apply(service, choice)),
        3 => service.prop_map(Step::Delete),
        1 => Just(Step::Wait(1)),
    ]
}

pub(super) fn step() -> impl Strategy<Value = Step> {
    let service = 0..SERVICES;
    prop_oneof![
        6 => (service.clone(), request_choice()).prop_map(|(service, choice)| Step::Apply(service, choice)),
        2 => service.clone().prop_map(Step::Delete),
        1 => service.clone().prop_map(Step::ChangeType),
        8 => service.clone().prop_map(Step::Write),
        1 => service.clone().prop_map(Step::WriteUnconfirmed),
        1 => service.clone().prop_map(Step::WriteLost),
        2 => service.clone().prop_map(Step::Begin),
        2 => service.clone().prop_map(Step::CarryOut),
        1 => (service, 0..4_u8).prop_map(|(service, choice)| Step::ForeignWrite(service, choice)),
        2 => (0..12_u8, 0..6_u8).prop_map(|(pools, policies)| Step::Configure(pools, policies)),
        1 => (0..4_u8).prop_map(Step::Quarantine),
        1 => (0..3_u8).prop_map(Step::Namespaces),
        2 => (0..8_u8).prop_map(Step::Wait),
        2 => any::<u8>().prop_map(Step::TakeOver),
        3 => (0..SERVICES).prop_map(Step::FormerLeader),
    ]
}

//! What happens in a history.

use proptest::prelude::*;

use super::SERVICES;
use super::objects::{Wish, crowded_wish, wish};

#[derive(Clone, Debug)]
pub(super) enum Step {
    /// The Service is created, or its spec changes.
    Apply(u8, Wish),
    /// The object is deleted.
    Delete(u8),
    /// It is no load balancer any more.
    ChangeType(u8),
    /// The write that the Service needs is done, and that is known.
    Write(u8),
    /// It is done, but the answer is lost.
    WriteUnheard(u8),
    /// It is not done, but that is not known.
    WriteLost(u8),
    /// The pools and their policies change.
    Configure(u8, u8),
    /// The write that the Service needs begins; a server may carry it out much later.
    Begin(u8),
    /// It is carried out, if the object is still the one that it was made for, and nobody hears of it.
    Land(u8),
    /// Another client writes the status.
    WriteOfAnother(u8, u8),
    /// Machines use addresses.
    Quarantine(u8),
    /// Namespaces become known, or are no longer.
    Namespaces(u8),
    /// Time passes.
    Wait(u8),
    /// Another controller takes over: which of the writes under way are carried out before it begins.
    TakeOver(u8),
    /// The one before, which has not heard of that nor of anything since, writes what it still decides.
    Older(u8),
}

/// Services come and go, and want little else than what others want too.
pub(super) fn crowded_step() -> impl Strategy<Value = Step> {
    let service = 0..SERVICES;
    prop_oneof![
        4 => (service.clone(), crowded_wish()).prop_map(|(service, wish)| Step::Apply(service, wish)),
        3 => service.prop_map(Step::Delete),
        1 => Just(Step::Wait(1)),
    ]
}

pub(super) fn step() -> impl Strategy<Value = Step> {
    let service = 0..SERVICES;
    prop_oneof![
        6 => (service.clone(), wish()).prop_map(|(service, wish)| Step::Apply(service, wish)),
        2 => service.clone().prop_map(Step::Delete),
        1 => service.clone().prop_map(Step::ChangeType),
        8 => service.clone().prop_map(Step::Write),
        1 => service.clone().prop_map(Step::WriteUnheard),
        1 => service.clone().prop_map(Step::WriteLost),
        2 => service.clone().prop_map(Step::Begin),
        2 => service.clone().prop_map(Step::Land),
        1 => (service, 0..4_u8).prop_map(|(service, choice)| Step::WriteOfAnother(service, choice)),
        2 => (0..12_u8, 0..6_u8).prop_map(|(pools, policies)| Step::Configure(pools, policies)),
        1 => (0..4_u8).prop_map(Step::Quarantine),
        1 => (0..3_u8).prop_map(Step::Namespaces),
        2 => (0..8_u8).prop_map(Step::Wait),
        2 => any::<u8>().prop_map(Step::TakeOver),
        3 => (0..SERVICES).prop_map(Step::Older),
    ]
}

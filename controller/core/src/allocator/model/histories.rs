//! The property tests.

use std::sync::Arc;

use proptest::prelude::*;
use rules::Configuration;

use super::objects::{CROWDED, SERVICES, key, objects_of, request, request_choice};
use super::steps::{Step, crowded_step, step};
use super::world::World;
use crate::allocator::tests::{at, existing};
use crate::allocator::{Allocator, ExistingService};

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn the_invariants_hold_in_every_history(
        policies in 0..6_u8,
        steps in proptest::collection::vec(step(), 1..60),
    ) {
        let mut world = World::new(0, policies);
        for step in &steps {
            world.checked(step)?;
        }
        world.converge()?;
        world.check_unique()?;
        world.check_exchanges()?;
        world.check_stable()?;
        world.check_unique()?;
    }

    #[test]
    fn with_few_addresses_services_that_fit_are_served_longest_waiting_first(
        pools in CROWDED,
        policies in 0..6_u8,
        steps in proptest::collection::vec(crowded_step(), 1..40),
    ) {
        let mut world = World::new(pools, policies);
        for step in &steps {
            world.checked(step)?;
            world.write_all()?;
            world.check_waiting()?;
        }
    }

    #[test]
    fn the_order_of_restored_services_does_not_matter(
        choices in proptest::collection::vec((request_choice(), 0..4_u8), 1..7),
        seed in any::<u64>(),
    ) {
        let services: Vec<ExistingService> = choices.iter().zip(0..).map(|((choice, current), number)| {
            let current: &[&str] = match current {
                0 => &[],
                1 => &["10.0.0.1"],
                2 => &["10.0.0.2"],
                _ => &["10.0.0.1", "fc00::1"],
            };
            ExistingService { service: key(number), ..existing("", request(number, choice), current) }
        }).collect();
        let assignment = |list: Vec<ExistingService>| {
            let mut allocator = Allocator::new();
            allocator.set_configuration(Arc::new(Configuration::from_objects(&objects_of(2, 0)).0), at(0));
            allocator.restore(list, at(0));
            let addresses = |number| allocator.assignment(&key(number)).map(|a| a.addresses.to_vec());
            (0..SERVICES).map(addresses).collect::<Vec<_>>()
        };
        let expected = assignment(services.clone());
        let mut shuffled = services;
        shuffled.sort_by_key(|existing| {
            let rank = u64::from(existing.service.name.as_bytes()[1]).wrapping_mul(seed | 1);
            rank.rotate_left(17)
        });
        prop_assert_eq!(assignment(shuffled), expected);
    }

    #[test]
    fn releasing_and_assigning_again_is_stable(
        choices in proptest::collection::vec(request_choice(), 1..7),
        which in 0..SERVICES,
    ) {
        let mut world = World::new(2, 0);
        for (request_choice, service) in choices.iter().zip(0..) {
            world.step(&Step::Apply(service, request_choice.clone()));
        }
        world.converge()?;
        let before = world.all();
        let waiting = before.values().any(Vec::is_empty);
        if let Some(object) = world.objects.get(&key(which)).cloned() {
            world.step(&Step::ChangeType(which));
            world.objects.insert(key(which), object);
            world.sync(&key(which));
            world.converge()?;
            if !waiting {
                prop_assert_eq!(world.all(), before);
            }
        }
    }
}

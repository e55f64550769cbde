//! The speakers in a view.

use super::*;

#[test]
fn a_speaker_has_the_address_readiness_and_generation_of_its_pod() {
    let cluster = with_service();
    let speaker = &cluster.view().speakers[&NodeName::from("a")];
    assert_eq!((speaker.address, speaker.ready, speaker.generation), (Some(ip("192.168.0.1")), true, 3));
}

#[test]
fn of_two_speaker_pods_on_a_node_the_ready_one_counts_else_the_newer() {
    let with = |more: &[(bool, u64)]| {
        let pod = |(ready, generation): &(bool, u64)| {
            Arc::new(SpeakerPodInfo {
                node: "a".into(),
                address: None,
                ready: *ready,
                running: true,
                generation: *generation,
            })
        };
        let mut objects = with_service().summaries();
        objects.pods = more.iter().map(pod).collect();
        let (configuration, _) = Configuration::from_objects(&rules::Objects::default());
        let view = View::build(&with_service().settings, &objects, &configuration, None);
        let speaker = &view.speakers[&NodeName::from("a")];
        (speaker.ready, speaker.generation)
    };
    assert_eq!(with(&[(true, 3), (false, 4)]), (true, 3));
    assert_eq!(with(&[(false, 4), (true, 3)]), (true, 3));
    assert_eq!(with(&[(false, 3), (false, 4)]), (false, 4));
}

//! Networks other than a single segment.

use std::net::IpAddr;
use std::sync::PoisonError;
use std::time::Duration;

use e2e::speakers::Rig;
use libtest_mimic::Failed;
use testbed::{LanOptions, Mac, Multicast, until};

use crate::{MOVED, RIG, SOON, WATCHED, v4, v6};

/// With a querier, a snooping switch forwards multicast only to ports with a member of the group.
pub(crate) fn snooping() -> Result<(), Failed> {
    drop(RIG.lock().unwrap_or_else(PoisonError::into_inner).take());
    let lan = LanOptions { multicast: Multicast { snooping: true, querier: true }, ..LanOptions::default() };
    let rig = Rig::up("netns-snoop", 2, lan, &[]);
    // The bridge floods until it has learned of a querier.
    std::thread::sleep(Duration::from_secs(12));
    rig.service("web", &[v6()]);
    let owner = rig.owner(v6());
    let client = rig.cluster.client();
    client.flush_neighbours().unwrap();
    assert!(client.curl("http://[fd00:33::200]:8080/").unwrap().contains(&rig.nodes[owner].name));
    let groups = rig.cluster.lan().gateway().run(["bridge", "mdb", "show"])?;
    assert!(groups.contains("ff02::1:ff00:200"), "{groups}");
    Ok(())
}

/// Two segments with a router between them: the first two nodes are on both, the third on the first alone and
/// the fourth on the second alone. Beacons between them take the first segment or the router, so an interface
/// of the second can be down while beacons continue.
pub(crate) fn second_segment() -> Result<(), Failed> {
    drop(RIG.lock().unwrap_or_else(PoisonError::into_inner).take());
    let (near, far): (IpAddr, IpAddr) = (v4(), "192.168.34.200".parse()?);
    let mut rig = Rig::up("netns-segments", 3, LanOptions::default(), &[]);
    let options = LanOptions { v4: "192.168.34.0/24".parse()?, v6: None, ..LanOptions::default() };
    let segment = rig.cluster.lan().segment("br1", &options)?;
    rig.join(segment.guest("node4", 14)?);
    rig.start(3);
    let attach = |number: usize| {
        let name = format!("node{}-far", number + 1);
        segment.attach(&rig.nodes[number].guest.host, "eth1", &name, 11 + u32::try_from(number).unwrap())
    };
    let cables = [attach(0)?, attach(1)?];
    let asker = segment.guest("asker", 100)?;
    // In the order of the nodes; the third has none there.
    let macs = [cables[0].host.mac, cables[1].host.mac, Mac([0; 6]), rig.nodes[3].guest.host.mac];
    let far_owner = || e2e::speakers::one_of(&asker.host, far, &macs);
    rig.service("near", &[near]);
    rig.service("far", &[far]);
    let all_connected = |rig: &Rig| {
        for (number, others) in [(0, 3.0), (1, 3.0), (2, 2.0), (3, 2.0)] {
            until(SOON, &format!("{} to receive beacons of {others} others", rig.nodes[number].name), || {
                let heard = rig.metric(number, "lbstack_speaker_peers{state=\"heard\"}");
                if heard >= others { Ok(()) } else { Err(format!("it receives beacons of {heard}")) }
            })
            .unwrap();
        }
    };
    all_connected(&rig);
    let near_owner = rig.owner(near);
    assert_ne!(near_owner, 3, "it is not on the segment");

    // The client is behind the router, so the router needs the new neighbour entry.
    while let owner @ (0 | 1) = far_owner() {
        let round = rig.round(far, false, WATCHED, |_| cables[owner].cable(false).unwrap());
        assert!(round.silence < MOVED, "an interface is down: {round:?}");
        assert_ne!(far_owner(), owner);
    }
    assert_eq!(far_owner(), 3, "no other node is left");
    assert_eq!(rig.owner(near), near_owner, "it has lost no interface of this segment");
    for cable in &cables {
        cable.cable(true)?;
    }
    all_connected(&rig);
    assert_eq!(far_owner(), 3, "a node that becomes eligible again takes nothing back");
    let round = rig.round(far, false, WATCHED, |rig| rig.power_off(3));
    assert!(round.silence < MOVED, "a node behind the router is gone: {round:?}");
    assert!(matches!(far_owner(), 0 | 1));
    assert_eq!(rig.owner(near), near_owner);
    Ok(())
}

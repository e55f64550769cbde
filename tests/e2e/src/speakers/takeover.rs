//! A node that announces thousands of addresses loses power, and another one, which announces one address
//! already, takes all of them over.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use testbed::{LanOptions, until};

use super::{Rig, Round};

/// The node that takes over, and the one that fails.
const SUCCESSOR: usize = 0;
const DEAD: usize = 1;
/// The successor's own address, and the first of the others.
const OWN: Ipv4Addr = Ipv4Addr::new(192, 168, 33, 200);
const FIRST: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 0);
/// Timeout until all addresses are written, read and announced, on a busy machine too.
const ANNOUNCED: Duration = Duration::from_secs(900);
/// Timeout of a takeover.
const TAKEOVER_TIMEOUT: Duration = Duration::from_secs(180);

/// The result of a takeover.
#[derive(Clone, Copy, Debug)]
pub struct Takeover {
    /// From the power-off until the successor owned all groups.
    pub took: Duration,
    /// The result of a client that resolves the successor's own address before each request.
    pub own: Round,
    /// How often the successor detected that it had stalled.
    pub stalls: u64,
    /// How many groups it took over, counting those again that it lost meanwhile.
    pub taken: u64,
    /// The lowest number of groups that it owned.
    pub least: u64,
}

impl Takeover {
    /// Runs a takeover of `groups` groups, each of one address.
    pub fn of(id: &str, groups: u32) -> Self {
        let mut rig = Rig::up(id, 2, LanOptions::default(), &[]);
        // While it is alone, the other node owns all groups that both may own.
        rig.ready(SUCCESSOR, false);
        rig.terminate(SUCCESSOR);
        rig.services(groups, FIRST);
        owns(&rig, DEAD, groups.into());
        rig.start(SUCCESSOR);
        rig.ready(SUCCESSOR, true);
        rig.local_service("own", &[OWN.into()], SUCCESSOR);
        owns(&rig, SUCCESSOR, 1);
        rig.all_ready();
        rig.at_rest(SUCCESSOR);
        rig.at_rest(DEAD);
        owns(&rig, DEAD, groups.into());
        watch(&mut rig, u64::from(groups) + 1)
    }
}

/// Waits until a node owns `groups` groups.
fn owns(rig: &Rig, number: usize, groups: u64) {
    let name = &rig.nodes[number].name;
    until(ANNOUNCED, &format!("{name} to own {groups} groups"), || match owned(rig, number) {
        owned if owned == groups => Ok(()),
        owned => Err(format!("it owns {owned}")),
    })
    .unwrap();
}

fn owned(rig: &Rig, number: usize) -> u64 {
    rig.count(number, "lbstack_speaker_owned_groups")
}

fn taken(rig: &Rig) -> u64 {
    let causes = ["vacant", "silent_owner", "handover"];
    let taken = |cause| rig.count(SUCCESSOR, &format!("lbstack_speaker_groups_taken{{cause=\"{cause}\"}}"));
    causes.into_iter().map(taken).sum()
}

fn stalls(rig: &Rig) -> u64 {
    rig.count(SUCCESSOR, "lbstack_speaker_stalls")
}

fn watch(rig: &mut Rig, groups: u64) -> Takeover {
    assert_eq!(rig.owner(OWN.into()), SUCCESSOR);
    let (stalls_before, taken_before) = (stalls(rig), taken(rig));
    let traffic = rig.traffic(IpAddr::V4(OWN), true);
    // The client's first requests fill caches on the path.
    std::thread::sleep(Duration::from_millis(300));
    let start = Instant::now();
    rig.power_off(DEAD);
    let mut least = groups;
    until(TAKEOVER_TIMEOUT, "all groups to be taken over", || {
        let owned = owned(rig, SUCCESSOR);
        least = least.min(owned);
        if owned == groups { Ok(()) } else { Err(format!("{owned} are owned")) }
    })
    .unwrap();
    let took = start.elapsed();
    let report = traffic.stop().unwrap();
    Takeover {
        took,
        own: Round { silence: report.longest_silence(), lost: report.lost },
        stalls: stalls(rig) - stalls_before,
        taken: taken(rig) - taken_before,
        least,
    }
}

//! Foreign hosts that answer for addresses of Services.

use std::net::IpAddr;
use std::time::Duration;

use e2e::speakers::{NAMESPACE, Rig};
use testbed::{Mac, until};

use crate::SOON;

/// Whether there is an `AddressConflict` with this name, and its field `announced`.
fn conflict(rig: &Rig, name: &str) -> Result<Option<bool>, String> {
    let list = rig.cluster.get(["addressconflicts", "--namespace", NAMESPACE]).map_err(|e| e.to_string())?;
    let mut items = list["items"].as_array().into_iter().flatten();
    let object = items.find(|object| object["metadata"]["name"] == name);
    Ok(object.map(|object| object["spec"]["announced"] == true))
}

fn until_conflict(rig: &Rig, name: &str, expected: Option<bool>, limit: Duration) {
    until(limit, &format!("the AddressConflict {name} to be {expected:?}"), || match conflict(rig, name)? {
        found if found == expected => Ok(()),
        found => Err(format!("it is {found:?}")),
    })
    .unwrap();
}

/// Speakers probe a conflict again every minute.
const PROBED_AGAIN: Duration = Duration::from_secs(90);

pub(crate) fn before_the_service(rig: &mut Rig) {
    let addresses: [IpAddr; 2] = ["192.168.33.210".parse().unwrap(), "fd00:33::210".parse().unwrap()];
    let names = ["192.168.33.210", "fd00.33.x.210"];
    let mac = Mac([2, 0, 0, 0, 0x66, 0x66]);
    let foreign_host = rig.cluster.lan().foreign_host(&addresses, mac).unwrap();
    rig.service("taken", &addresses);
    for (address, name) in addresses.into_iter().zip(names) {
        until_conflict(rig, name, Some(false), SOON);
        assert_eq!(rig.who_has(address), [mac]);
    }
    drop(foreign_host);
    for (address, name) in addresses.into_iter().zip(names) {
        until(PROBED_AGAIN, "the address to be announced", || match rig.who_has(address)[..] {
            [owner] if owner != mac => Ok(()),
            ref others => Err(format!("{others:?} answer")),
        })
        .unwrap();
        until_conflict(rig, name, None, SOON);
    }
    rig.remove_service("taken");
    for address in addresses {
        rig.unowned(address);
    }
}

pub(crate) fn after_the_service(rig: &mut Rig) {
    let (address, name): (IpAddr, _) = ("192.168.33.212".parse().unwrap(), "192.168.33.212");
    let foreign_host = rig.cluster.lan().foreign_host(&[address], Mac([2, 0, 0, 0, 0x66, 0x68])).unwrap();
    rig.service("short-lived", &[address]);
    until_conflict(rig, name, Some(false), SOON);
    rig.remove_service("short-lived");
    // A speaker writes conflicts first: once the status is gone, it has decided about the conflict.
    until(SOON, "the ServiceL2Status to go with the Service", || {
        let list = rig.cluster.get(["servicel2statuses", "--namespace", NAMESPACE]);
        let list = list.map_err(|error| error.to_string())?;
        let mut items = list["items"].as_array().into_iter().flatten();
        match items.find(|object| object["metadata"]["labels"]["metallb.io/service-name"] == "short-lived") {
            None => Ok(()),
            Some(object) => Err(object.to_string()),
        }
    })
    .unwrap();
    assert_eq!(conflict(rig, name), Ok(Some(false)), "the next Service with the address would conflict");
    drop(foreign_host);
    until_conflict(rig, name, None, PROBED_AGAIN);
}

pub(crate) fn during_the_service(rig: &mut Rig) {
    let address: IpAddr = "192.168.33.211".parse().unwrap();
    rig.service("contested", &[address]);
    let owner = rig.owner(address);
    let foreign_host = rig.cluster.lan().foreign_host(&[address], Mac([2, 0, 0, 0, 0x66, 0x67])).unwrap();
    foreign_host.host.announce(address).unwrap();
    until_conflict(rig, "192.168.33.211", Some(true), SOON);
    assert!(rig.who_has(address).contains(&rig.nodes[owner].guest.host.mac));
    drop(foreign_host);
    until_conflict(rig, "192.168.33.211", None, PROBED_AGAIN);
    assert_eq!(rig.owner(address), owner, "it stayed announced");
    rig.remove_service("contested");
    rig.unowned(address);
}

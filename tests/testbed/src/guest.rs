//! Further machines on a LAN that is up.

use std::path::PathBuf;

use crate::error::Result;
use crate::host::Host;
use crate::topology::Lan;

/// A machine that was plugged in later. It leaves when this is dropped.
#[derive(Debug)]
pub struct Guest {
    lan: Lan,
    /// The machine.
    pub host: Host,
}

impl Lan {
    /// Plugs in a machine with this name and host number.
    pub fn guest(&self, name: &str, number: u32) -> Result<Guest> {
        let machine = self.plan.machine(name, number)?;
        Ok(Guest { lan: self.clone(), host: self.plug_in(&machine)? })
    }

    /// Gives a machine that is there a second interface, on this LAN, at the port `name` of its switch. The handle speaks of
    /// the machine as it is there: with the addresses and the cable that it has on this LAN.
    pub fn attach(&self, host: &Host, interface: &str, name: &str, number: u32) -> Result<Guest> {
        let machine = self.plan.machine(name, number)?;
        let namespace = host.namespace.clone();
        let host = self.connect(name, interface, machine.mac, &machine.nets(), namespace)?;
        Ok(Guest { lan: self.clone(), host })
    }

    /// A static program of the testbed: `web` (the server of the web image), `client`, `probe`.
    pub fn tool(&self, name: &str) -> PathBuf {
        self.tools.join(name)
    }
}

impl Guest {
    /// Pulls the cable (`false`) or puts it in.
    pub fn cable(&self, plugged_in: bool) -> Result<()> {
        self.lan.cable(&self.host.name, plugged_in)
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // The whole LAN may be on its way out already.
        let _ = self.lan.unplug(&self.host.name);
    }
}

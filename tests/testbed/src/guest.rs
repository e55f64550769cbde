//! Additional machines on a running LAN.

use std::path::PathBuf;

use crate::error::Result;
use crate::host::Host;
use crate::topology::Lan;

/// An additional machine. It is removed when this is dropped.
#[derive(Debug)]
pub struct Guest {
    lan: Lan,
    /// The machine.
    pub host: Host,
}

impl Lan {
    /// Adds a machine with this name and host number.
    pub fn guest(&self, name: &str, number: u32) -> Result<Guest> {
        let machine = self.plan.machine(name, number)?;
        Ok(Guest { lan: self.clone(), host: self.plug_in(&machine)? })
    }

    /// Adds an interface to an existing machine, connected to port `name` of this LAN. The handle refers to
    /// the machine with its addresses and cable on this LAN.
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
    /// Unplugs (`false`) or plugs in the cable.
    pub fn cable(&self, plugged_in: bool) -> Result<()> {
        self.lan.cable(&self.host.name, plugged_in)
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // The whole LAN may be removed already.
        let _ = self.lan.unplug(&self.host.name);
    }
}

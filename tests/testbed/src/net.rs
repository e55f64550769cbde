//! The LAN alone: machines on a bridge, without Kubernetes. For tests of the frames that are sent.

use std::fs;
use std::path::Path;

use crate::cleanup::{self, Lock};
use crate::cluster::ensure_free;
use crate::components::Static;
use crate::error::{Attempt, Error, Result};
use crate::host::Host;
use crate::options::LanOptions;
use crate::packages::{self, Purpose};
use crate::paths::Paths;
use crate::plan::{LanPlan, check_id};
use crate::progress::Progress;
use crate::reaper::Reaper;
use crate::state::Owner;
use crate::topology::Lan;

/// What [`Net::up`] builds.
#[derive(Clone, Debug)]
pub struct NetOptions {
    /// Part of the name of everything that it creates: see [`Options::id`](crate::Options::id).
    pub id: String,
    /// Prefixes, and how the bridge treats multicast. The host numbers of control plane, client and nodes are
    /// not used.
    pub lan: LanOptions,
    /// Name and host number of each machine.
    pub machines: Vec<(String, u32)>,
    /// Receives progress messages.
    pub progress: Progress,
}

/// Machines on a LAN, each a network namespace with `eth0`. Created in a fraction of a second; removed when
/// it is dropped, and also when its process is killed.
#[derive(Debug)]
pub struct Net {
    paths: Paths,
    lan: Lan,
    hosts: Vec<Host>,
    reaper: Option<Reaper>,
}

impl Net {
    /// Builds it.
    ///
    /// ```no_run
    /// # fn f() -> testbed::Result<()> {
    /// use testbed::{LanOptions, Net, NetOptions, Progress};
    /// let net = Net::up(NetOptions {
    ///     id: "speaker".into(),
    ///     lan: LanOptions::default(),
    ///     machines: vec![("a".into(), 11), ("b".into(), 12)],
    ///     progress: Progress::default(),
    /// })?;
    /// net.host("a")?.run(["ping", "-c1", "192.168.33.12"])?;
    /// # Ok(()) }
    /// ```
    pub fn up(options: NetOptions) -> Result<Self> {
        check_id(&options.id)?;
        let plan = LanPlan::new(&options.lan)?;
        packages::ensure(Purpose::Network, &options.progress)?;
        let tools = Static::tools(&options.progress)?;
        let paths = Paths::new(&options.id);
        let lock = Lock::take(&paths)?;
        ensure_free(&paths, &options.progress)?;
        for directory in [paths.processes(), paths.logs()] {
            fs::create_dir_all(&directory).attempt(|| format!("making {}", directory.display()))?;
        }
        Owner::this_process()?.write(&paths)?;
        let reaper = Reaper::start(&paths, tools.directory())?;
        // From here on dropping it removes what exists.
        let mut net = Self {
            lan: Lan::of(&paths, &plan, tools.directory()),
            paths,
            hosts: Vec::new(),
            reaper: Some(reaper),
        };
        let built = net.build(&plan, &options.machines);
        drop(lock);
        built.map(|()| net)
    }

    fn build(&mut self, plan: &LanPlan, machines: &[(String, u32)]) -> Result<()> {
        self.lan.create()?;
        for (name, number) in machines {
            let machine = plan.machine(name, *number)?;
            self.hosts.push(self.lan.plug_in(&machine)?);
        }
        Ok(())
    }

    /// A machine by its name.
    pub fn host(&self, name: &str) -> Result<&Host> {
        let host = self.hosts.iter().find(|host| host.name == name);
        host.ok_or_else(|| Error::Options(format!("there is no machine {name:?}")))
    }

    /// The machines, in the order of the options.
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// The LAN, for its faults and its gateway.
    pub fn lan(&self) -> &Lan {
        &self.lan
    }

    /// Unplugs (`false`) or plugs in the cable of a machine.
    pub fn cable(&self, machine: &str, plugged_in: bool) -> Result<()> {
        self.lan.cable(machine, plugged_in)
    }

    /// A directory for files of the test; removed with the rest.
    pub fn directory(&self) -> &Path {
        self.paths.root()
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        if let Some(reaper) = self.reaper.take() {
            reaper.stop();
        }
        // Anything that remains is removed by the next testbed of the same id, or with `cluster down`.
        let _ = cleanup::down(self.paths.id());
    }
}

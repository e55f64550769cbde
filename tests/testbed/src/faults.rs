//! Faults of the LAN: blocked or lost frames, and foreign hosts with addresses of other machines.
//!
//! Frames are dropped on the bridge, as a real switch or cable would lose them; the machines notice only the
//! loss.

use std::net::IpAddr;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use ipnet::IpNet;

use crate::error::{Error, Result};
use crate::host::Host;
use crate::plan::Mac;
use crate::topology::{Lan, feed, port};

/// A class of frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frames {
    /// All frames.
    All,
    /// ARP.
    Arp,
    /// Neighbour and router discovery of IPv6.
    Ndp,
    /// TCP to this port, of both families.
    Tcp(u16),
    /// UDP to this port, of both families.
    Udp(u16),
}

/// Which frames to drop.
#[derive(Clone, Copy, Debug)]
pub struct Block<'a> {
    /// Sent by this machine; none means any.
    pub from: Option<&'a str>,
    /// Sent to this machine; none means any.
    pub to: Option<&'a str>,
    /// The class of frames.
    pub frames: Frames,
    /// Whether frames in the opposite direction pass.
    pub one_way: bool,
}

/// A fault of the LAN, which ends when this is dropped.
#[derive(Debug)]
#[must_use = "the fault ends when this is dropped"]
pub struct Fault {
    lan: Lan,
    table: String,
}

impl Fault {
    /// Ends the fault. Dropping it does the same, but ignores errors.
    pub fn heal(mut self) -> Result<()> {
        let table = std::mem::take(&mut self.table);
        self.lan.gateway().run(["nft", "delete", "table", "bridge", &table]).map(drop)
    }
}

impl Drop for Fault {
    fn drop(&mut self) {
        if !self.table.is_empty() {
            let _ = self.lan.gateway().run(["nft", "delete", "table", "bridge", &self.table]);
        }
    }
}

/// The number of the next table of a fault.
static NEXT: AtomicU32 = AtomicU32::new(0);

impl Lan {
    /// Drops frames.
    ///
    /// ```no_run
    /// # fn f(cluster: &testbed::Cluster) -> testbed::Result<()> {
    /// use testbed::{Block, Frames};
    /// let fault = cluster.lan().block(Block {
    ///     from: Some("node1"),
    ///     to: Some("node2"),
    ///     frames: Frames::Udp(7946),
    ///     one_way: true,
    /// })?;
    /// // …
    /// fault.heal()?;
    /// # Ok(()) }
    /// ```
    pub fn block(&self, block: Block<'_>) -> Result<Fault> {
        self.fault(&block_rules(&block))
    }

    /// Drops this percentage of all frames from and to a machine, at random.
    pub fn loss(&self, machine: &str, percent: u8) -> Result<Fault> {
        if percent > 100 {
            return Err(Error::Options(format!("{percent} % of frames cannot be lost: at most 100")));
        }
        self.fault(&loss_rules(machine, percent))
    }

    /// Ends all faults of the kinds above, also those of other processes.
    pub fn heal(&self) -> Result<()> {
        self.gateway().run(["nft", "flush", "ruleset", "bridge"]).map(drop)
    }

    /// Connects a machine with these addresses and this link-layer address to the LAN, like a host that was
    /// misconfigured with addresses of other machines. Its kernel answers for them. It is removed when the
    /// handle is dropped.
    pub fn foreign_host(&self, addresses: &[IpAddr], mac: Mac) -> Result<ForeignHost> {
        let name = format!("foreign{}", unique());
        let prefix = |address: &IpAddr| match address {
            IpAddr::V4(_) => self.plan.options.v4.prefix_len(),
            IpAddr::V6(_) => self.plan.options.v6.map_or(64, |net| net.prefix_len()),
        };
        let nets: Vec<IpNet> =
            addresses.iter().map(|address| IpNet::new_assert(*address, prefix(address))).collect();
        let host = self.plug(&name, mac, &nets)?;
        Ok(ForeignHost { lan: self.clone(), host })
    }

    fn fault(&self, rules: &[String]) -> Result<Fault> {
        let table = format!("fault_{}", unique());
        feed(&self.gateway().namespace, Command::new("nft").args(["-f", "-"]), &ruleset(&table, rules))?;
        Ok(Fault { lan: self.clone(), table })
    }
}

/// Unique on the LAN across processes.
fn unique() -> String {
    format!("{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A machine with addresses that belong to other machines.
#[derive(Debug)]
pub struct ForeignHost {
    lan: Lan,
    /// The machine.
    pub host: Host,
}

impl ForeignHost {
    /// Sends a gratuitous ARP for an IPv4 address, as kernels do when an interface comes up.
    pub fn announce(&self, address: IpAddr) -> Result<()> {
        self.host.announce(address)
    }
}

impl Drop for ForeignHost {
    fn drop(&mut self) {
        let _ = self.lan.unplug(&self.host.name);
    }
}

/// An nftables table for all frames: those that the bridge forwards, and those from and to the bridge itself.
fn ruleset(table: &str, rules: &[String]) -> String {
    let mut text = format!("table bridge {table} {{\n");
    for hook in ["forward", "input", "output"] {
        text += &format!("  chain {hook} {{\n    type filter hook {hook} priority 0; policy accept;\n");
        for rule in rules {
            // Frames to the bridge itself have no output port, and frames from it no input port.
            let impossible = (hook == "input" && rule.contains("oifname"))
                || (hook == "output" && rule.contains("iifname"));
            if !impossible {
                text += &format!("    {rule}\n");
            }
        }
        text += "  }\n";
    }
    text + "}\n"
}

fn block_rules(block: &Block<'_>) -> Vec<String> {
    let frames = match block.frames {
        Frames::All => String::new(),
        Frames::Arp => "ether type arp ".into(),
        Frames::Ndp => "ether type ip6 icmpv6 type { 133, 134, 135, 136, 137 } ".into(),
        Frames::Tcp(port) => format!("meta l4proto tcp th dport {port} "),
        Frames::Udp(port) => format!("meta l4proto udp th dport {port} "),
    };
    let rule = |from: Option<&str>, to: Option<&str>| {
        let from = from.map(|name| format!("iifname \"{}\" ", port(name))).unwrap_or_default();
        let to = to.map(|name| format!("oifname \"{}\" ", port(name))).unwrap_or_default();
        format!("{from}{to}{frames}counter drop")
    };
    let mut rules = vec![rule(block.from, block.to)];
    if !block.one_way {
        rules.push(rule(block.to, block.from));
    }
    rules
}

fn loss_rules(machine: &str, percent: u8) -> Vec<String> {
    // nft rejects a comparison that is always true.
    let chance = if percent < 100 { format!("numgen random mod 100 < {percent} ") } else { String::new() };
    ["iifname", "oifname"].map(|side| format!("{side} \"{}\" {chance}counter drop", port(machine))).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_one_way_is_one_rule_and_both_ways_two() {
        let mut block =
            Block { from: Some("node1"), to: Some("node2"), frames: Frames::Udp(7946), one_way: true };
        let there = "iifname \"node1\" oifname \"node2\" meta l4proto udp th dport 7946 counter drop";
        assert_eq!(block_rules(&block), [there]);
        block.one_way = false;
        let back = "iifname \"node2\" oifname \"node1\" meta l4proto udp th dport 7946 counter drop";
        assert_eq!(block_rules(&block), [there, back]);
    }

    #[test]
    fn a_rule_is_only_in_the_chains_that_its_frames_can_pass() {
        let rules =
            block_rules(&Block { from: Some("node1"), to: None, frames: Frames::All, one_way: false });
        let text = ruleset("t", &rules);
        let chain =
            |name: &str| text.split(&format!("chain {name} ")).nth(1).unwrap().split('}').next().unwrap();
        assert!(chain("forward").contains("iifname") && chain("forward").contains("oifname"));
        assert!(chain("input").contains("iifname") && !chain("input").contains("oifname"));
        assert!(chain("output").contains("oifname") && !chain("output").contains("iifname"));
    }

    #[test]
    fn loss_is_both_from_and_to_the_machine() {
        let rules = loss_rules("node1", 30);
        assert!(rules[0].starts_with("iifname \"node1\"") && rules[1].starts_with("oifname \"node1\""));
        assert!(rules[0].contains("mod 100 < 30"));
        assert_eq!(loss_rules("b", 100)[0], "iifname \"b\" counter drop");
    }
}

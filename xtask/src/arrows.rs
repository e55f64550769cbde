//! The arrows of dependency between our crates (README, "How it is built"), and where unsafe code may be.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// Our crates, and the other ones of ours that each may use directly.
const ARROWS: [(&str, &[&str]); 14] = [
    // pure
    ("crds", &[]),
    ("rules", &["crds"]),
    ("ipam", &["crds", "rules"]),
    ("announce", &["crds", "rules"]),
    ("render", &["crds", "rules"]),
    // shells
    ("runtime", &[]),
    ("controller", &["crds", "rules", "ipam", "runtime"]),
    ("speaker", &["crds", "rules", "announce", "runtime"]),
    ("operator", &["crds", "rules", "render", "runtime"]),
    ("lbstack", &["controller", "operator", "runtime", "speaker"]),
    // tests and tools
    ("testbed", &[]),
    ("testbed-tools", &[]),
    ("e2e", &["announce", "crds", "testbed"]),
    ("xtask", &["announce", "crds", "ipam", "render", "rules", "testbed"]),
];

/// Crates without a socket, a clock or a client: what else they may use directly.
const PURE: [&str; 5] = ["crds", "rules", "ipam", "announce", "render"];
const LEAVES: [&str; 13] = [
    "ipnet",
    "jiff",
    "k8s-openapi",
    "kube",
    "rangemap",
    "regex",
    "ring",
    "schemars",
    "serde",
    "serde-saphyr",
    "serde_json",
    "smoltcp",
    "thiserror",
];

/// The files that may hold unsafe code, each with its reason.
const UNSAFE: [(&str, &str); 5] = [
    ("runtime/src/bind.rs", "its tests take an address family away from their thread, by seccomp"),
    ("runtime/src/memory.rs", "parameters of the C library's allocator, which no safe crate sets"),
    ("speaker/src/layer2/driver/clocks.rs", "clock_gettime of clocks that the standard library does not read"),
    ("speaker/src/layer2/packet_socket.rs", "addresses and registration of AF_PACKET sockets, which no safe crate has"),
    ("tests/testbed/tools/src/sys.rs", "the same, and waiting for any child, in programs of the tests"),
];

fn metadata() -> BTreeMap<String, Value> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps"])
        .current_dir(crate::top())
        .output()
        .unwrap();
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    packages.iter().map(|package| (package["name"].as_str().unwrap().to_owned(), package.clone())).collect()
}

/// What `package` depends on when it is used (not when it is tested).
fn dependencies(package: &Value) -> Vec<&Value> {
    package["dependencies"].as_array().unwrap().iter().filter(|d| d["kind"].is_null()).collect()
}

#[test]
fn every_crate_is_drawn_and_uses_only_the_crates_that_its_arrows_point_to() {
    let packages = metadata();
    let drawn: Vec<&str> = ARROWS.iter().map(|(name, _)| *name).collect();
    for name in packages.keys() {
        assert!(drawn.contains(&name.as_str()), "{name} is not drawn: add it to ARROWS and to the README");
    }
    for (name, allowed) in ARROWS {
        for dependency in dependencies(&packages[name]) {
            let dependency = dependency["name"].as_str().unwrap();
            let fine = !packages.contains_key(dependency) || allowed.contains(&dependency);
            assert!(fine, "{name} must not depend on {dependency}");
        }
    }
}

#[test]
fn pure_crates_reach_no_socket_no_clock_and_no_client() {
    let packages = metadata();
    for name in PURE {
        for dependency in dependencies(&packages[name]) {
            let crate_name = dependency["name"].as_str().unwrap();
            assert!(
                packages.contains_key(crate_name) || LEAVES.contains(&crate_name),
                "{name} is pure and must not depend on {crate_name}"
            );
            for feature in dependency["features"].as_array().unwrap() {
                let io = ["client", "runtime", "ws"].contains(&feature.as_str().unwrap());
                assert!(!(crate_name == "kube" && io), "{name} is pure: kube without {feature}");
            }
        }
    }
}

#[test]
fn unsafe_code_stands_only_where_a_reason_stands_for_it() {
    fn visit(folder: &Path, found: &mut Vec<String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if path.is_dir() && !name.starts_with('.') && name != "target" {
                visit(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                let allows = concat!("allow(", "unsafe_code");
                if text.contains(allows) || text.contains(concat!("expect(", "unsafe_code")) {
                    found.push(path.strip_prefix(crate::top()).unwrap().to_str().unwrap().to_owned());
                }
            }
        }
    }
    let mut found = Vec::new();
    visit(&crate::top(), &mut found);
    found.sort();
    found.retain(|file| UNSAFE.iter().all(|(allowed, _)| allowed != file));
    assert!(found.is_empty(), "unsafe code outside the files that may hold it: {found:?}");
}

#[test]
fn the_image_links_one_tls_provider() {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--package", "lbstack", "--edges", "normal", "--prefix", "none"])
        .current_dir(crate::top())
        .output()
        .unwrap();
    let tree = String::from_utf8(output.stdout).unwrap();
    assert!(tree.lines().any(|line| line.starts_with("ring ")), "{tree}");
    assert!(
        !tree.contains("aws-lc"),
        "two providers make every TLS client panic: something turned aws-lc-rs on"
    );
}

//! Rules of the code layout: dependencies between crates (README, "How it is built"), and files with unsafe
//! code.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// The crates of the workspace, and the ones that each may depend on.
const ALLOWED_DEPENDENCIES: [(&str, &[&str]); 14] = [
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

/// Crates without sockets, clocks and API clients, and the external crates that they may depend on.
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

/// The files that may contain unsafe code, with the reasons.
const UNSAFE: [(&str, &str); 5] = [
    ("runtime/src/bind.rs", "its tests disable an address family in their thread by seccomp"),
    ("runtime/src/memory.rs", "parameters of the C library's allocator, which no safe crate sets"),
    (
        "speaker/src/layer2/driver/clocks.rs",
        "clock_gettime of clocks that the standard library does not read",
    ),
    (
        "speaker/src/layer2/packet_socket.rs",
        "addresses and registration of AF_PACKET sockets, which no safe crate has",
    ),
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

/// The normal dependencies of `package`, without those of tests.
fn dependencies(package: &Value) -> Vec<&Value> {
    package["dependencies"].as_array().unwrap().iter().filter(|d| d["kind"].is_null()).collect()
}

#[test]
fn every_crate_is_listed_and_depends_only_on_the_allowed_crates() {
    let packages = metadata();
    let listed: Vec<&str> = ALLOWED_DEPENDENCIES.iter().map(|(name, _)| *name).collect();
    for name in packages.keys() {
        assert!(
            listed.contains(&name.as_str()),
            "{name} is not listed: add it to ALLOWED_DEPENDENCIES and to the README"
        );
    }
    for (name, allowed) in ALLOWED_DEPENDENCIES {
        for dependency in dependencies(&packages[name]) {
            let dependency = dependency["name"].as_str().unwrap();
            let is_allowed = !packages.contains_key(dependency) || allowed.contains(&dependency);
            assert!(is_allowed, "{name} must not depend on {dependency}");
        }
    }
}

#[test]
fn pure_crates_depend_on_no_socket_clock_or_client() {
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
fn unsafe_code_is_only_in_the_listed_files() {
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
    assert!(found.is_empty(), "unsafe code outside of the listed files: {found:?}");
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
        "two providers make every TLS client panic: a dependency enables aws-lc-rs"
    );
}

//! `--name value` on the command line. The tools are called by the testbed, so no more is needed.

use std::collections::BTreeMap;
use std::str::FromStr;

/// The flags that were given.
#[derive(Debug)]
pub struct Flags {
    program: &'static str,
    given: BTreeMap<String, String>,
}

impl Flags {
    /// Reads the process's arguments; `usage` lists what there is.
    pub fn read(program: &'static str, usage: &str) -> Self {
        match parse(std::env::args().skip(1)) {
            Ok(given) => Self { program, given },
            Err(problem) => {
                eprintln!("{program}: {problem}\nusage: {program} {usage}");
                std::process::exit(2);
            }
        }
    }

    /// The value of a flag, or what it is when not given.
    pub fn get<T: FromStr>(&mut self, name: &str, default: T) -> T {
        self.optional(name).unwrap_or(default)
    }

    /// The value of a flag, if it was given.
    pub fn optional<T: FromStr>(&mut self, name: &str) -> Option<T> {
        let text = self.given.remove(name)?;
        let Ok(value) = text.parse() else {
            self.fail(&format!("--{name} cannot be {text:?}"));
        };
        Some(value)
    }

    /// The value of a flag that must be given.
    pub fn required<T: FromStr>(&mut self, name: &str) -> T {
        match self.optional(name) {
            Some(value) => value,
            None => self.fail(&format!("--{name} is missing")),
        }
    }

    /// Ends the program if a flag was given that nobody asked for.
    pub fn end(self) {
        if let Some(name) = self.given.keys().next() {
            self.fail(&format!("there is no flag --{name}"));
        }
    }

    fn fail(&self, problem: &str) -> ! {
        eprintln!("{}: {problem}", self.program);
        std::process::exit(2);
    }
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<BTreeMap<String, String>, String> {
    let mut given = BTreeMap::new();
    while let Some(word) = words.next() {
        let Some(name) = word.strip_prefix("--") else {
            return Err(format!("{word:?} is not a flag"));
        };
        let value = words.next().ok_or_else(|| format!("--{name} has no value"))?;
        given.insert(name.to_owned(), value);
    }
    Ok(given)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> impl Iterator<Item = String> + '_ {
        line.split_whitespace().map(ToOwned::to_owned)
    }

    #[test]
    fn flags_are_pairs() {
        let given = parse(words("--port 80 --name x")).unwrap();
        assert_eq!(given["port"], "80");
        assert_eq!(given["name"], "x");
    }

    #[test]
    fn what_is_not_a_pair_is_refused() {
        assert!(parse(words("port 80")).is_err());
        assert!(parse(words("--port")).is_err());
    }
}

//! Parsing of `--name value` flags, which is sufficient for tools that only the testbed runs.

use std::collections::BTreeMap;
use std::str::FromStr;

/// The flags of the command line.
#[derive(Debug)]
pub struct Flags {
    program: &'static str,
    values: BTreeMap<String, String>,
}

impl Flags {
    /// Parses the arguments of the process; `usage` lists the flags.
    pub fn read(program: &'static str, usage: &str) -> Self {
        match parse(std::env::args().skip(1)) {
            Ok(values) => Self { program, values },
            Err(problem) => {
                eprintln!("{program}: {problem}\nusage: {program} {usage}");
                std::process::exit(2);
            }
        }
    }

    /// The value of a flag, or what it is when not values.
    pub fn get<T: FromStr>(&mut self, name: &str, default: T) -> T {
        self.optional(name).unwrap_or(default)
    }

    /// The value of an optional flag.
    pub fn optional<T: FromStr>(&mut self, name: &str) -> Option<T> {
        let text = self.values.remove(name)?;
        let Ok(value) = text.parse() else {
            self.fail(&format!("--{name} cannot be {text:?}"));
        };
        Some(value)
    }

    /// The value of a mandatory flag.
    pub fn required<T: FromStr>(&mut self, name: &str) -> T {
        match self.optional(name) {
            Some(value) => value,
            None => self.fail(&format!("--{name} is missing")),
        }
    }

    /// Ends the program with an error if there are unknown flags.
    pub fn end(self) {
        if let Some(name) = self.values.keys().next() {
            self.fail(&format!("there is no flag --{name}"));
        }
    }

    fn fail(&self, problem: &str) -> ! {
        eprintln!("{}: {problem}", self.program);
        std::process::exit(2);
    }
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<BTreeMap<String, String>, String> {
    let mut values = BTreeMap::new();
    while let Some(word) = words.next() {
        let Some(name) = word.strip_prefix("--") else {
            return Err(format!("{word:?} is not a flag"));
        };
        let value = words.next().ok_or_else(|| format!("--{name} has no value"))?;
        values.insert(name.to_owned(), value);
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> impl Iterator<Item = String> + '_ {
        line.split_whitespace().map(ToOwned::to_owned)
    }

    #[test]
    fn flags_are_pairs() {
        let values = parse(words("--port 80 --name x")).unwrap();
        assert_eq!(values["port"], "80");
        assert_eq!(values["name"], "x");
    }

    #[test]
    fn an_argument_that_is_not_a_pair_is_rejected() {
        assert!(parse(words("port 80")).is_err());
        assert!(parse(words("--port")).is_err());
    }
}

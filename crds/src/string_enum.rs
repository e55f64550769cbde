//! Enums of strings that the API or users see.

/// Declares an enum whose variants are fixed strings, such as the reasons of conditions. Its `ALL` and `description` are
/// the source of the reference documentation.
#[macro_export]
macro_rules! string_enum {
    (
        $(#[$meta:meta])*
        $vis:vis enum $name:ident {
            $($(#[doc = $doc:literal])+ $variant:ident = $text:literal,)+
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        $vis enum $name {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl $name {
            /// Every value, in the order of declaration.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The string that the API or users see.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)+
                }
            }

            /// The meaning of the string, in one line.
            pub fn description(self) -> &'static str {
                match self {
                    $(Self::$variant => concat!($($doc),+),)+
                }
                .trim_start()
            }
        }

        impl ::std::fmt::Display for $name {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

#[cfg(test)]
mod tests {
    string_enum! {
        /// For the test.
        enum Color {
            /// Like the sky
            /// at noon.
            Blue = "blue",
            /// Like grass.
            Green = "green",
        }
    }

    #[test]
    fn a_value_has_its_string_and_its_description() {
        assert_eq!(Color::ALL, [Color::Blue, Color::Green]);
        assert_eq!(Color::Green.to_string(), "green");
        assert_eq!(Color::Blue.description(), "Like the sky at noon.");
    }
}

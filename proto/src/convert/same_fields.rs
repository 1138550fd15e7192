//! Conversions of messages that have the fields of their core type.

/// Implements the conversions, in both directions, for messages whose fields have the same names and
/// types as those of the core type. Fields after `each` are lists whose elements are converted too.
/// A macro, because the conversions differ only in the names of the fields.
macro_rules! same_fields {
    ($name:ident { $($plain:ident),* } $(each { $($list:ident),* })?) => {
        impl From<&generate::$name> for v1::$name {
            fn from(value: &generate::$name) -> Self {
                Self {
                    $($plain: value.$plain.clone(),)*
                    $($($list: value.$list.iter().map(Into::into).collect(),)*)?
                }
            }
        }
        impl From<generate::$name> for v1::$name {
            fn from(value: generate::$name) -> Self {
                Self {
                    $($plain: value.$plain,)*
                    $($($list: value.$list.into_iter().map(Into::into).collect(),)*)?
                }
            }
        }
        impl From<v1::$name> for generate::$name {
            fn from(value: v1::$name) -> Self {
                Self {
                    $($plain: value.$plain,)*
                    $($($list: value.$list.into_iter().map(Into::into).collect(),)*)?
                }
            }
        }
    };
}

pub(super) use same_fields;

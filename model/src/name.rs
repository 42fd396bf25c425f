//! Which names are allowed, and why the others are not.

use crate::limits::{FOLDER_NAME_BYTES_MAX, KEY_BYTES_MAX};

/// Why a name was refused; the message names it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing there.
    #[error("{what} is empty")]
    Empty {
        /// What kind of name.
        what: &'static str,
    },
    /// Longer than its bound.
    #[error("{what} {shown:?} has {bytes} bytes, at most {max} are allowed")]
    TooLong {
        /// What kind of name.
        what: &'static str,
        /// How it begins.
        shown: String,
        /// Its length.
        bytes: usize,
        /// The bound.
        max: usize,
    },
    /// Would be another place than a folder's child.
    #[error("{what} {name:?} would leave its folder")]
    Escapes {
        /// What kind of name.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// Holds a character that names may not have.
    #[error("{what} {name:?} holds the character {character:?}, which is not allowed")]
    Character {
        /// What kind of name.
        what: &'static str,
        /// The name.
        name: String,
        /// The first such character.
        character: char,
    },
}

fn bounded(what: &'static str, name: &str, max: usize) -> Result<(), NameError> {
    if name.is_empty() {
        return Err(NameError::Empty { what });
    }
    if name.len() > max {
        let shown = name.chars().take(40).collect();
        return Err(NameError::TooLong {
            what,
            shown,
            bytes: name.len(),
            max,
        });
    }
    Ok(())
}

/// Characters that draw text backwards or hide it, so that a name does not look like what it is.
const fn misleads(c: char) -> bool {
    matches!(c, '\u{200B}'..='\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}' | '\u{FEFF}')
}

/// Checks the name of an experiment or a run, which becomes one folder.
///
/// # Errors
/// When it is empty, too long, hidden, would leave its folder, or holds a control or bidirectional character.
///
/// ```
/// use expman_model::check_folder_name;
/// assert!(check_folder_name("run name", "gpt-ddp8").is_ok());
/// assert!(check_folder_name("run name", "../up").is_err());
/// ```
pub fn check_folder_name(what: &'static str, name: &str) -> Result<(), NameError> {
    bounded(what, name, FOLDER_NAME_BYTES_MAX)?;
    if name.starts_with('.') || name.contains(['/', '\\']) {
        return Err(NameError::Escapes {
            what,
            name: name.to_owned(),
        });
    }
    match name.chars().find(|&c| c.is_control() || misleads(c)) {
        Some(character) => Err(NameError::Character {
            what,
            name: name.to_owned(),
            character,
        }),
        None => Ok(()),
    }
}

/// Checks the name of a metric, scalar or top-level parameter, which never becomes a path.
///
/// # Errors
/// When it is empty or longer than [`KEY_BYTES_MAX`].
pub fn check_key(what: &'static str, key: &str) -> Result<(), NameError> {
    bounded(what, key, KEY_BYTES_MAX)
}

/// Checks a `/`-separated artifact name, which becomes a path below `artifacts/`.
///
/// # Errors
/// When a part of it is empty, `.`, `..`, or not allowed as a folder name (a leading dot is).
pub fn check_artifact_name(name: &str) -> Result<(), NameError> {
    const WHAT: &str = "artifact name";
    bounded(WHAT, name, KEY_BYTES_MAX)?;
    for part in name.split('/') {
        if matches!(part, "" | "." | "..") || part.contains('\\') {
            return Err(NameError::Escapes {
                what: WHAT,
                name: name.to_owned(),
            });
        }
        if let Some(character) = part.chars().find(|&c| c.is_control() || misleads(c)) {
            return Err(NameError::Character {
                what: WHAT,
                name: name.to_owned(),
                character,
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folder_names_that_would_escape_or_mislead_are_refused() {
        for bad in [
            "",
            ".",
            "..",
            ".hidden",
            "a/b",
            "a\\b",
            "a\0b",
            "a\rb",
            "a\u{202E}b",
            &"x".repeat(201),
        ] {
            assert!(check_folder_name("run name", bad).is_err(), "{bad:?}");
        }
        for good in ["a", "20260101_000000", "größe", "a b", "x.y"] {
            assert!(check_folder_name("run name", good).is_ok(), "{good:?}");
        }
    }

    #[test]
    fn artifact_names_stay_below_their_folder() {
        for bad in [
            "",
            "/etc/passwd",
            "../x",
            "a/../../x",
            "a//b",
            "a/.",
            "a\nb",
        ] {
            assert!(check_artifact_name(bad).is_err(), "{bad:?}");
        }
        for good in ["model.npz", "ckpt/1000/model.pt", ".config"] {
            assert!(check_artifact_name(good).is_ok(), "{good:?}");
        }
    }
}

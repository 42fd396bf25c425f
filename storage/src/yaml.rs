//! YAML files: read with one library, written with another whose output every reader reads back.

use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::durable::{self, Prepared};
use crate::error::{Result, StorageError};

/// A YAML file larger than this is refused.
const YAML_BYTES_MAX: u64 = 64 << 20;

/// Reads a YAML file; `None` when it is missing or empty.
///
/// # Errors
/// When it can't be read, or is not YAML of this shape.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    if std::fs::metadata(path).is_ok_and(|m| m.len() > YAML_BYTES_MAX) {
        return Err(StorageError::Yaml {
            path: path.to_owned(),
            what: format!("larger than {YAML_BYTES_MAX} bytes"),
        });
    }
    let Some(bytes) = durable::read_if_there(path)? else {
        return Ok(None);
    };
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Ok(None);
    }
    serde_yaml::from_slice(&bytes)
        .map(Some)
        .map_err(|e| StorageError::Yaml {
            path: path.to_owned(),
            what: e.to_string(),
        })
}

/// Writes a YAML file, all or nothing.
///
/// # Errors
/// When the value has no YAML form, or the file can't be written.
pub fn write<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    prepare(path, value)?.publish(None)
}

/// [`write`], up to the moment when it gets its name.
pub(crate) fn prepare<T: Serialize>(path: &Path, value: &T) -> Result<Prepared> {
    let text = serde_saphyr::to_string(value).map_err(|e| StorageError::Yaml {
        path: path.to_owned(),
        what: e.to_string(),
    })?;
    durable::prepare(path, text.as_bytes())
}

#[cfg(test)]
mod tests {
    use expman_model::Param;

    use super::*;

    #[test]
    fn words_that_yaml_readers_take_for_something_else_come_back_as_text() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("c.yaml");
        let words = [
            "on",
            "12:30:45",
            "1e-300",
            "null",
            "~",
            "0x10",
            "- a",
            "a: b",
            "#",
            "",
            " x ",
            "multi\nline",
            "ünï",
        ];
        let map = Param::Map(
            words
                .iter()
                .map(|w| ((*w).to_owned() + "k", Param::Text((*w).to_owned())))
                .collect(),
        );
        write(&path, &map).unwrap();
        assert_eq!(read::<Param>(&path).unwrap(), Some(map));
    }

    #[test]
    fn numbers_come_back_exact() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("c.yaml");
        let list = Param::List(vec![
            Param::Float(1e-300),
            Param::Float(0.1),
            Param::Int(i64::MIN),
            Param::Float(f64::INFINITY),
            Param::Float(5.0),
        ]);
        write(&path, &list).unwrap();
        assert_eq!(read::<Param>(&path).unwrap(), Some(list));
    }
}

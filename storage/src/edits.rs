//! What people write about a run beside its writer: a name, a description, tags.
//!
//! Only the owner writes a run's record, so an edit of a run that is owned is a small file of its own: readers lay it
//! over the record at once, the owner takes it in with its next save and removes it.

use std::path::{Path, PathBuf};

use expman_model::RunMeta;
use expman_model::limits::{
    DESCRIPTION_BYTES_MAX, DISPLAY_NAME_CHARS_MAX, TAG_CHARS_MAX, TAGS_MAX,
};
use serde::{Deserialize, Deserializer, Serialize};

use crate::catalog::ExperimentMeta;
use crate::error::{Result, StorageError};
use crate::layout::{RunDir, names};
use crate::lock::{OwnerLock, is_owned};
use crate::sealer::remove;
use crate::{durable, yaml};

/// How often a run's lock is tried before the edit is left to whoever comes next.
const TRIES: usize = 3;

/// What is to change; `None` is left as it is.
#[expect(
    clippy::option_option,
    reason = "whether it was given, and whether it was given as nothing"
)]
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Edit {
    /// A name for people; `Some(None)` takes it away.
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub display_name: Option<Option<String>>,
    /// The user's text; `Some(None)` takes it away.
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub description: Option<Option<String>>,
    /// All tags; `Some(None)` takes them away.
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub tags: Option<Option<Vec<String>>>,
}

/// Tells a null from nothing at all.
fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Option<T>, D::Error> {
    T::deserialize(from).map(Some)
}

impl Edit {
    /// What is wrong with it, in words for whoever sent it.
    ///
    /// # Errors
    /// With those words.
    pub fn check(&self) -> Result<(), String> {
        let plain = |what: &str, text: &str, max: usize| {
            if text.chars().count() > max {
                return Err(format!("{what} has more than {max} characters"));
            }
            if text.chars().any(char::is_control) {
                return Err(format!("{what} has control characters"));
            }
            Ok(())
        };
        if let Some(Some(name)) = &self.display_name {
            plain("display_name", name, DISPLAY_NAME_CHARS_MAX)?;
        }
        if let Some(Some(text)) = &self.description
            && text.len() > DESCRIPTION_BYTES_MAX
        {
            return Err(format!(
                "description has more than {DESCRIPTION_BYTES_MAX} bytes"
            ));
        }
        if let Some(Some(tags)) = &self.tags {
            if tags.len() > TAGS_MAX {
                return Err(format!("more than {TAGS_MAX} tags"));
            }
            for tag in tags {
                plain(&format!("tag {tag:?}"), tag, TAG_CHARS_MAX)?;
                if tag.trim().is_empty() {
                    return Err("a tag is empty".to_owned());
                }
            }
        }
        Ok(())
    }

    fn apply(
        &self,
        display_name: &mut Option<String>,
        description: &mut Option<String>,
        tags: &mut Vec<String>,
    ) {
        let some = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        if let Some(name) = &self.display_name {
            *display_name = some(name);
        }
        if let Some(text) = &self.description {
            *description = some(text);
        }
        if let Some(new) = &self.tags {
            tags.clear();
            for tag in new.iter().flatten() {
                if !tags.contains(tag) {
                    tags.push(tag.clone());
                }
            }
        }
    }

    /// Changes a run's record.
    pub fn apply_to(&self, meta: &mut RunMeta) {
        self.apply(
            &mut meta.display_name,
            &mut meta.description,
            &mut meta.tags,
        );
    }
}

/// Whether the folder of edits is there, and not a link that leads out of the run.
fn is_ours(dir: &RunDir) -> Result<bool> {
    let path = dir.edits();
    match std::fs::symlink_metadata(&path) {
        Ok(meta) if meta.is_dir() => Ok(true),
        Ok(_) => Err(StorageError::Damaged {
            path,
            offset: 0,
            what: "it is no folder".to_owned(),
        }),
        Err(_) => Ok(false),
    }
}

/// Edits that the run's record does not have yet, the oldest first. One that can't be read is left where it is.
pub(crate) fn pending(dir: &RunDir) -> Vec<(PathBuf, Edit)> {
    let mut files = match is_ours(dir) {
        Ok(true) => names(&dir.edits()).unwrap_or_default(),
        _ => Vec::new(),
    };
    files.retain(|(name, _)| Path::new(name).extension().is_some_and(|e| e == "yaml"));
    files.sort();
    let read = |(_, path): (String, PathBuf)| Some((yaml::read(&path).ok()??, path));
    let edits = files.into_iter().filter_map(read);
    edits.map(|(edit, path)| (path, edit)).collect()
}

/// Whether there are edits to take in: one system call when nobody ever edited the run.
pub(crate) fn are_waiting(dir: &RunDir) -> bool {
    !pending(dir).is_empty()
}

/// Changes what a run's record says of it for people, now or as soon as its owner saves; readers see it at once.
///
/// # Errors
/// When it can't be written, or the record can't be read.
pub fn edit_run(dir: &RunDir, edit: &Edit) -> Result<()> {
    if !is_ours(dir)? {
        durable::create_dir(&dir.edits())?;
    }
    let id = uuid::Uuid::now_v7();
    yaml::write(&dir.edits().join(format!("{id}.yaml")), edit)?;
    // An owner that has just left takes in nothing any more.
    for _ in 0..TRIES {
        if is_owned(dir) {
            return Ok(());
        }
        match OwnerLock::take(dir) {
            Ok(lock) => return settle(dir, &lock),
            Err(StorageError::Locked { .. }) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Brings the edits into the record of a run that nobody else writes.
fn settle(dir: &RunDir, lock: &OwnerLock) -> Result<()> {
    let edits = pending(dir);
    let Some(mut meta) = yaml::read::<RunMeta>(&dir.meta())? else {
        return Ok(());
    };
    for (_, edit) in &edits {
        edit.apply_to(&mut meta);
    }
    yaml::prepare(&dir.meta(), &meta)?.publish(Some(&lock.fence()))?;
    edits.iter().try_for_each(|(path, _)| remove(path))
}

/// Changes what an experiment's record says of it for people.
///
/// # Errors
/// When the record can't be read or written.
pub fn edit_experiment(folder: &Path, edit: &Edit) -> Result<ExperimentMeta> {
    let path = folder.join("experiment.yaml");
    let mut meta: ExperimentMeta = yaml::read(&path)?.unwrap_or_default();
    edit.apply(
        &mut meta.display_name,
        &mut meta.description,
        &mut meta.tags,
    );
    yaml::write(&path, &meta)?;
    Ok(meta)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::open_run;

    fn edit(json: &str) -> Edit {
        serde_json::from_str(json).unwrap()
    }

    fn run(dir: &RunDir) {
        std::fs::create_dir_all(dir.hidden()).unwrap();
        let meta = RunMeta {
            description: Some("old".into()),
            tags: vec!["a".into()],
            ..RunMeta::default()
        };
        yaml::write(&dir.meta(), &meta).unwrap();
    }

    #[test]
    fn a_null_clears_and_nothing_leaves_as_it_is() {
        let mut meta = RunMeta {
            display_name: Some("x".into()),
            description: Some("y".into()),
            tags: vec!["t".into()],
            ..RunMeta::default()
        };
        edit(r#"{"description": null}"#).apply_to(&mut meta);
        assert_eq!(
            (meta.display_name.as_deref(), meta.description.as_deref()),
            (Some("x"), None)
        );
        edit(r#"{"tags": ["b", "b", "c"], "display_name": ""}"#).apply_to(&mut meta);
        assert_eq!(
            (meta.display_name, meta.tags),
            (None, vec!["b".to_owned(), "c".to_owned()])
        );
        assert!(serde_json::from_str::<Edit>(r#"{"status": "finished"}"#).is_err());
    }

    #[test]
    fn an_edit_of_a_run_without_an_owner_is_in_its_record() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = RunDir::at(tmp.path().join("e/r"));
        run(&dir);
        edit_run(&dir, &edit(r#"{"display_name": "best", "tags": null}"#)).unwrap();
        let meta: RunMeta = yaml::read(&dir.meta()).unwrap().unwrap();
        assert_eq!(
            (meta.display_name.as_deref(), meta.tags.len()),
            (Some("best"), 0)
        );
        assert_eq!(meta.description.as_deref(), Some("old"));
        assert!(pending(&dir).is_empty());
    }

    #[test]
    fn an_edit_of_an_owned_run_is_seen_at_once_and_waits_for_the_owner() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = RunDir::at(tmp.path().join("e/r"));
        run(&dir);
        let lock = OwnerLock::take(&dir).unwrap();
        for description in ["first", "second"] {
            let json = format!(r#"{{"description": "{description}"}}"#);
            edit_run(&dir, &edit(&json)).unwrap();
        }
        assert_eq!(pending(&dir).len(), 2);
        let seen = open_run(dir.root()).unwrap().meta.description;
        assert_eq!(seen.as_deref(), Some("second"));
        drop(lock);
        edit_run(&dir, &edit("{}")).unwrap();
        let meta: RunMeta = yaml::read(&dir.meta()).unwrap().unwrap();
        assert_eq!(meta.description.as_deref(), Some("second"));
        assert!(pending(&dir).is_empty());
    }

    #[test]
    fn a_link_in_place_of_the_folder_leads_nowhere() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = RunDir::at(tmp.path().join("e/r"));
        run(&dir);
        let other = tmp.path().join("other");
        std::fs::create_dir(&other).unwrap();
        let strange = other.join("a.yaml");
        yaml::write(&strange, &edit(r#"{"description": "led out"}"#)).unwrap();
        std::os::unix::fs::symlink(&other, dir.edits()).unwrap();
        assert!(pending(&dir).is_empty());
        assert!(edit_run(&dir, &edit(r#"{"tags": ["x"]}"#)).is_err());
        assert_eq!(names(&other).unwrap().len(), 1);
    }

    #[test]
    fn what_is_too_long_or_no_text_is_named() {
        for (json, word) in [
            (
                format!(r#"{{"display_name": "{}"}}"#, "x".repeat(300)),
                "display_name",
            ),
            (r#"{"tags": ["a\nb"]}"#.to_owned(), "control"),
            (r#"{"tags": [" "]}"#.to_owned(), "empty"),
        ] {
            assert!(edit(&json).check().unwrap_err().contains(word), "{json}");
        }
    }
}

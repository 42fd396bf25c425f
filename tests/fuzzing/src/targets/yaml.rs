//! `run.yaml`, `config.yaml` and `experiment.yaml`, which people edit and strangers send.

use std::fmt::Debug;
use std::path::Path;

use expman_model::{Param, RunMeta};
use expman_storage::catalog::ExperimentMeta;
use expman_storage::{RunDir, legacy, yaml};

use crate::folder;
use crate::input::Input;

/// What is understood means the same when it is written and read again.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let choice = input.byte() % 4;
    let folder = folder::fresh();
    let dir = RunDir::at(folder.path());
    folder::put(&dir.meta(), input.rest());
    match choice {
        0 => round_trip::<Param>(&dir.meta()),
        1 => round_trip::<RunMeta>(&dir.meta()),
        2 => round_trip::<ExperimentMeta>(&dir.meta()),
        _ => drop(legacy::read_meta(&dir)),
    }
}

fn round_trip<T>(path: &Path)
where
    T: serde::de::DeserializeOwned + serde::Serialize + Debug,
{
    let read = yaml::read::<T>(path);
    if let (Ok(read), Ok(whole)) = (&read, yaml::read_in_full::<T>(path)) {
        assert_eq!(
            format!("{read:?}"),
            format!("{whole:?}"),
            "read in two ways"
        );
    }
    let Ok(Some(value)) = read else {
        return;
    };
    yaml::write(path, &value).expect("what was read can be written");
    let again = yaml::read::<T>(path).expect("what was written can be read");
    assert_eq!(
        format!("{:?}", Some(value)),
        format!("{again:?}"),
        "it means something else when it is read again"
    );
}

//! Folders to put hostile files into: in memory where the machine has such a place.

use std::path::Path;

use tempfile::TempDir;

/// A folder that goes away with its owner.
pub fn fresh() -> TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir()
        && let Ok(folder) = tempfile::tempdir_in(memory)
    {
        return folder;
    }
    tempfile::tempdir().expect("a folder for temporary files")
}

/// Puts bytes into a file as another program would.
#[expect(
    clippy::disallowed_methods,
    reason = "what is written here is damaged anyway"
)]
pub fn put(path: &Path, bytes: &[u8]) {
    std::fs::write(path, bytes).expect("write a file of a temporary folder");
}

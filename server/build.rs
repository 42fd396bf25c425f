//! Makes sure that the page's folder is there to be embedded, built or not.

use std::path::Path;

fn main() {
    let dist = Path::new("dashboard/dist");
    // A clone without the built page must compile: the server then says that the page is missing.
    if let Err(e) = std::fs::create_dir_all(dist) {
        println!("cargo::error=create {}: {e}", dist.display());
    }
    println!("cargo::rerun-if-changed=dashboard/dist");
}

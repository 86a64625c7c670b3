//! Writes the seeds of every target to `corpus/<target>/`, where cargo-fuzz looks for them.
//!
//! Must not: touch what is there already under another name.

use std::path::Path;

fn main() -> std::io::Result<()> {
    for (target, _) in forewarm_fuzz::TARGETS {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
        std::fs::create_dir_all(&folder)?;
        for (nth, seed) in forewarm_fuzz::seeds(target).iter().enumerate() {
            std::fs::write(folder.join(format!("seed-{nth}")), seed)?;
        }
    }
    Ok(())
}

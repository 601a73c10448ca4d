//! Where the recipes are, and the Node that runs them: looked up in the environment of the user's
//! own session and beside this program, never in a project's files.
use std::env;
use std::ffi::OsString;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::failure;
use crate::core::identity::ServiceName;
use crate::core::problem::Answer;

/// Names the folder of the recipes.
const RECIPES: &str = "AGENTKEYS_RECIPES";
/// Names the Node program.
const NODE: &str = "AGENTKEYS_NODE";
/// The oldest version of Node that runs them.
pub const OLDEST_NODE: u32 = 20;
/// How long it may take to say its version.
const VERSION_PATIENCE: Duration = Duration::from_secs(10);

/// What a recipe is started with.
pub struct Found {
    /// The Node program.
    pub node: PathBuf,
    /// What it runs.
    pub main: PathBuf,
}

/// Finds both for a recipe of `service`.
///
/// # Errors
/// `PROVISION_FAILED`: which of them is missing.
pub fn find(service: &ServiceName) -> Answer<Found> {
    let folder = folder()?;
    let main = folder.join("dist/main.js");
    if !main.is_file() || !folder.join("node_modules").is_dir() {
        return Err(failure::not_built(&folder));
    }
    if !folder.join(format!("dist/recipes/{service}.js")).is_file() {
        return Err(failure::no_recipe(service, &folder));
    }
    let node = node()?;
    match version(&node) {
        Some(version) if version >= OLDEST_NODE => Ok(Found { node, main }),
        found => Err(failure::old_node(&node, found)),
    }
}

/// The services that there are recipes for; none where there is no folder of them, or it is not
/// built.
pub fn services() -> Vec<ServiceName> {
    let Ok(folder) = folder() else { return Vec::new() };
    let entries = std::fs::read_dir(folder.join("dist/recipes")).into_iter().flatten().flatten();
    let mut found: Vec<ServiceName> = entries
        .filter_map(|entry| entry.file_name().to_str()?.strip_suffix(".js")?.parse().ok())
        .collect();
    found.sort();
    found
}

fn folder() -> Answer<PathBuf> {
    if let Some(named) = env::var_os(RECIPES) {
        let named = PathBuf::from(named);
        return if named.is_absolute() && named.is_dir() {
            Ok(named)
        } else {
            Err(failure::no_recipes(&[named]))
        };
    }
    let beside = env::current_exe().ok().and_then(|exe| exe.parent().map(Path::to_path_buf));
    let places: Vec<PathBuf> = beside
        .iter()
        .flat_map(|beside| {
            [
                beside.join("../share/agentkeys/provisioner"),
                // A checkout's target/debug or target/release.
                beside.join("../../scripts/provisioner"),
            ]
        })
        .collect();
    let found = places.iter().find(|place| place.is_dir());
    found.cloned().ok_or_else(|| failure::no_recipes(&places))
}

fn node() -> Answer<PathBuf> {
    let runs = |path: &Path| {
        path.metadata()
            .is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    };
    if let Some(named) = env::var_os(NODE) {
        let named = PathBuf::from(named);
        return if runs(&named) { Ok(named) } else { Err(failure::no_node(Some(&named))) };
    }
    let path =
        env::var_os("PATH").unwrap_or_else(|| OsString::from("/usr/local/bin:/usr/bin:/bin"));
    env::split_paths(&path)
        .map(|folder| folder.join("node"))
        .find(|path| path.is_absolute() && runs(path))
        .ok_or_else(|| failure::no_node(None))
}

/// The first number of its version.
fn version(node: &Path) -> Option<u32> {
    let mut child = Command::new(node)
        .arg("--version")
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let begun = Instant::now();
    while child.try_wait().ok()?.is_none() {
        if begun.elapsed() > VERSION_PATIENCE {
            let _ = child.kill();
            let _ = child.wait();
            return None;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let mut text = String::new();
    child.stdout.take()?.take(64).read_to_string(&mut text).ok()?;
    text.trim().strip_prefix('v')?.split('.').next()?.parse().ok()
}

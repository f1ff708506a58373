//! Landlock: which files, ports and processes can be reached.

use super::{ConfineError, Confinement, Missing};
use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, PathBeneath, RestrictSelf, Ruleset, RulesetAttr,
    RulesetCreatedAttr, Scope, make_bitflags,
};
use rustix::fs::{Mode, OFlags};
use std::os::fd::OwnedFd;
use std::path::Path;

/// The newest version of Landlock whose restrictions are asked for. An older kernel gives those that it
/// knows.
const NEWEST: ABI = ABI::V10;

/// The restrictions that each version brought. What versions from 7 on bring (UDP, Unix sockets with a path)
/// is used where it is there, and not missed where it is not: the filter refuses to make a socket.
const SINCE: [(ABI, Missing); 4] = [
    (ABI::V3, Missing::Truncate),
    (ABI::V4, Missing::Tcp),
    (ABI::V5, Missing::DeviceCommands),
    (ABI::V6, Missing::Scopes),
];

/// Restricts the calling thread, and those that it starts.
pub(crate) fn restrict(c: &Confinement<'_>) -> Result<Vec<Missing>, ConfineError> {
    let mut ruleset = Ruleset::default()
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(AccessNet::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?
        .create()?;
    for path in c.read {
        ruleset = ruleset.add_rule(rule(path, AccessFs::ReadFile.into())?)?;
    }
    let in_folders = make_bitflags!(AccessFs::{ReadFile | WriteFile | Truncate | MakeReg});
    for path in c.write {
        ruleset = ruleset.add_rule(rule(path, in_folders)?)?;
    }
    Ok(missing(ruleset.restrict_self()?.landlock.into()))
}

fn rule(path: &Path, access: BitFlags<AccessFs>) -> Result<PathBeneath<OwnedFd>, ConfineError> {
    // Only names the path: it need not be readable.
    let file = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| ConfineError::Path { path: path.into(), source: e.into() })?;
    Ok(PathBeneath::new(file, access))
}

/// What the running kernel lacks.
pub(super) fn probe() -> Vec<Missing> {
    // Without flags this restricts nothing; it is the crate's way to say what the kernel offers.
    let status = RestrictSelf::default().no_new_privs(false).apply();
    missing(status.map_or(ABI::Unsupported, |status| status.landlock.into()))
}

/// What a version of Landlock lacks.
pub(crate) fn missing(offered: ABI) -> Vec<Missing> {
    if offered == ABI::Unsupported {
        return vec![Missing::Landlock];
    }
    SINCE.iter().filter(|(since, _)| offered < *since).map(|(_, missing)| *missing).collect()
}

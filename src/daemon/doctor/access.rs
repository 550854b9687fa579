//! What a path is to the user who serves. It asks the kernel, as that user, so that access control lists and everything else
//! that decides count.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access};

use super::account::{Account, group_name, user_name};

/// What stands in an inode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) path: PathBuf,
    pub(super) owner: String,
    pub(super) uid: u32,
    pub(super) group: String,
    pub(super) gid: u32,
    /// Permission bits, 07777 at most.
    pub(super) mode: u32,
    pub(super) is_dir: bool,
}

impl Node {
    fn new(path: &Path, metadata: &Metadata) -> Self {
        Self {
            path: path.to_owned(),
            owner: user_name(metadata.uid()),
            uid: metadata.uid(),
            group: group_name(metadata.gid()),
            gid: metadata.gid(),
            mode: metadata.mode() & 0o7777,
            is_dir: metadata.is_dir(),
        }
    }

    /// `owner:group, mode 0644`
    pub(super) fn describe(&self) -> String {
        format!("{}:{}, mode {:04o}", self.owner, self.group, self.mode)
    }

    /// Would the account lose its access if the bits for others were taken away?
    pub(super) fn reached_as_other(&self, account: &Account) -> bool {
        account.uid != self.uid && !account.gids.contains(&self.gid)
    }
}

/// Why something cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Obstacle {
    /// There is nothing of that name.
    Missing,
    /// The kernel says no to this user.
    Denied,
    /// Anything else, in words.
    Other(String),
}

impl From<io::Error> for Obstacle {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::Missing,
            io::ErrorKind::PermissionDenied => Self::Denied,
            _ => Self::Other(super::words::system_text(&error)),
        }
    }
}

/// The inode at a path, if it can be seen.
pub(super) fn node(path: &Path) -> Result<Node, Obstacle> {
    Ok(Node::new(path, &fs::metadata(path)?))
}

/// The directory at which the way to `path` ends for this user: it exists, and may not be passed.
pub(super) fn barrier(path: &Path) -> Option<Node> {
    let absolute = std::path::absolute(path).ok()?;
    let mut ancestors: Vec<&Path> = absolute.ancestors().skip(1).collect();
    ancestors.reverse();
    let blocked = ancestors.into_iter().find(|dir| access(*dir, AccessFlags::X_OK).is_err())?;
    node(blocked).ok().filter(|node| node.is_dir)
}

/// May this user make and remove files in that directory?
pub(super) fn is_writable_dir(path: &Path) -> bool {
    access(path, AccessFlags::W_OK | AccessFlags::X_OK).is_ok()
}

/// May this user write to that file?
pub(super) fn is_writable_file(path: &Path) -> bool {
    access(path, AccessFlags::W_OK).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_tell_owner_and_mode() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        fs::write(&path, "x").unwrap();
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o640)).unwrap();
        let found = node(&path).unwrap();
        assert!(found.describe().ends_with("mode 0640"), "{}", found.describe());
        assert!(!found.reached_as_other(&Account::current()));
        assert_eq!(node(&dir.path().join("none")), Err(Obstacle::Missing));
        assert!(is_writable_dir(dir.path()) && is_writable_file(&path));
        assert_eq!(barrier(&path), None);
    }
}

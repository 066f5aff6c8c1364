//! Who a container's process is: users and groups of the image.

use std::collections::BTreeSet;

/// The image's `/etc/passwd` and `/etc/group`, as far as they exist.
#[derive(Debug, Clone, Default)]
pub(crate) struct Accounts {
    /// Contents of `/etc/passwd`.
    pub(crate) passwd: String,
    /// Contents of `/etc/group`.
    pub(crate) group: String,
}

/// Who a process is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    /// User id.
    pub(crate) uid: u32,
    /// Group id.
    pub(crate) gid: u32,
    /// Further groups, in ascending order.
    pub(crate) additional_gids: Vec<u32>,
    /// Home directory.
    pub(crate) home: String,
}

/// Why a user was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum UserError {
    /// No such name in `/etc/passwd`.
    #[error("unknown user {0:?}: the image's /etc/passwd has no such name")]
    UnknownUser(String),
    /// No such name in `/etc/group`.
    #[error("unknown group {0:?}: the image's /etc/group has no such name")]
    UnknownGroup(String),
    /// A number that no id can be.
    #[error("{0:?} is not a user or group id")]
    OutOfRange(String),
}

struct User<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

struct Group<'a> {
    name: &'a str,
    gid: u32,
    members: Vec<&'a str>,
}

impl Accounts {
    fn users(&self) -> impl Iterator<Item = User<'_>> {
        self.passwd.lines().filter_map(|line| {
            let mut fields = line.trim().split(':');
            let name = fields.next()?;
            let uid = fields.nth(1)?.parse().ok()?;
            let gid = fields.next()?.parse().ok()?;
            let home = fields.nth(1).unwrap_or_default();
            Some(User {
                name,
                uid,
                gid,
                home,
            })
        })
    }

    fn groups(&self) -> impl Iterator<Item = Group<'_>> {
        self.group.lines().filter_map(|line| {
            let mut fields = line.trim().split(':');
            let name = fields.next()?;
            let gid = fields.nth(1)?.parse().ok()?;
            let members = fields.next().unwrap_or_default().split(',').collect();
            Some(Group { name, gid, members })
        })
    }

    fn group_id(&self, text: &str) -> Result<u32, UserError> {
        if let Some(group) = self.groups().find(|group| group.name == text) {
            return Ok(group.gid);
        }
        number(text)?.ok_or_else(|| UserError::UnknownGroup(text.to_owned()))
    }

    /// Who `user` (`NAME|UID[:GROUP|GID]`, empty for root) is, with further groups by name or number.
    pub(crate) fn resolve(&self, user: &str, further: &[String]) -> Result<Identity, UserError> {
        let (user, group) = match user.split_once(':') {
            Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
            None => (user, None),
        };
        let user = if user.is_empty() { "0" } else { user };
        let by_name = self.users().find(|entry| entry.name == user);
        let (entry, uid) = match (by_name, number(user)?) {
            (Some(entry), _) => {
                let uid = entry.uid;
                (Some(entry), uid)
            }
            (None, Some(uid)) => (self.users().find(|entry| entry.uid == uid), uid),
            (None, None) => return Err(UserError::UnknownUser(user.to_owned())),
        };
        let mut additional = BTreeSet::new();
        let gid = match group {
            Some(group) => self.group_id(group)?,
            None => {
                // Only a user without an explicit group is a member of the groups that name it.
                if let Some(entry) = &entry {
                    let named = self
                        .groups()
                        .filter(|group| group.members.contains(&entry.name));
                    additional.extend(named.map(|group| group.gid));
                }
                entry.as_ref().map_or(0, |entry| entry.gid)
            }
        };
        for group in further {
            additional.insert(self.group_id(group)?);
        }
        additional.insert(gid);
        let home = entry
            .as_ref()
            .map(|entry| entry.home)
            .filter(|home| !home.is_empty());
        Ok(Identity {
            uid,
            gid,
            additional_gids: additional.into_iter().collect(),
            home: home.unwrap_or("/").to_owned(),
        })
    }
}

/// The id that a text of digits says; the highest number means "none" to the kernel.
fn number(text: &str) -> Result<Option<u32>, UserError> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(None);
    }
    let number = text.parse().ok().filter(|number| *number != u32::MAX);
    number
        .map(Some)
        .ok_or_else(|| UserError::OutOfRange(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn debian() -> Accounts {
        Accounts {
            passwd: "root:x:0:0:root:/root:/bin/bash\n\
                     broken line\n\
                     www:x:33:33:www:/var/www:/usr/sbin/nologin\n\
                     1000:x:1234:50::/home/odd:/bin/sh\n"
                .to_owned(),
            group: "root:x:0:\nadm:x:4:www,other\nwww:x:33:\nstaff:x:50:root\n".to_owned(),
        }
    }

    fn ids(user: &str) -> (u32, u32, Vec<u32>, String) {
        let id = debian().resolve(user, &[]).unwrap();
        (id.uid, id.gid, id.additional_gids, id.home)
    }

    #[test]
    fn names_and_numbers_are_resolved() {
        assert_eq!(ids(""), (0, 0, vec![0, 50], "/root".to_owned()));
        assert_eq!(ids("www"), (33, 33, vec![4, 33], "/var/www".to_owned()));
        assert_eq!(ids("33"), (33, 33, vec![4, 33], "/var/www".to_owned()));
        assert_eq!(ids("www:staff"), (33, 50, vec![50], "/var/www".to_owned()));
        assert_eq!(ids("77"), (77, 0, vec![0], "/".to_owned()));
        assert_eq!(ids("77:88"), (77, 88, vec![88], "/".to_owned()));
        assert_eq!(ids(":50"), (0, 50, vec![50], "/root".to_owned()));
    }

    #[test]
    fn a_name_of_digits_goes_before_the_number() {
        assert_eq!(ids("1000").0, 1234);
    }

    #[test]
    fn further_groups_are_added() {
        let further = ["adm".to_owned(), "999".to_owned()];
        let id = debian().resolve("root", &further).unwrap();
        assert_eq!(id.additional_gids, [0, 4, 50, 999]);
    }

    #[test]
    fn unknown_names_are_errors() {
        let resolve = |user: &str| debian().resolve(user, &[]).unwrap_err();
        assert_eq!(
            resolve("nobody"),
            UserError::UnknownUser("nobody".to_owned())
        );
        assert_eq!(
            resolve("root:nogroup"),
            UserError::UnknownGroup("nogroup".to_owned())
        );
        assert_eq!(
            resolve("99999999999"),
            UserError::OutOfRange("99999999999".to_owned())
        );
    }
}

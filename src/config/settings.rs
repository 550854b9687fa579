//! What is known about each setting, and reading, setting and printing settings by name. The settings themselves stand in
//! one table, in [`super::table`].

use std::borrow::Cow;

use super::suggest::did_you_mean;
use super::value::{BadValue, Caution, Scalar};

use super::table::DEFAULTS;
pub use super::table::Settings;

/// The form of a setting's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A whole number from 0 up, in C's notation (decimal, 0x…, 0…).
    Int,
    /// Permissions: a whole number, best written in octal.
    Mode,
    /// 0 or 1.
    Bool,
    /// Seconds, fractions allowed.
    Time,
    /// Text.
    Text,
    /// The name of a file or directory.
    File,
    /// A comma list.
    List,
    /// One of these words.
    Choice(&'static [&'static str]),
}

/// When a changed value takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Apply {
    /// On RELOAD, SIGHUP and SET.
    Reload,
    /// Only at start; later changes are accepted and ignored (`changeable` = no).
    Boot,
}

/// Where else the setting can be given, for one database or user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overrides {
    /// Nowhere.
    None,
    /// In `[databases]`.
    Database,
    /// In `[users]`.
    User,
    /// In both; the user's value goes first.
    Both,
    /// In `[virtual_routers]`.
    Router,
}

/// Whether pgtandem does what the setting says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It does.
    Works,
    /// The setting is accepted and there is nothing for it to do, for this reason.
    Idle(&'static str),
    /// The setting is accepted, but this is missing.
    Later(&'static str),
}

/// Who invented the setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// PgBouncer (`doc/config.md`).
    Pgbouncer,
    /// pgtandem; printed behind PgBouncer's hundred.
    Pgtandem,
}

/// Reads a text, within bounds, into one field.
type Setter<S> = fn(&mut S, &str, (i64, i64)) -> Result<Caution, BadValue>;

/// One row of a table of settings: of that of `[pgbouncer]`, or of `[ha]`.
#[derive(Debug)]
pub struct Spec<S: 'static = Settings> {
    /// The name in the file.
    pub name: &'static str,
    /// The form of the value.
    pub kind: Kind,
    /// The default as text; `None` is NULL: such a setting is not reset when a file no longer names it.
    pub default: Option<&'static str>,
    /// The smallest and largest whole number allowed (for [`Kind::Int`] and [`Kind::Mode`]).
    pub bounds: (i64, i64),
    /// When a change takes effect.
    pub apply: Apply,
    /// Where else it can be given.
    pub overrides: Overrides,
    /// Does it work yet?
    pub status: Status,
    /// Whose setting it is.
    pub origin: Origin,
    /// One line about it.
    pub help: &'static str,
    pub(super) get: fn(&S) -> Option<Scalar>,
    pub(super) set: Setter<S>,
    pub(super) same: fn(&S, &S) -> bool,
    pub(super) copy: fn(&mut S, &S),
}

/// Bounds of a number that has no natural upper end: PgBouncer's `int`.
pub(super) const ANY: (i64, i64) = (0, i32::MAX as i64);

/// A row of `SHOW CONFIG`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigRow {
    /// The setting's name.
    pub key: &'static str,
    /// Its value; `None` is NULL.
    pub value: Option<String>,
    /// Its default; `None` is NULL.
    pub default: Option<&'static str>,
    /// Can it be changed while running?
    pub changeable: bool,
}

/// Why `SET` or a line of a file was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SetError {
    /// There is no such setting; perhaps this one is meant.
    Unknown(Option<String>),
    /// The value does not do; the text completes "NAME wants …".
    Value(BadValue),
}

/// What `SET` did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SetDone {
    /// The setting has the new value; perhaps with a caution.
    Changed(Caution),
    /// The setting can only be given at start; nothing changed.
    BootOnly,
}

impl Settings {
    /// The whole table: PgBouncer's settings in the order of its `SHOW CONFIG`, then pgtandem's own.
    #[must_use]
    pub fn specs() -> &'static [Spec] {
        super::table::SPECS
    }

    /// The row for a name (exact letter case, as in PgBouncer).
    #[must_use]
    pub fn spec(name: &str) -> Option<&'static Spec> {
        Self::specs().iter().find(|spec| spec.name == name)
    }

    /// The name that a misspelt one was probably meant to be.
    #[must_use]
    pub fn suggest(name: &str) -> Option<String> {
        did_you_mean(name, Self::specs().iter().map(|spec| spec.name))
    }

    /// Give a setting the value that a file states, whether it is boot-only or not.
    ///
    /// # Errors
    /// Unknown name or a value that does not do; then nothing has changed.
    pub fn assign(&mut self, name: &str, text: &str) -> Result<Caution, SetError> {
        let spec = Self::spec(name).ok_or_else(|| SetError::Unknown(Self::suggest(name)))?;
        (spec.set)(self, text, spec.bounds).map_err(SetError::Value)
    }

    /// The console's `SET name = text`: boot-only settings are accepted and left alone, without looking at the value, as
    /// PgBouncer does.
    ///
    /// # Errors
    /// Unknown name or a value that does not do; then nothing has changed.
    pub fn set(&mut self, name: &str, text: &str) -> Result<SetDone, SetError> {
        let spec = Self::spec(name).ok_or_else(|| SetError::Unknown(Self::suggest(name)))?;
        match spec.apply {
            Apply::Boot => Ok(SetDone::BootOnly),
            Apply::Reload => (spec.set)(self, text, spec.bounds).map(SetDone::Changed).map_err(SetError::Value),
        }
    }

    /// The value of a setting as `SHOW CONFIG` prints it; `None` for NULL and for unknown names.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<String> {
        let spec = Self::spec(name)?;
        (spec.get)(self).map(|value| value.show())
    }

    /// Put a setting back to its default.
    pub(super) fn reset(&mut self, spec: &Spec) {
        (spec.copy)(self, &DEFAULTS);
    }

    /// Does the setting differ from its default?
    #[must_use]
    pub fn is_changed(&self, spec: &Spec) -> bool {
        !(spec.same)(self, &DEFAULTS)
    }

    /// The rows of `SHOW CONFIG`. `conffile` is the file of the command line, shown unless the setting names another.
    #[must_use]
    pub fn show_config(&self, conffile: &str) -> Vec<ConfigRow> {
        Self::specs()
            .iter()
            .map(|spec| {
                let mut value = (spec.get)(self).map(|value| value.show());
                match spec.name {
                    "conffile" if value.is_none() => value = Some(conffile.to_owned()),
                    "auth_ldap_options" => value = value.map(|text| mask_ldap_password(&text).into_owned()),
                    _ => {}
                }
                ConfigRow { key: spec.name, value, default: spec.default, changeable: spec.apply == Apply::Reload }
            })
            .collect()
    }
}

/// `auth_ldap_options` without its password: the console shows settings to people who need not know it.
fn mask_ldap_password(text: &str) -> Cow<'_, str> {
    match text.find("ldapbindpasswd") {
        Some(at) => Cow::Owned(format!("{}ldapbindpasswd=***", text.get(..at).unwrap_or_default())),
        None => Cow::Borrowed(text),
    }
}

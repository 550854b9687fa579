//! From names and texts to a [`Config`]: every name must be known, every value must do, and what does not is reported with
//! its line and with advice.

use std::collections::{BTreeMap, BTreeSet};

use super::checks;
use super::document::{Assignment, Document, Entry, Form};
use super::ha::{self, Ha, HaSettings, RouterEntry};
use super::model::{Config, DEFAULT_PEER_PORT, Database, Peer, User};
use super::params::{self, ALIASES, Param, PeerDraft};
use super::problem::{Place, Problem};
use super::settings::{SetError, Settings, Spec, Status};
use super::suggest;
use super::value::RESERVED_DATABASE;

/// Where each setting and entry was last given: for findings about several of them together.
#[derive(Debug, Default)]
pub struct Places {
    settings: BTreeMap<&'static str, Place>,
    databases: BTreeMap<String, Place>,
    peers: BTreeMap<u16, Place>,
    /// The settings of `[ha]`.
    ha: BTreeMap<&'static str, Place>,
    /// Where `[ha]` begins.
    ha_section: Option<Place>,
    /// Entries of `[virtual_routers]` with their parameters.
    routers: BTreeMap<String, (Place, BTreeMap<&'static str, Place>)>,
    /// Settings of `[ha]` and entries of `[virtual_routers]` that were refused: that they are missing need not be said.
    refused: BTreeSet<String>,
}

impl Places {
    /// The line of the first entry of `[peers]`.
    pub(super) fn peers(&self) -> Option<&Place> {
        self.peers.values().min()
    }

    /// The line of a setting, if the file names it; no name stands in both `[pgbouncer]` and `[ha]`.
    #[must_use]
    pub fn setting(&self, name: &str) -> Option<&Place> {
        self.settings.get(name).or_else(|| self.ha.get(name))
    }

    /// The line on which `[ha]` begins, if there is one.
    #[must_use]
    pub fn ha(&self) -> Option<&Place> {
        self.ha_section.as_ref()
    }

    /// Was a setting of `[ha]`, or an entry of `[virtual_routers]`, given but refused?
    pub(super) fn was_refused(&self, name: &str) -> bool {
        self.refused.contains(name)
    }

    /// Was any entry of `[virtual_routers]` refused, or its line or setting of `[ha]`?
    pub(super) fn anything_refused(&self) -> bool {
        !self.refused.is_empty()
    }

    /// The line of the first of these parameters that a virtual router has, by itself or from `[ha]`; or else the line of
    /// the entry, or of `[ha]`.
    #[must_use]
    pub(super) fn router(&self, entry: &str, params: &[&str]) -> Option<&Place> {
        let entry = self.routers.get(entry);
        let given = |param: &&str| {
            // These two of `[ha]` belong to the router that it describes by itself.
            let inherited = entry.is_none() || !["address", "virtual_router_id"].contains(param);
            let own = entry.and_then(|(_, own)| own.get(*param));
            own.or_else(|| self.ha.get(*param).filter(|_| inherited))
        };
        params.iter().find_map(given).or(entry.map(|(place, _)| place)).or(self.ha())
    }

    /// The line of an entry of `[databases]`.
    #[must_use]
    pub fn database(&self, name: &str) -> Option<&Place> {
        self.databases.get(name)
    }
}

/// Understand a document. The result is usable only if no finding is an error.
pub(super) fn resolve(document: &Document, problems: &mut Vec<Problem>) -> (Config, Places) {
    let mut resolver = Resolver { form: document.form, config: Config::default(), places: Places::default(), problems };
    let mut resets = document.resets.iter().peekable();
    for (index, line) in document.settings.iter().enumerate() {
        while let Some((_, place)) = resets.next_if(|(before, _)| *before <= index) {
            resolver.reset(place);
        }
        resolver.setting(line);
    }
    resets.for_each(|(_, place)| resolver.reset(place));
    resolver.unfinished();
    for entry in &document.databases {
        resolver.database(entry);
    }
    for entry in &document.users {
        resolver.user(entry);
    }
    for entry in &document.peers {
        resolver.peer(entry);
    }
    resolver.pair(document);
    for (name, table, place) in &document.reserved {
        let text = format!("[{name}] is not available yet: it is read and kept, but does nothing");
        resolver.problems.push(Problem::notice(Some(place), text));
        resolver.config.reserved.0.insert(name.clone(), table.clone());
    }
    if !document.incomplete {
        checks::run(&resolver.config, &resolver.places, resolver.problems);
        ha::resolve::run(&mut resolver.config, &resolver.places, resolver.problems);
    }
    (resolver.config, resolver.places)
}

struct Resolver<'a> {
    form: Form,
    config: Config,
    places: Places,
    problems: &'a mut Vec<Problem>,
}

/// PgBouncer's texts for an entry of each section.
struct Words {
    section: &'static str,
    unknown: &'static str,
}

const DATABASES: Words = Words { section: "databases", unknown: "unrecognized connection parameter" };
const USERS: Words = Words { section: "users", unknown: "unrecognized user parameter" };
const ROUTERS: Words = Words { section: "virtual_routers", unknown: "unrecognized parameter of a virtual router" };
const PEERS: Words = Words { section: "peers", unknown: "unrecognized connection parameter" };

impl Resolver<'_> {
    /// NUL ends a string in the PostgreSQL protocol, so a value must not hold one (TOML could).
    fn is_text(&mut self, name: &str, value: &str, place: &Place) -> bool {
        let sound = !value.contains('\0');
        if !sound {
            let text = format!("invalid value for parameter {name} in configuration");
            self.problems.push(Problem::error(Some(place), text).hint("the value contains a NUL byte"));
        }
        sound
    }

    /// A `[pgbouncer]` header puts every setting back to its default, but for those whose default is NULL.
    fn reset(&mut self, place: &Place) {
        let settings = &mut self.config.settings;
        let resettable = |name: &&str| Settings::spec(name).is_some_and(|spec| spec.default.is_some());
        if let Some(name) = self.places.settings.keys().find(|name| resettable(name)) {
            let text = format!("this [pgbouncer] header puts the settings above it ({name}, …) back to their defaults");
            self.problems.push(Problem::warning(Some(place), text).hint("keep all settings in one section"));
        }
        for spec in Settings::specs().iter().filter(|spec| spec.default.is_some()) {
            settings.reset(spec);
            self.places.settings.remove(spec.name);
        }
    }

    fn setting(&mut self, line: &Assignment) {
        if !self.is_text(&line.key, &line.value, &line.place) {
            return;
        }
        let place = Some(&line.place);
        match self.config.settings.assign(&line.key, &line.value) {
            Ok(caution) => {
                if let Some(spec) = Settings::spec(&line.key) {
                    self.places.settings.insert(spec.name, line.place.clone());
                }
                if let Some(caution) = caution {
                    self.problems.push(Problem::warning(place, format!("{}: {caution}", line.key)));
                }
            }
            Err(error) => self.problems.push(explain(self.form, &line.key, &line.value, error).at(&line.place)),
        }
    }

    /// Name the settings that ask for what is missing.
    fn unfinished(&mut self) {
        for spec in Settings::specs() {
            if let (Status::Later(missing), true) = (spec.status, self.config.settings.is_changed(spec)) {
                let text = format!("{} has no effect yet: missing is {missing}", spec.name);
                self.problems.push(Problem::notice(self.places.setting(spec.name), text));
            }
        }
    }

    /// Read the parameters of one entry; false if one is unknown or bad.
    fn params<T>(&mut self, words: &Words, params: &'static [Param<T>], entry: &Entry, into: &mut T) -> bool {
        let mut sound = true;
        for line in &entry.params {
            let place = Some(&line.place);
            let Some(param) = params::find(params, &line.key) else {
                let text = format!("{}: {}", words.unknown, line.key);
                let hint = unknown_param_hint(words, params, &line.key, self.form);
                self.problems.push(Problem::error(place, text).maybe_hint(hint));
                sound = false;
                continue;
            };
            if !self.is_text(&line.key, &line.value, &line.place) {
                sound = false;
                continue;
            }
            match (param.set)(into, &line.value) {
                Ok(None) => {}
                Ok(Some(caution)) => self.problems.push(Problem::warning(place, caution)),
                Err(text) => {
                    let hint = format!("in [{}] entry \"{}\"", words.section, entry.name);
                    self.problems.push(Problem::error(place, text).hint(hint));
                    sound = false;
                }
            }
        }
        sound
    }

    fn named(&mut self, words: &Words, entry: &Entry) -> bool {
        let named = !entry.name.is_empty() && !entry.name.contains('\0');
        if !named {
            let text = format!("an entry of [{}] has no usable name", words.section);
            self.problems.push(Problem::error(Some(&entry.place), text));
        }
        named
    }

    fn database(&mut self, entry: &Entry) {
        if !self.named(&DATABASES, entry) {
            return;
        }
        if entry.name == RESERVED_DATABASE {
            let text = format!("database name \"{RESERVED_DATABASE}\" is reserved");
            let problem = Problem::error(Some(&entry.place), text);
            self.problems.push(problem.hint("it is the admin console; give the entry another name and set dbname="));
            return;
        }
        let mut database = Database::default();
        if !self.params(&DATABASES, params::DATABASE, entry, &mut database) {
            return;
        }
        self.places.databases.insert(entry.name.clone(), entry.place.clone());
        if entry.name == "*" {
            self.config.autodb = Some(database);
            return;
        }
        // The same thing said at length must not look like a change.
        if database.dbname.as_ref() == Some(&entry.name) {
            database.dbname = None;
        }
        self.config.databases.insert(entry.name.clone(), database);
    }

    fn user(&mut self, entry: &Entry) {
        let mut user = User::default();
        if self.named(&USERS, entry) && self.params(&USERS, params::USER, entry, &mut user) {
            self.config.users.insert(entry.name.clone(), user);
        }
    }

    fn peer(&mut self, entry: &Entry) {
        let place = Some(&entry.place);
        let Some(id) = entry.name.trim().parse::<u16>().ok().filter(|id| *id > 0) else {
            let text = "ids of peers must be a number larger than 0 and at most 65535";
            self.problems.push(Problem::error(place, text));
            return;
        };
        let mut draft = PeerDraft::default();
        if !self.params(&PEERS, params::PEER, entry, &mut draft) {
            return;
        }
        let Some(host) = draft.host else {
            self.problems.push(Problem::error(place, format!("host was not provided for peer {id}")));
            return;
        };
        let port = draft.port.unwrap_or(DEFAULT_PEER_PORT);
        self.places.peers.insert(id, entry.place.clone());
        self.config.peers.insert(id, Peer { host, port, pool_size: draft.pool_size });
    }
}

/// The sections `[ha]` and `[virtual_routers]`.
impl Resolver<'_> {
    fn pair(&mut self, document: &Document) {
        let place = document.ha_place.as_ref().or(document.routers.first().map(|entry| &entry.place));
        let Some(place) = place else { return };
        self.places.ha_section = Some(place.clone());
        let mut ha = Ha::default();
        for line in &document.ha {
            self.ha_setting(&mut ha.settings, line);
        }
        for entry in &document.routers {
            self.router(&mut ha, entry);
        }
        self.config.ha = Some(ha);
    }

    fn ha_setting(&mut self, settings: &mut HaSettings, line: &Assignment) {
        if !self.is_text(&line.key, &line.value, &line.place) {
            return;
        }
        let place = Some(&line.place);
        match settings.assign(&line.key, &line.value) {
            Ok(caution) => {
                if let Some(spec) = HaSettings::spec(&line.key) {
                    self.places.ha.insert(spec.name, line.place.clone());
                }
                if let Some(caution) = caution {
                    self.problems.push(Problem::warning(place, format!("{}: {caution}", line.key)));
                }
            }
            Err(SetError::Value(why)) => {
                self.places.refused.insert(line.key.clone());
                self.problems.push(bad_setting(&line.key, &line.value, &why.0).at(&line.place));
            }
            Err(SetError::Unknown(candidate)) => {
                let text = format!("unknown parameter: ha/{}", line.key);
                let main = self.form.main_section();
                let hint = Settings::spec(&line.key)
                    .map(|spec| format!("`{}` is a setting and belongs in section [{main}]", spec.name))
                    .or_else(|| candidate.map(|candidate| format!("did you mean `{candidate}`?")));
                self.problems.push(Problem::error(place, text).maybe_hint(hint));
            }
        }
    }

    fn router(&mut self, ha: &mut Ha, entry: &Entry) {
        let mut router = RouterEntry::default();
        if !self.params(&ROUTERS, params::ROUTER, entry, &mut router) {
            self.places.refused.insert(entry.name.clone());
            return;
        }
        let lines = entry.params.iter();
        let lines = lines.filter_map(|line| Some((params::find(params::ROUTER, &line.key)?.name, line.place.clone())));
        self.places.routers.insert(entry.name.clone(), (entry.place.clone(), lines.collect()));
        ha.entries.insert(entry.name.clone(), router);
    }
}

impl Problem {
    /// The same finding at a place.
    fn at(mut self, place: &Place) -> Self {
        self.place = Some(place.clone());
        self
    }
}

/// The finding about a refused `SET name = value`, in PgBouncer's words: for the log, as the console itself only says
/// `SET failed`.
#[must_use]
pub fn explain_set(name: &str, value: &str, error: SetError) -> Problem {
    explain(Form::Ini, name, value, error)
}

fn explain(form: Form, name: &str, value: &str, error: SetError) -> Problem {
    match error {
        SetError::Unknown(candidate) => {
            let text = format!("unknown parameter: {}/{name}", form.main_section());
            Problem::error(None, text).maybe_hint(unknown_setting_hint(name, candidate, form))
        }
        SetError::Value(why) => bad_setting(name, value, &why.0),
    }
}

/// The finding about a value that a setting cannot have, in PgBouncer's words.
fn bad_setting(name: &str, value: &str, why: &str) -> Problem {
    if name == "auth_dbname" && value == RESERVED_DATABASE {
        let text = format!("cannot use the reserved \"{value}\" database as an auth_dbname");
        return Problem::error(None, text).hint("name the database that auth_query should ask");
    }
    let hint = match (name, value.to_ascii_lowercase().as_str()) {
        ("auth_type", method @ "pam") => format!("{method} authentication is not available yet"),
        _ => format!("{name} wants {why}"),
    };
    Problem::error(None, format!("invalid value \"{value}\" for parameter {name} in configuration")).hint(hint)
}

/// Advice about a name that is no setting: it may be at home in another section, or be misspelt.
fn unknown_setting_hint(name: &str, candidate: Option<String>, form: Form) -> Option<String> {
    if name == "service_name" {
        return Some("`service_name` exists on Windows only; the setting is `job_name`".to_owned());
    }
    let database = params::find(params::DATABASE, name).is_some();
    let user = params::find(params::USER, name).is_some();
    let section = match (form, database, user) {
        (_, false, false) => {
            let of_the_pair = || HaSettings::spec(name).map(|_| "it belongs in section [ha]".to_owned());
            return candidate.map(|candidate| format!("did you mean `{candidate}`?")).or_else(of_the_pair);
        }
        (Form::Ini, true, true) => "it belongs to an entry of section [databases] or [users]",
        (Form::Ini, true, false) => "it belongs to an entry of section [databases]",
        (Form::Ini, false, true) => "it belongs to an entry of section [users]",
        (Form::Toml, true, true) => "it belongs into a table [databases.NAME] or [users.NAME]",
        (Form::Toml, true, false) => "it belongs into a table [databases.NAME]",
        (Form::Toml, false, true) => "it belongs into a table [users.NAME]",
    };
    Some(section.to_owned())
}

/// Advice about a name that is no parameter of an entry.
fn unknown_param_hint<T>(words: &Words, params: &'static [Param<T>], name: &str, form: Form) -> Option<String> {
    let known = params.iter().map(|param| param.name).chain(ALIASES.iter().map(|(old, _)| *old));
    if Settings::spec(name).is_some() {
        return Some(format!("`{name}` is a setting and belongs in section [{}]", form.main_section()));
    }
    if words.section == "virtual_routers" {
        let of_the_pair = HaSettings::spec(name).map(|_| format!("`{name}` is a setting and belongs in section [ha]"));
        return of_the_pair.or_else(|| suggest::hint(name, params.iter().map(|param| param.name)));
    }
    suggest::hint(name, known).or_else(|| {
        let other = match words.section {
            "databases" => params::find(params::USER, name).map(|_| "users"),
            _ => params::find(params::DATABASE, name).map(|_| "databases"),
        };
        other.map(|section| format!("`{name}` is known in section [{section}] only"))
    })
}

/// The place of a setting that a check blames, or of any other that it depends on.
pub(super) fn first_place<'a>(places: &'a Places, names: &[&str]) -> Option<&'a Place> {
    names.iter().find_map(|name| places.setting(name))
}

/// Is the setting a file name that the program reads?
pub(super) fn is_input_file<S>(spec: &Spec<S>) -> bool {
    matches!(
        spec.name,
        "auth_file"
            | "auth_hba_file"
            | "auth_ident_file"
            | "client_tls_ca_file"
            | "client_tls_cert_file"
            | "client_tls_key_file"
            | "server_tls_ca_file"
            | "server_tls_cert_file"
            | "server_tls_key_file"
            | "resolv_conf"
            | "pair_secret_file"
            | "pair_tls_ca_file"
            | "pair_tls_cert_file"
            | "pair_tls_key_file"
    )
}

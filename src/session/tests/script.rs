//! What clients say: messages, and strategies for whole sessions of them.

use proptest::prelude::*;

use crate::wire::frame::{put, put_cstr};

/// A stretch of a client's stream.
#[derive(Clone, Debug)]
pub(super) enum Part {
    Query(Vec<Text>),
    /// A COPY of the simple protocol, other statements around it.
    Copy {
        before: Option<Text>,
        after: Option<Text>,
        feed: Feed,
    },
    /// A pipeline and how it ends.
    Pipeline(Vec<Message>, Finish),
    FunctionCall,
    /// DISCARD ALL or DEALLOCATE ALL.
    Forget {
        all: bool,
        extended: bool,
    },
    /// Anything at all, where it does not belong.
    Wild(u8, Vec<u8>),
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Finish {
    Sync,
    Query,
    FunctionCall,
    /// The next part goes on with it.
    Nothing,
}

#[derive(Clone, Debug)]
pub(super) enum Message {
    Parse(Name, Text),
    Bind(Portal, Name, usize),
    DescribeStatement(Name),
    DescribePortal(Portal),
    Execute(Portal, u32),
    CloseStatement(Name),
    ClosePortal(Portal),
    Flush,
    /// Prepare, bind and run.
    Run(Name, Text),
    /// Bind and run.
    Use(Name),
    /// Parse (of a name of its own or of none), Bind, Execute and the rows of a COPY.
    Copy {
        named: bool,
        fails_to_start: bool,
        feed: Feed,
    },
}

/// The client's side of a COPY.
#[derive(Clone, Debug)]
pub(super) struct Feed {
    /// Sync or Flush ahead of the rows, where the server ignores it.
    early: Option<u8>,
    rows: Vec<u8>,
    /// CopyFail rather than CopyDone.
    fails: bool,
}

/// Statement names; 0 is the unnamed one.
type Name = usize;
type Portal = usize;

const NAMES: [&str; 6] =
    ["", "a", "b", "PGBOUNCER_1", "PGBOUNCER_2", "a long name, as object-relational mappers make them"];
const PORTALS: [&str; 3] = ["", "p", "q"];

/// A statement; those that write get a number that is used once.
#[derive(Clone, Copy, Debug)]
pub(super) enum Text {
    Fixed(&'static str),
    Insert,
    Set,
}

fn text() -> impl Strategy<Value = Text> {
    prop_oneof![
        6 => prop::sample::select(vec!["ROWS 0", "ROWS 1", "ROWS 3", "ECHO", "BIG 700", "SHOW", "NOTICE", "COPYOUT 2", ""])
            .prop_map(Text::Fixed),
        2 => prop::sample::select(vec!["FAIL", "SYNTAX", "DEFER"]).prop_map(Text::Fixed),
        3 => prop::sample::select(vec!["BEGIN", "COMMIT", "ROLLBACK"]).prop_map(Text::Fixed),
        3 => Just(Text::Insert),
        1 => Just(Text::Set),
    ]
}

fn feed() -> impl Strategy<Value = Feed> {
    let early = prop_oneof![2 => Just(None), 2 => Just(Some(b'S')), 1 => Just(Some(b'H'))];
    (early, prop::collection::vec(0u8..12, 0..4), prop::bool::weighted(0.2)).prop_map(|(early, rows, fails)| Feed {
        early,
        rows,
        fails,
    })
}

fn message() -> impl Strategy<Value = Message> {
    let (name, portal) = (0..NAMES.len(), 0..PORTALS.len());
    prop_oneof![
        3 => (name.clone(), text()).prop_map(|(n, t)| Message::Parse(n, t)),
        2 => (portal.clone(), name.clone(), prop_oneof![9 => 0usize..20, 1 => 1000usize..3000])
            .prop_map(|(p, n, len)| Message::Bind(p, n, len)),
        1 => name.clone().prop_map(Message::DescribeStatement),
        1 => portal.clone().prop_map(Message::DescribePortal),
        1 => (portal.clone(), 0u32..3).prop_map(|(p, max)| Message::Execute(p, max)),
        2 => name.clone().prop_map(Message::CloseStatement),
        1 => portal.prop_map(Message::ClosePortal),
        1 => Just(Message::Flush),
        4 => (name.clone(), text()).prop_map(|(n, t)| Message::Run(n, t)),
        8 => name.prop_map(Message::Use),
        2 => (any::<bool>(), prop::bool::weighted(0.1), feed())
            .prop_map(|(named, fails_to_start, feed)| Message::Copy { named, fails_to_start, feed }),
    ]
}

fn part() -> impl Strategy<Value = Part> {
    let finish = prop_oneof![
        12 => Just(Finish::Sync),
        1 => Just(Finish::Query),
        1 => Just(Finish::FunctionCall),
        1 => Just(Finish::Nothing)
    ];
    prop_oneof![
        4 => prop::collection::vec(text(), 0..3).prop_map(Part::Query),
        1 => (prop::option::of(text()), prop::option::of(text()), feed())
            .prop_map(|(before, after, feed)| Part::Copy { before, after, feed }),
        9 => (prop::collection::vec(message(), 0..5), finish).prop_map(|(messages, end)| Part::Pipeline(messages, end)),
        1 => Just(Part::FunctionCall),
        1 => (any::<bool>(), any::<bool>()).prop_map(|(all, extended)| Part::Forget { all, extended }),
    ]
}

/// Sessions of several clients.
pub(super) fn sessions() -> impl Strategy<Value = Vec<Vec<Part>>> {
    prop::collection::vec(prop::collection::vec(part(), 1..8), 1..4)
}

/// Messages without sense: of every type, in any order, well formed and not.
pub(super) fn wild_session() -> impl Strategy<Value = Vec<Part>> {
    let tag = prop_oneof![20 => prop::sample::select(b"PBDCEHSQFdcfPBESSS".to_vec()), 1 => any::<u8>()];
    let piece = prop_oneof![
        6 => prop::sample::select(NAMES.to_vec()).prop_map(|name| [name.as_bytes(), &[0]].concat()),
        2 => prop::sample::select(vec![b"S".to_vec(), b"P".to_vec(), vec![0, 0], vec![0; 4], vec![0, 0, 0, 9]]),
        4 => prop::sample::select(vec!["COPYIN", "BEGIN", "COMMIT", "DEALLOCATE ALL", "DISCARD ALL", "FAIL", "ROWS 2"])
            .prop_map(|text| [text.as_bytes(), &[0]].concat()),
        1 => prop::collection::vec(any::<u8>(), 0..9),
    ];
    let wild = (tag, prop::collection::vec(piece, 0..4)).prop_map(|(tag, body)| Part::Wild(tag, body.concat()));
    let whole = (message(), Just(Finish::Nothing)).prop_map(|(message, end)| Part::Pipeline(vec![message], end));
    let query = prop::sample::select(vec!["ROWS 1;DEALLOCATE ALL", "COPYIN", "COPYIN;COPYIN", "BEGIN;FAIL", "COMMIT"])
        .prop_map(|text| Part::Wild(b'Q', [text.as_bytes(), &[0]].concat()));
    let named = prop::sample::select(vec!["COPYIN", "DEALLOCATE ALL", "DISCARD ALL", "FAIL"])
        .prop_map(|text| Part::Wild(b'P', [b"a\0", text.as_bytes(), &[0, 0, 0]].concat()));
    let sync = Just(Part::Pipeline(Vec::new(), Finish::Sync));
    prop::collection::vec(prop_oneof![2 => wild, 4 => whole, 2 => query, 2 => named, 4 => sync, 2 => part()], 1..25)
}

/// Writes a client's stream.
#[derive(Debug, Default)]
pub(super) struct Script {
    pub(super) bytes: Vec<u8>,
    client: usize,
    writes: usize,
}

impl Script {
    /// The whole session of client number `client`, brought to a quiet end.
    pub(super) fn of(client: usize, parts: &[Part]) -> Self {
        let mut script = Self { client, ..Self::default() };
        for part in parts {
            script.part(part);
        }
        script.sync().query("ROLLBACK").sync();
        script
    }

    fn part(&mut self, part: &Part) {
        match part {
            Part::Query(texts) => {
                let texts: Vec<String> = texts.iter().map(|t| self.text(*t)).collect();
                self.query(&texts.join(";"));
            }
            Part::Copy { before, after, feed } => {
                let before = before.map(|t| self.text(t) + ";").unwrap_or_default();
                let after = after.map(|t| ";".to_owned() + &self.text(t)).unwrap_or_default();
                self.query(&format!("{before}COPYIN{after}"));
                self.feed(feed);
            }
            Part::Pipeline(messages, finish) => {
                for message in messages {
                    self.message(message);
                }
                match finish {
                    Finish::Sync => self.sync(),
                    Finish::Query => self.query("ROWS 1"),
                    Finish::FunctionCall => self.function_call(),
                    Finish::Nothing => self,
                };
            }
            Part::FunctionCall => {
                self.function_call();
            }
            Part::Wild(tag, body) => {
                self.frame(*tag, body);
            }
            Part::Forget { all, extended } => {
                let text = if *all { "DISCARD ALL" } else { "DEALLOCATE ALL" };
                if *extended {
                    self.sync().parse("", text).bind("", "", b"").execute("", 0).sync();
                } else {
                    self.query(text);
                }
            }
        }
    }

    fn message(&mut self, message: &Message) {
        match message {
            Message::Parse(name, text) => {
                let text = self.text(*text);
                self.parse(NAMES[*name], &text)
            }
            Message::Bind(portal, name, len) => self.bind(PORTALS[*portal], NAMES[*name], &vec![b'.'; *len]),
            Message::DescribeStatement(name) => self.describe_statement(NAMES[*name]),
            Message::DescribePortal(portal) => self.target(b'D', b'P', PORTALS[*portal]),
            Message::Execute(portal, rows_max) => self.execute(PORTALS[*portal], *rows_max),
            Message::CloseStatement(name) => self.close_statement(NAMES[*name]),
            Message::ClosePortal(portal) => self.target(b'C', b'P', PORTALS[*portal]),
            Message::Flush => self.frame(b'H', b""),
            Message::Run(name, text) => {
                let text = self.text(*text);
                self.parse(NAMES[*name], &text).bind("", NAMES[*name], b"12").execute("", 0)
            }
            Message::Use(name) => self.bind("", NAMES[*name], b"34").describe_portal("").execute("", 0),
            Message::Copy { named, fails_to_start, feed } => {
                let name = if *named { "copy" } else { "" };
                self.parse(name, if *fails_to_start { "FAIL" } else { "COPYIN" }).bind("", name, b"").execute("", 0);
                self.feed(feed);
                // Lest somebody binds the COPY again and feeds it nothing.
                self.parse("", "ROWS 1")
            }
        };
    }

    fn feed(&mut self, feed: &Feed) {
        if let Some(tag) = feed.early {
            self.frame(tag, b"");
        }
        for row in &feed.rows {
            self.writes += 1;
            let kind = ["bad", "late"].get(usize::from(*row)).unwrap_or(&"row");
            let row = format!("{kind} {}-{}", self.client, self.writes);
            self.frame(b'd', row.as_bytes());
        }
        if feed.fails {
            self.frame(b'f', b"no\0")
        } else {
            self.frame(b'c', b"")
        };
    }

    fn text(&mut self, text: Text) -> String {
        match text {
            Text::Fixed(text) => text.into(),
            Text::Insert => {
                self.writes += 1;
                format!("INSERT {}-{}", self.client, self.writes)
            }
            Text::Set => {
                self.writes += 1;
                format!("SET application_name='{}-{}'", self.client, self.writes)
            }
        }
    }

    // Messages.

    pub(super) fn frame(&mut self, tag: u8, body: &[u8]) -> &mut Self {
        put(&mut self.bytes, tag, |o| o.extend_from_slice(body));
        self
    }

    pub(super) fn query(&mut self, text: &str) -> &mut Self {
        put(&mut self.bytes, b'Q', |o| put_cstr(o, text.as_bytes()));
        self
    }

    pub(super) fn parse(&mut self, name: &str, text: &str) -> &mut Self {
        put(&mut self.bytes, b'P', |o| {
            put_cstr(o, name.as_bytes());
            put_cstr(o, text.as_bytes());
            o.extend_from_slice(&[0, 0]);
        });
        self
    }

    pub(super) fn bind(&mut self, portal: &str, statement: &str, params: &[u8]) -> &mut Self {
        put(&mut self.bytes, b'B', |o| {
            put_cstr(o, portal.as_bytes());
            put_cstr(o, statement.as_bytes());
            o.extend_from_slice(params);
        });
        self
    }

    pub(super) fn target(&mut self, tag: u8, kind: u8, name: &str) -> &mut Self {
        put(&mut self.bytes, tag, |o| {
            o.push(kind);
            put_cstr(o, name.as_bytes());
        });
        self
    }

    pub(super) fn describe_statement(&mut self, name: &str) -> &mut Self {
        self.target(b'D', b'S', name)
    }

    pub(super) fn describe_portal(&mut self, name: &str) -> &mut Self {
        self.target(b'D', b'P', name)
    }

    pub(super) fn close_statement(&mut self, name: &str) -> &mut Self {
        self.target(b'C', b'S', name)
    }

    pub(super) fn execute(&mut self, portal: &str, rows_max: u32) -> &mut Self {
        put(&mut self.bytes, b'E', |o| {
            put_cstr(o, portal.as_bytes());
            o.extend_from_slice(&rows_max.to_be_bytes());
        });
        self
    }

    pub(super) fn run(&mut self, statement: &str) -> &mut Self {
        self.bind("", statement, b"").execute("", 0)
    }

    fn function_call(&mut self) -> &mut Self {
        self.frame(b'F', &[0; 10])
    }

    pub(super) fn sync(&mut self) -> &mut Self {
        self.frame(b'S', b"")
    }

    pub(super) fn flush(&mut self) -> &mut Self {
        self.frame(b'H', b"")
    }
}

//! Settings whose value is one of a few words.

use super::value::{BadValue, Caution, Scalar, Value};

/// An enum whose values are words; letter case does not matter when reading (as PgBouncer's `strcasecmp`).
macro_rules! choice {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $($(#[$vdoc])* $variant,)+ }

        impl $name {
            /// Every value, in PgBouncer's order.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];
            /// The words that name the values.
            pub const WORDS: &'static [&'static str] = &[$($word,)+];

            /// The word for the value.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }

            /// The value for a word; `None` if there is none.
            #[must_use]
            pub fn from_word(word: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|value| value.as_str().eq_ignore_ascii_case(word))
            }
        }

    };
}

/// A choice that refuses unknown words.
macro_rules! strict {
    ($($name:ident),+) => {$(
        impl Value for $name {
            fn null() -> Self {
                Self::ALL[0]
            }
            fn parse(text: &str, _: (i64, i64)) -> Result<(Self, Caution), BadValue> {
                match Self::from_word(text) {
                    Some(value) => Ok((value, None)),
                    None => Err(BadValue(format!("one of {}", Self::WORDS.join(", ")))),
                }
            }
            fn scalar(&self) -> Option<Scalar> {
                Some(Scalar::Text(self.as_str().to_owned()))
            }
        }
    )+};
}

strict!(UnknownStatement, PoolMode, AuthType, SslMode, LoadBalanceHosts, LogFormat, ServerBudget, ListenWhen);

impl Value for SyslogFacility {
    fn null() -> Self {
        Self::Daemon
    }
    /// PgBouncer takes any text and then uses `daemon`.
    fn parse(text: &str, _: (i64, i64)) -> Result<(Self, Caution), BadValue> {
        match Self::from_word(text) {
            Some(facility) => Ok((facility, None)),
            None => Ok((Self::Daemon, Some(format!("there is no facility {text}; it counts as daemon")))),
        }
    }
    fn scalar(&self) -> Option<Scalar> {
        Some(Scalar::Text(self.as_str().to_owned()))
    }
}

choice! {
    /// When a server goes back to its pool (PgBouncer setting `pool_mode`).
    PoolMode {
        /// When the client leaves.
        Session = "session",
        /// When the transaction ends.
        Transaction = "transaction",
        /// When the statement ends; transactions of several statements are refused.
        Statement = "statement",
    }
}

choice! {
    /// How clients prove who they are (PgBouncer setting `auth_type`).
    AuthType {
        /// Any name is let in; every database needs a forced user.
        Any = "any",
        /// Names in auth_file are let in without a password.
        Trust = "trust",
        /// Password in plain text.
        Plain = "plain",
        /// MD5, or SCRAM for users whose secret is one.
        Md5 = "md5",
        /// TLS client certificate.
        Cert = "cert",
        /// As the lines of auth_hba_file say.
        Hba = "hba",
        /// Password in plain text, which an LDAP server judges.
        Ldap = "ldap",
        /// SCRAM-SHA-256 (RFC 7677).
        ScramSha256 = "scram-sha-256",
        /// SCRAM-SHA-256 with channel binding only (RFC 5929); pgtandem's own.
        ScramSha256Plus = "scram-sha-256-plus",
        /// The operating system names the user, over the Unix socket only; pgtandem's own as a method for all.
        Peer = "peer",
    }
}

choice! {
    /// How much TLS is wanted (PgBouncer settings `client_tls_sslmode`, `server_tls_sslmode`). Ordered by strictness.
    SslMode {
        /// No TLS.
        Disable = "disable",
        /// Plain text, TLS if the other side asks.
        Allow = "allow",
        /// TLS if the other side can.
        Prefer = "prefer",
        /// TLS or nothing.
        Require = "require",
        /// TLS, and the certificate must come from the CA.
        VerifyCa = "verify-ca",
        /// TLS, and the certificate must come from the CA and bear the host's name.
        VerifyFull = "verify-full",
    }
}

choice! {
    /// How the hosts of a list are used (PgBouncer database parameter `load_balance_hosts`).
    LoadBalanceHosts {
        /// The first one that works.
        Disable = "disable",
        /// One after the other.
        RoundRobin = "round-robin",
    }
}

choice! {
    /// What the use of a prepared statement that the client does not have comes to; pgtandem's own setting
    /// `unknown_prepared_statement`.
    UnknownStatement {
        /// The session ends, as in PgBouncer.
        Disconnect = "disconnect",
        /// An error, as in PostgreSQL.
        Error = "error",
    }
}

choice! {
    /// The form of log lines; pgtandem's own setting `log_format`.
    LogFormat {
        /// PgBouncer's line.
        Pgbouncer = "pgbouncer",
        /// One JSON object a line.
        Json = "json",
        /// Fields for systemd's journal.
        Journald = "journald",
    }
}

choice! {
    /// The syslog facility (PgBouncer setting `syslog_facility`).
    SyslogFacility {
        /// auth
        Auth = "auth",
        /// authpriv
        Authpriv = "authpriv",
        /// daemon
        Daemon = "daemon",
        /// user
        User = "user",
        /// local0
        Local0 = "local0",
        /// local1
        Local1 = "local1",
        /// local2
        Local2 = "local2",
        /// local3
        Local3 = "local3",
        /// local4
        Local4 = "local4",
        /// local5
        Local5 = "local5",
        /// local6
        Local6 = "local6",
        /// local7
        Local7 = "local7",
    }
}

choice! {
    /// How the two nodes of a pair share the limits of server connections (setting `server_budget` of `[ha]`).
    ServerBudget {
        /// A node may use what the other does not.
        Lend = "lend",
        /// Each node has half.
        Halves = "halves",
        /// Each node has the whole limit for itself.
        Off = "off",
    }
}

choice! {
    /// When a node of a pair takes clients (setting `listen` of `[ha]`).
    ListenWhen {
        /// At all times.
        Always = "always",
        /// While it holds a floating address.
        Active = "active",
    }
}

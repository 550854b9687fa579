//! Certificates made by the openssl program, and handshakes in memory, for the tests of TLS.
#![allow(dead_code, reason = "every test program uses its own part of this")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use pgtandem::tls::{Acceptor, AcceptorParams, Connector, ConnectorParams, PemFile, SslMode, TlsError};
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, ClientConnection, Error, ServerConfig, ServerConnection};
use rustls_pki_types::{ServerName, UnixTime};
use tempfile::TempDir;

/// Makes every certificate of the tests. `leaf NAME CA SUBJECT [EXTENSIONS]` without extensions makes X.509 version 1.
const SCRIPT: &str = r##"
set -e
serial=1
ec() { openssl ecparam -name ${2:-prime256v1} -genkey -out $1.key; }
root() { # name subject [extensions]
    ec $1
    openssl req -new -x509 -days 3650 -key $1.key -out $1.crt -subj "$2" -addext "${3:-basicConstraints=critical,CA:TRUE,pathlen:1}"
}
sign() { # name ca subject [extension lines] ; the key is there
    openssl req -new -key $1.key -subj "$3" -out $1.csr
    serial=$((serial + 1))
    if test -n "$4"; then
        printf "$4\n" > $1.ext
        openssl x509 -req -in $1.csr -CA $2.crt -CAkey $2.key -set_serial $serial -days 1000 -out $1.crt -extfile $1.ext $5
    else
        openssl x509 -req -in $1.csr -CA $2.crt -CAkey $2.key -set_serial $serial -days 1000 -out $1.crt $5
    fi
}
leaf() { ec $1; sign "$@"; }
SAN='subjectAltName=DNS:localhost,IP:127.0.0.1'

root ca "/C=QQ/O=Org1/CN=TestCA1"
root other "/C=QQ/O=Org2/CN=TestCA2"
root impostor "/C=QQ/O=Org1/CN=TestCA1"

# PgBouncer's own test suite: version 1, CN only.
leaf v1 ca "/C=QQ/O=Org1/L=computer/OU=db/CN=localhost"
leaf v1user ca "/C=QQ/O=Org1/L=computer/OU=Dev/CN=bouncer"
leaf san ca "/CN=ignored" "$SAN"
leaf wrongname ca "/CN=localhost" "subjectAltName=DNS:elsewhere.example.com"
leaf wildcard ca "/CN=x" "subjectAltName=DNS:*.example.com"
leaf ipcn ca "/CN=127.0.0.1"
leaf user ca "/CN=alice" "extendedKeyUsage=clientAuth"
leaf sanuser ca "/CN=somebody" "subjectAltName=DNS:carol"
leaf serveronly ca "/CN=localhost" "$SAN\nextendedKeyUsage=serverAuth"
leaf clientonly ca "/CN=localhost" "$SAN\nextendedKeyUsage=clientAuth"
leaf anyuse ca "/CN=localhost" "$SAN\nextendedKeyUsage=anyExtendedKeyUsage"
leaf signonly ca "/CN=localhost" "$SAN\nkeyUsage=keyCertSign"
leaf critical ca "/CN=localhost" "$SAN\n1.2.3.4=critical,DER:0500"
leaf policies ca "/CN=localhost" "$SAN\ncertificatePolicies=critical,1.2.3.4"
leaf emptysubject ca "/" "subjectAltName=critical,DNS:localhost"
ec forever; openssl req -new -key forever.key -subj "/CN=localhost" -out forever.csr
openssl x509 -req -in forever.csr -CA ca.crt -CAkey ca.key -set_serial -5 -days 2900000 -out forever.crt
ec unserial; openssl req -new -key unserial.key -subj "/CN=localhost" -out unserial.csr
openssl x509 -req -in unserial.csr -CA ca.crt -CAkey ca.key -set_serial 0 -days 1000 -out unserial.crt
leaf mustca ca "/CN=localhost" "$SAN\nbasicConstraints=CA:TRUE"

leaf sha1 ca "/CN=localhost" "$SAN" -sha1

# Self-signed, their own root: as people make them, and version 1.
openssl req -new -x509 -nodes -newkey rsa:2048 -days 3650 -keyout selfsigned.key -out selfsigned.crt -subj "/CN=localhost"
ec selfother; openssl req -new -x509 -key selfother.key -days 3650 -out selfother.crt -subj "/CN=localhost"
ec selfv1; openssl req -new -key selfv1.key -subj "/CN=localhost" -out selfv1.csr
openssl x509 -req -in selfv1.csr -signkey selfv1.key -days 3650 -out selfv1.crt
leaf underv1 selfv1 "/CN=localhost" "$SAN"
ec rootv1; openssl req -new -key rootv1.key -subj "/CN=RootV1" -out rootv1.csr
openssl x509 -req -in rootv1.csr -signkey rootv1.key -days 3650 -out rootv1.crt
leaf belowrootv1 rootv1 "/CN=localhost" "$SAN"

# Other keys.
openssl genrsa -out rsa.key 2048; sign rsa ca "/CN=localhost" "$SAN"
openssl rsa -in rsa.key -traditional -out rsapkcs1.key; cp rsa.crt rsapkcs1.crt
openssl pkcs8 -topk8 -nocrypt -in v1.key -out v1pkcs8.key; cp v1.crt v1pkcs8.crt
openssl pkcs8 -topk8 -passout pass:x -in v1.key -out encrypted.key
openssl rsa -in rsa.key -aes128 -traditional -passout pass:x -out encryptedrsa.key
openssl genrsa -out smallrsa.key 1024
ec p384 secp384r1; sign p384 ca "/CN=localhost" "$SAN"
ec p521 secp521r1; sign p521 ca "/CN=localhost" "$SAN"
openssl genpkey -algorithm ed25519 -out ed25519.key; sign ed25519 ca "/CN=localhost" "$SAN"

# CAs with other keys and signatures.
cp rsa.key rsaca.key; openssl req -new -x509 -key rsaca.key -days 3650 -out rsaca.crt -subj "/CN=RSA CA"
leaf belowrsa rsaca "/CN=localhost" "$SAN" -sha384
leaf pss rsaca "/CN=localhost" "$SAN" "-sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:digest"
openssl req -new -x509 -nodes -newkey ed25519 -days 3650 -keyout edca.key -out edca.crt -subj "/CN=Ed CA"
leaf belowed edca "/CN=localhost" "$SAN"
cp smallrsa.key weakca.key; openssl req -new -x509 -key weakca.key -days 3650 -out weakca.crt -subj "/CN=Weak CA"
leaf belowweak weakca "/CN=localhost" "$SAN"

# Intermediates. The CA says pathlen:1, so two of them are one too many.
CA='basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign'
leaf inter ca "/CN=Intermediate" "$CA"
leaf deep inter "/CN=localhost" "$SAN"
cat deep.crt inter.crt > deepchain.crt; cp deep.key deepchain.key
cat inter.crt deep.crt > deepreversed.crt; cp deep.key deepreversed.key
leaf inter2 inter "/CN=Intermediate 2" "$CA"
leaf deeper inter2 "/CN=localhost" "$SAN"
cat deeper.crt inter2.crt inter.crt > toodeep.crt; cp deeper.key toodeep.key
leaf belowleaf san "/CN=localhost" "$SAN"
cat belowleaf.crt san.crt > leafasca.crt; cp belowleaf.key leafasca.key
leaf belowv1 v1user "/CN=localhost" "$SAN"
cat belowv1.crt v1user.crt > v1asca.crt; cp belowv1.key v1asca.key
leaf nosign ca "/CN=No signing" "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,digitalSignature"
leaf belownosign nosign "/CN=localhost" "$SAN"
cat belownosign.crt nosign.crt > kuasca.crt; cp belownosign.key kuasca.key
leaf ekuinter ca "/CN=Client intermediate" "$CA\nextendedKeyUsage=clientAuth"
leaf beloweku ekuinter "/CN=localhost" "$SAN"
cat beloweku.crt ekuinter.crt > ekuchain.crt; cp beloweku.key ekuchain.key

# A tangle: many CAs with one name and one key, each of which may have issued each.
ec tangle; i=0
while test $i -lt 12; do
    i=$((i + 1))
    openssl req -new -x509 -key tangle.key -days 3650 -set_serial $i -out tangle$i.crt -subj "/CN=Tangle"
done
cp tangle1.crt tangle.crt
leaf tangled tangle "/CN=localhost" "$SAN"

# Name constraints.
leaf only ca "/CN=Constrained" "$CA\nnameConstraints=critical,permitted;DNS:localhost,permitted;IP:127.0.0.0/255.0.0.0"
leaf permitted only "/CN=x" "$SAN"
cat permitted.crt only.crt > ncgood.crt; cp permitted.key ncgood.key
leaf forbidden only "/CN=x" "subjectAltName=DNS:localhost,DNS:elsewhere.example.com"
cat forbidden.crt only.crt > ncbad.crt; cp forbidden.key ncbad.key
leaf elsewhere ca "/CN=Constrained elsewhere" "$CA\nnameConstraints=critical,permitted;DNS:example.com"
leaf roundabout elsewhere "/CN=localhost" "keyUsage=digitalSignature"
cat roundabout.crt elsewhere.crt > nccn.crt; cp roundabout.key nccn.key

# Files as they lie about: text round the blocks, several CAs in one file.
openssl x509 -in v1.crt -text -out text.crt; cp v1.key text.key
chmod 600 *.key
{ openssl x509 -in other.crt -text; cat rsaca.crt; echo "# ours"; openssl x509 -in ca.crt -text; } > bundle.crt
"##;

/// The directory with all certificates, made once per test program.
pub(crate) fn dir() -> &'static Path {
    static DIR: OnceLock<TempDir> = OnceLock::new();
    DIR.get_or_init(|| {
        let dir = TempDir::with_prefix("tls-pki").unwrap();
        let output = Command::new("sh").arg("-c").arg(SCRIPT).current_dir(dir.path()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        dir
    })
    .path()
}

/// The path of a file made by the script.
pub(crate) fn path(name: &str) -> PathBuf {
    dir().join(name)
}

/// The contents of a file made by the script.
pub(crate) fn read(name: &str) -> Vec<u8> {
    std::fs::read(path(name)).unwrap()
}

/// The DER of the first certificate of a file.
pub(crate) fn der(name: &str) -> Vec<u8> {
    use rustls_pki_types::pem::PemObject;
    rustls_pki_types::CertificateDer::from_pem_slice(&read(name)).unwrap().to_vec()
}

/// File contents that live as long as the test.
#[derive(Clone, Debug)]
pub(crate) struct File {
    pub(crate) path: String,
    pub(crate) bytes: Vec<u8>,
}

impl File {
    pub(crate) fn of(name: &str) -> Self {
        Self { path: name.to_owned(), bytes: read(name) }
    }

    pub(crate) fn pem(&self) -> PemFile<'_> {
        PemFile { path: &self.path, bytes: &self.bytes }
    }
}

/// Our side towards clients; `pair` names a .crt and a .key.
#[derive(Clone, Debug)]
pub(crate) struct ServerSide {
    pub(crate) mode: SslMode,
    pub(crate) cert: File,
    pub(crate) key: File,
    pub(crate) ca: Option<File>,
    pub(crate) protocols: &'static str,
    pub(crate) ciphers: &'static str,
    pub(crate) tls13_ciphers: &'static str,
    pub(crate) ecdhcurve: &'static str,
}

impl ServerSide {
    pub(crate) fn new(pair: &str) -> Self {
        Self {
            mode: SslMode::Require,
            cert: File::of(&format!("{pair}.crt")),
            key: File::of(&format!("{pair}.key")),
            ca: None,
            protocols: "secure",
            ciphers: "default",
            tls13_ciphers: "",
            ecdhcurve: "auto",
        }
    }

    pub(crate) fn verifying(mut self, mode: SslMode, ca: &str) -> Self {
        self.mode = mode;
        self.ca = Some(File::of(&format!("{ca}.crt")));
        self
    }

    pub(crate) fn protocols(mut self, protocols: &'static str) -> Self {
        self.protocols = protocols;
        self
    }

    pub(crate) fn build(&self) -> Result<Acceptor, TlsError> {
        Acceptor::new(&AcceptorParams {
            sslmode: self.mode,
            cert: self.cert.pem(),
            key: self.key.pem(),
            ca: self.ca.as_ref().map(File::pem),
            protocols: self.protocols,
            ciphers: self.ciphers,
            tls13_ciphers: self.tls13_ciphers,
            ecdhcurve: self.ecdhcurve,
            dheparams: "auto",
        })
    }
}

/// Our side towards servers.
#[derive(Clone, Debug)]
pub(crate) struct ClientSide {
    pub(crate) mode: SslMode,
    pub(crate) ca: Option<File>,
    pub(crate) cert: Option<File>,
    pub(crate) key: Option<File>,
    pub(crate) protocols: &'static str,
    pub(crate) host: &'static str,
}

impl ClientSide {
    pub(crate) fn new(mode: SslMode, ca: Option<&str>) -> Self {
        let ca = ca.map(|name| File::of(&format!("{name}.crt")));
        Self { mode, ca, cert: None, key: None, protocols: "secure", host: "localhost" }
    }

    pub(crate) fn with_pair(mut self, pair: &str) -> Self {
        self.cert = Some(File::of(&format!("{pair}.crt")));
        self.key = Some(File::of(&format!("{pair}.key")));
        self
    }

    pub(crate) fn host(mut self, host: &'static str) -> Self {
        self.host = host;
        self
    }

    pub(crate) fn protocols(mut self, protocols: &'static str) -> Self {
        self.protocols = protocols;
        self
    }

    pub(crate) fn build(&self) -> Result<Connector, TlsError> {
        Connector::new(&ConnectorParams {
            sslmode: self.mode,
            ca: self.ca.as_ref().map(File::pem),
            cert: self.cert.as_ref().map(File::pem),
            key: self.key.as_ref().map(File::pem),
            protocols: self.protocols,
            ciphers: "default",
            tls13_ciphers: "",
        })
    }
}

/// Two connections that have shaken hands.
#[derive(Debug)]
pub(crate) struct Pair {
    pub(crate) server: ServerConnection,
    pub(crate) client: ClientConnection,
}

/// Which side refused, and why.
#[derive(Debug)]
pub(crate) enum Failed {
    Server(Error),
    Client(Error),
}

impl Failed {
    /// The text for the log.
    pub(crate) fn text(&self) -> String {
        match self {
            Self::Server(error) | Self::Client(error) => pgtandem::tls::failure_text(error),
        }
    }
}

/// Shakes hands in memory and goes on until neither side has anything to say (with TLS 1.3 a refused client certificate shows
/// only after the client thinks that all is well).
pub(crate) fn handshake_with(
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
    name: ServerName<'static>,
) -> Result<Pair, Failed> {
    let mut server = ServerConnection::new(server).map_err(Failed::Server)?;
    let mut client = ClientConnection::new(client, name).map_err(Failed::Client)?;
    for _ in 0..20 {
        let mut to_server = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut to_server).unwrap();
        }
        let mut unread = to_server.as_slice();
        while !unread.is_empty() {
            server.read_tls(&mut unread).unwrap();
            server.process_new_packets().map_err(Failed::Server)?;
        }
        let mut to_client = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut to_client).unwrap();
        }
        let mut unread = to_client.as_slice();
        while !unread.is_empty() {
            client.read_tls(&mut unread).unwrap();
            client.process_new_packets().map_err(Failed::Client)?;
        }
        if to_server.is_empty() && to_client.is_empty() {
            break;
        }
    }
    assert!(!server.is_handshaking() && !client.is_handshaking());
    Ok(Pair { server, client })
}

/// Builds both sides and shakes hands.
pub(crate) fn handshake(server: &ServerSide, client: &ClientSide) -> Result<Pair, Failed> {
    let (config, name) = client.build().unwrap().dial(client.host).unwrap();
    handshake_with(Arc::clone(server.build().unwrap().config()), config, name)
}

/// A clock that stands still.
#[derive(Debug)]
pub(crate) struct Clock(pub(crate) u64);

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(self.0)))
    }
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    UnixTime::now().as_secs()
}

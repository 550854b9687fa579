//! Certificates as people have them, made by the openssl program.

use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::process::Folder;

/// `leaf NAME CA SUBJECT [EXTENSIONS]` without extensions makes X.509 version 1. The keys of `ec` are SEC1, with the block
/// of parameters before them.
const SCRIPT: &str = r#"
set -e
serial=1
ec() { openssl ecparam -name prime256v1 -genkey -out $1.key; }
root() { openssl req -new -x509 -days 365 -key $1.key -out $1.crt -subj "$2"; }
sign() {
    openssl req -new -key $1.key -subj "$3" -out $1.csr
    serial=$((serial + 1))
    ext=""
    if test -n "$4"; then printf "$4\n" > $1.ext; ext="-extfile $1.ext"; fi
    openssl x509 -req -in $1.csr -CA $2.crt -CAkey $2.key -set_serial $serial -days 365 -out $1.crt $ext $5
}
leaf() { ec $1; sign "$@"; }
SAN='subjectAltName=DNS:localhost'

ec ca; root ca "/CN=Test CA"
ec other; root other "/CN=Other CA"
openssl req -new -x509 -days 365 -nodes -text -newkey rsa:2048 -keyout selfsigned.key -out selfsigned.crt -subj "/CN=localhost"
ec selfother; root selfother "/CN=localhost"
leaf cnonly ca "/CN=localhost" "basicConstraints=CA:FALSE"
leaf version1 ca "/CN=localhost"
leaf inter ca "/CN=Intermediate" "basicConstraints=critical,CA:TRUE"
leaf deep inter "/CN=localhost" "$SAN"
cat deep.crt inter.crt > chain.crt; cp deep.key chain.key
openssl genrsa -traditional -out pkcs1.key 2048; sign pkcs1 ca "/CN=ignored" "$SAN"
leaf pkcs8 ca "/CN=ignored" "$SAN"; openssl pkcs8 -topk8 -nocrypt -in pkcs8.key -out key; mv key pkcs8.key
openssl ecparam -name secp384r1 -genkey -noout -out sec1.key; sign sec1 ca "/CN=ignored" "$SAN" -sha384
openssl req -new -x509 -days 365 -nodes -newkey ed25519 -keyout ed25519.key -out ed25519.crt -subj "/CN=localhost"

leaf joe ca "/O=Org/CN=joe"
leaf ann ca "/CN=ann" "extendedKeyUsage=clientAuth"
leaf sanjoe ca "/CN=somebody" "subjectAltName=DNS:joe"
leaf foreign other "/CN=joe"
chmod 600 *.key
"#;

/// Certificates that servers show, and the CA that has signed each. All are good for the name localhost.
pub(crate) const KINDS: [(&str, &str); 7] = [
    ("selfsigned", "selfsigned"),
    ("cnonly", "ca"),
    ("version1", "ca"),
    ("chain", "ca"),
    ("pkcs1", "ca"),
    ("pkcs8", "ca"),
    ("sec1", "ca"),
];

/// A folder with all of them.
pub(crate) struct Certificates(Folder);

impl Certificates {
    /// Makes them, for all tests that run at the same time.
    pub(crate) fn make() -> Arc<Self> {
        static SHARED: Mutex<Weak<Certificates>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(made) = shared.upgrade() {
            return made;
        }
        let folder = Folder::new();
        let output = Command::new("sh").args(["-c", SCRIPT]).current_dir(folder.path()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let made = Self(folder);
        for (name, begin) in [("pkcs1", "RSA PRIVATE"), ("pkcs8", "PRIVATE"), ("sec1", "EC PRIVATE")] {
            assert!(made.key(name).starts_with(format!("-----BEGIN {begin} KEY-----").as_bytes()), "{name}");
        }
        let made = Arc::new(made);
        *shared = Arc::downgrade(&made);
        made
    }

    pub(crate) fn path(&self, file: &str) -> String {
        self.0.file(file).display().to_string()
    }

    pub(crate) fn certificate(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.0.file(&format!("{name}.crt"))).unwrap()
    }

    pub(crate) fn key(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.0.file(&format!("{name}.key"))).unwrap()
    }

    /// Conninfo words of a client that shows this certificate.
    pub(crate) fn shown(&self, name: &str) -> String {
        format!("sslcert={} sslkey={}", self.path(&format!("{name}.crt")), self.path(&format!("{name}.key")))
    }

    /// Puts certificate and key into a folder as `{name}.crt` and `{name}.key`.
    pub(crate) fn install(&self, pair: &str, folder: &Folder, name: &str) {
        folder.put(&format!("{name}.crt"), self.certificate(pair));
        folder.put(&format!("{name}.key"), self.key(pair));
    }
}

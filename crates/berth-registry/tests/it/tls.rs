//! Which certificates are believed, and which are shown.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use berth_registry::{Clients, Credentials, Purpose, RegistryOptions, Session};

use crate::kit::limits;

/// An authority, what it signed for a server on the loopback and for a client, and a server.
struct Lab {
    dir: tempfile::TempDir,
    server: Child,
    host: String,
}

impl Lab {
    /// `None` and a named skip without openssl. `verify`: clients must show a certificate.
    fn new(test: &str, verify: bool) -> Option<Self> {
        if !testkit::has_program("openssl") {
            testkit::skip(test, "openssl");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path();
        openssl(
            at,
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key -out ca.pem -subj /CN=ca -days 2",
        );
        for name in ["server", "client"] {
            openssl(
                at,
                &format!(
                    "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout {name}.key -out {name}.csr -subj /CN={name} -addext subjectAltName=IP:127.0.0.1"
                ),
            );
            openssl(
                at,
                &format!(
                    "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -copy_extensions copy -out {name}.pem -days 2"
                ),
            );
        }
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let host = format!("127.0.0.1:{port}");
        let mut command = Command::new("openssl");
        command.args(["s_server", "-www", "-cert", "server.pem", "-key", "server.key", "-accept"]);
        command.arg(&host);
        if verify {
            command.args(["-CAfile", "ca.pem", "-Verify", "2", "-verify_return_error"]);
        }
        let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let server = quiet.current_dir(at).spawn().unwrap();
        let lab = Self { dir, server, host };
        while std::net::TcpStream::connect(&lab.host).is_err() {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        Some(lab)
    }

    /// Puts files into the registry's directory, by their names here and there.
    fn certs(&self, files: &[(&str, &str)]) -> tempfile::TempDir {
        let certs = tempfile::tempdir().unwrap();
        let own = certs.path().join(&self.host);
        std::fs::create_dir(&own).unwrap();
        for (from, to) in files {
            std::fs::copy(self.dir.path().join(from), own.join(to)).unwrap();
        }
        certs
    }

    async fn open(&self, certs: &Path, is_insecure: bool) -> Result<(), String> {
        let options = RegistryOptions::default();
        let mut endpoints = options.endpoints(&self.host, Purpose::Pull).await.unwrap();
        let mut endpoint = endpoints.remove(0);
        endpoint.is_insecure = is_insecure;
        let opened =
            Session::open(&Clients::default(), endpoint, certs, Credentials::default(), limits())
                .await;
        opened.map(drop).map_err(|error| error.to_string())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.server.kill().unwrap();
        self.server.wait().unwrap();
    }
}

fn openssl(dir: &Path, args: &str) {
    let output = Command::new("openssl").args(args.split(' ')).current_dir(dir).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The files for the registry, whether it is called insecure, and what comes of it.
type Trusted<'a> = (&'a [(&'a str, &'a str)], bool, Result<(), String>);

#[tokio::test]
async fn a_certificate_is_believed_when_its_authority_is_there() {
    let Some(lab) = Lab::new("a_certificate_is_believed_when_its_authority_is_there", false) else {
        return;
    };
    let unknown =
        format!("Get \"https://{}/v2/\": x509: certificate signed by unknown authority", lab.host);
    #[rustfmt::skip]
    let table: &[Trusted<'_>] = &[
        (&[],                                     false, Err(unknown)),
        (&[],                                     true,  Ok(())),
        (&[("ca.pem", "ca.crt")],                 false, Ok(())),
    ];
    for (files, is_insecure, expected) in table {
        let certs = lab.certs(files);
        assert_eq!(lab.open(certs.path(), *is_insecure).await, *expected, "{files:?}");
    }
}

#[tokio::test]
async fn a_certificate_is_shown_with_its_key() {
    let Some(lab) = Lab::new("a_certificate_is_shown_with_its_key", true) else { return };
    let shown =
        lab.certs(&[("ca.pem", "ca.crt"), ("client.pem", "x.cert"), ("client.key", "x.key")]);
    assert_eq!(lab.open(shown.path(), false).await, Ok(()));
    let none = lab.certs(&[("ca.pem", "ca.crt")]);
    assert!(lab.open(none.path(), false).await.is_err());
    #[rustfmt::skip]
    let table = [
        (("client.pem", "x.cert"), "missing key x.key for client certificate x.cert. CA certificates must use the extension .crt"),
        (("client.key", "x.key"),  "missing client certificate x.cert for key x.key"),
    ];
    for (file, words) in table {
        let half = lab.certs(&[file]);
        let dir = half.path().join(&lab.host);
        let expected = Err(format!("{}: {words}", dir.display()));
        assert_eq!(lab.open(half.path(), false).await, expected);
    }
}

//! What the TLS tests share: an authority of their own, the real server's process, and servers of
//! a man in the middle that write down every byte that they come to see.
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use agentkeys::backend::http::{self, Limits, ListenAddress, Listener, MakeBackend, Stopped};
use agentkeys::backend::tls::ServerCertificate;
use agentkeys::backend::vault::Vault;
use agentkeys::core::encoding::to_base64;
use agentkeys::web::{CertificatePin, Trust};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use crate::home::BINARY;

/// From when to when a certificate is valid, in years.
pub const VALID: (i32, i32) = (2020, 2096);

fn pem(label: &str, der: &[u8]) -> String {
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", to_base64(der))
}

/// Writes a file that only this user may read.
pub fn private_file(path: &Path, content: &str) {
    use std::os::unix::fs::PermissionsExt;
    // A new file, as renewing programs make it.
    let new = path.with_extension("new");
    std::fs::write(&new, content).unwrap();
    std::fs::set_permissions(&new, PermissionsExt::from_mode(0o600)).unwrap();
    std::fs::rename(&new, path).unwrap();
}

/// A certificate and its key.
pub struct Issued {
    pub certificate: Vec<u8>,
    pub key: Vec<u8>,
}

impl Issued {
    pub fn certificate_pem(&self) -> String {
        pem("CERTIFICATE", &self.certificate)
    }

    pub fn pin(&self) -> CertificatePin {
        CertificatePin::of(&self.certificate)
    }

    /// Its files in a folder: the certificate and the key.
    pub fn files(&self, folder: &Path) -> (PathBuf, PathBuf) {
        let (certificate, key) = (folder.join("chain.pem"), folder.join("key.pem"));
        private_file(&key, &pem("PRIVATE KEY", &self.key));
        private_file(&certificate, &self.certificate_pem());
        (certificate, key)
    }

    /// As a server shows it.
    pub fn served(&self) -> Arc<ServerCertificate> {
        ServerCertificate::named(&self.certificate, &self.key).unwrap()
    }
}

fn params(names: &[&str], subject: &str, (from, until): (i32, i32)) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.distinguished_name.push(DnType::CommonName, subject);
    params.not_before = rcgen::date_time_ymd(from, 1, 1);
    params.not_after = rcgen::date_time_ymd(until, 1, 1);
    params
}

/// A certificate that signed itself.
pub fn self_signed(names: &[&str]) -> Issued {
    let key = KeyPair::generate().unwrap();
    let certificate = params(names, "self-signed of the test", VALID).self_signed(&key).unwrap();
    Issued { certificate: certificate.der().to_vec(), key: key.serialize_der() }
}

/// An authority that signs certificates.
pub struct Authority {
    root: Vec<u8>,
    params: CertificateParams,
    key: KeyPair,
}

impl Authority {
    pub fn new() -> Self {
        static MADE: AtomicUsize = AtomicUsize::new(0);
        Self::named(&format!("authority of the test, {}", MADE.fetch_add(1, Ordering::SeqCst)))
    }

    pub fn named(name: &str) -> Self {
        let mut params = params(&[], name, VALID);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let root = params.self_signed(&key).unwrap().der().to_vec();
        Self { root, params, key }
    }

    pub fn issue(&self, names: &[&str], valid: (i32, i32)) -> Issued {
        let key = KeyPair::generate().unwrap();
        let issuer = Issuer::from_params(&self.params, &self.key);
        let certificate = params(names, "server of the test", valid).signed_by(&key, &issuer);
        Issued { certificate: certificate.unwrap().der().to_vec(), key: key.serialize_der() }
    }

    /// Whoever believes it alone.
    pub fn trust(&self) -> Trust {
        Trust::roots(vec![CertificateDer::from(self.root.clone())]).unwrap()
    }

    /// Its root in a file, for `SSL_CERT_FILE`.
    pub fn file(&self, folder: &Path) -> PathBuf {
        let path = folder.join("roots.pem");
        std::fs::write(&path, pem("CERTIFICATE", &self.root)).unwrap();
        path
    }
}

/// The real server's process, under `--dev`; it is killed with this value.
pub struct Serving {
    child: Child,
    stderr: PathBuf,
    /// What it printed when it was ready.
    pub lines: Vec<String>,
}

impl Serving {
    /// `agentkeys serve --dev --data FOLDER/data ARGUMENTS`; reads as many lines as there are
    /// addresses, and one more for a self-signed certificate.
    pub fn start(folder: &Path, arguments: &[&str]) -> Self {
        let stderr = folder.join("stderr");
        let mut child = Command::new(BINARY)
            .args(["serve", "--dev", "--data"])
            .arg(folder.join("data"))
            .args(arguments)
            .env_clear()
            .env("HOME", folder)
            .env("AGENTKEYS_LOG", "info")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(&stderr).unwrap())
            .spawn()
            .expect("the server starts");
        let listens = |word: &&&str| **word == "--listen" || **word == "--tls-self-signed";
        let wanted = arguments.iter().filter(listens).count();
        let stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        let lines: Vec<_> = stdout.lines().take(wanted).map(Result::unwrap).collect();
        let log = std::fs::read_to_string(&stderr).unwrap();
        assert_eq!(lines.len(), wanted, "{lines:?}\n{log}");
        Self { child, stderr, lines }
    }

    /// The first address with this scheme.
    pub fn url(&self, scheme: &str) -> String {
        let addresses = self.lines.iter().filter_map(|line| line.strip_prefix("listening on "));
        addresses.filter(|address| address.starts_with(scheme)).map(str::to_owned).next().unwrap()
    }

    pub fn port(&self) -> u16 {
        self.url("https://").rsplit(':').next().unwrap().parse().unwrap()
    }

    /// The fingerprint that it printed.
    pub fn pin(&self) -> String {
        let pin = self.lines.iter().find_map(|line| line.strip_prefix("certificate "));
        pin.expect("it prints a fingerprint").to_owned()
    }

    /// What it logged so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.stderr).unwrap()
    }

    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
    }

    /// Waits until it has logged the text.
    #[track_caller]
    pub fn logs(&self, text: &str) {
        let begun = Instant::now();
        while !self.log().contains(text) {
            assert!(begun.elapsed() < Duration::from_secs(20), "no {text:?} in: {}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A server in this process over a vault, or over whatever `make` makes.
pub struct Served {
    pub address: SocketAddr,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Stopped>,
}

impl Served {
    pub fn vault(vault: Vault, certificate: &Arc<ServerCertificate>, limits: Limits) -> Self {
        Self::start(
            Arc::new(move |peer, proof| Arc::new(vault.for_peer(peer).proving(proof))),
            certificate,
            limits,
        )
    }

    pub fn start(make: MakeBackend, shown: &Arc<ServerCertificate>, limits: Limits) -> Self {
        let any = ListenAddress::read("127.0.0.1:0", true).unwrap();
        let listener = Listener::bind_with(&any, Some(shown)).unwrap();
        let ListenAddress::Tls(address) = *listener.address() else { panic!("it speaks TLS") };
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(async move {
            let stopped = async {
                let _ = stopped.await;
            };
            http::run(vec![listener], make, limits, stopped).await.unwrap()
        });
        Self { address, stop, task }
    }

    pub async fn stop(self) -> Stopped {
        let _ = self.stop.send(());
        self.task.await.unwrap()
    }
}

/// A server that writes down whatever it is sent, TLS taken off, and answers with fixed bytes.
pub struct Recorder {
    pub address: SocketAddr,
    connections: Arc<AtomicUsize>,
    heard: Arc<Mutex<Vec<u8>>>,
    task: JoinHandle<()>,
}

impl Recorder {
    /// With a certificate, on a port of its own.
    pub async fn tls(issued: &Issued, answer: &str) -> Self {
        Self::tls_at("127.0.0.1:0".parse().unwrap(), issued, answer).await
    }

    /// With a certificate, in another server's place.
    pub async fn tls_at(address: SocketAddr, issued: &Issued, answer: &str) -> Self {
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(issued.key.clone()));
        let chain = vec![CertificateDer::from(issued.certificate.clone())];
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Self::start(address, Some(TlsAcceptor::from(Arc::new(config))), answer).await
    }

    /// Without TLS.
    pub async fn plain(answer: &str) -> Self {
        Self::start("127.0.0.1:0".parse().unwrap(), None, answer).await
    }

    async fn start(address: SocketAddr, tls: Option<TlsAcceptor>, answer: &str) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let heard = Arc::new(Mutex::new(Vec::new()));
        let (counted, written, answer) = (connections.clone(), heard.clone(), answer.to_owned());
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                counted.fetch_add(1, Ordering::SeqCst);
                let (tls, written, answer) = (tls.clone(), written.clone(), answer.clone());
                tokio::spawn(async move {
                    match tls {
                        None => record(stream, written, answer).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                record(stream, written, answer).await;
                            }
                        }
                    }
                });
            }
        });
        Self { address, connections, heard, task }
    }

    /// How often somebody connected.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// Every byte that came, in the order in which it came.
    pub fn heard(&self) -> String {
        String::from_utf8_lossy(&self.heard.lock().unwrap()).into_owned()
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn record<S>(mut stream: S, heard: Arc<Mutex<Vec<u8>>>, answer: String)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut some = vec![0; 4096];
    while let Ok(read @ 1..) = stream.read(&mut some).await {
        heard.lock().unwrap().extend_from_slice(&some[..read]);
        if some[..read].windows(4).any(|four| four == b"\r\n\r\n") {
            let _ = stream.write_all(answer.as_bytes()).await;
            let _ = stream.flush().await;
        }
    }
}

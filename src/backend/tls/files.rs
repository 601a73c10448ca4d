//! A certificate and its key in files, and looking at them again: whoever renews them writes new
//! ones, and the next connection sees those.
//!
//! Must never go over to files that do not belong together: the old certificate stays then.
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::signal::unix::Signal;
use zeroize::Zeroizing;

use super::{CertificateError, ServerCertificate};
use crate::core::types::Timestamp;
use crate::harden;

/// Largest file of either kind, in bytes.
const MAX_FILE: usize = 256 * 1024;
/// How often the dates are looked at, counted in looks at the files.
const LOOKS_PER_DATE: u32 = 24 * 60;

/// What a chain and a key are read as.
type ChainAndKey = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// Where a certificate and its key lie, in PEM.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CertificateFiles {
    /// The certificate, and after it those that lead to the root.
    pub certificate: PathBuf,
    /// Its key: PKCS#8, SEC1 or PKCS#1.
    pub key: PathBuf,
}

impl CertificateFiles {
    /// Reads both.
    pub(super) fn read(&self) -> Result<ChainAndKey, CertificateError> {
        let nothing = |path: &Path, what| CertificateError::Nothing { path: path.into(), what };
        let pem = read(&self.certificate, 0o022)?;
        let chain: Vec<_> = CertificateDer::pem_slice_iter(&pem)
            .collect::<Result<_, _>>()
            .map_err(|_| nothing(&self.certificate, "certificate"))?;
        if chain.is_empty() {
            return Err(nothing(&self.certificate, "certificate"));
        }
        let pem = read(&self.key, 0o077)?;
        // The library's own error may name what it found.
        let key =
            PrivateKeyDer::from_pem_slice(&pem).map_err(|_| nothing(&self.key, "private key"))?;
        Ok((chain, key))
    }
}

/// Reads a plain file of this user's or root's without the modes that it may not have. Links are
/// followed: renewing programs keep the newest file behind one.
fn read(path: &Path, forbidden: u32) -> Result<Zeroizing<Vec<u8>>, CertificateError> {
    let failed = |source| CertificateError::File { path: path.to_owned(), source };
    let refused = |why| Err(CertificateError::Unsafe { path: path.to_owned(), why });
    let target = std::fs::canonicalize(path).map_err(failed)?;
    let file = harden::open_without_following(&target).map_err(failed)?;
    // Asked of what is open, so that nothing can be put in its place in between.
    let meta = file.metadata().map_err(failed)?;
    if !meta.is_file() {
        return refused("it is not a plain file");
    }
    if meta.uid() != harden::effective_uid() && meta.uid() != 0 {
        return refused("it belongs to another user");
    }
    if meta.mode() & forbidden != 0 {
        return refused(match forbidden {
            0o077 => "other users can read or change it: chmod 600",
            _ => "other users can change it: chmod go-w",
        });
    }
    // At full size from the start: growing would leave copies behind.
    let mut content = Zeroizing::new(Vec::with_capacity(MAX_FILE + 1));
    file.take(MAX_FILE as u64 + 1).read_to_end(&mut content).map_err(failed)?;
    if content.len() > MAX_FILE {
        return refused("it is too long");
    }
    Ok(content)
}

/// Looks at the files after each `every` and each signal, and shows what they hold from then on.
/// What is wrong with them is logged once, and the certificate stays as it is. Never ends.
pub async fn follow(
    certificate: Arc<ServerCertificate>,
    files: CertificateFiles,
    every: Duration,
    mut signal: Signal,
    now: impl Fn() -> Timestamp,
) {
    let mut complained = String::new();
    let mut looks = 0u32;
    loop {
        let told = tokio::select! {
            () = tokio::time::sleep(every) => false,
            told = signal.recv() => told.is_some(),
        };
        let files = files.clone();
        let read = tokio::task::spawn_blocking(move || files.read()).await;
        let Ok(read) = read else { continue };
        match read.and_then(|(chain, key)| certificate.replace(chain, key)) {
            Ok(changed) => {
                complained.clear();
                if changed || told {
                    shown(&certificate);
                }
                looks += 1;
                if changed || told || looks.is_multiple_of(LOOKS_PER_DATE) {
                    warn_of_dates(&certificate, now());
                }
            }
            Err(error) => {
                let why = super::super::serve::chain(&error);
                if told || why != complained {
                    tracing::warn!(error = %why, "the certificate stays as it was");
                }
                complained = why;
            }
        }
    }
}

/// Logs what is shown.
pub fn shown(certificate: &ServerCertificate) {
    let says = certificate.says();
    tracing::info!(
        certificate = %says.pin,
        names = %says.whom(),
        issuer = %says.issuer,
        until = %says.not_after,
        "this server shows a certificate"
    );
}

/// Logs what is wrong with the dates.
pub fn warn_of_dates(certificate: &ServerCertificate, now: Timestamp) {
    if let Some(warning) = certificate.dates(now) {
        tracing::warn!("{warning}");
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    struct Scene {
        folder: tempfile::TempDir,
        files: CertificateFiles,
    }

    impl Scene {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let files = CertificateFiles {
                certificate: folder.path().join("cert.pem"),
                key: folder.path().join("key.pem"),
            };
            let scene = Self { folder, files };
            let (certificate, key) =
                super::super::make(&["localhost".into()], Timestamp(0)).unwrap();
            scene.write("cert.pem", "CERTIFICATE", &certificate, 0o644);
            scene.write("key.pem", "PRIVATE KEY", &key, 0o600);
            scene
        }

        fn write(&self, name: &str, label: &str, der: &[u8], mode: u32) {
            let body = crate::core::encoding::to_base64(der);
            let pem = format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n");
            let path = self.folder.path().join(name);
            std::fs::write(&path, pem).unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        }

        fn refusal(&self) -> String {
            ServerCertificate::of_files(&self.files).unwrap_err().to_string()
        }
    }

    #[test]
    fn a_key_that_others_may_read_is_refused() {
        let scene = Scene::new();
        assert!(ServerCertificate::of_files(&scene.files).is_ok());
        for mode in [0o640, 0o604, 0o620] {
            let mode = PermissionsExt::from_mode(mode);
            std::fs::set_permissions(&scene.files.key, mode).unwrap();
            assert!(scene.refusal().contains("chmod 600"), "{}", scene.refusal());
        }
        let only_ours = PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&scene.files.key, only_ours).unwrap();
        let others = PermissionsExt::from_mode(0o666);
        std::fs::set_permissions(&scene.files.certificate, others).unwrap();
        assert!(scene.refusal().contains("chmod go-w"));
    }

    #[tokio::test]
    async fn files_are_looked_at_again_by_themselves() {
        let scene = Scene::new();
        let shown = ServerCertificate::of_files(&scene.files).unwrap();
        let first = shown.pin();
        let hangup = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup());
        let every = Duration::from_millis(5);
        let files = scene.files.clone();
        let follow = follow(shown.clone(), files, every, hangup.unwrap(), || Timestamp(0));
        let follow = tokio::spawn(follow);
        let (certificate, key) = super::super::make(&["localhost".into()], Timestamp(0)).unwrap();
        let second = crate::web::CertificatePin::of(&certificate);
        scene.write("cert.pem", "CERTIFICATE", &certificate, 0o644);
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(shown.pin(), first, "a certificate without its key is shown");
        scene.write("key.pem", "PRIVATE KEY", &key, 0o600);
        let changed = async {
            while shown.pin() != second {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), changed).await.expect("it is not shown");
        follow.abort();
    }

    #[test]
    fn links_are_followed_and_what_they_lead_to_is_looked_at() {
        let mut scene = Scene::new();
        let link = scene.folder.path().join("live.pem");
        symlink(&scene.files.key, &link).unwrap();
        scene.files.key = link;
        assert!(ServerCertificate::of_files(&scene.files).is_ok());
        let open = PermissionsExt::from_mode(0o644);
        std::fs::set_permissions(scene.folder.path().join("key.pem"), open).unwrap();
        assert!(scene.refusal().contains("chmod 600"));
    }

    #[test]
    fn what_is_missing_empty_or_mixed_up_is_named_and_never_shown() {
        let mut scene = Scene::new();
        let (certificate, key) = (scene.files.certificate.clone(), scene.files.key.clone());
        scene.files = CertificateFiles { certificate: key.clone(), key: certificate.clone() };
        assert!(scene.refusal().contains("holds no certificate in PEM"), "{}", scene.refusal());
        scene.files = CertificateFiles { certificate, key: key.clone() };
        std::fs::write(&key, "MIGHAgEAMBMGByqGSM49").unwrap();
        let refusal = scene.refusal();
        assert!(refusal.contains("no private key in PEM") && !refusal.contains("MIGH"));
        std::fs::write(&key, vec![b'a'; MAX_FILE + 1]).unwrap();
        assert!(scene.refusal().contains("too long"));
        std::fs::remove_file(&key).unwrap();
        assert!(scene.refusal().contains("cannot read"));
        std::fs::create_dir(&key).unwrap();
        assert!(scene.refusal().contains("not a plain file"));
    }
}

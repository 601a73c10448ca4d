//! Lists of certificates for a program to trust: this machine's, or those that a person named, and
//! one of ours besides.
//!
//! Must never write anything but certificates: a file that is read may hold a key as well.
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

/// A certificate.
pub type Certificate = CertificateDer<'static>;

/// Where systems keep the list that OpenSSL reads, whatever the environment says; the first that is
/// there counts.
const LISTS: [&str; 6] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/cacert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];
/// Most bytes of one file.
const MAX_FILE: u64 = 16 * 1024 * 1024;
/// Most files of one folder.
const MAX_FILES: usize = 2000;

/// The certificates that this machine trusts; none if it has no list.
pub fn of_machine() -> Vec<Certificate> {
    let found = LISTS.iter().map(|list| of_file(Path::new(list)));
    let found = found.flatten().find(|list| !list.is_empty());
    found.unwrap_or_else(|| rustls_native_certs::load_native_certs().certs)
}

/// The certificates in a file, or in the files of a folder; `None` if it cannot be read.
pub fn of_path(path: &Path) -> Option<Vec<Certificate>> {
    if !path.is_dir() {
        return of_file(path);
    }
    let mut found: Vec<Certificate> = Vec::new();
    for entry in std::fs::read_dir(path).ok()?.take(MAX_FILES).flatten() {
        // One certificate has several names there, by links.
        for certificate in of_file(&entry.path()).unwrap_or_default() {
            if !found.contains(&certificate) {
                found.push(certificate);
            }
        }
    }
    Some(found)
}

fn of_file(path: &Path) -> Option<Vec<Certificate>> {
    // Not a pipe, which may have nobody at its other end.
    if !path.is_file() {
        return None;
    }
    let mut text = Vec::new();
    File::open(path).ok()?.take(MAX_FILE).read_to_end(&mut text).ok()?;
    Some(CertificateDer::pem_slice_iter(&text).flatten().collect())
}

/// Certificates as files hold them.
pub fn pem<'a>(certificates: impl IntoIterator<Item = &'a Certificate>) -> String {
    let mut out = String::new();
    for certificate in certificates {
        out.push_str("-----BEGIN CERTIFICATE-----\n");
        let text = STANDARD.encode(certificate);
        for line in text.as_bytes().chunks(64) {
            out.push_str(&String::from_utf8_lossy(line));
            out.push('\n');
        }
        out.push_str("-----END CERTIFICATE-----\n");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_but_certificates_is_taken_over() {
        let folder = tempfile::tempdir().unwrap();
        let one = CertificateDer::from(vec![1; 100]);
        let other = CertificateDer::from(vec![2; 48]);
        let key = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
        let text = format!("# words\n{}{key}{}", pem([&one]), pem([&other]));
        let file = folder.path().join("both.pem");
        std::fs::write(&file, text).unwrap();
        assert_eq!(of_path(&file).unwrap(), [one.clone(), other.clone()]);
        std::os::unix::fs::symlink(&file, folder.path().join("again.0")).unwrap();
        assert_eq!(of_path(folder.path()).unwrap().len(), 2);
        let again = pem(&of_path(&file).unwrap());
        assert!(!again.contains("PRIVATE") && !again.contains("words"));
        assert!(again.lines().all(|line| line.len() <= 64));
        assert_eq!(of_path(Path::new("/nowhere")), None);
    }
}

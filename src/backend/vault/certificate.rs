//! The self-signed certificate of this backend's TLS, and its key: made once, so that whoever
//! pinned it still knows the backend after a restart. The key is sealed like every row, so a
//! thief of the data folder cannot pose as the backend.
use zeroize::Zeroizing;

use super::journal::Proposal;
use super::rows::SelfSignedRow;
use super::{MAX_TRIES, Vault, answer, keys};
use crate::backend::store::Check;
use crate::core::problem::Answer;

/// A certificate and its private key, as DER.
pub type SelfSigned = (Vec<u8>, Zeroizing<Vec<u8>>);

impl Vault {
    /// The certificate that is kept, or what `make` makes, which is kept from then on.
    ///
    /// # Errors
    /// Those of `make`, and when the store does not answer or cannot record it.
    pub async fn self_signed<E: From<crate::core::problem::Problem>>(
        &self,
        make: impl Fn() -> Result<SelfSigned, E>,
    ) -> Result<SelfSigned, E> {
        let key = keys::self_signed();
        for _ in 0..MAX_TRIES {
            if let Some(kept) = self.kept().await? {
                return Ok(kept);
            }
            let (certificate, private) = make()?;
            let row = SelfSignedRow { certificate, key: private.to_vec() };
            let proposal = Proposal {
                checks: vec![Check::Absent(key.clone())],
                writes: vec![self.0.put(key.clone(), &row)?],
                ..Proposal::default()
            };
            if self.0.propose(proposal).await? {
                return Ok((row.certificate.clone(), private));
            }
        }
        Err(answer::busy().into())
    }

    async fn kept(&self) -> Answer<Option<SelfSigned>> {
        let kept = self.0.load::<SelfSignedRow>(keys::self_signed()).await?;
        Ok(kept.map(|kept| (kept.row.certificate.clone(), Zeroizing::new(kept.row.key.clone()))))
    }
}

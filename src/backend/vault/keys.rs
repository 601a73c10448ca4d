//! Where each row of the vault lies: one tag byte, then fixed-length parts, so that no key is
//! a prefix of another kind's and ranges are what they look like.
//!
//! Names never stand in a key: they come in as keyed hashes ([`Mac`]).
use crate::core::otp::PairCode;
use crate::core::types::{AccountId, RequestId, SessionId, Timestamp, WalletAddress};

/// A keyed hash of a name, so that a reader of the files learns no names.
pub type Mac = [u8; 16];

/// Tag of audit events, the one kind that the digest leaves to the hash chain.
pub const EVENT: u8 = b'E';

/// Tag of accounts.
pub const ACCOUNT: u8 = b'A';

fn key(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::with_capacity(1 + parts.iter().map(|part| part.len()).sum::<usize>());
    out.push(tag);
    for part in parts {
        out.extend_from_slice(part);
    }
    out
}

/// What the store is: backend id, shielding key, whether it was made by `--dev`.
pub fn meta() -> Vec<u8> {
    key(b'm', &[])
}

/// The self-signed certificate and its key.
pub fn self_signed() -> Vec<u8> {
    key(b'T', &[])
}

/// The last batch that was committed, and the digest over all rows.
pub fn head() -> Vec<u8> {
    key(b'h', &[])
}

/// An account.
pub fn account(id: AccountId) -> Vec<u8> {
    key(ACCOUNT, &[&id.0])
}

/// That somebody owns the backend, since its first account.
pub fn owner() -> Vec<u8> {
    key(b'O', &[])
}

/// An ID token that was used, by the first half of its hash.
pub fn used_token(id: &[u8; 16]) -> Vec<u8> {
    key(b'u', &[id])
}

/// The account that an identity proof leads to.
pub fn proof(identity: &Mac) -> Vec<u8> {
    key(b'I', &[identity])
}

/// The end of an account's audit chain.
pub fn chain(account: AccountId) -> Vec<u8> {
    key(b'H', &[&account.0])
}

/// One audit event.
pub fn event(account: AccountId, seq: u64) -> Vec<u8> {
    key(EVENT, &[&account.0, &seq.to_be_bytes()])
}

/// An agent.
pub fn agent(account: AccountId, wallet: WalletAddress) -> Vec<u8> {
    key(b'G', &[&account.0, &wallet.0])
}

/// All agents of an account.
pub fn agents(account: AccountId) -> Vec<u8> {
    key(b'G', &[&account.0])
}

/// The agent that an identity names.
pub fn identity(account: AccountId, identity: &Mac) -> Vec<u8> {
    key(b'N', &[&account.0, identity])
}

/// A credential's current version.
pub fn credential(account: AccountId, wallet: WalletAddress, service: &Mac) -> Vec<u8> {
    key(b'C', &[&account.0, &wallet.0, service])
}

/// All credentials of an agent.
pub fn credentials(account: AccountId, wallet: WalletAddress) -> Vec<u8> {
    key(b'C', &[&account.0, &wallet.0])
}

/// An earlier version of a credential.
pub fn version(account: AccountId, wallet: WalletAddress, service: &Mac, version: u64) -> Vec<u8> {
    key(b'V', &[&account.0, &wallet.0, service, &version.to_be_bytes()])
}

/// That an agent of the account has a credential of the service.
pub fn holder(account: AccountId, service: &Mac, wallet: WalletAddress) -> Vec<u8> {
    key(b'S', &[&account.0, service, &wallet.0])
}

/// All agents of the account that have a credential of the service.
pub fn holders(account: AccountId, service: &Mac) -> Vec<u8> {
    key(b'S', &[&account.0, service])
}

/// How keys of a service are got.
pub fn provider(account: AccountId, service: &Mac) -> Vec<u8> {
    key(b'K', &[&account.0, service])
}

/// All that an account has set up to get keys.
pub fn providers(account: AccountId) -> Vec<u8> {
    key(b'K', &[&account.0])
}

/// Something to be done at a service, not before `at`.
pub fn errand(at: Timestamp, account: AccountId, id: &[u8; 16]) -> Vec<u8> {
    key(b'U', &[&at.0.to_be_bytes(), &account.0, id])
}

/// All that is to be done at services.
pub fn errands() -> Vec<u8> {
    key(b'U', &[])
}

/// When an errand is due, whose it is, and its id.
pub fn parts_of_errand(key: &[u8]) -> Option<(Timestamp, AccountId, [u8; 16])> {
    let (at, rest) = key.strip_prefix(b"U")?.split_first_chunk::<8>()?;
    let (account, id) = rest.split_first_chunk::<16>()?;
    let at = Timestamp(u64::from_be_bytes(*at));
    Some((at, AccountId(*account), id.try_into().ok()?))
}

/// A session.
pub fn session(id: SessionId) -> Vec<u8> {
    key(b's', &[&id.0])
}

/// A renewal secret, by the first half of its hash.
pub fn renewal(id: &[u8; 16]) -> Vec<u8> {
    key(b'r', &[id])
}

/// A line of sessions, each renewed from the one before.
pub fn family(id: &[u8; 16]) -> Vec<u8> {
    key(b'f', &[id])
}

/// An auth request with its rendezvous.
pub fn request(id: RequestId) -> Vec<u8> {
    key(b'q', &[&id.0])
}

/// The request that a pair code leads to.
pub fn code(code: PairCode) -> Vec<u8> {
    key(b'p', &[&code.symbols()])
}

/// The request that a registration token leads to, by the first half of its hash.
pub fn registration(id: &[u8; 16]) -> Vec<u8> {
    key(b'g', &[id])
}

/// A request that waits for an answer of the account.
pub fn pending(account: AccountId, request: RequestId) -> Vec<u8> {
    key(b'P', &[&account.0, &request.0])
}

/// All requests that wait for an answer of the account.
pub fn all_pending(account: AccountId) -> Vec<u8> {
    key(b'P', &[&account.0])
}

/// Something to look at again at a time: `kind` and id say what.
pub fn due(at: Timestamp, kind: u8, id: &[u8; 16]) -> Vec<u8> {
    key(b't', &[&at.0.to_be_bytes(), &[kind], id])
}

/// All that is due before `at`.
pub fn all_due(at: Timestamp) -> (Vec<u8>, Vec<u8>) {
    (key(b't', &[]), key(b't', &[&at.0.to_be_bytes()]))
}

/// That requests are sent unasked, by a keyed hash of which.
pub fn release(of: &Mac) -> Vec<u8> {
    key(b'Z', &[of])
}

/// Wrong pair codes of one account or address.
pub fn guesses(who: &Mac) -> Vec<u8> {
    key(b'l', &[who])
}

/// Wrong passphrases of an account.
pub fn tries(account: AccountId) -> Vec<u8> {
    key(b'w', &[&account.0])
}

/// A challenge that was answered.
pub fn spent(challenge: &[u8; 16]) -> Vec<u8> {
    key(b'x', &[challenge])
}

/// What an agent has on one payment layer.
pub fn balance(account: AccountId, wallet: WalletAddress, layer: u8) -> Vec<u8> {
    key(b'B', &[&account.0, &wallet.0, &[layer]])
}

/// How many movements an agent's ledger had.
pub fn movement_count(account: AccountId, wallet: WalletAddress) -> Vec<u8> {
    key(b'M', &[&account.0, &wallet.0])
}

/// What was counted of an agent's credential.
pub fn cost(account: AccountId, wallet: WalletAddress, service: &Mac) -> Vec<u8> {
    key(b'D', &[&account.0, &wallet.0, service])
}

/// What was counted of all of an agent's credentials.
pub fn costs(account: AccountId, wallet: WalletAddress) -> Vec<u8> {
    key(b'D', &[&account.0, &wallet.0])
}

/// One movement of an agent's ledger.
pub fn movement(account: AccountId, wallet: WalletAddress, number: u64) -> Vec<u8> {
    key(b'L', &[&account.0, &wallet.0, &number.to_be_bytes()])
}

/// All movements of an agent's ledger.
pub fn movements(account: AccountId, wallet: WalletAddress) -> Vec<u8> {
    key(b'L', &[&account.0, &wallet.0])
}

/// A debit that was done, by its caller's reference.
pub fn reference(account: AccountId, wallet: WalletAddress, reference: &Mac) -> Vec<u8> {
    key(b'R', &[&account.0, &wallet.0, reference])
}

/// All debits' references of an agent.
pub fn references(account: AccountId, wallet: WalletAddress) -> Vec<u8> {
    key(b'R', &[&account.0, &wallet.0])
}

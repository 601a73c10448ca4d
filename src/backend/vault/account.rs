//! Accounts: who may sign in, the master session, the master key, and the signed heads.
use std::sync::Arc;

use ring::signature::{Ed25519KeyPair, KeyPair};

use super::access::{Access, MASTER_IDLE_MS};
use super::journal::{Draft, Proposal};
use super::rows::{AccountRow, ChainRow, ProofRow, SessionKind, SessionRow};
use super::{Inner, Loaded, MAX_TRIES, answer, keys};
use crate::backend::peer::Peer;
use crate::backend::store::Check;
use crate::core::audit::{Action, Actor, Head, Outcome, Role};
use crate::core::backend::{ClientInfo, IdentityProof, Minted, WhoAmI};
use crate::core::frame::Frame;
use crate::core::presence::Level;
use crate::core::problem::{Answer, Code};
use crate::core::sign_in::SignInNews;
use crate::core::token::SessionToken;
use crate::core::types::{AccountId, Hash32, PublicKey, Timestamp, WalletAddress};
use crate::harden::Hidden;

/// A master session ends after this long at the latest.
const MASTER_MS: u64 = 30 * 24 * 60 * 60 * 1000;
/// Signed heads and opened master keys that are kept.
const MAX_KEPT: usize = 1024;

/// A fresh account and its key pair.
struct NewAccount {
    row: AccountRow,
    key: Hidden<Ed25519KeyPair>,
}

impl Inner {
    pub async fn create_session(
        &self,
        peer: &Peer,
        proof: IdentityProof,
        client: ClientInfo,
    ) -> Answer<(AccountId, Minted)> {
        let identity = self.identity_of(peer, proof).await?;
        let proof_key = keys::proof(&self.cells.mac("proof", identity.name.as_bytes()));
        for _ in 0..MAX_TRIES {
            let now = self.clock.now();
            let mut proposal = Proposal::default();
            let mut news = None;
            if let Some(proven) = &identity.openid {
                self.spend_token(proven, &mut proposal).await?;
                let email = proven.email.as_ref().map(ToString::to_string);
                news = Some(SignInNews { email, owns_now: false });
            }
            let account = match self.load::<ProofRow>(proof_key.clone()).await? {
                Some(proof) => {
                    let account = self.account(proof.row.account).await?;
                    proposal.checks.push(proof.unchanged());
                    (account.row.id, account.row.wallet, account.row.presence.clone())
                }
                None => {
                    let NewAccount { row, key } = self.new_account(&identity.name, now)?;
                    let owns_now = match self.admit(&identity, row.id, &mut proposal).await {
                        Ok(owns_now) => owns_now,
                        // Somebody owns it since we looked. It may be the same person, who signs in
                        // twice at once.
                        Err(refused) if refused.code == Code::Denied => {
                            match self.load::<ProofRow>(proof_key.clone()).await? {
                                Some(_) => continue,
                                None => return Err(refused),
                            }
                        }
                        Err(other) => return Err(other),
                    };
                    if let Some(news) = &mut news {
                        news.owns_now = owns_now;
                    }
                    proposal.checks.push(Check::Absent(proof_key.clone()));
                    proposal
                        .writes
                        .push(self.put(proof_key.clone(), &ProofRow { account: row.id })?);
                    proposal.writes.push(self.put(keys::account(row.id), &row)?);
                    self.keep_master_key(row.id, Arc::new(key));
                    (row.id, row.wallet, row.presence)
                }
            };
            let (id, wallet, presence) = account;
            let token = SessionToken::master(self.entropy.key().map_err(answer::entropy)?.expose());
            let session = SessionRow {
                hash: token.hash(),
                account: id,
                kind: SessionKind::Master,
                created_at: now,
                expires_at: now.plus_ms(MASTER_MS),
                last_used: now,
                revoked: None,
                host: client.host.as_ref().map(ToString::to_string),
                user: client.user.as_ref().map(ToString::to_string),
            };
            proposal.events.push(Draft {
                account: id,
                by: Actor {
                    host: session.host.clone(),
                    role: Role::Master,
                    user: session.user.clone(),
                    session: Some(token.id()),
                },
                time: now,
                action: Action::SessionCreate,
                outcome: Outcome::Allowed,
                agent: None,
                service: None,
                request: None,
                detail: Some(identity.detail()),
                presence,
                set_backs: None,
            });
            self.push_session(&token, &session, &mut proposal)?;
            if self.propose(proposal).await? {
                let minted = Minted {
                    session_id: token.id(),
                    session: token,
                    wallet,
                    expires_at: now.plus_ms(MASTER_IDLE_MS),
                    renewal: None,
                    news,
                };
                return Ok((id, minted));
            }
        }
        Err(answer::busy())
    }

    fn new_account(&self, identity: &str, now: Timestamp) -> Answer<NewAccount> {
        let id = AccountId(self.entropy.bytes().map_err(answer::entropy)?);
        let seed = self.entropy.key().map_err(answer::entropy)?;
        let key = Hidden::new(|| {
            Ed25519KeyPair::from_seed_unchecked(seed.expose()).expect("a seed of 32 bytes is good")
        })
        .map_err(|e| answer::cell(e.into()))?;
        let master_public = public_of(key.expose());
        let place = keys::account(id);
        let master_seed = self
            .cells
            .seal_secret(id, &place, seed.expose(), &self.entropy)
            .map_err(answer::cell)?;
        let framed = Frame::new("AgentKeys-v1-AccountWallet").field(&master_public.0);
        let mut wallet = WalletAddress([0; 20]);
        wallet.0.copy_from_slice(&Hash32::of(framed.bytes()).0[..20]);
        let row = AccountRow {
            id,
            wallet,
            identity: identity.to_owned(),
            master_public,
            master_seed,
            presence: Level::None.to_string(),
            presence_since: None,
            passphrase: None,
            reset: None,
            agents: 0,
            created_at: now,
            set_back: None,
            given_up: 0,
            expose: None,
        };
        Ok(NewAccount { row, key })
    }

    /// An account that something else leads to.
    pub async fn account(&self, id: AccountId) -> Answer<Loaded<AccountRow>> {
        self.load_cached(&self.accounts, keys::account(id))
            .await?
            .ok_or_else(|| answer::cell(super::CellError::Unauthentic))
    }

    /// The account's key pair, in secret memory.
    pub fn master_key(&self, account: &AccountRow) -> Answer<Arc<Hidden<Ed25519KeyPair>>> {
        let known = self.master_keys.read().unwrap_or_else(|e| e.into_inner());
        if let Some(key) = known.get(&account.id) {
            return Ok(key.clone());
        }
        drop(known);
        let seed = self
            .cells
            .open_secret(account.id, &keys::account(account.id), &account.master_seed)
            .map_err(answer::cell)?;
        let key = Hidden::try_new(|| {
            Ed25519KeyPair::from_seed_and_public_key(seed.expose(), &account.master_public.0)
                .map_err(|_| super::CellError::Shape)
        })
        .map_err(answer::cell)?;
        let key = Arc::new(key);
        self.keep_master_key(account.id, key.clone());
        Ok(key)
    }

    fn keep_master_key(&self, account: AccountId, key: Arc<Hidden<Ed25519KeyPair>>) {
        let mut known = self.master_keys.write().unwrap_or_else(|e| e.into_inner());
        if known.len() >= MAX_KEPT {
            known.clear();
        }
        known.insert(account, key);
    }

    /// The end of an account's chain as it is committed now.
    pub async fn chain_end(&self, account: AccountId) -> Answer<ChainRow> {
        match self.journal.end(account) {
            Some(end) => Ok(end),
            None => self.chain_end_now(account).await,
        }
    }

    /// The same, read from the store; never older than what this process has committed.
    pub async fn chain_end_now(&self, account: AccountId) -> Answer<ChainRow> {
        let end = match self.load::<ChainRow>(keys::chain(account)).await? {
            Some(end) => *end.row,
            None => ChainRow::EMPTY,
        };
        self.journal.learn(account, end);
        Ok(self.journal.end(account).unwrap_or(end))
    }

    /// The signed head at a known end; the account's row is opened already, or it has no head.
    pub fn known_head(&self, account: AccountId, end: ChainRow) -> Option<Arc<Head>> {
        let known = self.heads.read().unwrap_or_else(|e| e.into_inner());
        if let Some(head) = known.get(&account).filter(|head| head.seq == end.seq) {
            return Some(head.clone());
        }
        drop(known);
        let keys = self.master_keys.read().unwrap_or_else(|e| e.into_inner());
        let key = keys.get(&account)?.clone();
        drop(keys);
        Some(self.sign_head(account, end, &key))
    }

    /// The signed head of an account. One signature serves all who ask before the next event.
    pub fn signed_head(&self, account: &AccountRow, end: ChainRow) -> Answer<Arc<Head>> {
        let known = self.heads.read().unwrap_or_else(|e| e.into_inner());
        if let Some(head) = known.get(&account.id).filter(|head| head.seq == end.seq) {
            return Ok(head.clone());
        }
        drop(known);
        let key = self.master_key(account)?;
        Ok(self.sign_head(account.id, end, &key))
    }

    fn sign_head(
        &self,
        account: AccountId,
        end: ChainRow,
        key: &Hidden<Ed25519KeyPair>,
    ) -> Arc<Head> {
        let ChainRow { seq, hash, set_backs } = end;
        let key = key.expose();
        let head = Head::sign_set_back(self.backend_id, account, seq, hash, set_backs, key);
        let head = Arc::new(head);
        let mut known = self.heads.write().unwrap_or_else(|e| e.into_inner());
        if known.len() >= MAX_KEPT {
            known.clear();
        }
        known.insert(account, head.clone());
        head
    }

    pub fn who_am_i(&self, access: &Access) -> Answer<WhoAmI> {
        access.standing()?;
        let (row, account) = (&access.session.row, &access.account.row);
        let idle_end = row.last_used.plus_ms(MASTER_IDLE_MS);
        Ok(WhoAmI {
            session_id: access.session_id,
            account: account.id,
            master_key: account.master_public,
            identity: account.identity.clone(),
            presence: account.presence.clone(),
            set_back: account.set_back.clone().filter(|_| access.agent.is_none()),
            presence_reset: account.reset.clone().filter(|reset| access.now < reset.until),
            wallet: access.agent.as_ref().map_or(account.wallet, |agent| agent.row.wallet),
            child: access.agent.is_some(),
            expires_at: match row.kind {
                SessionKind::Master => row.expires_at.min(idle_end),
                SessionKind::Child { .. } => row.expires_at,
            },
        })
    }
}

fn public_of(key: &Ed25519KeyPair) -> PublicKey {
    let mut public = PublicKey([0; 32]);
    public.0.copy_from_slice(key.public_key().as_ref());
    public
}

//! `/payment`: balance, fund, debit, history.
use super::call::Call;
use super::reply::Reply;
use crate::core::backend::AccountBackend;
use crate::core::identity::AgentIdentity;
use crate::core::payment::Layer;
use crate::core::problem::{Answer, Problem};
use crate::core::token::SessionToken;
use crate::core::wire::{self, MAX_HISTORY, MAX_REFERENCE};

/// Movements that one answer holds unless the request says otherwise.
const DEFAULT_HISTORY: u64 = 100;

/// What is to be done with the ledger.
pub enum Action {
    /// What an agent has on a layer.
    Balance(SessionToken, AgentIdentity, Layer),
    /// Give an amount.
    Fund(SessionToken, wire::Fund),
    /// Take an amount.
    Debit(SessionToken, wire::Debit),
    /// The newest movements.
    History(SessionToken, AgentIdentity, usize),
}

/// `GET /payment/balance`.
pub fn balance(call: &Call<'_>) -> Answer<Action> {
    let session = call.session()?;
    let fields = call.fields(["agent_id", "layer"])?;
    let layer = fields.word("layer")?;
    let layer = layer.ok_or_else(|| Problem::invalid("layer", "it is missing"))?;
    Ok(Action::Balance(session, fields.required("agent_id")?, layer))
}

/// `POST /payment/fund`.
pub fn fund(call: &Call<'_>) -> Answer<Action> {
    Ok(Action::Fund(call.session()?, call.json()?))
}

/// `POST /payment/debit`.
pub fn debit(call: &Call<'_>) -> Answer<Action> {
    let session = call.session()?;
    let request: wire::Debit = call.json()?;
    let reference = request.reference.as_bytes();
    if !(1..=MAX_REFERENCE).contains(&reference.len())
        || !reference.iter().all(u8::is_ascii_graphic)
    {
        let why = format!("reference wants 1 to {MAX_REFERENCE} printable ASCII characters");
        return Err(Problem::invalid("reference", why));
    }
    Ok(Action::Debit(session, request))
}

/// `GET /payment/history`.
pub fn history(call: &Call<'_>) -> Answer<Action> {
    let session = call.session()?;
    let fields = call.fields(["agent_id", "limit"])?;
    let limit = fields.number("limit", 1..=MAX_HISTORY as u64)?.unwrap_or(DEFAULT_HISTORY);
    let limit = usize::try_from(limit).unwrap_or(MAX_HISTORY);
    Ok(Action::History(session, fields.required("agent_id")?, limit))
}

impl Action {
    /// Does it.
    pub async fn apply(self, backend: &dyn AccountBackend) -> Answer<Reply> {
        match self {
            Self::Balance(session, agent, layer) => {
                Reply::json(&backend.check_balance(&session, &agent, layer).await?)
            }
            Self::Fund(session, wire::Fund { agent_id, layer, amount }) => {
                Reply::json(&backend.fund_child(&session, &agent_id, layer, amount).await?)
            }
            Self::Debit(session, of) => {
                let (service, reference) = (of.service.as_ref(), of.reference.as_str());
                let left = backend
                    .debit(&session, &of.agent_id, of.layer, of.amount, service, reference)
                    .await?;
                Reply::json(&left)
            }
            Self::History(session, agent, limit) => {
                let history = backend.spending_history(&session, &agent, limit).await?;
                Reply::json(&wire::History { history })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::call::tests::call;
    use super::*;

    #[test]
    fn a_balance_is_of_one_layer() {
        let session = SessionToken::master(&[1; 32]);
        match balance(&call(session.expose(), "agent_id=a&layer=service_payment", "")) {
            Ok(Action::Balance(_, _, layer)) => assert_eq!(layer, Layer::ServicePayment),
            _ => panic!("refused"),
        }
        for query in ["agent_id=a", "agent_id=a&layer=both", "layer=system_gas"] {
            assert!(balance(&call(session.expose(), query, "")).is_err(), "{query}");
        }
    }

    #[test]
    fn an_amount_is_a_whole_number_and_a_reference_is_short() {
        let session = SessionToken::child(&[1; 32]);
        let debited = |amount: &str, reference: &str| {
            let body = format!(
                r#"{{"agent_id":"a","layer":"system_gas","amount":{amount},"reference":"{reference}"}}"#
            );
            debit(&call(session.expose(), "", &body)).map(|_| ())
        };
        assert!(debited("18446744073709551615", "r-1").is_ok());
        for (amount, reference) in [
            ("1.5", "r"),
            ("-1", "r"),
            ("18446744073709551616", "r"),
            ("\"1\"", "r"),
            ("1", ""),
            ("1", "a b"),
            ("1", "\\u0000"),
            ("1", &"r".repeat(MAX_REFERENCE + 1)),
        ] {
            assert!(debited(amount, reference).is_err(), "{amount} {reference}");
        }
    }

    #[test]
    fn a_history_is_bounded() {
        let session = SessionToken::master(&[1; 32]);
        let limit = |query| match history(&call(session.expose(), query, "")) {
            Ok(Action::History(_, _, limit)) => Some(limit),
            _ => None,
        };
        assert_eq!(limit("agent_id=a"), Some(100));
        assert_eq!(limit("agent_id=a&limit=1000"), Some(1000));
        assert_eq!(limit("agent_id=a&limit=1001"), None);
    }
}

//! What an answer cost: the tokens that it states, as OpenAI, Anthropic and OpenRouter write them,
//! and what they are charged at.
use serde::Deserialize;

use super::budget::Price;
use super::catalog;
use super::identity::ServiceName;
use super::payment::Amount;

/// What an answer states. Of a stream, the greatest figures, since each event states more.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Stated {
    /// The model that answered.
    pub model: Option<String>,
    /// Tokens that were sent, without those below.
    pub input: u64,
    /// Tokens that were sent, and that the service had before.
    pub cached: u64,
    /// Tokens that were sent, and are kept by the service for five minutes, or an hour.
    pub kept: [u64; 2],
    /// Tokens that were answered.
    pub output: u64,
    /// What the service says that it charged, in millionths of a US dollar.
    pub cost: Option<Amount>,
    /// Whether it stated any of it.
    pub any: bool,
}

/// Figures as they are written. Members that are of no interest are passed over.
#[derive(Deserialize, Default)]
struct Usage {
    prompt_tokens: Option<u64>,
    completion_tokens: Option<u64>,
    input_tokens: Option<u64>,
    output_tokens: Option<u64>,
    cache_creation_input_tokens: Option<u64>,
    cache_read_input_tokens: Option<u64>,
    cache_creation: Option<Kept>,
    prompt_tokens_details: Option<Details>,
    input_tokens_details: Option<Details>,
    /// In dollars.
    cost: Option<f64>,
}

#[derive(Deserialize, Default)]
struct Kept {
    ephemeral_1h_input_tokens: Option<u64>,
}

#[derive(Deserialize, Default)]
struct Details {
    cached_tokens: Option<u64>,
}

/// Where they stand: in an answer or an event of a stream itself, in Anthropic's `message`, or in the
/// `response` of OpenAI's Responses.
#[derive(Deserialize)]
struct Answer {
    model: Option<String>,
    usage: Option<Usage>,
    message: Option<Inner>,
    response: Option<Inner>,
}

#[derive(Deserialize)]
struct Inner {
    model: Option<String>,
    usage: Option<Usage>,
}

impl Stated {
    /// Takes what one JSON text states, if it is of such a shape.
    pub fn read(&mut self, json: &[u8]) {
        // Members of other types than these, such as a text in `message`, are those of other answers.
        let Ok(answer) = serde_json::from_slice::<Answer>(json) else { return };
        let inner = [answer.message, answer.response].into_iter().flatten();
        let outer = Inner { model: answer.model, usage: answer.usage };
        for Inner { model, usage } in inner.chain([outer]) {
            if let Some(model) = model.filter(|model| model.len() <= 128) {
                self.model = Some(model);
            }
            if let Some(usage) = usage {
                self.add(&usage);
            }
        }
    }

    fn add(&mut self, usage: &Usage) {
        let details = usage.prompt_tokens_details.as_ref().or(usage.input_tokens_details.as_ref());
        let of_openai = details.and_then(|details| details.cached_tokens).unwrap_or(0);
        let sent = usage.prompt_tokens.or(usage.input_tokens).unwrap_or(0);
        let answered = usage.completion_tokens.or(usage.output_tokens).unwrap_or(0);
        let kept = usage.cache_creation_input_tokens.unwrap_or(0);
        let hour = usage.cache_creation.as_ref().and_then(|kept| kept.ephemeral_1h_input_tokens);
        let hour = hour.unwrap_or(0).min(kept);
        let take = |sum: &mut u64, said: u64| *sum = (*sum).max(said);
        // OpenAI counts what was cached among what was sent, Anthropic beside it.
        take(&mut self.input, sent.saturating_sub(of_openai));
        take(&mut self.cached, of_openai.max(usage.cache_read_input_tokens.unwrap_or(0)));
        take(&mut self.kept[0], kept - hour);
        take(&mut self.kept[1], hour);
        take(&mut self.output, answered);
        if let Some(cost) = usage.cost.filter(|cost| cost.is_finite() && *cost >= 0.0) {
            let micros = (cost * 1e6).ceil().min(u64::MAX as f64) as Amount;
            self.cost = self.cost.max(Some(micros));
        }
        self.any = true;
    }

    /// What it is charged at, rounded up; a request's own price is in it.
    pub fn cost(&self, price: &Price) -> Amount {
        if let Some(cost) = self.cost {
            return cost.saturating_add(price.request);
        }
        let input = u128::from(price.input);
        let cached = u128::from(price.cached.unwrap_or(price.input));
        // By a hundredth, since what is kept costs a quarter more, or as much again.
        let part = |tokens: u64, price: u128, hundredths: u128| {
            u128::from(tokens).saturating_mul(price).saturating_mul(hundredths)
        };
        let hundredths = [
            part(self.input, input, 100),
            part(self.cached, cached, 100),
            part(self.kept[0], input, 125),
            part(self.kept[1], input, 200),
            part(self.output, u128::from(price.output), 100),
        ]
        .into_iter()
        .fold(0, u128::saturating_add);
        let micros = hundredths.div_ceil(100 * 1_000_000);
        u64::try_from(micros).unwrap_or(u64::MAX).saturating_add(price.request)
    }
}

/// What a model of a service is charged at, and whether that is known of it; `None` where the catalog
/// prices nothing of the service. A model that it does not know is charged at what its service has
/// for such.
pub fn price(service: &ServiceName, model: Option<&str>) -> Option<(Price, bool)> {
    let prices = &catalog::find(service)?.prices;
    let known = model.and_then(|model| {
        let of = |known: &&catalog::ModelPrice| is_version_of(model, &known.model);
        prices.iter().filter(of).max_by_key(|known| known.model.len())
    });
    match known {
        Some(known) => Some((known.price(), true)),
        None => Some((prices.iter().find(|other| other.model == "*")?.price(), false)),
    }
}

/// Whether a model is a known one, or its version of a date.
fn is_version_of(model: &str, known: &str) -> bool {
    let Some(rest) = model.strip_prefix(known) else { return false };
    let dated =
        |rest: &str| rest.len() >= 8 && rest.bytes().all(|c| c.is_ascii_digit() || c == b'-');
    rest.is_empty() || rest == "-latest" || rest.strip_prefix('-').is_some_and(dated)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(parts: &[&str]) -> Stated {
        let mut stated = Stated::default();
        parts.iter().for_each(|part| stated.read(part.as_bytes()));
        stated
    }

    #[test]
    fn answers_and_streams_of_three_services_state_their_tokens() {
        let chat = read(&[r#"{"model":"gpt-4o-2024-08-06","usage":{"prompt_tokens":100,
            "completion_tokens":20,"total_tokens":120,"prompt_tokens_details":{"cached_tokens":40}}}"#]);
        assert_eq!((chat.input, chat.cached, chat.output, chat.any), (60, 40, 20, true));
        let responses = read(&[r#"{"type":"response.completed","response":{"model":"gpt-5",
            "usage":{"input_tokens":9,"output_tokens":3,"input_tokens_details":{"cached_tokens":0}}}}"#]);
        assert_eq!((responses.input, responses.output), (9, 3));
        let stream = read(&[
            r#"{"type":"message_start","message":{"model":"claude-sonnet-4-5","usage":{"input_tokens":10,
                "output_tokens":1,"cache_read_input_tokens":5,"cache_creation_input_tokens":30,
                "cache_creation":{"ephemeral_1h_input_tokens":20}}}}"#,
            r#"{"type":"content_block_delta","delta":{"text":"\"usage\":{\"output_tokens\":0}"}}"#,
            r#"{"type":"message_delta","usage":{"output_tokens":55}}"#,
        ]);
        assert_eq!((stream.input, stream.cached, stream.output), (10, 5, 55));
        assert_eq!((stream.kept, stream.model.as_deref()), ([10, 20], Some("claude-sonnet-4-5")));
        let router =
            read(&[r#"{"usage":{"prompt_tokens":1,"completion_tokens":1,"cost":0.0000123}}"#]);
        assert_eq!(router.cost, Some(13));
        for other in
            ["", "[1]", r#"{"message":"no"}"#, r#"{"usage":null}"#, r#"{"usage":{"cost":-1}}"#]
        {
            assert_eq!(read(&[other]).cost, None, "{other}");
        }
    }

    #[test]
    fn what_is_charged_is_rounded_up_and_never_wraps() {
        let price =
            Price { input: 2_500_000, output: 10_000_000, cached: Some(1_250_000), request: 0 };
        let stated = Stated { input: 1_000, output: 100, cached: 1_000, ..Stated::default() };
        assert_eq!(stated.cost(&price), 2_500 + 1_000 + 1_250);
        assert_eq!(Stated { input: 1, ..Stated::default() }.cost(&price), 3);
        let kept = Stated { kept: [1_000, 1_000], ..Stated::default() };
        assert_eq!(kept.cost(&price), 3_125 + 5_000);
        let most = Stated { input: u64::MAX, output: u64::MAX, ..Stated::default() };
        assert_eq!(most.cost(&Price { input: u64::MAX, ..price }), u64::MAX);
        let said = Stated { cost: Some(7), input: 1_000_000, ..Stated::default() };
        assert_eq!(said.cost(&Price { request: 5, ..price }), 12);
    }

    #[test]
    fn a_model_has_the_price_of_its_name_and_not_of_one_that_begins_like_it() {
        let openai: ServiceName = "openai".parse().unwrap();
        let of = |model| price(&openai, Some(model)).unwrap();
        assert_eq!(of("gpt-4o").0.input, 2_500_000);
        assert_eq!(of("gpt-4o-2024-08-06"), of("gpt-4o"));
        assert_eq!(of("gpt-4o-mini").0.input, 150_000);
        let (unknown, known) = of("gpt-4o-something");
        assert!(!known && unknown.input > of("gpt-4o").0.input);
        assert_eq!(price(&openai, None).unwrap(), (unknown, false));
        assert_eq!(price(&"github".parse().unwrap(), Some("gpt-4o")), None);
    }
}

//! Scopes: what allows what, and the forms that are read.
use agentkeys::core::cbor;
use agentkeys::core::scope::{MAX_SERVICES, Scope};
use quickcheck::quickcheck;
use serde_json::json;

use crate::arbitrary::AnyScope;

fn read(value: serde_json::Value) -> Result<Scope, serde_json::Error> {
    serde_json::from_value(value)
}

/// What a scope lets somebody do, spelled out over a few services.
fn acts(scope: &Scope) -> Vec<(bool, bool, bool)> {
    ["a", "b", "c", "d", "later"]
        .iter()
        .map(|name| {
            let service = name.parse().unwrap();
            let allowed = scope.allows(&service);
            (allowed, allowed && !scope.read_only, scope.may_provision(&service))
        })
        .collect()
}

fn no_more(narrow: &Scope, wide: &Scope) -> bool {
    narrow.exposure() <= wide.exposure()
        && acts(narrow).iter().zip(acts(wide)).all(|(n, w)| n.0 <= w.0 && n.1 <= w.1 && n.2 <= w.2)
}

quickcheck! {
    fn within_is_reflexive(a: AnyScope) -> bool {
        a.0.within(&a.0)
    }

    fn within_is_transitive(a: AnyScope, b: AnyScope, c: AnyScope) -> bool {
        !(a.0.within(&b.0) && b.0.within(&c.0)) || a.0.within(&c.0)
    }

    fn within_is_antisymmetric(a: AnyScope, b: AnyScope) -> bool {
        !(a.0.within(&b.0) && b.0.within(&a.0)) || a.0 == b.0
    }

    /// Getting keys apart, which is named for each service or is not given.
    fn everything_is_the_widest(a: AnyScope) -> bool {
        let a = Scope { provision: Default::default(), ..a.0 };
        a.within(&Scope::everything()) && a.and(&Scope::everything()) == a
    }

    fn having_keys_made_is_more_than_reading(a: AnyScope) -> bool {
        let service = "b".parse().unwrap();
        let wider = a.0.provisioning(&service);
        wider.may_provision(&service)
            && a.0.within(&wider)
            && a.0.may_provision(&service) == (wider == a.0)
    }

    fn and_is_commutative(a: AnyScope, b: AnyScope) -> bool {
        a.0.and(&b.0) == b.0.and(&a.0)
    }

    fn and_is_associative(a: AnyScope, b: AnyScope, c: AnyScope) -> bool {
        a.0.and(&b.0).and(&c.0) == a.0.and(&b.0.and(&c.0))
    }

    fn and_is_idempotent(a: AnyScope) -> bool {
        a.0.and(&a.0) == a.0
    }

    /// The meet of both: within each, and nothing that is within each is left out.
    fn and_is_the_greatest_lower_bound(a: AnyScope, b: AnyScope, c: AnyScope) -> bool {
        let both = a.0.and(&b.0);
        both.within(&a.0)
            && both.within(&b.0)
            && (c.0.within(&both) == (c.0.within(&a.0) && c.0.within(&b.0)))
    }

    fn within_is_absorbed_by_and(a: AnyScope, b: AnyScope) -> bool {
        a.0.within(&b.0) == (a.0.and(&b.0) == a.0)
    }

    /// The order on scopes means what it says about acts.
    fn what_is_within_allows_no_more(a: AnyScope, b: AnyScope) -> bool {
        !a.0.within(&b.0) || no_more(&a.0, &b.0)
    }

    fn and_allows_just_what_both_allow(a: AnyScope, b: AnyScope) -> bool {
        let each = acts(&a.0).into_iter().zip(acts(&b.0));
        acts(&a.0.and(&b.0)) == each.map(|(x, y)| (x.0 && y.0, x.1 && y.1, x.2 && y.2)).collect::<Vec<_>>()
    }

    fn scopes_read_back(a: AnyScope) -> bool {
        let bytes = cbor::to_canonical(&a.0).unwrap();
        cbor::from_canonical::<Scope>(&bytes).unwrap() == a.0
            && read(serde_json::to_value(&a.0).unwrap()).unwrap() == a.0
    }
}

#[test]
fn absent_is_everything_and_empty_is_nothing() {
    let service = "openrouter".parse().unwrap();
    assert!(read(json!({})).unwrap().allows(&service));
    assert!(!read(json!({ "services": [] })).unwrap().allows(&service));
    assert!(read(json!({ "services": ["OpenRouter"] })).unwrap().allows(&service));
    assert!(!read(json!({ "services": ["openrouter2"] })).unwrap().allows(&service));
}

/// Whoever wrote `null` may have meant "none"; it must not come out as everything.
#[test]
fn null_services_are_refused() {
    assert!(read(json!({ "services": null })).is_err());
    assert!(read(json!({ "services": null, "read_only": true })).is_err());
}

#[test]
fn a_limit_that_is_none_is_not_written_down() {
    let of = |tier: &str| read(json!({"read_only": true, "expose": tier}));
    assert!(of("broker").is_ok() && of("inject").is_ok());
    assert!(of("reveal").is_err() && of("x").is_err() && of("Broker").is_err());
}

#[test]
fn loose_forms_are_refused() {
    for wrong in [
        json!(null),
        json!(true),
        json!("openrouter"),
        json!([]),
        json!([[]]),
        json!([["a"], true]),
        json!(["openrouter"]),
        json!({ "service": ["a"] }),
        json!({ "services": "a" }),
        json!({ "services": ["a", "A"] }),
        json!({ "services": ["a", "a"] }),
        json!({ "provision": null }),
        json!({ "provision": ["a", "a"] }),
        json!({ "provision": "a" }),
        json!({ "services": [1] }),
        json!({ "services": [""] }),
        json!({ "services": { "a": true } }),
        json!({ "services": ["a"], "read_only": "true" }),
        json!({ "services": ["a"], "read_only": 1 }),
        json!({ "services": ["a"], "read_only": null }),
    ] {
        assert!(read(wrong.clone()).is_err(), "{wrong}");
    }
}

#[test]
fn a_list_is_read_up_to_its_limit() {
    let names = |count: usize| (0..count).map(|n| format!("s{n}")).collect::<Vec<_>>();
    let most = read(json!({ "services": names(MAX_SERVICES) })).unwrap();
    assert!(most.is_bounded());
    assert!(read(json!({ "services": names(MAX_SERVICES + 1) })).is_err());
    assert!(read(json!({ "provision": names(MAX_SERVICES + 1) })).is_err());
    let services = names(MAX_SERVICES + 1).iter().map(|n| n.parse().unwrap()).collect();
    assert!(!Scope { services: Some(services), read_only: false, ..Scope::default() }.is_bounded());
}

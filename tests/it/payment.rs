//! Payment: the two layers stay distinct.
use std::collections::HashMap;

use agentkeys::core::payment::{Balance, Balances, Layer, Spending};
use agentkeys::core::types::{Timestamp, WalletAddress};
use serde_json::json;

/// Two layers, two names, never one figure.
#[test]
fn layer_enum() {
    assert_eq!(Layer::ALL, [Layer::SystemGas, Layer::ServicePayment]);
    assert_ne!(Layer::SystemGas, Layer::ServicePayment);
    for (layer, name) in
        [(Layer::SystemGas, "system_gas"), (Layer::ServicePayment, "service_payment")]
    {
        assert_eq!(layer.as_str(), name);
        assert_eq!(serde_json::to_value(layer).unwrap(), json!(name));
        assert_eq!(serde_json::from_value::<Layer>(json!(name)).unwrap(), layer);
    }
    for wrong in ["", "gas", "SystemGas", "both", "all", "total"] {
        assert!(serde_json::from_value::<Layer>(json!(wrong)).is_err(), "{wrong}");
    }
    assert!(serde_json::from_value::<Layer>(json!(0)).is_err());

    // As keys they stay apart, and a listing has one row each and no member for a sum.
    let per_layer: HashMap<_, _> = Layer::ALL.into_iter().zip([1, 2]).collect();
    assert_eq!((per_layer[&Layer::SystemGas], per_layer[&Layer::ServicePayment]), (1, 2));
    let rows = Layer::ALL.into_iter().zip([1, 2]);
    let listing = Balances {
        agent: WalletAddress([1; 20]),
        balances: rows.map(|(layer, available)| Balance { layer, available, spent: 0 }).collect(),
    };
    let shown = serde_json::to_value(&listing).unwrap();
    let members: Vec<_> = shown.as_object().unwrap().keys().collect();
    assert_eq!(members, ["agent", "balances"]);
    assert_eq!(shown["balances"].as_array().unwrap().len(), 2);
    assert_eq!(serde_json::from_value::<Balances>(shown).unwrap(), listing);
}

#[test]
fn amounts_are_whole_and_exact() {
    let most = Balance { layer: Layer::SystemGas, available: u64::MAX, spent: 0 };
    let text = serde_json::to_string(&most).unwrap();
    assert_eq!(serde_json::from_str::<Balance>(&text).unwrap(), most);
    for wrong in ["1.0", "-1", "1e3", "18446744073709551616", "\"1\"", "null"] {
        let text = format!(r#"{{"layer":"system_gas","available":{wrong},"spent":0}}"#);
        assert!(serde_json::from_str::<Balance>(&text).is_err(), "{wrong}");
    }
    let spending = Spending {
        time: Timestamp(0),
        layer: Layer::ServicePayment,
        debited: 1,
        funded: 0,
        service: None,
    };
    let shown = serde_json::to_value(&spending).unwrap();
    assert_eq!(serde_json::from_value::<Spending>(shown).unwrap(), spending);
}

//! Servers in a client's JSON file. Some clients write comments and trailing commas and some do
//! not; both are read, and what is added is JSON that all of them read.
use std::collections::BTreeMap;

use jsonc_parser::ParseOptions;
use jsonc_parser::cst::{CstInputValue, CstObject, CstRootNode};

use super::{Server, unreadable};
use crate::core::problem::Answer;

/// Comments and trailing commas, and nothing else beyond JSON.
fn parse(text: &str) -> Answer<CstRootNode> {
    let options = ParseOptions {
        allow_comments: true,
        allow_trailing_commas: true,
        allow_loose_object_property_names: false,
        allow_missing_commas: false,
        allow_single_quoted_strings: false,
        allow_hexadecimal_numbers: false,
        allow_unary_plus_numbers: false,
        allow_bare_decimal_point_numbers: false,
        allow_non_finite_numbers: false,
        allow_extended_string_escapes: false,
    };
    let root = CstRootNode::parse(text, &options).map_err(|wrong| {
        let line = wrong.line_display();
        unreadable(format!("line {line} is not JSON"))
    })?;
    match root.value() {
        None => Ok(root),
        Some(value) if value.as_object().is_some() => Ok(root),
        Some(_) => Err(unreadable("it holds no JSON object")),
    }
}

/// A text in the file, decoded.
fn text(object: &CstObject, name: &str) -> Option<String> {
    object.get(name)?.value()?.as_string_lit()?.decoded_value().ok()
}

pub fn servers(file: &str, member: &str) -> Answer<BTreeMap<String, Server>> {
    let root = parse(file)?;
    let Some(all) = root.object_value().and_then(|root| root.object_value(member)) else {
        return Ok(BTreeMap::new());
    };
    let mut found = BTreeMap::new();
    for property in all.properties() {
        let (Some(name), Some(object)) = (property.decoded_name(), property.object_value()) else {
            continue;
        };
        let Some(command) = text(&object, "command") else { continue };
        let args = object.array_value("args").map_or_else(Vec::new, |args| {
            let texts = args.elements().into_iter();
            texts.filter_map(|one| one.as_string_lit()?.decoded_value().ok()).collect()
        });
        let env = object.object_value("env").map_or_else(BTreeMap::new, |env| {
            let members = env.properties().into_iter();
            members
                .filter_map(|one| {
                    let name = one.decoded_name()?;
                    Some((name, one.value()?.as_string_lit()?.decoded_value().ok()?))
                })
                .collect()
        });
        found.insert(name, Server { command, args, env });
    }
    Ok(found)
}

pub fn with(
    file: &str,
    member: &str,
    says_stdio: bool,
    name: &str,
    server: &Server,
) -> Answer<String> {
    let root = parse(file)?;
    let whole = root.object_value_or_set();
    if whole.get(member).is_some_and(|found| found.object_value().is_none()) {
        return Err(unreadable(format!("\"{member}\" holds no JSON object")));
    }
    let all = whole.object_value_or_set(member);
    let args = CstInputValue::Array(server.args.iter().map(|one| one.as_str().into()).collect());
    let env = server.env.iter().map(|(name, value)| (name.clone(), value.as_str().into()));
    let env = CstInputValue::Object(env.collect());
    if let Some(entry) = all.get(name) {
        let Some(entry) = entry.object_value() else {
            return Err(unreadable(format!("the entry of \"{name}\" holds no JSON object")));
        };
        put(&entry, "command", server.command.as_str().into());
        put(&entry, "args", args);
        match entry.get("env") {
            // What stays in the environment keeps its place.
            Some(before) => match before.object_value() {
                Some(before) => {
                    for property in before.properties() {
                        let name = property.decoded_name().unwrap_or_default();
                        match server.env.get(&name) {
                            None => property.remove(),
                            Some(value) if text(&before, &name).as_ref() != Some(value) => {
                                property.set_value(value.as_str().into());
                            }
                            Some(_) => {}
                        }
                    }
                    for (name, value) in &server.env {
                        if before.get(name).is_none() {
                            before.append(name, value.as_str().into());
                        }
                    }
                }
                None => before.set_value(env),
            },
            None if !server.env.is_empty() => {
                entry.append("env", env);
            }
            None => {}
        }
    } else {
        let mut members = Vec::new();
        if says_stdio {
            members.push(("type".to_owned(), "stdio".into()));
        }
        members.push(("command".to_owned(), server.command.as_str().into()));
        members.push(("args".to_owned(), args));
        if !server.env.is_empty() {
            members.push(("env".to_owned(), env));
        }
        all.append(name, CstInputValue::Object(members));
    }
    let mut text = root.to_string();
    if file.trim().is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    Ok(text)
}

pub fn without(file: &str, member: &str, name: &str) -> Answer<String> {
    let root = parse(file)?;
    let all = root.object_value().and_then(|whole| whole.object_value(member));
    if let Some(entry) = all.and_then(|all| all.get(name)) {
        entry.remove();
    }
    Ok(root.to_string())
}

fn put(object: &CstObject, name: &str, value: CstInputValue) {
    match object.get(name) {
        Some(property) => property.set_value(value),
        None => {
            object.append(name, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ours() -> Server {
        Server {
            command: "/opt/a \"b\"/agentkeys".to_owned(),
            args: vec!["daemon".to_owned(), "--agent".to_owned(), "bot".to_owned()],
            env: BTreeMap::new(),
        }
    }

    #[test]
    fn what_else_is_in_the_file_stays() {
        let file = "{\n\t// mine\n\t\"z\": 1, /* two */\n\t\"mcpServers\": {\n\t\t\"other\": {\n\t\t\t\
                    \"command\": \"npx\", \"args\": [\"-y\", \"x\"],\n\t\t},\n\t},\n\t\"a\": [ ]\n}\n";
        let made = with(file, "mcpServers", false, "agentkeys", &ours()).unwrap();
        for part in [
            "\t// mine\n\t\"z\": 1, /* two */\n",
            "\"args\": [\"-y\", \"x\"],\n\t\t}",
            "\t\"a\": [ ]\n}\n",
        ] {
            assert!(made.contains(part), "{part:?}\n{made}");
        }
        let found = servers(&made, "mcpServers").unwrap();
        assert_eq!(found["agentkeys"], ours());
        assert_eq!(found["other"].args, ["-y", "x"]);
        // Again: nothing changes.
        assert_eq!(with(&made, "mcpServers", false, "agentkeys", &ours()).unwrap(), made);
        let gone = without(&made, "mcpServers", "agentkeys").unwrap();
        assert_eq!(servers(&gone, "mcpServers").unwrap(), servers(file, "mcpServers").unwrap());
        assert!(gone.contains("\t// mine\n\t\"z\": 1, /* two */\n"), "{gone}");
    }

    #[test]
    fn an_entry_is_changed_without_its_other_members() {
        let file = r#"{"servers": {"gh": {"type": "stdio", "command": "npx", "args": ["gh"],
            "env": {"A": "1", "TOKEN": "ghp_x", "B": "2"}, "disabled": false}}}"#;
        let mut server = servers(file, "servers").unwrap().remove("gh").unwrap();
        server.env.remove("TOKEN");
        server.command = "agentkeys".to_owned();
        let made = with(file, "servers", true, "gh", &server).unwrap();
        assert!(made.contains("\"disabled\": false") && made.contains("\"type\": \"stdio\""));
        assert!(!made.contains("ghp_x"), "{made}");
        assert_eq!(servers(&made, "servers").unwrap()["gh"], server);
    }

    #[test]
    fn what_is_no_json_is_refused_by_its_line_and_not_repeated() {
        for file in ["{\n\"a\": secret}", "[1]", "{\"mcpServers\": 5}", "{} {}", "{'a': 1}"] {
            let problem = with(file, "mcpServers", true, "x", &ours()).unwrap_err();
            assert!(!problem.cause.contains("secret"), "{}", problem.cause);
        }
        for empty in ["", "\n", "// nothing yet\n", "{}"] {
            let made = with(empty, "mcpServers", true, "x", &ours()).unwrap();
            assert_eq!(servers(&made, "mcpServers").unwrap()["x"], ours(), "{empty:?}");
        }
    }
}

//! Servers in Codex's TOML file.
use std::collections::BTreeMap;

use toml_edit::{Array, DocumentMut, InlineTable, Item, Table, TableLike, Value};

use super::{Server, unreadable};
use crate::core::problem::Answer;

const MEMBER: &str = "mcp_servers";

fn parse(text: &str) -> Answer<DocumentMut> {
    text.parse::<DocumentMut>().map_err(|wrong| {
        let line = wrong.span().map_or(1, |span| text[..span.start].lines().count().max(1));
        unreadable(format!("line {line} is not TOML"))
    })
}

fn texts(item: Option<&Item>) -> Vec<String> {
    let array = item.and_then(Item::as_array);
    let texts = array.into_iter().flatten().filter_map(Value::as_str);
    texts.map(str::to_owned).collect()
}

pub fn servers(file: &str) -> Answer<BTreeMap<String, Server>> {
    let document = parse(file)?;
    let mut found = BTreeMap::new();
    let all = document.get(MEMBER).and_then(Item::as_table_like);
    for (name, item) in all.into_iter().flat_map(TableLike::iter) {
        let Some(entry) = item.as_table_like() else { continue };
        let Some(command) = entry.get("command").and_then(Item::as_str) else { continue };
        let env = entry.get("env").and_then(Item::as_table_like);
        let env = env.into_iter().flat_map(TableLike::iter);
        let env = env.filter_map(|(name, item)| Some((name.to_owned(), item.as_str()?.to_owned())));
        let (args, env) = (texts(entry.get("args")), env.collect());
        found.insert(name.to_owned(), Server { command: command.to_owned(), args, env });
    }
    Ok(found)
}

pub fn with(file: &str, name: &str, server: &Server) -> Answer<String> {
    let mut document = parse(file)?;
    let whole = document.as_table_mut();
    if !whole.contains_key(MEMBER) {
        let mut all = Table::new();
        // Written as [mcp_servers.name] alone.
        all.set_implicit(true);
        whole.insert(MEMBER, Item::Table(all));
    }
    let all = whole.get_mut(MEMBER).and_then(Item::as_table_like_mut);
    let all = all.ok_or_else(|| unreadable(format!("{MEMBER} holds no table")))?;
    if all.get(name).is_none() {
        all.insert(name, Item::Table(Table::new()));
    }
    let entry = all.get_mut(name).and_then(Item::as_table_like_mut);
    let entry = entry.ok_or_else(|| unreadable(format!("{MEMBER}.{name} holds no table")))?;
    put(entry, "command", server.command.as_str().into());
    put(entry, "args", Value::Array(server.args.iter().map(String::as_str).collect::<Array>()));
    if let Some(env) = entry.get_mut("env").and_then(Item::as_table_like_mut) {
        let before: Vec<String> = env.iter().map(|(name, _)| name.to_owned()).collect();
        for name in before.iter().filter(|name| !server.env.contains_key(*name)) {
            env.remove(name);
        }
        for (name, value) in &server.env {
            put(env, name, value.as_str().into());
        }
    } else if !server.env.is_empty() {
        let env = server.env.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        put(entry, "env", Value::InlineTable(env.collect::<InlineTable>()));
    }
    Ok(document.to_string())
}

pub fn without(file: &str, name: &str) -> Answer<String> {
    let mut document = parse(file)?;
    if let Some(all) = document.get_mut(MEMBER).and_then(Item::as_table_like_mut) {
        all.remove(name);
    }
    Ok(document.to_string())
}

/// Sets a value, and leaves one that is the same as it was written.
fn put(table: &mut dyn TableLike, name: &str, value: Value) {
    let same = |before: &Item| match (before, &value) {
        (Item::Value(Value::String(before)), Value::String(new)) => before.value() == new.value(),
        (Item::Value(Value::Array(_)), Value::Array(new)) => {
            let new = new.iter().filter_map(Value::as_str);
            texts(Some(before)).iter().map(String::as_str).eq(new)
        }
        _ => false,
    };
    if !table.get(name).is_some_and(same) {
        table.insert(name, Item::Value(value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_else_is_in_the_file_stays() {
        let file = "model = \"o\" # mine\n\n[mcp_servers.gh]\ncommand = 'npx'\nargs = [ \"gh\" ]\n\
                    startup_timeout_sec = 30\n[mcp_servers.gh.env]\nTOKEN = \"ghp_x\"\nA = \"1\"\n\n\
                    [tools]\nx = true\n";
        let ours = Server {
            command: "/opt/agentkeys".to_owned(),
            args: vec!["daemon".to_owned()],
            env: BTreeMap::from([("B".to_owned(), "2".to_owned())]),
        };
        let made = with(file, "agentkeys", &ours).unwrap();
        assert_eq!(servers(&made).unwrap()["agentkeys"], ours);
        assert!(made.starts_with("model = \"o\" # mine\n\n[mcp_servers.gh]\ncommand = 'npx'\n"));
        assert!(made.contains("[tools]\nx = true\n"));
        assert_eq!(with(&made, "agentkeys", &ours).unwrap(), made);
        assert_eq!(without(&made, "agentkeys").unwrap(), file);
        let mut gh = servers(file).unwrap().remove("gh").unwrap();
        gh.env.remove("TOKEN");
        gh.command = "agentkeys".to_owned();
        let made = with(file, "gh", &gh).unwrap();
        assert!(!made.contains("ghp_x") && made.contains("startup_timeout_sec = 30\n"), "{made}");
        assert_eq!(servers(&made).unwrap()["gh"], gh);
        assert_eq!(servers(&with("", "agentkeys", &ours).unwrap()).unwrap()["agentkeys"], ours);
    }

    #[test]
    fn what_is_no_toml_is_refused_by_its_line_and_not_repeated() {
        let problem = with("a = 1\nb = secret\n", "x", &Server::default()).unwrap_err();
        assert!(problem.cause.contains("line 2"), "{}", problem.cause);
        assert!(!problem.cause.contains("secret"));
        assert!(with("mcp_servers = 5\n", "x", &Server::default()).is_err());
    }
}

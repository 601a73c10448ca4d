//! Which setting decides, and what a stranger's project file may not.
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use agentkeys::client::config::{Chooser, Config};
use agentkeys::client::places::Places;
use agentkeys::core::problem::{Answer, Code, Problem};
use agentkeys::harden;

struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn places(&self) -> Places {
        let variable = |name: &str| (name == "HOME").then(|| self.path().into());
        Places::find(variable, harden::effective_uid()).unwrap()
    }

    fn write(&self, path: &str, text: &str) -> PathBuf {
        let path = self.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    }

    fn project(&self, text: &str) -> PathBuf {
        self.write("code/project/.agentkeys.toml", text)
    }

    fn user(&self, text: &str) -> PathBuf {
        self.write(".config/agentkeys/config.toml", text)
    }

    fn load(&self, flag: Option<&str>, variable: Option<&str>) -> Answer<Config> {
        let current = self.path().join("code/project/src");
        std::fs::create_dir_all(&current).unwrap();
        Config::find(&self.places(), flag, variable, Some(&current))
    }

    fn refused(&self) -> Problem {
        let refused = self.load(None, None).unwrap_err();
        assert_eq!(refused.code, Code::Invalid, "{refused:?}");
        refused
    }
}

#[test]
fn the_flag_wins_over_the_variable_over_the_user_file_over_the_default() {
    let home = Home::new();
    let of = |found: Answer<Config>| {
        let found = found.unwrap();
        (found.backend.map(|address| address.to_string()), found.chosen_by)
    };
    assert_eq!(of(home.load(None, None)), (None, Chooser::Default));
    home.user("backend = \"unix:/user\"\n");
    let by_user = (Some("unix:/user".to_owned()), Chooser::UserFile);
    assert_eq!(of(home.load(None, None)), by_user);
    assert_eq!(of(home.load(None, Some(""))), by_user);
    let variable = Some("http://127.0.0.1:7");
    let by_variable = (variable.map(str::to_owned), Chooser::Environment);
    assert_eq!(of(home.load(None, variable)), by_variable);
    let by_flag = (Some("unix:/flag".to_owned()), Chooser::Flag);
    assert_eq!(of(home.load(Some("unix:/flag"), variable)), by_flag);
}

#[test]
fn a_wrong_value_is_an_error_that_names_what_set_it_even_if_another_would_do() {
    let home = Home::new();
    let file = home.user("backend = \"https://keys.example.org#sha256:12\"\n");
    let wrong = home.refused();
    assert!(wrong.detail.contains(file.to_str().unwrap()), "{}", wrong.detail);
    assert!(home.load(Some("unix:/flag"), None).is_err());
    home.user("");
    let wrong = home.load(None, Some("http://example.org:1")).unwrap_err();
    assert!(wrong.detail.contains("AGENTKEYS_BACKEND"), "{}", wrong.detail);
    let wrong = home.load(Some("nonsense"), Some("unix:/good")).unwrap_err();
    assert!(wrong.detail.contains("--backend"), "{}", wrong.detail);
}

#[test]
fn a_project_file_names_agent_services_and_variables_for_the_folders_below_it() {
    let home = Home::new();
    home.user(
        "agent = \"mine\"\nservices = [\"github\"]\n[variables]\nA = \"github\"\nB = \"brave\"\n",
    );
    let file = home.project("agent = \"theirs\"\n[variables]\nB = \"notion\"\n");
    let found = home.load(None, None).unwrap();
    assert_eq!(found.project_file, Some(file));
    assert_eq!(found.names.agent.unwrap().to_string(), "theirs");
    assert_eq!(found.names.services[0].as_str(), "github");
    let variables: Vec<_> = found.names.variables.iter().map(|(k, v)| (&**k, v.as_str())).collect();
    assert_eq!(variables, [("A", "github"), ("B", "notion")]);
}

#[test]
fn a_project_file_that_names_a_backend_or_anything_else_is_refused_by_every_command() {
    let home = Home::new();
    for key in ["backend", "session", "presence", "Agent", "root_key", "data"] {
        home.project(&format!("agent = \"a\"\n{key} = \"unix:/run/evil\"\n"));
        let refused = home.refused();
        assert!(refused.detail.contains(&format!("{key:?}")), "{}", refused.detail);
        assert!(refused.detail.contains(".agentkeys.toml"), "{}", refused.detail);
        assert!(home.load(Some("unix:/flag"), Some("unix:/variable")).is_err());
    }
    home.project("sk-secret-value = 1\n");
    assert!(home.refused().detail.ends_with("sets another key"));
    let file = home.user("token = \"sk-secret-value\"\n");
    home.project("");
    let refused = home.refused();
    assert!(refused.detail.contains(file.to_str().unwrap()));
    assert!(refused.cause.contains("\"token\"") && !refused.cause.contains("secret"));
    home.user("");
    home.project("[backend]\naddress = \"unix:/run/evil\"\n");
    home.refused();
}

#[test]
fn what_does_not_parse_is_refused_without_repeating_it() {
    let home = Home::new();
    for text in [
        "agent = \"sk-secret-value",
        "agent = 7\n",
        "agent = \"no such name!\"\n",
        "services = \"sk-secret-value\"\n",
        "services = [\"sk secret value\"]\n",
        "[variables]\n\"LD PRELOAD\" = \"github\"\n",
        "[variables]\nA = \"sk secret value\"\n",
        "= sk-secret-value",
    ] {
        home.project(text);
        let refused = home.refused();
        let all = format!("{refused:?}");
        assert!(!all.contains("secret"), "{all}");
    }
    home.project(&format!("# {}\n", "x".repeat(70_000)));
    assert!(home.refused().cause.contains("65536"));
    std::fs::write(home.project(""), b"agent = \"\xff\"").unwrap();
    assert!(home.refused().cause.contains("UTF-8"));
}

#[test]
fn the_search_ends_at_the_home_folder() {
    let outer = Home::new();
    let home = outer.path().join("home");
    let current = home.join("code");
    std::fs::create_dir_all(&current).unwrap();
    let variable = |name: &str| (name == "HOME").then(|| home.clone().into());
    let places = Places::find(variable, harden::effective_uid()).unwrap();
    outer.write(".agentkeys.toml", "agent = \"above\"\n");
    let find = || Config::find(&places, None, None, Some(&current)).unwrap().names.agent;
    assert_eq!(find(), None);
    outer.write("home/.agentkeys.toml", "agent = \"at-home\"\n");
    assert_eq!(find().unwrap().to_string(), "at-home");
}

#[test]
fn a_project_file_that_is_a_link_or_no_file_is_passed_over() {
    let home = Home::new();
    let file = home.project("agent = \"theirs\"\n");
    let aside = home.path().join("aside");
    std::fs::rename(&file, &aside).unwrap();
    symlink(&aside, &file).unwrap();
    assert_eq!(home.load(None, None).unwrap().names.agent, None);
    std::fs::remove_file(&file).unwrap();
    std::fs::create_dir(&file).unwrap();
    assert_eq!(home.load(None, None).unwrap().names.agent, None);
}

#[test]
fn the_users_file_may_be_a_link_of_theirs_and_may_not_be_writable_by_others() {
    let home = Home::new();
    let file = home.user("agent = \"mine\"\n");
    let aside = home.path().join("dotfiles.toml");
    std::fs::rename(&file, &aside).unwrap();
    symlink(&aside, &file).unwrap();
    assert_eq!(home.load(None, None).unwrap().names.agent.unwrap().to_string(), "mine");
    std::fs::set_permissions(&aside, PermissionsExt::from_mode(0o666)).unwrap();
    assert!(home.refused().cause.contains("only you"));
}

/// Another user's files can be made by root only; for anybody else, root is the other user.
#[test]
fn another_users_files_are_not_believed() {
    use agentkeys::client::files;
    let home = Home::new();
    if harden::effective_uid() != 0 {
        assert!(files::make_folder(Path::new("/usr")).unwrap_err().cause.contains("user 0 owns"));
        let read = files::read(Path::new("/etc/passwd"), 1 << 20).unwrap_err();
        assert!(read.cause.contains("user 0 owns"));
        return;
    }
    let project = home.project("agent = \"theirs\"\n");
    chown(&project, Some(12345), None).unwrap();
    assert_eq!(home.load(None, None).unwrap().names.agent, None);
    let user = home.user("agent = \"theirs\"\n");
    chown(&user, Some(12345), None).unwrap();
    assert!(home.refused().cause.contains("only you"));
    let folder = home.path().join("folder");
    files::make_strict_folder(&folder).unwrap();
    chown(&folder, Some(12345), None).unwrap();
    for refused in [files::make_folder(&folder), files::make_strict_folder(&folder)] {
        assert!(refused.unwrap_err().cause.contains("user 12345 owns"));
    }
    let secret = home.write("secret", "");
    std::fs::set_permissions(&secret, PermissionsExt::from_mode(0o600)).unwrap();
    chown(&secret, Some(12345), None).unwrap();
    assert!(files::read(&secret, 10).unwrap_err().cause.contains("user 12345 owns"));
    assert!(files::open_to_append(&secret).is_err());
    // A link of another user's, to a folder of ours.
    let link = home.path().join("link");
    let ours = home.path().join("ours");
    files::make_folder(&ours).unwrap();
    symlink(&ours, &link).unwrap();
    files::make_folder(&link).unwrap();
    std::os::unix::fs::lchown(&link, Some(12345), None).unwrap();
    assert!(files::make_folder(&link).unwrap_err().cause.contains("user 12345 owns this link"));
}

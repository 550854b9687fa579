//! What packages bring beside the program fits it: shells' completions and the manual page.

use std::fs;
use std::path::{Path, PathBuf};

use clap::{Arg, Command};
use clap_complete::Shell;
use pgtandem::daemon::cli;

fn packaging(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging").join(name)
}

/// `PGTANDEM_WRITE_COMPLETIONS=1 cargo test --test packaging` writes them.
#[test]
fn completions_are_those_of_the_program() {
    for (shell, name) in [(Shell::Bash, "pgtandem.bash"), (Shell::Zsh, "_pgtandem"), (Shell::Fish, "pgtandem.fish")] {
        let mut made = Vec::new();
        clap_complete::generate(shell, &mut cli::command("pgtandem"), "pgtandem", &mut made);
        let path = packaging("completions").join(name);
        if std::env::var_os("PGTANDEM_WRITE_COMPLETIONS").is_some() {
            fs::create_dir_all(packaging("completions")).unwrap();
            fs::write(&path, &made).unwrap();
        }
        let kept = fs::read(&path).unwrap();
        let remedy = "run PGTANDEM_WRITE_COMPLETIONS=1 cargo test --test packaging";
        assert!(kept == made, "{} is out of date: {remedy}", path.display());
        let text = String::from_utf8(kept).unwrap();
        for word in ["check", "convert", "doctor", "address-helper", "without-files", "timeout"] {
            assert!(text.contains(word), "{name} lacks {word}");
        }
        assert!(!text.contains("child"), "{name} names what is not for users");
    }
}

/// The names under which an argument is given.
fn spellings(arg: &Arg) -> Vec<String> {
    let long = arg.get_long().map(|long| format!("-{long}"));
    let short = arg.get_short().map(|short| short.to_string());
    long.into_iter().chain(short).collect()
}

#[test]
fn the_manual_names_every_command_and_option() {
    let page = fs::read_to_string(packaging("man/pgtandem.1")).unwrap();
    let mut command = cli::command("pgtandem");
    command.build();
    let shown = |command: &Command| {
        for arg in command.get_arguments().filter(|arg| !arg.is_hide_set()) {
            let names = spellings(arg);
            let named = |name: &String| page.lines().any(|line| line.contains("Fl") && line.contains(name.as_str()));
            assert!(names.is_empty() || names.iter().any(named), "{names:?} of {}", command.get_name());
        }
    };
    shown(&command);
    let commands: Vec<&Command> = command.get_subcommands().filter(|it| it.get_name() != "help").collect();
    assert_eq!(commands.len(), 4);
    for command in commands {
        assert!(page.contains(&format!(".It Cm {}", command.get_name())), "{}", command.get_name());
        shown(command);
    }
}

//! A lab for the whole binary: its own home, its own state directory, an empty path; and what a run left behind.

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use assert_cmd::Command;
use serde_json::Value;
use tempfile::TempDir;

/// A directory in which `coastal` runs and sees nothing of the machine.
pub struct TestLab {
    directory: TempDir,
    path: String,
}

impl TestLab {
    /// Nothing is there: no lab.toml, no tools, no state.
    pub fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        for name in ["home", "bin", "cwd"] {
            std::fs::create_dir(directory.path().join(name)).unwrap();
        }
        TestLab { directory, path: String::new() }
    }

    /// A lab that finds fake tools: shell scripts by name. `$DIR` is where [`TestLab::at`] begins.
    pub fn with_tools(tools: &[(&str, &str)]) -> Self {
        let mut lab = TestLab::new();
        lab.path = format!("{}:/usr/bin:/bin", lab.at("bin").display());
        for (name, script) in tools {
            lab.tool(name, script);
        }
        lab
    }

    /// Makes, or makes anew, the fake `name`. Only its script is ever written, so that it can always be started.
    pub fn tool(&self, name: &str, script: &str) {
        let program = self.at("bin").join(name);
        if !program.exists() {
            let fake = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/fake/tool");
            std::os::unix::fs::symlink(fake, &program).unwrap();
        }
        let dir = self.directory.path().display();
        std::fs::write(self.at("bin").join(format!("{name}.script")), format!("DIR='{dir}'\n{script}\n")).unwrap();
    }

    /// A path below the lab's directory; commands run in `cwd`.
    pub fn at(&self, path: &str) -> PathBuf {
        self.directory.path().join(path)
    }

    /// Writes a file into the directory in which commands run.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.at("cwd").join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// The lab's own files on the real machine.
    pub fn state(&self) -> PathBuf {
        self.at("state/day-two")
    }

    /// Runs `coastal` with these words, to its end.
    pub fn coastal(&self, words: &str) -> Ran {
        self.coastal_with(&words.split_whitespace().collect::<Vec<_>>())
    }

    /// As [`TestLab::coastal`], for words with spaces in them.
    pub fn coastal_with(&self, words: &[&str]) -> Ran {
        let mut command = Command::new(env!("CARGO_BIN_EXE_coastal"));
        command.args(words).env_clear().envs(self.environment()).current_dir(self.at("cwd"));
        let output = command.output().unwrap();
        let ran = Ran {
            words: words.join(" "),
            code: output.status.code(),
            out: as_if_real(&String::from_utf8_lossy(&output.stdout)),
            err: as_if_real(&String::from_utf8_lossy(&output.stderr)),
        };
        assert!(!ran.err.contains("panicked"), "{ran:?}");
        ran
    }

    /// What a shell is told that fits the last of the words that were typed.
    pub fn offered(&self, shell: &str, typed: &[&str]) -> String {
        let mut command = Command::new(env!("CARGO_BIN_EXE_coastal"));
        command.arg("--").args(typed).env_clear().envs(self.environment()).current_dir(self.at("cwd"));
        let index = (typed.len() - 1).to_string();
        let output = command.env("COASTAL_COMPLETE", shell).env("_CLAP_COMPLETE_INDEX", index).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Runs a command on the lab's kept rehearsal world.
    pub fn rehearse(&self, words: &str) -> Ran {
        self.coastal(&format!("rehearse --world {} {words}", self.world().display()))
    }

    /// Where the kept rehearsal world lies.
    pub fn world(&self) -> PathBuf {
        self.at("world.json")
    }

    /// Starts `coastal` and does not wait for it.
    #[expect(clippy::disallowed_methods, reason = "the rule is about what coastal starts; here coastal is started")]
    pub fn start(&self, words: &str, stdout: Stdio) -> Child {
        std::process::Command::new(env!("CARGO_BIN_EXE_coastal"))
            .args(words.split_whitespace())
            .env_clear()
            .envs(self.environment())
            .current_dir(self.at("cwd"))
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    fn environment(&self) -> Vec<(&'static str, String)> {
        vec![
            ("HOME", self.at("home").display().to_string()),
            ("XDG_STATE_HOME", self.at("home/state").display().to_string()),
            ("COASTAL_STATE_DIR", self.at("state").display().to_string()),
            ("PATH", self.path.clone()),
        ]
    }
}

/// What a kept rehearsal advises, as the real world would: without the way back to its world. That this way is there, and
/// leads back, is for its own tests to see.
fn as_if_real(said: &str) -> String {
    let mut parts = said.split("coastal rehearse --world ");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| text + "coastal " + part.split_once(' ').map_or(part, |(_, words)| words))
}

/// How a run of `coastal` ended.
#[derive(Debug)]
pub struct Ran {
    /// What was asked for.
    pub words: String,
    /// Absent if a signal ended it.
    pub code: Option<i32>,
    /// Its results.
    pub out: String,
    /// Everything else it said.
    pub err: String,
}

impl Ran {
    /// It ended well.
    #[track_caller]
    pub fn ok(self) -> Self {
        self.ends(0)
    }

    /// It ended with `code`.
    #[track_caller]
    pub fn ends(self, code: i32) -> Self {
        let tail = |text: &str| {
            text.lines().rev().take(20).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join("\n")
        };
        assert_eq!(self.code, Some(code), "coastal {}\n{}\n{}", self.words, tail(&self.out), tail(&self.err));
        self
    }

    /// It said so, on either stream.
    #[track_caller]
    pub fn says(self, text: &str) -> Self {
        let said = self.out.contains(text) || self.err.contains(text);
        assert!(said, "coastal {} does not say {text:?}:\n{}\n{}", self.words, self.out, self.err);
        self
    }

    /// Its standard output, each line a JSON value and nothing else.
    #[track_caller]
    pub fn lines(&self) -> Vec<Value> {
        let parse = |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line:?}"));
        self.out.lines().map(parse).collect()
    }

    /// The last event: how the run ended.
    #[track_caller]
    pub fn result(&self) -> Value {
        let last = self.lines().pop().unwrap_or_else(|| panic!("no output of {self:?}"));
        assert_eq!(last["type"], "result", "{self:?}");
        last
    }
}

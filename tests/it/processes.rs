//! The real runner against fake executables: every way in which a process can end, or not.
//!
//! Nothing here depends on how quick the machine is. A process says when it is ready by printing a line or opening
//! a FIFO. Time is paused and stands still while a process runs (tokio does not advance it beside a blocking task);
//! where a limit has to pass, the test advances it.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use coastal::tools::process::{Manners, ProcessRunner};
use coastal::tools::{Command, CommandError, CommandIo, Output, Runner, Stream, Tool};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// Longer than any test; only ever passed by advancing paused time.
const HOUR: Duration = Duration::from_secs(3600);

/// A directory with a fake `kind` in it.
struct Lab {
    dir: tempfile::TempDir,
    runner: ProcessRunner,
}

impl Lab {
    /// A lab whose `kind` does what `script` says; `$DIR` is the lab's directory.
    fn new(script: &str) -> Self {
        let lab = Lab::empty();
        lab.place(&fake("tool"));
        let dir = lab.dir.path().display();
        std::fs::write(lab.dir.path().join("kind.script"), format!("DIR='{dir}'\n{script}\n")).unwrap();
        lab
    }

    /// A lab without tools.
    fn empty() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = format!("{}:/usr/bin:/bin", dir.path().display());
        let manners = Manners { grace: HOUR, linger: HOUR };
        Lab { dir, runner: ProcessRunner::with(Some(path.into()), manners) }
    }

    fn place(&self, program: &Path) {
        symlink(program, self.dir.path().join("kind")).unwrap();
    }

    /// A FIFO in the lab's directory, and our end to read from.
    fn fifo(&self, name: &str) -> pipe::Receiver {
        let path = self.dir.path().join(name);
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        pipe::OpenOptions::new().open_receiver(path).unwrap()
    }

    async fn run(&self, command: &Command) -> Result<Output, CommandError> {
        let cancel = CancellationToken::new();
        self.runner.run(command, CommandIo { on_line: &|_, _| {}, cancel: &cancel }).await
    }
}

fn fake(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/fake").join(name)
}

fn kind() -> Command {
    Command::new(Tool::Kind, ["get", "clusters"]).timeout(HOUR)
}

/// Everything that could hold the other end open is gone.
async fn assert_all_writers_end(mut fifo: pipe::Receiver) {
    let mut rest = Vec::new();
    tokio::time::resume();
    tokio::time::timeout(Duration::from_secs(60), fifo.read_to_end(&mut rest)).await.expect("somebody lives").unwrap();
}

#[tokio::test(start_paused = true)]
async fn success_returns_both_outputs() {
    let lab = Lab::new("echo \"out: $*\"; echo \"err: $LC_ALL\" >&2");
    let output = lab.run(&kind()).await.unwrap();
    assert_eq!(output.stdout, "out: get clusters\n");
    assert_eq!(output.stderr, "err: C\n");
}

#[tokio::test(start_paused = true)]
async fn arguments_and_variables_arrive_as_they_are() {
    let lab = Lab::new("printf '%s|' \"$#\" \"$1\" \"$2\" \"$3\" \"$X\"");
    let command = Command::new(Tool::Kind, ["a b", "", "$(id) 'q' *\n"]).env("X", "é \"").timeout(HOUR);
    assert_eq!(lab.run(&command).await.unwrap().stdout, "3|a b||$(id) 'q' *\n|é \"|");
}

#[tokio::test(start_paused = true)]
async fn an_exit_code_comes_with_everything_that_was_printed() {
    let lab = Lab::new("echo some; echo 'ERROR: no' >&2; exit 7");
    let error = lab.run(&kind()).await.unwrap_err();
    assert_eq!(error.tail(5), ["ERROR: no"]);
    let output = Output { stdout: "some\n".into(), stderr: "ERROR: no\n".into() };
    assert_eq!(error, CommandError::Exit { line: "kind get clusters".into(), code: 7, output });
}

#[tokio::test(start_paused = true)]
async fn a_signal_is_not_an_exit_code() {
    let lab = Lab::new("echo last words; kill -9 $$");
    let output = Output { stdout: "last words\n".into(), stderr: String::new() };
    let expected = CommandError::Signal { line: "kind get clusters".into(), signal: 9, output };
    assert_eq!(lab.run(&kind()).await.unwrap_err(), expected);
}

#[tokio::test(start_paused = true)]
async fn lines_of_both_outputs_are_told_while_they_come() {
    // The second half is printed only when the first was told.
    let lab = Lab::new("echo 1; echo a >&2; read go <\"$DIR/go\"; echo 2; printf b >&2");
    drop(lab.fifo("go"));
    let told = Mutex::new(Vec::new());
    let on_line = |stream: Stream, line: &str| {
        let mut told = told.lock().unwrap();
        told.push((stream, line.to_owned()));
        if told.len() == 2 {
            let go = lab.dir.path().join("go");
            std::thread::spawn(move || std::fs::write(go, "go\n").unwrap());
        }
    };
    let cancel = CancellationToken::new();
    lab.runner.run(&kind(), CommandIo { on_line: &on_line, cancel: &cancel }).await.unwrap();
    let of = |stream| told.lock().unwrap().iter().filter(|l| l.0 == stream).map(|l| l.1.clone()).collect::<Vec<_>>();
    assert_eq!(of(Stream::Stdout), ["1", "2"]);
    assert_eq!(of(Stream::Stderr), ["a", "b"]);
}

#[tokio::test(start_paused = true)]
async fn ten_megabytes_on_both_outputs_do_not_block() {
    const BYTES: usize = 10 << 20;
    let line = "x".repeat(99);
    let lab = Lab::new(&format!("yes {line} | head -c {BYTES} & yes {line} | head -c {BYTES} >&2; wait"));
    let output = lab.run(&kind()).await.unwrap();
    let expected = format!("{line}\n").repeat(BYTES / 100 + 1);
    assert!(output.stdout == expected[..BYTES] && output.stderr == expected[..BYTES]);
}

#[tokio::test(start_paused = true)]
async fn input_goes_through_whole() {
    let lab = Lab::new("cat");
    let input = "0123456789abcde\n".repeat(300_000);
    let output = lab.run(&kind().stdin(input.clone())).await.unwrap();
    assert!(output.stdout == input);
}

#[tokio::test(start_paused = true)]
async fn without_input_there_is_an_empty_one() {
    let lab = Lab::new("wc -c");
    assert_eq!(lab.run(&kind()).await.unwrap().stdout.trim(), "0");
}

#[tokio::test(start_paused = true)]
async fn input_that_is_not_wanted_is_no_error() {
    let lab = Lab::new("exec 0<&-; echo enough");
    let output = lab.run(&kind().stdin(vec![b'x'; 1 << 20])).await.unwrap();
    assert_eq!(output.stdout, "enough\n");
}

#[tokio::test(start_paused = true)]
async fn garbage_bytes_are_kept_readable() {
    let lab = Lab::new(r"printf 'kind v\377\376\000\n'");
    assert_eq!(lab.run(&kind()).await.unwrap().stdout, "kind v\u{fffd}\u{fffd}\0\n");
}

#[tokio::test(start_paused = true)]
async fn a_secret_output_is_told_to_nobody() {
    let lab = Lab::new("echo key; echo why >&2; exit $CODE");
    let cancel = CancellationToken::new();
    let nobody = |_: Stream, line: &str| panic!("told: {line}");
    let io = CommandIo { on_line: &nobody, cancel: &cancel };
    let command = kind().secret_output();
    assert_eq!(lab.runner.run(&command.clone().env("CODE", "0"), io).await.unwrap().stdout, "key\n");
    let error = lab.runner.run(&command.env("CODE", "1"), io).await.unwrap_err();
    let CommandError::Exit { output, .. } = error else { panic!("{error:?}") };
    assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("", "why\n"));
}

#[tokio::test(start_paused = true)]
async fn a_missing_program_is_not_found() {
    let found = Lab::new("");
    assert_eq!(found.runner.locate(Tool::Kind), Some(found.dir.path().join("kind")));
    let directory = tempfile::tempdir().unwrap();
    let other = tempfile::tempdir().unwrap();
    std::fs::create_dir(other.path().join("kind")).unwrap();
    for path in [
        None,
        Some("".into()),
        Some(":".into()),
        Some("/no/such/directory".into()),
        Some(directory.path().into()),
        Some(other.path().into()),
    ] {
        let runner = ProcessRunner::with(path.clone(), Manners::default());
        assert_eq!(runner.locate(Tool::Kind), None, "{path:?}");
        let cancel = CancellationToken::new();
        let error = runner.run(&kind(), CommandIo { on_line: &|_, _| {}, cancel: &cancel }).await.unwrap_err();
        assert_eq!(error, CommandError::NotFound { tool: Tool::Kind }, "{path:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_program_that_is_installed_later_is_found() {
    let lab = Lab::empty();
    assert_eq!(lab.run(&kind()).await.unwrap_err(), CommandError::NotFound { tool: Tool::Kind });
    lab.place(&fake("tool"));
    std::fs::write(lab.dir.path().join("kind.script"), "echo here").unwrap();
    assert_eq!(lab.run(&kind()).await.unwrap().stdout, "here\n");
    std::fs::remove_file(lab.dir.path().join("kind")).unwrap();
    assert_eq!(lab.run(&kind()).await.unwrap_err(), CommandError::NotFound { tool: Tool::Kind });
}

#[tokio::test(start_paused = true)]
async fn a_program_that_may_not_be_executed_is_said_so() {
    let lab = Lab::empty();
    let program = lab.dir.path().join("kind");
    std::fs::write(&program, "#!/bin/sh\n").unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(
        lab.run(&kind()).await.unwrap_err().to_string(),
        format!("`kind get clusters` could not be run: `{}` may not be executed by this user", program.display())
    );
}

#[tokio::test(start_paused = true)]
async fn a_program_without_its_interpreter_is_said_so() {
    let lab = Lab::empty();
    lab.place(&fake("broken"));
    let error = lab.run(&kind()).await.unwrap_err();
    assert!(matches!(&error, CommandError::Io { message, .. } if message.contains("interpreter")), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_hanging_group_is_ended_when_its_time_is_up() {
    // The shell and its child both hang. The child's FIFO shows whether it lives.
    let lab = Lab::new("sleep 1000 9>\"$DIR/life\" & exec 9>\"$DIR/life\"; echo ready; wait; echo not reached");
    let life = lab.fifo("life");
    let ready = Notify::new();
    let cancel = CancellationToken::new();
    let on_line = |_: Stream, _: &str| ready.notify_one();
    let io = CommandIo { on_line: &on_line, cancel: &cancel };
    let command = kind().timeout(Duration::from_secs(300));
    let (result, ()) = tokio::join!(lab.runner.run(&command, io), async {
        ready.notified().await;
        tokio::time::advance(Duration::from_secs(301)).await;
        // The child was started in the background and so ignores SIGINT; the shell does not.
    });
    let output = Output { stdout: "ready\n".into(), stderr: String::new() };
    let expected = CommandError::TimedOut { line: "kind get clusters".into(), after: Duration::from_secs(300), output };
    assert_eq!(result.unwrap_err(), expected);
    assert_all_writers_end(life).await;
}

#[tokio::test(start_paused = true)]
async fn cancelling_interrupts_first_and_lets_it_finish() {
    let lab = Lab::new("trap 'echo cleaning up; exit 0' INT; echo ready; while :; do :; done");
    let told = Mutex::new(Vec::new());
    let cancel = CancellationToken::new();
    let on_line = |_: Stream, line: &str| {
        told.lock().unwrap().push(line.to_owned());
        cancel.cancel();
    };
    let result = lab.runner.run(&kind(), CommandIo { on_line: &on_line, cancel: &cancel }).await;
    assert_eq!(result.unwrap_err(), CommandError::Interrupted { line: "kind get clusters".into() });
    assert_eq!(told.into_inner().unwrap(), ["ready", "cleaning up"]);
}

#[tokio::test(start_paused = true)]
async fn what_ignores_sigint_is_killed_after_the_grace() {
    let lab = Lab::new("exec 9>\"$DIR/life\"; trap 'echo no' INT; echo ready; while :; do :; done");
    let life = lab.fifo("life");
    let refused = Notify::new();
    let cancel = CancellationToken::new();
    let on_line = |_: Stream, line: &str| match line {
        "ready" => cancel.cancel(),
        _ => refused.notify_one(),
    };
    let command = kind();
    let io = CommandIo { on_line: &on_line, cancel: &cancel };
    let (result, ()) = tokio::join!(lab.runner.run(&command, io), async {
        refused.notified().await;
        tokio::time::advance(HOUR + Duration::from_secs(1)).await;
    });
    assert_eq!(result.unwrap_err(), CommandError::Interrupted { line: "kind get clusters".into() });
    assert_all_writers_end(life).await;
}

#[tokio::test(start_paused = true)]
async fn nothing_is_started_after_a_cancellation() {
    let lab = Lab::new(": >\"$DIR/started\"");
    let cancel = CancellationToken::new();
    cancel.cancel();
    let result = lab.runner.run(&kind(), CommandIo { on_line: &|_, _| {}, cancel: &cancel }).await;
    assert_eq!(result.unwrap_err(), CommandError::Interrupted { line: "kind get clusters".into() });
    assert!(!lab.dir.path().join("started").exists());
}

#[tokio::test(start_paused = true)]
async fn dropping_the_run_kills_the_group() {
    let lab = Lab::new("trap '' INT TERM; sleep 1000 9>\"$DIR/life\" & exec 9>\"$DIR/life\"; echo ready; wait");
    let life = lab.fifo("life");
    let ready = Notify::new();
    let cancel = CancellationToken::new();
    let on_line = |_: Stream, _: &str| ready.notify_one();
    let command = kind();
    tokio::select! {
        result = lab.runner.run(&command, CommandIo { on_line: &on_line, cancel: &cancel }) => panic!("{result:?}"),
        () = ready.notified() => {}
    }
    assert_all_writers_end(life).await;
}

#[tokio::test(start_paused = true)]
async fn an_orphan_that_holds_the_outputs_is_not_waited_for() {
    let lab = Lab::new("sleep 1000 9>\"$DIR/life\" & exec 9>\"$DIR/life\"; echo done");
    let life = lab.fifo("life");
    assert_eq!(lab.run(&kind()).await.unwrap().stdout, "done\n");
    assert_all_writers_end(life).await;
}

#[cfg(target_os = "linux")]
#[tokio::test(start_paused = true)]
async fn an_orphan_that_left_the_group_does_not_hang_us() {
    let script =
        "setsid sh -c 'echo left >\"$0/left\"; read end <\"$0/end\"' \"$DIR\" & read left <\"$DIR/left\"; echo done";
    let lab = Lab::new(script);
    drop((lab.fifo("left"), lab.fifo("end")));
    assert_eq!(lab.run(&kind()).await.unwrap().stdout, "done\n");
    let end = lab.dir.path().join("end");
    // Opening blocks until the other end is opened, too: it lives, and goes now.
    tokio::task::spawn_blocking(move || std::fs::write(end, "now\n")).await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_daemon_that_let_go_of_the_outputs_is_left_alone() {
    let script =
        "(echo free >\"$DIR/free\"; read end <\"$DIR/end\") >/dev/null 2>&1 & read free <\"$DIR/free\"; echo done";
    let lab = Lab::new(script);
    drop((lab.fifo("free"), lab.fifo("end")));
    assert_eq!(lab.run(&kind()).await.unwrap().stdout, "done\n");
    let end = lab.dir.path().join("end");
    tokio::task::spawn_blocking(move || std::fs::write(end, "now\n")).await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn many_at_once_do_not_mix() {
    let lab = Lab::new("echo \"$1\"; echo \"$1\" >&2");
    let commands: Vec<Command> = (0..20).map(|n| Command::new(Tool::Kind, [n.to_string()]).timeout(HOUR)).collect();
    let results = futures::future::join_all(commands.iter().map(|command| lab.run(command))).await;
    for (n, result) in results.into_iter().enumerate() {
        let text = format!("{n}\n");
        assert_eq!(result.unwrap(), Output { stdout: text.clone(), stderr: text });
    }
}

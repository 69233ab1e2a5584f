//! A runner for looking at one moment: who asks the same twice is given the first answer.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use tokio::sync::OnceCell;

use super::command::{Command, CommandError, CommandIo, Output, Runner, Tool};

/// What makes two commands the same.
type Question = (Tool, Vec<String>, Vec<(String, String)>);

/// Runs each command once, and keeps what it printed; one that failed is run again. Commands with input, and those
/// whose output is handed on as it comes, always run. Only for commands that change nothing: starting kubectl or helm
/// costs a tenth of a second of a processor, and what looks at everything asks much of it more than once.
pub struct Once {
    inner: Arc<dyn Runner>,
    answers: Mutex<HashMap<Question, Arc<OnceCell<Output>>>>,
}

impl Once {
    /// In front of `inner`, with no answer yet.
    #[must_use]
    pub fn before(inner: Arc<dyn Runner>) -> Self {
        Once { inner, answers: Mutex::default() }
    }
}

#[async_trait]
impl Runner for Once {
    async fn run(&self, command: &Command, io: CommandIo<'_>) -> Result<Output, CommandError> {
        if command.stdin.is_some() || command.tap.is_some() {
            return self.inner.run(command, io).await;
        }
        let question = (command.tool, command.args.clone(), command.env.clone());
        let answer =
            Arc::clone(self.answers.lock().unwrap_or_else(PoisonError::into_inner).entry(question).or_default());
        answer.get_or_try_init(|| self.inner.run(command, io)).await.cloned()
    }

    fn locate(&self, tool: Tool) -> Option<PathBuf> {
        self.inner.locate(tool)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio_util::sync::CancellationToken;

    use super::*;

    /// Counts what is run; every first run fails.
    #[derive(Default)]
    struct Counting(AtomicUsize);

    #[async_trait]
    impl Runner for Counting {
        async fn run(&self, command: &Command, _: CommandIo<'_>) -> Result<Output, CommandError> {
            tokio::task::yield_now().await;
            match self.0.fetch_add(1, Ordering::SeqCst) {
                0 => Err(CommandError::NotFound { tool: command.tool }),
                nth => Ok(Output { stdout: nth.to_string(), stderr: String::new() }),
            }
        }

        fn locate(&self, _: Tool) -> Option<PathBuf> {
            None
        }
    }

    #[tokio::test]
    async fn the_same_command_runs_once_and_again_after_a_failure() {
        let (counting, cancel) = (Arc::new(Counting::default()), CancellationToken::new());
        let once = Once::before(Arc::<Counting>::clone(&counting));
        let ask = async |arg: &str| {
            let io = CommandIo { on_line: &|_, _| {}, cancel: &cancel };
            once.run(&Command::new(Tool::Helm, [arg]), io).await.map(|output| output.stdout)
        };
        assert!(ask("version").await.is_err());
        let (left, right) = tokio::join!(ask("list"), ask("list"));
        assert_eq!((left, right, ask("list").await), (Ok("1".into()), Ok("1".into()), Ok("1".into())));
        assert_eq!((ask("version").await, ask("version").await), (Ok("2".into()), Ok("2".into())));
        assert_eq!(counting.0.load(Ordering::SeqCst), 3);
    }

    #[tokio::test]
    async fn what_has_input_always_runs() {
        let cancel = CancellationToken::new();
        let once = Once::before(Arc::new(Counting(AtomicUsize::new(1))));
        let fed = Command::new(Tool::Kubectl, ["apply"]).stdin("x");
        for expected in ["1", "2"] {
            let io = CommandIo { on_line: &|_, _| {}, cancel: &cancel };
            assert_eq!(once.run(&fed, io).await.map(|output| output.stdout), Ok(expected.to_owned()));
        }
    }
}

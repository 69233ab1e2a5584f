//! What a step's body is given: the session, a voice, and the wish to stop.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::engine::event::{Event, Sink, What};
use crate::error::Failure;
use crate::kube::Patience;
use crate::plan::StepId;
use crate::session::Session;
use crate::tools::{Command, CommandError, CommandIo, Output, Stream};
use crate::world::Clock;

/// Numbers events, stamps them and hands them to the sink. Cheap to clone.
#[derive(Clone)]
pub struct Emitter {
    inner: Arc<EmitterInner>,
}

struct EmitterInner {
    // Held across numbering and delivery, so that sinks see events in the order of their numbers.
    next: Mutex<u64>,
    commands: AtomicU64,
    clock: Arc<dyn Clock>,
    sink: Arc<dyn Sink>,
}

impl Emitter {
    /// An emitter that starts at 0.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>, sink: Arc<dyn Sink>) -> Self {
        Emitter { inner: Arc::new(EmitterInner { next: Mutex::new(0), commands: AtomicU64::new(0), clock, sink }) }
    }

    /// Emits.
    pub fn emit(&self, what: What) {
        let mut next = self.inner.next.lock().unwrap_or_else(PoisonError::into_inner);
        let event = Event { seq: *next, at: self.inner.clock.now(), what };
        *next += 1;
        self.inner.sink.take(&event);
    }

    fn next_command(&self) -> u64 {
        self.inner.commands.fetch_add(1, Ordering::Relaxed)
    }
}

/// Handed to a step's body. Cheap to clone.
#[derive(Clone)]
pub struct StepContext {
    /// The lab in its world.
    pub session: Arc<Session>,
    /// Cancelled when the run is to stop.
    pub cancel: CancellationToken,
    step: StepId,
    deadline: Instant,
    /// Absent while only looking (`plan`, `status`): then nothing is emitted.
    emitter: Option<Emitter>,
    /// The last thing that was said, for the failure of a step that is cut off and cannot say it again.
    last_words: Arc<Mutex<Option<String>>>,
    /// The commands that run now, by number: for the failure of a step that is cut off.
    doing: Arc<Mutex<BTreeMap<u64, String>>>,
    speak: Arc<dyn Fn(String) + Send + Sync>,
}

impl StepContext {
    /// A context for `step` whose time runs out at `deadline`; without an emitter it is silent.
    #[must_use]
    pub fn new(
        session: Arc<Session>,
        step: StepId,
        deadline: Instant,
        cancel: CancellationToken,
        emitter: Option<Emitter>,
    ) -> Self {
        let last_words: Arc<Mutex<Option<String>>> = Arc::default();
        let (memory, voice) = (Arc::clone(&last_words), emitter.clone());
        let speak = Arc::new(move |message: String| {
            let mut last = memory.lock().unwrap_or_else(PoisonError::into_inner);
            // A wait that polls says the same thing each time; that is one piece of news.
            if last.as_ref() == Some(&message) {
                return;
            }
            *last = Some(message.clone());
            if let Some(emitter) = &voice {
                emitter.emit(What::StepProgress { step, message });
            }
        });
        StepContext { session, cancel, step, deadline, emitter, last_words, doing: Arc::default(), speak }
    }

    /// For waits on the cluster: until the deadline, with progress as events.
    #[must_use]
    pub fn patience(&self) -> Patience<'_> {
        Patience { deadline: self.deadline, cancel: &self.cancel, progress: &*self.speak }
    }

    /// The step.
    #[must_use]
    pub fn step(&self) -> StepId {
        self.step
    }

    /// When the step's time is up. Waits take this as their limit, so that they can say what they waited for.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Time left.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// Says what is being done or waited for.
    pub fn progress(&self, message: impl Into<String>) {
        (self.speak)(message.into());
    }

    /// Says that something is tried again.
    pub fn retry(&self, attempt: u32, because: impl Into<String>) {
        let because = because.into();
        self.remember(&because);
        self.emit(What::StepRetry { step: self.step, attempt, because });
    }

    /// Hands on what the step has found out, as data.
    ///
    /// # Errors
    /// It cannot be written as JSON: a bug.
    pub fn report(&self, report: &impl serde::Serialize) -> Result<(), Failure> {
        let report = serde_json::to_value(report).map_err(|error| Failure::unexpected(error.to_string()))?;
        self.emit(What::StepReport { step: self.step, report });
        Ok(())
    }

    /// The last progress or retry that was said.
    #[must_use]
    pub fn last_words(&self) -> Option<String> {
        self.last_words.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The commands that run now, pasteable, oldest first.
    #[must_use]
    pub fn doing(&self) -> Vec<String> {
        self.doing.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Sleeps, but wakes with an error when the run is to stop.
    ///
    /// # Errors
    /// [`Failure::interrupted`].
    pub async fn sleep(&self, duration: Duration) -> Result<(), Failure> {
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => Err(Failure::interrupted()),
            () = tokio::time::sleep(duration) => Ok(()),
        }
    }

    /// Runs a command for this step: journaled, streamed as events, ended with the run.
    ///
    /// # Errors
    /// As [`crate::tools::Runner::run`].
    pub async fn run(&self, command: &Command) -> Result<Output, CommandError> {
        let runner = &self.session.world.runner;
        let Some(emitter) = &self.emitter else {
            return runner.run(command, CommandIo { on_line: &|_, _| {}, cancel: &self.cancel }).await;
        };
        let number = emitter.next_command();
        emitter.emit(What::CommandStarted { step: self.step, command: number, line: command.line() });
        let on_line = |stream: Stream, line: &str| {
            emitter.emit(What::CommandOutput { command: number, stream, line: line.to_owned() });
        };
        self.doing.lock().unwrap_or_else(PoisonError::into_inner).insert(number, command.line());
        let mut running = Running { cx: self, emitter, number, started: Instant::now(), exit: None };
        let result = runner.run(command, CommandIo { on_line: &on_line, cancel: &self.cancel }).await;
        running.exit = match &result {
            Ok(_) => Some(0),
            Err(CommandError::Exit { code, .. }) => Some(*code),
            Err(_) => None,
        };
        result
    }

    fn remember(&self, words: &str) {
        *self.last_words.lock().unwrap_or_else(PoisonError::into_inner) = Some(words.to_owned());
    }

    fn emit(&self, what: What) {
        if let Some(emitter) = &self.emitter {
            emitter.emit(what);
        }
    }
}

/// A command that runs. Its end is told however it comes: one of several that run side by side is dropped when another
/// of them fails.
struct Running<'a> {
    cx: &'a StepContext,
    emitter: &'a Emitter,
    number: u64,
    started: Instant,
    exit: Option<i32>,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.cx.doing.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.number);
        let took_ms = millis(self.started.elapsed());
        self.emitter.emit(What::CommandEnded { command: self.number, exit: self.exit, took_ms });
    }
}

/// Whole milliseconds, as events count them.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

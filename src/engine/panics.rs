//! A panic in a step's body as data: its words and its place, told by the step's failure and by nobody else.

use std::any::Any;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind, set_hook, take_hook};
use std::pin::pin;
use std::sync::Once;
use std::task::Poll;

use crate::error::Failure;

/// What broke off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Panic {
    /// What it said.
    pub(super) words: String,
    place: Place,
}

/// Where it was.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Place {
    /// `src/steps/cluster.rs:12:5`.
    location: Option<String>,
    /// If `RUST_BACKTRACE` asks for one.
    backtrace: Option<String>,
}

impl Panic {
    /// As a failure with this sentence.
    pub(super) fn failure(&self, sentence: String) -> Failure {
        let mut failure = Failure::unexpected(sentence).fact("this is a bug in coastal");
        if let Some(location) = &self.place.location {
            failure = failure.fact(format!("at {location}"));
        }
        let backtrace = self.place.backtrace.iter().flat_map(|text| text.lines().map(str::to_owned));
        failure
            .facts(backtrace)
            .next(concat!("please report it, with this message and the journal: ", env!("CARGO_PKG_REPOSITORY")))
    }
}

thread_local! {
    /// While a body is polled on this thread: room for where it panics.
    static LISTENING: RefCell<Option<Place>> = const { RefCell::new(None) };
}

/// `work` to its end, or the panic that ended it. A panic hook is asked on the thread that panics, so those of other
/// threads and of other work are told as ever.
pub(super) async fn caught<T>(work: impl Future<Output = T>) -> Result<T, Panic> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let otherwise = take_hook();
        set_hook(Box::new(move |info| {
            if !heard(info) {
                otherwise(info);
            }
        }));
    });
    let mut work = pin!(work);
    std::future::poll_fn(|context| {
        let outer = LISTENING.replace(Some(Place::default()));
        let outcome = catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(context)));
        let place = LISTENING.replace(outer).unwrap_or_default();
        match outcome {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(result)) => Poll::Ready(Ok(result)),
            Err(payload) => Poll::Ready(Err(Panic { words: words(payload.as_ref()), place })),
        }
    })
    .await
}

/// Whether somebody listens on this thread; then they have heard it.
fn heard(info: &PanicHookInfo<'_>) -> bool {
    // A panic while the place is borrowed is impossible, but a hook must not find out by panicking itself.
    LISTENING
        .try_with(|listening| {
            let Ok(mut listening) = listening.try_borrow_mut() else { return false };
            let Some(place) = listening.as_mut() else { return false };
            place.location = info.location().map(ToString::to_string);
            let backtrace = Backtrace::capture();
            place.backtrace = (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string());
            true
        })
        .unwrap_or(false)
}

fn words(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message").to_owned()
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use futures::FutureExt;

    use super::*;

    fn caught_now<T>(work: impl Future<Output = T>) -> Option<Result<T, Panic>> {
        caught(work).now_or_never()
    }

    #[test]
    fn work_that_ends_is_as_without() {
        assert_eq!(caught_now(ready(1)), Some(Ok(1)));
        assert_eq!(caught_now(pending::<u8>()), None);
    }

    #[test]
    fn a_panic_comes_with_its_words_and_its_place() {
        let panic = caught_now(async { panic!("no {}", "way") }).unwrap().unwrap_err() as Panic;
        assert_eq!(panic.words, "no way");
        let failure = panic.failure("it broke off".into());
        assert!(failure.facts[1].starts_with("at src/engine/panics.rs:"), "{:?}", failure.facts);
        assert!(failure.next[0].contains("please report"), "{:?}", failure.next);
        let panic = caught_now(async { std::panic::panic_any(1) }).unwrap().unwrap_err() as Panic;
        assert_eq!(panic.words, "no message");
    }

    /// Nothing of it is printed; seen from outside, because the output of a test that runs here is nobody's to read.
    #[test]
    #[expect(clippy::disallowed_methods, reason = "the rule is about what coastal starts; here a test is started")]
    fn a_panic_is_told_by_its_failure_only() {
        let test = "engine::tests::a_panic_is_a_failure_of_its_step_only";
        let this = std::env::current_exe().unwrap();
        let ran = std::process::Command::new(this).args(["--exact", test, "--nocapture"]).output().unwrap();
        let said = format!("{}{}", String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
        assert!(ran.status.success() && said.contains("1 passed"), "{said}");
        assert!(!said.contains("panicked") && !said.contains("surprise"), "{said}");
    }
}

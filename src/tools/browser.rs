//! The person's own browser.

use crate::error::Failure;

/// Opens `url` in the browser that the person has chosen, and does not wait for it.
///
/// # Errors
/// There is none here, as on a machine that is reached by SSH.
pub fn open(url: &str) -> Result<(), Failure> {
    open::that_detached(url).map_err(|error| {
        Failure::prerequisite(format!("no browser could be started for {url}: {error}"))
            .next(format!("open it by hand: {url}"))
    })
}

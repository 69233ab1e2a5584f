//! What was begun and must come to its end before anything else is changed.

use crate::engine::StepContext;
use crate::error::Failure;
use crate::steps::{rekey, restore};

/// Whether nothing was cut off that has to come to its end before anything else is changed.
///
/// # Errors
/// Something was: what, and the command that goes on with it.
pub async fn refuse(cx: &StepContext) -> Result<(), Failure> {
    restore::marker::none_is_open(cx).await?;
    rekey::marker::none_is_open(cx).await
}

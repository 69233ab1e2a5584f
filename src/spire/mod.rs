//! What SPIRE is: the names of its objects, the values of its chart, the types of its JSON output.
//! Pure: no I/O.

pub mod cli;
pub mod names;
pub mod values;

//! The same stories on a real cluster; ignored unless asked for: `cargo test --test real -- --ignored`.

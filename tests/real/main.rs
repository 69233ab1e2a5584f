//! The real suite: the lab on a real kind cluster. Ignored by default; see CONTRIBUTING.md.

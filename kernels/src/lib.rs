//! deltaw.

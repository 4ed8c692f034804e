//! The ledger and its file.

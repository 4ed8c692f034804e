//! What holds of every ledger.

mod contract;
pub(super) mod support;

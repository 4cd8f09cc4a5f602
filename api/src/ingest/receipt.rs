//! Fate of each item of a request.

use ledger::text::{MAX_NAME_BYTES, cut};
use serde::Serialize;
use utoipa::ToSchema;
use vault::DataKeyError;

use crate::http::problem::FieldError;

/// The result of a request, in the order of its items.
#[derive(Debug, Default)]
pub struct Receipt {
    items: Vec<ReceiptItem>,
    seq: Option<u64>,
    fault: Option<DataKeyError>,
}

/// The result of one item.
#[derive(Debug, Serialize, ToSchema)]
pub struct ReceiptItem {
    /// Its place in the request, from 0.
    pub index: usize,
    /// Its id, as far as it could be read; one that is too long is cut.
    pub id: Option<String>,
    /// What became of it.
    pub status: ItemStatus,
    /// Why it was rejected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<FieldError>,
}

/// What became of an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = Outcome)]
#[serde(rename_all = "snake_case")]
pub enum ItemStatus {
    /// It is on disk, and counts once.
    Accepted,
    /// It is on disk since before.
    Duplicate,
    /// It is wrong, and not recorded.
    Rejected,
}

impl Receipt {
    pub(super) fn with_capacity(items: usize) -> Self {
        Self { items: Vec::with_capacity(items), ..Self::default() }
    }

    /// The next item, rejected unless something better becomes of it.
    pub(super) fn add(&mut self, id: Option<String>) {
        self.items.push(ReceiptItem {
            index: self.items.len(),
            id: id.map(|id| cut(&id, MAX_NAME_BYTES).to_owned()),
            status: ItemStatus::Rejected,
            error: None,
        });
    }

    pub(super) fn accept(&mut self, index: usize) {
        self.items[index].status = ItemStatus::Accepted;
    }

    pub(super) fn duplicate(&mut self, index: usize) {
        self.items[index].status = ItemStatus::Duplicate;
    }

    pub(super) fn reject(&mut self, index: usize, error: FieldError) {
        self.items[index].error = Some(error);
    }

    /// Rejects an item that nothing is wrong with: its user's data key does not open.
    pub(super) fn reject_keyless(&mut self, index: usize, error: &DataKeyError) {
        self.reject(index, keyless(error));
        self.fault.get_or_insert_with(|| error.clone());
    }

    pub(super) fn set_seq(&mut self, seq: u64) {
        self.seq = Some(seq);
    }

    pub(super) fn has_duplicates(&self) -> bool {
        self.count(ItemStatus::Duplicate) > 0
    }

    /// Number of items that came to this.
    pub fn count(&self, status: ItemStatus) -> usize {
        self.items.iter().filter(|item| item.status == status).count()
    }

    /// Failure of the whole request when nothing became of it, and of some items only for want of a data key.
    pub(super) fn fault(&self) -> Option<&DataKeyError> {
        self.fault.as_ref()
    }

    /// A sequence of the log at or before which all accepted and duplicate items stand; none when there are none.
    pub fn seq(&self) -> Option<u64> {
        self.seq
    }

    /// The items.
    pub fn items(&self) -> &[ReceiptItem] {
        &self.items
    }

    /// The items.
    pub fn into_items(self) -> Vec<ReceiptItem> {
        self.items
    }
}

/// Error of an item whose user's data key does not open: the same codes as of a request that is refused for it.
fn keyless(error: &DataKeyError) -> FieldError {
    match error {
        DataKeyError::UnknownKey { .. } => {
            FieldError::at("/subject", "encryption_key_missing", error.to_string())
        }
        DataKeyError::Open(_) => FieldError::at(
            "/subject",
            "internal",
            "the user's data key does not open; a fault of this service",
        ),
    }
}

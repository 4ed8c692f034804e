//! Bytes that do not arrive as they were sent.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

/// What becomes of bytes on their way.
#[derive(Debug, Clone)]
pub(super) enum Damage {
    Cut(Index),
    Remove(Index),
    Replace(Index, u8),
    Insert(Index, Vec<u8>),
}

impl Damage {
    pub(super) fn apply(self, bytes: &mut Vec<u8>) {
        if bytes.is_empty() {
            return;
        }
        match self {
            Self::Cut(at) => bytes.truncate(at.index(bytes.len())),
            Self::Remove(at) => drop(bytes.remove(at.index(bytes.len()))),
            Self::Replace(at, byte) => *at.get_mut(bytes) = byte,
            Self::Insert(at, inserted) => {
                let at = at.index(bytes.len());
                bytes.splice(at..at, inserted);
            }
        }
    }
}

pub(super) fn damage() -> impl Strategy<Value = Damage> {
    let telling = select(vec![
        "\r\n",
        "\n",
        "\r\n\r\n",
        " ",
        ":",
        "\0",
        "Transfer-Encoding: chunked\r\n",
        "\r\nContent-Length: 5\r\n",
        "\r\nContent-Length: 99999999999999999999\r\n",
        "ffffffffffffffff",
        "\r\nUpgrade: websocket\r\nConnection: upgrade\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        " HTTP/1.0\r\n",
        "\r\n folded",
        "GET / HTTP/1.1\r\n\r\n",
    ]);
    let inserted = prop_oneof![
        telling.prop_map(|text| text.as_bytes().to_vec()),
        vec(any::<u8>(), 1..20),
    ];
    prop_oneof![
        1 => any::<Index>().prop_map(Damage::Cut),
        2 => any::<Index>().prop_map(Damage::Remove),
        2 => (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Damage::Replace(at, byte)),
        3 => (any::<Index>(), inserted).prop_map(|(at, inserted)| Damage::Insert(at, inserted)),
    ]
}

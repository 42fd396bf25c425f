//! The names of metrics as numbers, so that a row holds four bytes of its name.

use std::collections::HashMap;
use std::sync::Arc;

/// Names, each with a number that counts up from 0. A copy is cheap until either of the two gets a new name.
#[derive(Debug, Clone, Default)]
pub struct KeyTable(Arc<Names>);

#[derive(Debug, Clone, Default)]
struct Names {
    names: Vec<Arc<str>>,
    ids: HashMap<Arc<str>, u32>,
}

impl KeyTable {
    /// The number of a name, a new one if need be.
    pub fn intern(&mut self, name: &str) -> u32 {
        if let Some(&id) = self.0.ids.get(name) {
            return id;
        }
        let table = Arc::make_mut(&mut self.0);
        let id = u32::try_from(table.names.len()).unwrap_or(u32::MAX);
        let name: Arc<str> = name.into();
        table.names.push(Arc::clone(&name));
        table.ids.insert(name, id);
        id
    }

    /// The name of a number.
    #[must_use]
    pub fn name(&self, id: u32) -> &Arc<str> {
        &self.0.names[id as usize]
    }

    /// The number of a name, if it has one.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<u32> {
        self.0.ids.get(name).copied()
    }

    /// Whether a number is that of a name.
    #[must_use]
    #[inline]
    pub fn is(&self, id: u32, name: &[u8]) -> bool {
        let known = self.0.names.get(id as usize);
        known.is_some_and(|known| same(known.as_bytes(), name))
    }

    /// All names in the order of their numbers.
    #[must_use]
    pub fn names(&self) -> &[Arc<str>] {
        &self.0.names
    }

    /// How many names there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.names.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.names.is_empty()
    }
}

/// Whether two names are one; most are so short that two words tell.
#[inline]
fn same(a: &[u8], b: &[u8]) -> bool {
    if a.len() != b.len() {
        return false;
    }
    // The first eight bytes and the last eight are all of it.
    let short = a.len() <= 16;
    let words = |name: &[u8]| {
        let word = |bytes: [u8; 8]| u64::from_le_bytes(bytes);
        Some((word(*name.first_chunk()?), word(*name.last_chunk()?)))
    };
    match (words(a), words(b)) {
        (Some(a), Some(b)) if short => a == b,
        _ => a == b,
    }
}

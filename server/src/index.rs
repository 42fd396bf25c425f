//! Finding runs: keys are looked up among the folders that were walked, never joined into paths.
//!
//! A walk reads the records of those runs only that something was written to since the last one.

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use expman_storage::catalog::{ExperimentEntry, open_run};
use expman_storage::spread::spread;
use expman_storage::{Catalog, RunEntry};
use tokio::sync::Mutex;

use crate::blocking::Reads;
use crate::card::Card;
use crate::error::{Result, ServeError};

/// A walk is believed for this long …
const FRESH_MIN: Duration = Duration::from_secs(1);
/// … or for this many times what it took, so that walking never takes more than a part of one core.
const FRESH_FACTOR: u32 = 5;
/// Runs that went away and are remembered, so that a client learns of them without asking for everything.
const REMOVED_MAX: usize = 4096;

/// The runs below the base folder, as of a moment ago.
#[derive(Debug)]
pub struct Index {
    catalog: Catalog,
    reads: Reads,
    walked: Mutex<Option<(Arc<Listing>, Instant)>>,
}

/// What a walk found.
#[derive(Debug)]
pub struct Listing {
    /// Tells this server from the one before it.
    epoch: u32,
    /// Counts the walks that found something new.
    version: u64,
    /// Every run, by experiment and name.
    pub cards: Vec<Arc<Card>>,
    by_key: HashMap<String, Arc<Card>>,
    /// Keys that went away, each with the version that it went with, the oldest first.
    removed: VecDeque<(u64, String)>,
    /// No older version can be told what went away since.
    floor: u64,
}

/// What changed in the list since a version of it.
#[derive(Debug)]
pub struct Changes {
    /// Whether these are all runs: the client has to forget those that it has.
    pub full: bool,
    /// Runs that came or changed.
    pub cards: Vec<Arc<Card>>,
    /// Keys that went away.
    pub removed: Vec<String>,
}

impl Index {
    /// An index of a folder that may not exist yet.
    pub fn new(base_dir: PathBuf, reads: Reads) -> Self {
        Self {
            catalog: Catalog::new(base_dir),
            reads,
            walked: Mutex::new(None),
        }
    }

    /// Every experiment.
    ///
    /// # Errors
    /// When the base folder can't be listed.
    pub async fn experiments(&self) -> Result<Vec<ExperimentEntry>> {
        let catalog = self.catalog.clone();
        self.reads
            .run(
                "the list of experiments",
                move || Ok(catalog.experiments()?),
            )
            .await
    }

    /// One run as it stands right now.
    ///
    /// # Errors
    /// When no run has this key.
    pub async fn run(&self, key: &str) -> Result<RunEntry> {
        let root = self.place(key).await?;
        self.reads
            .run(root.display().to_string(), move || Ok(open_run(&root)?))
            .await
    }

    /// The folder of a run.
    ///
    /// # Errors
    /// When no run has this key.
    pub async fn place(&self, key: &str) -> Result<PathBuf> {
        let listing = self.listing().await?;
        listing
            .card(key)
            .map(|card| card.place.root.clone())
            .ok_or(ServeError::NotFound { what: "this run" })
    }

    /// The last walk, or a new one; callers that come meanwhile wait for it instead of walking too.
    ///
    /// # Errors
    /// When the base folder can't be listed.
    pub async fn listing(&self) -> Result<Arc<Listing>> {
        let mut walked = self.walked.lock().await;
        if let Some((listing, fresh_until)) = walked.as_ref()
            && Instant::now() < *fresh_until
        {
            return Ok(Arc::clone(listing));
        }
        let started = Instant::now();
        let before = walked.as_ref().map(|(listing, _)| Arc::clone(listing));
        let catalog = self.catalog.clone();
        let listing = self
            .reads
            .run("the list of runs", move || walk(&catalog, before))
            .await?;
        let fresh_until = Instant::now() + FRESH_MIN.max(started.elapsed() * FRESH_FACTOR);
        *walked = Some((Arc::clone(&listing), fresh_until));
        Ok(listing)
    }

    /// Makes the next listing walk again: something was changed by way of this server.
    pub async fn forget(&self) {
        if let Some((_, fresh_until)) = self.walked.lock().await.as_mut() {
            *fresh_until = Instant::now();
        }
    }
}

fn walk(catalog: &Catalog, before: Option<Arc<Listing>>) -> Result<Arc<Listing>> {
    let places = catalog.places(None)?;
    let version = before.as_ref().map_or(1, |old| old.version + 1);
    let cards = spread(&places, |place| {
        let old = before.as_ref().and_then(|old| old.by_key.get(&place.key));
        if let Some(old) = old
            && old.place == *place
            && !old.is_owned
        {
            return (Arc::clone(old), false);
        }
        let card = Card::of(place.clone(), version);
        match old.filter(|old| old.says_as(&card)) {
            Some(old) => (Arc::clone(old), false),
            None => (Arc::new(card), true),
        }
    });
    let changed = before.is_none() || cards.iter().any(|(_, changed)| *changed);
    let cards: Vec<_> = cards.into_iter().map(|(card, _)| card).collect();
    let by_key: HashMap<_, _> = cards
        .iter()
        .map(|card| (card.place.key.clone(), Arc::clone(card)))
        .collect();
    let Some(before) = before else {
        let [a, b, c, d, ..] = uuid::Uuid::new_v4().into_bytes();
        return Ok(Arc::new(Listing {
            epoch: u32::from_le_bytes([a, b, c, d]),
            version,
            cards,
            by_key,
            removed: VecDeque::new(),
            floor: 0,
        }));
    };
    let gone = before
        .by_key
        .keys()
        .filter(|key| !by_key.contains_key(*key));
    let mut removed = before.removed.clone();
    removed.extend(gone.map(|key| (version, key.clone())));
    if !changed && removed.len() == before.removed.len() {
        return Ok(before);
    }
    let mut floor = before.floor;
    while removed.len() > REMOVED_MAX {
        floor = removed.pop_front().map_or(floor, |(version, _)| version);
    }
    Ok(Arc::new(Listing {
        epoch: before.epoch,
        version,
        cards,
        by_key,
        removed,
        floor,
    }))
}

impl Listing {
    /// What a client gives back to learn what is new.
    #[must_use]
    pub fn version(&self) -> String {
        format!("{}-{}", self.epoch, self.version)
    }

    /// One run.
    #[must_use]
    pub fn card(&self, key: &str) -> Option<&Arc<Card>> {
        self.by_key.get(key)
    }

    /// What is new since a version, which may be another server's, or nonsense: then that is everything.
    #[must_use]
    pub fn since(&self, version: &str) -> Changes {
        let known = version
            .split_once('-')
            .filter(|(epoch, _)| epoch.parse() == Ok(self.epoch))
            .and_then(|(_, version)| version.parse::<u64>().ok())
            .filter(|known| (self.floor..=self.version).contains(known));
        let Some(known) = known else {
            return Changes {
                full: true,
                cards: self.cards.clone(),
                removed: Vec::new(),
            };
        };
        let new = self.cards.iter().filter(|card| card.version > known);
        let gone = self.removed.iter().filter(|(at, _)| *at > known);
        Changes {
            full: false,
            cards: new.cloned().collect(),
            removed: gone.map(|(_, key)| key.clone()).collect(),
        }
    }
}

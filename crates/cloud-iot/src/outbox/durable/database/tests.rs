//! The database on an in-memory disk with power loss, a size limit and bit rot.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Mutex, MutexGuard};

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::*;

/// Bytes that a disk writes atomically during power loss.
const SECTOR: usize = 512;

#[derive(Debug, Clone, Default)]
struct Disk(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// Content for readers.
    seen: Vec<u8>,
    /// Last synced content, and the operations since.
    lasting: Vec<u8>,
    since: Vec<Change>,
    /// Capacity of the disk; `None` for no limit.
    capacity: Option<u64>,
    /// Operations left before power loss.
    lives: Option<u32>,
    written: u64,
    syncs: u32,
}

#[derive(Debug)]
enum Change {
    Write(usize, Vec<u8>),
    Length(usize),
}

fn apply(image: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    let end = at + bytes.len();
    if image.len() < end {
        image.resize(end, 0);
    }
    image[at..end].copy_from_slice(bytes);
}

impl Disk {
    fn holding(image: Vec<u8>) -> Self {
        let disk = Self::default();
        disk.state().seen.clone_from(&image);
        disk.state().lasting = image;
        disk
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    fn living(&self) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.state();
        match &mut state.lives {
            Some(0) => return Err(io::Error::other("power loss")),
            Some(lives) => *lives -= 1,
            None => {}
        }
        Ok(state)
    }

    /// Returns the content after power loss: the synced content, and any part of the later
    /// operations, in any order.
    fn after_power_loss(&self, random: &mut SmallRng) -> Vec<u8> {
        let state = self.state();
        let mut image = state.lasting.clone();
        for change in &state.since {
            match change {
                Change::Length(length) => image.resize(*length, 0),
                Change::Write(at, bytes) => {
                    let share = random.random_range(0.0..=1.0);
                    for (n, sector) in bytes.chunks(SECTOR).enumerate() {
                        if random.random_bool(share) {
                            apply(&mut image, at + n * SECTOR, sector);
                        }
                    }
                }
            }
        }
        image
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.living()?.seen.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let (state, at) = (self.living()?, offset as usize);
        let found = state.seen.get(at..at + out.len());
        out.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let mut state = self.living()?;
        if state.capacity.is_some_and(|capacity| length > capacity) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        state.seen.resize(length as usize, 0);
        state.since.push(Change::Length(length as usize));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.living()?;
        state.lasting = state.seen.clone();
        state.since.clear();
        state.syncs += 1;
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.living()?;
        apply(&mut state.seen, offset as usize, data);
        state.written += data.len() as u64;
        state
            .since
            .push(Change::Write(offset as usize, data.to_vec()));
        Ok(())
    }
}

fn message(key: u64, payload: usize) -> StoredMessage {
    StoredMessage {
        key,
        message: Message::new("some/topic", vec![key as u8; payload]),
        accepted: SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000),
        expires_in: None,
    }
}

type Content = BTreeMap<u64, StoredMessage>;

fn content(messages: Vec<StoredMessage>) -> Content {
    messages.into_iter().map(|m| (m.key, m)).collect()
}

/// A batch of new messages, and removals of some existing ones.
fn random_batch(random: &mut SmallRng, held: &Content, next: &mut u64) -> StoreBatch {
    let put = (0..random.random_range(0..6)).map(|_| {
        *next += 1;
        let size = match random.random_range(0..10) {
            0 => random.random_range(0..100_000),
            _ => random.random_range(0..2000),
        };
        message(*next, size)
    });
    let put = put.collect();
    let remove = held.keys().filter(|_| random.random_bool(0.4)).copied();
    StoreBatch {
        put,
        remove: remove.collect(),
    }
}

fn after(held: &Content, batch: &StoreBatch) -> Content {
    let mut after = held.clone();
    after.extend(batch.put.iter().map(|m| (m.key, m.clone())));
    after.retain(|key, _| !batch.remove.contains(key));
    after
}

/// Commits batches until power loss; returns the content before the last batch and after it.
fn work(disk: &Disk, held: Content, next: &mut u64, random: &mut SmallRng) -> (Content, Content) {
    let (mut database, found) = match Database::open(disk.clone()) {
        Ok(opened) => opened,
        Err(_) => return (held.clone(), held),
    };
    assert_eq!(content(found), held);
    let mut held = held;
    loop {
        let batch = random_batch(random, &held, next);
        let then = after(&held, &batch);
        match database.commit(&batch) {
            Ok(same) => (database, held) = (same, then),
            Err(error) => {
                assert!(disk.state().lives == Some(0), "{error}");
                return (held, then);
            }
        }
    }
}

#[test]
fn power_loss_keeps_committed_messages() {
    let (mut cuts, mut undone, mut next) = (0, 0, 0);
    // The creation of the file is not tested: the file has another name until it is complete.
    let made = Disk::default();
    drop(Database::open(made.clone()).unwrap());
    for seed in 0..25 {
        let random = &mut SmallRng::seed_from_u64(seed);
        let (mut image, mut held) = (made.state().seen.clone(), Content::new());
        // Repeats on the same disk, so that repairs are interrupted as well.
        for _ in 0..8 {
            let disk = Disk::holding(image.clone());
            disk.state().lives = Some(random.random_range(0..400));
            let (before, then) = work(&disk, held, &mut next, random);
            image = disk.after_power_loss(random);
            let (_, found) = Database::open(Disk::holding(image.clone())).unwrap();
            held = content(found);
            assert!(held == before || held == then, "seed {seed}: half a batch");
            cuts += 1;
            undone += u32::from(held != then);
        }
    }
    assert!((1..cuts).contains(&undone), "{undone} of {cuts}");
}

#[test]
fn full_disk_is_reported_without_loss() {
    let disk = Disk::default();
    let (mut database, _) = Database::open(disk.clone()).unwrap();
    disk.state().capacity = Some(3 << 20);
    let mut held = Content::new();
    let error = loop {
        let batch = StoreBatch {
            put: vec![message(held.len() as u64 + 1, 100_000)],
            remove: Vec::new(),
        };
        match database.commit(&batch) {
            Ok(same) => database = same,
            Err(error) => break error,
        }
        held = after(&held, &batch);
    };
    assert_eq!(error, StoreError::Full);
    assert!(held.len() > 5, "{}", held.len());
    // Removals free space: existing messages are found, and freed space is reused.
    let (database, found) = Database::open(disk.clone()).unwrap();
    assert_eq!(content(found), held);
    let batch = StoreBatch {
        put: Vec::new(),
        remove: held.keys().copied().take(4).collect(),
    };
    let database = database.commit(&batch).unwrap();
    let batch = StoreBatch {
        put: vec![message(1000, 100_000)],
        remove: Vec::new(),
    };
    database.commit(&batch).unwrap();
}

#[test]
fn flipped_bit_is_detected() {
    let disk = Disk::default();
    let (database, _) = Database::open(disk.clone()).unwrap();
    let batch = StoreBatch {
        put: (1..40).map(|key| message(key, 1000)).collect(),
        remove: Vec::new(),
    };
    drop(database.commit(&batch).unwrap());
    let (image, held) = (disk.state().seen.clone(), after(&Content::new(), &batch));
    let random = &mut SmallRng::seed_from_u64(7);
    let mut noticed = 0;
    for _ in 0..200 {
        let mut rotten = image.clone();
        let at = random.random_range(0..rotten.len());
        rotten[at] ^= 1 << random.random_range(0..8);
        match Database::open(Disk::holding(rotten)) {
            Ok((_, found)) => assert_eq!(content(found), held, "byte {at}"),
            Err(OpenError::Damaged(_)) => noticed += 1,
            Err(OpenError::Store(error)) => panic!("byte {at}: {error}"),
        }
    }
    assert!(noticed > 0);
    for length in [0, 100, 4096, image.len() / 2, image.len() - 1] {
        let cut = image[..length].to_vec();
        match Database::open(Disk::holding(cut)) {
            Ok((_, found)) => assert!(length == 0 && found.is_empty(), "{length}"),
            Err(error) => assert!(
                matches!(error, OpenError::Damaged(_)),
                "{length}: {error:?}"
            ),
        }
    }
}

/// Measures the writes of a commit, and checks that the file stays small while messages are added
/// and removed.
#[test]
fn few_writes_and_a_small_file() {
    let disk = Disk::default();
    let (mut database, _) = Database::open(disk.clone()).unwrap();
    let (written, syncs) = {
        let state = disk.state();
        (state.written, state.syncs)
    };
    let (mut next, commits) = (0, 200);
    for n in 0..commits {
        // A device without a network: 8 messages of 500 bytes in each batch, of which 160 stay.
        let put = (0..8).map(|_| {
            next += 1;
            message(next, 500)
        });
        let put = put.collect();
        let remove = if n < 20 {
            Vec::new()
        } else {
            (next - 167..=next - 160).collect()
        };
        database = database.commit(&StoreBatch { put, remove }).unwrap();
    }
    let state = disk.state();
    let (per_commit, syncs) = ((state.written - written) / commits, state.syncs - syncs);
    println!(
        "{per_commit} bytes a commit of 8 messages of 500 bytes, {:.1} syncs, file of {} bytes",
        f64::from(syncs) / commits as f64,
        state.seen.len()
    );
    assert!(per_commit < 80_000, "{per_commit}");
    assert!(u64::from(syncs) <= 2 * commits, "{syncs}");
    assert!(state.seen.len() < 4 << 20, "{}", state.seen.len());
}

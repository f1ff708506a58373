//! The file of a prepared model's weights, mapped.

use crate::{Lookup, ModelInfo, ReadAhead, Signature, TensorType, TensorView};
use memmap2::{Advice, Mmap, MmapOptions};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// How much is read at once: a few huge pages, so that a run that waits for the first of them goes on early.
const PIECE: usize = 4 << 20;

/// Most rows that are fetched by themselves for a run; with more of them, most of the table is wanted anyway.
const ROWS_MAX: usize = 1024;

/// The size of a file in bytes. A process that is [confined](crate::confine) may ask the kernel this of a
/// descriptor, but not of a path, and the standard library asks in the same way for both.
pub fn bytes_of(file: &File) -> io::Result<u64> {
    Ok(rustix::fs::fstat(file)?.st_size.cast_unsigned())
}

/// All bytes of a file that was not read yet.
pub fn bytes_in(file: &File) -> io::Result<Vec<u8>> {
    let mut all = vec![0; usize::try_from(bytes_of(file)?).map_err(io::Error::other)?];
    // Not by its position, which another process may share.
    file.read_exact_at(&mut all, 0)?;
    Ok(all)
}

/// Weights in memory; unmapped when dropped.
pub struct MappedWeights {
    map: Mmap,
    /// Where the tables begin.
    tables_from: usize,
    lookups: Vec<Lookup>,
    /// Whether something is read ahead just now.
    busy: AtomicBool,
}

impl MappedWeights {
    /// Maps the weights of a prepared model. Reads nothing yet.
    pub fn map(file: &File, info: &ModelInfo) -> io::Result<MappedWeights> {
        let bytes = bytes_of(file)? as usize;
        // SAFETY: the file was written by this host into a private directory, which nothing writes to until
        // it is deleted as a whole; a deleted file stays mapped.
        #[allow(unsafe_code)]
        let map = unsafe { MmapOptions::new().len(bytes).map(file) }?;
        let tables_from = map.len().saturating_sub(usize::try_from(info.table_bytes).unwrap_or(usize::MAX));
        let lookups = info.lookups.clone();
        let weights = MappedWeights { map, tables_from, lookups, busy: AtomicBool::new(false) };
        // All of this is advice: a kernel that does not take it reads as it always does. Huge pages are read
        // in half the time, and mapped at once; of a table a run reads a few rows, and what lies around them
        // would hold it up.
        let _ = weights.map.advise_range(Advice::HugePage, 0, weights.tables_from);
        if info.table_bytes > 0 {
            let _ = weights.map.advise_range(Advice::Random, weights.tables_from, weights.tables());
        }
        Ok(weights)
    }

    fn tables(&self) -> usize {
        self.map.len() - self.tables_from
    }

    pub fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// While other weights are read ahead: has the kernel read the rows that a run with this input is about
    /// to look up, all at once. One after another, each would wait behind them.
    fn fetch_rows(&self, input: &str, numbers: impl Iterator<Item = i64> + Clone) {
        if !self.busy.load(Relaxed) {
            return;
        }
        for table in self.lookups.iter().filter(|table| table.input == input) {
            let rows = numbers.clone().filter_map(|n| u64::try_from(n).ok()).filter(|n| *n < table.rows);
            for row in rows.take(ROWS_MAX) {
                let offset = (table.offset + row * table.row_bytes) as usize;
                let _ = self.map.advise_range(Advice::WillNeed, offset, table.row_bytes as usize);
            }
        }
    }

    /// The same for the inputs of a run, in the order of the signature.
    pub fn fetch_rows_of(&self, signature: &Signature, inputs: &[TensorView<'_>]) {
        for (port, tensor) in signature.inputs.iter().zip(inputs) {
            if tensor.ty == TensorType::I64 {
                let numbers = tensor.data.as_chunks::<8>().0.iter().map(|bytes| i64::from_le_bytes(*bytes));
                self.fetch_rows(&port.name, numbers);
            }
        }
    }

    /// Reads a part from disk and maps it, in the order of the file.
    pub fn read_ahead(&self, part: ReadAhead) {
        self.busy.store(true, Relaxed);
        let (from, to) = match part {
            ReadAhead::EveryRun => (0, self.tables_from),
            ReadAhead::Tables => {
                let _ = self.map.advise_range(Advice::Normal, self.tables_from, self.tables());
                let _ = self.map.advise_range(Advice::HugePage, self.tables_from, self.tables());
                (self.tables_from, self.map.len())
            }
        };
        for piece in (from..to).step_by(PIECE) {
            let bytes = PIECE.min(to - piece);
            // Linux before 5.14 does not know it: then the run reads for itself.
            if self.map.advise_range(Advice::PopulateRead, piece, bytes).is_err() {
                break;
            }
        }
        // The tables are the last part.
        self.busy.store(part == ReadAhead::EveryRun, Relaxed);
    }
}

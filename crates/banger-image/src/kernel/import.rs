//! Takes a kernel that the user has: one tar stream, made by the client from a directory or a file.

use std::io::{self, Read};

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::mpsc;

use super::pull::unpack_into;
use super::store::{Kernel, KernelStore};
use super::{KernelError, KernelName, Manifest};
use crate::progress::Progress;

/// What is told of the kernel beside its files.
#[derive(Clone, Debug)]
pub struct ImportRequest {
    pub name: KernelName,
    pub distro: String,
    /// Where it came from, in the user's words: a path on their side.
    pub source: String,
    /// Replace a kernel of that name.
    pub replace: bool,
    /// RFC 3339, for the manifest.
    pub imported_at: String,
    pub kernel_arguments: Vec<String>,
}

/// Size of one piece between the stream's task and the thread that unpacks.
const PIECE: usize = 256 * 1024;
/// Pieces under way.
const PIECES: usize = 4;

/// Reads the archive to its end. Dropping the future ends the work and leaves nothing.
pub async fn import(
    store: &KernelStore,
    request: ImportRequest,
    archive: impl AsyncRead + Unpin,
    progress: &Progress,
) -> Result<Kernel, KernelError> {
    let _lock = store.lock(&request.name).await;
    match store.get(&request.name) {
        Ok(Some(kernel)) if !request.replace => {
            return Err(KernelError::Exists {
                name: request.name.to_string(),
                from: kernel.manifest.source,
            });
        }
        Err(KernelError::BadManifest { .. }) if request.replace => {}
        other => {
            other?;
        }
    }
    let staging = store.staging_directory()?;
    let (sender, receiver) = mpsc::channel(PIECES);
    let name = request.name.clone();
    let thread_store = store.clone();
    let thread_progress = progress.clone();
    let work = tokio::task::spawn_blocking(move || {
        let staging = staging; // goes after the last write to it
        let target = staging.path().join("kernel");
        let assembled = unpack_into(Pieces::new(receiver), staging.path(), &target)?;
        let manifest = Manifest {
            name: request.name,
            distro: request.distro,
            arch: "x86_64".into(),
            kernel_version: assembled.kernel_version,
            sha256: assembled.sha256,
            size: assembled.size,
            source: format!("import:{}", request.source),
            catalog_entry: None,
            imported_at: request.imported_at,
            pvh: assembled.pvh,
            boot_modules: assembled.boot_modules,
            vsock_modules: assembled.vsock_modules,
            module_count: assembled.module_count,
            modules_size: assembled.modules_size,
            modules_digest: assembled.modules_digest,
            kernel_arguments: request.kernel_arguments,
        };
        thread_progress.stage("publish", manifest.name.as_str());
        thread_store.publish(&target, &manifest, request.replace)
    });
    feed(archive, sender, name.as_str(), progress).await;
    work.await.map_err(|_| KernelError::Abandoned {
        name: name.to_string(),
    })?
}

/// A piece of the archive, or why there are no more; an empty piece is the end.
type Piece = io::Result<Vec<u8>>;

async fn feed(
    mut archive: impl AsyncRead + Unpin,
    sender: mpsc::Sender<Piece>,
    name: &str,
    progress: &Progress,
) {
    let mut done = 0;
    loop {
        let mut piece = Vec::with_capacity(PIECE);
        let result = archive.read_buf(&mut piece).await;
        let last = !matches!(result, Ok(count) if count > 0);
        done += piece.len() as u64;
        progress.bytes("import", name, done, None);
        // A closed channel means that the other side has seen enough to refuse.
        if sender.send(result.map(|_| piece)).await.is_err() || last {
            return;
        }
    }
}

/// The blocking end of the channel.
struct Pieces {
    receiver: mpsc::Receiver<Piece>,
    piece: Vec<u8>,
    position: usize,
    ended: bool,
}

impl Pieces {
    fn new(receiver: mpsc::Receiver<Piece>) -> Pieces {
        Pieces {
            receiver,
            piece: Vec::new(),
            position: 0,
            ended: false,
        }
    }
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.position == self.piece.len() && !self.ended {
            // A sender that is gone without an end was dropped with the request: an archive cut
            // off there must not pass for a whole one.
            self.piece = self.receiver.blocking_recv().ok_or_else(|| {
                io::Error::new(io::ErrorKind::UnexpectedEof, "the client went away")
            })??;
            self.position = 0;
            self.ended = self.piece.is_empty();
        }
        let rest = &self.piece[self.position..];
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        self.position += count;
        Ok(count)
    }
}

//! The daemon's stdin and stdout as the MCP client's two byte streams, each with a thread of its
//! own that waits for the pipe.
//!
//! The runtime's own ones copy what is written into a buffer that they keep, and what is written
//! here has credentials in it. Must never keep what it has passed on.
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::pin::Pin;
use std::sync::mpsc as threads;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{mpsc, oneshot};
use zeroize::Zeroizing;

/// Bytes that are read from a pipe at once.
const CHUNK: usize = 16 * 1024;

type Bytes = Zeroizing<Vec<u8>>;

/// A descriptor of its own, without the buffer that std puts before it.
fn own(stream: impl AsFd) -> io::Result<File> {
    stream.as_fd().try_clone_to_owned().map(File::from)
}

fn thread(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
    // Nobody waits for it: where it waits for the client, only the end of the process ends it.
    std::thread::Builder::new().name(name.to_owned()).spawn(run).map(drop)
}

/// What the client says.
pub struct Stdin {
    chunks: mpsc::Receiver<io::Result<Bytes>>,
    chunk: Bytes,
    read: usize,
}

impl Stdin {
    /// This process's.
    ///
    /// # Errors
    /// No descriptor or no thread could be had for it.
    pub fn new() -> io::Result<Self> {
        let mut file = own(io::stdin())?;
        let (sender, chunks) = mpsc::channel(1);
        thread("stdin", move || {
            loop {
                let mut chunk = Zeroizing::new(vec![0; CHUNK]);
                let read = match file.read(&mut chunk) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    read => read,
                };
                let last = !matches!(read, Ok(1..));
                let chunk = read.map(|read| {
                    chunk.truncate(read);
                    chunk
                });
                if sender.blocking_send(chunk).is_err() || last {
                    return;
                }
            }
        })?;
        Ok(Self { chunks, chunk: Bytes::default(), read: 0 })
    }
}

impl AsyncRead for Stdin {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.read == this.chunk.len() {
            match ready!(this.chunks.poll_recv(context)) {
                Some(chunk) => (this.chunk, this.read) = (chunk?, 0),
                None => return Poll::Ready(Ok(())),
            }
        }
        let rest = &this.chunk[this.read..];
        let taken = rest.len().min(into.remaining());
        into.put_slice(&rest[..taken]);
        this.read += taken;
        if this.read == this.chunk.len() {
            (this.chunk, this.read) = (Bytes::default(), 0);
        }
        Poll::Ready(Ok(()))
    }
}

/// What a thread is to write, and where it says how that went.
type Writing = (Bytes, oneshot::Sender<io::Result<()>>);

/// What the client is told.
pub struct Stdout {
    writes: threads::Sender<Writing>,
    /// How the write goes that is under way.
    under_way: Option<oneshot::Receiver<io::Result<()>>>,
}

impl Stdout {
    /// This process's.
    ///
    /// # Errors
    /// No descriptor or no thread could be had for it.
    pub fn new() -> io::Result<Self> {
        let mut file = own(io::stdout())?;
        let (writes, taken) = threads::channel::<Writing>();
        thread("stdout", move || {
            for (bytes, tell) in taken {
                let written = file.write_all(&bytes);
                // Wiped before anybody goes on.
                drop(bytes);
                let _ = tell.send(written);
            }
        })?;
        Ok(Self { writes, under_way: None })
    }

    fn poll_written(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(under_way) = &mut self.under_way else { return Poll::Ready(Ok(())) };
        let written = ready!(Pin::new(under_way).poll(context));
        self.under_way = None;
        Poll::Ready(written.unwrap_or_else(|_| Err(io::ErrorKind::BrokenPipe.into())))
    }
}

impl AsyncWrite for Stdout {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_written(context))?;
        let (tell, told) = oneshot::channel();
        let writing = (Zeroizing::new(bytes.to_vec()), tell);
        this.writes.send(writing).map_err(|_| io::ErrorKind::BrokenPipe)?;
        this.under_way = Some(told);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_written(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(context)
    }
}

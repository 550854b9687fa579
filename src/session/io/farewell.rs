//! How a client's connection ends: with last words that reach it, or without any where nothing does.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::fault::{Fault, Severity};
use crate::net::stream::Stream;
use crate::wire::reply;

/// Last words to a client. One that does not listen is not waited for.
pub(super) async fn tell(stream: &mut Stream, fault: Fault) {
    let mut out = Vec::new();
    reply::put_error(&mut out, &Fault { severity: Severity::Fatal, ..fault });
    let _ = timeout(Duration::from_secs(1), async {
        stream.write_all(&out).await?;
        stream.flush().await?;
        linger(stream).await
    })
    .await;
}

/// Has the kernel forget a connection over which nothing reaches the client. Otherwise it would go on with it for minutes, and
/// answer in its name if the address comes back and the client has taken the same port again.
pub(super) fn abandon(stream: &Stream) {
    // It may be gone already.
    let _ = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

/// Ends a stream so that the last words reach the client: no more is written, and what the client still sends is read and
/// thrown away until it ends too. Closing with unread bytes would make the kernel reset the connection and lose them.
pub(super) async fn linger(stream: &mut Stream) -> io::Result<()> {
    stream.shutdown().await?;
    let mut sink = [0; 1024];
    while stream.read(&mut sink).await? > 0 {}
    Ok(())
}

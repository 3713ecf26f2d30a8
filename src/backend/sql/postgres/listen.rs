//! A connection that only listens.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc::{self, Sender};
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::{AsyncMessage, Client, Connection};

use super::{CONNECT_TIMEOUT, Pool, Reader};
use crate::backend::sql::listen::{Notification, QUEUE};

/// The pause before listening is tried again.
const PAUSE: Duration = Duration::from_secs(1);

/// Listens until the receiver is dropped, and begins again whenever the connection breaks.
pub(super) fn start(pool: Arc<Pool>, channels: &[Box<str>]) -> mpsc::Receiver<Notification> {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let listen: String = channels
        .iter()
        .map(|channel| format!("LISTEN \"{}\";", channel.replace('"', "\"\"")))
        .collect();
    tokio::spawn(async move {
        while !sender.is_closed() {
            let began = Instant::now();
            match timeout(CONNECT_TIMEOUT, pool.open()).await {
                Ok(Ok((client, Reader::Plain(connection)))) => {
                    hear(client, *connection, &listen, &sender).await;
                }
                Ok(Ok((client, Reader::Tls(connection)))) => {
                    hear(client, *connection, &listen, &sender).await;
                }
                Ok(Err(_)) | Err(_) => {}
            }
            tokio::select! {
                () = sleep(PAUSE.saturating_sub(began.elapsed())) => {}
                () = sender.closed() => {}
            }
        }
    });
    receiver
}

/// Hands on what one connection says, until it breaks or nobody wants to know.
async fn hear<S, T>(
    client: Client,
    mut connection: Connection<S, T>,
    listen: &str,
    sender: &Sender<Notification>,
) where
    S: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    let mut asked = std::pin::pin!(client.batch_execute(listen));
    let mut listening = false;
    loop {
        let told = tokio::select! {
            message = poll_fn(|cx| connection.poll_message(cx)) => match message {
                Some(Ok(AsyncMessage::Notification(told))) => Notification::Notified {
                    channel: told.channel().into(),
                    payload: told.payload().into(),
                },
                Some(Ok(_)) => continue,
                Some(Err(_)) | None => return,
            },
            result = &mut asked, if !listening => match result {
                Ok(()) => {
                    listening = true;
                    Notification::Listening
                }
                Err(_) => return,
            },
            () = sender.closed() => return,
        };
        if sender.send(told).await.is_err() {
            return;
        }
    }
}

//! A connection before the backend's first word.
//!
//! A backend that hangs still accepts: its kernel does that for it. Until checks find out, clients are sent there and
//! wait. So what a client says first is kept until the backend answers; if the backend is lost before that, another one
//! is told the same, and the client waits a little instead of for ever.
//!
//! Only the beginning of a TLS session may be said twice: a `ClientHello` asks for nothing yet, and what RFC 8446 lets
//! follow it unanswered (early data, §2.3) may be replayed by anybody. Of anything else nobody knows what it does, so it
//! is not kept.

use std::io;
use std::mem::MaybeUninit;

use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::connection::{Link, Search};
use super::pump::{read, write};
use crate::pool::Told;

/// Carries the client's words, beginning with those `said` already, until the backend answers, ends, or may not be
/// replaced any more, and puts another one in its place where it is lost before. Returns what the backend has not been
/// sent yet.
///
/// An error means that a side has broken: both should be reset then. Cancelling it loses bytes, so close both sides.
pub(super) async fn open(link: &mut Link, search: Search<'_>, said: Vec<u8>) -> io::Result<Vec<u8>> {
    let mut opening = Opening { link, search, said, sent: 0 };
    let mut step = opening.tell().await?;
    while step == Step::Replaceable {
        step = opening.step().await?;
    }
    Ok(opening.said.split_off(opening.sent))
}

struct Opening<'connection> {
    link: &'connection mut Link,
    search: Search<'connection>,
    /// By the client.
    said: Vec<u8>,
    /// How much of it the backend has been sent.
    sent: usize,
}

#[derive(PartialEq, Eq)]
enum Step {
    /// The backend has not answered yet, and another one may take its place.
    Replaceable,
    /// This backend it is.
    Settled,
}

enum News {
    Answered,
    Broken,
    Room,
    Word,
    Told(Told),
    /// For a while there has been none.
    Silence,
}

impl Opening<'_> {
    async fn step(&mut self) -> io::Result<Step> {
        match self.news().await? {
            News::Answered => return Ok(Step::Settled),
            News::Word => {
                if !self.listen()? {
                    return Ok(Step::Settled);
                }
            }
            News::Room => {}
            News::Silence => {
                let peer_timeout = self.search.shared.frontend().peer_timeout;
                self.link.vigil.begin(&self.link.stream, peer_timeout);
            }
            News::Broken => {
                if !self.replace().await {
                    return Err(io::ErrorKind::ConnectionReset.into());
                }
            }
            News::Told(Told::Lost) => {
                self.replace().await;
            }
            News::Told(Told::Ended) => {
                if !self.replace().await {
                    return Err(io::ErrorKind::ConnectionAborted.into());
                }
            }
        }
        self.tell().await
    }

    /// Says to the backend what it has not been sent yet, as far as it takes it now; to another one if it is lost.
    async fn tell(&mut self) -> io::Result<Step> {
        if let Err(error) = self.pass_on() {
            if has_spoken(&self.link.stream) {
                return Ok(Step::Settled);
            }
            if !self.replace().await {
                return Err(error);
            }
        }
        Ok(if may_be_said_twice(&self.said) { Step::Replaceable } else { Step::Settled })
    }

    async fn news(&mut self) -> io::Result<News> {
        let Self { link, search, said, sent } = self;
        let all_sent = *sent == said.len();
        tokio::select! {
            biased;
            ready = link.stream.ready(Interest::READABLE | Interest::ERROR) => {
                Ok(if ready?.is_error() && !has_spoken(&link.stream) { News::Broken } else { News::Answered })
            }
            told = link.lease.told() => Ok(News::Told(told)),
            room = link.stream.writable(), if !all_sent => room.map(|()| News::Room),
            word = search.client.stream.readable(), if all_sent => word.map(|()| News::Word),
            () = search.shared.tick.notified(), if !link.vigil.has_begun() => Ok(News::Silence),
        }
    }

    /// Hears what the client says; false where that is nothing more.
    fn listen(&mut self) -> io::Result<bool> {
        let heard = self.said.len();
        self.said.resize(heard + WORD, 0);
        let read = read(self.search.client.stream, &mut self.said[heard..]);
        let count = read.as_ref().map_or(0, |read| read.unwrap_or(0));
        self.said.truncate(heard + count);
        Ok(read? != Some(0))
    }

    fn pass_on(&mut self) -> io::Result<()> {
        if self.sent == self.said.len() {
            return Ok(());
        }
        let sent = write(&self.link.stream, &self.said[self.sent..])?;
        self.search.shared.metrics.bytes_to_backends.inc_by(sent as u64);
        self.sent += sent;
        Ok(())
    }

    /// Puts another backend in the place of this one. False where there is none; then it stays.
    async fn replace(&mut self) -> bool {
        let Ok(other) = self.search.next().await else { return false };
        self.link.lease.member().metrics.moved.inc();
        *self.link = other;
        self.sent = 0;
        true
    }
}

/// Whether there is something to read on a connection that is broken.
fn has_spoken(broken: &TcpStream) -> bool {
    SockRef::from(broken).peek(&mut [MaybeUninit::uninit()]).is_ok_and(|count| count > 0)
}

/// Whether `said` can only be the beginning of a TLS session: handshake records (RFC 8446 §5.1), and not many.
fn may_be_said_twice(said: &[u8]) -> bool {
    const HANDSHAKE: u8 = 22;
    const MAJOR_VERSION: u8 = 3;
    let begins_well = match said {
        [] => true,
        [kind] => *kind == HANDSHAKE,
        [kind, version, ..] => (*kind, *version) == (HANDSHAKE, MAJOR_VERSION),
    };
    begins_well && said.len() < MOST
}

/// Bytes heard at a time: more than a usual `ClientHello`.
const WORD: usize = 4096;
/// Bytes kept at most, per connection that waits for its first answer.
const MOST: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn only_the_beginning_of_a_tls_session_is_said_twice() {
        let cases: [(&[u8], bool); 7] = [
            (b"", true),
            (&[22], true),
            (&[22, 3, 1, 0, 5], true),
            (&[22, 4], false),
            (&[23, 3, 3], false),
            (b"POST /", false),
            (b"S", false),
        ];
        for (said, expected) in cases {
            assert_eq!(may_be_said_twice(said), expected, "{said:?}");
        }
        let mut hello = vec![0; MOST];
        hello[..2].copy_from_slice(&[22, 3]);
        assert!(!may_be_said_twice(&hello), "too much to keep");
        assert!(may_be_said_twice(&hello[..MOST - 1]));
    }

    #[tokio::test]
    async fn last_words_before_a_reset_are_heard() {
        for words in [&b""[..], b"alert"] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let (mut backend, _) = listener.accept().await.unwrap();
            backend.write_all(words).await.unwrap();
            backend.set_zero_linger().unwrap();
            drop(backend);
            stream.ready(Interest::ERROR).await.unwrap();
            assert_eq!(has_spoken(&stream), !words.is_empty(), "{words:?}");
        }
    }
}

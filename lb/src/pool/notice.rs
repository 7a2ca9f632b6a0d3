//! How the connections of a backend learn that it is gone: one value per backend, which all of them watch.

use tokio::sync::watch;

/// How often each thing was said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Said {
    lost: u32,
    ended: u32,
}

/// Tells every connection that a backend has.
#[derive(Debug, Default)]
pub(super) struct Crier(watch::Sender<Said>);

impl Crier {
    /// The backend no longer answers: whoever has not heard from it yet had better go elsewhere.
    pub(super) fn say_lost(&self) {
        self.0.send_modify(|said| said.lost = said.lost.wrapping_add(1));
    }

    /// Every connection that there is now has to end.
    pub(super) fn say_ended(&self) {
        self.0.send_modify(|said| said.ended = said.ended.wrapping_add(1));
    }

    /// What is said from now on.
    pub(super) fn notice(&self) -> Notice {
        let said = self.0.subscribe();
        let heard = *said.borrow();
        Notice { said, heard }
    }
}

/// What one connection hears about its backend.
#[derive(Debug)]
pub(super) struct Notice {
    said: watch::Receiver<Said>,
    heard: Said,
}

impl Notice {
    /// Whether the connection has to end.
    pub(super) fn is_end(&self) -> bool {
        self.said.borrow().ended != self.heard.ended
    }

    /// Waits until the backend is lost, once for each time that it is, or the connection has to end, which is said for
    /// good. Cancelling it loses nothing.
    pub(super) async fn next(&mut self) -> Told {
        let heard = self.heard;
        let said = self.said.wait_for(|said| *said != heard).await.map(|said| *said);
        match said {
            Ok(said) if said.ended != heard.ended => Told::Ended,
            Ok(said) => {
                self.heard.lost = said.lost;
                Told::Lost
            }
            // Nobody is left who could say anything.
            Err(_closed) => std::future::pending().await,
        }
    }
}

/// What a connection is told about its backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// It no longer answers. What it has not answered yet, another one may.
    Lost,
    /// The connection has to end.
    Ended,
}

#[cfg(test)]
mod tests {
    use std::future::ready;

    use super::*;

    async fn heard(notice: &mut Notice) -> Option<Told> {
        tokio::select! {
            biased;
            told = notice.next() => Some(told),
            () = ready(()) => None,
        }
    }

    #[tokio::test]
    async fn a_connection_hears_what_is_said_after_its_beginning() {
        let crier = Crier::default();
        crier.say_lost();
        crier.say_ended();
        let mut notice = crier.notice();
        assert_eq!(heard(&mut notice).await, None, "that was before its time");
        crier.say_lost();
        assert_eq!(heard(&mut notice).await, Some(Told::Lost));
        assert_eq!(heard(&mut notice).await, None, "once said, once heard");
        crier.say_lost();
        assert_eq!(heard(&mut notice).await, Some(Told::Lost));
        crier.say_lost();
        crier.say_ended();
        assert_eq!(heard(&mut notice).await, Some(Told::Ended));
        assert_eq!(heard(&mut notice).await, Some(Told::Ended), "an end is an end");
        drop(crier);
        assert_eq!(heard(&mut notice).await, Some(Told::Ended));
    }
}

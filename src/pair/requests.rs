//! Requests in both directions: ours, until they are answered or too late, and the peer's, so that each is done once however often
//! it comes.

use std::collections::{BTreeMap, VecDeque};

use super::event::PathId;
use super::message::{Answer, Message, Request};
use crate::clock::Time;

/// Requests of ours that may wait for an answer.
pub(super) const ASKED_MAX: usize = 256;

/// Requests of the peer that are remembered.
pub(super) const HEARD_MAX: usize = 1024;

#[derive(Debug)]
struct Asked {
    token: u64,
    request: Request,
    deadline: Time,
    /// Where it was said; `None`: that path is gone.
    path: Option<PathId>,
}

#[derive(Debug)]
struct Heard {
    /// The peer's number.
    id: u64,
    /// Ours: the peer's next process counts anew.
    local: u64,
    answer: Option<Answer>,
}

/// What to do about a request of the peer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is new: to be done under this number.
    Do(u64),
    /// It was done: this is the answer.
    Done(Answer),
    /// It is being done.
    Underway,
}

/// Both directions.
#[derive(Debug, Default)]
pub(super) struct Requests {
    asked: BTreeMap<u64, Asked>,
    last_id: u64,
    heard: VecDeque<Heard>,
    last_local: u64,
}

impl Requests {
    /// A request of ours that goes out on this path; `None`: too many wait already.
    pub(super) fn ask(&mut self, token: u64, request: Request, deadline: Time, path: PathId) -> Option<Message> {
        if self.asked.len() >= ASKED_MAX {
            return None;
        }
        self.last_id += 1;
        let id = self.last_id;
        self.asked.insert(id, Asked { token, request: request.clone(), deadline, path: Some(path) });
        Some(Message::Request { id, request })
    }

    /// The peer has answered: whose request was it?
    pub(super) fn answered(&mut self, id: u64) -> Option<u64> {
        self.asked.remove(&id).map(|asked| asked.token)
    }

    /// A path is gone: the request or its answer may have gone with it.
    pub(super) fn path_gone(&mut self, path: PathId) {
        self.asked.values_mut().filter(|asked| asked.path == Some(path)).for_each(|asked| asked.path = None);
    }

    /// What is to be said again, on this path. The peer knows by the number what it has done.
    pub(super) fn again(&mut self, path: PathId) -> Vec<Message> {
        let homeless = self.asked.iter_mut().filter(|(_, asked)| asked.path.is_none());
        let say = homeless.map(|(id, asked)| {
            asked.path = Some(path);
            Message::Request { id: *id, request: asked.request.clone() }
        });
        say.collect()
    }

    /// When the first is too late.
    pub(super) fn deadline(&self) -> Option<Time> {
        self.asked.values().map(|asked| asked.deadline).min()
    }

    /// Takes those out that are too late.
    pub(super) fn late(&mut self, now: Time) -> Vec<u64> {
        let late: Vec<u64> = self.asked.iter().filter(|(_, asked)| asked.deadline <= now).map(|(id, _)| *id).collect();
        late.iter().filter_map(|id| self.asked.remove(id)).map(|asked| asked.token).collect()
    }

    /// Takes all of ours out: nobody will answer.
    pub(super) fn give_up(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.asked).into_values().map(|asked| asked.token).collect()
    }

    /// A request of the peer.
    pub(super) fn hear(&mut self, id: u64) -> Verdict {
        if let Some(known) = self.heard.iter().find(|known| known.id == id) {
            return known.answer.clone().map_or(Verdict::Underway, Verdict::Done);
        }
        if self.heard.len() >= HEARD_MAX {
            self.heard.pop_front();
        }
        self.last_local += 1;
        self.heard.push_back(Heard { id, local: self.last_local, answer: None });
        Verdict::Do(self.last_local)
    }

    /// A request of the peer is done: which one it was, unless whoever asked is gone.
    pub(super) fn reply(&mut self, local: u64, answer: &Answer) -> Option<u64> {
        let known = self.heard.iter_mut().find(|known| known.local == local)?;
        known.answer = Some(answer.clone());
        Some(known.id)
    }

    /// The peer's process is another one.
    pub(super) fn new_peer(&mut self) {
        self.heard.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> Request {
        Request::Command { text: "PAUSE".into() }
    }

    #[test]
    fn a_request_whose_path_is_gone_is_said_again_under_its_number() {
        let mut requests = Requests::default();
        let first = requests.ask(7, request(), Time(100), 1).unwrap();
        assert!(requests.again(2).is_empty());
        requests.path_gone(1);
        assert_eq!(requests.again(2), [first]);
        assert!(requests.again(2).is_empty());
        assert_eq!(requests.answered(1), Some(7));
        assert_eq!(requests.answered(1), None);
    }

    #[test]
    fn what_is_late_is_taken_out_once() {
        let mut requests = Requests::default();
        requests.ask(1, request(), Time(100), 1);
        requests.ask(2, request(), Time(200), 1);
        assert_eq!(requests.deadline(), Some(Time(100)));
        assert_eq!(requests.late(Time(100)), [1]);
        assert_eq!(requests.deadline(), Some(Time(200)));
        assert_eq!(requests.give_up(), [2]);
        assert_eq!(requests.deadline(), None);
    }

    #[test]
    fn only_so_many_wait() {
        let mut requests = Requests::default();
        assert!((0..ASKED_MAX as u64).all(|token| requests.ask(token, request(), Time(1), 1).is_some()));
        assert_eq!(requests.ask(0, request(), Time(1), 1), None);
    }

    #[test]
    fn a_request_is_done_once() {
        let mut requests = Requests::default();
        assert_eq!(requests.hear(5), Verdict::Do(1));
        assert_eq!(requests.hear(5), Verdict::Underway);
        assert_eq!(requests.reply(1, &Answer::yes("PAUSE")), Some(5));
        assert_eq!(requests.hear(5), Verdict::Done(Answer::yes("PAUSE")));
    }

    #[test]
    fn the_answer_to_a_former_process_is_none_to_its_successor() {
        let mut requests = Requests::default();
        assert_eq!(requests.hear(1), Verdict::Do(1));
        requests.new_peer();
        assert_eq!(requests.hear(1), Verdict::Do(2));
        assert_eq!(requests.reply(1, &Answer::yes("of the former")), None);
        assert_eq!(requests.hear(1), Verdict::Underway);
    }

    #[test]
    fn only_so_many_are_remembered() {
        let mut requests = Requests::default();
        (0..3 * HEARD_MAX as u64).for_each(|id| drop(requests.hear(id)));
        assert_eq!(requests.heard.len(), HEARD_MAX);
    }
}

//! Who computes: the line of preparations, and the pace of each.
//!
//! A preparation computes while it has a turn. It gives its turn back when its guest waits in the host, and after one slice
//! where others want one; `pool::Turns` chooses who is next. Guests yield at every epoch, which is where this takes hold of
//! them. Must not: choose what is prepared; `prepare` does.

use std::collections::HashMap;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Instant;

use tokio::sync::oneshot;

use super::function::{Function, Version};
use super::host::Grace;
use super::{Node, Outcomes};
use crate::pool::{self, Purpose, SLICE, Ticket, Turns};
use crate::types::FunctionName;

/// Functions without a tenant share one line.
type Tenant = Option<String>;

/// The node's line of preparations.
pub(super) struct Line<O: Outcomes>(Mutex<Inner<O>>);

struct Inner<O: Outcomes> {
    turns: Turns<Tenant, FunctionName>,
    /// Preparations that were begun and wait for their next turn.
    parked: HashMap<Ticket, oneshot::Sender<Turn<O>>>,
    /// Somebody hands turns out at this moment, and goes on until there is none.
    is_handing_out: bool,
}

impl<O: Outcomes> Line<O> {
    pub(super) fn new(turns: usize, turns_ahead: usize) -> Self {
        let narrow = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let turns = Turns::new(narrow(turns), narrow(turns_ahead));
        Self(Mutex::new(Inner { turns, parked: HashMap::new(), is_handing_out: false }))
    }

    fn lock(&self) -> MutexGuard<'_, Inner<O>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to compute; dropping it gives it to whoever is next.
pub(super) struct Turn<O: Outcomes> {
    node: Arc<Node<O>>,
    turn: pool::Turn<Tenant, FunctionName>,
    since: Instant,
}

impl<O: Outcomes> Turn<O> {
    /// Goes on where nobody else waits for a turn.
    fn renew(&mut self) -> bool {
        let mut line = self.node.line.lock();
        let is_wanted = line.turns.is_wanted(&self.turn);
        if !is_wanted {
            line.turns.renew(&self.turn, self.since.elapsed());
            self.since = Instant::now();
        }
        !is_wanted
    }
}

impl<O: Outcomes> Drop for Turn<O> {
    fn drop(&mut self) {
        self.node.line.lock().turns.release(&self.turn, self.since.elapsed());
        self.node.hand_out();
    }
}

/// Notes whether a future woke its own task while it was polled, as a guest does that yields and would go on computing.
struct Woken {
    task: Waker,
    woken: AtomicBool,
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.store(true, Ordering::Release);
        self.task.wake_by_ref();
    }
}

/// Polls `work` once. The flag says whether it would go on computing.
fn poll<F: Future>(work: Pin<&mut F>, context: &Context<'_>) -> (Poll<F::Output>, bool) {
    let woken = Arc::new(Woken { task: context.waker().clone(), woken: AtomicBool::new(false) });
    let polled = work.poll(&mut Context::from_waker(&Waker::from(Arc::clone(&woken))));
    (polled, woken.woken.load(Ordering::Acquire))
}

impl<O: Outcomes> Node<O> {
    /// The function stands in line to begin a preparation.
    pub(super) fn stand_in_line(self: &Arc<Self>, function: &FunctionName, tenant: &Tenant, purpose: Purpose) {
        self.line.lock().turns.begin(tenant, function, purpose);
        self.hand_out();
    }

    /// A call waits for what the function stands in line for.
    pub(super) fn hurry(self: &Arc<Self>, function: &FunctionName) {
        self.line.lock().turns.hurry(function);
        self.hand_out();
    }

    /// Gives every turn that is free to whoever is next.
    fn hand_out(self: &Arc<Self>) {
        if std::mem::replace(&mut self.line.lock().is_handing_out, true) {
            return;
        }
        loop {
            let (turn, parked) = {
                let mut line = self.line.lock();
                let Some(turn) = line.turns.grant() else {
                    line.is_handing_out = false;
                    return;
                };
                let parked = turn.ticket.map(|ticket| line.parked.remove(&ticket));
                (Turn { node: Arc::clone(self), turn, since: Instant::now() }, parked)
            };
            match parked {
                None => match self.find(turn.turn.function.as_str()) {
                    Some(function) => drop(self.handle.spawn(Arc::clone(self).begin(function, turn))),
                    None => drop(turn),
                },
                // Where nobody waits any more the turn comes back, is dropped, and is handed out again.
                Some(sender) => drop(sender.map(|sender| sender.send(turn))),
            }
        }
    }

    /// A preparation that was begun stands in line again.
    fn go_on(&self, function: &Function<O::Ticket>, tenant: &Tenant, purpose: Purpose) -> oneshot::Receiver<Turn<O>> {
        let a_call_waits = function.state().shelf.usage(0).waiting > 0;
        let purpose = if a_call_waits { Purpose::Call } else { purpose };
        let (sender, receiver) = oneshot::channel();
        let mut line = self.line.lock();
        let ticket = line.turns.go_on(tenant, &function.name, purpose);
        line.parked.insert(ticket, sender);
        receiver
    }

    /// Runs `work` for a function, computing only while it has a turn; `None` where `version` was replaced meanwhile. Time in
    /// which it waits for a turn goes to its `grace`: others must not have it run out of time.
    ///
    /// Without a `turn` it computes until it yields for the first time: a preparation that is known to be quick is over then.
    pub(super) async fn paced<R>(
        self: &Arc<Self>,
        function: &Function<O::Ticket>,
        version: &Version,
        purpose: Purpose,
        turn: Option<Turn<O>>,
        grace: &Grace,
        work: impl Future<Output = R>,
    ) -> Option<R> {
        let tenant = &version.definition.tenant;
        let mut work = pin!(work);
        let mut replaced = pin!(function.replaced.notified());
        let mut turn = turn;
        let mut next: Option<oneshot::Receiver<Turn<O>>> = None;
        let mut is_first = true;
        let mut parked: Option<Instant> = None;
        poll_fn(|context| {
            let _ = replaced.as_mut().poll(context);
            if !function.state().runs(version) {
                return Poll::Ready(None);
            }
            if turn.is_none() && !is_first {
                let waits = next.get_or_insert_with(|| {
                    let waits = self.go_on(function, tenant, purpose);
                    self.hand_out();
                    waits
                });
                let since = *parked.get_or_insert_with(Instant::now);
                match Pin::new(waits).poll(context) {
                    Poll::Ready(granted) => (turn, next) = (granted.ok(), None),
                    Poll::Pending => return Poll::Pending,
                }
                parked = None;
                grace.add(since.elapsed());
            }
            is_first = false;
            let (polled, computes) = poll(work.as_mut(), context);
            if let Poll::Ready(done) = polled {
                turn = None;
                return Poll::Ready(Some(done));
            }
            if !computes {
                turn = None;
            } else if turn.as_mut().is_some_and(|turn| turn.since.elapsed() >= SLICE && !turn.renew()) {
                next = Some(self.go_on(function, tenant, purpose));
                turn = None;
            }
            Poll::Pending
        })
        .await
    }
}

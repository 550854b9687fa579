//! Every pool of the process.
use super::*;
use crate::clock::Time;
use crate::ids::{ClientId, PoolId, ServerId};
/// Every pool of the process. Calls are made under one mutex, and the actions that they push are performed after it is
/// let go.
#[derive(Debug)]
pub struct Registry {}
#[expect(missing_docs, reason = "bodies follow")]
#[expect(unused_variables, reason = "bodies follow")]
#[expect(clippy::todo, reason = "bodies follow")]
impl Registry {
    pub fn new(ids: Ids, globals: GlobalParams) -> Self {
        todo!()
    }
    pub fn set_globals(&mut self, now: Time, globals: GlobalParams) {
        todo!()
    }
    pub fn set_database(&mut self, now: Time, database: DatabaseId, params: DatabaseParams) {
        todo!()
    }
    pub fn set_user(&mut self, now: Time, user: UserId, params: UserParams) {
        todo!()
    }
    /// Finds or makes the pool; new params replace the old ones (effect at the next tick, which is due at once).
    pub fn ensure_pool(&mut self, now: Time, database: DatabaseId, user: UserId, params: &PoolParams) -> PoolId {
        todo!()
    }
    pub fn pool_of(&self, database: DatabaseId, user: UserId) -> Option<PoolId> {
        todo!()
    }
    pub fn client_attached(&mut self, now: Time, pool: PoolId) {
        todo!()
    }
    pub fn client_detached(&mut self, now: Time, pool: PoolId) {
        todo!()
    }
    pub fn checkout(&mut self, now: Time, pool: PoolId, client: ClientId, out: &mut Vec<Action>) -> Checkout {
        todo!()
    }
    pub fn checkout_again(
        &mut self,
        now: Time,
        pool: PoolId,
        client: ClientId,
        since: Time,
        out: &mut Vec<Action>,
    ) -> Checkout {
        todo!()
    }
    /// A client in login needs the pool's server parameters; opens a server if none is known yet.
    pub fn await_welcome(&mut self, now: Time, pool: PoolId, client: ClientId, out: &mut Vec<Action>) -> Welcome {
        todo!()
    }
    /// true if it was waiting; false: a Grant may be on its way, to be answered with release(Unused).
    pub fn leave(&mut self, client: ClientId) -> bool {
        todo!()
    }
    /// The check query of a server granted with needs_check went well.
    pub fn check_passed(&mut self, server: ServerId) {
        todo!()
    }
    /// The client lets go, the driver goes on to run server_reset_query; then release.
    pub fn begin_reset(&mut self, server: ServerId) {
        todo!()
    }
    /// false: the registry no longer knows it (KILL …): the driver must close it.
    #[must_use]
    pub fn release(&mut self, now: Time, server: ServerId, fate: Fate, out: &mut Vec<Action>) -> bool {
        todo!()
    }
    /// false: no longer wanted, close it.
    #[must_use]
    pub fn server_ready(&mut self, now: Time, server: ServerId, out: &mut Vec<Action>) -> bool {
        todo!()
    }
    pub fn server_failed(&mut self, now: Time, server: ServerId, failure: Failure, out: &mut Vec<Action>) {
        todo!()
    }
    /// Closed from the other side in whatever state.
    pub fn server_gone(&mut self, now: Time, server: ServerId, out: &mut Vec<Action>) {
        todo!()
    }
    /// false: target holds no client: too late.
    #[must_use]
    pub fn cancel(&mut self, request: ClientId, target: ServerId, out: &mut Vec<Action>) -> bool {
        todo!()
    }
    /// The carrying connection is up: send the key? false: too late, close it and call cancel_done.
    #[must_use]
    pub fn cancel_connected(&mut self, request: ClientId) -> bool {
        todo!()
    }
    /// The request is over: delivered, failed or given up.
    pub fn cancel_done(&mut self, now: Time, request: ClientId, out: &mut Vec<Action>) {
        todo!()
    }
    pub fn deadline(&self) -> Option<Time> {
        todo!()
    }
    pub fn tick(&mut self, now: Time, out: &mut Vec<Action>) {
        todo!()
    }
    pub fn mode(&self) -> Mode {
        todo!()
    }
    pub fn pause(&mut self, now: Time, database: DatabaseId, out: &mut Vec<Action>) {
        todo!()
    }
    /// false: it was not paused
    pub fn resume(&mut self, now: Time, database: DatabaseId) -> bool {
        todo!()
    }
    pub fn pause_all(&mut self, now: Time, out: &mut Vec<Action>) {
        todo!()
    }
    pub fn suspend(&mut self) {
        todo!()
    }
    /// Ends pause_all and suspend.
    pub fn resume_all(&mut self, now: Time) {
        todo!()
    }
    pub fn is_paused(&self, database: DatabaseId) -> bool {
        todo!()
    }
    pub fn set_disabled(&mut self, database: DatabaseId, disabled: bool) {
        todo!()
    }
    pub fn is_disabled(&self, database: DatabaseId) -> bool {
        todo!()
    }
    /// RECONNECT of one database, or (None) of all; also after a reload that changed how servers are reached.
    pub fn reconnect(&mut self, now: Time, database: Option<DatabaseId>, out: &mut Vec<Action>) {
        todo!()
    }
    pub fn kill(&mut self, now: Time, database: DatabaseId, out: &mut Vec<Action>) {
        todo!()
    }
    pub fn kill_all(&mut self, now: Time, out: &mut Vec<Action>) {
        todo!()
    }
    pub fn drop_database(&mut self, now: Time, database: DatabaseId, out: &mut Vec<Action>) {
        todo!()
    }
    /// Servers that PAUSE waits for: active, tested, being_canceled.
    pub fn busy(&self, database: Option<DatabaseId>) -> u32 {
        todo!()
    }
    /// Servers that WAIT_CLOSE waits for.
    pub fn closing(&self, database: Option<DatabaseId>) -> u32 {
        todo!()
    }
    /// current_connections of SHOW DATABASES / SHOW USERS
    pub fn of_database(&self, database: DatabaseId) -> u32 {
        todo!()
    }
    pub fn of_user(&self, user: UserId) -> u32 {
        todo!()
    }
    pub fn pool(&self, now: Time, pool: PoolId) -> Option<PoolView> {
        todo!()
    }
    pub fn pools(&self, now: Time) -> Vec<PoolView> {
        todo!()
    }
    pub fn server(&self, now: Time, server: ServerId) -> Option<ServerView> {
        todo!()
    }
    pub fn servers(&self, now: Time) -> Vec<ServerView> {
        todo!()
    }
    /// When this client began to wait, if it does.
    pub fn waiting_since(&self, client: ClientId) -> Option<Time> {
        todo!()
    }
}

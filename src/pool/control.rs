//! Admin.
/// What PAUSE, SUSPEND and RESUME (without a database) switch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Serving.
    #[default]
    Active,
    /// PAUSE: no server is given to anybody, free ones are closed.
    Paused,
    /// SUSPEND: nothing is closed, reaped or kept up until RESUME.
    Suspended,
}

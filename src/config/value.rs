//! How single values are written and read: whole numbers as C's `strtol` with base 0 reads them, times in seconds, words from
//! a fixed choice, comma lists, secrets.

use std::fmt;
use std::time::Duration;

use zeroize::Zeroizing;

/// The name of the admin console: no database may bear it.
pub const RESERVED_DATABASE: &str = "pgbouncer";

/// A value as a file or the console shows it, before it is text.
#[derive(Clone, Debug, PartialEq)]
pub enum Scalar {
    /// A whole number.
    Int(u64),
    /// File permissions, written in octal in TOML and in decimal by `SHOW CONFIG`.
    Mode(u32),
    /// A switch, 0 or 1.
    Bool(bool),
    /// A time, written in seconds.
    Time(Duration),
    /// Any text.
    Text(String),
    /// A comma list: its items, and the text as it was written.
    List(Vec<String>, String),
}

impl Scalar {
    /// The text that PgBouncer's `SHOW CONFIG` prints for such a value.
    #[must_use]
    pub fn show(&self) -> String {
        match self {
            Self::Int(number) => number.to_string(),
            Self::Mode(mode) => mode.to_string(),
            Self::Bool(on) => u8::from(*on).to_string(),
            Self::Time(time) => format_g(time.as_secs_f64()),
            Self::Text(text) | Self::List(_, text) => text.clone(),
        }
    }
}

/// Why a value was refused, in words that complete "NAME wants …".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadValue(pub String);

impl BadValue {
    pub(crate) fn new(why: impl Into<String>) -> Self {
        Self(why.into())
    }
}

impl fmt::Display for BadValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BadValue {}

/// What a value parser says besides the value: nothing, or a caution that the operator should read.
pub type Caution = Option<String>;

/// A type that a setting may have.
pub(crate) trait Value: Sized {
    /// Read the text of the file or of `SET`; whole numbers must lie within `bounds`.
    fn parse(text: &str, bounds: (i64, i64)) -> Result<(Self, Caution), BadValue>;
    /// The value to print; `None` is the NULL of `SHOW CONFIG`.
    fn scalar(&self) -> Option<Scalar>;
    /// The value of a setting that was never given and whose default is NULL.
    fn null() -> Self;
}

/// Read a whole number as C's `strtol(…, 0)` does: blanks, a sign, `0x` for base 16, a leading `0` for base 8. The whole
/// text must be a number.
pub(crate) fn parse_long(text: &str) -> Result<i64, BadValue> {
    let trimmed = text.trim_start_matches(|c: char| c.is_ascii_whitespace() || c == '\x0b');
    let (negative, unsigned) = match trimmed.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, trimmed.strip_prefix('+').unwrap_or(trimmed)),
    };
    let (radix, digits) = match unsigned.strip_prefix("0x").or_else(|| unsigned.strip_prefix("0X")) {
        Some(hex) => (16, hex),
        None if unsigned.len() > 1 && unsigned.starts_with('0') => (8, unsigned),
        None => (10, unsigned),
    };
    if digits.is_empty() || !digits.chars().all(|c| c.is_digit(radix)) {
        return Err(BadValue::new("a whole number"));
    }
    let magnitude = i128::from_str_radix(digits, radix).map_err(|_| BadValue::new("a smaller number"))?;
    let value = if negative { -magnitude } else { magnitude };
    i64::try_from(value).map_err(|_| BadValue::new("a smaller number"))
}

/// Read a number that cannot be negative. Where 0 is allowed, PgBouncer takes a negative number for "off" as well, so it
/// counts as 0 with a caution.
fn parse_bounded(text: &str, (min, max): (i64, i64)) -> Result<(u64, Caution), BadValue> {
    let number = parse_long(text)?;
    if number < 0 && min == 0 {
        return Ok((0, Some(format!("{number} counts as 0"))));
    }
    match u64::try_from(number) {
        Ok(unsigned) if number >= min && number <= max => Ok((unsigned, None)),
        _ => Err(BadValue(format!("a whole number from {min} to {max}"))),
    }
}

macro_rules! whole_number {
    ($($int:ty),*) => {$(
        impl Value for $int {
            fn null() -> Self {
                0
            }
            fn parse(text: &str, (min, max): (i64, i64)) -> Result<(Self, Caution), BadValue> {
                let max = max.min(i64::from(Self::MAX));
                let (number, caution) = parse_bounded(text, (min, max))?;
                let number = Self::try_from(number).map_err(|_| BadValue::new("a smaller number"))?;
                Ok((number, caution))
            }
            fn scalar(&self) -> Option<Scalar> {
                Some(Scalar::Int(u64::from(*self)))
            }
        }
    )*};
}
whole_number!(u8, u16, u32);

/// `verbose`: a number that may never have been given.
impl Value for Option<u32> {
    fn null() -> Self {
        None
    }
    fn parse(text: &str, bounds: (i64, i64)) -> Result<(Self, Caution), BadValue> {
        u32::parse(text, bounds).map(|(number, caution)| (Some(number), caution))
    }
    fn scalar(&self) -> Option<Scalar> {
        Some(Scalar::Int(u64::from(self.unwrap_or(0))))
    }
}

/// `virtual_router_id`: a number without a default.
impl Value for Option<u8> {
    fn null() -> Self {
        None
    }
    fn parse(text: &str, bounds: (i64, i64)) -> Result<(Self, Caution), BadValue> {
        u8::parse(text, bounds).map(|(number, caution)| (Some(number), caution))
    }
    fn scalar(&self) -> Option<Scalar> {
        self.map(|number| Scalar::Int(number.into()))
    }
}

/// `max_packet_size`: read as C's `strtoul` reads it, where -1 is the largest number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PacketSize(pub u32);

impl Value for PacketSize {
    fn null() -> Self {
        Self(0)
    }
    fn parse(text: &str, _: (i64, i64)) -> Result<(Self, Caution), BadValue> {
        match parse_long(text)? {
            -1 => Ok((Self(u32::MAX), None)),
            number => u32::try_from(number)
                .map(|size| (Self(size), None))
                .map_err(|_| BadValue(format!("a whole number from 0 to {}", u32::MAX))),
        }
    }
    fn scalar(&self) -> Option<Scalar> {
        Some(Scalar::Int(u64::from(self.0)))
    }
}

/// Permissions of a Unix socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileMode(pub u32);

impl Value for FileMode {
    fn null() -> Self {
        Self(0)
    }
    fn parse(text: &str, bounds: (i64, i64)) -> Result<(Self, Caution), BadValue> {
        let (mode, _) = u32::parse(text, bounds)
            .map_err(|_| BadValue::new("permissions in octal with a leading 0, from 0 to 07777"))?;
        let octal = text.trim_start().starts_with('0') || mode == 0;
        // 777 without the leading 0 is decimal, that is 01411: nobody means that.
        let caution = (!octal && text.trim().chars().all(|c| ('0'..='7').contains(&c)) && text.trim().len() <= 4)
            .then(|| format!("{} is decimal and means 0{mode:o}; write 0{} for octal", text.trim(), text.trim()));
        Ok((Self(mode), caution))
    }
    fn scalar(&self) -> Option<Scalar> {
        Some(Scalar::Mode(self.0))
    }
}

impl Value for bool {
    fn null() -> Self {
        false
    }
    fn parse(text: &str, _: (i64, i64)) -> Result<(Self, Caution), BadValue> {
        let number = parse_long(text).map_err(|_| BadValue::new("0 or 1"))?;
        let caution = (number != 0 && number != 1).then(|| format!("{number} counts as 1"));
        Ok((number != 0, caution))
    }
    fn scalar(&self) -> Option<Scalar> {
        Some(Scalar::Bool(*self))
    }
}

/// The longest time that can be given: what fits into a signed count of microseconds.
const MAX_TIME: Duration = Duration::from_micros(i64::MAX as u64);

impl Value for Duration {
    fn null() -> Self {
        Self::ZERO
    }
    fn parse(text: &str, _: (i64, i64)) -> Result<(Self, Caution), BadValue> {
        let why = || BadValue::new("a time in seconds, such as 30 or 0.5, and not negative");
        let unsigned = text.trim_start();
        let (negative, unsigned) = match unsigned.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, unsigned.strip_prefix('+').unwrap_or(unsigned)),
        };
        let time = parse_seconds(unsigned).ok_or_else(why)?;
        if negative && !time.is_zero() {
            return Err(why());
        }
        if time > MAX_TIME {
            return Err(BadValue::new("a shorter time"));
        }
        Ok((time, None))
    }
    fn scalar(&self) -> Option<Scalar> {
        Some(Scalar::Time(*self))
    }
}

/// Read unsigned seconds, down to microseconds. Plain decimals are read exactly, exponents by way of a float.
fn parse_seconds(text: &str) -> Option<Duration> {
    if let Some(hex) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        let digits = !hex.is_empty() && hex.bytes().all(|b| b.is_ascii_hexdigit());
        return digits.then(|| u64::from_str_radix(hex, 16).unwrap_or(u64::MAX)).map(Duration::from_secs);
    }
    if text.contains(['e', 'E']) {
        let plain = text.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-'));
        let seconds = plain.then(|| text.parse::<f64>().ok()).flatten()?;
        let micros = (seconds * 1e6).min(u64::MAX as f64);
        return Some(Duration::from_micros(micros as u64));
    }
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    if (whole.is_empty() && fraction.is_empty()) || !digits(whole) || !digits(fraction) {
        return None;
    }
    let seconds = if whole.is_empty() { 0 } else { whole.parse::<u64>().unwrap_or(u64::MAX) };
    let mut micros = 0;
    for place in 0..6 {
        let digit = fraction.as_bytes().get(place).map_or(0, |b| u32::from(b - b'0'));
        micros = micros * 10 + digit;
    }
    Some(Duration::from_secs(seconds).saturating_add(Duration::from_micros(u64::from(micros))))
}

/// Print a number as C's `%g` does: six significant digits, no trailing zeros.
pub(crate) fn format_g(number: f64) -> String {
    if number == 0.0 || !number.is_finite() {
        return "0".to_owned();
    }
    let scientific = format!("{number:.5e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let trim = |text: &str| match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text.to_owned(),
    };
    if (-4..6).contains(&exponent) {
        let decimals = usize::try_from(5 - exponent).unwrap_or(0);
        trim(&format!("{number:.decimals$}"))
    } else {
        let sign = if exponent < 0 { '-' } else { '+' };
        format!("{}e{sign}{:02}", trim(mantissa), exponent.abs())
    }
}

impl Value for String {
    fn null() -> Self {
        Self::new()
    }
    fn parse(text: &str, _: (i64, i64)) -> Result<(Self, Caution), BadValue> {
        Ok((text.to_owned(), None))
    }
    fn scalar(&self) -> Option<Scalar> {
        Some(Scalar::Text(self.clone()))
    }
}

/// A text whose default is NULL: PgBouncer does not reset it on RELOAD when the file no longer names it, so "never named"
/// and "set to nothing" differ.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Nullable(pub Option<String>);

impl Nullable {
    /// The value, unless it is missing or empty.
    #[must_use]
    pub fn get(&self) -> Option<&str> {
        self.0.as_deref().filter(|text| !text.is_empty())
    }
}

/// The database of `auth_query`: NULL by default, and never the admin console.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DatabaseName(pub Option<String>);

impl DatabaseName {
    /// The name, unless it is missing or empty.
    #[must_use]
    pub fn get(&self) -> Option<&str> {
        self.0.as_deref().filter(|text| !text.is_empty())
    }
}

impl Value for DatabaseName {
    fn null() -> Self {
        Self(None)
    }
    fn parse(text: &str, _: (i64, i64)) -> Result<(Self, Caution), BadValue> {
        if text == RESERVED_DATABASE {
            return Err(BadValue::new("a database that is not the admin console"));
        }
        Ok((Self(Some(text.to_owned())), None))
    }
    fn scalar(&self) -> Option<Scalar> {
        self.0.clone().map(Scalar::Text)
    }
}

impl Value for Nullable {
    fn null() -> Self {
        Self(None)
    }
    fn parse(text: &str, _: (i64, i64)) -> Result<(Self, Caution), BadValue> {
        Ok((Self(Some(text.to_owned())), None))
    }
    fn scalar(&self) -> Option<Scalar> {
        self.0.clone().map(Scalar::Text)
    }
}

/// A text that no log, error or `Debug` may show; wiped from memory when dropped.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Wrap a secret.
    pub fn new(secret: impl Into<String>) -> Self {
        Self(Zeroizing::new(secret.into()))
    }

    /// The secret itself: only for the code that must prove or send it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// A setting that may carry a password (`auth_ldap_options`).
impl Value for Option<Secret> {
    fn null() -> Self {
        None
    }
    fn parse(text: &str, _: (i64, i64)) -> Result<(Self, Caution), BadValue> {
        Ok((Some(Secret::new(text)), None))
    }
    fn scalar(&self) -> Option<Scalar> {
        self.as_ref().map(|secret| Scalar::Text(secret.expose().to_owned()))
    }
}

/// A comma list. Equal when the items are; the text is kept for `SHOW CONFIG`.
#[derive(Clone, Debug, Default, Eq)]
pub struct NameList {
    items: Vec<String>,
    text: String,
}

impl NameList {
    /// The list that the text of a setting means: items between commas and blanks.
    pub fn new(text: impl Into<String>) -> Self {
        let text = text.into();
        let items = text
            .split(|c: char| c == ',' || c.is_ascii_whitespace())
            .filter(|item| !item.is_empty())
            .map(str::to_owned)
            .collect();
        Self { items, text }
    }

    /// The items in their order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.items.iter().map(String::as_str)
    }

    /// Is the name one of the items? A name with blanks counts when it stands between commas or blanks as it is.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        if name.is_empty() {
            return false;
        }
        let edge = |c: Option<char>| c.is_none_or(|c| c == ',' || c.is_ascii_whitespace());
        self.text.match_indices(name).any(|(at, _)| {
            let before = self.text.get(..at).and_then(|text| text.chars().next_back());
            let after = self.text.get(at + name.len()..).and_then(|text| text.chars().next());
            edge(before) && edge(after)
        })
    }

    /// Does the list name nothing?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The text as it was written.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }
}

impl PartialEq for NameList {
    fn eq(&self, other: &Self) -> bool {
        self.items == other.items
    }
}

impl Value for NameList {
    fn null() -> Self {
        Self::default()
    }
    fn parse(text: &str, _: (i64, i64)) -> Result<(Self, Caution), BadValue> {
        Ok((Self::new(text), None))
    }
    fn scalar(&self) -> Option<Scalar> {
        Some(Scalar::List(self.items.clone(), self.text.clone()))
    }
}

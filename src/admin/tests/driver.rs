//! A real driver, tokio-postgres, against the console: it speaks the extended protocol and asks for binary results.

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_postgres::types::{FromSql, Type};
use tokio_postgres::{NoTls, SimpleQueryMessage};

use super::*;

/// Plays the daemon for one console client, until it leaves.
async fn serve(mut stream: DuplexStream) -> std::io::Result<()> {
    let startup_len = stream.read_u32().await?;
    stream.read_exact(&mut vec![0; startup_len as usize - 4]).await?;
    stream.write_all(b"R\0\0\0\x08\0\0\0\0").await?;
    stream.write_all(&welcome([])).await?;
    stream.write_all(b"Z\0\0\0\x05I").await?;
    let mut console = Console::new(Rights::Admin, TimeZone::UTC);
    loop {
        let tag = stream.read_u8().await?;
        let len = stream.read_u32().await? as usize - 4;
        let mut body = vec![0; len];
        stream.read_exact(&mut body).await?;
        let turn = console.on_frame(tag, &body);
        stream.write_all(&turn.reply).await?;
        match turn.then {
            Then::Read => {}
            Then::Close(_) => return Ok(()),
            Then::Act(action) => {
                let result = match action {
                    Action::Show { .. } => ActionResult::Snapshot(Box::new(snapshot())),
                    Action::Resume(_) => ActionResult::Refused(Refusal::NotPaused),
                    _ => ActionResult::Done,
                };
                stream.write_all(&console.finish(result).reply).await?;
            }
        }
    }
}

/// Any value, as it came.
struct Raw(Vec<u8>);

impl<'a> FromSql<'a> for Raw {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Self(raw.to_vec()))
    }
    fn accepts(_: &Type) -> bool {
        true
    }
}

/// `numeric_recv`, for whole numbers.
fn numeric(raw: &[u8]) -> u64 {
    let words: Vec<u64> = raw.chunks(2).map(|w| u64::from(u16::from_be_bytes([w[0], w[1]]))).collect();
    let [digits, weight, sign, scale] = words[..4].try_into().unwrap();
    assert_eq!((sign, scale, words.len() as u64), (0, 0, 4 + digits));
    let value = words[4..].iter().fold(0, |sum, digit| sum * 10_000 + digit);
    assert_eq!(weight, digits.saturating_sub(1));
    value
}

#[tokio::test]
async fn tokio_postgres_gets_along() {
    let (near, far) = tokio::io::duplex(1 << 16);
    let server = tokio::spawn(serve(far));
    let mut config = tokio_postgres::Config::new();
    let (client, connection) = config.user("pgbouncer").dbname("pgbouncer").connect_raw(near, NoTls).await.unwrap();
    let connection = tokio::spawn(connection);

    let pools = client.query("SHOW POOLS", &[]).await.unwrap();
    assert_eq!((pools[1].get::<_, &str>("database"), pools[1].get::<_, i32>("sv_idle")), ("shop", 1));
    assert_eq!(pools[1].get::<_, Option<&str>>("load_balance_hosts"), None);
    let zones = client.query_one("SHOW DNS_ZONES", &[]).await.unwrap();
    assert_eq!(zones.get::<_, i64>("serial"), i64::from(u32::MAX));
    let stats = client.query("SHOW STATS", &[]).await.unwrap();
    assert_eq!(numeric(&stats[1].get::<_, Raw>("total_query_count").0), 1104);
    assert_eq!(numeric(&stats[0].get::<_, Raw>("avg_query_count").0), 0);

    let prepared = client.prepare("SHOW CLIENTS").await.unwrap();
    for _ in 0..3 {
        assert_eq!(client.query(&prepared, &[]).await.unwrap().len(), 4);
    }
    let error = client.query("RESUME", &[]).await.unwrap_err();
    assert_eq!(error.as_db_error().unwrap().message(), "pooler is not paused/suspended");
    assert_eq!(client.execute("RELOAD", &[]).await.unwrap(), 0);
    let simple = client.simple_query("SHOW VERSION").await.unwrap();
    let version = simple.iter().find_map(|m| match m {
        SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    assert_eq!(version, Some("PgBouncer 1.25.2"));

    drop((prepared, client));
    connection.await.unwrap().unwrap();
    server.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_number_too_large_for_binary_int4_is_an_error_and_not_a_lie() {
    let mut snapshot = snapshot();
    snapshot.clients[1].id = 1 << 31;
    let mut console = console(Rights::Stats);
    drop(console.on_frame(b'P', &parse_body("", "SHOW CLIENTS")));
    drop(console.on_frame(b'B', &bind_body("", "", &[1])));
    drop(console.on_frame(b'E', &execute_body("", 0)));
    let turn = console.finish(ActionResult::Snapshot(Box::new(snapshot)));
    let text = "2147483648 in column id is too large for binary int4: ask for text format";
    assert_eq!((turn.errors[0].text.as_ref(), turn.errors[0].sqlstate.as_ref()), (text, "22003"));
}

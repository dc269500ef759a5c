//! As much of Redis' protocol as the chaos needs: one command, one reply. The gateway's own client is not used, so that
//! a mistake in it cannot hide itself.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, bail, ensure};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
    time::timeout,
};

/// One command. A healthy server on loopback answers in microseconds; one that is stopped does not.
const COMMAND_MAX: Duration = Duration::from_secs(5);
/// Largest bulk text read: `INFO` has some 10 KiB.
const BULK_MAX: usize = 1024 * 1024;

/// A connection.
#[derive(Debug)]
pub struct Resp(BufReader<TcpStream>);

impl Resp {
    /// Connects.
    ///
    /// # Errors
    /// Nobody listens.
    pub async fn connect(address: SocketAddr) -> anyhow::Result<Self> {
        let stream = timeout(COMMAND_MAX, TcpStream::connect(address)).await.context("redis does not accept")??;
        stream.set_nodelay(true)?;
        Ok(Self(BufReader::new(stream)))
    }

    /// Sends a command and reads its reply: a status, a number or a text, as text; nil is empty.
    ///
    /// # Errors
    /// No reply in time, an error reply, or one of another kind.
    pub async fn ask(&mut self, parts: &[&str]) -> anyhow::Result<String> {
        timeout(COMMAND_MAX, self.exchange(parts)).await.context("redis does not answer")?
    }

    async fn exchange(&mut self, parts: &[&str]) -> anyhow::Result<String> {
        let mut out = format!("*{}\r\n", parts.len());
        for part in parts {
            out.push_str(&format!("${}\r\n{part}\r\n", part.len()));
        }
        self.0.write_all(out.as_bytes()).await?;
        let mut line = String::new();
        self.0.read_line(&mut line).await?;
        let line = line.trim_end();
        let (kind, rest) = line.split_at_checked(1).context("redis closed the connection")?;
        match kind {
            "+" | ":" => Ok(rest.to_owned()),
            "-" => bail!("redis refuses {}: {rest}", parts.first().unwrap_or(&"")),
            "$" if rest == "-1" => Ok(String::new()),
            "$" => {
                let len: usize = rest.parse().context("a length of redis")?;
                ensure!(len <= BULK_MAX, "redis sends {len} bytes");
                let mut text = vec![0; len + 2];
                self.0.read_exact(&mut text).await?;
                text.truncate(len);
                Ok(String::from_utf8_lossy(&text).into_owned())
            }
            _ => bail!("redis answers {} with {line:?}", parts.first().unwrap_or(&"")),
        }
    }

    /// A number out of `INFO`.
    ///
    /// # Errors
    /// As [`Resp::ask`], or the section has no such number.
    pub async fn info(&mut self, section: &str, field: &str) -> anyhow::Result<u64> {
        let text = self.ask(&["INFO", section]).await?;
        number(&text, field).with_context(|| format!("INFO {section} has no number {field}"))
    }
}

/// The number behind `field:`, or behind `field:calls=` for command statistics.
fn number(info: &str, field: &str) -> Option<u64> {
    let value = info.lines().find_map(|line| line.trim_end().strip_prefix(field)?.strip_prefix(':'))?;
    let value = value.strip_prefix("calls=").unwrap_or(value);
    value.split(',').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_in_info() {
        let info = "# Memory\r\nused_memory:4711\r\nused_memory_rss:5\r\ncmdstat_evalsha:calls=12,usec=3\r\n";
        assert_eq!(number(info, "used_memory"), Some(4711));
        assert_eq!(number(info, "cmdstat_evalsha"), Some(12));
        assert_eq!(number(info, "used"), None);
    }
}

//! The QEMU Machine Protocol, as much of it as a driver needs: one command at a time, and the
//! events that tell why the machine ends, and that it waits for room on the host's disk.
//!
//! QEMU may be under the guest's control: lines are bounded, what is not understood is dropped,
//! and nothing that arrives is kept but the answer waited for and the last shutdown reason.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::sync::{Mutex, mpsc, watch};
use tokio::task::JoinHandle;

use super::exit::Shutdown;

/// Longest line believed; answers to our commands have a few hundred bytes.
const LINE_LIMIT: usize = 64 << 10;

#[derive(Debug, thiserror::Error)]
pub(super) enum QmpError {
    #[error("the control socket closed")]
    Closed,
    #[error("the control socket speaks something else: {0}")]
    Protocol(&'static str),
    #[error("QEMU refused {command}: {reason}")]
    Refused {
        command: &'static str,
        reason: String,
    },
    #[error("QEMU did not answer {command} within {after:?}")]
    Timeout {
        command: &'static str,
        after: Duration,
    },
    #[error("cannot talk to the control socket")]
    Io(#[source] io::Error),
}

/// What arrives, as far as it matters.
#[derive(Debug, Deserialize)]
struct Message {
    #[serde(default, rename = "QMP")]
    greeting: Option<Value>,
    #[serde(default)]
    event: Option<String>,
    #[serde(default)]
    data: Value,
    #[serde(default)]
    id: Option<u64>,
    #[serde(default, rename = "return")]
    result: Option<Value>,
    #[serde(default)]
    error: Option<ErrorMessage>,
}

#[derive(Debug, Deserialize)]
struct ErrorMessage {
    #[serde(default)]
    desc: String,
}

/// A negotiated connection; dropping it, and ending its reading task, closes the socket.
pub(super) struct Qmp {
    inner: Mutex<Commands>,
    shutdown: watch::Receiver<Option<Shutdown>>,
    starved: Arc<watch::Sender<bool>>,
}

struct Commands {
    writer: Box<dyn AsyncWrite + Send + Unpin>,
    answers: mpsc::Receiver<(u64, Result<Value, String>)>,
    next_id: u64,
}

impl Qmp {
    /// Reads the greeting and leaves negotiation mode. The task returned reads until the socket
    /// closes.
    pub(super) async fn connect(
        reader: impl AsyncRead + Send + Unpin + 'static,
        writer: impl AsyncWrite + Send + Unpin + 'static,
        limit: Duration,
    ) -> Result<(Self, JoinHandle<()>), QmpError> {
        let mut reader = BufReader::new(reader);
        let greeting = tokio::time::timeout(limit, read_message(&mut reader))
            .await
            .map_err(|_| QmpError::Timeout {
                command: "the connection",
                after: limit,
            })??;
        if greeting.and_then(|message| message.greeting).is_none() {
            return Err(QmpError::Protocol("no greeting"));
        }
        let (answered, answers) = mpsc::channel(8);
        let (ended, shutdown) = watch::channel(None);
        let starved = Arc::new(watch::channel(false).0);
        let reading = tokio::spawn(read_loop(reader, answered, ended, Arc::clone(&starved)));
        let qmp = Self {
            inner: Mutex::new(Commands {
                writer: Box::new(writer),
                answers,
                next_id: 1,
            }),
            shutdown,
            starved,
        };
        match qmp.execute("qmp_capabilities", limit).await {
            Ok(_) => Ok((qmp, reading)),
            Err(error) => {
                reading.abort();
                Err(error)
            }
        }
    }

    /// Runs a command without arguments.
    pub(super) async fn execute(
        &self,
        command: &'static str,
        limit: Duration,
    ) -> Result<Value, QmpError> {
        let work = async {
            let mut commands = self.inner.lock().await;
            let id = commands.next_id;
            commands.next_id += 1;
            // Answers to commands whose caller gave up must not take the place of ours.
            while commands.answers.try_recv().is_ok() {}
            let mut line = json!({"execute": command, "id": id}).to_string();
            line.push('\n');
            commands
                .writer
                .write_all(line.as_bytes())
                .await
                .map_err(QmpError::Io)?;
            loop {
                match commands.answers.recv().await {
                    None => return Err(QmpError::Closed),
                    Some((answered, Ok(value))) if answered == id => return Ok(value),
                    Some((answered, Err(reason))) if answered == id => {
                        return Err(QmpError::Refused { command, reason });
                    }
                    // Late, or not asked for.
                    Some(_) => {}
                }
            }
        };
        tokio::time::timeout(limit, work)
            .await
            .unwrap_or(Err(QmpError::Timeout {
                command,
                after: limit,
            }))
    }

    /// Whether QEMU has stopped the machine because a write to a disk found no room.
    pub(super) fn watch_starved(&self) -> watch::Receiver<bool> {
        self.starved.subscribe()
    }

    /// Notes what was so before anybody was connected.
    pub(super) fn is_starved(&self) {
        self.starved.send_replace(true);
    }

    /// Holds the reason QEMU gave for stopping once it did, and keeps it after the connection.
    pub(super) fn watch_shutdown(&self) -> watch::Receiver<Option<Shutdown>> {
        self.shutdown.clone()
    }
}

async fn read_loop(
    mut reader: impl AsyncBufRead + Unpin,
    answered: mpsc::Sender<(u64, Result<Value, String>)>,
    ended: watch::Sender<Option<Shutdown>>,
    starved: Arc<watch::Sender<bool>>,
) {
    loop {
        let message = match read_message(&mut reader).await {
            Ok(Some(message)) => message,
            Ok(None) | Err(_) => return,
        };
        let word = |key| message.data.get(key).and_then(Value::as_str);
        match message.event.as_deref() {
            Some("SHUTDOWN") => {
                let reason = word("reason").unwrap_or_default();
                ended.send_replace(Some(Shutdown::from_reason(reason)));
            }
            // By default QEMU stops for want of room, and tells the guest of every other error.
            Some("BLOCK_IO_ERROR") if word("action") == Some("stop") => {
                starved.send_replace(true);
            }
            Some("RESUME") => {
                starved.send_replace(false);
            }
            _ => {}
        }
        let (Some(id), answer) = (
            message.id,
            match message.error {
                Some(error) => Err(error.desc),
                None => Ok(message.result.unwrap_or_default()),
            },
        ) else {
            continue;
        };
        // With nobody waiting it is dropped, so answers nobody asked for cannot pile up or stop
        // the events.
        let _ = answered.try_send((id, answer));
    }
}

/// One line as a message; `None` at the end of the stream.
async fn read_message(
    reader: &mut (impl AsyncBufRead + Unpin),
) -> Result<Option<Message>, QmpError> {
    let mut line = Vec::new();
    loop {
        let available = reader.fill_buf().await.map_err(QmpError::Io)?;
        if available.is_empty() {
            return Ok(None);
        }
        let (chunk, complete) = match memchr_newline(available) {
            Some(position) => (position + 1, true),
            None => (available.len(), false),
        };
        if line.len() + chunk > LINE_LIMIT {
            return Err(QmpError::Protocol("a line without end"));
        }
        line.extend_from_slice(&available[..chunk]);
        reader.consume(chunk);
        if complete {
            break;
        }
    }
    serde_json::from_slice(&line)
        .map(Some)
        .map_err(|_| QmpError::Protocol("a line that is no message"))
}

fn memchr_newline(bytes: &[u8]) -> Option<usize> {
    bytes.iter().position(|byte| *byte == b'\n')
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::DuplexStream;

    const LIMIT: Duration = Duration::from_millis(300);
    const GREETING: &str = "{\"QMP\": {\"version\": {}, \"capabilities\": []}}\n";

    /// Connects to a peer that first sends `script` and then answers each line by `answer`.
    async fn against(
        script: &'static str,
        answer: fn(&str) -> String,
    ) -> Result<(Qmp, JoinHandle<()>), QmpError> {
        let (ours, theirs): (DuplexStream, DuplexStream) = tokio::io::duplex(1 << 20);
        tokio::spawn(async move {
            let (reader, mut writer) = tokio::io::split(theirs);
            let _ = writer.write_all(script.as_bytes()).await;
            let mut lines = BufReader::new(reader).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                if writer.write_all(answer(&line).as_bytes()).await.is_err() {
                    return;
                }
            }
        });
        let (reader, writer) = tokio::io::split(ours);
        Qmp::connect(reader, writer, LIMIT).await
    }

    fn polite(line: &str) -> String {
        let command: Value = serde_json::from_str(line).unwrap();
        let id = &command["id"];
        match command["execute"].as_str().unwrap() {
            "qmp_capabilities" => format!("{{\"return\": {{}}, \"id\": {id}}}\n"),
            "query-name" => format!(
                "{{\"event\": \"NICE\", \"data\": {{}}}}\n{{\"return\": {{}}, \"id\": 9999}}\n{{\"return\": {{\"name\": \"x\"}}, \"id\": {id}}}\n"
            ),
            "stop" => format!(
                "{{\"event\": \"SHUTDOWN\", \"data\": {{\"guest\": true, \"reason\": \"guest-reset\"}}}}\n{{\"return\": {{}}, \"id\": {id}}}\n"
            ),
            "silent" => String::new(),
            _ => format!(
                "{{\"error\": {{\"class\": \"X\", \"desc\": \"no such command\"}}, \"id\": {id}}}\n"
            ),
        }
    }

    #[tokio::test]
    async fn a_polite_peer() {
        let (qmp, _reading) = against(GREETING, polite).await.unwrap();
        assert_eq!(*qmp.watch_shutdown().borrow(), None);
        assert_eq!(qmp.execute("query-name", LIMIT).await.unwrap()["name"], "x");
        let refused = qmp.execute("nonsense", LIMIT).await.unwrap_err();
        assert_eq!(
            refused.to_string(),
            "QEMU refused nonsense: no such command"
        );
        let silent = qmp
            .execute("silent", Duration::from_millis(20))
            .await
            .unwrap_err();
        assert!(matches!(silent, QmpError::Timeout { .. }), "{silent}");
        qmp.execute("stop", LIMIT).await.unwrap();
        assert_eq!(*qmp.watch_shutdown().borrow(), Some(Shutdown::GuestReset));
    }

    #[tokio::test]
    async fn hostile_peers_are_left() {
        let endless: &'static str = Box::leak("x".repeat(LINE_LIMIT + 1).into_boxed_str());
        let scripts = [
            "",
            "{}\n",
            "\n",
            "not json\n",
            "[1, 2]\n",
            "{\"QMP\": null}\n",
            "\"QMP\"\n",
            endless,
        ];
        for script in scripts {
            assert!(against(script, polite).await.is_err(), "{script:.40}");
        }
        // Negotiation refused.
        let refuse = |_: &str| "{\"error\": {\"desc\": \"no\"}, \"id\": 1}\n".to_owned();
        assert!(against(GREETING, refuse).await.is_err());
    }

    #[tokio::test]
    async fn unasked_answers_neither_pile_up_nor_hide_events() {
        let flood = |line: &str| {
            let mut text = "{\"return\": {}, \"id\": 77}\n".repeat(5000);
            text.push_str(
                "{\"event\": \"SHUTDOWN\", \"data\": {\"reason\": \"guest-shutdown\"}}\n",
            );
            text.push_str(&polite(line));
            text
        };
        let (qmp, _reading) = match against(GREETING, flood).await {
            Ok(connected) => connected,
            // Our answer may be among the dropped: then the connection is given up, in bounds.
            Err(error) => {
                assert!(matches!(error, QmpError::Timeout { .. }), "{error}");
                return;
            }
        };
        assert_eq!(
            *qmp.watch_shutdown().borrow(),
            Some(Shutdown::GuestPowerOff)
        );
    }

    #[tokio::test]
    async fn a_closed_socket_ends_everything() {
        let (ours, mut theirs) = tokio::io::duplex(1 << 16);
        theirs.write_all(GREETING.as_bytes()).await.unwrap();
        theirs
            .write_all(b"{\"return\": {}, \"id\": 1}\n")
            .await
            .unwrap();
        let (reader, writer) = tokio::io::split(ours);
        let (qmp, reading) = Qmp::connect(reader, writer, LIMIT).await.unwrap();
        drop(theirs);
        reading.await.unwrap();
        assert!(qmp.execute("stop", LIMIT).await.is_err());
    }

    #[tokio::test]
    async fn a_machine_that_waits_for_room_is_known() {
        let answer = |line: &str| {
            let id = serde_json::from_str::<Value>(line).unwrap()["id"].clone();
            let event = if line.contains("cont") {
                "{\"event\": \"RESUME\"}"
            } else if line.contains("stop") {
                "{\"event\": \"BLOCK_IO_ERROR\", \"data\": {\"action\": \"stop\", \"nospace\": true}}"
            } else {
                "{\"event\": \"BLOCK_IO_ERROR\", \"data\": {\"action\": \"report\"}}"
            };
            format!("{event}\n{{\"return\": {{}}, \"id\": {id}}}\n")
        };
        let (qmp, _reading) = against(GREETING, answer).await.unwrap();
        let starved = qmp.watch_starved();
        assert!(!*starved.borrow(), "an error that the guest is told of");
        qmp.execute("stop", LIMIT).await.unwrap();
        assert!(*starved.borrow());
        qmp.execute("cont", LIMIT).await.unwrap();
        assert!(!*starved.borrow());
    }
}

//! Processes on a terminal.

use banger_protocol::agent::{ProcessSpec, Terminal};
use banger_protocol::exec::{ExitStatus, Frame};
use bytes::Bytes;

use crate::{Client, booted, shell};

#[tokio::test]
async fn a_terminal_has_a_size_and_is_in_control() {
    let host = booted().await;
    let spec = ProcessSpec {
        terminal: Some(Terminal {
            rows: 33,
            columns: 101,
            term: Some("vt100".into()),
        }),
        stdin: true,
        ..shell(
            "trap 'stty size; exit 7' WINCH; stty size; echo $TERM; tty >/dev/tty; while :; do sleep 0.05; done",
        )
    };
    let mut client = Client::exec(&host, spec).await;
    client.until(|client| client.text().contains("/dev/")).await;
    assert!(
        client.text().starts_with("33 101\r\nvt100\r\n"),
        "{:?}",
        client.text()
    );
    client
        .send(Frame::Resize {
            rows: 5,
            columns: 6,
        })
        .await;
    assert_eq!(client.exit().await, ExitStatus::Code(7));
    assert!(client.text().ends_with("5 6\r\n"), "{:?}", client.text());
}

#[tokio::test]
async fn a_terminal_takes_the_keys() {
    let host = booted().await;
    let spec = || ProcessSpec {
        terminal: Some(Terminal {
            rows: 24,
            columns: 80,
            term: None,
        }),
        stdin: true,
        ..shell("stty -echo; echo ready; cat; echo over")
    };
    // End of file ends cat; Ctrl-C ends all.
    let mut client = Client::exec(&host, spec()).await;
    client.until(|client| client.text().contains("ready")).await;
    client.feed(Bytes::from_static(b"line\n")).await;
    assert_eq!(client.exit().await, ExitStatus::Code(0));
    assert_eq!(client.text(), "ready\r\nline\r\nover\r\n");
    let mut client = Client::exec(&host, spec()).await;
    client.until(|client| client.text().contains("ready")).await;
    // Once cat answers: a shell that is about to become cat may lose the signal.
    client
        .send(Frame::Stdin(Bytes::from_static(b"line\n")))
        .await;
    client
        .until(|client| client.text().contains("ready\r\nline\r\n"))
        .await;
    client.send(Frame::Stdin(Bytes::from_static(b"\x03"))).await;
    assert_eq!(client.exit().await, ExitStatus::Signal(2));
}

/// As a pipe's: whoever reads on reads it again.
#[tokio::test]
async fn the_end_of_stdin_stays_the_end_on_a_terminal() {
    let host = booted().await;
    for script in [
        "cat; cat; echo over",
        // What is typed ahead is lost, as readline does it when a shell starts.
        "sleep 0.1; stty -icanon; dd bs=1 count=1 of=/dev/null 2>&1; stty icanon; cat; echo over",
    ] {
        let spec = ProcessSpec {
            terminal: Some(Terminal {
                rows: 24,
                columns: 80,
                term: None,
            }),
            stdin: true,
            ..shell(script)
        };
        let mut client = Client::exec(&host, spec).await;
        client.send(Frame::StdinEof).await;
        assert_eq!(client.exit().await, ExitStatus::Code(0));
        assert!(client.text().ends_with("over\r\n"), "{:?}", client.text());
    }
}

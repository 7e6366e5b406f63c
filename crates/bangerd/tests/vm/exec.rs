//! Exec and main: clients, guests, lost links and lost daemons.

use std::time::Duration;

use crate::vm_support::guest::Client;
use crate::vm_support::{World, create, have_mke2fs, until_state, wait_for};
use banger_protocol::api::exec::{ExecRequest, TerminalSize};
use banger_protocol::api::vm::{LogQuery, MainState, VmState, WaitFor};
use banger_protocol::bytes::ByteString;
use banger_protocol::error::ErrorKind;
use banger_protocol::exec::{ExitStatus, Frame};
use bangerd::exec::JoinEnd;
use bangerd::operation::Context;
use bangerd::vm::Vms;
use bytes::Bytes;
use futures_util::StreamExt;

fn words(words: &[&str]) -> Vec<ByteString> {
    words
        .iter()
        .map(|word| ByteString(word.as_bytes().to_vec()))
        .collect()
}

fn request(command: &[&str]) -> ExecRequest {
    ExecRequest {
        command: words(command),
        stdin: true,
        ..ExecRequest::default()
    }
}

async fn start(world: &World) -> (Vms, String) {
    let vms = world.open().await;
    let vm = create(&vms, world.new_vm("web")).await.unwrap();
    (vms, vm.id.to_string())
}

async fn log(vms: &Vms, query: LogQuery) -> String {
    let pieces: Vec<_> = vms.logs("web", query).await.unwrap().collect().await;
    let bytes: Vec<u8> = pieces
        .into_iter()
        .flat_map(|piece| piece.unwrap())
        .collect();
    String::from_utf8(bytes).unwrap()
}

#[tokio::test]
async fn output_status_and_defaults_arrive() {
    if !have_mke2fs() {
        return;
    }
    let world = World::new();
    let vms = world.open().await;
    let mut new = world.new_vm("web");
    new.image.config.env = vec!["A=image".to_owned()];
    new.image.config.user = "app".to_owned();
    new.env = vec![ByteString(b"B=vm".to_vec())];
    create(&vms, new).await.unwrap();

    let exec = vms.exec("web", request(&["print", "hello"])).await.unwrap();
    assert_eq!(exec.generation, 1);
    let (mut client, joined) = Client::join(exec);
    assert!(matches!(client.next().await, Some(Frame::Started { .. })));
    assert_eq!(
        client.rest().await,
        (b"hello".to_vec(), Some(ExitStatus::Code(0)))
    );
    assert_eq!(client.next().await, None);
    assert_eq!(joined.await.unwrap(), JoinEnd::Exited);

    let mut describe = request(&["describe"]);
    describe.terminal = Some(TerminalSize {
        rows: 24,
        columns: 80,
    });
    let (mut client, _) = Client::join(vms.exec("web", describe).await.unwrap());
    let (output, _) = client.rest().await;
    assert_eq!(
        String::from_utf8(output).unwrap(),
        r#"A=image,B=vm Some("app") true"#
    );

    for bad in [
        request(&["a\0b"]),
        request(&[""]),
        ExecRequest {
            env: words(&["NOVALUE"]),
            ..request(&["true"])
        },
        ExecRequest {
            workdir: Some(ByteString(b"relative".to_vec())),
            ..request(&["true"])
        },
    ] {
        let error = vms.exec("web", bad).await.err().unwrap();
        assert_eq!(error.kind, ErrorKind::InvalidArgument);
    }
    let error = vms.exec_attach("web", 99).await.err().unwrap();
    assert_eq!(error.kind, ErrorKind::NotFound);
}

#[tokio::test]
async fn megabytes_and_half_closes_pass() {
    if !have_mke2fs() {
        return;
    }
    let world = World::new();
    let (vms, _) = start(&world).await;
    let (mut client, joined) = Client::join(vms.exec("web", request(&["cat"])).await.unwrap());
    assert!(matches!(client.next().await, Some(Frame::Started { .. })));
    let piece = Bytes::from((0..20_000u32).map(|n| n as u8).collect::<Vec<_>>());
    let mut echoed = 0;
    for _ in 0..200 {
        client.send(Frame::Stdin(piece.clone())).await;
        let mut got = Vec::new();
        while got.len() < piece.len() {
            got.extend_from_slice(&client.output().await);
        }
        assert!(got == piece);
        echoed += got.len();
    }
    assert_eq!(echoed, 4_000_000);
    client.send(Frame::StdinEof).await;
    assert_eq!(client.rest().await.1, Some(ExitStatus::Code(0)));
    assert_eq!(joined.await.unwrap(), JoinEnd::Exited);
}

#[tokio::test]
async fn a_client_that_hangs_up_ends_what_it_ran() {
    if !have_mke2fs() {
        return;
    }
    let world = World::new();
    let (vms, id) = start(&world).await;
    let (mut client, joined) = Client::join(vms.exec("web", request(&["wait"])).await.unwrap());
    let Some(Frame::Started { exec, .. }) = client.next().await else {
        panic!("not started")
    };
    drop(client);
    assert_eq!(joined.await.unwrap(), JoinEnd::HungUp);
    let process = world.guests.of(&id).process(exec);
    let ended = async {
        while process.status().is_none() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), ended)
        .await
        .unwrap();
    assert_eq!(process.status(), Some(ExitStatus::Signal(1)));
    let received = process.received.lock().unwrap().clone();
    assert_eq!(received, [Frame::Hangup]);
}

#[tokio::test]
async fn a_client_that_breaks_the_rules_is_ended_and_its_frame_not_passed_on() {
    if !have_mke2fs() {
        return;
    }
    let world = World::new();
    let (vms, id) = start(&world).await;
    let (mut client, joined) = Client::join(vms.exec("web", request(&["wait"])).await.unwrap());
    let Some(Frame::Started { exec, .. }) = client.next().await else {
        panic!("not started")
    };
    client.send(Frame::Stdout(Bytes::from_static(b"x"))).await;
    assert_eq!(joined.await.unwrap(), JoinEnd::Violation);
    assert_eq!(client.next().await, None);
    let process = world.guests.of(&id).process(exec);
    let ended = async {
        while process.status().is_none() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), ended)
        .await
        .unwrap();
    assert_eq!(*process.received.lock().unwrap(), [Frame::Hangup]);
}

#[tokio::test]
async fn a_lost_link_is_a_pause() {
    if !have_mke2fs() {
        return;
    }
    let world = World::new();
    let (vms, id) = start(&world).await;
    let (mut client, joined) = Client::join(vms.exec("web", request(&["cat"])).await.unwrap());
    let Some(Frame::Started { exec, .. }) = client.next().await else {
        panic!("not started")
    };
    let guest = world.guests.of(&id);
    let process = guest.process(exec);
    for round in 0..5 {
        process.print(format!("before {round}").as_bytes());
        assert_eq!(
            client.output().await,
            format!("before {round}").into_bytes()
        );
        guest.cut_link();
        let parted = async {
            while process.is_joined() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), parted)
            .await
            .unwrap();
        process.print(format!("during {round}").as_bytes());
        assert_eq!(
            client.output().await,
            format!("during {round}").into_bytes()
        );
        client
            .send(Frame::Stdin(Bytes::from_static(b"typed")))
            .await;
        assert_eq!(client.output().await, b"typed");
    }
    assert_eq!(vms.show("web").await.unwrap().state, VmState::Running);
    client.send(Frame::StdinEof).await;
    assert_eq!(client.rest().await.1, Some(ExitStatus::Code(0)));
    assert_eq!(joined.await.unwrap(), JoinEnd::Exited);
}

#[tokio::test]
async fn the_end_of_the_machine_ends_the_connection_without_a_status() {
    if !have_mke2fs() {
        return;
    }
    let world = World::new();
    let (vms, id) = start(&world).await;
    let (mut client, joined) = Client::join(vms.exec("web", request(&["wait"])).await.unwrap());
    client.next().await;
    world.guests.of(&id).power_off();
    assert_eq!(client.rest().await, (Vec::new(), None));
    assert_eq!(joined.await.unwrap(), JoinEnd::GuestGone);
    until_state(&vms, "web", VmState::Stopped).await;
}

#[tokio::test]
async fn a_new_daemon_adopts_and_execs_went_on() {
    if !have_mke2fs() {
        return;
    }
    let world = World::new();
    let (vms, id) = start(&world).await;
    let (mut client, _joined) = Client::join(vms.exec("web", request(&["cat"])).await.unwrap());
    let Some(Frame::Started { exec, .. }) = client.next().await else {
        panic!("not started")
    };
    let before = vms.show("web").await.unwrap();
    let process = world.guests.of(&id).process(exec);
    // A crash: nobody says anything to the guest.
    _joined.abort();
    let _ = _joined.await;
    drop(vms);
    let vms = world.open().await;
    let after = vms.show("web").await.unwrap();
    assert_eq!(
        (after.state, &after.machine),
        (VmState::Running, &before.machine)
    );
    assert_eq!(after.started_at, before.started_at);
    process.print(b"meanwhile");
    let listed = vms.execs("web").await.unwrap();
    assert_eq!((listed[0].id, listed[0].exited), (exec, false));
    let (mut client, joined) = Client::join(vms.exec_attach("web", exec).await.unwrap());
    assert_eq!(client.output().await, b"meanwhile");
    client.send(Frame::StdinEof).await;
    assert_eq!(client.rest().await.1, Some(ExitStatus::Code(0)));
    joined.await.unwrap();
    let (mut client, _) = Client::join(vms.exec("web", request(&["print", "new"])).await.unwrap());
    assert_eq!(client.rest().await.0, b"new");
    vms.delete("web", &Context::detached()).await.unwrap();
    world.assert_empty();
}

#[tokio::test]
async fn a_machine_that_ended_unseen_is_told_by_what_is_left() {
    if !have_mke2fs() {
        return;
    }
    let world = World::new();
    let (vms, id) = start(&world).await;
    drop(vms);
    world.guests.of(&id).power_off();
    let vms = world.open().await;
    let vm = vms.show("web").await.unwrap();
    assert_eq!(vm.state, VmState::Stopped);
    assert!(vm.note.unwrap().contains("not known"));
    vms.start("web", &Context::detached()).await.unwrap();
    drop(vms);
    let jail = world.vms_directory().join(&id).join("jail");
    std::fs::write(jail.join("vmm.log"), "qemu: fatal: no memory\n").unwrap();
    world.guests.of(&id).power_off();
    let vms = world.open().await;
    let vm = vms.show("web").await.unwrap();
    assert_eq!(vm.state, VmState::Failed);
    assert!(vm.failure.unwrap().message.contains("no memory"));
    vms.delete("web", &Context::detached()).await.unwrap();
    world.assert_empty();
}

#[tokio::test]
async fn main_is_the_machines_process_and_a_client_only_attaches() {
    if !have_mke2fs() {
        return;
    }
    let world = World::new();
    let (vms, id) = start(&world).await;
    let (mut client, joined) = Client::join(vms.main("web", request(&["wait"])).await.unwrap());
    client.next().await;
    let main = world.guests.of(&id).main();
    main.print(b"one\n");
    assert_eq!(client.output().await, b"one\n");
    // A second client joins what runs rather than starting anything.
    drop(client);
    assert_eq!(joined.await.unwrap(), JoinEnd::HungUp);
    assert_eq!(main.status(), None);
    let (mut client, joined) = Client::join(vms.main("web", request(&["other"])).await.unwrap());
    main.print(b"two\n");
    let mut seen = Vec::new();
    while !seen.ends_with(b"two\n") {
        seen.extend(client.output().await);
    }
    let shown = vms.show("web").await.unwrap().main.unwrap();
    assert_eq!(
        (shown.command, shown.state),
        (words(&["wait"]), MainState::Running)
    );
    client.send(Frame::Signal(2)).await;
    assert_eq!(client.rest().await.1, Some(ExitStatus::Signal(2)));
    joined.await.unwrap();
    assert_eq!(wait_for(&vms, "web", WaitFor::Main).await, Some(130));
    let query = LogQuery::default();
    let logged = async {
        while log(&vms, query).await != "one\ntwo\n" {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), logged)
        .await
        .unwrap();
    let tail = LogQuery {
        tail: Some(1),
        ..query
    };
    assert_eq!(log(&vms, tail).await, "two\n");
}

#[tokio::test]
async fn the_log_is_whole_over_lost_links_and_lost_daemons() {
    if !have_mke2fs() {
        return;
    }
    let world = World::new();
    let vms = world.open().await;
    let mut new = world.new_vm("web");
    new.main = Some(banger_protocol::api::vm::MainSpec {
        command: words(&["wait"]),
    });
    let id = create(&vms, new).await.unwrap().id.to_string();
    let guest = world.guests.of(&id);
    let main = guest.main();
    let mut expected = String::new();
    let mut vms = vms;
    for round in 0..6 {
        let line = format!("line {round} {}\n", "x".repeat(20_000));
        main.print(line.as_bytes());
        expected += &line;
        match round % 3 {
            0 => guest.cut_link(),
            1 => {
                drop(vms);
                let line = format!("unseen {round}\n");
                main.print(line.as_bytes());
                expected += &line;
                vms = world.open().await;
            }
            _ => {}
        }
    }
    let whole = async {
        while log(&vms, LogQuery::default()).await.len() < expected.len() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), whole)
        .await
        .unwrap();
    assert!(log(&vms, LogQuery::default()).await == expected);
    // A follower is told all, and ends with the VM.
    let followed = log(
        &vms,
        LogQuery {
            follow: true,
            tail: Some(0),
            ..LogQuery::default()
        },
    );
    let ending = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        main.print(b"last words\n");
        vms.stop("web", None, &Context::detached()).await.unwrap();
    };
    let (followed, ()) = tokio::join!(followed, ending);
    assert_eq!(followed, "last words\n");
}

#[tokio::test]
async fn an_ephemeral_vm_waits_for_whoever_reads_its_output() {
    if !have_mke2fs() {
        return;
    }
    let world = World::new();
    let vms = world.open().await;
    let mut new = world.new_vm("web");
    new.ephemeral = true;
    let id = create(&vms, new.clone()).await.unwrap().id.to_string();
    let exec = vms.main("web", request(&["wait"])).await.unwrap();
    let main = world.guests.of(&id).main();
    for _ in 0..20 {
        main.print(&[b'x'; 10_000]);
    }
    main.end(ExitStatus::Code(7));
    wait_for(&vms, "web", WaitFor::Main).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(vms.show("web").await.unwrap().state, VmState::Running);
    let (mut client, joined) = Client::join(exec);
    let (output, status) = client.rest().await;
    assert_eq!((output.len(), status), (200_000, Some(ExitStatus::Code(7))));
    joined.await.unwrap();
    // Where it was gone before the wait began, nobody knows it any more.
    let code = wait_for(&vms, "web", WaitFor::Deleted).await;
    assert!(matches!(code, None | Some(7)), "{code:?}");
    world.assert_empty();

    // After a new daemon, too: its main ended while none lived.
    let id = create(&vms, new).await.unwrap().id.to_string();
    drop(vms.main("web", request(&["wait"])).await.unwrap());
    let main = world.guests.of(&id).main();
    drop(vms);
    main.end(ExitStatus::Code(0));
    let vms = world.open().await;
    wait_for(&vms, "web", WaitFor::Deleted).await;
    world.assert_empty();
}

/// Joined clients, however many, leave the guest able to be asked.
#[tokio::test]
async fn execs_leave_room_for_questions() {
    if !have_mke2fs() {
        return;
    }
    let world = World::new();
    let vms = world.open().await;
    create(&vms, world.new_vm("web")).await.unwrap();
    let mut joined = Vec::new();
    let error = loop {
        match vms.exec("web", request(&["sleep"])).await {
            Ok(exec) => joined.push(exec),
            Err(error) => break error,
        }
        assert!(joined.len() < 1000);
    };
    assert_eq!(error.kind, ErrorKind::TooLarge, "{error}");
    assert!(joined.len() >= 256, "{}", joined.len());
    assert!(vms.health("web").await.unwrap().healthy);
    joined.pop();
    joined.push(vms.exec("web", request(&["sleep"])).await.unwrap());
    let stopped = vms.stop("web", None, &Context::detached()).await.unwrap();
    assert_eq!((stopped.state, stopped.note), (VmState::Stopped, None));
    vms.delete("web", &Context::detached()).await.unwrap();
}

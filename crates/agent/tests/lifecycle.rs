//! Containers from creation to removal.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[allow(dead_code, reason = "each test program uses its own part")]
mod support;

use hull_agent_api::failure::{self, Reason};
use support::{Guest, Setup, container, context, unique};
use ttrpc::Code;

fn code(error: &ttrpc::Error) -> Code {
    match error {
        ttrpc::Error::RpcStatus(status) => status.code(),
        other => panic!("not a status: {other}"),
    }
}

#[tokio::test]
async fn output_and_exit_code_come_back() {
    let Some(guest) = Guest::start().await else {
        return;
    };
    let outcome = guest
        .run(&Setup::shell("echo out; echo err >&2; exit 7"))
        .await;
    assert_eq!(outcome.status, 7);
    assert_eq!(outcome.stdout, "out\n");
    assert_eq!(outcome.stderr, "err\n");
    assert_eq!(outcome.wait.stdout_bytes, 4);
    assert_eq!(outcome.wait.stderr_bytes, 4);
    assert!(!outcome.wait.oom_killed);
    assert!(outcome.wait.exited_at_ns > 0);
}

#[tokio::test]
async fn input_reaches_the_process_and_ends() {
    let Some(guest) = Guest::start().await else {
        return;
    };
    let text = "line\n".repeat(100_000);
    let outcome = guest
        .run(&Setup::new(&["/bin/cat"]).stdin(text.as_bytes()))
        .await;
    assert_eq!(outcome.status, 0);
    assert!(outcome.stdout == text, "{} bytes", outcome.stdout.len());
    assert_eq!(outcome.wait.stdout_bytes, text.len() as u64);
}

#[tokio::test]
async fn a_signal_from_within_is_128_and_its_number() {
    let Some(guest) = Guest::start().await else {
        return;
    };
    // The first process of a PID namespace is safe from its own signals: a child of it is not.
    let setup = Setup::shell("sh -c 'kill -9 $$'; exit $?");
    assert_eq!(guest.run(&setup).await.status, 137);
}

#[tokio::test]
async fn a_missing_program_fails_at_creation() {
    let Some(guest) = Guest::start().await else {
        return;
    };
    for name in ["nothing", "/bin/nothing", "/data/text/x"] {
        let error = guest.try_run(&Setup::new(&[name])).await.unwrap_err();
        assert_eq!(
            failure::reason(&error),
            Some(Reason::COMMAND_NOT_FOUND),
            "{error}"
        );
        assert!(error.to_string().contains(name), "{error}");
    }
}

#[tokio::test]
async fn a_program_that_cannot_be_run_fails_at_creation() {
    let Some(guest) = Guest::start().await else {
        return;
    };
    for name in ["/data/text", "/data"] {
        let error = guest.try_run(&Setup::new(&[name])).await.unwrap_err();
        assert_eq!(
            failure::reason(&error),
            Some(Reason::COMMAND_NOT_EXECUTABLE),
            "{error}"
        );
    }
}

#[tokio::test]
async fn what_the_kernel_refuses_fails_at_start() {
    let Some(guest) = Guest::start().await else {
        return;
    };
    for (name, reason) in [
        ("/bin/foreign", Reason::COMMAND_NOT_EXECUTABLE),
        ("/bin/broken", Reason::COMMAND_NOT_FOUND),
    ] {
        let error = guest.try_run(&Setup::new(&[name])).await.unwrap_err();
        assert_eq!(failure::reason(&error), Some(reason), "{error}");
    }
}

#[tokio::test]
async fn a_failed_creation_leaves_the_id_free() {
    let Some(guest) = Guest::start().await else {
        return;
    };
    let id = unique("again");
    let bad = Setup::new(&["/nothing"]);
    guest.create(&id, &bad).await.err().unwrap();
    guest
        .create(&id, &Setup::new(&["/bin/true"]))
        .await
        .unwrap();
    guest.start_container(&id).await.unwrap();
    assert_eq!(guest.wait(&id, "").await.exit_status, 0);
    guest.remove(&id).await.unwrap();
}

#[tokio::test]
async fn calls_in_the_wrong_state_are_refused() {
    let Some(guest) = Guest::start().await else {
        return;
    };
    let id = unique("state");
    let error = guest.start_container(&id).await.unwrap_err();
    assert_eq!(code(&error), Code::NOT_FOUND);
    let _ends = guest.create(&id, &Setup::new(&["/bin/cat"])).await.unwrap();
    let error = guest.create(&id, &Setup::new(&["/bin/cat"])).await;
    assert_eq!(code(&error.err().unwrap()), Code::ALREADY_EXISTS);
    guest.start_container(&id).await.unwrap();
    let error = guest.start_container(&id).await.unwrap_err();
    assert_eq!(code(&error), Code::FAILED_PRECONDITION);
    let error = guest.remove(&id).await.unwrap_err();
    assert_eq!(code(&error), Code::FAILED_PRECONDITION);
    guest.signal(&id, "", 9).await.unwrap();
    assert_eq!(guest.wait(&id, "").await.exit_status, 137);
    let error = guest.signal(&id, "", 9).await.unwrap_err();
    assert_eq!(code(&error), Code::NOT_FOUND);
    guest.remove(&id).await.unwrap();
    let error = guest.remove(&id).await.unwrap_err();
    assert_eq!(code(&error), Code::NOT_FOUND);
}

#[tokio::test]
async fn a_process_can_be_added_before_the_start() {
    let Some(guest) = Guest::start().await else {
        return;
    };
    let id = unique("early");
    let _ends = guest.create(&id, &Setup::new(&["/bin/cat"])).await.unwrap();
    let added = guest.run_exec(&id, &Setup::shell("exit 5")).await.unwrap();
    assert_eq!(added.status, 5);
    guest.kill_all(&id).await;
    guest.wait(&id, "").await;
    guest.remove(&id).await.unwrap();
}

#[tokio::test]
async fn a_container_that_was_not_started_can_be_killed() {
    let Some(guest) = Guest::start().await else {
        return;
    };
    let id = unique("created");
    let _ends = guest
        .create(&id, &Setup::new(&["/bin/true"]))
        .await
        .unwrap();
    guest.kill_all(&id).await;
    assert_eq!(guest.wait(&id, "").await.exit_status, 137);
    guest.remove(&id).await.unwrap();
}

#[tokio::test]
async fn bad_requests_are_refused() {
    let Some(guest) = Guest::start().await else {
        return;
    };
    let setup = Setup::new(&["/bin/true"]);
    for id in ["", "../x", "a/b"] {
        let error = guest.create(id, &setup).await.err().unwrap();
        assert_eq!(code(&error), Code::INVALID_ARGUMENT, "{id:?}");
    }
    let mut request = hull_agent_api::agent::CreateContainerRequest::new();
    request.container_id = unique("bad");
    request.spec = b"{".to_vec();
    let error = guest.client.create_container(context(), &request).await;
    assert_eq!(code(&error.unwrap_err()), Code::INVALID_ARGUMENT);
    request.spec = setup.spec_json(&guest.root);
    request.stdio.mut_or_insert_default().stdout = "abc".to_owned();
    let error = guest.client.create_container(context(), &request).await;
    assert_eq!(code(&error.unwrap_err()), Code::NOT_FOUND);
}

#[tokio::test]
async fn exec_runs_beside_init() {
    let Some(guest) = Guest::start().await else {
        return;
    };
    let id = unique("exec");
    let ends = guest.launch(&id, &Setup::new(&["/bin/cat"])).await.unwrap();
    let outcome = guest
        .run_exec(&id, &Setup::shell("echo $$ > /tmp/pid; hostname; exit 5"))
        .await
        .unwrap();
    assert_eq!((outcome.status, outcome.stdout.as_str()), (5, "box\n"));
    let error = guest.run_exec(&id, &Setup::new(&["nothing"])).await;
    assert_eq!(
        failure::reason(&error.unwrap_err()),
        Some(Reason::COMMAND_NOT_FOUND)
    );
    let error = guest.run_exec(&id, &Setup::new(&["/bin/foreign"])).await;
    assert_eq!(
        failure::reason(&error.unwrap_err()),
        Some(Reason::COMMAND_NOT_EXECUTABLE)
    );
    drop(ends);
    guest.kill_all(&id).await;
    guest.wait(&id, "").await;
    guest.remove(&id).await.unwrap();
}

#[tokio::test]
async fn a_process_is_killed_alone() {
    let Some(guest) = Guest::start().await else {
        return;
    };
    let id = unique("kill");
    let ends = guest.launch(&id, &Setup::new(&["/bin/cat"])).await.unwrap();
    let exec = guest
        .exec(&id, "sleeper", &Setup::new(&["/bin/sleep", "1000"]))
        .await
        .unwrap();
    guest.signal(&id, "sleeper", 15).await.unwrap();
    assert_eq!(guest.wait(&id, "sleeper").await.exit_status, 143);
    drop(exec);
    // Init is still there to answer.
    let (out, _) = ends.exchange(b"alive").await;
    assert_eq!(out, "alive");
    assert_eq!(guest.wait(&id, "").await.exit_status, 0);
    guest.remove(&id).await.unwrap();
}

#[tokio::test]
async fn a_paused_container_answers_when_it_is_resumed() {
    let Some(guest) = Guest::start().await else {
        return;
    };
    let id = unique("pause");
    let ends = guest.launch(&id, &Setup::new(&["/bin/cat"])).await.unwrap();
    let request = container(&id);
    guest
        .client
        .pause_container(context(), &request)
        .await
        .unwrap();
    let error = guest.run_exec(&id, &Setup::new(&["/bin/true"])).await;
    assert_eq!(code(&error.unwrap_err()), Code::FAILED_PRECONDITION);
    guest
        .client
        .resume_container(context(), &request)
        .await
        .unwrap();
    assert_eq!(ends.exchange(b"back").await.0, "back");
    guest.wait(&id, "").await;
    guest.remove(&id).await.unwrap();
}

#[tokio::test]
async fn processes_are_listed_and_counted() {
    let Some(guest) = Guest::start().await else {
        return;
    };
    let id = unique("list");
    let setup = Setup::shell("sleep 1000 & echo ready; cat; true");
    let mut ends = guest.launch(&id, &setup).await.unwrap();
    let mut ready = [0; 6];
    tokio::io::AsyncReadExt::read_exact(&mut ends.stdout, &mut ready)
        .await
        .unwrap();
    let listed = guest
        .client
        .list_processes(context(), &container(&id))
        .await
        .unwrap();
    // cat may still be on its way.
    assert!(listed.pids.len() >= 2, "{:?}", listed.pids);
    let stats = guest
        .client
        .container_stats(context(), &container(&id))
        .await
        .unwrap();
    assert!(!stats.metrics.is_empty());
    guest.kill_all(&id).await;
    guest.wait(&id, "").await;
    guest.remove(&id).await.unwrap();
}

#[tokio::test]
async fn many_containers_at_once() {
    let Some(guest) = Guest::start().await else {
        return;
    };
    let runs = (0..24).map(|number| {
        let guest = &guest;
        async move {
            let script = format!("echo {number}; (exit 9) & wait; exit {number}");
            let outcome = guest.run(&Setup::shell(&script)).await;
            assert_eq!(outcome.status, number);
            assert_eq!(outcome.stdout, format!("{number}\n"));
        }
    });
    join_all(runs).await;
}

#[tokio::test]
async fn many_processes_in_one_container() {
    let Some(guest) = Guest::start().await else {
        return;
    };
    let id = unique("crowd");
    let ends = guest.launch(&id, &Setup::new(&["/bin/cat"])).await.unwrap();
    let runs = (0..24).map(|number| {
        let (guest, id) = (&guest, &id);
        async move {
            let setup = Setup::shell(&format!("cat; exit {number}")).stdin(b"echo");
            let outcome = guest.run_exec(id, &setup).await.unwrap();
            assert_eq!((outcome.status, outcome.stdout.as_str()), (number, "echo"));
        }
    });
    join_all(runs).await;
    ends.exchange(b"").await;
    guest.wait(&id, "").await;
    guest.remove(&id).await.unwrap();
}

async fn join_all(futures: impl Iterator<Item = impl Future<Output = ()>>) {
    let mut pending: Vec<_> = futures.map(Box::pin).collect();
    std::future::poll_fn(|context| {
        pending.retain_mut(|future| future.as_mut().poll(context).is_pending());
        if pending.is_empty() {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
}

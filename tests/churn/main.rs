//! Pods that come and go, some at a time, while what they consist of is killed under them, and containerd
//! too: every call is answered, whoever is not hit goes on, everything can be removed, nothing is left.

mod fault;
mod life;
mod node;

use std::cell::RefCell;
use std::rc::Rc;

use harness::containerd::Containerd;
use harness::random::Random;
use tokio::task::{JoinSet, LocalSet};

use fault::{Plan, plans};
use node::Node;

/// How many pods go through.
const PODS: usize = 20;
/// How many there are at a time, besides the one that stays.
const WORKERS: usize = 3;
/// After how many pods containerd is killed, each time.
const RESTARTS: [usize; 2] = [6, 13];

/// Chooses what is hit, and when. `HULL_TEST_SEED` sets another one.
fn seed() -> u64 {
    harness::number("HULL_TEST_SEED", 1)
}

/// Leads one pod after the other.
async fn work(node: Rc<Node>, queue: Rc<RefCell<impl Iterator<Item = (usize, Plan)>>>) {
    loop {
        let next = queue.borrow_mut().next();
        let Some((number, plan)) = next else { return };
        life::lead(&node, number, &plan).await;
    }
}

#[tokio::test]
async fn pods_come_and_go_while_what_they_consist_of_is_killed() {
    let seed = seed();
    println!("seed {seed}");
    let mut containerd = Containerd::new();
    let node = Rc::new(Node::of(&containerd).await);
    let stays = node.cri().run_pod("stays").await;
    let container = node.cri().run(&stays, "c", &["sleep", "10000"]).await;
    let boot = ["cat", "/proc/sys/kernel/random/boot_id"];
    let booted = node.cri().exec(&container, &boot).await.ok();

    let plans = plans(&mut Random(seed), PODS).into_iter().enumerate();
    let queue = Rc::new(RefCell::new(plans));
    let mut workers = JoinSet::new();
    let local = LocalSet::new();
    for _ in 0..WORKERS {
        workers.spawn_local_on(work(Rc::clone(&node), Rc::clone(&queue)), &local);
    }
    let all_pods = async {
        while let Some(worker) = workers.join_next().await {
            worker.expect("its pods went as they should");
        }
    };
    let restarts = async {
        for pods in RESTARTS {
            node.kill_after(pods, &mut containerd).await;
            assert_eq!(node.cri().exec(&container, &boot).await.ok(), booted);
        }
        std::future::pending().await
    };
    let all = async {
        tokio::select! {
            () = all_pods => {}
            () = restarts => {}
        }
    };
    local.run_until(all).await;

    assert_eq!(node.cri().exec(&container, &boot).await.ok(), booted);
    node.cri().remove_pod(&stays).await;
    containerd.assert_no_pods();
}

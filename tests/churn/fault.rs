//! What is killed of a pod, and when.

use std::time::Duration;

use harness::machine::{self, POD_PROCESS};
use harness::random::Random;

/// What is asked for at that time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moment {
    /// The pod.
    Run,
    /// A container.
    Create,
    /// Its start.
    Start,
    /// Nothing; it runs.
    Between,
    /// A command in it.
    Exec,
    /// Its end.
    StopContainer,
    /// The pod's end.
    StopPod,
}

const MOMENTS: [Moment; 7] = [
    Moment::Run,
    Moment::Create,
    Moment::Start,
    Moment::Between,
    Moment::Exec,
    Moment::StopContainer,
    Moment::StopPod,
];

/// What happens to a pod.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fault {
    /// The program that is killed.
    pub(crate) victim: &'static str,
    /// During what.
    pub(crate) moment: Moment,
    /// How long after the call was made. Nothing waits for anything by this: it only makes the call be hit
    /// at different points.
    pub(crate) delay: Duration,
}

/// What becomes of one pod.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    /// How many containers it has.
    pub(crate) containers: usize,
    /// What happens to it, if anything.
    pub(crate) fault: Option<Fault>,
}

/// Plans for `count` pods: two of three are hit, no two of them alike.
pub(crate) fn plans(random: &mut Random, count: usize) -> Vec<Plan> {
    // Each of these a pod cannot do without.
    let victims = machine::programs().into_iter().chain([POD_PROCESS]);
    let mut hits: Vec<_> = victims
        .flat_map(|victim| MOMENTS.map(|moment| (victim, moment)))
        .collect();
    let plan = |number: usize| Plan {
        containers: 1 + number % 2,
        fault: (!number.is_multiple_of(3)).then(|| {
            let (victim, moment) = random.choose(&mut hits);
            let longest = match moment {
                // While what a pod consists of is started, rather than while its guest boots.
                Moment::Run => 1 + random.below(1500),
                _ => 60,
            };
            Fault {
                victim,
                moment,
                delay: Duration::from_millis(random.below(longest)),
            }
        }),
    };
    (0..count).map(plan).collect()
}

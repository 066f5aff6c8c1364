//! What a container reaches over vsock: never the agent.

use harness::{Hull, debian};

/// Connects to a port of its own and the agent's over the loopback CID and the guest's own, speaks to the
/// agent as the host would, and prints what is answered.
const SPEAK: &str = r#"
    my %words = (1024 => pack("NNCCa*", 2, 1, 1, 0, "xx"), 1025 => "hull-stdio ab\n", 2000 => "");
    my ($own, $peer);
    socket($own, 40, 1, 0) && bind($own, pack("SSLLx4", 40, 0, 2000, 0xffffffff)) && listen($own, 8)
        or die "no server: $!\n";
    if (!fork) {
        while (accept($peer, $own)) { syswrite($peer, "own") }
    }
    for my $cid (1, 3) {
        for my $port (sort keys %words) {
            socket(my $agent, 40, 1, 0) or die "no socket: $!\n";
            my $answer = "";
            if (connect($agent, pack("SSLLx4", 40, 0, $port, $cid))) {
                syswrite($agent, $words{$port});
                sysread($agent, $answer, 64);
            }
            print "$cid:$port answers ", length($answer // ""), " bytes\n";
        }
    }
"#;

fn perl(hull: &Hull, options: &[&str], script: &str) -> harness::Outcome {
    let image = debian();
    let mut arguments = vec!["run", "--rm", "--network", "none"];
    arguments.extend(options);
    arguments.extend([image.as_str(), "perl", "-e", script]);
    hull.hull(arguments)
}

#[test]
fn the_agent_answers_no_container() {
    let hull = Hull::new();
    let only_its_own = "1:1024 answers 0 bytes\n1:1025 answers 0 bytes\n1:2000 answers 3 bytes\n\
                        3:1024 answers 0 bytes\n3:1025 answers 0 bytes\n3:2000 answers 3 bytes\n";
    for options in [
        &["--security-opt", "seccomp=unconfined"][..],
        &["--privileged"],
    ] {
        let outcome = perl(&hull, options, SPEAK);
        assert_eq!(outcome.ok(), only_its_own, "{options:?}");
    }
}

#[test]
fn a_container_makes_no_vsock_sockets_however_it_writes_the_family() {
    let hull = Hull::new();
    // 41 is SYS_socket. The kernel looks at the low 32 bits of a family only.
    let script = "for my $family (40, 40 | 1 << 32) { \
                  print syscall(41, $family, 1, 0) < 0 ? $! + 0 : 'made', qq(\\n) }";
    assert_eq!(perl(&hull, &[], script).ok(), "1\n1\n");
}

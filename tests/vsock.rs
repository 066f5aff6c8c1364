//! What a container reaches over vsock: never the agent.

use std::path::Path;
use std::process::Command;

use harness::{Hull, Outcome, debian};

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

fn perl(hull: &Hull, options: &[&str], script: &str) -> Outcome {
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

/// Compiles a 32-bit program that needs no C library.
fn compile(source: &str, program: &Path) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(source);
    let options =
        "-m32 -static -nostdlib -ffreestanding -fno-stack-protector -fno-pie -no-pie -Wall -Werror";
    let output = Command::new("cc")
        .args(options.split(' '))
        .args([&source, Path::new("-o"), program])
        .output();
    let _ = Outcome(output.expect("a C compiler")).ok();
}

#[test]
fn a_32_bit_program_has_its_sockets_and_reaches_nobody_by_vsock() {
    let hull = Hull::new();
    let dir = tempfile::tempdir().expect("a directory");
    compile("socketcall.c", &dir.path().join("program"));
    let volume = format!("{}:/tests", dir.path().display());
    let outcome = hull.run(&["-v", &volume], &["/tests/program"]);
    // The C library's way leads through `socketcall`, whose arguments no filter sees.
    let expected = "inet by socket: made\ninet by socketcall: made\nvsock by socket: error 1\n\
                    1:1024 is silent\n1:1025 is silent\n2:1024 is silent\n2:1025 is silent\n\
                    3:1024 is silent\n3:1025 is silent\n";
    assert_eq!(outcome.ok(), expected);
}

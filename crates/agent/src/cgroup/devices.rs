//! Which devices a container may use: a BPF program on its cgroup.
//!
//! The specification's rules are a list in which the last rule that matches decides, for each of
//! read, write and make by itself. The program tests the rules from the last to the first, keeps
//! the kinds of access that no rule has decided yet, and ends when one is refused or none is left.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use super::CgroupError;
use crate::spec::DeviceRule;
use crate::sys::{check, check_fd};

/// One BPF instruction, as the kernel lays it out.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Instruction {
    code: u8,
    /// Destination in the low, source in the high four bits.
    registers: u8,
    offset: i16,
    immediate: i32,
}

const _: () = assert!(size_of::<Instruction>() == 8);

const LOAD_WORD: u8 = 0x61;
const AND_IMMEDIATE: u8 = 0x54;
const SHIFT_RIGHT: u8 = 0x74;
const MOVE_REGISTER: u8 = 0xbc;
const MOVE_IMMEDIATE: u8 = 0xb7;
const JUMP_NOT_EQUAL: u8 = 0x56;
const JUMP_EQUAL: u8 = 0x16;
const EXIT: u8 = 0x95;

/// Registers: the result, the context, and what is loaded from it.
const RESULT: u8 = 0;
const CONTEXT: u8 = 1;
const KIND: u8 = 2;
const UNDECIDED: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;
const SCRATCH: u8 = 6;

/// BPF_DEVCG_ACC_* and BPF_DEVCG_DEV_*.
const ACCESS_MAKE: i32 = 1;
const ACCESS_READ: i32 = 2;
const ACCESS_WRITE: i32 = 4;
const ACCESS_ALL: i32 = ACCESS_MAKE | ACCESS_READ | ACCESS_WRITE;
const KIND_BLOCK: i32 = 1;
const KIND_CHARACTER: i32 = 2;

const PROGRAM_LOAD: libc::c_long = 5;
const PROGRAM_ATTACH: libc::c_long = 8;
const PROGRAM_TYPE_CGROUP_DEVICE: u32 = 15;
const ATTACH_TYPE_CGROUP_DEVICE: u32 = 6;

/// A rule with numbers for names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rule {
    allow: bool,
    kind: Option<i32>,
    major: Option<i32>,
    minor: Option<i32>,
    access: i32,
}

const fn allowed(kind: i32, major: Option<i32>, minor: Option<i32>, access: i32) -> Rule {
    Rule {
        allow: true,
        kind: Some(kind),
        major,
        minor,
        access,
    }
}

/// What every container may use, whatever its rules say: the devices that it gets, its terminals,
/// and the right to make nodes, which gives no access to what is behind them.
const ALWAYS: [Rule; 12] = [
    allowed(KIND_CHARACTER, None, None, ACCESS_MAKE),
    allowed(KIND_BLOCK, None, None, ACCESS_MAKE),
    allowed(KIND_CHARACTER, Some(1), Some(3), ACCESS_ALL),
    allowed(KIND_CHARACTER, Some(1), Some(5), ACCESS_ALL),
    allowed(KIND_CHARACTER, Some(1), Some(7), ACCESS_ALL),
    allowed(KIND_CHARACTER, Some(1), Some(8), ACCESS_ALL),
    allowed(KIND_CHARACTER, Some(1), Some(9), ACCESS_ALL),
    allowed(KIND_CHARACTER, Some(5), Some(0), ACCESS_ALL),
    allowed(KIND_CHARACTER, Some(5), Some(1), ACCESS_ALL),
    allowed(KIND_CHARACTER, Some(5), Some(2), ACCESS_ALL),
    allowed(KIND_CHARACTER, Some(136), None, ACCESS_ALL),
    allowed(KIND_CHARACTER, Some(10), Some(200), ACCESS_ALL),
];

/// Puts the rules into force for the cgroup at `path`, in place of earlier ones.
pub(super) fn restrict(path: &Path, rules: &[DeviceRule]) -> Result<(), CgroupError> {
    let mut parsed = rules
        .iter()
        .filter_map(|rule| parse(rule).transpose())
        .collect::<Result<Vec<_>, _>>()?;
    parsed.extend(ALWAYS);
    let program = compile(&parsed);
    install(path, &program).map_err(|source| CgroupError::Devices {
        path: path.to_owned(),
        source,
    })
}

/// Nothing when the rule says of no access that there is.
fn parse(rule: &DeviceRule) -> Result<Option<Rule>, CgroupError> {
    let kind = match rule.kind.as_str() {
        "c" | "u" => Some(KIND_CHARACTER),
        "b" => Some(KIND_BLOCK),
        "a" | "" => None,
        other => {
            return Err(CgroupError::Invalid {
                field: "devices type",
                value: other.to_owned(),
            });
        }
    };
    let number = |number: Option<i64>| match number.filter(|&number| number >= 0) {
        None => Ok(None),
        Some(number) => i32::try_from(number)
            .map(Some)
            .map_err(|_| CgroupError::Invalid {
                field: "devices number",
                value: number.to_string(),
            }),
    };
    let mut access = 0;
    for letter in rule.access.chars() {
        access |= match letter {
            'r' => ACCESS_READ,
            'w' => ACCESS_WRITE,
            'm' => ACCESS_MAKE,
            other => {
                log::warn!("devices: there is no access {other:?}: left out");
                0
            }
        };
    }
    if rule.access.is_empty() {
        access = ACCESS_ALL;
    }
    Ok((access != 0).then_some(Rule {
        allow: rule.allow,
        kind,
        major: number(rule.major)?,
        minor: number(rule.minor)?,
        access,
    }))
}

fn instruction(code: u8, destination: u8, source: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction {
        code,
        registers: destination | source << 4,
        offset,
        immediate,
    }
}

fn compile(rules: &[Rule]) -> Vec<Instruction> {
    // struct bpf_cgroup_dev_ctx: access << 16 | kind, major, minor.
    let mut program = vec![
        instruction(LOAD_WORD, KIND, CONTEXT, 0, 0),
        instruction(MOVE_REGISTER, UNDECIDED, KIND, 0, 0),
        instruction(AND_IMMEDIATE, KIND, 0, 0, 0xffff),
        instruction(SHIFT_RIGHT, UNDECIDED, 0, 0, 16),
        instruction(LOAD_WORD, MAJOR, CONTEXT, 4, 0),
        instruction(LOAD_WORD, MINOR, CONTEXT, 8, 0),
    ];
    for rule in rules.iter().rev() {
        program.extend(compile_rule(*rule));
    }
    // What no rule decided is refused.
    program.push(instruction(MOVE_IMMEDIATE, RESULT, 0, 0, 0));
    program.push(instruction(JUMP_NOT_EQUAL, UNDECIDED, 0, 1, 0));
    program.push(instruction(MOVE_IMMEDIATE, RESULT, 0, 0, 1));
    program.push(instruction(EXIT, 0, 0, 0, 0));
    program
}

fn compile_rule(rule: Rule) -> Vec<Instruction> {
    let verdict = if rule.allow {
        vec![
            instruction(AND_IMMEDIATE, UNDECIDED, 0, 0, !rule.access),
            instruction(JUMP_NOT_EQUAL, UNDECIDED, 0, 2, 0),
            instruction(MOVE_IMMEDIATE, RESULT, 0, 0, 1),
            instruction(EXIT, 0, 0, 0, 0),
        ]
    } else {
        vec![
            instruction(MOVE_REGISTER, SCRATCH, UNDECIDED, 0, 0),
            instruction(AND_IMMEDIATE, SCRATCH, 0, 0, rule.access),
            instruction(JUMP_EQUAL, SCRATCH, 0, 2, 0),
            instruction(MOVE_IMMEDIATE, RESULT, 0, 0, 0),
            instruction(EXIT, 0, 0, 0, 0),
        ]
    };
    let tests: Vec<(u8, i32)> = [(KIND, rule.kind), (MAJOR, rule.major), (MINOR, rule.minor)]
        .into_iter()
        .filter_map(|(register, wanted)| wanted.map(|wanted| (register, wanted)))
        .collect();
    let mut code = Vec::new();
    for (index, (register, wanted)) in tests.iter().enumerate() {
        // Past the tests that are left and the verdict: a dozen instructions at most.
        let skip = i16::try_from(tests.len() - index - 1 + verdict.len()).unwrap_or(i16::MAX);
        code.push(instruction(JUMP_NOT_EQUAL, *register, 0, skip, *wanted));
    }
    code.extend(verdict);
    code
}

/// The start of `union bpf_attr` for loading a program; the rest is zero.
#[repr(C)]
struct LoadAttributes {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buffer: u64,
}

/// The same for attaching one.
#[repr(C)]
struct AttachAttributes {
    target: u32,
    program: u32,
    kind: u32,
    /// 0: the only program of this cgroup, which takes the place of an earlier one.
    flags: u32,
}

fn install(path: &Path, program: &[Instruction]) -> io::Result<()> {
    let attributes = LoadAttributes {
        kind: PROGRAM_TYPE_CGROUP_DEVICE,
        count: u32::try_from(program.len()).map_err(io::Error::other)?,
        instructions: program.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log_buffer: 0,
    };
    // SAFETY: the attributes have the size given; instructions and licence live through the call,
    // which only reads them.
    let loaded: OwnedFd = check_fd(unsafe {
        libc::syscall(
            libc::SYS_bpf,
            PROGRAM_LOAD,
            &raw const attributes,
            size_of::<LoadAttributes>(),
        )
    })?;
    let cgroup = File::open(path)?;
    let attributes = AttachAttributes {
        target: cgroup.as_raw_fd().cast_unsigned(),
        program: loaded.as_fd().as_raw_fd().cast_unsigned(),
        kind: ATTACH_TYPE_CGROUP_DEVICE,
        flags: 0,
    };
    // SAFETY: the attributes have the size given and name open descriptors.
    check(unsafe {
        libc::syscall(
            libc::SYS_bpf,
            PROGRAM_ATTACH,
            &raw const attributes,
            size_of::<AttachAttributes>(),
        )
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(allow: bool, kind: &str, major: i64, minor: i64, access: &str) -> Rule {
        parse(&DeviceRule {
            allow,
            kind: kind.to_owned(),
            major: Some(major),
            minor: Some(minor),
            access: access.to_owned(),
        })
        .unwrap()
        .unwrap()
    }

    /// Runs a program as the kernel would, for one access.
    fn run(program: &[Instruction], kind: i32, major: i32, minor: i32, access: i32) -> bool {
        let context = [access << 16 | kind, major, minor];
        let mut registers = [0_i32; 7];
        let mut at = 0_usize;
        loop {
            let i = program[at];
            let destination = usize::from(i.registers & 15);
            let source = usize::from(i.registers >> 4);
            at += 1;
            let jump = match i.code {
                LOAD_WORD => {
                    let index = usize::try_from(i.offset / 4).unwrap();
                    registers[destination] = context[index];
                    false
                }
                MOVE_REGISTER => {
                    registers[destination] = registers[source];
                    false
                }
                MOVE_IMMEDIATE => {
                    registers[destination] = i.immediate;
                    false
                }
                AND_IMMEDIATE => {
                    registers[destination] &= i.immediate;
                    false
                }
                SHIFT_RIGHT => {
                    registers[destination] >>= i.immediate;
                    false
                }
                JUMP_EQUAL => registers[destination] == i.immediate,
                JUMP_NOT_EQUAL => registers[destination] != i.immediate,
                EXIT => return registers[0] == 1,
                code => panic!("unknown instruction {code:#x}"),
            };
            if jump {
                at += usize::try_from(i.offset).unwrap();
            }
        }
    }

    #[test]
    fn nothing_is_allowed_without_a_rule() {
        assert!(!run(&compile(&[]), KIND_CHARACTER, 1, 3, ACCESS_READ));
    }

    #[test]
    fn the_last_matching_rule_decides() {
        let rules = [
            rule(false, "a", -1, -1, "rwm"),
            rule(true, "b", 8, -1, "rw"),
            rule(false, "b", 8, 1, "w"),
        ];
        let program = compile(&rules);
        assert!(run(&program, KIND_BLOCK, 8, 0, ACCESS_READ | ACCESS_WRITE));
        assert!(run(&program, KIND_BLOCK, 8, 1, ACCESS_READ));
        assert!(!run(&program, KIND_BLOCK, 8, 1, ACCESS_READ | ACCESS_WRITE));
        assert!(!run(&program, KIND_BLOCK, 9, 0, ACCESS_READ));
        assert!(!run(&program, KIND_CHARACTER, 8, 0, ACCESS_READ));
        assert!(!run(&program, KIND_BLOCK, 8, 0, ACCESS_MAKE));
    }

    #[test]
    fn two_rules_may_allow_one_access_together() {
        let rules = [rule(true, "c", 4, 4, "r"), rule(true, "c", 4, 4, "w")];
        assert!(run(
            &compile(&rules),
            KIND_CHARACTER,
            4,
            4,
            ACCESS_READ | ACCESS_WRITE
        ));
    }

    #[test]
    fn a_privileged_container_may_use_all() {
        let program = compile(&[rule(true, "a", -1, -1, "rwm")]);
        assert!(run(&program, KIND_BLOCK, 254, 3, ACCESS_ALL));
    }

    #[test]
    fn the_usual_devices_are_always_there() {
        let mut rules = vec![rule(false, "a", -1, -1, "rwm")];
        rules.extend(ALWAYS);
        let program = compile(&rules);
        assert!(run(&program, KIND_CHARACTER, 1, 3, ACCESS_ALL));
        assert!(run(&program, KIND_CHARACTER, 136, 7, ACCESS_READ));
        assert!(run(&program, KIND_BLOCK, 8, 0, ACCESS_MAKE));
        assert!(!run(&program, KIND_CHARACTER, 1, 1, ACCESS_READ));
    }

    #[test]
    fn nonsense_is_refused() {
        let bad = DeviceRule {
            kind: "x".to_owned(),
            ..DeviceRule::default()
        };
        assert!(matches!(parse(&bad), Err(CgroupError::Invalid { .. })));
    }

    #[test]
    fn an_access_that_there_is_not_changes_nothing() {
        let program = compile(&[
            rule(true, "c", 1, 11, "rx"),
            rule(false, "c", 1, 11, "wa"),
            rule(true, "c", 1, 12, ""),
        ]);
        assert!(run(&program, KIND_CHARACTER, 1, 11, ACCESS_READ));
        assert!(!run(&program, KIND_CHARACTER, 1, 11, ACCESS_WRITE));
        assert!(run(&program, KIND_CHARACTER, 1, 12, ACCESS_ALL));
        let none = DeviceRule {
            access: "a".to_owned(),
            ..DeviceRule::default()
        };
        assert!(parse(&none).unwrap().is_none());
    }
}

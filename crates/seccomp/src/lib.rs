//! Seccomp filters: from the rules of an OCI specification to a program that the kernel loads.
//!
//! Compiling a profile of some hundred system calls for three instruction sets takes libseccomp tens of
//! milliseconds, so it is done on the host, while the guest boots. The guest gets the program.

mod library;

use std::io;

use library::{Builder, Condition};
use oci_spec::runtime::{
    LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag,
};

/// Why rules could not be compiled.
#[derive(Debug, thiserror::Error)]
pub enum SeccompError {
    /// The rules ask for what a guest cannot give.
    #[error("not supported: {0} of a seccomp profile")]
    Unsupported(&'static str),
    /// A rule makes no sense.
    #[error("the seccomp profile has an invalid {field}: {value:?}")]
    Invalid {
        /// Which part of the rule.
        field: &'static str,
        /// What it says.
        value: String,
    },
    /// libseccomp refused.
    #[error("cannot {action} the seccomp filter")]
    Library {
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        source: io::Error,
    },
}

/// A program with the flags that it is to be loaded with (seccomp(2)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// Instructions: `struct sock_filter` one after the other, 8 bytes each.
    pub instructions: Vec<u8>,
    /// `SECCOMP_FILTER_FLAG_*`.
    pub flags: u64,
}

/// Compiles a specification's `linux.seccomp`.
///
/// Names of system calls that libseccomp does not know are left out, as runc does: they are newer than
/// it, or of another architecture.
///
/// # Errors
/// When the rules need a listener on the host, or are malformed.
pub fn compile(seccomp: &LinuxSeccomp) -> Result<Program, SeccompError> {
    if seccomp.listener_path().is_some() {
        return Err(SeccompError::Unsupported("the listener"));
    }
    let default = action(seccomp.default_action(), seccomp.default_errno_ret())?;
    let builder = Builder::new(default)?;
    for architecture in seccomp.architectures().iter().flatten() {
        builder.add_architecture(&architecture.to_string())?;
    }
    let mut highest = 0;
    for rule in seccomp.syscalls().iter().flatten() {
        let rule_action = action(rule.action(), rule.errno_ret())?;
        let alternatives = alternatives(rule.args().as_deref().unwrap_or_default())?;
        for name in rule.names() {
            let Some(number) = library::system_call(name)? else {
                continue;
            };
            highest = highest.max(number);
            if rule_action == default {
                continue;
            }
            for conditions in &alternatives {
                builder.add_rule(rule_action, number, conditions)?;
            }
        }
    }
    let mut instructions = Vec::new();
    if let Ok(highest) = u32::try_from(highest)
        && refuses(default)
    {
        instructions.extend(unknown_calls(library::native_architecture(), highest).as_flattened());
    }
    instructions.extend(builder.export()?);
    Ok(Program {
        instructions,
        flags: flags(seccomp.flags().as_deref().unwrap_or_default()),
    })
}

/// An action's number with its return value.
fn action(action: LinuxSeccompAction, errno: Option<u32>) -> Result<u32, SeccompError> {
    match action {
        LinuxSeccompAction::ScmpActNotify => Err(SeccompError::Unsupported("SCMP_ACT_NOTIFY")),
        other => Ok(other.as_u32(errno.map(|value| value & 0xffff))),
    }
}

fn flags(flags: &[LinuxSeccompFilterFlag]) -> u64 {
    flags
        .iter()
        .map(|flag| match flag {
            LinuxSeccompFilterFlag::SeccompFilterFlagLog => libc::SECCOMP_FILTER_FLAG_LOG,
            LinuxSeccompFilterFlag::SeccompFilterFlagTsync => libc::SECCOMP_FILTER_FLAG_TSYNC,
            LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => {
                libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW
            }
            // Means something for a listener only.
            LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => 0,
        })
        .fold(0, |all, flag| all | flag)
}

/// Whether calls that no rule names are refused.
fn refuses(default: u32) -> bool {
    const ACTION: u32 = 0xffff_0000;
    matches!(
        default & ACTION,
        libc::SECCOMP_RET_KILL_PROCESS
            | libc::SECCOMP_RET_KILL_THREAD
            | libc::SECCOMP_RET_TRAP
            | libc::SECCOMP_RET_ERRNO
    )
}

/// libseccomp takes one condition for each argument and joins them by "and"; several conditions on
/// one argument mean "or" and become rules of their own.
fn alternatives(arguments: &[LinuxSeccompArg]) -> Result<Vec<Vec<Condition>>, SeccompError> {
    let conditions = arguments
        .iter()
        .map(|argument| {
            let index = argument.index();
            Ok(Condition {
                argument: u32::try_from(index).map_err(|_| SeccompError::Invalid {
                    field: "argument index",
                    value: index.to_string(),
                })?,
                operator: argument.op(),
                value: argument.value(),
                second: argument.value_two().unwrap_or_default(),
            })
        })
        .collect::<Result<Vec<_>, SeccompError>>()?;
    let repeated = (1..conditions.len()).any(|at| {
        let same = |other: &Condition| other.argument == conditions[at].argument;
        conditions[..at].iter().any(same)
    });
    Ok(match repeated {
        true => conditions
            .into_iter()
            .map(|condition| vec![condition])
            .collect(),
        false => vec![conditions],
    })
}

/// Answers calls newer than any that the rules name with ENOSYS, so that a C library falls back to
/// an older call instead of taking the refusal for a lack of rights.
fn unknown_calls(native: u32, highest: u32) -> [[u8; 8]; 6] {
    /// First number of x86's x32 calls, which are told from the usual ones by this bit.
    const X32_BIT: u32 = 0x4000_0000;
    const LOAD: u16 = 0x20;
    const JUMP_EQUAL: u16 = 0x15;
    const JUMP_GREATER: u16 = 0x25;
    const JUMP_GREATER_EQUAL: u16 = 0x35;
    const RETURN: u16 = 0x06;
    const ARCH_OFFSET: u32 = 4;
    const NUMBER_OFFSET: u32 = 0;
    [
        instruction(LOAD, 0, 0, ARCH_OFFSET),
        instruction(JUMP_EQUAL, 0, 4, native),
        instruction(LOAD, 0, 0, NUMBER_OFFSET),
        instruction(JUMP_GREATER_EQUAL, 2, 0, X32_BIT),
        instruction(JUMP_GREATER, 0, 1, highest),
        instruction(
            RETURN,
            0,
            0,
            libc::SECCOMP_RET_ERRNO | libc::ENOSYS.cast_unsigned(),
        ),
    ]
}

/// One instruction: what to do, where to go on if so and if not, and an operand.
fn instruction(code: u16, if_so: u8, if_not: u8, operand: u32) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..2].copy_from_slice(&code.to_ne_bytes());
    (bytes[2], bytes[3]) = (if_so, if_not);
    bytes[4..].copy_from_slice(&operand.to_ne_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn compiled(profile: Value) -> Result<Program, SeccompError> {
        compile(&serde_json::from_value(profile).unwrap())
    }

    fn instructions(program: &Program) -> Vec<[u8; 8]> {
        let (instructions, rest) = program.instructions.as_chunks::<8>();
        assert!(rest.is_empty());
        instructions.to_vec()
    }

    /// "Return ENOSYS."
    fn refusal() -> [u8; 8] {
        instruction(0x06, 0, 0, 0x0005_0026)
    }

    #[test]
    fn a_profile_compiles() {
        let program = compiled(json!({
            "defaultAction": "SCMP_ACT_ERRNO",
            "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
            "flags": ["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW"],
            "syscalls": [
                {"names": ["read", "no_such_call"], "action": "SCMP_ACT_ALLOW"},
                {"names": ["write"], "action": "SCMP_ACT_ERRNO"},
            ],
        }))
        .unwrap();
        let all = instructions(&program);
        assert!(all.len() > 6);
        // The prefix that answers ENOSYS comes first.
        assert_eq!(all[5], refusal());
        assert_eq!(program.flags, 6);
    }

    #[test]
    fn an_allowing_default_needs_no_prefix() {
        let program = compiled(json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO"}],
        }))
        .unwrap();
        assert!(!instructions(&program).contains(&refusal()));
    }

    #[test]
    fn what_needs_the_host_is_refused() {
        for profile in [
            json!({"defaultAction": "SCMP_ACT_NOTIFY"}),
            json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/run/x.sock"}),
            json!({"defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}]}),
        ] {
            let error = compiled(profile).unwrap_err();
            assert!(matches!(error, SeccompError::Unsupported(_)), "{error}");
        }
    }

    #[test]
    fn an_argument_that_no_call_has_is_an_error() {
        let error = compiled(json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO",
                "args": [{"index": 6, "value": 1, "op": "SCMP_CMP_EQ"}]}],
        }))
        .unwrap_err();
        assert!(matches!(error, SeccompError::Library { .. }), "{error}");
    }

    #[test]
    fn conditions_on_one_argument_are_alternatives() {
        let argument = |index| {
            serde_json::from_value(json!({"index": index, "value": 1, "op": "SCMP_CMP_EQ"}))
                .unwrap()
        };
        assert_eq!(alternatives(&[argument(0), argument(1)]).unwrap().len(), 1);
        assert_eq!(alternatives(&[argument(0), argument(0)]).unwrap().len(), 2);
        assert_eq!(alternatives(&[]).unwrap().len(), 1);
    }
}

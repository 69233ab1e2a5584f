//! What an ELF file says about itself: for which machine it is, which loader it asks for, which libraries it needs.
//!
//! Only program headers are read, since section headers may have been stripped. Any bytes are answered with facts
//! or with a [`Reason`], never with a panic.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use object::Endianness;
use object::elf::{self, FileHeader32, FileHeader64};
use object::read::elf::{Dyn as _, FileHeader, ProgramHeader as _};
use object::read::{ReadCache, ReadRef, StringTable};

/// A machine architecture that Linux containers run on, as Go, OCI and Kubernetes name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Architecture {
    /// x86-64.
    Amd64,
    /// 64-bit Arm.
    Arm64,
    /// 32-bit Arm.
    Arm,
    /// 32-bit x86.
    I386,
    /// 64-bit RISC-V.
    Riscv64,
    /// 64-bit POWER, little-endian.
    Ppc64le,
    /// 64-bit z/Architecture.
    S390x,
}

impl Architecture {
    const ALL: [(Architecture, &'static str); 7] = [
        (Architecture::Amd64, "amd64"),
        (Architecture::Arm64, "arm64"),
        (Architecture::Arm, "arm"),
        (Architecture::I386, "386"),
        (Architecture::Riscv64, "riscv64"),
        (Architecture::Ppc64le, "ppc64le"),
        (Architecture::S390x, "s390x"),
    ];

    /// E.g. `amd64`: the value of a node's label `kubernetes.io/arch`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        Self::ALL.iter().find(|(architecture, _)| *architecture == self).map_or("", |(_, name)| name)
    }

    /// From [`Architecture::as_str`]'s names.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, known)| *known == name).map(|(architecture, _)| *architecture)
    }

    /// The directory name that Debian and its kin put this architecture's libraries under, below `/lib`.
    #[must_use]
    pub fn multiarch(self) -> &'static str {
        match self {
            Architecture::Amd64 => "x86_64-linux-gnu",
            Architecture::Arm64 => "aarch64-linux-gnu",
            Architecture::Arm => "arm-linux-gnueabihf",
            Architecture::I386 => "i386-linux-gnu",
            Architecture::Riscv64 => "riscv64-linux-gnu",
            Architecture::Ppc64le => "powerpc64le-linux-gnu",
            Architecture::S390x => "s390x-linux-gnu",
        }
    }

    fn of(machine: u16, is_64: bool, little: bool) -> Option<Self> {
        match (machine, is_64, little) {
            (elf::EM_X86_64, true, true) => Some(Architecture::Amd64),
            (elf::EM_AARCH64, true, true) => Some(Architecture::Arm64),
            (elf::EM_ARM, false, true) => Some(Architecture::Arm),
            (elf::EM_386, false, true) => Some(Architecture::I386),
            (elf::EM_RISCV, true, true) => Some(Architecture::Riscv64),
            (elf::EM_PPC64, true, true) => Some(Architecture::Ppc64le),
            (elf::EM_S390, true, false) => Some(Architecture::S390x),
            _ => None,
        }
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a file cannot be run in a Linux container. Completes `PATH cannot run in a Linux container: …`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// The file cannot be read.
    #[error("it cannot be read: {0}")]
    Io(String),
    /// Something else than ELF.
    #[error("it is {0}, not an ELF file")]
    NotElf(&'static str),
    /// ELF, but damaged.
    #[error("it is a damaged ELF file: {0}")]
    Damaged(String),
    /// ELF for another system.
    #[error("it is made for another system than Linux (ELF OS ABI {0})")]
    OtherSystem(u8),
    /// ELF for a machine that no Linux container runs on.
    #[error("it is made for a machine that is not known here (ELF machine {0})")]
    OtherMachine(u16),
    /// An object file or a core dump.
    #[error("it is an ELF file that is not a program")]
    NotAProgram,
    /// A library of the closure is not to be found on this machine.
    #[error("it needs the library {name}, which is in none of {}", display(.searched))]
    LibraryMissing {
        /// The library's name, as it is asked for.
        name: String,
        /// Where it was looked for.
        searched: Vec<PathBuf>,
    },
}

fn display(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

/// A program or a shared library.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Elf {
    /// The machine it is made for.
    pub architecture: Architecture,
    /// The loader that it asks for (`PT_INTERP`); absent if it is linked statically, or is a library.
    pub interpreter: Option<PathBuf>,
    /// The name that a library wants to be known by (`DT_SONAME`).
    pub soname: Option<OsString>,
    /// The libraries that it needs (`DT_NEEDED`), in order.
    pub needed: Vec<OsString>,
    /// Where they are looked for before anything else (`DT_RPATH`), unexpanded.
    pub rpath: Vec<OsString>,
    /// Where its own are looked for after `LD_LIBRARY_PATH` (`DT_RUNPATH`), unexpanded.
    pub runpath: Vec<OsString>,
}

impl Elf {
    /// Reads a file. Only the parts that are needed are read from the disk.
    ///
    /// # Errors
    /// It is not an ELF program or library for Linux.
    pub fn open(path: &Path) -> Result<Self, Reason> {
        let file = File::open(path).map_err(|error| Reason::Io(error.to_string()))?;
        if !file.metadata().map_err(|error| Reason::Io(error.to_string()))?.is_file() {
            return Err(Reason::Io("it is not a file".into()));
        }
        Self::read(&ReadCache::new(file))
    }

    /// Reads bytes.
    ///
    /// # Errors
    /// As [`Elf::open`].
    pub fn read<'data, R: ReadRef<'data>>(data: R) -> Result<Self, Reason> {
        let magic = data.read_bytes_at(0, data.len().unwrap_or(0).min(6)).unwrap_or_default();
        match magic {
            [0x7f, b'E', b'L', b'F', elf::ELFCLASS64, _] => Self::parse::<FileHeader64<Endianness>, R>(data),
            [0x7f, b'E', b'L', b'F', elf::ELFCLASS32, _] => Self::parse::<FileHeader32<Endianness>, R>(data),
            [0x7f, b'E', b'L', b'F', ..] => Err(damaged("its header is cut off or of an unknown class")),
            _ => Err(Reason::NotElf(kind_of(magic))),
        }
    }

    fn parse<'data, H, R>(data: R) -> Result<Self, Reason>
    where
        H: FileHeader<Endian = Endianness>,
        R: ReadRef<'data>,
    {
        let header = H::parse(data).map_err(damaged)?;
        let endian = header.endian().map_err(damaged)?;
        let abi = header.e_ident().os_abi;
        if !matches!(abi, elf::ELFOSABI_SYSV | elf::ELFOSABI_GNU) {
            return Err(Reason::OtherSystem(abi));
        }
        if !matches!(header.e_type(endian), elf::ET_EXEC | elf::ET_DYN) {
            return Err(Reason::NotAProgram);
        }
        let machine = header.e_machine(endian);
        let architecture = Architecture::of(machine, header.is_class_64(), header.is_little_endian())
            .ok_or(Reason::OtherMachine(machine))?;
        let segments = header.program_headers(endian, data).map_err(damaged)?;

        let mut read = Elf {
            architecture,
            interpreter: None,
            soname: None,
            needed: Vec::new(),
            rpath: Vec::new(),
            runpath: Vec::new(),
        };
        let mut dynamic: &[H::Dyn] = &[];
        for segment in segments {
            if let Some(path) = segment.interpreter(endian, data).map_err(damaged)? {
                read.interpreter = Some(PathBuf::from(OsStr::from_bytes(path)));
            }
            if let Some(entries) = segment.dynamic(endian, data).map_err(damaged)? {
                dynamic = entries;
            }
        }
        let entries = || {
            let all = dynamic.iter().map(|entry| (entry.tag(endian), entry.val(endian)));
            all.take_while(|(tag, _)| *tag != elf::DT_NULL)
        };
        let value_of = |wanted| entries().find(|(tag, _)| *tag == wanted).map(|(_, value)| value);
        let strings = match (value_of(elf::DT_STRTAB), value_of(elf::DT_STRSZ)) {
            (Some(address), Some(size)) => {
                let start = file_offset::<H>(segments, endian, address)
                    .ok_or_else(|| damaged("its string table lies in no segment"))?;
                let end = start.checked_add(size).ok_or_else(|| damaged("its string table is too long"))?;
                StringTable::new(data, start, end)
            }
            _ => StringTable::default(),
        };
        for (tag, value) in entries() {
            if !matches!(tag, elf::DT_NEEDED | elf::DT_SONAME | elf::DT_RPATH | elf::DT_RUNPATH) {
                continue;
            }
            let offset = u32::try_from(value).map_err(|_| damaged("a string lies out of range"))?;
            let text = strings.get(offset).map_err(|()| damaged("a string lies outside the string table"))?;
            let text = OsStr::from_bytes(text);
            match tag {
                elf::DT_NEEDED => read.needed.push(text.to_owned()),
                elf::DT_SONAME => read.soname = Some(text.to_owned()),
                elf::DT_RPATH => read.rpath.extend(search_path(text)),
                _ => read.runpath.extend(search_path(text)),
            }
        }
        Ok(read)
    }
}

/// The parts of a search path: separated by colons, empty ones left out.
pub(super) fn search_path(text: &OsStr) -> impl Iterator<Item = OsString> {
    let parts = text.as_bytes().split(|byte| *byte == b':').filter(|part| !part.is_empty());
    parts.map(|part| OsStr::from_bytes(part).to_owned()).collect::<Vec<_>>().into_iter()
}

/// Where in the file the memory at `address` comes from.
fn file_offset<H: FileHeader<Endian = Endianness>>(
    segments: &[H::ProgramHeader],
    endian: Endianness,
    address: u64,
) -> Option<u64> {
    segments.iter().filter(|segment| segment.p_type(endian) == elf::PT_LOAD).find_map(|segment| {
        let start: u64 = segment.p_vaddr(endian).into();
        let size: u64 = segment.p_filesz(endian).into();
        let inside = address.checked_sub(start).filter(|inside| *inside < size)?;
        let offset: u64 = segment.p_offset(endian).into();
        offset.checked_add(inside)
    })
}

fn damaged(what: impl fmt::Display) -> Reason {
    Reason::Damaged(what.to_string())
}

fn kind_of(magic: &[u8]) -> &'static str {
    match magic {
        [0xcf | 0xce, 0xfa, 0xed, 0xfe, ..] | [0xca, 0xfe, 0xba, 0xbe, ..] => "a program for macOS (Mach-O)",
        [b'M', b'Z', ..] => "a program for Windows",
        [b'#', b'!', ..] => "a script",
        [] => "empty",
        _ => "something unknown",
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A minimal ELF file: one segment that holds everything, a loader, a dynamic section.
    pub(in crate::workload) struct Minimal<'a> {
        pub(in crate::workload) machine: u16,
        pub(in crate::workload) interpreter: Option<&'a str>,
        pub(in crate::workload) strings: Vec<(i64, &'a str)>,
    }

    impl Minimal<'_> {
        pub(in crate::workload) fn bytes(&self) -> Vec<u8> {
            let mut table = vec![0u8];
            let mut entries = Vec::new();
            for (tag, text) in &self.strings {
                entries.push((*tag, table.len() as u64));
                table.extend(text.as_bytes());
                table.push(0);
            }
            let headers = 64 + 3 * 56;
            let dynamic_size = (entries.len() as u64 + 3) * 16;
            let strings_at = headers + dynamic_size;
            let interpreter = self.interpreter.map(|path| [path.as_bytes(), &[0]].concat()).unwrap_or_default();
            let interpreter_at = strings_at + table.len() as u64;
            let total = interpreter_at + interpreter.len() as u64;
            let base = 0x40_0000u64;

            let mut file = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            for half in [elf::ET_DYN, self.machine] {
                file.extend(half.to_le_bytes());
            }
            file.extend(1u32.to_le_bytes());
            for word in [base + headers, 64, 0] {
                file.extend(word.to_le_bytes());
            }
            file.extend(0u32.to_le_bytes());
            for half in [64u16, 56, 3, 64, 0, 0] {
                file.extend(half.to_le_bytes());
            }
            let kind = if interpreter.is_empty() { elf::PT_NULL } else { elf::PT_INTERP };
            let segments = [
                (elf::PT_LOAD, 0, total),
                (kind, interpreter_at, interpreter.len() as u64),
                (elf::PT_DYNAMIC, headers, dynamic_size),
            ];
            for (kind, offset, size) in segments {
                file.extend(kind.to_le_bytes());
                file.extend(5u32.to_le_bytes());
                for word in [offset, base + offset, base + offset, size, size, 8] {
                    file.extend(word.to_le_bytes());
                }
            }
            let table_entries = [(elf::DT_STRTAB, base + strings_at), (elf::DT_STRSZ, table.len() as u64)];
            for (tag, value) in entries.into_iter().chain(table_entries).chain([(elf::DT_NULL, 0)]) {
                file.extend(tag.to_le_bytes());
                file.extend(value.to_le_bytes());
            }
            file.extend(table);
            file.extend(interpreter);
            file
        }
    }

    fn program() -> Vec<u8> {
        Minimal {
            machine: elf::EM_X86_64,
            interpreter: Some("/lib64/ld-linux-x86-64.so.2"),
            strings: vec![
                (elf::DT_NEEDED, "libone.so.1"),
                (elf::DT_NEEDED, "libc.so.6"),
                (elf::DT_RUNPATH, "$ORIGIN/../lib::/opt/lib"),
                (elf::DT_RPATH, "/r"),
                (elf::DT_SONAME, "libself.so.3"),
            ],
        }
        .bytes()
    }

    #[test]
    fn a_dynamic_program() {
        let elf = Elf::read(program().as_slice()).expect("readable");
        assert_eq!(
            elf,
            Elf {
                architecture: Architecture::Amd64,
                interpreter: Some("/lib64/ld-linux-x86-64.so.2".into()),
                soname: Some("libself.so.3".into()),
                needed: vec!["libone.so.1".into(), "libc.so.6".into()],
                rpath: vec!["/r".into()],
                runpath: vec!["$ORIGIN/../lib".into(), "/opt/lib".into()],
            }
        );
    }

    #[test]
    fn a_static_program_needs_nothing() {
        let bytes = Minimal { machine: elf::EM_AARCH64, interpreter: None, strings: vec![] }.bytes();
        let elf = Elf::read(bytes.as_slice()).expect("readable");
        assert_eq!((elf.architecture, elf.interpreter, elf.needed.len()), (Architecture::Arm64, None, 0));
    }

    #[test]
    fn what_cannot_run_says_why() {
        let changed = |at: usize, byte: u8| {
            let mut bytes = program();
            bytes[at] = byte;
            bytes
        };
        let cases: Vec<(Vec<u8>, &str)> = vec![
            (vec![], "it is empty, not an ELF file"),
            (vec![0xcf, 0xfa, 0xed, 0xfe, 7, 0, 0, 1], "it is a program for macOS (Mach-O), not an ELF file"),
            (b"MZ\x90\0\x03".to_vec(), "it is a program for Windows, not an ELF file"),
            (b"#!/bin/sh\n".to_vec(), "it is a script, not an ELF file"),
            (b"hello world".to_vec(), "it is something unknown, not an ELF file"),
            (b"\x7fELF".to_vec(), "it is a damaged ELF file: its header is cut off or of an unknown class"),
            (program()[..100].to_vec(), "it is a damaged ELF file: Invalid ELF program header size or alignment"),
            (changed(7, elf::ELFOSABI_FREEBSD), "it is made for another system than Linux (ELF OS ABI 9)"),
            (changed(16, 1), "it is an ELF file that is not a program"),
            (changed(18, 8), "it is made for a machine that is not known here (ELF machine 8)"),
        ];
        for (bytes, expected) in cases {
            let reason = Elf::read(bytes.as_slice()).expect_err(expected);
            assert_eq!(reason.to_string(), expected);
        }
    }

    #[test]
    fn this_very_program_is_read_the_same_from_disk_and_from_memory() {
        let path = std::env::current_exe().expect("a path");
        let elf = Elf::open(&path).expect("readable");
        assert_eq!(Ok(&elf), Elf::read(std::fs::read(&path).expect("bytes").as_slice()).as_ref());
        assert_eq!(Architecture::named(elf.architecture.as_str()), Some(elf.architecture));
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            prop_assert!(Elf::read(bytes.as_slice()).is_err());
        }

        #[test]
        fn a_damaged_program_never_panics(
            changes in proptest::collection::vec((0usize..420, any::<u8>()), 1..12),
            keep in 0usize..500,
        ) {
            let mut bytes = program();
            for (at, byte) in changes {
                if let Some(place) = bytes.get_mut(at) {
                    *place = byte;
                }
            }
            bytes.truncate(keep);
            // Either answer is right; reading past the end or looping would not be.
            let _ = Elf::read(bytes.as_slice());
        }
    }
}

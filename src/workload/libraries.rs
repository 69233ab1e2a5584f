//! The shared libraries that a program needs, found where its loader finds them on this machine.
//!
//! The order is glibc's (`man 8 ld.so`): `DT_RPATH`, `LD_LIBRARY_PATH`, `DT_RUNPATH`, the directories of
//! `/etc/ld.so.conf`, the default ones. For the running program what it has loaded comes before all of them: the
//! loader's own answer, read from `/proc/self/maps`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use crate::workload::elf::{Architecture, Elf, Reason, search_path};

/// A program and what it needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closure {
    /// The program.
    pub program: Elf,
    /// Its libraries: the place at which the loader looks (absolute) -> the file found there. The loader itself is
    /// not among them.
    pub libraries: BTreeMap<PathBuf, PathBuf>,
}

/// Where libraries are looked for.
#[derive(Debug, Clone, Default)]
pub struct Search {
    /// Libraries that are known already, by the name they are asked for.
    pub loaded: BTreeMap<OsString, PathBuf>,
    /// `LD_LIBRARY_PATH`.
    pub environment: Vec<PathBuf>,
    /// The directories of `/etc/ld.so.conf`, then the default ones.
    pub system: Vec<PathBuf>,
}

impl Search {
    /// As the loader of this machine does for `executable`.
    #[must_use]
    pub fn on_this_machine(executable: &Path, architecture: Architecture) -> Self {
        let itself = std::env::current_exe().and_then(fs::canonicalize).ok();
        let is_running = itself.is_some() && itself == fs::canonicalize(executable).ok();
        let environment = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
        let multiarch = architecture.multiarch();
        let mut system = configured(Path::new("/etc/ld.so.conf"), 0);
        system.extend([format!("/lib/{multiarch}"), format!("/usr/lib/{multiarch}")].map(PathBuf::from));
        system.extend(["/lib64", "/usr/lib64", "/lib", "/usr/lib"].map(PathBuf::from));
        Search {
            loaded: if is_running { loaded() } else { BTreeMap::new() },
            environment: search_path(&environment).map(PathBuf::from).collect(),
            system,
        }
    }
}

/// Finds everything that `executable` needs.
///
/// # Errors
/// It is no ELF program for Linux, or a library is not to be found.
pub fn closure(executable: &Path, search: &Search) -> Result<Closure, Reason> {
    let program = Elf::open(executable)?;
    let mut libraries = BTreeMap::new();
    let Some(interpreter) = program.interpreter.clone() else {
        // Linked statically: whatever it may name is never loaded.
        return Ok(Closure { program, libraries });
    };
    let mut known: BTreeSet<OsString> = interpreter.file_name().map(OsStr::to_owned).into_iter().collect();
    let loader_is_musl = interpreter.file_name().is_some_and(|name| name.as_bytes().starts_with(b"ld-musl"));
    let start = Object { file: executable.to_owned(), elf: program.clone(), inherited: Vec::new() };
    let mut open = VecDeque::from([start]);
    while let Some(object) = open.pop_front() {
        for name in &object.elf.needed {
            if !known.insert(name.clone()) || (loader_is_musl && is_in_musl(name)) {
                continue;
            }
            let (place, found) = object.find(name, &interpreter, search)?;
            let file = fs::canonicalize(&place).map_err(|error| Reason::Io(error.to_string()))?;
            // The same library under its own name needs no second copy.
            known.extend(found.soname.clone());
            libraries.insert(place_of(&place, name), file.clone());
            open.push_back(Object { file, elf: found, inherited: object.rpaths() });
        }
    }
    Ok(Closure { program, libraries })
}

/// A loaded object, while its libraries are looked for.
struct Object {
    file: PathBuf,
    elf: Elf,
    /// `DT_RPATH` of those that brought it, expanded.
    inherited: Vec<PathBuf>,
}

impl Object {
    /// `DT_RPATH` that applies to this object and to what it brings. One that has `DT_RUNPATH` has no `DT_RPATH`.
    fn rpaths(&self) -> Vec<PathBuf> {
        let own = if self.elf.runpath.is_empty() { self.expand(&self.elf.rpath) } else { Vec::new() };
        own.into_iter().chain(self.inherited.iter().cloned()).collect()
    }

    /// Replaces `$ORIGIN`. Paths with any other variable are left out.
    fn expand(&self, paths: &[OsString]) -> Vec<PathBuf> {
        let origin = self.file.parent().unwrap_or(Path::new("/")).as_os_str().as_bytes();
        let expand = |path: &OsString| {
            let path = path.as_bytes();
            let rest = path.strip_prefix(b"$ORIGIN").or_else(|| path.strip_prefix(b"${ORIGIN}"));
            let whole = rest.map_or(path.to_vec(), |rest| [origin, rest].concat());
            (!whole.contains(&b'$')).then(|| PathBuf::from(OsString::from_vec(whole)))
        };
        paths.iter().filter_map(expand).collect()
    }

    fn find(&self, name: &OsStr, interpreter: &Path, search: &Search) -> Result<(PathBuf, Elf), Reason> {
        // A library for another machine on the way is passed over, as the loader does.
        let fits = |path: PathBuf| {
            let elf = Elf::open(&path).ok().filter(|elf| elf.architecture == self.elf.architecture)?;
            Some((path, elf))
        };
        if name.as_bytes().contains(&b'/') {
            let missing = || Reason::LibraryMissing { name: name.to_string_lossy().into_owned(), searched: vec![] };
            return fits(PathBuf::from(name)).ok_or_else(missing);
        }
        if let Some(found) = search.loaded.get(name).cloned().and_then(fits) {
            return Ok(found);
        }
        let mut directories = if self.elf.runpath.is_empty() { self.rpaths() } else { Vec::new() };
        directories.extend(search.environment.iter().cloned());
        directories.extend(self.expand(&self.elf.runpath));
        directories.extend(search.system.iter().cloned());
        // Where a distribution has directories of its own (NixOS, Guix), its loader lies beside its libraries.
        directories.extend(fs::canonicalize(interpreter).ok().and_then(|path| path.parent().map(Path::to_owned)));
        directories.iter().find_map(|directory| fits(directory.join(name))).ok_or_else(|| {
            let mut seen = BTreeSet::new();
            directories.retain(|directory| seen.insert(directory.clone()));
            Reason::LibraryMissing { name: name.to_string_lossy().into_owned(), searched: directories }
        })
    }
}

/// The place in the image: the directory it was found in, under the name that is asked for. `.` and `..` are
/// resolved by name, since the image has no symbolic links.
fn place_of(found: &Path, name: &OsStr) -> PathBuf {
    let directory = found.parent().unwrap_or(Path::new("/"));
    let mut place = PathBuf::from("/");
    for part in directory.components() {
        match part {
            std::path::Component::Normal(part) => place.push(part),
            std::path::Component::ParentDir => {
                place.pop();
            }
            _ => {}
        }
    }
    place.push(Path::new(name).file_name().unwrap_or(name));
    place
}

/// Names that musl's loader answers itself (`ldso/dynlink.c`, `reserved`).
fn is_in_musl(name: &OsStr) -> bool {
    let Some(rest) = name.as_bytes().strip_prefix(b"lib") else { return false };
    ["c.", "pthread.", "rt.", "m.", "dl.", "util.", "xnet."].iter().any(|known| rest.starts_with(known.as_bytes()))
}

/// The libraries that this process has loaded, by file name and by `DT_SONAME`.
fn loaded() -> BTreeMap<OsString, PathBuf> {
    // Only Linux has it; elsewhere there is nothing to know.
    let maps = fs::read("/proc/self/maps").unwrap_or_default();
    let mut found = BTreeMap::new();
    for path in mapped_files(&maps) {
        if let (Ok(elf), Some(name)) = (Elf::open(&path), path.file_name()) {
            found.insert(elf.soname.unwrap_or_else(|| name.to_owned()), path.clone());
        }
    }
    found
}

/// The files named in the text of `/proc/PID/maps`: `address perms offset dev inode    /path`.
fn mapped_files(maps: &[u8]) -> BTreeSet<PathBuf> {
    let path = |line: &[u8]| {
        let start = line.iter().position(|byte| *byte == b'/')?;
        Some(PathBuf::from(OsStr::from_bytes(&line[start..])))
    };
    maps.split(|byte| *byte == b'\n').filter_map(path).collect()
}

/// The directories of an `ld.so.conf`, the files that it includes in their place.
fn configured(file: &Path, depth: usize) -> Vec<PathBuf> {
    // Deeper than anyone nests; ends a file that includes itself.
    if depth > 8 {
        return Vec::new();
    }
    let text = fs::read_to_string(file).unwrap_or_default();
    let mut directories = Vec::new();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if let Some(pattern) = line.strip_prefix("include").filter(|rest| rest.starts_with([' ', '\t'])) {
            let pattern = file.parent().unwrap_or(Path::new("/")).join(pattern.trim());
            directories.extend(matching(&pattern).iter().flat_map(|file| configured(file, depth + 1)));
        } else if line.starts_with('/') {
            directories.push(PathBuf::from(line));
        }
    }
    directories
}

/// The files that match a pattern with at most one `*`, in its last part: `/etc/ld.so.conf.d/*.conf`.
fn matching(pattern: &Path) -> Vec<PathBuf> {
    let name = pattern.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let Some((before, after)) = name.split_once('*') else { return vec![pattern.to_owned()] };
    let directory = pattern.parent().unwrap_or(Path::new("/"));
    let names = fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.file_name());
    let fits = |name: &OsString| {
        let name = name.to_string_lossy();
        name.len() >= before.len() + after.len() && name.starts_with(before) && name.ends_with(after)
    };
    let mut files: Vec<PathBuf> = names.filter(fits).map(|name| directory.join(name)).collect();
    files.sort();
    files
}

#[cfg(test)]
mod tests {
    use object::elf::{DT_NEEDED, DT_RPATH, DT_RUNPATH, DT_SONAME, EM_AARCH64, EM_X86_64};

    use super::*;
    use crate::workload::elf::tests::Minimal;

    struct Machine(tempfile::TempDir);

    impl Machine {
        fn new() -> Self {
            Machine(tempfile::tempdir().expect("a directory"))
        }

        fn path(&self, path: &str) -> PathBuf {
            self.0.path().join(path)
        }

        fn put(&self, path: &str, machine: u16, interpreter: Option<&str>, strings: &[(i64, &str)]) -> PathBuf {
            let path = self.path(path);
            fs::create_dir_all(path.parent().expect("a parent")).expect("made");
            fs::write(&path, Minimal { machine, interpreter, strings: strings.to_vec() }.bytes()).expect("written");
            path
        }

        fn names(&self, closure: &Closure) -> Vec<String> {
            let root = self.0.path();
            closure.libraries.keys().map(|p| p.strip_prefix(root).unwrap_or(p).display().to_string()).collect()
        }
    }

    const LOADER: Option<&str> = Some("/lib64/ld-linux-x86-64.so.2");

    #[test]
    fn the_closure_is_followed_in_the_loaders_order() {
        let machine = Machine::new();
        let program = machine.put(
            "app/bin/coastal",
            EM_X86_64,
            LOADER,
            &[(DT_NEEDED, "libone.so.1"), (DT_NEEDED, "libtwo.so"), (DT_RUNPATH, "$ORIGIN/../lib")],
        );
        machine.put("app/lib/libone.so.1", EM_X86_64, None, &[(DT_NEEDED, "libc.so.6"), (DT_NEEDED, "libtwo.so")]);
        // RUNPATH is not inherited, and the environment wins over it.
        machine.put("env/libtwo.so", EM_X86_64, None, &[(DT_NEEDED, "ld-linux-x86-64.so.2")]);
        machine.put("app/lib/libtwo.so", EM_X86_64, None, &[(DT_NEEDED, "libnever.so")]);
        machine.put("wrong/libc.so.6", EM_AARCH64, None, &[]);
        machine.put("sys/libc.so.6", EM_X86_64, None, &[]);
        let search = Search {
            environment: vec![machine.path("env")],
            system: vec![machine.path("wrong"), machine.path("sys")],
            ..Search::default()
        };
        let closure = closure(&program, &search).expect("complete");
        assert_eq!(machine.names(&closure), vec!["app/lib/libone.so.1", "env/libtwo.so", "sys/libc.so.6"]);
    }

    #[test]
    fn rpath_is_inherited() {
        let machine = Machine::new();
        let program =
            machine.put("coastal", EM_X86_64, LOADER, &[(DT_NEEDED, "liba.so"), (DT_RPATH, "${ORIGIN}/private")]);
        machine.put("private/liba.so", EM_X86_64, None, &[(DT_NEEDED, "libb.so")]);
        machine.put("private/libb.so", EM_X86_64, None, &[]);
        let closure = closure(&program, &Search::default()).expect("complete");
        assert_eq!(machine.names(&closure), vec!["private/liba.so", "private/libb.so"]);
    }

    #[test]
    fn what_is_loaded_comes_first_and_keeps_the_name_it_is_asked_by() {
        let machine = Machine::new();
        let program = machine.put("coastal", EM_X86_64, LOADER, &[(DT_NEEDED, "liba.so.1")]);
        let real = machine.put("opt/liba.so.1.2.3", EM_X86_64, None, &[(DT_SONAME, "liba.so.1")]);
        machine.put("sys/liba.so.1", EM_X86_64, None, &[]);
        let search = Search {
            loaded: BTreeMap::from([("liba.so.1".into(), real)]),
            system: vec![machine.path("sys")],
            ..Search::default()
        };
        let closure = closure(&program, &search).expect("complete");
        assert_eq!(machine.names(&closure), vec!["opt/liba.so.1"]);
    }

    #[test]
    fn a_missing_library_is_named_with_the_places() {
        let machine = Machine::new();
        let program = machine.put("coastal", EM_X86_64, LOADER, &[(DT_NEEDED, "libgone.so")]);
        let search = Search { system: vec!["/nowhere".into()], ..Search::default() };
        let reason = closure(&program, &search).expect_err("not complete");
        assert!(reason.to_string().starts_with("it needs the library libgone.so, which is in none of /nowhere"));
    }

    #[test]
    fn musls_loader_is_its_own_libc() {
        let machine = Machine::new();
        let needed = [(DT_NEEDED, "libc.musl-x86_64.so.1"), (DT_NEEDED, "libgcc_s.so.1")];
        let program = machine.put("coastal", EM_X86_64, Some("/lib/ld-musl-x86_64.so.1"), &needed);
        machine.put("sys/libgcc_s.so.1", EM_X86_64, None, &[(DT_NEEDED, "libc.so")]);
        let search = Search { system: vec![machine.path("sys")], ..Search::default() };
        let closure = closure(&program, &search).expect("complete");
        assert_eq!(machine.names(&closure), vec!["sys/libgcc_s.so.1"]);
    }

    #[test]
    fn places_have_no_dots() {
        assert_eq!(place_of(Path::new("/a/./b/../c/x.so.1.2"), OsStr::new("x.so.1")), Path::new("/a/c/x.so.1"));
    }

    #[test]
    fn configuration_files_include_others_even_themselves() {
        let machine = Machine::new();
        fs::create_dir_all(machine.path("d")).expect("made");
        fs::write(machine.path("ld.so.conf"), "include d/*.conf # all\n/opt/x\t\nhwcap 0 nosegneg\n").expect("written");
        fs::write(machine.path("d/b.conf"), "/b\n").expect("written");
        fs::write(machine.path("d/a.conf"), "# none\n/a\n").expect("written");
        fs::write(machine.path("d/c.txt"), "/c\n").expect("written");
        assert_eq!(configured(&machine.path("ld.so.conf"), 0), ["/a", "/b", "/opt/x"].map(PathBuf::from));
        fs::write(machine.path("d/a.conf"), "include a.conf\n").expect("written");
        assert_eq!(configured(&machine.path("ld.so.conf"), 0), ["/b", "/opt/x"].map(PathBuf::from));
    }

    #[test]
    fn maps_are_read() {
        let maps = b"7f1-7f2 r-xp 00000000 08:01 42   /usr/lib/libc.so.6\n7f2-7f3 rw-p 0 00:00 0 \n\
            7f3-7f4 rw-p 0 00:00 0   [heap]\n7f4-7f5 r--p 0 08:01 7   /opt/a b/lib.so\n7f5-7f6 r--p 0 08:01 7   /opt/a b/lib.so\n";
        let files: Vec<PathBuf> = mapped_files(maps).into_iter().collect();
        assert_eq!(files, ["/opt/a b/lib.so", "/usr/lib/libc.so.6"].map(PathBuf::from));
    }

    #[test]
    fn this_very_program_is_complete() {
        let path = std::env::current_exe().expect("a path");
        let architecture = Elf::open(&path).expect("readable").architecture;
        let closure = closure(&path, &Search::on_this_machine(&path, architecture)).expect("complete");
        let by_default =
            super::closure(&path, &Search { loaded: BTreeMap::new(), ..Search::on_this_machine(&path, architecture) })
                .expect("complete");
        let real = |closure: &Closure| closure.libraries.values().cloned().collect::<BTreeSet<_>>();
        assert_eq!(real(&closure), real(&by_default), "walking finds the very files that the loader loaded");
        assert_eq!(closure.libraries.is_empty(), closure.program.interpreter.is_none());
    }
}

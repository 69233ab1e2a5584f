//! Programs that go into the image beside coastal, and have to run there alone.

use std::path::Path;

use crate::error::Failure;
use crate::workload::elf::{Architecture, Elf};

/// Whether a program can run where there is nothing but itself.
///
/// # Errors
/// It cannot; says why.
pub fn fits(name: &str, file: &Path, architecture: Architecture) -> Result<(), Failure> {
    let no = |why: String| {
        Failure::prerequisite(format!("`{}` cannot run in the image: {why}", file.display())).next(format!(
            "the {name} that its project publishes for linux/{architecture} is one static program: put it first on the path, then run this again"
        ))
    };
    let elf = Elf::open(file).map_err(|why| no(why.to_string()))?;
    if elf.architecture != architecture {
        return Err(no(format!("it is for {}, and the image is for {architecture}", elf.architecture)));
    }
    if let Some(interpreter) = &elf.interpreter {
        return Err(no(format!("it asks for the loader {}, so it is not static", interpreter.display())));
    }
    if !elf.needed.is_empty() {
        return Err(no("it needs shared libraries, so it is not static".into()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_static_programs_of_the_images_architecture_fit() {
        let directory = tempfile::tempdir().unwrap();
        let script = directory.path().join("kubectl");
        std::fs::write(&script, "#!/bin/sh\n").unwrap();
        let failure = fits("kubectl", &script, Architecture::Amd64).unwrap_err();
        assert!(failure.message.ends_with("cannot run in the image: it is a script, not an ELF file"), "{failure}");
        assert!(failure.next[0].contains("the kubectl that its project publishes for linux/amd64"), "{failure}");

        // A 64-bit ELF header of a program without any segment: static, as far as it can be told.
        let program = |machine: u8| {
            let mut header = vec![0_u8; 64];
            header[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
            header[16] = 2;
            header[18] = machine;
            header[20] = 1;
            header[52] = 64;
            header[54] = 56;
            header
        };
        for (machine, why) in [(62, None), (183, Some("it is for arm64, and the image is for amd64"))] {
            let file = directory.path().join(format!("helm-{machine}"));
            std::fs::write(&file, program(machine)).unwrap();
            let said = fits("helm", &file, Architecture::Amd64).err().map(|failure| failure.message);
            assert_eq!(said.is_none(), why.is_none(), "{said:?}");
            assert!(why.is_none_or(|why| said.is_some_and(|said| said.contains(why))));
        }

        // This very test is linked dynamically, where the tests run.
        let itself = std::env::current_exe().unwrap();
        if let Ok(elf) = Elf::open(&itself)
            && elf.interpreter.is_some()
        {
            let failure = fits("helm", &itself, elf.architecture).unwrap_err();
            assert!(failure.message.contains("so it is not static"), "{failure}");
        }
    }
}

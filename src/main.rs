//! Parse, run, exit code. Nothing else.

fn main() -> std::process::ExitCode {
    coastal::run(std::env::args_os()).into()
}

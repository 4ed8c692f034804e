//! The binary: everything is in the library.

fn main() -> std::process::ExitCode {
    session_supervisor::cli::main()
}

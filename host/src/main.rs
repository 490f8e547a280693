//! The `dacapo` command. All of it is in the library's `cli`.

fn main() -> std::process::ExitCode {
    dacapo::cli::main()
}

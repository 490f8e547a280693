//! The `dacapo` command. All of it is in the library's `cli`.

/// A turn is mostly small allocations, made by one thread and freed by another:
/// measured, this allocator takes a fifth off a step's CPU time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    dacapo::cli::main()
}

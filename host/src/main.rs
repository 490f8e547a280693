//! The `dacapo` command. All of it is in the library's `cli`.

/// A turn is mostly small allocations, made by one thread and freed by another;
/// the C library's allocator was over a quarter of a profile of `hello5`.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    dacapo::cli::main()
}

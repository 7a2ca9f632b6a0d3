//! Compiles `ebpf/programs` for the kernel by a cargo of its own, so that `cargo build` is all there is to do.
//!
//! The BPF target has no ready-made core library: it takes a compiler that comes with the sources of core, and
//! bpf-linker. The stable toolchain that builds everything else has no such sources, so one is looked for.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// What to do where there is no toolchain.
const ADVICE: &str = "run ./setup.sh, or `rustup toolchain install nightly --component rust-src` and \
                      `cargo install bpf-linker`";

/// The object files that `ebpf/programs` makes.
const OBJECTS: [&str; 2] = ["socket", "packet"];

/// Where the kernel's compiler comes from.
struct Toolchain {
    cargo: PathBuf,
    compiler: PathBuf,
    linker: PathBuf,
}

fn main() -> ExitCode {
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            println!("cargo::error={problem}");
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<(), String> {
    let root = path_variable("CARGO_MANIFEST_DIR")?.join("../..");
    let out = path_variable("OUT_DIR")?;
    for source in ["ebpf/abi/src", "ebpf/abi/Cargo.toml", "ebpf/programs/src", "ebpf/programs/Cargo.toml"] {
        println!("cargo::rerun-if-changed={}", root.join(source).display());
    }
    // The versions and settings of what the programs are made of.
    for shared in ["Cargo.toml", "Cargo.lock", "proxy/dataplane/build.rs"] {
        println!("cargo::rerun-if-changed={}", root.join(shared).display());
    }
    let toolchain = Toolchain::find()?;
    // One directory for debug, release, check and test: <target>/bpf. It cannot be <target> itself, which the cargo
    // that runs this script holds locked. OUT_DIR is <target>/<profile>/build/<package>/out.
    let target = out.ancestors().nth(4).ok_or("OUT_DIR is not below a target directory")?.join("bpf");
    toolchain.compile(&root, &target)?;
    for object in OBJECTS {
        let built = target.join("bpfel-unknown-none/release").join(object);
        fs::copy(&built, out.join(object)).map_err(|error| format!("copy {}: {error}", built.display()))?;
    }
    Ok(())
}

impl Toolchain {
    fn find() -> Result<Self, String> {
        for variable in ["FAIRWAY_BPF_RUSTC", "FAIRWAY_BPF_LINKER"] {
            println!("cargo::rerun-if-env-changed={variable}");
        }
        let (cargo, compiler) = Self::compiler()?;
        Ok(Self { cargo, compiler, linker: Self::linker()? })
    }

    /// The compiler asked for; else a rustup nightly; else the system's own: the first that has the sources of core.
    fn compiler() -> Result<(PathBuf, PathBuf), String> {
        let cargo = path_variable("CARGO")?;
        if let Some(compiler) = env::var_os("FAIRWAY_BPF_RUSTC").map(PathBuf::from) {
            return if has_sources(&compiler) {
                Ok((cargo, compiler))
            } else {
                Err(format!("FAIRWAY_BPF_RUSTC={}: no compiler with the sources of core", compiler.display()))
            };
        }
        if let (Some(cargo), Some(compiler)) = (nightly("cargo"), nightly("rustc"))
            && has_sources(&compiler)
        {
            return Ok((cargo, compiler));
        }
        let compiler = PathBuf::from("/usr/bin/rustc");
        if has_sources(&compiler) {
            return Ok((cargo, compiler));
        }
        Err(format!(
            "no Rust compiler with the sources of core was found, to build the eBPF programs: {ADVICE}"
        ))
    }

    fn linker() -> Result<PathBuf, String> {
        if let Some(linker) = env::var_os("FAIRWAY_BPF_LINKER").map(PathBuf::from) {
            return if linker.is_file() {
                Ok(linker)
            } else {
                Err(format!("FAIRWAY_BPF_LINKER={}: no such file", linker.display()))
            };
        }
        let directories = env::var_os("PATH").map(|path| env::split_paths(&path).collect::<Vec<_>>());
        let installed = env::var_os("CARGO_HOME").map(|home| PathBuf::from(home).join("bin"));
        directories
            .into_iter()
            .flatten()
            .chain(installed)
            .map(|directory| directory.join("bpf-linker"))
            .find(|candidate| candidate.is_file())
            .ok_or_else(|| format!("bpf-linker was not found, to link the eBPF programs: {ADVICE}"))
    }

    fn compile(&self, root: &Path, target: &Path) -> Result<(), String> {
        let flags = [
            // Debug information becomes BTF, which the kernel wants.
            "-Cdebuginfo=2".to_owned(),
            "-Clink-arg=--btf".to_owned(),
            // Atomics that return the old value: version 3 of the instruction set, Linux 5.12.
            "-Ctarget-cpu=v3".to_owned(),
            format!("--cfg=bpf_target_arch=\"{}\"", text_variable("CARGO_CFG_TARGET_ARCH")?),
            format!("-Clinker={}", self.linker.display()),
        ];
        let mut command = Command::new(&self.cargo);
        for (name, _) in env::vars_os() {
            if name.to_str().is_some_and(speaks_of_the_outer_build) {
                command.env_remove(name);
            }
        }
        command
            .current_dir(root)
            .env("RUSTC", &self.compiler)
            // The compiler's own permission to use what is not stable, here building core.
            .env("RUSTC_BOOTSTRAP", "1")
            .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"))
            .env("CARGO_PROFILE_RELEASE_LTO", "fat")
            .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1")
            .args(["build", "--quiet", "--locked", "--release", "--package=ebpf-programs", "--bins"])
            .args(["-Zbuild-std=core", "--target=bpfel-unknown-none", "--target-dir"])
            .arg(target);
        let output = command.output().map_err(|error| format!("run {}: {error}", self.cargo.display()))?;
        if output.status.success() {
            return Ok(());
        }
        show(&String::from_utf8_lossy(&output.stderr));
        Err("the eBPF programs do not compile: the compiler's words are below".to_owned())
    }
}

#[expect(clippy::print_stderr, reason = "cargo shows it when the script fails")]
fn show(words: &str) {
    eprintln!("{words}");
}

/// Whether a variable would make the inner build another one: the wrappers of clippy, flags for the host.
fn speaks_of_the_outer_build(name: &str) -> bool {
    const PREFIXES: [&str; 3] = ["CARGO_BUILD_", "CARGO_PROFILE_", "CARGO_TARGET_"];
    const NAMES: [&str; 6] = [
        "RUSTFLAGS",
        "RUSTC_WRAPPER",
        "RUSTC_WORKSPACE_WRAPPER",
        "RUSTC_LINKER",
        "RUSTDOC",
        "RUSTUP_TOOLCHAIN",
    ];
    NAMES.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// A tool of rustup's nightly toolchain, where there is one. Looking must not install it.
fn nightly(tool: &str) -> Option<PathBuf> {
    let output = Command::new("rustup")
        .args(["which", "--toolchain", "nightly", tool])
        .env("RUSTUP_AUTO_INSTALL", "0")
        .output()
        .ok()?;
    let path = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| PathBuf::from(path.trim_end()))
}

fn has_sources(compiler: &Path) -> bool {
    let Ok(output) = Command::new(compiler).args(["--print", "sysroot"]).output() else { return false };
    let Ok(sysroot) = String::from_utf8(output.stdout) else { return false };
    output.status.success()
        && Path::new(sysroot.trim_end()).join("lib/rustlib/src/rust/library/core/Cargo.toml").is_file()
}

fn text_variable(name: &str) -> Result<String, String> {
    env::var(name).map_err(|error| format!("{name}: {error}"))
}

fn path_variable(name: &str) -> Result<PathBuf, String> {
    env::var_os(name).map(PathBuf::from).ok_or_else(|| format!("{name} is not set: this is a build script"))
}

#!/usr/bin/env bash
# Installs what Fairway needs to build and to test itself, and says what and why. `setup.sh bench` adds the rivals that
# the benchmark measures it beside.
# Safe to run again: what is there already is left alone. Needs Debian 12, root and Rust.
set -euo pipefail

# On standard error: what a command was asked for goes to standard output.
say() { printf '\033[1m==>\033[0m %s\n' "$*" >&2; }

if ! command -v cargo >/dev/null; then
  echo "setup.sh: cargo was not found: install Rust first" >&2
  exit 1
fi
if [ "$(id -u)" != 0 ]; then
  echo "setup.sh: root is needed, to install packages and later to make network namespaces" >&2
  exit 77
fi

# package : why it is needed
packages=(
  "iproute2:network namespaces and links of tests and demo"
  "keepalived:the VRRP peer that fairway-lb must agree with"
  "etcd-server:the store behind a real kube-apiserver"
  "zstd:unpacks a stored kube-apiserver"
  "haproxy:tells tests what it understands of the PROXY protocol; a rival of fairway-lb in the benchmark"
  "nftables:network policies for tests of packets that pass them"
  "procps:sysctl, for namespaces whose neighbour entries must not age"
  "gcc:links, and compiles the cryptography of rustls"
  "g++:compiles the fuzzer"
  "valgrind:counts the instructions of what is decided"
)
# Other kernels than this machine's, in virtual machines.
guests=(
  "qemu-system-x86:runs tests on Linux 5.10, 6.1 and 6.12"
  "busybox-static:starts a guest"
  "kmod:loads a guest's modules"
  "cpio:packs what starts a guest"
  "xz-utils:unpacks Linux 5.10 and 6.1"
  "ipvsadm:looks at virtual services from outside"
)
# An eBPF toolchain: a compiler with matching sources of core, and the LLVM that bpf-linker links with.
toolchain=(
  "rustc-web:compiles the eBPF programs (the only Debian rustc new enough)"
  "rust-web-src:sources of core, compiled for the BPF target"
  "llvm-22-dev:bpf-linker links and optimises with this LLVM"
  "libzstd-dev:needed by that LLVM"
  "g++:links bpf-linker against LLVM"
)

# What `make bench` measures ours beside.
rivals=(
  "nftables:loads the rules that a rival of fairway-proxy in the benchmark writes"
  "nginx-light:a rival of fairway-lb in the benchmark"
  "libnginx-mod-stream:lets nginx balance TCP"
)

missing=()
want() {
  local entry package
  for entry in "$@"; do
    package=${entry%%:*}
    if ! dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed'; then
      say "$package is missing: ${entry#*:}"
      missing+=("$package")
    fi
  done
}

nightly_with_sources() {
  local sysroot
  sysroot=$(rustc +nightly --print sysroot 2>/dev/null) && [ -d "$sysroot/lib/rustlib/src/rust/library" ]
}

want "${packages[@]}" "${guests[@]}"
if [ "${1:-}" = bench ]; then
  want "${rivals[@]}"
fi
nightly_with_sources || want "${toolchain[@]}"
if [ ${#missing[@]} -gt 0 ]; then
  say "installing ${#missing[@]} Debian packages"
  apt-get update -qq
  # Services of these packages must not start by themselves: tests start their own.
  policy=/usr/sbin/policy-rc.d
  if [ ! -e $policy ]; then
    trap 'rm -f $policy' EXIT
    printf '#!/bin/sh\nexit 101\n' >$policy
    chmod +x $policy
  fi
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

if ! command -v bpf-linker >/dev/null && [ ! -x "${CARGO_HOME:-$HOME/.cargo}/bin/bpf-linker" ]; then
  say "bpf-linker is missing: links eBPF programs written in Rust (about a minute)"
  linker=(cargo install -q bpf-linker --version 0.13.0 --locked)
  if nightly_with_sources; then
    "${linker[@]}"
  else
    LLVM_PREFIX=/usr/lib/llvm-22 "${linker[@]}" --no-default-features --features llvm-22
  fi
fi
say "everything needed is there"

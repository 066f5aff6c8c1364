# Packages of other suites of Debian than this machine's own. To be sourced by scripts that run with `set -e`.

# unpack_packages SUITE PACKAGE...: takes packages from a suite, at the mirror that apt has this machine's release from,
# and unpacks them in the working directory. Nothing is installed.
unpack_packages() {
  local suite=$1
  shift
  with_apt "$suite" download "${@/%//$suite}"
}

# unpack_with_dependencies SUITE PACKAGE...: the same with all that they need, down to the C library.
unpack_with_dependencies() {
  local suite=$1
  shift
  with_apt "$suite" --yes --no-install-recommends --download-only install "$@"
}

# with_apt SUITE ARGUMENT...: unpacks what apt downloads when it knows that suite alone, and no package that is installed.
with_apt() {
  local suite=$1 mirror package
  shift
  mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' \
    "Codename: $(. /etc/os-release && echo "${VERSION_CODENAME:?}")" 'Component: main' | head -n 1)
  [ -n "$mirror" ] || { echo "apt has no source for this machine's own release" >&2; return 1; }
  mkdir -p apt/lists/partial apt/archives/partial
  : > apt/status
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main" > apt/sources
  local apt=(apt-get -qq -o APT::Sandbox::User=root -o "Dir::Etc::SourceList=$PWD/apt/sources"
    -o Dir::Etc::SourceParts=- -o "Dir::State::Lists=$PWD/apt/lists" -o "Dir::State::Status=$PWD/apt/status"
    -o "Dir::Cache=$PWD/apt")
  "${apt[@]}" update
  (cd apt/archives && "${apt[@]}" "$@")
  for package in apt/archives/*.deb; do
    dpkg-deb --extract "$package" .
  done
  rm -r apt
}

# Results of slow builds, shared by every clone of this user. To be sourced by scripts that run with `set -e`.
#
# An entry is a directory `NAME-KEY`, where KEY is a hash of all that decides its content. It is made in
# `NAME-KEY.partial` under a lock and renamed when it is complete: an interrupted build never counts, and a
# second build of the same thing waits for the first and then uses what that one made.
hull_cache="${HULL_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/hull}"

# Prints the key for the text on stdin.
cache_key() {
  sha256sum | cut -c 1-16
}

# Prints a line for each file below the given paths, with its hash; for use in keys.
hash_files() {
  find "$@" -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum
}

# cached NAME KEY COMMAND...: sets `entry` to the finished directory. When there is none, it runs COMMAND
# with the directory to fill as one more argument.
cached() {
  local name=$1 key=$2 lock
  shift 2
  entry="$hull_cache/$name-$key"
  if [ -d "$entry" ]; then
    return
  fi
  mkdir -p "$hull_cache"
  exec {lock}> "$entry.lock"
  if ! flock --nonblock "$lock"; then
    echo "$name: waiting for another build of the same" >&2
    flock "$lock"
  fi
  if [ ! -d "$entry" ]; then
    rm -rf "$entry.partial"
    mkdir "$entry.partial"
    # An expansion now, not at exit: `entry` changes with the next call.
    # shellcheck disable=SC2064
    trap "rm -rf '$entry.partial'" EXIT
    "$@" "$entry.partial"
    mv -T "$entry.partial" "$entry"
    trap - EXIT
  fi
  exec {lock}>&-
}

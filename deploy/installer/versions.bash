# The versions of Hull on a node, and who uses them; sourced by hull-node.

# Prints the name of the version in `source`: its number, and a hash of every file's path, mode and content.
version_name() {
  local number hash
  number=$("$source/bin/hull" --version | cut -d ' ' -f 2)
  hash=$(cd "$source" && find . \( -type f -printf 'file %m %p\n' -o -type l -printf 'link %p %l\n' \) | LC_ALL=C sort &&
    find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum)
  echo "$number-$(sha256sum <<< "$hash" | cut -c 1-12)"
}

# Lays `source` down as a version, unless it is there, and makes it the current one.
add_version() {
  local name target new
  name=$(version_name)
  target="$installed/versions/$name"
  mkdir -p "$installed/versions"
  # What an interrupted run has left.
  rm -rf "$installed"/versions/.new-* "$installed/.current"
  if [ ! -d "$target" ]; then
    new="$installed/versions/.new-$name"
    mkdir "$new"
    cp -R --preserve=mode,timestamps,links "$source/." "$new"
    # It gets its name when all of it is on the disk: a version is whole, or it is not there.
    find "$new" \( -type f -o -type d \) -exec sync {} +
    mv -T "$new" "$target"
    sync "$installed/versions"
    echo "hull-node: installed $prefix/versions/$name"
  fi
  if [ "$(readlink "$installed/current" 2> /dev/null)" != "versions/$name" ]; then
    ln -s "versions/$name" "$installed/.current"
    mv -T "$installed/.current" "$installed/current"
    sync "$installed"
    echo "hull-node: $name is the current version"
  fi
}

# Prints the command lines of the node's processes, one a line, as far as they are of this installation. A pod's process
# and its helpers are started by their path in the version's own directory. Every process may read these, so neither their
# PID namespace nor a capability is needed: the node's /proc is enough.
processes() {
  local proc="$root/proc" file arguments
  [ -d "$proc/self" ] || proc=/proc
  for file in "$proc"/[0-9]*/cmdline; do
    # A process may end while we look.
    { mapfile -d '' -t arguments < "$file"; } 2> /dev/null || continue
    case "${arguments[*]}" in
      *"$prefix/versions/"* | *"$prefix/current/"*) echo "${arguments[*]}" ;;
    esac
  done
}

# version_in_use NAME
version_in_use() {
  # All of them first: what looks for a path in a pipeline has it among its own arguments.
  local found
  found=$(processes)
  [[ $found == *"$prefix/versions/$1/"* ]]
}

# Prints how many pods run.
running_pods() {
  local found
  found=$(processes)
  grep --count "^[^ ]*$prefix/versions/[^ /]*/bin/containerd-shim-hull-v2 " <<< "$found" || true
}

# Whether containerd has just run the shim by its path through `current`: which version that was cannot be seen, and a
# pod process of that version may be about to start.
shim_starts() {
  local found
  found=$(processes)
  grep --quiet "^[^ ]*$prefix/current/bin/containerd-shim-hull-v2 " <<< "$found"
}

remove_unused_versions() {
  local version current
  current=$(readlink "$installed/current" 2> /dev/null || true)
  if shim_starts; then
    echo "hull-node: a pod is just being started or removed: older versions are kept until the next run"
    return
  fi
  for version in "$installed"/versions/*/; do
    version=$(basename "$version")
    if [ "versions/$version" = "$current" ]; then
      continue
    elif version_in_use "$version"; then
      echo "hull-node: kept $version, which running pods use"
    else
      # Out of sight first: what is left of it when this is interrupted is not a version.
      mv -T "$installed/versions/$version" "$installed/versions/.new-$version"
      rm -rf "$installed/versions/.new-$version"
      echo "hull-node: removed $version"
    fi
  done
}

# Removes all that an installation has made. Where PREFIX itself is a mount, as in a pod, an empty directory stays.
remove_installed() {
  rm -rf "$installed/versions" "$installed/current" "$installed/.current" "$installed/.lock"
  rmdir "$installed" 2> /dev/null || true
  echo "hull-node: removed $prefix"
}

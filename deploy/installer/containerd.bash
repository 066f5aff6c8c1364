# Hull's part of containerd's configuration; sourced by hull-node.
#
# It is a block at the end of config.toml, and not a file that config.toml imports: containerd before 2.0 takes the
# whole section of the CRI from such a file, so that the node's own settings are lost, and 2.0 to 2.2 lose them when the
# versions of the two files differ. A table at the end of the file means the same to all of them.

readonly block_begin="# BEGIN hull-node: made by Hull's installer, which takes it away again"
readonly block_end="# END hull-node"
# What config.toml is where there was none: containerd's defaults.
readonly no_config="# Made by hull-node, as there was none.
version = 2
"

# What config.toml is, without the block, and what it is to be. A character at the end keeps the shell from dropping
# line feeds.
config_now=
config_new=

configured_by_hull() {
  grep --quiet --line-regexp --fixed-strings "$block_begin" "$containerd_config" 2> /dev/null
}

# without_block TEXT: prints it.
without_block() {
  local text=$1
  if [[ $text == *$'\n'"$block_begin"$'\n'* ]]; then
    [[ $text == *$'\n'"$block_end"$'\n'* ]] || fail "$containerd_config: the block of hull-node has no end; remove it by hand"
    printf '%s' "${text%%$'\n'"$block_begin"$'\n'*}${text#*$'\n'"$block_end"$'\n'}"
  else
    printf '%s' "$text"
  fi
}

# plan_containerd TEMPLATES: sets config_now and config_new, with the block if there are templates. Fails for a file that
# cannot be edited with certainty.
plan_containerd() {
  local templates=$1 own
  [ ! -L "$containerd_config" ] || fail "$containerd_config is a link: something else manages it; configure containerd by hand"
  if [ ! -e "$containerd_config" ] && [ -n "$templates" ]; then
    refuse_other_engines
  fi
  config_now=$(cat "$containerd_config" 2> /dev/null || true; printf .)
  config_now=${config_now%.}
  own=$(without_block "$config_now"; printf .)
  own=${own%.}
  if [ -z "$templates" ]; then
    config_new=$own
    [ "$own" != "$no_config" ] || config_new=
    return
  fi
  [ -e "$containerd_config" ] || own=$no_config
  config_new=$own$'\n'$block_begin$'\n'$(block "$own" "$templates")$'\n'$block_end$'\n'
}

refuse_other_engines() {
  local dir file
  for dir in "$root"/var/lib/rancher/{k3s,rke2}/agent/etc/containerd "$root"/etc/k0s "$root"/var/snap/microk8s; do
    [ ! -d "$dir" ] || fail "the containerd of $dir writes its configuration itself: add the runtime to its template by hand"
  done
  for file in "$root"/etc/containerd/conf.d/*.toml; do
    fail "there is $file but no config.toml that imports it: containerd from 2.2 on reads both only if config.toml says so; write one"
  done
}

# block CONFIG TEMPLATES: prints the runtime's table for a file with this content.
block() {
  local text=$1 templates=$2 version template imported file
  # Keys before the first table.
  version=$(sed -n '/^[[:space:]]*\[/q; s/^[[:space:]]*version[[:space:]]*=[[:space:]]*\([0-9]*\).*/\1/p' <<< "$text")
  case $version in
    2) template="$templates/version-2.toml" ;;
    3 | 4) template="$templates/version-3.toml" ;;
    *) fail "$containerd_config has \`version = ${version:-(missing)}\`; 2, 3 and 4 are known (\`containerd config migrate\` makes a newer one)" ;;
  esac
  [ -f "$template" ] || fail "there is no $template"
  if grep --quiet "containerd[.\"' ]*\.[\"' ]*runtimes[\"' ]*\.[\"' ]*hull[\"' ]*\(\]\|\.\)" <<< "$text"; then
    fail "$containerd_config has a runtime \"hull\" already; remove it, or leave containerd to whoever wrote that"
  fi
  if sed 's/#.*//' <<< "$text" | tr '\n' ' ' | grep 'disabled_plugins *= *\[[^]]*\(grpc\.v1\.cri\|cri\.v1\.runtime\|["'"'"']cri["'"'"']\)' > /dev/null; then
    fail "$containerd_config disables the CRI: Kubernetes cannot use this containerd"
  fi
  imported=$(imported_with_cri "$text")
  for file in $imported; do
    check_imported "$file" "$version"
  done
  # The shim by its path, as the type: containerd 1.6 ignores `runtime_path`.
  # From the first table on; the second one is for a file that has none.
  if sed 's/^[[:space:]]*#.*//' <<< "$text" | grep "containerd[.\"' ]*\.[\"' ]*runtimes" > /dev/null; then
    sed -n '/^\[/,${ /^$/q; p }' "$template"
  else
    sed -n '/^\[/,$p' "$template"
  fi | sed "s|= \"io\.containerd\.hull\.v2\"|= \"$prefix/current/bin/containerd-shim-hull-v2\"|"
}

# imported_with_cri CONFIG: prints the files that it imports and that have settings of the CRI.
imported_with_cri() {
  local imports patterns pattern file
  imports=$(sed 's/^[[:space:]]*#.*//' <<< "$1" | tr '\n' ' ')
  [[ " $imports" =~ [[:space:]]imports[[:space:]]*=[[:space:]]*(.*) ]] || return 0
  imports=${BASH_REMATCH[1]}
  [[ $imports =~ ^\[([^]]*)\] ]] || fail "$containerd_config: \`imports\` is not a list; configure containerd by hand"
  read -ra patterns <<< "$(tr -d "\"'" <<< "${BASH_REMATCH[1]}" | tr ',' ' ')"
  for pattern in "${patterns[@]}"; do
    case $pattern in
      /*) pattern="$root$pattern" ;;
      *) pattern="${containerd_config%/*}/$pattern" ;;
    esac
    # Unquoted: a pattern of files, in both languages.
    for file in $pattern; do
      [ "$file" -ef "$containerd_config" ] || grep --no-messages --files-with-matches 'io\.containerd\.\(grpc\.v1\.cri\|cri\.v1\.runtime\)' "$file" || true
    done
  done
}

# check_imported FILE VERSION: fails if containerd would take the CRI's settings from FILE only.
check_imported() {
  local file=$1 version=$2 other
  if [ -z "$containerd_version" ] && [ -z "$root" ]; then
    containerd_version=$(containerd --version 2> /dev/null | cut -d ' ' -f 3)
  fi
  other=$(sed -n 's/^[[:space:]]*version[[:space:]]*=[[:space:]]*\([0-9]*\).*/\1/p' "$file" | head -n 1)
  case ${containerd_version#v} in
    "" | 0.* | 1.*)
      fail "$file, which config.toml imports, has settings of the CRI, and containerd ${containerd_version:-of unknown version} takes all of them from there: move them to config.toml"
      ;;
  esac
  [ "$other" = "$version" ] ||
    fail "$file and the config.toml that imports it differ in \`version\`, and containerd 2 then loses settings of the CRI: make them the same"
}

# Writes the planned configuration, and restarts containerd if it is another one. When containerd does not come up with
# it, the former one is put back.
apply_containerd() {
  [ "$config_new" != "$config_now" ] || return 0
  write_containerd "$config_new"
  if ! bash -c "$restart_command"; then
    write_containerd "$config_now"
    bash -c "$restart_command" || echo "hull-node: containerd does not come up with its former configuration either" >&2
    fail "containerd did not come up ($restart_command); its configuration is the former one"
  fi
  echo "hull-node: containerd is configured and restarted"
}

# write_containerd TEXT
write_containerd() {
  if [ -z "$1" ]; then
    rm -f "$containerd_config"
    return
  fi
  mkdir -p "${containerd_config%/*}"
  # Owner, mode and label are the former file's.
  if [ -e "$containerd_config" ]; then
    cp --preserve=all "$containerd_config" "$containerd_config.new"
  fi
  printf '%s' "$1" > "$containerd_config.new"
  sync "$containerd_config.new"
  mv -T "$containerd_config.new" "$containerd_config"
  sync "${containerd_config%/*}"
}

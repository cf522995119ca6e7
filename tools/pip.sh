# Sourced by the scripts that install: `install WORDS` and `uninstall NAMES` for the interpreter $python. With uv where it
# is (also environments that uv made, which have no pip), else with pip.

# pip's own settings, which uv does not read: indices, folders of wheels, constraints, certificates.
take_over_settings_of_pip() {
  local pair name value
  for pair in index-url:UV_DEFAULT_INDEX extra-index-url:UV_EXTRA_INDEX_URL find-links:UV_FIND_LINKS \
    constraint:UV_CONSTRAINT cert:SSL_CERT_FILE; do
    name=${pair#*:}
    value=$(pip config get "global.${pair%%:*}" 2>/dev/null | tr '\n' ' ' | sed "s/ *$//") || true
    if [ -n "$value" ] && [ -z "${!name:-}" ]; then export "$name=$value"; fi
  done
  export UV_INDEX_STRATEGY=${UV_INDEX_STRATEGY:-unsafe-best-match} # as pip: the best version of all indices
}

install() {
  if command -v uv >/dev/null; then
    take_over_settings_of_pip
    uv pip install --quiet --python "$python" "$@" && return
    "$python" -c "import pip" 2>/dev/null || return 1
  fi
  "$python" -m pip install --quiet "$@"
}

uninstall() {
  if command -v uv >/dev/null; then uv pip uninstall --quiet --python "$python" "$@"; else
    "$python" -m pip uninstall --quiet --yes "$@"
  fi
}

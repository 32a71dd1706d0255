# Sourced by the scripts: makes sure that there is a Deno and the npm packages, then runs scripts/lib/NAME.ts.
#
# Deno comes from PATH or, as the npm package of that name, from build/out/deno.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)

fail() {
  echo "error: $*" >&2
  exit 1
}

# The executable of the npm package: put in place by its install script, or still in the package of its platform.
npm_deno() {
  local candidate
  for candidate in "$root"/build/out/deno/node_modules/deno/deno "$root"/build/out/deno/node_modules/@deno/*/deno; do
    if [ -x "$candidate" ] && "$candidate" --version >/dev/null 2>&1; then
      echo "$candidate"
      return 0
    fi
  done
  return 1
}

recent_enough() {
  "$1" eval 'const [a, b] = Deno.version.deno.split(".").map(Number); Deno.exit(a > 2 || a === 2 && b >= 5 ? 0 : 1)' \
    >/dev/null 2>&1
}

find_deno() {
  local found
  if found=$(command -v deno) && recent_enough "$found"; then
    # What npm puts on PATH may be a script around the executable; the servers need the executable itself.
    "$found" eval 'console.log(Deno.execPath())'
    return
  fi
  if found=$(npm_deno); then
    echo "$found"
    return
  fi
  command -v npm >/dev/null || fail "neither Deno nor npm was found: install nodejs and npm, or Deno 2.5 or later"
  echo "installing Deno from npm into build/out/deno" >&2
  mkdir -p "$root/build/out/deno"
  npm install --loglevel=error --no-audit --no-fund --prefix "$root/build/out/deno" deno@2 >&2 || fail "npm install deno@2 failed"
  npm_deno || fail "the npm package deno holds no executable for this machine"
}

run_script() {
  local name=$1 deno
  shift
  deno=$(find_deno) || exit 1
  export PATH="$(dirname "$deno"):$PATH"
  cd "$root" || exit 1
  if [ ! -d node_modules ] || [ deno.lock -nt node_modules/.deno/.setup-done ]; then
    echo "installing npm packages" >&2
    "$deno" install --quiet --frozen >&2 || fail "deno install failed: check that the npm registry can be reached"
    mkdir -p node_modules/.deno && touch node_modules/.deno/.setup-done
  fi
  exec "$deno" run -A --quiet "scripts/lib/$name.ts" "$@"
}

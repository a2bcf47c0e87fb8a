#!/usr/bin/env bash
# Asks every route of the running container and compares the answers with those recorded at deploy.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

usage() {
  cat <<'TEXT'
Usage: ./test.sh [--tag T | --name N] [--json]

Runs inside the container that ./run.sh started, so this machine needs nothing but Docker. Exit code 0 when
everything is as recorded, 1 when something differs.

  --tag T     the image that run.sh was given (default: the one in manifest.json)
  --name N    the container (default: made from the image's name)
  --json      print the results as one JSON object
  -h, --help  this text

From another machine that has Python 3: python3 test_bundle.py --url http://HOST:8000
TEXT
}

die() {
  printf 'Error: %s\n' "$*" >&2
  exit 1
}

IMAGE="" NAME="" OPTIONS=()
while [ $# -gt 0 ]; do
  case $1 in
    --tag | --name)
      [ -n "${2:-}" ] || die "$1 needs a value."
      if [ "$1" = --tag ]; then IMAGE=$2; else NAME=$2; fi
      shift
      ;;
    --json) OPTIONS+=(--json) ;;
    -h | --help)
      usage
      exit 0
      ;;
    *) die "unknown option $1; ./test.sh --help shows them all." ;;
  esac
  shift
done

IMAGE=${IMAGE:-$(sed -n 's/^  "image": "\(.*\)",\{0,1\}$/\1/p' manifest.json)}
NAME=${NAME:-$(printf '%s' "${IMAGE##*/}" | tr -c 'A-Za-z0-9_.-' '-')}
command -v docker >/dev/null || die "docker is not installed on this machine."
[ "$(docker container inspect --format '{{.State.Status}}' "$NAME" 2>/dev/null)" = running ] \
  || die "$NAME is not running; start it with ./run.sh."

# The expected answers come from this folder, not from the image that is tested.
tar -cf - manifest.json openapi.json test_bundle.py model/artifacts/golden.json model/artifacts/prompt.json \
  | docker exec --interactive "$NAME" python -I -c '
import subprocess, sys, tarfile, tempfile
with tempfile.TemporaryDirectory() as folder:
    tarfile.open(fileobj=sys.stdin.buffer, mode="r|").extractall(folder)
    command = [sys.executable, "-I", "-B", folder + "/test_bundle.py", *sys.argv[1:]]
    sys.exit(subprocess.run(command).returncode)
' ${OPTIONS[@]+"${OPTIONS[@]}"}

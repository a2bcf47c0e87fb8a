#!/usr/bin/env bash
# Builds the image of this bundle, after checking that every file is as it was exported.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

usage() {
  cat <<'TEXT'
Usage: ./build.sh [options] [-- docker build options]

  --offline        install from the bundle's own wheels/, with no network (needs the base image on this machine)
  --prove-offline  the same, then start it without a network, ask every route, and write offline_proof.json
  --save-image     also write image.tar.gz and image.tar.gz.sha256: one file to carry to another machine
  --platform P     build for another platform, for example linux/arm64
  --tag T          name of the image (default: the one in manifest.json)
  --base-image I   Python 3.11 image to build on (default: BASE_IMAGE, else python:3.11-slim-bookworm); with its digest
                   (NAME@sha256:...) it is the same one on every machine
  --check          only check the files against manifest.json
  -h, --help       this text

Proxy and index settings are forwarded from the environment when they are set: HTTP_PROXY, HTTPS_PROXY, NO_PROXY,
PIP_INDEX_URL, PIP_EXTRA_INDEX_URL, PIP_TRUSTED_HOST, PIP_DEFAULT_TIMEOUT. They do not end up in the image.
TEXT
}

die() {
  printf 'Error: %s\n' "$*" >&2
  exit 1
}

sha256() {
  if command -v sha256sum >/dev/null; then sha256sum "$@"; else shasum -a 256 "$@"; fi
}

# "HASH  PATH" for every file that the manifest lists
listed() {
  awk '/^  "files": \{/ { inside = 1; next }
       inside && /^  }/ { exit }
       inside { split($0, part, "\""); print part[4] "  " part[2] }' manifest.json
}

# The manifest's own list is complete and true: nothing changed, nothing missing, nothing added.
check_files() {
  [ -f manifest.json ] || die "manifest.json is missing; this is not a whole bundle."
  local list wrong added
  list=$(listed)
  [ -n "$list" ] || die "manifest.json lists no files; copy the bundle again."
  wrong=$(sha256 -c <<<"$list" 2>/dev/null | grep -v ': OK$' | sed 's/: FAILED.*//') || true
  [ -z "$wrong" ] || die "these files are missing or not as they were exported; copy the bundle again:"$'\n'"$wrong"
  added=$(find model serving wheels -name __pycache__ -prune -o ! -type d -print 2>/dev/null \
    | grep -vxF -f <(cut -c67- <<<"$list")) || true
  [ -z "$added" ] || die "these files are not in manifest.json; remove them:"$'\n'"$added"
}

# --- the proof: what answered, without a network, and what it answered ---

# the value of a field of test.sh's result
field() { sed -n "s/^  \"$1\": \"\{0,1\}\([^\",]*\)\"\{0,1\},\{0,1\}\$/\1/p" <<<"$RESULT"; }

# names and reasons of the checks that failed
failed() { grep -B1 -A1 '^      "passed": false' <<<"$RESULT" | grep -v '"passed"' || printf '%s\n' "$RESULT"; }

remove_proof_container() {
  docker rm --force "$PROVED" >/dev/null 2>&1 || true
  docker volume rm --force "$PROVED-data" >/dev/null 2>&1 || true
}

prove_offline() {
  local started=$SECONDS ready_s network
  PROVED=$(printf '%s' "${TAG##*/}" | tr -c 'A-Za-z0-9_.-' '-')-proof
  rm -f offline_proof.json
  trap remove_proof_container EXIT
  remove_proof_container # one that a killed proof left
  echo "Proving that it answers without a network ..."
  ./run.sh --tag "$TAG" --name "$PROVED" --network none --env-file /dev/null >/dev/null
  ready_s=$((SECONDS - started))
  network=$(docker container inspect --format '{{.HostConfig.NetworkMode}}' "$PROVED")
  RESULT=$(./test.sh --json --name "$PROVED") || die "it does not answer as recorded:"$'\n'"$(failed)"
  write_proof "$ready_s" "$network" $((SECONDS - started - ready_s)) >offline_proof.json.part
  mv offline_proof.json.part offline_proof.json
  remove_proof_container
  echo "Proved: $(field golden_answers) golden answers, sha256 $(field golden_answers_sha256) (offline_proof.json)."
}

# write_proof READY_S NETWORK QUESTIONS_S
write_proof() {
  cat <<JSON
{
  "image": "$TAG",
  "image_id": "$(docker image inspect --format '{{.Id}}' "$TAG")",
  "manifest_sha256": "$(sha256 manifest.json | cut -c1-64)",
  "network_of_the_build": "none",
  "network_of_the_container": "$2",
  "golden_answers": $(field golden_answers),
  "golden_answers_sha256": "$(field golden_answers_sha256)",
  "bytes": {
    "image": $(bytes_of "$TAG"),
    "base_image": $(bytes_of "$BASE"),
    "wheels": $(cat wheels/* | wc -c | tr -d ' ')
  },
  "seconds": {"build": $BUILD_S, "until_ready": $1, "every_route": $3},
  "docker": "$(docker version --format '{{.Server.Version}}')",
  "created": "$(date -u +%Y-%m-%dT%H:%M:%SZ)"
}
JSON
}

bytes_of() { docker image inspect --format '{{.Size}}' "$1" 2>/dev/null || echo null; }

# --- options ---

OFFLINE="" PROVE="" SAVE="" TAG="" GIVEN_TAG="" CHECK_ONLY="" BASE=${BASE_IMAGE:-python:3.11-slim-bookworm} OPTIONS=()
while [ $# -gt 0 ]; do
  case $1 in
    --offline) OFFLINE=1 ;;
    --prove-offline) OFFLINE=1 PROVE=1 ;;
    --save-image) SAVE=1 ;;
    --check) CHECK_ONLY=1 ;;
    --platform | --tag | --base-image)
      [ -n "${2:-}" ] || die "$1 needs a value."
      case $1 in
        --platform) OPTIONS+=(--platform "$2") ;;
        --tag) TAG=$2 GIVEN_TAG=" --tag $2" ;;
        --base-image) BASE=$2 ;;
      esac
      shift
      ;;
    -h | --help) usage && exit 0 ;;
    --) shift && OPTIONS+=("$@") && break ;;
    *) die "unknown option $1; ./build.sh --help shows them all." ;;
  esac
  shift
done

check_files
[ -z "$CHECK_ONLY" ] || exit 0
command -v docker >/dev/null || die "docker is not installed on this machine."
docker info >/dev/null 2>&1 || die "the Docker engine does not answer; start it, or ask for the right to use it."

TAG=${TAG:-$(sed -n 's/^  "image": "\(.*\)",\{0,1\}$/\1/p' manifest.json)}
[ -n "$TAG" ] || die "manifest.json names no image; give one with --tag."
if [ -n "$OFFLINE" ]; then
  [ -d wheels ] || die "there is no wheels/ folder; export the bundle with --wheels, or build without --offline."
  docker image inspect "$BASE" >/dev/null 2>&1 \
    || die "the base image $BASE is not on this machine; load it (docker load), or build without --offline."
  OPTIONS+=(--network none --build-arg "PIP_SOURCE=--no-index --find-links /build/wheels")
else
  # without "=value" docker takes it from the environment, so that no password is in the list of processes
  for name in HTTP_PROXY HTTPS_PROXY NO_PROXY http_proxy https_proxy no_proxy \
    PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_TRUSTED_HOST PIP_DEFAULT_TIMEOUT; do
    [ -z "${!name:-}" ] || OPTIONS+=(--build-arg "$name")
  done
fi

echo "Building $TAG ..."
docker build --tag "$TAG" --build-arg "BASE_IMAGE=$BASE" \
  --build-arg "MANIFEST_SHA256=$(sha256 manifest.json | cut -c1-64)" ${OPTIONS[@]+"${OPTIONS[@]}"} .
BUILD_S=$SECONDS
size=$(docker image inspect --format '{{.Size}}' "$TAG")
echo "Built $TAG ($((size / 1000000)) MB) in $BUILD_S s."
[ -z "$PROVE" ] || prove_offline

if [ -n "$SAVE" ]; then
  echo "Saving image.tar.gz ..."
  trap 'rm -f image.tar.gz.part' EXIT
  # level 1: half the time of the default for a tenth more bytes
  docker save "$TAG" | gzip -1 >image.tar.gz.part
  mv image.tar.gz.part image.tar.gz
  sha256 image.tar.gz >image.tar.gz.sha256
  echo "Saved image.tar.gz ($(($(wc -c <image.tar.gz) / 1000000)) MB); run.sh loads it where the image is missing."
fi
echo "Next: ./run.sh$GIVEN_TAG"

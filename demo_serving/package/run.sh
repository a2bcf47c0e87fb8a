#!/usr/bin/env bash
# Starts this bundle's container and waits until it answers.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

usage() {
  cat <<'TEXT'
Usage: ./run.sh [options]

  --port P         port on this machine (default: 8000, or PORT of the env file)
  --bind A         address to publish the port on (default: 127.0.0.1, or BIND of the env file);
                   0.0.0.0 opens it to the network, and needs API_KEYS_FILE or API_KEYS in the env file
  --memory M       memory that the container may use (default: 2g, or MEMORY of the env file)
  --env-file F     settings (default: .env where there is one; .env.example explains them)
  --network N      Docker network; "none" shuts every way in or out but docker exec
  --tag T          image (default: the one in manifest.json)
  --name N         container (default: made from the image's name)
  --wait S         seconds until the model must be ready (default: 120)
  --detach         leave it running in the background (default)
  --foreground     stay with it; Ctrl-C stops it

  --status         say whether it runs; exit code 0 when it is ready
  --logs           follow its log
  --stop           stop it, after the questions under way, and remove it
  -h, --help       this text
TEXT
}

say() { printf '%s\n' "$*"; }

die() {
  printf 'Error: %s\n' "$*" >&2
  exit 1
}

sha256() {
  if command -v sha256sum >/dev/null; then sha256sum "$@"; else shasum -a 256 "$@"; fi
}

# --- options ---

ACTION=start DETACH=1 PORT="" BIND="" MEMORY="" ENV_FILE="" NETWORK="" IMAGE="" NAME="" WAIT_S=120
while [ $# -gt 0 ]; do
  case $1 in
    --stop | --logs | --status) ACTION=${1#--} ;;
    --detach) DETACH=1 ;;
    --foreground) DETACH="" ;;
    --port | --bind | --memory | --env-file | --network | --tag | --name | --wait)
      [ -n "${2:-}" ] || die "$1 needs a value."
      case $1 in
        --port) PORT=$2 ;;
        --bind) BIND=$2 ;;
        --memory) MEMORY=$2 ;;
        --env-file) ENV_FILE=$2 ;;
        --network) NETWORK=$2 ;;
        --tag) IMAGE=$2 ;;
        --name) NAME=$2 ;;
        --wait) WAIT_S=$2 ;;
      esac
      shift
      ;;
    -h | --help)
      usage
      exit 0
      ;;
    *) die "unknown option $1; ./run.sh --help shows them all." ;;
  esac
  shift
done

if [ -z "$ENV_FILE" ] && [ -f .env ]; then ENV_FILE=.env; fi
if [ -n "$ENV_FILE" ] && [ ! -r "$ENV_FILE" ]; then die "$ENV_FILE cannot be read."; fi

# the last value of a setting in the env file
setting() {
  [ -z "$ENV_FILE" ] || sed -n "s/^$1=//p" "$ENV_FILE" | tail -n 1
}

PORT=${PORT:-$(setting PORT)} BIND=${BIND:-$(setting BIND)} MEMORY=${MEMORY:-$(setting MEMORY)}
PORT=${PORT:-8000} BIND=${BIND:-127.0.0.1} MEMORY=${MEMORY:-2g}
BIND=${BIND#\[} BIND=${BIND%\]}
[ "$BIND" != localhost ] || BIND=127.0.0.1
case $NETWORK in
  none) BIND=127.0.0.1 ;;
  host) BIND=0.0.0.0 PORT=8000 ;; # the container's port is a port of this machine, on all its addresses
esac
case $PORT in *[!0-9]*) die "the port is $PORT; use a number from 1 to 65535." ;; esac
if [ "$PORT" -lt 1 ] || [ "$PORT" -gt 65535 ]; then die "the port is $PORT; use a number from 1 to 65535."; fi
case $WAIT_S in *[!0-9]*) die "--wait is $WAIT_S; use a whole number of seconds." ;; esac
IMAGE=${IMAGE:-$(sed -n 's/^  "image": "\(.*\)",\{0,1\}$/\1/p' manifest.json)}
[ -n "$IMAGE" ] || die "manifest.json names no image; give one with --tag."
NAME=${NAME:-$(printf '%s' "${IMAGE##*/}" | tr -c 'A-Za-z0-9_.-' '-')}

# --- the container ---

state() { docker container inspect --format '{{.State.Status}}' "$NAME" 2>/dev/null || true; }

# is_ready [--wait S]
is_ready() { docker exec "$NAME" python /app/test_bundle.py --ready "$@" >/dev/null 2>&1; }

remove() {
  docker stop "$NAME" >/dev/null
  docker rm --force "$NAME" >/dev/null 2>&1 || true # --foreground's is gone by itself
}

status() {
  local now
  now=$(state)
  if [ "$now" = running ] && is_ready; then
    say "$NAME is ready ($(docker port "$NAME" 8000 2>/dev/null || echo 'no port published'))"
    exit 0
  fi
  say "$NAME is ${now:-not there}$([ "$now" != running ] || echo ', not ready')"
  exit 1
}

# --- before the start ---

check_machine() {
  local memory_bytes
  memory_bytes=$(docker info --format '{{.MemTotal}}')
  [ "$memory_bytes" -ge 1000000000 ] \
    || die "the Docker engine has $((memory_bytes / 1000000)) MB of memory; the model needs 1000 MB."
  if [ -r /proc/meminfo ] && [ "$(awk '/^MemAvailable/ { print $2 }' /proc/meminfo)" -lt 700000 ]; then
    say "Warning: less than 700 MB of memory are free on this machine."
  fi
  [ "$NETWORK" = none ] || ! is_taken \
    || die "port $PORT is in use on this machine; choose another one with --port."
}

is_taken() {
  local address=$BIND
  case $address in 0.0.0.0) address=127.0.0.1 ;; ::) address=::1 ;; esac
  (: <"/dev/tcp/$address/$PORT") 2>/dev/null
}

# Without keys everybody who reaches it may ask. The server holds to that too, by PUBLISHED_HOST.
check_keys() {
  case $BIND in 127.* | ::1) return 0 ;; esac
  if has_keys || [ "$(setting ALLOW_OPEN)" = true ]; then return 0; fi
  die "$BIND opens port $PORT to other machines, and there is no key: put API_KEYS_FILE=FILE (a key on each line) into .env, or" \
    "ALLOW_OPEN=true to let everybody ask, or leave --bind and BIND out."
}

# an IPv6 address goes in brackets
in_address() { case $1 in *:*) printf '[%s]' "$1" ;; *) printf '%s' "$1" ;; esac }

has_keys() { [ -n "$(setting API_KEYS)$(setting API_KEYS_FILE)$(setting ADMIN_KEYS)$(setting ADMIN_KEYS_FILE)" ]; }

# Adds to start's options the secret files of this machine, mounted: their text is in no variable of the container.
add_secret_files() {
  local name file target
  for name in API_KEYS_FILE ADMIN_KEYS_FILE WEBHOOK_SECRET_FILE; do
    file=$(setting "$name")
    [ -n "$file" ] || continue
    [ -f "$file" ] || die "$name is $file, which is no file of this machine."
    case $file in /*) ;; *) file=$PWD/$file ;; esac
    target=/run/secrets/$(tr '[:upper:]' '[:lower:]' <<<"${name%_FILE}")
    options+=(--mount "type=bind,source=$file,target=$target,readonly" --env "$name=$target")
  done
}

# The container that has our name: a running one is not ours to end unasked, an ended one is in the way.
check_name() {
  case $(state) in
    running) die "$NAME is running already; ./run.sh --stop ends it." ;;
    "") ;;
    *) docker rm --force "$NAME" >/dev/null ;;
  esac
}

is_this_bundles() {
  [ "$(docker image inspect --format '{{index .Config.Labels "manifest.sha256"}}' "$IMAGE" 2>/dev/null)" \
    = "$(sha256 manifest.json | cut -c1-64)" ]
}

# The image that was built from this folder, loaded from image.tar.gz where the engine does not have it.
check_image() {
  is_this_bundles && return
  if [ -f image.tar.gz ]; then
    say "Loading image.tar.gz ..."
    [ "$(sha256 image.tar.gz | cut -c1-64)" = "$(cut -c1-64 image.tar.gz.sha256 2>/dev/null)" ] \
      || die "image.tar.gz is not as it was saved (image.tar.gz.sha256 differs); copy both again."
    docker load --quiet <image.tar.gz >/dev/null
    is_this_bundles && return
  fi
  docker image inspect "$IMAGE" >/dev/null 2>&1 \
    && die "the image $IMAGE was built from another bundle; run ./build.sh here, or name the image with --tag."
  die "there is no image $IMAGE; run ./build.sh first."
}

# --- start ---

# One process in the container does the asking: starting Python for every question would take the model's time.
wait_until_ready() {
  local started=$SECONDS shown=0 waited asking
  is_ready --wait "$WAIT_S" &
  asking=$!
  while kill -0 "$asking" 2>/dev/null; do
    waited=$((SECONDS - started))
    if [ -t 1 ]; then
      printf '\rWaiting until the model is ready ... %d s' "$waited"
    elif [ "$waited" -ge "$shown" ]; then
      say "Waiting until the model is ready ... $waited s"
      shown=$((waited + 5))
    fi
    sleep 0.2
  done
  [ ! -t 1 ] || printf '\r\033[K'
  wait "$asking" || {
    [ "$(docker container inspect --format '{{.State.OOMKilled}}' "$NAME")" != true ] \
      || fail "$MEMORY of memory were too little; give it more with --memory, or MEMORY in .env"
    [ "$(state)" = running ] || fail "the container ended before it was ready"
    fail "the model was not ready within $WAIT_S s"
  }
  say "Ready after $((SECONDS - started)) s."
}

# The container is kept, stopped, for whoever wants to look at it; the next start removes it.
fail() {
  say "The last lines of its log:" >&2
  docker logs --tail 50 "$NAME" >&2 || true
  docker stop "$NAME" >/dev/null 2>&1 || true
  die "$1."
}

print_urls() {
  if [ "$NETWORK" = none ]; then
    say "It has no network; ./test.sh asks it from inside."
    return
  fi
  local host=$BIND key=""
  case $host in 0.0.0.0 | ::) host=$(hostname) ;; *) host=$(in_address "$host") ;; esac
  ! has_keys || key=" -H 'Authorization: Bearer YOUR_KEY'"
  say "Swagger  http://$host:$PORT/docs"
  say "Ask      curl http://$host:$PORT/ask$key -H 'Content-Type: application/json' -d '{\"question\": \"What is MLflow?\"}'"
  say "Test     ./test.sh        Log  ./run.sh --logs        Stop  ./run.sh --stop"
  case $BIND in
    127.* | ::1) say "Only this machine reaches it; --bind 0.0.0.0 opens it to the network, with keys." ;;
    *) [ -n "$key" ] || say "Warning: whoever reaches port $PORT may ask, since ALLOW_OPEN is set." ;;
  esac
}

start() {
  ./build.sh --check
  check_machine
  check_name
  check_image
  local options=(
    --name "$NAME" --read-only --cap-drop ALL --security-opt no-new-privileges --pids-limit 512 --memory "$MEMORY"
    --tmpfs /tmp --volume "$NAME-data:/data" --stop-timeout 40
  )
  [ -z "$ENV_FILE" ] || options+=(--env-file "$ENV_FILE")
  # after the env file: its PORT is the published one
  options+=(--env HOST=0.0.0.0 --env PORT=8000 --env "PUBLISHED_HOST=$BIND")
  options+=(--env FEEDBACK_FILE=/data/feedback.jsonl --env PROMPT_FILE=/data/prompt.json)
  add_secret_files
  [ -z "$NETWORK" ] || options+=(--network "$NETWORK")
  case $NETWORK in none | host) ;; *) options+=(--publish "$(in_address "$BIND"):$PORT:8000") ;; esac
  [ -n "$DETACH" ] || exec docker run --rm "${options[@]}" "$IMAGE"
  docker run --detach "${options[@]}" "$IMAGE" >/dev/null || die "docker could not start the container (see above)."
  wait_until_ready
  # only now: a container that cannot start is not to try for ever
  docker update --restart unless-stopped "$NAME" >/dev/null
  print_urls
}

[ "$ACTION" != start ] || check_keys
command -v docker >/dev/null || die "docker is not installed on this machine."
docker info >/dev/null 2>&1 || die "the Docker engine does not answer; start it, or ask for the right to use it."
case $ACTION in
  status) status ;;
  logs) exec docker logs --follow "$NAME" ;;
  stop)
    [ -n "$(state)" ] || die "$NAME is not there."
    remove
    say "$NAME is stopped; its data are kept in the volume $NAME-data."
    ;;
  start) start ;;
esac

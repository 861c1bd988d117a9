#!/usr/bin/env bash
# Three zones on one machine: six Keepstone processes with two drive folders each, rs(4,2).
#   start.sh up              make the cluster at the first start, and start all six nodes
#   start.sh kill-zone Z     kill -9 both nodes of zone a, b or c
#   start.sh start-zone Z    start them again
#   start.sh down            stop all nodes
# Data, logs and process ids lie in ./three-zones-data, or $KEEPSTONE_DATA. Node n serves S3 on port 9000 + n.
# KEEPSTONE names the binary; by default it is built from this checkout. S3_PORT and RPC_PORT move the ports.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../../.." && pwd)
data=${KEEPSTONE_DATA:-./three-zones-data}
s3_port=${S3_PORT:-9000}
rpc_port=${RPC_PORT:-7100}
command=${1:-}

binary() {
  if [ -n "${KEEPSTONE:-}" ]; then echo "$KEEPSTONE"; return; fi
  (cd "$root" && cargo build --quiet --release --package node)
  echo "$root/target/release/keepstone"
}

random_hex() { od -An -N"$1" -tx1 /dev/urandom | tr -d ' \n'; }

make_cluster() {
  mkdir -p "$data"
  (umask 077
   random_hex 32 > "$data/cluster.secret"
   printf 'access_key = "%s"\nsecret_key = "%s"\n' "KS$(random_hex 8)" "$(random_hex 20)" > "$data/credentials.toml")
  cat > "$data/cluster.toml" <<EOT
# The same file on every node.
id = "$(random_hex 16)"
secret_file = "cluster.secret"
scheme = "rs(4,2)"
# Over three zones rs(4,2) has no spare drive left while a zone is out: taken knowingly, and shown.
best_effort = true
partitions = 4
# What clients sign for, at every node. It stands once the cluster is founded.
region = "us-east-1"
EOT
  for node in 1 2 3 4 5 6; do
    cat >> "$data/cluster.toml" <<EOT

[[node]]
id = $node
zone = "$(zone_of "$node")"
address = "127.0.0.1:$((rpc_port + node))"
drives = 2
EOT
  done
  for node in 1 2 3 4 5 6; do
    cat > "$data/node-$node.toml" <<EOT
cluster_file = "cluster.toml"
node = $node
drives = ["node-$node/drive-1", "node-$node/drive-2"]

[s3]
listen = "127.0.0.1:$((s3_port + node))"
credentials_file = "credentials.toml"
EOT
    "$keepstone" bootstrap --config "$data/node-$node.toml"
  done
  touch "$data/made"
}

start_node() {
  local node=$1
  if [ -f "$data/node-$node.pid" ] && kill -0 "$(cat "$data/node-$node.pid")" 2>/dev/null; then return; fi
  nohup "$keepstone" node --config "$data/node-$node.toml" --status-file "$data/node-$node.status" \
    >> "$data/node-$node.log" 2>&1 < /dev/null &
  echo $! > "$data/node-$node.pid"
}

signal_node() {
  local node=$1 signal=$2
  [ -f "$data/node-$node.pid" ] || return 0
  kill "-$signal" "$(cat "$data/node-$node.pid")" 2>/dev/null || true
  rm -f "$data/node-$node.pid"
}

zone_of() {
  case "$1" in
    1|2) echo a ;;
    3|4) echo b ;;
    *) echo c ;;
  esac
}

nodes_of() {
  case "$1" in
    a) echo 1 2 ;;
    b) echo 3 4 ;;
    c) echo 5 6 ;;
    *) echo "a zone is a, b or c, not '$1'" >&2; exit 2 ;;
  esac
}

wait_for_s3() {
  for _ in $(seq 1 150); do
    if grep -q "serves S3" "$data/node-$1.log" 2>/dev/null; then return; fi
    sleep 0.2
  done
  echo "node $1 does not serve S3 after 30 s; see $data/node-$1.log" >&2
  exit 1
}

case "$command" in
  up)
    keepstone=$(binary)
    [ -f "$data/made" ] || make_cluster
    for node in 1 2 3 4 5 6; do : > "$data/node-$node.log"; start_node "$node"; done
    for node in 1 2 3 4 5 6; do wait_for_s3 "$node"; done
    echo "six nodes run; S3 at http://127.0.0.1:$((s3_port + 1)) to :$((s3_port + 6))"
    cat "$data/credentials.toml"
    ;;
  kill-zone)
    for node in $(nodes_of "${2:-}"); do signal_node "$node" KILL; done
    ;;
  start-zone)
    keepstone=$(binary)
    for node in $(nodes_of "${2:-}"); do : > "$data/node-$node.log"; start_node "$node"; done
    for node in $(nodes_of "${2:-}"); do wait_for_s3 "$node"; done
    ;;
  down)
    for node in 1 2 3 4 5 6; do signal_node "$node" TERM; done
    ;;
  *)
    sed -n '2,9p' "$0" | sed 's/^# \{0,1\}//'
    exit 2
    ;;
esac

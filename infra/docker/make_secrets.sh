#!/bin/sh
# Generates the keys and passwords for compose.yaml; existing ones are kept.
set -eu
folder=$(dirname "$0")/secrets
mkdir -p -m 700 "$folder"  # the files are read by other users, in containers
draw() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }

if [ ! -e "$folder/api-keys.yaml" ]; then
  metrics=sk-$(draw)
  printf '%s' "$metrics" > "$folder/metrics-key"
  cat > "$folder/api-keys.yaml" <<KEYS
keys:
- {name: app, key: sk-$(draw), scopes: [read]}
- {name: editors, key: sk-$(draw), scopes: [read, edit], streams: [online]}
- {name: ops, key: sk-$(draw), scopes: [admin]}
- {name: prometheus, key: $metrics, scopes: [read]}
KEYS
fi
[ -e "$folder/grafana-password" ] || draw > "$folder/grafana-password"
chmod 644 "$folder"/*
echo "API keys: $folder/api-keys.yaml; Grafana: admin, $folder/grafana-password"

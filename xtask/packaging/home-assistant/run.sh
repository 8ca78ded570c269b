#!/bin/sh
# Runs the device with the add-on's options as its settings: the option `max_connections` is the
# variable CLESYDE_MAX_CONNECTIONS.
set -eu

options=${OPTIONS:-/data/options.json}
config=${CONFIG:-/config/clesyde-cloud.toml}

# Lists become values with commas; an option without a value is not set.
assignments=$(jq --raw-output '
    to_entries[]
    | select(.key | test("^[a-z_]+$"))
    | .value |= (if type == "array" then map(tostring) | join(",") else tostring end)
    | select(.value != "" and .value != "null")
    | "CLESYDE_\(.key | ascii_upcase)=\(.value | @sh)"
' "$options")
set -a
eval "$assignments"
set +a

export CLESYDE_BASE_PATH="${CLESYDE_BASE_PATH:-/data}"
if [ -f "$config" ]; then
    export CLESYDE_CONFIG="$config"
fi

# The key is for the registration alone. Once the device is registered, this does nothing.
key=${CLESYDE_PROVISIONING_KEY:-}
unset CLESYDE_PROVISIONING_KEY
if ! CLESYDE_TOKEN="$key" clesyde-cloud provision; then
    echo "the device is not registered: check the options sn, api_url and provisioning_key" >&2
    exit 1
fi

# The status page for the ingress, and the check of the watchdog, for the Supervisor and this
# container alone.
export CLESYDE_HEALTH="${CLESYDE_HEALTH:-0.0.0.0:9100}"
export CLESYDE_HEALTH_PUBLIC=true CLESYDE_HEALTH_PAGE=true
export CLESYDE_HEALTH_ALLOW="${CLESYDE_HEALTH_ALLOW:-127.0.0.1,172.30.32.2}"
exec clesyde-cloud run

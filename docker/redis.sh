#!/bin/sh
# Start the broker with its settings and its only user on standard input: a password on the command line is seen by
# everybody on the host. What follows the script's name is added to the command line.
set -eu
: "${REDIS_PASSWORD:?is missing; see docker/example.env}"

# The user may do what a Celery broker needs, on keys of paretune alone; nobody else may do anything.
exec valkey-server - "$@" <<END
appendonly yes
appendfsync everysec
save ""
maxmemory ${REDIS_MAXMEMORY:-256mb}
maxmemory-policy noeviction
user default off
user paretune on >${REDIS_PASSWORD} ~paretune:* &* +@all -@admin -@dangerous +info
END

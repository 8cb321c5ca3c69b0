#!/bin/sh
# Lays Temporal's own schema into its PostgreSQL, or brings an older one up to date; ends when that is done.
set -eu

schema=/etc/temporal/schema/postgresql/v12
tool() {
  database=$1
  shift
  temporal-sql-tool --plugin postgres12 --ep "$POSTGRES_SEEDS" --port "$DB_PORT" --user "$POSTGRES_USER" --db "$database" "$@"
}

for database in temporal temporal_visibility; do
  case $database in
    temporal) versions=$schema/temporal/versioned ;;
    *) versions=$schema/visibility/versioned ;;
  esac
  tool "$database" create
  tool "$database" setup-schema -v 0.0
  tool "$database" update-schema -d "$versions"
done
echo "Temporal's schema is in place."

#!/bin/sh
# Makes the namespace, then the search attributes by which runs are found; ends when both are there.
set -eu

attempt=0
until temporal operator cluster health >/dev/null 2>&1; do
  attempt=$((attempt + 1))
  if [ "$attempt" -ge 60 ]; then
    echo "Temporal at $TEMPORAL_ADDRESS is not healthy after $attempt seconds. Look at: docker compose logs temporal" >&2
    exit 1
  fi
  sleep 1
done

temporal operator namespace describe --namespace "$TEMPORAL_NAMESPACE" >/dev/null 2>&1 \
  || temporal operator namespace create --namespace "$TEMPORAL_NAMESPACE" --retention "$KNARR_RETENTION"

# A fresh namespace reaches the server's caches some seconds later.
attempt=0
until present=$(temporal operator search-attribute list --namespace "$TEMPORAL_NAMESPACE" 2>&1); do
  attempt=$((attempt + 1))
  if [ "$attempt" -ge 60 ]; then
    echo "The namespace $TEMPORAL_NAMESPACE cannot be read: $present" >&2
    exit 1
  fi
  sleep 1
done

for name in KnarrPlan KnarrPhase KnarrState KnarrSource KnarrTarget; do
  case $present in
    *"$name"*) ;;
    *) temporal operator search-attribute create --namespace "$TEMPORAL_NAMESPACE" --name "$name" --type Keyword ;;
  esac
done
echo "The namespace $TEMPORAL_NAMESPACE and its search attributes are in place."

"""What happens in which order: the saga, the migration, one child per mapping, and verification."""

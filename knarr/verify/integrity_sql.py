"""What integrity asks of the target's catalogue. `$1` is the table as quoted schema and name."""

from typing import Final

# conenforced came with PostgreSQL 18; asked through jsonb so that older servers answer NULL.
CONSTRAINTS: Final = """
SELECT c.conname AS name, c.contype::text AS kind, c.convalidated AS valid,
       coalesce((to_jsonb(c) ->> 'conenforced')::boolean, true) AS enforced,
       CASE WHEN c.contype = 'c' THEN pg_get_expr(c.conbin, c.conrelid) END AS predicate
  FROM pg_constraint c
 WHERE c.conrelid = $1::text::regclass AND c.contype IN ('c', 'f', 'p', 'u', 'x')
 ORDER BY c.conname
"""

FOREIGN_KEYS: Final = """
SELECT c.conname AS name, c.confmatchtype = 'f' AS match_full, n.nspname AS schema_name, r.relname AS table_name,
       (SELECT array_agg(a.attname::text ORDER BY k.position)
          FROM unnest(c.conkey) WITH ORDINALITY AS k (attnum, position)
          JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k.attnum) AS columns,
       (SELECT array_agg(a.attname::text ORDER BY k.position)
          FROM unnest(c.confkey) WITH ORDINALITY AS k (attnum, position)
          JOIN pg_attribute a ON a.attrelid = c.confrelid AND a.attnum = k.attnum) AS referenced
  FROM pg_constraint c
  JOIN pg_class r ON r.oid = c.confrelid
  JOIN pg_namespace n ON n.oid = r.relnamespace
 WHERE c.conrelid = $1::text::regclass AND c.contype = 'f' AND c.conparentid = 0
 ORDER BY c.conname
"""

INDEXES: Final = """
SELECT i.relname AS name, x.indisvalid AND x.indisready AND x.indislive AS usable
  FROM pg_index x
  JOIN pg_class i ON i.oid = x.indexrelid
 WHERE x.indrelid = $1::text::regclass
 ORDER BY i.relname
"""

NOT_NULL: Final = """
SELECT a.attname AS name
  FROM pg_attribute a
 WHERE a.attrelid = $1::text::regclass AND a.attnum > 0 AND a.attnotnull AND NOT a.attisdropped
 ORDER BY a.attnum
"""

# A column is fed by a sequence that it owns (serial, identity) or that its default names.
SEQUENCES: Final = """
SELECT DISTINCT a.attname AS column_name, a.attidentity <> '' AS identity,
       a.atttypid IN ('int2'::regtype, 'int4'::regtype, 'int8'::regtype, 'numeric'::regtype) AS countable,
       n.nspname AS schema_name, s.relname AS sequence_name, q.seqincrement, q.seqmin, q.seqmax
  FROM pg_attribute a
  LEFT JOIN pg_attrdef e ON e.adrelid = a.attrelid AND e.adnum = a.attnum
  JOIN pg_depend d
    ON (d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass
        AND d.refobjid = a.attrelid AND d.refobjsubid = a.attnum AND d.deptype IN ('a', 'i'))
    OR (d.classid = 'pg_attrdef'::regclass AND d.objid = e.oid AND d.refclassid = 'pg_class'::regclass)
  JOIN pg_class s ON s.relkind = 'S'
   AND s.oid = CASE WHEN d.classid = 'pg_class'::regclass THEN d.objid ELSE d.refobjid END
  JOIN pg_namespace n ON n.oid = s.relnamespace
  JOIN pg_sequence q ON q.seqrelid = s.oid
 WHERE a.attrelid = $1::text::regclass AND a.attnum > 0 AND NOT a.attisdropped
 ORDER BY column_name, sequence_name
"""

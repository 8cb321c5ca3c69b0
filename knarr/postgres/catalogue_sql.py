"""The questions that `knarr.postgres.catalogue` asks of pg_catalog; all are asked with an empty search_path.

With nothing on the search_path the server's own deparsers (format_type, pg_get_expr, pg_get_constraintdef,
pg_get_indexdef, ::regclass::text) qualify every name that is not built in, so their text means the same anywhere.
"""

from typing import Final

TABLES: Final = """
SELECT c.oid,
       n.nspname AS schema_name,
       c.relname AS name,
       c.oid::regclass::text AS sql_name,
       c.relkind::text AS kind,
       c.relpersistence = 'u' AS unlogged,
       c.relispartition AS is_partition,
       pg_get_userbyid(c.relowner) AS owner,
       row_security_active(c.oid) AS rows_hidden,
       obj_description(c.oid, 'pg_class') AS comment,
       EXISTS (SELECT FROM pg_inherits i WHERE i.inhparent = c.oid) AS has_children,
       ARRAY(SELECT i.inhparent::regclass::text FROM pg_inherits i
              WHERE i.inhrelid = c.oid ORDER BY i.inhseqno) AS parents,
       ARRAY(SELECT t.tgname::text FROM pg_trigger t
              WHERE t.tgrelid = c.oid AND NOT t.tgisinternal ORDER BY 1) AS triggers,
       ARRAY(SELECT r.rulename::text FROM pg_rewrite r
              WHERE r.ev_class = c.oid AND r.rulename <> '_RETURN' ORDER BY 1) AS rules,
       ARRAY(SELECT p.polname::text FROM pg_policy p WHERE p.polrelid = c.oid ORDER BY 1) AS policies,
       c.relacl IS NOT NULL AS has_grants,
       size.bytes::bigint AS bytes,
       size.main_bytes::bigint AS main_bytes,
       size.rows::float8 AS rows
  FROM unnest($1::text[], $2::text[]) AS wanted (schema_name, name)
  JOIN pg_namespace n ON n.nspname = wanted.schema_name
  JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = wanted.name
 CROSS JOIN LATERAL (
       SELECT coalesce(sum(pg_table_size(leaf.oid)), 0) AS bytes,
              coalesce(sum(pg_relation_size(leaf.oid)), 0) AS main_bytes,
              CASE WHEN bool_or(leaf.reltuples < 0) THEN -1 ELSE coalesce(sum(leaf.reltuples), -1) END AS rows
         FROM pg_class leaf
        WHERE (leaf.oid = c.oid AND c.relkind IN ('r', 'm'))
           OR (c.relkind = 'p' AND leaf.relkind = 'r'
               AND leaf.oid IN (SELECT tree.relid FROM pg_partition_tree(c.oid) tree))) size
 WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f')
"""

COLUMNS: Final = """
SELECT a.attrelid AS table_oid,
       a.attname AS name,
       a.atttypid AS type_oid,
       format_type(a.atttypid, a.atttypmod) AS type,
       -- Since 18 a NOT NULL can be NOT VALID: attnotnull says it of rows to come, not of those that are there.
       a.attnotnull AND NOT EXISTS (
            SELECT FROM pg_constraint con
             WHERE con.conrelid = a.attrelid AND con.contype = 'n' AND con.conkey = ARRAY[a.attnum]
               AND NOT con.convalidated) AS not_null,
       CASE a.attidentity WHEN 'a' THEN 'always' WHEN 'd' THEN 'by default' END AS identity,
       CASE a.attgenerated WHEN 's' THEN 'stored' WHEN 'v' THEN 'virtual' END AS generated,
       pg_get_expr(d.adbin, d.adrelid) AS default_sql,
       CASE WHEN a.attcollation NOT IN (0, t.typcollation) THEN (
            SELECT quote_ident(cn.nspname) || '.' || quote_ident(co.collname)
              FROM pg_collation co JOIN pg_namespace cn ON cn.oid = co.collnamespace
             WHERE co.oid = a.attcollation) END AS collation,
       col_description(a.attrelid, a.attnum) AS comment,
       (SELECT dep.objid FROM pg_depend dep
         WHERE dep.classid = 'pg_class'::regclass AND dep.refclassid = 'pg_class'::regclass
           AND dep.refobjid = a.attrelid AND dep.refobjsubid = a.attnum AND dep.deptype IN ('a', 'i')
           AND dep.objid IN (SELECT s.seqrelid FROM pg_sequence s)
         ORDER BY dep.deptype DESC LIMIT 1) AS owned_sequence,
       (SELECT dep.refobjid FROM pg_depend dep
         WHERE dep.classid = 'pg_attrdef'::regclass AND dep.objid = d.oid AND dep.refclassid = 'pg_class'::regclass
           AND dep.refobjid IN (SELECT s.seqrelid FROM pg_sequence s) LIMIT 1) AS default_sequence,
       ARRAY(SELECT dep.refobjid::regprocedure::text FROM pg_depend dep
              WHERE dep.classid = 'pg_attrdef'::regclass AND dep.objid = d.oid
                AND dep.refclassid = 'pg_proc'::regclass ORDER BY 1) AS functions
  FROM pg_attribute a
  JOIN pg_type t ON t.oid = a.atttypid
  LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
 WHERE a.attrelid = ANY($1::oid[]) AND a.attnum > 0 AND NOT a.attisdropped
 ORDER BY a.attrelid, a.attnum
"""

CONSTRAINTS: Final = """
SELECT con.conrelid AS table_oid,
       con.conname AS name,
       con.contype::text AS kind,
       pg_get_constraintdef(con.oid) AS definition,
       con.convalidated AS validated,
       ARRAY(SELECT a.attname::text FROM unnest(con.conkey) WITH ORDINALITY k (attnum, position)
               JOIN pg_attribute a ON a.attrelid = con.conrelid AND a.attnum = k.attnum
              ORDER BY k.position) AS columns,
       fn.nspname AS foreign_schema,
       f.relname AS foreign_name,
       CASE WHEN con.confrelid <> 0 THEN con.confrelid::regclass::text END AS foreign_sql_name,
       ARRAY(SELECT dep.refobjid::regprocedure::text FROM pg_depend dep
              WHERE dep.classid = 'pg_constraint'::regclass AND dep.objid = con.oid
                AND dep.refclassid = 'pg_proc'::regclass ORDER BY 1) AS functions,
       obj_description(con.oid, 'pg_constraint') AS comment
  FROM pg_constraint con
  LEFT JOIN pg_class f ON f.oid = con.confrelid
  LEFT JOIN pg_namespace fn ON fn.oid = f.relnamespace
 WHERE con.conrelid = ANY($1::oid[]) AND con.conparentid = 0 AND con.contype <> 't'
 ORDER BY con.conrelid, con.conname
"""

INDEXES: Final = """
SELECT i.indrelid AS table_oid,
       ic.relname AS name,
       i.indisunique AS is_unique,
       i.indisvalid AS valid,
       i.indpred IS NOT NULL AS partial,
       i.indexprs IS NOT NULL AS has_expressions,
       EXISTS (SELECT FROM pg_constraint con
                WHERE con.conindid = i.indexrelid AND con.contype IN ('p', 'u', 'x')) AS of_constraint,
       ARRAY(SELECT a.attname::text FROM unnest(i.indkey::int2[]) WITH ORDINALITY k (attnum, position)
               JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
              WHERE k.position <= i.indnkeyatts ORDER BY k.position) AS columns,
       -- Everything after the table's name; the prefix is exactly what pg_get_indexdef puts before it.
       substr(pg_get_indexdef(i.indexrelid), 1 + length(
           'CREATE ' || CASE WHEN i.indisunique THEN 'UNIQUE ' ELSE '' END || 'INDEX ' || quote_ident(ic.relname)
           || ' ON ' || CASE WHEN ic.relkind = 'I' THEN 'ONLY ' ELSE '' END
           || quote_ident(tn.nspname) || '.' || quote_ident(tc.relname))) AS body,
       ARRAY(SELECT dep.refobjid::regprocedure::text FROM pg_depend dep
              WHERE dep.classid = 'pg_class'::regclass AND dep.objid = i.indexrelid
                AND dep.refclassid = 'pg_proc'::regclass ORDER BY 1) AS functions,
       ARRAY(SELECT DISTINCT e.extname::text FROM pg_depend dep
               JOIN pg_depend member ON member.classid = dep.refclassid AND member.objid = dep.refobjid
                    AND member.refclassid = 'pg_extension'::regclass AND member.deptype = 'e'
               JOIN pg_extension e ON e.oid = member.refobjid
              WHERE dep.classid = 'pg_class'::regclass AND dep.objid = i.indexrelid ORDER BY 1) AS extensions,
       obj_description(i.indexrelid, 'pg_class') AS comment
  FROM pg_index i
  JOIN pg_class ic ON ic.oid = i.indexrelid
  JOIN pg_class tc ON tc.oid = i.indrelid
  JOIN pg_namespace tn ON tn.oid = tc.relnamespace
 WHERE i.indrelid = ANY($1::oid[]) AND i.indislive
 ORDER BY i.indrelid, ic.relname
"""

# A type and everything that it is made of: a domain's base, an array's element, a composite's attributes.
TYPES: Final = """
WITH RECURSIVE needed (oid) AS (
    SELECT unnest($1::oid[])
    UNION
    SELECT part.oid
      FROM needed
      JOIN pg_type t ON t.oid = needed.oid
     CROSS JOIN LATERAL (
           SELECT t.typbasetype AS oid WHERE t.typtype = 'd'
           UNION ALL SELECT t.typelem WHERE t.typsubscript = 'array_subscript_handler'::regproc
           UNION ALL SELECT r.rngsubtype FROM pg_range r WHERE t.oid IN (r.rngtypid, r.rngmultitypid)
           UNION ALL SELECT a.atttypid FROM pg_attribute a
                      WHERE t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped) part)
SELECT t.oid,
       format_type(t.oid, -1) AS sql_name,
       n.nspname AS schema_name,
       t.typname AS name,
       t.typtype::text AS typtype,
       coalesce((SELECT c.relkind = 'c' FROM pg_class c WHERE c.oid = t.typrelid), false) AS free_standing,
       CASE WHEN t.typsubscript = 'array_subscript_handler'::regproc THEN t.typelem END AS element_oid,
       NULLIF(t.typbasetype, 0) AS base_oid,
       format_type(NULLIF(t.typbasetype, 0), t.typtypmod) AS base_sql,
       t.typnotnull AS not_null,
       t.typdefault AS default_sql,
       t.typcollation <> 0 AS collatable,
       CASE WHEN t.typtype = 'd' AND t.typcollation <> 0
             AND t.typcollation <> (SELECT b.typcollation FROM pg_type b WHERE b.oid = t.typbasetype)
            THEN (SELECT quote_ident(cn.nspname) || '.' || quote_ident(co.collname)
                    FROM pg_collation co JOIN pg_namespace cn ON cn.oid = co.collnamespace
                   WHERE co.oid = t.typcollation) END AS collation,
       t.typsend <> 0 AND t.typreceive <> 0 AS has_binary,
       ARRAY(SELECT e.enumlabel::text FROM pg_enum e WHERE e.enumtypid = t.oid ORDER BY e.enumsortorder) AS labels,
       ARRAY(SELECT con.conname::text FROM pg_constraint con
              WHERE con.contypid = t.oid AND con.contype = 'c' ORDER BY con.conname) AS check_names,
       ARRAY(SELECT pg_get_constraintdef(con.oid) FROM pg_constraint con
              WHERE con.contypid = t.oid AND con.contype = 'c' ORDER BY con.conname) AS checks,
       ARRAY(SELECT a.attname::text FROM pg_attribute a
              WHERE t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
              ORDER BY a.attnum) AS attribute_names,
       ARRAY(SELECT a.atttypid FROM pg_attribute a
              WHERE t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
              ORDER BY a.attnum) AS attribute_oids,
       ARRAY(SELECT format_type(a.atttypid, a.atttypmod) FROM pg_attribute a
              WHERE t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
              ORDER BY a.attnum) AS attribute_types,
       (SELECT e.extname FROM pg_depend dep JOIN pg_extension e ON e.oid = dep.refobjid
         WHERE dep.classid = 'pg_type'::regclass AND dep.objid = t.oid AND dep.refclassid = 'pg_extension'::regclass
           AND dep.deptype = 'e') AS extension
  FROM needed
  JOIN pg_type t ON t.oid = needed.oid
  JOIN pg_namespace n ON n.oid = t.typnamespace
"""

SEQUENCES: Final = """
SELECT s.seqrelid AS oid,
       n.nspname AS schema_name,
       c.relname AS name,
       c.oid::regclass::text AS sql_name,
       format_type(s.seqtypid, -1) AS type,
       s.seqstart AS start, s.seqincrement AS increment, s.seqmin AS minimum, s.seqmax AS maximum,
       s.seqcache AS cache, s.seqcycle AS cycle,
       own.refobjid AS owner_table,
       (SELECT a.attname FROM pg_attribute a
         WHERE a.attrelid = own.refobjid AND a.attnum = own.refobjsubid) AS owner_column
  FROM pg_sequence s
  JOIN pg_class c ON c.oid = s.seqrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN pg_depend own ON own.classid = 'pg_class'::regclass AND own.objid = s.seqrelid
        AND own.refclassid = 'pg_class'::regclass AND own.deptype IN ('a', 'i')
 WHERE s.seqrelid = ANY($1::oid[])
"""

# What `schema.*` stands for: tables and partitioned tables, not their partitions; nothing of an extension.
TABLES_OF_SCHEMA: Final = """
SELECT c.relname AS name
  FROM pg_class c
  JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = $1 AND c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relpersistence <> 't'
   AND NOT EXISTS (SELECT FROM pg_depend dep WHERE dep.classid = 'pg_class'::regclass AND dep.objid = c.oid
                      AND dep.deptype = 'e')
 ORDER BY c.relname COLLATE "C"
"""

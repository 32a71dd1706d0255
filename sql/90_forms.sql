-- Further forms of the functions above: for keys and values that are bytea, and without the server. What they do and who may
-- call them is taken from the form that is written out.

DO $forms$
DECLARE
  written record;
  definition text;
  signature text;
  bytea_forms constant text[] := ARRAY['etcd_get', 'etcd_get_row', 'etcd_range', 'etcd_count', 'etcd_put',
    'etcd_put_returning', 'etcd_delete', 'etcd_delete_returning', 'etcd_changes', 'etcd_history', 'etcd_cas', 'etcd_create'];
  form text;
BEGIN
  FOR written IN
    SELECT p.oid, p.proname, pg_catalog.pg_get_functiondef(p.oid) AS definition,
      pg_catalog.pg_get_function_identity_arguments(p.oid) AS arguments,
      pg_catalog.has_function_privilege('public', p.oid, 'EXECUTE') AS is_public
    FROM pg_catalog.pg_proc p
    WHERE p.pronamespace = '@extschema@'::regnamespace AND p.prosrc IN ('etcd_fdw_call', 'etcd_fdw_snapshot')
      AND p.proargnames[1] = 'server' AND p.proname NOT LIKE 'etcd\_fdw\_%'
    ORDER BY p.proname
  LOOP
    FOREACH form IN ARRAY ARRAY['bytea', 'short', 'short bytea'] LOOP
      CONTINUE WHEN form LIKE '%bytea' AND written.proname <> ALL (bytea_forms);
      definition := written.definition;
      signature := written.arguments;
      IF form LIKE '%bytea' THEN
        definition := pg_catalog.regexp_replace(definition,
          '\m(key|value|prev_key|prev_value|range_end|expected|new|prefix) text', '\1 bytea', 'g');
        definition := pg_catalog.replace(definition, 'NULL::text, "limit"', 'NULL::bytea, "limit"');
        definition := pg_catalog.regexp_replace(definition, 'range_end bytea DEFAULT NULL::text',
          'range_end bytea DEFAULT NULL::bytea');
        definition := pg_catalog.replace(definition, 'RETURNS text', 'RETURNS bytea');
        definition := pg_catalog.replace(definition, 'etcd_row', 'etcd_row_bytea');
        signature := pg_catalog.regexp_replace(signature,
          '\m(key|value|range_end|expected|new|prefix) text', '\1 bytea', 'g');
      END IF;
      IF form LIKE 'short%' THEN
        definition := pg_catalog.regexp_replace(definition, '\(server text(, )?', '(');
        signature := pg_catalog.regexp_replace(signature, '^server text(, )?', '');
      END IF;
      EXECUTE definition;
      EXECUTE pg_catalog.format('COMMENT ON FUNCTION @extschema@.%I(%s) IS %L', written.proname, signature,
        CASE form
          WHEN 'bytea' THEN 'As the form for text, for keys and values that are not text.'
          WHEN 'short' THEN 'As the form with a server, on the only one or on etcd_fdw.default_server.'
          ELSE 'As the form with a server for keys and values that are not text, on the only one or on etcd_fdw.default_server.'
        END);
      IF NOT written.is_public THEN
        EXECUTE pg_catalog.format('REVOKE ALL ON FUNCTION @extschema@.%I(%s) FROM PUBLIC', written.proname, signature);
      END IF;
    END LOOP;
  END LOOP;
END
$forms$;

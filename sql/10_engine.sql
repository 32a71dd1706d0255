-- Core and the engine that runs it. None of this is for users but the last two.

CREATE TYPE @extschema@.etcd_fdw_answer AS (control text, payload bytea);
COMMENT ON TYPE @extschema@.etcd_fdw_answer IS 'what etcd_fdw_dispatch returns; internal to etcd_fdw';

CREATE FUNCTION @extschema@.etcd_fdw_engine() RETURNS text
  LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'etcd_fdw_engine';
COMMENT ON FUNCTION @extschema@.etcd_fdw_engine() IS
  'the JavaScript engine that etcd_fdw uses in this database: plv8 or embedded';

CREATE FUNCTION @extschema@.etcd_fdw_use_engine(engine text) RETURNS text
  LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'etcd_fdw_use_engine';
COMMENT ON FUNCTION @extschema@.etcd_fdw_use_engine(text) IS
  'makes etcd_fdw use this JavaScript engine: plv8 or embedded; NULL takes plv8 when the database has it; superusers only';
REVOKE ALL ON FUNCTION @extschema@.etcd_fdw_use_engine(text) FROM PUBLIC;

SELECT @extschema@.etcd_fdw_use_engine(NULL::pg_catalog.text);
COMMENT ON FUNCTION @extschema@.etcd_fdw_dispatch(text, text, bytea) IS 'entry into core; internal to etcd_fdw';

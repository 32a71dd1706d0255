-- The foreign-data wrapper itself.

CREATE FUNCTION @extschema@.etcd_fdw_handler() RETURNS fdw_handler
  LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'etcd_fdw_handler';
COMMENT ON FUNCTION @extschema@.etcd_fdw_handler() IS 'handler of foreign-data wrapper etcd_fdw';

CREATE FUNCTION @extschema@.etcd_fdw_validator(text[], oid) RETURNS void
  LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'etcd_fdw_validator';
COMMENT ON FUNCTION @extschema@.etcd_fdw_validator(text[], oid) IS 'checks the options of etcd_fdw''s objects';

CREATE FOREIGN DATA WRAPPER etcd_fdw
  HANDLER @extschema@.etcd_fdw_handler VALIDATOR @extschema@.etcd_fdw_validator;
COMMENT ON FOREIGN DATA WRAPPER etcd_fdw IS 'etcd as foreign tables';

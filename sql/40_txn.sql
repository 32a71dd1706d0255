-- Txns: several operations in one step, with conditions.

CREATE FUNCTION @extschema@.etcd_txn(server text, txn jsonb)
  RETURNS jsonb
  LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'etcd_fdw_call';
COMMENT ON FUNCTION @extschema@.etcd_txn(text, jsonb) IS
  'Runs a Txn of etcd: {"compare": [...], "success": [...], "failure": [...]}. A comparison is {"key": ..., "op": "="} with one of value, version, create_revision, mod_revision, lease; op is =, !=, < or >, and with prefix or range_end it must hold for all keys of the range. An operation is {"get": {...}}, {"put": {...}}, {"delete": {...}} or {"txn": {...}}, with the fields of etcd_range(), etcd_put() and etcd_delete(), and prev for what was there before. Keys and values are strings, or {"hex": "..."} for bytes. The answer holds succeeded, revision and responses, one for each operation that was run.';

CREATE FUNCTION @extschema@.etcd_cas(server text, key text, expected text, new text)
  RETURNS boolean
  LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'etcd_fdw_call';
COMMENT ON FUNCTION @extschema@.etcd_cas(text, text, text, text) IS
  'Compare and swap: writes new if the key''s value is expected, in one step, and answers whether it did. NULL as expected is a key that does not exist, NULL as new deletes it.';

CREATE FUNCTION @extschema@.etcd_create(
    server text, key text, value text, lease bigint DEFAULT NULL, ttl interval DEFAULT NULL)
  RETURNS boolean
  LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'etcd_fdw_call';
COMMENT ON FUNCTION @extschema@.etcd_create(text, text, text, bigint, interval) IS
  'Writes a key if it does not exist, and answers whether it did. lease and ttl as in etcd_put().';

CREATE FUNCTION @extschema@.etcd_incr(server text, key text, by bigint DEFAULT 1)
  RETURNS bigint
  LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'etcd_fdw_call';
COMMENT ON FUNCTION @extschema@.etcd_incr(text, text, bigint) IS
  'Adds to the whole number in a key and answers the sum; a key that does not exist counts from 0. Tried again until no other client has written in between, so that no count is lost.';

